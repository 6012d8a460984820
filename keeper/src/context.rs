//! What the parts of one keeper share: its uids, its instance, its store, and what publishes and measures. The parts
//! are in files of their own.

use std::sync::Arc;

use base::Clock;
use daemon::health::Heartbeat;
use model::{BootUuid, KeeperUid};
use store::Store;

use crate::args::Config;
use crate::local::state::LocalState;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::problems::Problems;
use crate::publish::Publisher;
use crate::status::KeeperHealth;
use crate::synchronous::SyncReplication;

/// Handles that the parts of one keeper share.
#[derive(Debug, Clone)]
pub struct KeeperContext {
    pub config: Arc<Config>,
    pub me: KeeperUid,
    pub boot: BootUuid,
    pub store: Store,
    pub instance: Arc<Instance>,
    pub publisher: Arc<Publisher>,
    /// Keeps the published state of the instance current.
    pub monitor: Arc<Monitor>,
    /// What is known of synchronous replication on the server.
    pub synchronous: Arc<SyncReplication>,
    pub local: Arc<LocalState>,
    /// Directories outside PGDATA that belong to this keeper.
    pub owned: Arc<OwnedDirs>,
    /// Reads these directories.
    pub walker: Walker,
    /// Changes them.
    pub changes: DataChanges,
    pub metrics: Arc<Metrics>,
    pub problems: Arc<Problems>,
    /// What pages and systemd show.
    pub status: KeeperHealth,
    /// The last progress of the main loop.
    pub heartbeat: Heartbeat,
    pub clock: Clock,
}

impl KeeperContext {
    /// Returns the process id of a server that runs on PGDATA although no `dbstate` accounts for the data and no keeper
    /// of this directory has started it. It is neither stopped nor used (keeper 5.2).
    pub async fn foreign_server(&self) -> Result<Option<i32>, FileError> {
        if self.local.db().uid.is_empty() {
            self.instance.foreign_server().await
        } else {
            Ok(None)
        }
    }
}
