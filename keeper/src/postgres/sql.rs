//! SQL on the instance, as the superuser over the unix socket (keeper 13.1), and on another instance over TCP. Every
//! question has the request timeout. Replication commands are in `replication`.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard};
use std::time::Duration;

use control::model::Lsn;
use postgres_protocol::escape::escape_literal;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::postgres::conf::Parameters;
use crate::postgres::connect::ConnectTarget;
use crate::postgres::credentials::{Login, Secret};
use crate::postgres::pg_control::WalLayout;
use crate::postgres::programs::Programs;
use crate::postgres::refusal::ServerRefusal;
use crate::postgres::replication::{FirstResponse, first_response};
use crate::postgres::session_settings::{self, SessionUser};
use crate::postgres::sql_session::SqlSession;

/// The database that is used for administration.
pub const DATABASE: &str = "postgres";
/// The one that is used while that one is not there: there is one in every cluster (PostgreSQL manual 23.3).
const OTHER_DATABASE: &str = "template1";

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// There is no connection, or not to the one that it must be to.
    #[error("connect to PostgreSQL at {at}")]
    Open {
        /// Where it was tried.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// The login failed.
    #[error("connect to PostgreSQL at {at}")]
    Connect {
        /// Where it was tried.
        at: String,
        /// Why not.
        source: tokio_postgres::Error,
    },
    /// It was refused a short while ago, and is not tried again yet.
    #[error("connect to PostgreSQL at {at}: refused recently, not retried yet: {refusal}")]
    Refused {
        /// Where it was tried.
        at: String,
        /// The answer.
        refusal: ServerRefusal,
    },
    /// The server refused, or the connection broke.
    #[error("{act}")]
    Query {
        /// What was attempted.
        act: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time.
    #[error("{act}: no answer within {limit:?}")]
    Timeout {
        /// What was attempted.
        act: &'static str,
        /// The request timeout.
        limit: Duration,
    },
    /// The answer has another form than it must.
    #[error("{act}: unexpected answer {answer:?}")]
    Answer {
        /// What was attempted.
        act: &'static str,
        /// What came.
        answer: String,
    },
}

impl SqlError {
    /// The refusal, when the server answered with one that proves that it lives.
    pub fn refusal(&self) -> Option<ServerRefusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.clone()),
            Self::Connect { source, .. } | Self::Query { source, .. } => ServerRefusal::of(source.as_db_error()?),
            _ => None,
        }
    }

    /// Whether the server says that it cannot take connections now: it starts, recovers or stops.
    pub fn is_not_accepting(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => {
                source.code() == Some(&SqlState::CANNOT_CONNECT_NOW)
            }
            _ => false,
        }
    }
}

/// A connection that is kept open between questions and opened again when it broke (keeper W23).
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

/// What was refused a short while ago, and is not tried again all the time: each try is a line in the server's log.
#[derive(Debug, Default)]
struct RefusedLogins {
    login: Option<RefusedLogin>,
    database: Option<(ServerRefusal, Instant)>,
}

#[derive(Debug)]
struct RefusedLogin {
    refusal: ServerRefusal,
    at: Instant,
    /// Another one is worth another try.
    password: Option<Secret>,
}

/// How long a refusal is not tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

impl SqlClient {
    /// Will connect to `target`; every question, with its connection, is limited by `limit`.
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

    /// The same, knowing of what major the server is: that of these programs.
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

    /// Connects to the usual database, or, while that one is not there for us, to the other one, which is left again
    /// after each question: nobody can copy a database that somebody uses.
    #[expect(clippy::disallowed_methods, reason = "a pause between logins is measured here")]
    async fn connect(&self) -> Result<SqlSession, SqlError> {
        // What is remembered spares the server's log a line, and proves nothing about the server now (keeper I11).
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
        // Its end, an error too, shows in the client, which is closed then.
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(SqlSession::new(client, connection, self.target.clone(), is_kept))
    }

    /// Whether the server answers a new connection as one that works does, without a login that it would log.
    async fn answers_login_request(&self) -> bool {
        let answer = first_response(&self.target, &self.login.user).await;
        matches!(answer, Ok(FirstResponse::Login | FirstResponse::Error(Some(_))))
    }

