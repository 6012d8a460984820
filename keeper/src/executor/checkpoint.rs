//! The checkpoint that a switchover orders before the stop (extensions X-2), so that the shutdown has little left to write.
//! It may take minutes, so it runs beside the rounds. When it is due is decided by `reconcile`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Chain, Clock};
use model::OrderKind;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::context::KeeperContext;
use crate::executor::checkpoint_receipt::publish_receipt;
use crate::postgres::instance::Instance;
use crate::publish::{Due, Publisher};
use crate::reconcile::{ProcessState, StoredOrder};

/// Time limit of the checkpoint, and then of watching the standbys: the longest lease of a request.
const LIMIT: Duration = Duration::from_secs(600);

/// Makes the checkpoint that an order asks for.
#[derive(Debug)]
pub(super) struct OrderedCheckpoint {
    clock: Clock,
    instance: Arc<Instance>,
    publisher: Arc<Publisher>,
    running: Option<JoinHandle<()>>,
    has_failed: Arc<AtomicBool>,
}

impl OrderedCheckpoint {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            clock: context.clock.clone(),
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

    /// Aborts the checkpoint, or the watching of standbys after it, when no checkpoint is ordered any more, and withdraws what
    /// was published: the next order, of a new leader for the same switchover too, begins it again.
    pub(super) fn end_without_order(&mut self, order: &StoredOrder, process: &mut ProcessState) {
        let is_ordered = matches!(order, StoredOrder::Usable(order) if order.order == OrderKind::Checkpoint);
        if !is_ordered && self.running.is_some() {
            self.abort();
            process.checkpoint_for = None;
            self.withdraw();
        }
    }

    /// Standbys may have stopped receiving since that was published.
    fn withdraw(&self) {
        self.publisher.change(Due::Now, |report| {
            report.checkpointed.clear();
            report.checkpoint_received.clear();
        });
    }

    /// Begins the checkpoint for this switchover, in place of one that may be running for an earlier one. Its end is
    /// published.
    pub(super) fn begin(&mut self, switchover: &str, process: &mut ProcessState) {
        process.checkpoint_for = Some(switchover.to_owned());
        if self.running.is_some() {
            self.abort();
            self.withdraw();
        }
        let (instance, publisher) = (Arc::clone(&self.instance), Arc::clone(&self.publisher));
        let (clock, has_failed) = (self.clock.clone(), Arc::clone(&self.has_failed));
        let switchover = switchover.to_owned();
        self.running = Some(spawn_local(async move {
            match instance.sql().checkpoint(LIMIT).await {
                Ok(()) => {
                    info!(switchover, "the checkpoint before the switchover is complete");
                    // It never returns: `end_without_order` aborts it, and the limit is a safeguard.
                    let _ = timeout(LIMIT, publish_receipt(&clock, &instance, &publisher, &switchover)).await;
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

impl Drop for OrderedCheckpoint {
    fn drop(&mut self) {
        self.abort();
    }
}
