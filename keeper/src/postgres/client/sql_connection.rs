//! One SQL connection that stays open between queries and is reopened when it broke. Every query has a time limit. The
//! queries are in `sql`; recent refusals of logins in `refused_logins`.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard};
use std::time::Duration;

use base::Clock;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::postgres::client::connect::ConnectTarget;
use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::refused_logins::RefusedLogins;
use crate::postgres::client::session_settings::{self, DATABASE, SessionUser};
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::client::sql_session::SqlSession;
use crate::postgres::client::wire::{FirstResponse, first_response};
use crate::postgres::config::credentials::{Login, Secret};
use crate::postgres::programs::installation::Programs;

/// The database used while the usual one is missing: it exists in every cluster (PostgreSQL manual 23.3).
const OTHER_DATABASE: &str = "template1";

/// A connection that stays open between queries and is reopened when it broke (keeper W23).
#[derive(Debug)]
pub(crate) struct SqlConnection {
    config: Config,
    login: Login,
    target: ConnectTarget,
    limit: Duration,
    session: Mutex<Option<SqlSession>>,
    refused: StdMutex<RefusedLogins>,
    clock: Clock,
    programs: Option<Arc<Programs>>,
}

impl SqlConnection {
    /// Creates a connection to `target`, not opened yet; `limit` applies to each query including its connection.
    pub(crate) fn new(target: ConnectTarget, login: &Login, limit: Duration, clock: Clock) -> Self {
        Self {
            config: Self::config(login),
            login: login.clone(),
            target,
            limit,
            session: Mutex::new(None),
            refused: StdMutex::default(),
            clock,
            programs: None,
        }
    }

    /// Sets the major of the server: that of these programs.
    #[must_use]
    pub(crate) fn for_programs(mut self, programs: &Arc<Programs>) -> Self {
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
    async fn connect(&self) -> Result<SqlSession, SqlError> {
        // A recorded refusal only avoids a line in the server's log; it does not prove that the server is alive now
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
        if let Some(database_refusal) = refusal(&connected).filter(ServerRefusal::is_about_database)
            && self.database_refusal().is_none()
        {
            let other = self.connect_to(OTHER_DATABASE, false).await;
            if other.is_ok() {
                self.refused().note_database(database_refusal, self.clock.now());
                connected = other;
            }
        }
        let password = self.login.password().map(Secret::new);
        self.refused()
            .note_login(refusal(&connected), password, self.clock.now());
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
        let Ok(stream) = self.target.open().await else {
            return false;
        };
        let answer = first_response(stream, &self.login.user).await;
        matches!(answer, Ok(FirstResponse::Login | FirstResponse::Error(Some(_))))
    }

    /// Whether the server answers a new connection in time, even with an error; `None` if it reports that it does not
    /// accept connections.
    pub(crate) async fn answers_new_connections(&self) -> Option<bool> {
        let attempt = async {
            match self.target.open_if_ready().await {
                Ok(Some(stream)) => Some(first_response(stream, &self.login.user).await.is_ok()),
                Ok(None) => None,
                Err(_) => Some(false),
            }
        };
        timeout(self.limit, attempt).await.unwrap_or(Some(false))
    }

    fn refused(&self) -> MutexGuard<'_, RefusedLogins> {
        self.refused
            .lock()
            .expect("no thread panics while holding the refusals")
    }

    /// Returns the refusal of a login that is not retried yet.
    fn refused_lately(&self) -> Option<ServerRefusal> {
        self.refused().login(self.login.password().as_deref(), self.clock.now())
    }

    /// Returns why the usual database is not used now.
    pub(crate) fn database_refusal(&self) -> Option<ServerRefusal> {
        self.refused().database(self.clock.now())
    }

    /// Clears the recorded refusals, so that the next query tries to log in.
    pub(crate) fn forget_refusals(&self) {
        *self.refused() = RefusedLogins::default();
    }

