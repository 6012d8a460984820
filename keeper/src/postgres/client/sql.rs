//! SQL queries: to the local instance as the superuser over the unix socket (keeper 13.1), and to another instance over
//! TCP. Every query has the request timeout. Replication commands are in `replication`.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard};
use std::time::Duration;

use model::Lsn;
use postgres_protocol::escape::escape_literal;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::postgres::client::connect::ConnectTarget;
use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::session_settings::{self, DATABASE, SessionUser};
use crate::postgres::client::sql_session::SqlSession;
use crate::postgres::client::wire::{FirstResponse, first_response};
use crate::postgres::config::conf::Parameters;
use crate::postgres::config::credentials::{Login, Secret};
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control::WalLayout;

/// The database used while the usual one is missing: it exists in every cluster (PostgreSQL manual 23.3).
const OTHER_DATABASE: &str = "template1";

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The connection could not be opened, or not to the expected server.
    #[error("connect to PostgreSQL at {at}")]
    Open {
        /// Address.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// The login failed.
    #[error("connect to PostgreSQL at {at}")]
    Connect {
        /// Address.
        at: String,
        /// Why not.
        source: tokio_postgres::Error,
    },
    /// The login was rejected recently and is not retried yet.
    #[error("connect to PostgreSQL at {at}: refused recently, not retried yet: {refusal}")]
    Refused {
        /// Address.
        at: String,
        refusal: ServerRefusal,
    },
    /// The server rejected the query, or the connection broke.
    #[error("{action}")]
    Query {
        action: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time.
    #[error("{action}: no answer within {limit:?}")]
    Timeout {
        action: &'static str,
        /// The request timeout.
        limit: Duration,
    },
    /// The result has an unexpected form.
    #[error("{action}: unexpected answer {answer:?}")]
    Answer {
        action: &'static str,
        /// The result.
        answer: String,
    },
}

impl SqlError {
    /// Returns the rejection if the server's answer proves that it is alive.
    pub fn refusal(&self) -> Option<ServerRefusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.clone()),
            Self::Connect { source, .. } | Self::Query { source, .. } => ServerRefusal::of(source.as_db_error()?),
            _ => None,
        }
    }

    /// Whether the server reports that it does not accept connections now: it is starting, recovering or stopping.
    pub fn is_not_accepting(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => {
                source.code() == Some(&SqlState::CANNOT_CONNECT_NOW)
            }
            _ => false,
        }
    }
}

/// A client with a connection that stays open between queries and is reopened when it broke (keeper W23).
#[derive(Debug)]
pub struct SqlClient {
    config: Config,
    login: Login,
    target: ConnectTarget,
    limit: Duration,
    session: Mutex<Option<SqlSession>>,
    refused: StdMutex<RefusedLogins>,
    programs: Option<Arc<Programs>>,
}

/// Recent rejections, which are not retried immediately: each attempt is a line in the server's log.
#[derive(Debug, Default)]
struct RefusedLogins {
    login: Option<RefusedLogin>,
    database: Option<(ServerRefusal, Instant)>,
}

#[derive(Debug)]
struct RefusedLogin {
    refusal: ServerRefusal,
    at: Instant,
    /// The rejected password; a changed one is tried immediately.
    password: Option<Secret>,
}

/// Pause after a rejection.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

impl SqlClient {
    /// Creates a client for `target`; `limit` applies to each query including its connection.
    pub fn new(target: ConnectTarget, login: &Login, limit: Duration) -> Self {
        Self {
            config: Self::config(login),
            login: login.clone(),
            target,
            limit,
            session: Mutex::new(None),
            refused: StdMutex::default(),
            programs: None,
        }
    }

    /// Sets the major of the server: that of these programs.
    #[must_use]
    pub fn for_programs(mut self, programs: &Arc<Programs>) -> Self {
        self.programs = Some(Arc::clone(programs));
        self
    }

    fn config(login: &Login) -> Config {
        let mut config = Config::new();
        config.user(&login.user).application_name("stolon-keeper");
        config
    }

