//! Collects the state of the instance (keeper 3.5). What of it is published, and under which names, is the loop's to
//! say.

use std::path::Path;

use control::model::Lsn;
use control::telemetry::Chain;
use tracing::warn;

use crate::postgres::conf::{self, Parameters};
use crate::postgres::files::{self, FileError, OldestWal};
use crate::postgres::history::{self, Ancestor};
use crate::postgres::instance::Instance;
use crate::postgres::replication::ReplicationError;
use crate::postgres::sql::{SqlError, Standby};

/// How many ancestors of the timeline are published (keeper section 0).
const HISTORY_ENTRIES: usize = 2;

/// What the instance is now; what could not be learned stands as absent.
#[derive(Debug, Default)]
pub struct Observation {
    /// Every probe up to the history succeeded in this same collection (keeper I11).
    pub is_healthy: bool,
    /// The configured parameters, less the managed ones.
    pub parameters: Parameters,
    /// Application names of the standbys in sync; `None` when the collection did not get that far.
    pub in_sync: Option<Vec<String>>,
    /// System identifier.
    pub system_id: Option<u64>,
    /// Timeline.
    pub timeline: Option<u64>,
    /// Position: flushed on a master, received or replayed on a standby.
    pub position: Option<Lsn>,
    /// The last two ancestors of the timeline.
    pub history: Vec<Ancestor>,
    /// Name of the oldest WAL segment, if segments are of 16 MiB.
    pub oldest_wal: Option<String>,
    /// What a standby says of itself; `None` on a master, or when it did not say.
    pub standby: Option<Standby>,
    /// The step that failed and ended the collection. `None` beside unhealthy: there is no database cluster.
    pub failed: Option<ObserveError>,
}

/// The step of a collection that failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// It could not be found out whether there is a database cluster.
    #[error("look at the data directory")]
    Data(#[source] FileError),
    /// The configured parameters.
    #[error("cannot get configured pg parameters")]
    Parameters(#[source] SqlError),
    /// The standbys in sync.
    #[error("error getting pg state")]
    Sync(#[source] SqlError),
    /// Identity or history.
    #[error("error getting pg state")]
    Identity(#[source] ReplicationError),
}

impl Instance {
    /// Collects the state of the instance. One collection at a time.
    pub async fn observe(&self) -> Observation {
        let mut seen = Observation::default();
        match self.is_initialised() {
            Ok(true) => {}
            Ok(false) => return seen,
            Err(source) => {
                seen.failed = Some(ObserveError::Data(source));
                return seen;
            }
        }
        match self.probe(&mut seen).await {
            Ok(()) => {
                seen.oldest_wal = oldest_wal(&self.config().data);
                // What only our own readers know does not decide about health.
                seen.standby = self.observer().standby().await.ok().flatten();
                seen.is_healthy = true;
            }
            Err(failed) => seen.failed = Some(failed),
        }
        seen
    }

    async fn probe(&self, seen: &mut Observation) -> Result<(), ObserveError> {
        let configured = self.observer().configured().await.map_err(ObserveError::Parameters)?;
        seen.parameters = conf::published(&configured);
        seen.in_sync = Some(self.observer().in_sync().await.map_err(ObserveError::Sync)?);
        let replication = self.replication();
        let identity = replication.identify().await.map_err(ObserveError::Identity)?;
        seen.system_id = Some(identity.system_id);
        seen.timeline = Some(identity.timeline);
        seen.position = Some(identity.position);
        let history = replication
            .history(identity.timeline)
            .await
            .map_err(ObserveError::Identity)?;
        seen.history = history::last(&history, HISTORY_ENTRIES).to_vec();
        Ok(())
    }
}

fn oldest_wal(data: &Path) -> Option<String> {
    match files::oldest_wal(data) {
        Ok(OldestWal::File(name)) => Some(name),
        Ok(OldestWal::NoneThere) => None,
        Ok(OldestWal::OtherSize { bytes }) => {
            // Each collection would say it again, and it never changes.
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| warn!(bytes, "WAL segments are not of 16 MiB: the oldest one is not reported"));
            None
        }
        Err(failed) => {
            warn!(error = %Chain(&failed), "could not find the oldest WAL segment");
            None
        }
    }
}