    /// Tries to log in with a new connection.
    pub(crate) async fn try_login(&self) -> Result<(), SqlError> {
        let limit = self.limit;
        let action = "try to log in";
        let connected = timeout(limit, self.connect()).await;
        connected.map_err(|_| SqlError::Timeout { action, limit })?.map(drop)
    }

    /// Runs one query and returns its rows, all values as text.
    pub(crate) async fn query(&self, action: &'static str, statement: &str) -> Result<Vec<SimpleQueryRow>, SqlError> {
        let answer = async {
            let mut kept = self.session.lock().await;
            // It is put back only after a complete result: an abandoned session is not reused.
            if let Some(session) = kept.take().filter(SqlSession::is_usable) {
                let pending = session.begin();
                match pending.query(statement).await {
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
            let messages = pending.query(statement).await;
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

    /// Runs statements one after the other in a new connection, within `limit`; `proceed` decides from the rows of each
    /// whether the next one runs. Returns the rows of the last one that ran.
    pub(crate) async fn run_anew(
        &self,
        action: &'static str,
        statements: &[&str],
        limit: Duration,
        proceed: impl Fn(&[SimpleQueryRow]) -> bool,
    ) -> Result<Vec<SimpleQueryRow>, SqlError> {
        let work = async {
            let pending = self.connect().await?.begin();
            let mut found = Vec::new();
            for statement in statements {
                let messages = pending.query(statement).await;
                found = rows(messages.map_err(|source| SqlError::Query { action, source })?);
                if !proceed(&found) {
                    break;
                }
            }
            drop(pending.finish());
            Ok(found)
        };
        timeout(limit, work)
            .await
            .map_err(|_| SqlError::Timeout { action, limit })?
    }

    /// Returns the time limit of a query.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Closes the open connection before a stop.
    pub(crate) async fn close(&self) {
        self.session.lock().await.take();
    }
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

    fn sql(target: ConnectTarget, limit: Duration) -> SqlConnection {
        let login = Login {
            user: "stolon".into(),
            method: AuthMethod::Md5,
            password: Some(Secret::new("secret")),
        };
        SqlConnection::new(target, &login, limit, Clock::system())
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
        let (refused, _) = tokio::join!(sql.query("ping", "select 1"), answer(&listener, &refusal));
        assert_eq!(refused.unwrap_err().refusal().unwrap().code, "28P01");

        let (remembered, _) = tokio::join!(sql.query("ping", "select 1"), answer(&listener, ASKS_FOR_PASSWORD));
        let remembered = remembered.unwrap_err();
        assert!(matches!(remembered, SqlError::Refused { .. }), "{remembered:?}");

        // It recovers from the crash of a backend: the reason is queried.
        let recovers = async {
            answer(&listener, &recovering).await;
            answer(&listener, &recovering).await;
        };
        let (recovers, ()) = tokio::join!(sql.query("ping", "select 1"), recovers);
        assert!(recovers.unwrap_err().is_not_accepting());

        let (refused, _) = tokio::join!(sql.query("ping", "select 1"), answer(&listener, &refusal));
        assert!(refused.unwrap_err().refusal().is_some());
        sql.limit = Duration::from_millis(50); // the kernel accepts the connection, and no one answers
        let silent = sql.query("ping", "select 1").await.unwrap_err();
        assert!(silent.refusal().is_none(), "{silent:?}");
        drop(listener);
        let gone = sql.query("ping", "select 1").await.unwrap_err();
        assert!(gone.refusal().is_none(), "{gone:?}");
    }

    #[tokio::test]
    async fn any_answer_to_a_new_connection_counts_and_no_answer_does_not() {
        let (listener, target) = server().await;
        let mut sql = sql(target, LONG);
        for bytes in [ASKS_FOR_PASSWORD, &error("53300"), &error("57P03")] {
            let (answers, _) = tokio::join!(sql.answers_new_connections(), answer(&listener, bytes));
            assert_eq!(answers, Some(true));
        }
        sql.limit = Duration::from_millis(50);
        assert_eq!(sql.answers_new_connections().await, Some(false));
        drop(listener);
        assert_eq!(sql.answers_new_connections().await, Some(false));
    }
}
