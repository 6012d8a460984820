//! Client for the instance that is followed or copied: its identity, its WAL, and whether the slot exists (keeper 6.4,
//! 6.7). What follows from that is decided by `reconcile`.

use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use base::Clock;
use model::Lsn;
use tracing::warn;

use crate::postgres::client::connect::ConnectTarget;
use crate::postgres::client::replication::{ReplicationClient, ReplicationError};
use crate::postgres::client::sql::SqlClient;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::conninfo::Address;
use crate::postgres::config::credentials::Login;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::history::Ancestor;
use crate::postgres::programs::installation::Programs;

/// Why probing the upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Its published port is not a number.
    #[error("the port {port:?} of the source is not a number")]
    Port {
        /// The port.
        port: String,
    },
    /// It did not answer a replication command.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// It did not answer a query.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A local directory that a copy would write into cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Facts about the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFacts {
    /// System identifier.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u64,
    pub position: Lsn,
    /// All ancestors of its timeline, oldest first.
    pub history: Vec<Ancestor>,
    /// Name of the oldest WAL segment that it still has.
    pub oldest_wal: Option<String>,
    /// The requested slot exists.
    pub has_slot: bool,
}

/// Directories that a copy consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyExtent {
    /// Name of the directory of each tablespace in its location.
    pub directory: String,
    /// Locations of the tablespaces outside PGDATA.
    pub locations: Vec<String>,
}

/// Client for one upstream, with the logins that the whole cluster shares.
#[derive(Debug)]
pub struct UpstreamClient {
    sql: SqlClient,
    replication: ReplicationClient,
}

impl UpstreamClient {
    /// Creates a client for the instance at `address`; `limit` applies to each query.
    pub fn new(
        address: &Address,
        superuser: &Login,
        replication: &Login,
        limit: Duration,
        clock: Clock,
    ) -> Result<Self, UpstreamError> {
        if address.port.parse::<u16>().is_err() {
            return Err(UpstreamError::Port {
                port: address.port.clone(),
            });
        }
        let target = ConnectTarget::Remote(address.clone());
        Ok(Self {
            sql: SqlClient::new(target.clone(), superuser, limit, clock),
            replication: ReplicationClient::new(target, replication.clone(), limit),
        })
    }

    /// Sets the major of the upstream: that of these programs, since no other can be followed.
    #[must_use]
    pub fn for_programs(self, programs: &Arc<Programs>) -> Self {
        Self {
            sql: self.sql.for_programs(programs),
            replication: self.replication.for_programs(programs),
        }
    }

    /// Returns its facts, and whether it has `slot`.
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

    /// Returns the directories that a copy consists of.
    pub async fn extent(&self) -> Result<CopyExtent, UpstreamError> {
        let directory = self.sql.tablespace_directory().await?;
        let locations = self.sql.tablespace_locations().await?;
        Ok(CopyExtent { directory, locations })
    }

    /// Returns the size of a tablespace, or of all databases outside such tablespaces; `None` when it is not reported
    /// in time, as it takes long on a large instance.
    pub async fn bytes(&self, location: Option<&str>) -> Option<u64> {
        size_or_none(self.sql.bytes_of_data(location).await)
    }

    /// Returns the size of the WAL; `None` when it is not reported in time.
    pub async fn bytes_of_wal(&self) -> Option<u64> {
        size_or_none(self.sql.bytes_of_wal().await)
    }

    /// Returns the timeline of the last checkpoint in its control file.
    pub async fn checkpoint_timeline(&self) -> Result<u64, UpstreamError> {
        Ok(self.sql.checkpoint_timeline().await?)
    }

    /// Makes it complete a checkpoint.
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), UpstreamError> {
        Ok(self.sql.checkpoint(limit).await?)
    }

    /// Whether the upstream can see this file, given by an absolute path or one relative to its PGDATA.
    pub async fn can_see(&self, path: &str) -> Result<bool, UpstreamError> {
        Ok(self.sql.can_see(path).await?)
    }
}

fn size_or_none(bytes: Result<u64, SqlError>) -> Option<u64> {
    bytes
        .inspect_err(|error| warn!(error = %Chain(error), "the followed db does not report its size"))
        .ok()
}
