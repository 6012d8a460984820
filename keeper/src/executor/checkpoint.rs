//! The checkpoint that a switchover orders before the stop (extensions X-2), so that the shutdown has little left to write.
//! It may take minutes, so it runs beside the rounds. When it is due is decided by `reconcile`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Chain;
use model::{DbUid, Lsn, OrderKind, strip_stolon_name};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::context::KeeperContext;
use crate::postgres::client::sql::WalSender;
use crate::postgres::instance::Instance;
use crate::publish::{Due, Publisher};
use crate::reconcile::{ProcessState, StoredOrder};

/// Time limit of the checkpoint, and then of watching the standbys: the longest lease of a request.
const LIMIT: Duration = Duration::from_secs(600);
/// Interval of looking at the standbys.
const POLL: Duration = Duration::from_millis(50);
/// How long a standby may take to receive the rest before it is published that it has not.
const RECEIVE_TIME: Duration = Duration::from_secs(1);

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

    /// Ends what is left of it once there is no order to make one. It begins again with the next such order.
    pub(super) fn end_without_order(&mut self, order: &StoredOrder, process: &mut ProcessState) {
        let is_ordered = matches!(order, StoredOrder::Usable(order) if order.order == OrderKind::Checkpoint);
        if !is_ordered && self.running.is_some() {
            self.abort();
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
                    info!(switchover, "the checkpoint before the switchover is complete");
                    // It ends earlier, with the order.
                    let _ = timeout(LIMIT, publish_receipt(&instance, &publisher, &switchover)).await;
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

/// Publishes that the checkpoint is complete, and which standbys have received the WAL up to its end. A shutdown waits for
/// each that is connected, and the new master is one that has everything.
async fn publish_receipt(instance: &Instance, publisher: &Publisher, switchover: &str) {
    let end = end_of_wal(instance).await;
    let mut published = None;
    let mut polls_left = RECEIVE_TIME.as_millis() / POLL.as_millis();
    loop {
        match instance.sql().wal_senders().await {
            Ok(senders) => {
                let received = received(&senders, end);
                let is_complete = !received.is_empty() && received.values().all(|received| *received);
                if (is_complete || polls_left == 0) && published.as_ref() != Some(&received) {
                    published = Some(received.clone());
                    publisher.change(Due::Now, |report| {
                        switchover.clone_into(&mut report.checkpointed);
                        report.checkpoint_received = received;
                    });
                }
            }
            Err(error) => debug!(error = %Chain(&error), "cannot read the connected standbys"),
        }
        polls_left = polls_left.saturating_sub(1);
        sleep(POLL).await;
    }
}

/// Returns the end of the WAL.
async fn end_of_wal(instance: &Instance) -> Lsn {
    loop {
        match instance.sql().position().await.map(|found| found.position) {
            Ok(Some(end)) => return end,
            Ok(None) => {}
            Err(error) => debug!(error = %Chain(&error), "cannot read the end of the WAL"),
        }
        sleep(POLL).await;
    }
}

/// Returns for each connected standby of the cluster whether all its WAL senders have sent up to here, and it has flushed
/// that. A base backup is no standby yet.
fn received(senders: &[WalSender], end: Lsn) -> BTreeMap<DbUid, bool> {
    let mut found = BTreeMap::new();
    for sender in senders
        .iter()
        .filter(|sender| sender.is_streaming || sender.flushed.is_some())
    {
        if let Some(db) = strip_stolon_name(&sender.application_name) {
            let has_received = sender.flushed.is_some_and(|flushed| flushed >= end);
            *found.entry(DbUid::from(db)).or_insert(true) &= has_received;
        }
    }
    found
}

impl Drop for OrderedCheckpoint {
    fn drop(&mut self) {
        self.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(name: &str, is_streaming: bool, flushed: Option<u64>) -> WalSender {
        WalSender {
            application_name: name.to_owned(),
            is_sync: false,
            is_streaming,
            flushed: flushed.map(Lsn),
            flush_lag: None,
            replay_lag: None,
            replay_seconds: 0.0,
        }
    }

    #[test]
    fn a_standby_has_received_the_checkpoint_when_all_its_senders_say_so() {
        let senders = [
            sender("stolon_a", true, Some(100)),
            sender("stolon_b", true, Some(99)),
            sender("stolon_c", false, Some(50)), // it catches up
            sender("stolon_d", true, Some(100)),
            sender("stolon_d", true, Some(70)), // an earlier connection of it
            sender("stolon_e", true, None),
            sender("stolon_f", false, None), // a base backup
            sender("pg_receivewal", true, Some(1)),
        ];
        let expected = [("a", true), ("b", false), ("c", false), ("d", false), ("e", false)];
        let expected = expected.map(|(db, has)| (DbUid::from(db), has));
        assert_eq!(received(&senders, Lsn(100)), BTreeMap::from(expected));
    }
}
