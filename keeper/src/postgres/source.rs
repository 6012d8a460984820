//! The instance that another one is to follow or to be copied from, asked directly: what it is, what WAL it has,
//! whether the slot is there (keeper 6.4, 6.7). What follows from that is `converge`'s to say.

use std::time::Duration;

use control::model::Lsn;

use crate::postgres::conninfo::Address;
use crate::postgres::credentials::Login;
use crate::postgres::history::Ancestor;
use crate::postgres::replication::{Replication, ReplicationError, Target};
use crate::postgres::sql::{Sql, SqlError};

/// Why a source did not tell.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its published port is no number.
    #[error("the port {port:?} of the source is no number")]
    Port {
        /// The port.
        port: String,
    },
    /// It did not answer a replication command.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// It did not answer a question.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// System identifier.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u64,
    /// Its position.
    pub position: Lsn,
    /// All ancestors of its timeline, oldest first.
    pub history: Vec<Ancestor>,
    /// Name of the oldest WAL segment that it still has.
    pub oldest_wal: Option<String>,
    /// The slot that was asked for is there.
    pub has_slot: bool,
}

/// One source, with the logins that the whole cluster shares.
#[derive(Debug)]
pub struct Source {
    sql: Sql,
    replication: Replication,
}

impl Source {
    /// Will ask the instance at `address`; each question is limited by `limit`.
    pub fn new(
        address: &Address,
        superuser: &Login,
        replication: &Login,
        limit: Duration,
    ) -> Result<Self, SourceError> {
        let sql = Sql::remote(address, superuser, limit);
        let sql = sql.ok_or_else(|| SourceError::Port {
            port: address.port.clone(),
        })?;
        Ok(Self {
            sql,
            replication: Replication::new(Target::Remote(address.clone()), replication.clone(), limit),
        })
    }

    /// Asks everything, and whether it has `slot`.
    pub async fn ask(&self, slot: &str) -> Result<Told, SourceError> {
        let identity = self.replication.identify().await?;
        let history = self.replication.history(identity.timeline).await?;
        Ok(Told {
            system_id: identity.system_id,
            timeline: identity.timeline,
            position: identity.position,
            history,
            oldest_wal: self.sql.oldest_wal().await?,
            has_slot: self.sql.has_slot(slot).await?,
        })
    }

    /// Waits until the source has the slot, which its keeper makes once it has seen the follower listed (keeper 6.4).
    /// There is no limit: drop the future when the orders change. A source that does not answer is an error.
    pub async fn wait_for_slot(&self, slot: &str) -> Result<(), SourceError> {
        while !self.sql.has_slot(slot).await? {
            tokio::time::sleep(SLOT_POLL).await;
        }
        Ok(())
    }
}

/// How often the source is asked for the slot.
const SLOT_POLL: Duration = Duration::from_millis(100);
