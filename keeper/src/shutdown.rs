//! The orderly shutdown: stops the instance, publishes that the keeper leaves and where its data end, and gives up the
//! liveness key (keeper 3.8, extensions ). What ends a keeper is decided by the loop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use daemon::signals::{ProcessSignal, SignalHandlers};
use daemon::telemetry::unix_seconds;
use model::Stopped as StoppedInfo;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::cluster_data::cluster_data_state;
use crate::context::KeeperContext;
use crate::executor::read_stopped;
use crate::liveness::{LivenessKey, renew_forever};
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::supervisor::StopLimits;
use crate::publish::Due;
use crate::reconcile::{ClusterDataState, lists_as_synchronous};

/// Time limit of each publication during shutdown (extensions ).
const LAST_PUBLISH_LIMIT: Duration = Duration::from_millis(500);

/// Time limit for the sentinel and the master to replace a synchronous standby that leaves (synchronous SY-13).
const REPLACE_LIMIT: Duration = Duration::from_secs(2);
/// Interval of reading whether they have.
const REPLACE_POLL: Duration = Duration::from_millis(50);

/// Kind of shutdown (keeper 3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownKind {
    /// SIGTERM: the keeper leaves, published as `leaving`.
    Leaving,
    /// SIGINT: the keeper is expected to be started again.
    Interrupted,
    /// Another process with the same uid has taken over.
    Replaced,
}

impl ShutdownKind {
    /// Returns the shutdown that this signal causes; `None` if it does not end a keeper.
    pub fn caused_by(signal: ProcessSignal) -> Option<Self> {
        match signal {
            ProcessSignal::Terminate => Some(Self::Leaving),
            ProcessSignal::Interrupt => Some(Self::Interrupted),
            _ => None,
        }
    }

    fn signal(self) -> &'static str {
        match self {
            Self::Leaving => "SIGTERM",
            Self::Interrupted => "SIGINT",
            Self::Replaced => "none",
        }
    }
}

/// Waits for a signal that ends the keeper; ignores others.
pub async fn next_shutdown(signals: &mut SignalHandlers) -> ShutdownKind {
    loop {
        if let Some(shutdown) = ShutdownKind::caused_by(signals.next().await) {
            return shutdown;
        }
    }
}

/// The orderly shutdown of one keeper.
#[derive(Debug)]
pub struct Shutdown {
    context: KeeperContext,
    liveness_key: LivenessKey,
    signals: SignalHandlers,
}

impl Shutdown {
    pub fn new(context: KeeperContext, liveness_key: LivenessKey, signals: SignalHandlers) -> Self {
        Self {
            context,
            liveness_key,
            signals,
        }
    }

    /// Stops the instance, publishes where its data end, and only then returns. `round_aborted` ends the round that may
    /// be running; nothing is stopped before.
    pub async fn run(mut self, shutdown: ShutdownKind, round_aborted: impl Future<Output = ()>) {
        let context = self.context.clone();
        context.metrics.shutdown.set(unix_seconds(context.clock.wall()));
        info!(signal = shutdown.signal(), "stopping");
        let stop = async {
            round_aborted.await;
            let is_urgent = shutdown == ShutdownKind::Leaving && self.wait_until_not_needed().await;
            self.stop_instance(is_urgent).await
        };
        // In parallel: a slow store must not delay the shutdown, and a slow shutdown not the election.
        let ((), stop) = tokio::join!(publish_leaving(&context, shutdown), stop);
        let is_down = stop
            .inspect_err(|error| warn!(error = %Chain(error), "failed to stop postgres"))
            .is_ok();
        if is_down && shutdown != ShutdownKind::Replaced {
            publish_stopped(&context).await;
        }
        // After SIGINT the liveness key expires on its own (extensions ).
        if shutdown == ShutdownKind::Leaving
            && let Ok(Err(error)) = timeout(LAST_PUBLISH_LIMIT, self.liveness_key.revoke(LAST_PUBLISH_LIMIT)).await
        {
            debug!(error = %Chain(&error), "could not revoke the liveness key");
        }
    }

