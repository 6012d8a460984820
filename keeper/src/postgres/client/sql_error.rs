//! Why an SQL query failed, and whether the response proves that the server is alive. What follows for its health is left to
//! `observe`.

use std::io;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::postgres::client::refusal::ServerRefusal;

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
    /// The login was refused recently and is not retried yet.
    #[error("connect to PostgreSQL at {at}: refused recently, not retried yet: {refusal}")]
    Refused {
        /// Address.
        at: String,
        refusal: ServerRefusal,
    },
    /// The server refused the query, or the connection broke.
    #[error("{action}")]
    Query {
        action: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time.
    #[error("{action}: no response within {limit:?}")]
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
    /// Returns the refusal if the server's answer proves that it is alive.
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
