//! An open SQL session and a running query. A query that is abandoned, by its time limit or because its future is
//! dropped, is cancelled in the server (PostgreSQL manual 55.2.8). The queries are in `sql`.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tracing::debug;

use crate::postgres::client::connect::ConnectTarget;

/// An open connection. It is closed immediately when dropped, whatever the server does, so that a hanging server does
/// not accumulate connections.
#[derive(Debug)]
pub(crate) struct SqlSession {
    client: Client,
    connection: JoinHandle<()>,
    /// Address for cancel requests.
    target: ConnectTarget,
    /// Whether it may stay open between queries.
    is_kept: bool,
}

impl Drop for SqlSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl SqlSession {
    /// Wraps a newly opened connection.
    pub(crate) fn new(client: Client, connection: JoinHandle<()>, target: ConnectTarget, is_kept: bool) -> Self {
        Self {
            client,
            connection,
            target,
            is_kept,
        }
    }

    /// Whether it may be used for another query.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_kept && !self.client.is_closed()
    }

    /// Begins a query.
    pub(crate) fn begin(self) -> PendingQuery {
        PendingQuery { session: Some(self) }
    }
}

/// A session with a running query.
#[derive(Debug)]
pub(crate) struct PendingQuery {
    session: Option<SqlSession>,
}

/// Time limit of a cancellation.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

impl PendingQuery {
    /// Sends the query and returns its result.
    pub(crate) async fn query(&self, statement: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        let session = self
            .session
            .as_ref()
            .expect("a pending session is there until it has ended");
        session.client.simple_query(statement).await
    }

    /// Ends the query; it is not cancelled.
    pub(crate) fn finish(mut self) -> SqlSession {
        self.session
            .take()
            .expect("a pending session is there until it has ended")
    }
}

impl Drop for PendingQuery {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        if session.client.is_closed() {
            return;
        }
        runtime.spawn(async move {
            let cancel = async {
                let stream = session.target.open().await.ok()?;
                session.client.cancel_token().cancel_query_raw(stream, NoTls).await.ok()
            };
            if !matches!(timeout(CANCEL_LIMIT, cancel).await, Ok(Some(()))) {
                debug!("could not cancel an unfinished query");
            }
            drop(session);
        });
    }
}