    /// Stops the instance and publishes nothing.
    pub async fn stop_without_publishing(mut self) {
        if let Err(error) = self.stop_instance(false).await {
            warn!(error = %Chain(&error), "failed to stop postgres");
        }
    }

    /// Waits until commits on the master no longer wait for this standby, which its sentinel replaces as soon as it
    /// leaves, so that they do not stall meanwhile (synchronous SY-13). Returns true when a second signal ends the wait.
    async fn wait_until_not_needed(&mut self) -> bool {
        let context = self.context.clone();
        let not_needed = timeout(REPLACE_LIMIT, async {
            while is_listed_as_synchronous(&context).await {
                sleep(REPLACE_POLL).await;
            }
        });
        tokio::select! {
            ended = not_needed => {
                if ended.is_err() {
                    warn!(limit = ?REPLACE_LIMIT, "the cluster data still list this synchronous standby, stopping anyway");
                }
                false
            }
            _ = next_shutdown(&mut self.signals) => true,
            () = renew_forever(&mut self.liveness_key) => false,
        }
    }

    /// Stops the instance fast; a second signal makes it an immediate shutdown (keeper W6), as does `is_urgent`. The
    /// liveness key is renewed until then.
    async fn stop_instance(&mut self, is_urgent: bool) -> Result<(), InstanceError> {
        // What no keeper has started is not stopped (keeper 5.2).
        if let Ok(Some(_)) = self.context.foreign_server().await {
            return Ok(());
        }
        let instance = Arc::clone(&self.context.instance);
        let renewals = renew_forever(&mut self.liveness_key);
        tokio::pin!(renewals);
        let mut limits = StopLimits::default();
        if is_urgent {
            warn!("second signal, stopping postgres at once");
            limits.fast = Duration::ZERO;
        }
        loop {
            tokio::select! {
                stopped = instance.stop(limits) => return stopped.map(drop),
                _ = next_shutdown(&mut self.signals) => {
                    warn!("second signal, stopping postgres at once");
                    limits.fast = Duration::ZERO;
                }
                () = &mut renewals => {}
            }
        }
    }
}

/// Whether the cluster data list our db among those that commits on the master wait for. If they cannot be read, nothing
/// is gained by waiting for a change of them.
async fn is_listed_as_synchronous(context: &KeeperContext) -> bool {
    let db = context.local.db().uid;
    if db.is_empty() {
        return false;
    }
    let entry = context.store.get(&context.store.keys().cluster_data()).await;
    match entry.map(|entry| cluster_data_state(entry.as_ref())) {
        Ok(ClusterDataState::Valid(checked)) => lists_as_synchronous(&checked, &db),
        Ok(_) => false,
        Err(error) => {
            debug!(error = %Chain(&error), "could not read whether the cluster data list this synchronous standby");
            false
        }
    }
}

/// Publishes that the keeper leaves, if it does: the sentinel's timers for a failed master start now, however long the
/// shutdown takes.
async fn publish_leaving(context: &KeeperContext, shutdown: ShutdownKind) {
    if shutdown != ShutdownKind::Leaving {
        return;
    }
    context.publisher.change(Due::Later, |report| {
        report.leaving = true;
        if let Some(state) = &mut report.state {
            state.healthy = false;
        }
    });
    context.publisher.publish_within(LAST_PUBLISH_LIMIT).await;
}

/// Publishes where the data of a stopped instance end. Incomplete data have no position to publish.
async fn publish_stopped(context: &KeeperContext) {
    let (db, instance) = (context.local.db(), &context.instance);
    let is_complete = !db.uid.is_empty() && !db.initializing;
    if !is_complete || !instance.is_initialised().await.unwrap_or(false) {
        return;
    }
    let stopped = read_stopped(instance).await.unwrap_or_else(|error| {
        warn!(error = %Chain(&error), "could not find out how postgres was stopped");
        StoppedInfo::default()
    });
    info!(
        clean = stopped.clean,
        timelineID = stopped.timeline_id,
        "postgres is stopped"
    );
    context.publisher.change(Due::Later, |report| {
        report.stopped = Some(stopped);
        if let Some(state) = &mut report.state {
            state.healthy = false;
        }
    });
    context.publisher.publish_within(LAST_PUBLISH_LIMIT).await;
}
