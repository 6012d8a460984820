//! The instance that another one is to follow or to be copied from, asked directly: what it is, what WAL it has,
//! whether the slot is there (keeper 6.4, 6.7). What follows from that is `converge`'s to say.

use std::sync::Arc;
use std::time::Duration;

use control::model::Lsn;
use control::telemetry::Chain;
use tracing::warn;

use crate::postgres::connect::ConnectTarget;
use crate::postgres::conninfo::Address;
use crate::postgres::credentials::Login;
use crate::postgres::files::FileError;
use crate::postgres::history::Ancestor;
use crate::postgres::programs::Programs;
use crate::postgres::replication::{ReplicationClient, ReplicationError};
use crate::postgres::sql::{SqlClient, SqlError};

/// Why a source did not tell.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
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
    /// A directory of our own that a copy would write into cannot be looked at.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFacts {
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

/// What a copy is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyExtent {
    /// Name of the directory that each tablespace has in its location.
    pub directory: String,
    /// The locations of the tablespaces outside PGDATA.
    pub locations: Vec<String>,
}

/// One source, with the logins that the whole cluster shares.
#[derive(Debug)]
pub struct UpstreamClient {
    sql: SqlClient,
    replication: ReplicationClient,
}

impl UpstreamClient {
    /// Will ask the instance at `address`; each question is limited by `limit`.
    pub fn new(
        address: &Address,
        superuser: &Login,
        replication: &Login,
        limit: Duration,
    ) -> Result<Self, UpstreamError> {
        if address.port.parse::<u16>().is_err() {
            return Err(UpstreamError::Port {
                port: address.port.clone(),
            });
        }
        let target = ConnectTarget::Remote(address.clone());
        Ok(Self {
            sql: SqlClient::new(target.clone(), superuser, limit),
            replication: ReplicationClient::new(target, replication.clone(), limit),
        })
    }

    /// The same, knowing of what major the source is: that of these programs, as no other can be followed.
    #[must_use]
    pub fn for_programs(self, programs: &Arc<Programs>) -> Self {
        Self {
            sql: self.sql.for_programs(programs),
            replication: self.replication.for_programs(programs),
        }
    }

    /// Asks everything, and whether it has `slot`.
    pub async fn probe(&self, slot: &str) -> Result<UpstreamFacts, UpstreamError> {
        let identity = self.replication.identify().await?;
        let history = self.replication.history(identity.timeline).await?;
        Ok(UpstreamFacts {
            system_id: identity.system_id,
            timeline: identity.timeline,
            position: identity.position,
            history,
            oldest_wal: self.sql.oldest_wal().await?,
            has_slot: self.sql.has_slot(slot).await?,
        })
    }

    /// Asks what a copy would be made of.
    pub async fn extent(&self) -> Result<CopyExtent, UpstreamError> {
        let directory = self.sql.tablespace_directory().await?;
        let locations = self.sql.tablespace_locations().await?;
        Ok(CopyExtent { directory, locations })
    }

    /// Asks for the size of a tablespace, or of all databases outside of such ones. It takes long on a large instance:
    /// absent when it is not reported in time.
    pub async fn bytes(&self, location: Option<&str>) -> Option<u64> {
        size_or_none(self.sql.bytes_of_data(location).await)
    }

    /// Asks for the size of the WAL; absent when it is not reported in time.
    pub async fn bytes_of_wal(&self) -> Option<u64> {
        size_or_none(self.sql.bytes_of_wal().await)
    }

    /// Whether the source finds this file, by an absolute path or one below its PGDATA.
    pub async fn can_see(&self, path: &str) -> Result<bool, UpstreamError> {
        Ok(self.sql.sees(path).await?)
    }

    /// Waits until the source has the slot, which its keeper makes once it has seen the follower listed (keeper 6.4).
    /// There is no limit: drop the future when the orders change. A source that does not answer is an error.
    pub async fn wait_for_slot(&self, slot: &str) -> Result<(), UpstreamError> {
        while !self.sql.has_slot(slot).await? {
            tokio::time::sleep(SLOT_POLL).await;
        }
        Ok(())
    }
}

fn size_or_none(bytes: Result<u64, SqlError>) -> Option<u64> {
    bytes
        .inspect_err(|error| warn!(error = %Chain(error), "the followed db does not report its size"))
        .ok()
}

/// How often the source is asked for the slot.
const SLOT_POLL: Duration = Duration::from_millis(100);