    /// Whether the server answers a new connection in time, be it with an error.
    pub async fn answers_new_connections(&self) -> bool {
        let answer = timeout(self.limit, first_response(&self.target, &self.login.user)).await;
        answer.is_ok_and(|answer| answer.is_ok())
    }

    fn refused(&self) -> MutexGuard<'_, RefusedLogins> {
        self.refused.lock().expect("nobody panics while holding the refusals")
    }

    /// The refusal of a login that is not worth another try yet.
    fn refused_lately(&self) -> Option<ServerRefusal> {
        let refused = self.refused();
        let login = refused.login.as_ref()?;
        let is_same = login.password.as_ref().map(Secret::reveal) == self.login.password();
        (is_same && login.at.elapsed() < REFUSED_PAUSE).then(|| login.refusal.clone())
    }

    /// Why the usual database is not used now.
    pub fn database_refusal(&self) -> Option<ServerRefusal> {
        let refused = self.refused();
        let (refusal, at) = refused.database.as_ref()?;
        (at.elapsed() < REFUSED_PAUSE).then(|| refusal.clone())
    }

    /// Forgets refusals: something has changed, so the next question tries again.
    pub fn forget_refusals(&self) {
        *self.refused() = RefusedLogins::default();
    }

    /// Whether one could log in now, in a connection of its own.
    pub async fn try_login(&self) -> Result<(), SqlError> {
        let limit = self.limit;
        let act = "try to log in";
        let connected = timeout(limit, self.connect()).await;
        connected.map_err(|_| SqlError::Timeout { act, limit })?.map(drop)
    }

    /// Asks one question and gives the rows, all values as text.
    pub(crate) async fn query(&self, act: &'static str, question: &str) -> Result<Vec<SimpleQueryRow>, SqlError> {
        let answer = async {
            let mut kept = self.session.lock().await;
            // It is put back only after a whole answer: one that was given up in the middle is not used again.
            if let Some(session) = kept.take().filter(SqlSession::is_usable) {
                let pending = session.begin();
                match pending.query(question).await {
                    Ok(messages) => {
                        *kept = Some(pending.finish());
                        return Ok(rows(messages));
                    }
                    Err(source) if keeps_session_open(&source) => {
                        *kept = Some(pending.finish());
                        return Err(SqlError::Query { act, source });
                    }
                    // Closed meanwhile, by a restart of the server, or by somebody who ends sessions: once more.
                    Err(_) => drop(pending.finish()),
                }
            }
            let pending = self.connect().await?.begin();
            let messages = pending.query(question).await;
            let session = pending.finish();
            let messages = messages.map_err(|source| SqlError::Query { act, source })?;
            *kept = Some(session).filter(SqlSession::is_usable);
            Ok(rows(messages))
        };
        timeout(self.limit, answer)
            .await
            .map_err(|_| SqlError::Timeout { act, limit: self.limit })?
    }

    /// Runs statements one after another in a connection of their own, in one transaction.
    pub(crate) async fn transaction(&self, act: &'static str, statements: &[String]) -> Result<(), SqlError> {
        let work = async {
            let pending = self.connect().await?.begin();
            let begin = ["begin".to_owned()];
            let commit = ["commit".to_owned()];
            for statement in begin.iter().chain(statements).chain(&commit) {
                // Given up in the middle, by an error too, it is cancelled; nothing of it stays.
                pending
                    .query(statement)
                    .await
                    .map_err(|source| SqlError::Query { act, source })?;
            }
            drop(pending.finish());
            Ok(())
        };
        timeout(self.limit, work)
            .await
            .map_err(|_| SqlError::Timeout { act, limit: self.limit })?
    }

    /// Closes the connection that is kept, so that nothing of it outlives a stop.
    pub async fn close(&self) {
        self.session.lock().await.take();
    }

    /// Q6: does it answer?
    pub async fn ping(&self) -> Result<(), SqlError> {
        self.query("ask whether PostgreSQL answers", "select 1")
            .await
            .map(|_| ())
    }

    /// Q1: the parameters in the configuration files as they are on disk, later lines over earlier ones.
    pub async fn configured(&self) -> Result<Parameters, SqlError> {
        let question =
            "select name, setting from pg_file_settings where name is not null and setting is not null order by seqno";
        let rows = self.query("read the configured parameters", question).await?;
        Ok(rows.iter().map(|row| (field(row, 0), field(row, 1))).collect())
    }

    /// When our session last read the configuration files, as text to compare: another one after a reload is done.
    pub async fn conf_load_time(&self) -> Result<String, SqlError> {
        let act = "ask when the configuration was read";
        let rows = self.query(act, "select pg_conf_load_time()").await?;
        first_row(act, &rows).map(|row| field(row, 0))
    }

    /// Parameters of the configuration files that the server does not take, with the reason (keeper W19). Settings that
    /// wait for a restart are none; those that left the files stand there without a file.
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

    /// Numbers of the lines of `pg_hba.conf`, as it is on disk, that the server cannot read, with the reason.
    pub async fn refused_hba_lines(&self) -> Result<Vec<(usize, String)>, SqlError> {
        let question = "select line_number, error from pg_hba_file_rules where error is not null order by 1";
        let rows = self.query("read the errors of pg_hba.conf", question).await?;
        let line = |row: &SimpleQueryRow| Some((field(row, 0).parse().ok()?, field(row, 1)));
        Ok(rows.iter().filter_map(line).collect())
    }

    /// Those of these parameters, in lower case, that the server reads at its start only.
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

    /// Q2: application names of the standbys that are in sync now, as the server shows it: state exactly `sync`.
    pub async fn in_sync(&self) -> Result<Vec<String>, SqlError> {
        // Without the view, whose names of roles wait for a lock on pg_authid.
        let question = "select a.application_name from pg_stat_get_wal_senders() w \
                        join pg_stat_get_activity(null) a using (pid) where w.sync_state = 'sync' order by 1";
        Ok(self
            .query("read the synchronous standbys", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
    }

    /// Application names of the standbys that stream now.
    pub async fn streaming(&self) -> Result<Vec<String>, SqlError> {
        let question = "select application_name from pg_stat_replication where state = 'streaming' order by 1";
        Ok(self
            .query("read the streaming standbys", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
    }

    /// Q3: the replication slots, temporary ones left out.
    pub async fn slots(&self) -> Result<Vec<String>, SqlError> {
        let question = "select slot_name from pg_replication_slots where not temporary order by 1";
        Ok(self
            .query("read the replication slots", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
    }

    /// How many replication slots the server has room for.
    pub async fn slots_max(&self) -> Result<u32, SqlError> {
        let act = "read max_replication_slots";
        let rows = self
            .query(
                act,
                "select setting from pg_settings where name = 'max_replication_slots'",
            )
            .await?;
        let answer = field(first_row(act, &rows)?, 0);
        answer.parse().map_err(|_| SqlError::Answer { act, answer })
    }

    /// Q4: creates a physical slot, without reserving WAL.
    pub async fn create_slot(&self, slot: &str) -> Result<(), SqlError> {
        let question = format!("select pg_create_physical_replication_slot({})", escape_literal(slot));
        self.query("create a replication slot", &question).await.map(|_| ())
    }

    /// Q5: drops a slot; fails while somebody uses it.
    pub async fn drop_slot(&self, slot: &str) -> Result<(), SqlError> {
        let question = format!("select pg_drop_replication_slot({})", escape_literal(slot));
        self.query("drop a replication slot", &question).await.map(|_| ())
    }

    /// Name of the directory of this server in a tablespace's location (TABLESPACE_VERSION_DIRECTORY in relpath.h).
    pub async fn tablespace_directory(&self) -> Result<String, SqlError> {
        let act = "ask for the catalog version";
        let question = "select 'PG_' || current_setting('server_version_num')::int / 10000 || '_' || \
                        catalog_version_no from pg_control_system()";
        let rows = self.query(act, question).await?;
        first_row(act, &rows).map(|row| field(row, 0))
    }

    /// Locations of the tablespaces outside PGDATA.
    pub async fn tablespace_locations(&self) -> Result<Vec<String>, SqlError> {
        let question = "select pg_tablespace_location(oid) from pg_tablespace \
                        where pg_tablespace_location(oid) like '/%' order by 1";
        let rows = self.query("read the tablespaces", question).await?;
        Ok(rows.iter().map(|row| field(row, 0)).collect())
    }

    /// Bytes of the tablespace at this location; without one, of all databases outside of such tablespaces.
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

    /// Bytes of the WAL that the server has.
    pub async fn bytes_of_wal(&self) -> Result<u64, SqlError> {
        let question = "select coalesce(sum(size), 0) from pg_ls_waldir()";
        self.bytes("ask for the size of the WAL", question).await
    }

    async fn bytes(&self, act: &'static str, question: &str) -> Result<u64, SqlError> {
        let rows = self.query(act, question).await?;
        let text = first_row(act, &rows).map(|row| field(row, 0))?;
        text.parse().map_err(|_| SqlError::Answer { act, answer: text })
    }

    /// Whether the server finds this file, by an absolute path or one below its PGDATA.
    pub async fn sees(&self, path: &str) -> Result<bool, SqlError> {
        let act = "check whether the followed db shares a directory with us";
        let question = format!("select (pg_stat_file({}, true)).size is not null", escape_literal(path));
        let rows = self.query(act, &question).await?;
        first_row(act, &rows).map(|row| field(row, 0) == "t")
    }

    /// Is there a physical slot of this name?
    pub async fn has_slot(&self, slot: &str) -> Result<bool, SqlError> {
        let question = format!(
            "select 1 from pg_replication_slots where slot_type = 'physical' and slot_name = {}",
            escape_literal(slot)
        );
        Ok(!self.query("look for a replication slot", &question).await?.is_empty())
    }

    /// Q7: names of the parameters that take effect only after a restart.
    pub async fn pending_restart(&self) -> Result<Vec<String>, SqlError> {
        let question = "select name from pg_settings where pending_restart order by 1";
        Ok(self
            .query("ask whether a restart is pending", question)
            .await?
            .iter()
            .map(|row| field(row, 0))
            .collect())
    }

    /// Is it in recovery, that is not (yet) a master?
    pub async fn is_in_recovery(&self) -> Result<bool, SqlError> {
        let act = "ask whether PostgreSQL is in recovery";
        let rows = self.query(act, "select pg_is_in_recovery()").await?;
        first_row(act, &rows).map(|row| field(row, 0) == "t")
    }

    /// What and where the instance is (keeper 3.5): everything from functions that read no table.
    pub async fn position(&self) -> Result<InstancePosition, SqlError> {
        let act = "read the state of PostgreSQL";
        let question = "select r.on, s.system_identifier, i.bytes_per_wal_segment, i.wal_block_size, \
                        greatest(c.timeline_id, case when r.on then m.min_recovery_end_timeline end), \
                        case when r.on then greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) \
                        else pg_current_wal_flush_lsn() end, \
                        case when not r.on then substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) end \
                        from (select pg_is_in_recovery() as on) r, pg_control_system() s, pg_control_init() i, \
                        pg_control_checkpoint() c, pg_control_recovery() m";
        let rows = self.query(act, question).await?;
        let row = first_row(act, &rows)?;
        let number = |index| row.get(index).and_then(|text| text.parse::<u64>().ok());
        let standing = || {
            // The system identifier is shown as a signed number.
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
            act,
            answer: "a row of another form".to_owned(),
        })
    }

    /// Asks for a checkpoint, so that a later shutdown has little left to write.
    pub async fn checkpoint(&self) -> Result<(), SqlError> {
        self.query("ask for a checkpoint", "checkpoint").await.map(|_| ())
    }

    /// Name of the oldest WAL segment that the server still has; `None` for none.
    pub async fn oldest_wal(&self) -> Result<Option<String>, SqlError> {
        let question = "select min(name collate \"C\") from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'";
        let rows = self.query("read the names of the WAL segments", question).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Where a standby is; `None` on a master.
    pub async fn standby(&self) -> Result<Option<StandbyStatus>, SqlError> {
        let act = "read the state of the standby";
        // One row; pg_stat_wal_receiver has at most one. From 14 on a pause can be one that nobody asked for.
        let question = "select pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn(), \
                        case when pg_is_in_recovery() then pg_is_wal_replay_paused() end, r.status, r.sender_host, \
                        r.sender_port, r.received_tli, r.slot_name \
                        from (select 1) one left join pg_stat_get_wal_receiver() r on r.pid is not null";
        let rows = self.query(act, question).await?;
        let row = first_row(act, &rows)?;
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
            }),
        }))
    }
}

