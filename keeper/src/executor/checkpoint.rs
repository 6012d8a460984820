//! The checkpoint that a switchover orders before the stop (extensions X-2), so that the shutdown has little left to write.
//! It may take minutes, so it runs beside the rounds. When it is due is decided by `reconcile`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Chain;
use model::stolon_name;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::context::KeeperContext;
use crate::postgres::client::sql::WalSender;
use crate::postgres::instance::Instance;
use crate::publish::{Due, Publisher};
use crate::reconcile::ProcessState;

/// Time limit of the checkpoint, and then of the wait for a standby: the longest lease of a request.
const LIMIT: Duration = Duration::from_secs(600);
/// Interval of looking for a standby.
const POLL: Duration = Duration::from_millis(200);

/// Makes the checkpoint that an order asks for.
#[derive(Debug)]
pub(super) struct OrderedCheckpoint {
    instance: Arc<Instance>,
    publisher: Arc<Publisher>,
    running: Option<JoinHandle<()>>,
    has_failed: Arc<AtomicBool>,
}

impl OrderedCheckpoint {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            instance: Arc::clone(&context.instance),
            publisher: Arc::clone(&context.publisher),
            running: None,
            has_failed: Arc::default(),
        }
    }

    /// Makes a failed checkpoint due again.
    pub(super) fn retry_failed(&self, process: &mut ProcessState) {
        if self.has_failed.swap(false, Ordering::Relaxed) {
            process.checkpoint_for = None;
        }
    }

    /// Begins the checkpoint for this switchover, in place of one that may be running for an earlier one. Its end is
    /// published.
    pub(super) fn begin(&mut self, switchover: &str, process: &mut ProcessState) {
        process.checkpoint_for = Some(switchover.to_owned());
        self.abort();
        let (instance, publisher) = (Arc::clone(&self.instance), Arc::clone(&self.publisher));
        let has_failed = Arc::clone(&self.has_failed);
        let switchover = switchover.to_owned();
        self.running = Some(spawn_local(async move {
            match instance.sql().checkpoint(LIMIT).await {
                Ok(()) => {
                    // A standby reconnects up to wal_retrieve_retry_interval, 5 s, after a restart of this server. A stop
                    // before that leaves nobody who has received everything.
                    if timeout(LIMIT, wait_for_standby(&instance)).await.is_err() {
                        warn!(switchover, "no standby receives WAL, so the switchover goes no further");
                        return;
                    }
                    info!(switchover, "the checkpoint before the switchover is complete");
                    publisher.change(Due::Now, |report| report.checkpointed = switchover);
                }
                Err(error) => {
                    warn!(switchover, error = %Chain(&error), "the checkpoint before the switchover failed");
                    has_failed.store(true, Ordering::Relaxed);
                }
            }
        }));
    }

    fn abort(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

/// Returns once a standby of the cluster streams.
async fn wait_for_standby(instance: &Instance) {
    loop {
        match instance.sql().wal_senders().await {
            Ok(senders) if senders.iter().any(is_streaming_standby) => return,
            Ok(_) => {}
            Err(error) => debug!(error = %Chain(&error), "cannot read the connected standbys"),
        }
        sleep(POLL).await;
    }
}

fn is_streaming_standby(sender: &WalSender) -> bool {
    sender.is_streaming && sender.application_name.starts_with(&stolon_name(""))
}

impl Drop for OrderedCheckpoint {
    fn drop(&mut self) {
        self.abort();
    }
}
