//! The SQL queries of the keeper: to the local instance as the superuser over the unix socket (keeper 13.1), and
//! to another instance over TCP. The connection is left to `sql_connection`, replication commands to `replication`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use model::Lsn;
use postgres_protocol::escape::escape_literal;
use tokio_postgres::SimpleQueryRow;

use crate::postgres::client::connect::ConnectTarget;
use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::replication_state::{self, StandbyStatus, WalSender};
use crate::postgres::client::round_state::{self, RoundSqlState};
use crate::postgres::client::rows::{field, first_row};
use crate::postgres::client::sql_connection::SqlConnection;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::conf::Parameters;
use crate::postgres::config::credentials::Login;
use crate::postgres::data::wal_layout::WalLayout;
use crate::postgres::programs::installation::Programs;

/// Queries one server, over a connection that stays open between queries.
#[derive(Debug)]
pub struct SqlClient {
    connection: SqlConnection,
}

impl SqlClient {
    /// Creates a client for `target`; `limit` applies to each query including its connection.
    pub fn new(target: ConnectTarget, login: &Login, limit: Duration, clock: Clock) -> Self {
        Self {
            connection: SqlConnection::new(target, login, limit, clock),
        }
    }

    /// Sets the major of the server: that of these programs.
    #[must_use]
    pub fn for_programs(self, programs: &Arc<Programs>) -> Self {
        Self {
            connection: self.connection.for_programs(programs),
        }
    }

    /// Whether the server answers a new connection in time, even with an error; `None` if it reports that it accepts none.
    pub async fn answers_new_connections(&self) -> Option<bool> {
        self.connection.answers_new_connections().await
    }

    /// Tries to log in with a new connection.
    pub async fn try_login(&self) -> Result<(), SqlError> {
        self.connection.try_login().await
    }

    /// Returns why the usual database is not used now.
    pub fn database_refusal(&self) -> Option<ServerRefusal> {
        self.connection.database_refusal()
    }

    /// Clears the recorded refusals, so that the next query tries to log in.
    pub fn forget_refusals(&self) {
        self.connection.forget_refusals();
    }

    /// Closes the open connection before a stop.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    /// Runs statements in one transaction, in a new connection.
    pub(crate) async fn transaction(&self, action: &'static str, statements: &[String]) -> Result<(), SqlError> {
        self.connection.transaction(action, statements).await
    }

    async fn query(&self, action: &'static str, statement: &str) -> Result<Vec<SimpleQueryRow>, SqlError> {
        self.connection.query(action, statement).await
    }

    /// Checks that the server answers (keeper Q6).
    pub async fn ping(&self) -> Result<(), SqlError> {
        self.query("ask whether PostgreSQL answers", "select 1")
            .await
            .map(|_| ())
    }

    /// Returns the parameters in the configuration files on disk, later lines over earlier ones (keeper Q1).
    pub async fn configured(&self) -> Result<Parameters, SqlError> {
        let statement =
            "select name, setting from pg_file_settings where name is not null and setting is not null order by seqno";
        let rows = self.query("read the configured parameters", statement).await?;
        Ok(rows.iter().map(|row| (field(row, 0), field(row, 1))).collect())
    }

    /// Returns when the session last read the configuration files, as text to compare: it differs after a reload.
    pub async fn conf_load_time(&self) -> Result<String, SqlError> {
        let action = "ask when the configuration was read";
        let rows = self.query(action, "select pg_conf_load_time()").await?;
        first_row(action, &rows).map(|row| field(row, 0))
    }

    /// Returns the parameters of the configuration files that the server refuses, by name with the reason (keeper W19).
    /// Parameters pending restart do not count, nor do those without a file, which were removed from the files.
    pub async fn refused_parameters(&self) -> Result<BTreeMap<String, String>, SqlError> {
        let statement = "select lower(f.name), coalesce(f.name || ': ', '') || f.error from pg_file_settings f \
                        left join pg_settings s on lower(s.name) = lower(f.name) \
                        where f.error is not null and f.sourcefile is not null and f.name is not null \
                        and (f.error <> 'setting could not be applied' or not coalesce(s.pending_restart, false))";
        let rows = self
            .query("read the errors of the configuration files", statement)
            .await?;
        Ok(rows.iter().map(|row| (field(row, 0), field(row, 1))).collect())
    }