/// What and where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePosition {
    /// It follows, or is about to take writes.
    pub is_in_recovery: bool,
    /// System identifier.
    pub system_id: u64,
    /// How its WAL is cut.
    pub layout: WalLayout,
    /// A master's timeline; on a standby the latest one that its control file knows, which may be an earlier one.
    pub known_timeline: u64,
    /// Flushed on a master, replayed or received on a standby; `None` on one that has replayed nothing yet.
    pub position: Option<Lsn>,
}

/// Where a standby is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyStatus {
    /// How far it has replayed.
    pub replayed: Option<Lsn>,
    /// How far it has received and flushed since its start; `None` when nothing came by streaming.
    pub received: Option<Lsn>,
    /// Replay is paused or about to be. When nobody asked for it, its parameters are too low, and it cannot be promoted
    /// before a restart (keeper 8.7).
    pub is_paused: bool,
    /// Its WAL receiver; `None` when there is none alive.
    pub receiver: Option<WalReceiver>,
}

/// A standby's WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReceiver {
    /// WAL comes in (or would, if there were any).
    pub is_streaming: bool,
    /// Host that it is connected to.
    pub host: String,
    /// Port that it is connected to.
    pub port: String,
    /// Timeline that it receives.
    pub timeline: Option<u64>,
    /// Slot that it uses; may be empty.
    pub slot: String,
}

