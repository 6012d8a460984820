//! Publishes the sentinel's info once per sleepInterval (sentinel M-1, store S-20). When there is something to publish
//! is left to the loop.

use std::time::Duration;

use base::Chain;
use model::{SentinelInfo, SentinelUid, to_compact};
use store::{Store, info_ttl};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{debug, error};

/// The running task.
#[derive(Debug)]
pub(crate) struct SentinelInfoPublisher {
    interval: watch::Sender<Option<Duration>>,
    task: JoinHandle<()>,
}

impl SentinelInfoPublisher {
    /// Starts the task, which publishes nothing before an interval is set. Must be called within a tokio runtime.
    pub(crate) fn start(store: Store, uid: SentinelUid) -> Self {
        let (interval, intervals) = watch::channel(None);
        Self {
            interval,
            task: tokio::spawn(publish_info(store, uid, intervals)),
        }
    }

    /// Sets the interval; a changed one causes a publication at once. `None`: nothing is published, because there is no
    /// valid cluster data.
    pub(crate) fn set_interval(&self, interval: Option<Duration>) {
        self.interval.send_if_modified(|current| {
            let is_new = *current != interval;
            *current = interval;
            is_new
        });
    }

    /// Ends the task. The info stays until its lease expires.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

async fn publish_info(store: Store, uid: SentinelUid, mut intervals: watch::Receiver<Option<Duration>>) {
    let key = store.keys().sentinel_info(uid.as_str());
    let value = to_compact(&SentinelInfo { uid });
    let mut failing = false;
    loop {
        let interval = *intervals.borrow_and_update();
        if let Some(interval) = interval {
            let ttl = info_ttl(interval.saturating_mul(2));
            match store.put_leased(&key, value.as_str(), ttl).await {
                Ok(_) => failing = false,
                Err(error) if failing => debug!(error = %Chain(&error), "cannot update sentinel info"),
                Err(error) => {
                    error!(error = %Chain(&error), "cannot update sentinel info");
                    failing = true;
                }
            }
        }
        let interval_elapsed = async {
            match interval {
                Some(interval) => sleep(interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interval_elapsed => {}
            changed = intervals.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