    /// Returns the line numbers of `pg_hba.conf` on disk that the server cannot parse, with the reasons.
    pub async fn refused_hba_lines(&self) -> Result<BTreeMap<usize, String>, SqlError> {
        let statement = "select line_number, error from pg_hba_file_rules where error is not null order by 1";
        let rows = self.query("read the errors of pg_hba.conf", statement).await?;
        let line = |row: &SimpleQueryRow| Some((field(row, 0).parse().ok()?, field(row, 1)));
        Ok(rows.iter().filter_map(line).collect())
    }

    /// Returns those of these parameters, in lower case, that the server reads only at its start.
    pub async fn read_at_start_only(&self, names: &[String]) -> Result<BTreeSet<String>, SqlError> {
        let names: Vec<String> = names.iter().map(|name| escape_literal(name)).collect();
        let statement = format!(
            "select lower(name) from pg_settings where context in ('postmaster', 'internal') and lower(name) in ('', {})",
            names.join(", ")
        );
        let statement = statement.replace("('', )", "('')");
        let rows = self
            .query("ask which parameters are read at the start only", &statement)
            .await?;
        Ok(rows.iter().map(|row| field(row, 0)).collect())
    }

    /// Returns the WAL senders of the server (keeper Q2).
    pub async fn wal_senders(&self) -> Result<Vec<WalSender>, SqlError> {
        let rows = self
            .query("read the connected standbys", replication_state::SENDERS)
            .await?;
        Ok(rows.iter().map(WalSender::of).collect())
    }

    /// Returns the replication status of a standby; `None` on a master.
    pub async fn standby(&self) -> Result<Option<StandbyStatus>, SqlError> {
        let action = "read the state of the standby";
        let rows = self.query(action, replication_state::STANDBY).await?;
        first_row(action, &rows).map(StandbyStatus::of)
    }

    /// Returns what [`Self::wal_senders`] and [`Self::standby`] do, with one request.
    pub async fn wal_senders_and_standby(&self) -> Result<(Vec<WalSender>, Option<StandbyStatus>), SqlError> {
        let action = "read the connected standbys and the state of the standby";
        let statements = [replication_state::STANDBY, replication_state::SENDERS].join("; ");
        let rows = self.query(action, &statements).await?;
        let standby = first_row(action, &rows).map(StandbyStatus::of)?;
        // The first statement has exactly one row.
        Ok((rows.iter().skip(1).map(WalSender::of).collect(), standby))
    }

    /// Returns what a new connection shows of `synchronous_standby_names`, and up to where WAL is flushed then. If it
    /// shows these names, the postmaster has read them and has signalled all its processes. `with_checkpoint`: the
    /// position is read after a checkpoint that began after that, so that the checkpointer has read them, too
    /// (synchronous SY-4).
    pub async fn confirm_standby_names(
        &self,
        names: &str,
        with_checkpoint: bool,
        limit: Duration,
    ) -> Result<NamesShown, SqlError> {
        let action = "confirm synchronous_standby_names";
        // The keeper's sessions do not set this parameter, so that they show the server's value.
        let show = "select 'names', current_setting('synchronous_standby_names')";
        let position = "select case when pg_is_in_recovery() then 'recovery' else 'flushed' end, \
                        case when not pg_is_in_recovery() then pg_current_wal_flush_lsn() end";
        let statements: &[&str] = match with_checkpoint {
            true => &[show, "checkpoint", position],
            false => &[show, position],
        };
        let is_shown = |rows: &[SimpleQueryRow]| {
            let first = rows.first();
            first.is_none_or(|row| row.get(0) != Some("names") || row.get(1) == Some(names))
        };
        let rows = self.connection.run_anew(action, statements, limit, is_shown).await?;
        let row = first_row(action, &rows)?;
        let answer = field(row, 1);
        match (field(row, 0).as_str(), Lsn::parse(&answer)) {
            ("names", _) => Ok(NamesShown::Others(answer)),
            ("recovery", _) => Ok(NamesShown::InRecovery),
            ("flushed", Some(flushed)) => Ok(NamesShown::Master { flushed }),
            _ => Err(SqlError::Answer { action, answer }),
        }
    }

