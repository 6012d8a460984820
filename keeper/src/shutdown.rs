//! The orderly shutdown: stops the instance, publishes that the keeper leaves and where its data end, and gives up the
//! liveness key (keeper 3.8, extensions ). What ends a keeper is decided by the loop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use daemon::signals::{ProcessSignal, SignalHandlers};
use daemon::telemetry::unix_seconds;
use model::Stopped as StoppedInfo;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::context::KeeperContext;
use crate::executor::read_stopped;
use crate::liveness::{LivenessKey, renew_forever};
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::supervisor::StopLimits;
use crate::publish::Due;

/// Time limit of each publication during shutdown (extensions ).
const LAST_PUBLISH_LIMIT: Duration = Duration::from_millis(500);

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
            self.stop_instance().await
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
        if let Err(error) = self.stop_instance().await {
            warn!(error = %Chain(&error), "failed to stop postgres");
        }
    }

    /// Stops the instance fast; a second signal makes it an immediate shutdown (keeper W6). The liveness key is renewed
    /// until then.
    async fn stop_instance(&mut self) -> Result<(), InstanceError> {
        let instance = Arc::clone(&self.context.instance);
        let renewals = renew_forever(&mut self.liveness_key);
        tokio::pin!(renewals);
        let mut limits = StopLimits::default();
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