    /// Connects to the usual database, or while that one is unavailable to the other one. That session is closed after
    /// each query, because a database in use cannot be a template for `create database`.
    #[expect(clippy::disallowed_methods, reason = "a pause between logins is measured here")]
    async fn connect(&self) -> Result<SqlSession, SqlError> {
        // A remembered rejection only avoids a line in the server's log; it does not prove that the server is alive now
        // (keeper I11).
        if let Some(refusal) = self.refused_lately()
            && self.answers_login_request().await
        {
            return Err(SqlError::Refused {
                at: self.target.name(),
                refusal,
            });
        }
        let mut connected = match self.database_refusal() {
            None => self.connect_to(DATABASE, true).await,
            Some(_) => self.connect_to(OTHER_DATABASE, false).await,
        };
        let refusal = |connected: &Result<_, SqlError>| connected.as_ref().err().and_then(SqlError::refusal);
        if let Some(about) = refusal(&connected).filter(ServerRefusal::is_about_database)
            && self.database_refusal().is_none()
        {
            let other = self.connect_to(OTHER_DATABASE, false).await;
            if other.is_ok() {
                self.refused().database = Some((about, Instant::now()));
                connected = other;
            }
        }
        self.refused().login = refusal(&connected).map(|refusal| RefusedLogin {
            refusal,
            at: Instant::now(),
            password: self.login.password().map(Secret::new),
        });
        connected
    }

    async fn connect_to(&self, database: &str, is_kept: bool) -> Result<SqlSession, SqlError> {
        let mut config = self.config.clone();
        let major = session_settings::major(self.programs.as_deref()).await;
        config
            .dbname(database)
            .options(session_settings::options(major, SessionUser::Superuser));
        if let Some(password) = self.login.password() {
            config.password(password);
        }
        let at = || self.target.name();
        let stream = self.target.open().await;
        let stream = stream.map_err(|source| SqlError::Open { at: at(), source })?;
        let connected = config.connect_raw(stream, NoTls).await;
        let (client, connection) = connected.map_err(|source| SqlError::Connect { at: at(), source })?;
        // Its end, also by an error, closes the client.
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(SqlSession::new(client, connection, self.target.clone(), is_kept))
    }

    /// Whether the server answers a new connection like a working one, without a login that it would log.
    async fn answers_login_request(&self) -> bool {
        let answer = first_response(&self.target, &self.login.user).await;
        matches!(answer, Ok(FirstResponse::Login | FirstResponse::Error(Some(_))))
    }

    /// Whether the server answers a new connection in time, even with an error.
    pub async fn answers_new_connections(&self) -> bool {
        let answer = timeout(self.limit, first_response(&self.target, &self.login.user)).await;
        answer.is_ok_and(|answer| answer.is_ok())
    }