    /// Returns the settings of `synchronous_commit` for roles and databases: whose they are, and the value.
    pub async fn commit_levels(&self) -> Result<Vec<(String, String)>, SqlError> {
        let statement = "select concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname), \
                        split_part(one, '=', 2) from pg_db_role_setting s cross join unnest(s.setconfig) one \
                        left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole \
                        where one ilike 'synchronous_commit=%' order by 1 limit 10";
        let action = "read the settings of synchronous_commit";
        let limit = self.connection.limit();
        // In a connection of its own: it may wait for a lock that a user holds on these tables.
        let rows = self.connection.run_anew(action, &[statement], limit, |_| true).await?;
        Ok(rows.iter().map(|row| (field(row, 0), field(row, 1))).collect())
    }

    /// Returns what each round asks: slots, pending restarts, and whether replay is paused.
    pub async fn round_state(&self) -> Result<RoundSqlState, SqlError> {
        let rows = self
            .query("read slots and pending restarts", round_state::STATEMENT)
            .await?;
        Ok(RoundSqlState::of(&rows))
    }

    /// Returns `max_replication_slots`.
    pub async fn slots_max(&self) -> Result<u32, SqlError> {
        let action = "read max_replication_slots";
        let rows = self
            .query(
                action,
                "select setting from pg_settings where name = 'max_replication_slots'",
            )
            .await?;
        let answer = field(first_row(action, &rows)?, 0);
        answer.parse().map_err(|_| SqlError::Answer { action, answer })
    }

    /// Creates a physical slot without reserving WAL (keeper Q4).
    pub async fn create_slot(&self, slot: &str) -> Result<(), SqlError> {
        let statement = format!("select pg_create_physical_replication_slot({})", escape_literal(slot));
        self.query("create a replication slot", &statement).await.map(|_| ())
    }

    /// Drops a slot; fails while it is in use (keeper Q5).
    pub async fn drop_slot(&self, slot: &str) -> Result<(), SqlError> {
        let statement = format!("select pg_drop_replication_slot({})", escape_literal(slot));
        self.query("drop a replication slot", &statement).await.map(|_| ())
    }

    /// Returns the name of this server's directory in a tablespace's location (TABLESPACE_VERSION_DIRECTORY in
    /// relpath.h).
    pub async fn tablespace_directory(&self) -> Result<String, SqlError> {
        let action = "ask for the catalog version";
        let statement = "select 'PG_' || current_setting('server_version_num')::int / 10000 || '_' || \
                        catalog_version_no from pg_control_system()";
        let rows = self.query(action, statement).await?;
        first_row(action, &rows).map(|row| field(row, 0))
    }

    /// Returns the locations of the tablespaces outside PGDATA.
    pub async fn tablespace_locations(&self) -> Result<Vec<String>, SqlError> {
        let statement = "select pg_tablespace_location(oid) from pg_tablespace \
                        where pg_tablespace_location(oid) like '/%' order by 1";
        let rows = self.query("read the tablespaces", statement).await?;
        Ok(rows.iter().map(|row| field(row, 0)).collect())
    }

    /// Returns the size in bytes of the tablespace at this location; without one, of all databases outside such
    /// tablespaces.
    pub async fn bytes_of_data(&self, location: Option<&str>) -> Result<u64, SqlError> {
        let of = match location {
            Some(location) => format!("= {}", escape_literal(location)),
            None => "not like '/%'".to_owned(),
        };
        let statement = format!(
            "select coalesce(sum(pg_tablespace_size(oid)), 0) from pg_tablespace \
             where pg_tablespace_location(oid) {of}"
        );
        self.bytes("ask for the size of the data", &statement).await
    }

    /// Returns the size of the WAL in bytes.
    pub async fn bytes_of_wal(&self) -> Result<u64, SqlError> {
        let statement = "select coalesce(sum(size), 0) from pg_ls_waldir()";
        self.bytes("ask for the size of the WAL", statement).await
    }

    async fn bytes(&self, action: &'static str, statement: &str) -> Result<u64, SqlError> {
        let rows = self.query(action, statement).await?;
        let text = first_row(action, &rows).map(|row| field(row, 0))?;
        text.parse().map_err(|_| SqlError::Answer { action, answer: text })
    }

    /// Whether the server can see this file, given by an absolute path or one relative to its PGDATA.
    pub async fn can_see(&self, path: &str) -> Result<bool, SqlError> {
        let action = "check whether the followed db shares a directory with us";
        let statement = format!("select (pg_stat_file({}, true)).size is not null", escape_literal(path));
        let rows = self.query(action, &statement).await?;
        first_row(action, &rows).map(|row| field(row, 0) == "t")
    }

