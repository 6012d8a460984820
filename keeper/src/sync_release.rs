//! Makes standbys report their position once they are in sync, so that commits that wait for them are released at once.
//!
//! PostgreSQL releases commits when a synchronous standby reports what it has flushed: after it has received WAL, and
//! otherwise every `wal_receiver_status_interval` (10 s by default). A standby that was listed, or has connected, after the
//! last commits were sent has nothing more to receive while all clients wait for their commits. A small WAL record ends
//! that.

use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use tokio::time::sleep;
use tracing::debug;

use crate::postgres::instance::Instance;
use crate::synchronous::SyncReplication;

/// Interval of querying whether the standbys are in sync: after a change, and the maximum to which it doubles.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(1);

/// Writes a WAL record on a master each time that its synchronous standbys have become in sync.
#[derive(Debug)]
pub struct SyncRelease {
    instance: Arc<Instance>,
    synchronous: Arc<SyncReplication>,
}

impl SyncRelease {
    pub fn new(instance: Arc<Instance>, synchronous: Arc<SyncReplication>) -> Self {
        Self { instance, synchronous }
    }

    /// Never returns.
    pub async fn run(&self) {
        loop {
            self.synchronous.wait_for_missing_standbys().await;
            self.release_when_in_sync().await;
        }
    }

    /// Waits until the listed standbys are in sync, and writes the record; gives up when the names change.
    async fn release_when_in_sync(&self) {
        let Some(mark) = self
            .synchronous
            .mark()
            .filter(|_| self.synchronous.is_synchronous_master())
        else {
            return;
        };
        let mut delay = POLL_MIN;
        while self.synchronous.mark() == Some(mark) {
            match self.instance.sql().wal_senders().await {
                Ok(senders) if self.synchronous.are_in_sync(mark, &senders) => {
                    if let Err(error) = self.instance.sql().write_wal_record().await {
                        debug!(error = %Chain(&error), "could not write a WAL record for the synchronous standbys");
                    }
                    return;
                }
                Ok(_) => {}
                Err(error) => debug!(error = %Chain(&error), "could not query the synchronous standbys"),
            }
            sleep(delay).await;
            delay = (delay * 2).min(POLL_MAX);
        }
    }
}
