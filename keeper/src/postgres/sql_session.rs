//! An open session, and a question under way in it: one that is given up, by its time limit or because nobody waits for
//! it any more, is cancelled in the server (PostgreSQL manual 55.2.8). What is asked is left to `sql`.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tracing::debug;

use crate::postgres::connect::ConnectTarget;

/// An open connection; closed at once when dropped, whatever the server is doing then: one that hangs does not gather
/// connections that nobody waits for any more.
#[derive(Debug)]
pub(crate) struct SqlSession {
    client: Client,
    connection: JoinHandle<()>,
    /// Where a cancellation goes.
    target: ConnectTarget,
    /// Whether it may stay open between questions.
    is_kept: bool,
}

impl Drop for SqlSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl SqlSession {
    /// A session that was just opened.
    pub(crate) fn new(client: Client, connection: JoinHandle<()>, target: ConnectTarget, is_kept: bool) -> Self {
        Self {
            client,
            connection,
            target,
            is_kept,
        }
    }

    /// Whether it may be used for another question.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_kept && !self.client.is_closed()
    }

    /// Begins a question.
    pub(crate) fn begin(self) -> PendingQuery {
        PendingQuery { session: Some(self) }
    }
}

/// A session with a question under way.
#[derive(Debug)]
pub(crate) struct PendingQuery {
    session: Option<SqlSession>,
}

/// How long a cancellation may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

impl PendingQuery {
    /// Asks, and waits for the answer.
    pub(crate) async fn query(&self, question: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        let session = self
            .session
            .as_ref()
            .expect("a pending session is there until it has ended");
        session.client.simple_query(question).await
    }

    /// The question was answered.
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