    /// Returns the timeline of the last checkpoint in the control file.
    pub async fn checkpoint_timeline(&self) -> Result<u64, SqlError> {
        let action = "ask for the timeline of the last checkpoint";
        let rows = self
            .query(action, "select timeline_id from pg_control_checkpoint()")
            .await?;
        let answer = field(first_row(action, &rows)?, 0);
        answer.parse().map_err(|_| SqlError::Answer { action, answer })
    }

    /// Completes a checkpoint, without the delays of a scheduled one. No other query waits for it.
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), SqlError> {
        let (action, statement) = ("make a checkpoint", &["checkpoint"]);
        self.connection.run_anew(action, statement, limit, |_| true).await?;
        Ok(())
    }

    /// Writes a WAL record that changes nothing, and flushes it.
    pub async fn write_wal_record(&self) -> Result<(), SqlError> {
        let emit = "select pg_logical_emit_message(true, 'stolon', '')";
        self.query("write WAL", emit).await.map(drop)
    }

    /// Whether a physical slot of this name exists.
    pub async fn has_slot(&self, slot: &str) -> Result<bool, SqlError> {
        let name = escape_literal(slot);
        let statement =
            format!("select 1 from pg_replication_slots where slot_type = 'physical' and slot_name = {name}");
        Ok(!self.query("look for a slot", &statement).await?.is_empty())
    }

    /// Whether it is in recovery, so no master (yet).
    pub async fn is_in_recovery(&self) -> Result<bool, SqlError> {
        let action = "ask whether PostgreSQL is in recovery";
        let rows = self.query(action, "select pg_is_in_recovery()").await?;
        first_row(action, &rows).map(|row| field(row, 0) == "t")
    }

    /// Returns identity and position of the instance (keeper 3.5), only from functions that read no table.
    pub async fn position(&self) -> Result<InstancePosition, SqlError> {
        let action = "read the state of PostgreSQL";
        let statement = "select r.on, s.system_identifier, i.bytes_per_wal_segment, i.wal_block_size, \
                        greatest(c.timeline_id, case when r.on then m.min_recovery_end_timeline end), \
                        case when r.on then greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) \
                        else pg_current_wal_flush_lsn() end, \
                        case when not r.on then substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) end \
                        from (select pg_is_in_recovery() as on) r, pg_control_system() s, pg_control_init() i, \
                        pg_control_checkpoint() c, pg_control_recovery() m";
        let rows = self.query(action, statement).await?;
        let row = first_row(action, &rows)?;
        let number = |index| row.get(index).and_then(|text| text.parse::<u64>().ok());
        let parse = || {
            // The system identifier is returned as a signed number.
            let system_id = u64::from_ne_bytes(row.get(1)?.parse::<i64>().ok()?.to_ne_bytes());
            let written = row.get(6).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            Some(InstancePosition {
                is_in_recovery: field(row, 0) == "t",
                system_id,
                layout: WalLayout {
                    segment_bytes: number(2).filter(|bytes| *bytes > 0)?,
                    page_bytes: number(3)?,
                },
                known_timeline: number(4)?.max(written.unwrap_or_default()),
                position: row.get(5).and_then(Lsn::parse),
            })
        };
        parse().ok_or_else(|| SqlError::Answer {
            action,
            answer: "a row of another form".to_owned(),
        })
    }

    /// Returns the name of the oldest WAL segment; `None` if there is none.
    pub async fn oldest_wal(&self) -> Result<Option<String>, SqlError> {
        let statement = "select min(name collate \"C\") from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'";
        let rows = self.query("read the names of the WAL segments", statement).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }
}

/// What a new connection shows of `synchronous_standby_names`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamesShown {
    /// Other names.
    Others(String),
    /// The names, on a server in recovery.
    InRecovery,
    /// The names, on a master. WAL after `flushed` is flushed only after all processes were signalled.
    Master { flushed: Lsn },
}

/// Identity and position of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePosition {
    /// It is in recovery.
    pub is_in_recovery: bool,
    /// System identifier.
    pub system_id: u64,
    /// Layout of its WAL.
    pub layout: WalLayout,
    /// Timeline of a master; on a standby the latest one in its control file, which may be an earlier one.
    pub known_timeline: u64,
    /// Flushed position on a master, replayed or received one on a standby; `None` on a standby that has not replayed
    /// anything yet.
    pub position: Option<Lsn>,
}
