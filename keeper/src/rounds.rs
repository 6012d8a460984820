//! Runs rounds of the reconciler one at a time beside the loop, and aborts one whose result is no longer wanted. When a
//! round is due is left to `schedule`.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::cluster_data::WatchedClusterData;
use crate::context::KeeperContext;
use crate::reconcile::{Desired, is_superseded};
use crate::reconciler::{Reconciler, RoundOutcome, Trigger};

/// Time limit for the end of an aborted round.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// The reconciler, and its running round.
#[derive(Debug)]
pub struct Rounds {
    /// `None` while a round runs, which has it.
    reconciler: Option<Reconciler>,
    running: Option<RunningRound>,
    /// The desired state for which a long step is running.
    in_progress: Arc<Mutex<Option<Desired>>>,
    /// The cluster data of the last watch event.
    latest: Arc<Mutex<Option<WatchedClusterData>>>,
    /// A password may have changed: the next round writes the files that contain one.
    invalidate_files: bool,
}

#[derive(Debug)]
struct RunningRound {
    task: JoinHandle<(Reconciler, Option<RoundOutcome>)>,
    abort: Option<oneshot::Sender<()>>,
}

impl Rounds {
    pub fn new(context: &KeeperContext) -> Self {
        let (in_progress, latest) = (Arc::default(), Arc::default());
        Self {
            reconciler: Some(Reconciler::new(context, Arc::clone(&in_progress), Arc::clone(&latest))),
            running: None,
            in_progress,
            latest,
            invalidate_files: false,
        }
    }

    /// Whether a round is running.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Makes the next round write all generated files.
    pub fn invalidate_files(&mut self) {
        self.invalidate_files = true;
    }

    /// Keeps the cluster data of a watch event for the next round.
    pub fn set_latest(&self, cluster_data: Option<WatchedClusterData>) {
        *self
            .latest
            .lock()
            .expect("no thread panics while holding the cluster data") = cluster_data;
    }

    /// Begins a round. Must not be called while one is running.
    pub fn begin(&mut self, trigger: Trigger) {
        let mut reconciler = self.reconciler.take().expect("one round at a time");
        if std::mem::take(&mut self.invalidate_files) {
            reconciler.invalidate_files();
        }
        let (abort, aborted) = oneshot::channel::<()>();
        let task = spawn_local(async move {
            let outcome = tokio::select! {
                outcome = Box::pin(reconciler.reconcile(trigger)) => Some(outcome),
                _ = aborted => None,
            };
            (reconciler, outcome)
        });
        self.running = Some(RunningRound {
            task,
            abort: Some(abort),
        });
    }

    /// Waits for the end of the running round; never returns if there is none. Returns `None` for an aborted one.
    /// Cancel-safe.
    pub async fn ended(&mut self) -> Option<RoundOutcome> {
        let Some(running) = &mut self.running else {
            return pending().await;
        };
        let (reconciler, outcome) = (&mut running.task).await.expect("a round does not panic");
        self.running = None;
        self.reconciler = Some(reconciler);
        outcome
    }

    /// Aborts the running round if it works on something that is not desired any more.
    pub fn abort_if_superseded(&mut self, desired: &Desired) {
        let in_progress = self.desired_in_progress();
        if let Some(running) = &mut self.running
            && in_progress.is_some_and(|before| is_superseded(&before, desired))
            && running.abort.take().is_some()
        {
            info!("desired state changed, aborting the current round");
        }
    }

    /// Aborts the running round, and waits for its end.
    pub async fn abort(self) {
        let Some(running) = self.running else { return };
        drop(running.abort);
        if timeout(ABORT_LIMIT, running.task).await.is_err() {
            warn!(limit = ?ABORT_LIMIT, "a round does not end");
        }
    }

    fn desired_in_progress(&self) -> Option<Desired> {
        self.in_progress
            .lock()
            .expect("no thread panics while holding the desired state")
            .clone()
    }
}