/// Whether an error is the answer to a question, after which the session goes on.
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

fn first_row<'a>(act: &'static str, rows: &'a [SimpleQueryRow]) -> Result<&'a SimpleQueryRow, SqlError> {
    rows.first().ok_or_else(|| SqlError::Answer {
        act,
        answer: "no row".to_owned(),
    })
}

/// A value as text; empty when it is null.
fn field(row: &SimpleQueryRow, index: usize) -> String {
    row.get(index).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::postgres::conninfo::Address;
    use crate::postgres::credentials::AuthMethod;

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
    async fn a_remembered_refusal_counts_only_while_the_server_answers() {
        let (listener, target) = server().await;
        let (refusal, recovering) = (error("28P01"), error("57P03"));
        let mut sql = sql(target, LONG);
        let (refused, _) = tokio::join!(sql.ping(), answer(&listener, &refusal));
        assert_eq!(refused.unwrap_err().refusal().unwrap().code, "28P01");

        let (remembered, _) = tokio::join!(sql.ping(), answer(&listener, ASKS_FOR_PASSWORD));
        let remembered = remembered.unwrap_err();
        assert!(matches!(remembered, SqlError::Refused { .. }), "{remembered:?}");

        // It recovers from the crash of a backend: it is asked for the reason.
        let recovers = async {
            answer(&listener, &recovering).await;
            answer(&listener, &recovering).await;
        };
        let (recovers, ()) = tokio::join!(sql.ping(), recovers);
        assert!(recovers.unwrap_err().is_not_accepting());

        let (refused, _) = tokio::join!(sql.ping(), answer(&listener, &refusal));
        assert!(refused.unwrap_err().refusal().is_some());
        sql.limit = Duration::from_millis(50); // the system takes the connection, and nobody answers
        let silent = sql.ping().await.unwrap_err();
        assert!(silent.refusal().is_none(), "{silent:?}");
        drop(listener);
        let gone = sql.ping().await.unwrap_err();
        assert!(gone.refusal().is_none(), "{gone:?}");
    }

    #[tokio::test]
    async fn any_answer_to_a_new_connection_counts_and_silence_does_not() {
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