    fn refused(&self) -> MutexGuard<'_, RefusedLogins> {
        self.refused
            .lock()
            .expect("no thread panics while holding the refusals")
    }

    /// Returns the rejection of a login that is not retried yet.
    fn refused_lately(&self) -> Option<ServerRefusal> {
        let refused = self.refused();
        let login = refused.login.as_ref()?;
        let is_same = login.password.as_ref().map(Secret::reveal) == self.login.password();
        (is_same && login.at.elapsed() < REFUSED_PAUSE).then(|| login.refusal.clone())
    }

    /// Returns why the usual database is not used now.
    pub fn database_refusal(&self) -> Option<ServerRefusal> {
        let refused = self.refused();
        let (refusal, at) = refused.database.as_ref()?;
        (at.elapsed() < REFUSED_PAUSE).then(|| refusal.clone())
    }

    /// Forgets rejections, so that the next query tries to log in.
    pub fn forget_refusals(&self) {
        *self.refused() = RefusedLogins::default();
    }

    /// Tries to log in with a new connection.
    pub async fn try_login(&self) -> Result<(), SqlError> {
        let limit = self.limit;
        let action = "try to log in";
        let connected = timeout(limit, self.connect()).await;
        connected.map_err(|_| SqlError::Timeout { action, limit })?.map(drop)
    }

    /// Runs one query and returns its rows, all values as text.
    pub(crate) async fn query(&self, action: &'static str, question: &str) -> Result<Vec<SimpleQueryRow>, SqlError> {
        let answer = async {
            let mut kept = self.session.lock().await;
            // It is put back only after a complete result: an abandoned session is not reused.
            if let Some(session) = kept.take().filter(SqlSession::is_usable) {
                let pending = session.begin();
                match pending.query(question).await {
                    Ok(messages) => {
                        *kept = Some(pending.finish());
                        return Ok(rows(messages));
                    }
                    Err(source) if keeps_session_open(&source) => {
                        *kept = Some(pending.finish());
                        return Err(SqlError::Query { action, source });
                    }
                    // Closed meanwhile, by a restart of the server or an operator: retry with a new connection.
                    Err(_) => drop(pending.finish()),
                }
            }
            let pending = self.connect().await?.begin();
            let messages = pending.query(question).await;
            let session = pending.finish();
            let messages = messages.map_err(|source| SqlError::Query { action, source })?;
            *kept = Some(session).filter(SqlSession::is_usable);
            Ok(rows(messages))
        };
        timeout(self.limit, answer).await.map_err(|_| SqlError::Timeout {
            action,
            limit: self.limit,
        })?
    }

    /// Runs statements in one transaction, in a new connection.
    pub(crate) async fn transaction(&self, action: &'static str, statements: &[String]) -> Result<(), SqlError> {
        let work = async {
            let pending = self.connect().await?.begin();
            let begin = ["begin".to_owned()];
            let commit = ["commit".to_owned()];
            for statement in begin.iter().chain(statements).chain(&commit) {
                // If it is abandoned, also by an error, it is cancelled and rolled back.
                pending
                    .query(statement)
                    .await
                    .map_err(|source| SqlError::Query { action, source })?;
            }
            drop(pending.finish());
            Ok(())
        };
        timeout(self.limit, work).await.map_err(|_| SqlError::Timeout {
            action,
            limit: self.limit,
        })?
    }

    /// Closes the open connection before a stop.
    pub async fn close(&self) {
        self.session.lock().await.take();
    }

    /// Checks that the server answers (keeper Q6).
    pub async fn ping(&self) -> Result<(), SqlError> {
        self.query("ask whether PostgreSQL answers", "select 1")
            .await
            .map(|_| ())
    }

    /// Returns the parameters in the configuration files on disk, later lines over earlier ones (keeper Q1).
    pub async fn configured(&self) -> Result<Parameters, SqlError> {
        let question =
            "select name, setting from pg_file_settings where name is not null and setting is not null order by seqno";
        let rows = self.query("read the configured parameters", question).await?;
        Ok(rows.iter().map(|row| (field(row, 0), field(row, 1))).collect())
    }

    /// Returns when the session last read the configuration files, as text to compare: it differs after a reload.
    pub async fn conf_load_time(&self) -> Result<String, SqlError> {
        let action = "ask when the configuration was read";
        let rows = self.query(action, "select pg_conf_load_time()").await?;
        first_row(action, &rows).map(|row| field(row, 0))
    }

    /// Returns the parameters of the configuration files that the server rejects, with reasons (keeper W19). Parameters
    /// pending restart do not count, nor do those without a file, which were removed from the files.
    pub async fn refused_parameters(&self) -> Result<Vec<(String, String)>, SqlError> {
        let question = "select lower(f.name), coalesce(f.name || ': ', '') || f.error from pg_file_settings f \
                        left join pg_settings s on lower(s.name) = lower(f.name) \
                        where f.error is not null and f.sourcefile is not null and f.name is not null \
                        and (f.error <> 'setting could not be applied' or not coalesce(s.pending_restart, false))";
        let rows = self
            .query("read the errors of the configuration files", question)
            .await?;
        Ok(rows.iter().map(|row| (field(row, 0), field(row, 1))).collect())
    }

    /// Returns the line numbers of `pg_hba.conf` on disk that the server cannot parse, with reasons.
    pub async fn refused_hba_lines(&self) -> Result<Vec<(usize, String)>, SqlError> {
        let question = "select line_number, error from pg_hba_file_rules where error is not null order by 1";
        let rows = self.query("read the errors of pg_hba.conf", question).await?;
        let line = |row: &SimpleQueryRow| Some((field(row, 0).parse().ok()?, field(row, 1)));
        Ok(rows.iter().filter_map(line).collect())
    }

    /// Returns those of these parameters, in lower case, that the server reads only at its start.
    pub async fn read_at_start_only(&self, names: &[String]) -> Result<BTreeSet<String>, SqlError> {
        let names: Vec<String> = names.iter().map(|name| escape_literal(name)).collect();
        let question = format!(
            "select lower(name) from pg_settings where context in ('postmaster', 'internal') and lower(name) in ('', {})",
            names.join(", ")
        );
        let question = question.replace("('', )", "('')");
        let rows = self
            .query("ask which parameters are read at the start only", &question)
            .await?;
        Ok(rows.iter().map(|row| field(row, 0)).collect())
    }

    /// Returns the application names of the synchronous standbys: sync_state exactly `sync` (keeper Q2).
    pub async fn in_sync(&self) -> Result<Vec<String>, SqlError> {
        // Without the view pg_stat_replication, whose role names wait for a lock on pg_authid.
        let question = "select a.application_name from pg_stat_get_wal_senders() w \
                        join pg_stat_get_activity(null) a using (pid) where w.sync_state = 'sync' order by 1";
        Ok(self
            .query("read the synchronous standbys", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
    }

    /// Returns the replication slots without temporary ones (keeper Q3).
    pub async fn slots(&self) -> Result<Vec<String>, SqlError> {
        let question = "select slot_name from pg_replication_slots where not temporary order by 1";
        Ok(self
            .query("read the replication slots", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
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
        let question = format!("select pg_create_physical_replication_slot({})", escape_literal(slot));
        self.query("create a replication slot", &question).await.map(|_| ())
    }

    /// Drops a slot; fails while it is in use (keeper Q5).
    pub async fn drop_slot(&self, slot: &str) -> Result<(), SqlError> {
        let question = format!("select pg_drop_replication_slot({})", escape_literal(slot));
        self.query("drop a replication slot", &question).await.map(|_| ())
    }

    /// Returns the name of this server's directory in a tablespace's location (TABLESPACE_VERSION_DIRECTORY in
    /// relpath.h).
    pub async fn tablespace_directory(&self) -> Result<String, SqlError> {
        let action = "ask for the catalog version";
        let question = "select 'PG_' || current_setting('server_version_num')::int / 10000 || '_' || \
                        catalog_version_no from pg_control_system()";
        let rows = self.query(action, question).await?;
        first_row(action, &rows).map(|row| field(row, 0))
    }

    /// Returns the locations of the tablespaces outside PGDATA.
    pub async fn tablespace_locations(&self) -> Result<Vec<String>, SqlError> {
        let question = "select pg_tablespace_location(oid) from pg_tablespace \
                        where pg_tablespace_location(oid) like '/%' order by 1";
        let rows = self.query("read the tablespaces", question).await?;
        Ok(rows.iter().map(|row| field(row, 0)).collect())
    }

    /// Returns the size in bytes of the tablespace at this location; without one, of all databases outside such
    /// tablespaces.
    pub async fn bytes_of_data(&self, location: Option<&str>) -> Result<u64, SqlError> {
        let of = match location {
            Some(location) => format!("= {}", escape_literal(location)),
            None => "not like '/%'".to_owned(),
        };
        let question = format!(
            "select coalesce(sum(pg_tablespace_size(oid)), 0) from pg_tablespace \
             where pg_tablespace_location(oid) {of}"
        );
        self.bytes("ask for the size of the data", &question).await
    }

    /// Returns the size of the WAL in bytes.
    pub async fn bytes_of_wal(&self) -> Result<u64, SqlError> {
        let question = "select coalesce(sum(size), 0) from pg_ls_waldir()";
        self.bytes("ask for the size of the WAL", question).await
    }

    async fn bytes(&self, action: &'static str, question: &str) -> Result<u64, SqlError> {
        let rows = self.query(action, question).await?;
        let text = first_row(action, &rows).map(|row| field(row, 0))?;
        text.parse().map_err(|_| SqlError::Answer { action, answer: text })
    }

    /// Whether the server can see this file, given by an absolute path or one relative to its PGDATA.
    pub async fn can_see(&self, path: &str) -> Result<bool, SqlError> {
        let action = "check whether the followed db shares a directory with us";
        let question = format!("select (pg_stat_file({}, true)).size is not null", escape_literal(path));
        let rows = self.query(action, &question).await?;
        first_row(action, &rows).map(|row| field(row, 0) == "t")
    }

    /// Whether a physical slot of this name exists.
    pub async fn has_slot(&self, slot: &str) -> Result<bool, SqlError> {
        let question = format!(
            "select 1 from pg_replication_slots where slot_type = 'physical' and slot_name = {}",
            escape_literal(slot)
        );
        Ok(!self.query("look for a replication slot", &question).await?.is_empty())
    }

    /// Returns the parameters that are pending restart (keeper Q7).
    pub async fn pending_restart(&self) -> Result<Vec<String>, SqlError> {
        let question = "select name from pg_settings where pending_restart order by 1";
        Ok(self
            .query("ask whether a restart is pending", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
    }

    /// Whether it is in recovery, that is, not (yet) a master.
    pub async fn is_in_recovery(&self) -> Result<bool, SqlError> {
        let action = "ask whether PostgreSQL is in recovery";
        let rows = self.query(action, "select pg_is_in_recovery()").await?;
        first_row(action, &rows).map(|row| field(row, 0) == "t")
    }

    /// Returns identity and position of the instance (keeper 3.5), only from functions that read no table.
    pub async fn position(&self) -> Result<InstancePosition, SqlError> {
        let action = "read the state of PostgreSQL";
        let question = "select r.on, s.system_identifier, i.bytes_per_wal_segment, i.wal_block_size, \
                        greatest(c.timeline_id, case when r.on then m.min_recovery_end_timeline end), \
                        case when r.on then greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) \
                        else pg_current_wal_flush_lsn() end, \
                        case when not r.on then substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) end \
                        from (select pg_is_in_recovery() as on) r, pg_control_system() s, pg_control_init() i, \
                        pg_control_checkpoint() c, pg_control_recovery() m";
        let rows = self.query(action, question).await?;
        let row = first_row(action, &rows)?;
        let number = |index| row.get(index).and_then(|text| text.parse::<u64>().ok());
        let standing = || {
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
        standing().ok_or_else(|| SqlError::Answer {
            action,
            answer: "a row of another form".to_owned(),
        })
    }

    /// Returns the name of the oldest WAL segment; `None` for none.
    pub async fn oldest_wal(&self) -> Result<Option<String>, SqlError> {
        let question = "select min(name collate \"C\") from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'";
        let rows = self.query("read the names of the WAL segments", question).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Returns the replication status of a standby; `None` on a master.
    pub async fn standby(&self) -> Result<Option<StandbyStatus>, SqlError> {
        let action = "read the state of the standby";
        // One row: pg_stat_wal_receiver has at most one. From 14 on replay may also be paused by the server.
        let question = "select pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn(), \
                        case when pg_is_in_recovery() then pg_is_wal_replay_paused() end, r.status, r.sender_host, \
                        r.sender_port, r.received_tli, r.slot_name, r.pid \
                        from (select 1) one left join pg_stat_get_wal_receiver() r on r.pid is not null";
        let rows = self.query(action, question).await?;
        let row = first_row(action, &rows)?;
        if field(row, 0) != "t" {
            return Ok(None);
        }
        let position = |index| row.get(index).and_then(Lsn::parse);
        Ok(Some(StandbyStatus {
            replayed: position(1),
            received: position(2),
            is_paused: field(row, 3) == "t",
            receiver: row.get(4).map(|status| WalReceiver {
                is_streaming: status == "streaming",
                host: field(row, 5),
                port: field(row, 6),
                timeline: row.get(7).and_then(|text| text.parse().ok()),
                slot: field(row, 8),
                pid: field(row, 9).parse().unwrap_or_default(),
            }),
        }))
    }
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

/// Replication status of a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Replayed position.
    pub replayed: Option<Lsn>,
    /// Position received and flushed since its start; `None` if nothing was streamed.
    pub received: Option<Lsn>,
    /// Replay is paused or being paused. If not by an operator, its parameters are too low, and it cannot be promoted
    /// before a restart (keeper 8.7).
    pub is_paused: bool,
    /// Its WAL receiver; `None` when none is running.
    pub receiver: Option<WalReceiver>,
}

/// WAL receiver of a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReceiver {
    pub pid: i32,
    /// It is streaming.
    pub is_streaming: bool,
    pub host: String,
    pub port: String,
    pub timeline: Option<u64>,
    /// Slot that it uses; may be empty.
    pub slot: String,
}

/// Whether the session survives an error, as it does unless the severity is FATAL or PANIC.
fn keeps_session_open(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(DbError::parsed_severity);
    severity.is_some_and(|severity| !matches!(severity, Severity::Fatal | Severity::Panic))
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

fn first_row<'a>(action: &'static str, rows: &'a [SimpleQueryRow]) -> Result<&'a SimpleQueryRow, SqlError> {
    rows.first().ok_or_else(|| SqlError::Answer {
        action,
        answer: "no row".to_owned(),
    })
}

/// Returns a value as text; empty for null.
fn field(row: &SimpleQueryRow, index: usize) -> String {
    row.get(index).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::postgres::config::conninfo::Address;
    use crate::postgres::config::credentials::AuthMethod;

    const ASKS_FOR_PASSWORD: &[u8] = &[b'R', 0, 0, 0, 12, 0, 0, 0, 5, 1, 2, 3, 4];
    const LONG: Duration = Duration::from_secs(60);

    async fn server() -> (TcpListener, ConnectTarget) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = ConnectTarget::Remote(Address {
            host: "127.0.0.1".into(),
            port: port.to_string(),
        });
        (listener, target)
    }

    fn sql(target: ConnectTarget, limit: Duration) -> SqlClient {
        let login = Login {
            user: "stolon".into(),
            method: AuthMethod::Md5,
            password: Some(Secret::new("secret")),
        };
        SqlClient::new(target, &login, limit)
    }

    fn error(code: &str) -> Vec<u8> {
        let fields = format!("SFATAL\0C{code}\0Mno\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap();
        [b"E", length.to_be_bytes().as_slice(), fields.as_bytes()].concat()
    }

    async fn answer(listener: &TcpListener, answer: &[u8]) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await; // whatever it is
        stream.write_all(answer).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_remembered_rejection_counts_only_while_the_server_answers() {
        let (listener, target) = server().await;
        let (refusal, recovering) = (error("28P01"), error("57P03"));
        let mut sql = sql(target, LONG);
        let (refused, _) = tokio::join!(sql.ping(), answer(&listener, &refusal));
        assert_eq!(refused.unwrap_err().refusal().unwrap().code, "28P01");

        let (remembered, _) = tokio::join!(sql.ping(), answer(&listener, ASKS_FOR_PASSWORD));
        let remembered = remembered.unwrap_err();
        assert!(matches!(remembered, SqlError::Refused { .. }), "{remembered:?}");

        // It recovers from the crash of a backend: the reason is queried.
        let recovers = async {
            answer(&listener, &recovering).await;
            answer(&listener, &recovering).await;
        };
        let (recovers, ()) = tokio::join!(sql.ping(), recovers);
        assert!(recovers.unwrap_err().is_not_accepting());

        let (refused, _) = tokio::join!(sql.ping(), answer(&listener, &refusal));
        assert!(refused.unwrap_err().refusal().is_some());
        sql.limit = Duration::from_millis(50); // the kernel accepts the connection, and no one answers
        let silent = sql.ping().await.unwrap_err();
        assert!(silent.refusal().is_none(), "{silent:?}");
        drop(listener);
        let gone = sql.ping().await.unwrap_err();
        assert!(gone.refusal().is_none(), "{gone:?}");
    }

    #[tokio::test]
    async fn any_answer_to_a_new_connection_counts_and_no_answer_does_not() {
        let (listener, target) = server().await;
        let mut sql = sql(target, LONG);
        for bytes in [ASKS_FOR_PASSWORD, &error("53300"), &error("57P03")] {
            let (answers, _) = tokio::join!(sql.answers_new_connections(), answer(&listener, bytes));
            assert!(answers);
        }
        sql.limit = Duration::from_millis(50);
        assert!(!sql.answers_new_connections().await);
        drop(listener);
        assert!(!sql.answers_new_connections().await);
    }
}
