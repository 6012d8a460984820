//! The keeper's loop: waits for a trigger, starts a round, and renews the liveness key meanwhile. What a round does is
//! in `reconciler`, how the keeper ends in `shutdown`.

use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use daemon::signals::{ProcessSignal, SignalHandlers};
use daemon::systemd;
use model::{KeeperInfo, KeeperUid, LIVENESS_PERIOD, from_slice};
use store::{Changes, KeyChange, KeyRange, Watch};
use tokio::task::{JoinError, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use crate::cluster_data::{WatchedClusterData, cluster_data_state};
use crate::context::KeeperContext;
use crate::liveness::LivenessKey;
use crate::postgres::config::credentials::Secret;
use crate::postgres::server::postmaster::ChildStatus;
use crate::publish::Due;
use crate::reconcile::{Desired, Goal, TargetRole, Upstream, desired_state, is_only_configuration};
use crate::reconciler::RoundOutcome;
use crate::rounds::Rounds;
use crate::schedule::{COALESCE_DELAY, Schedule};
use crate::shutdown::{Shutdown, ShutdownKind};
use crate::status::DesiredSource;
use crate::sync_marker::SyncMarker;
use crate::sync_release::SyncRelease;

/// A sleepInterval of zero is valid; it must not cause a busy loop.
const SLEEP_MIN: Duration = Duration::from_millis(100);

/// The loop and its state.
#[derive(Debug)]
pub struct KeeperLoop {
    context: KeeperContext,
    signals: SignalHandlers,
    liveness_key: LivenessKey,
    rounds: Rounds,
    schedule: Schedule,
    sleep_interval: Duration,
    /// The desired state of the last completed round.
    last_desired: Option<Desired>,
    /// When the running round began.
    round_began: Boottime,
    /// The keeper of the followed instance, whose info is watched (extensions X-1.7).
    upstream: Option<KeeperUid>,
}

impl KeeperLoop {
    /// Makes the first round due now.
    pub fn new(
        context: KeeperContext,
        signals: SignalHandlers,
        liveness_key: LivenessKey,
        sleep_interval: Duration,
    ) -> Self {
        Self {
            rounds: Rounds::new(&context),
            schedule: Schedule::new(context.clock.now()),
            round_began: context.clock.now(),
            context,
            signals,
            liveness_key,
            sleep_interval,
            last_desired: None,
            upstream: None,
        }
    }

    /// Runs until something ends the keeper, shuts down, and returns how.
    pub async fn run(mut self) -> ShutdownKind {
        let mut publisher = spawn_local({
            let publisher = Arc::clone(&self.context.publisher);
            async move { publisher.run().await }
        });
        let mut monitor = spawn_local({
            let monitor = Arc::clone(&self.context.monitor);
            async move { monitor.run().await }
        });
        let marker = SyncMarker::new(
            Arc::clone(&self.context.instance),
            Arc::clone(&self.context.synchronous),
        );
        let release = SyncRelease::new(
            Arc::clone(&self.context.instance),
            Arc::clone(&self.context.synchronous),
        );
        let mut marker = spawn_local(async move {
            tokio::join!(marker.run(), release.run());
        });
        let kind = tokio::select! {
            kind = self.reconcile_loop() => kind,
            ended = &mut publisher => propagate_panic(ended),
            ended = &mut monitor => propagate_panic(ended),
            ended = &mut marker => propagate_panic(ended),
        };
        self.context.status.set_stopping();
        systemd::report_stopping();
        // From here on only the shutdown acts and publishes.
        publisher.abort();
        monitor.abort();
        marker.abort();
        let shutdown = Shutdown::new(self.context, self.liveness_key, self.signals);
        Box::pin(shutdown.run(kind, self.rounds.abort())).await;
        kind
    }

    /// Runs rounds until something ends the keeper.
    async fn reconcile_loop(&mut self) -> ShutdownKind {
        let mut watch = self.watch();
        let mut child_status = self.context.instance.child_status();
        let synchronous = Arc::clone(&self.context.synchronous);
        let mut renewal = interval(LIVENESS_PERIOD);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.context.status.set_running();
        loop {
            let now = self.context.clock.now();
            if !self.rounds.is_running() && self.schedule.due() <= now {
                self.round_began = now;
                self.rounds.begin(self.schedule.begin(now));
            }
            // One round at a time; while one runs, signals, the watch and the liveness key are still served.
            let delay = self.schedule.due().since(self.context.clock.now());
            let is_idle = !self.rounds.is_running();
            tokio::select! {
                signal = self.signals.next() => match ShutdownKind::caused_by(signal) {
                    Some(shutdown) => return shutdown,
                    None => self.on_signal(signal),
                },
                changes = watch.changed() => self.on_store_changes(&changes),
                _ = child_status.changed() => {
                    let status = *child_status.borrow_and_update();
                    self.on_child_status(status);
                }
                outcome = self.rounds.ended() => {
                    self.on_round_ended(outcome);
                    if self.update_watched_upstream() {
                        watch = self.watch();
                    }
                }
                () = synchronous.wait_until_logins_allowable() => self.trigger_after(Duration::ZERO),
                _ = renewal.tick() => {
                    self.context.heartbeat.beat();
                    if !self.renew_liveness() {
                        return ShutdownKind::Replaced;
                    }
                }
                () = sleep(delay), if is_idle => {}
            }
        }
    }

    /// Handles SIGHUP: the next round writes the files that contain passwords, and refused logins are tried again.
    fn on_signal(&mut self, signal: ProcessSignal) {
        if signal != ProcessSignal::Hangup {
            return;
        }
        info!("SIGHUP, reading the password files again");
        self.context.instance.config().passwords().for_each(Secret::read_again);
        self.rounds.invalidate_files();
        self.context.monitor.request_logins();
        self.trigger_after(Duration::ZERO);
    }

    fn on_child_status(&mut self, status: ChildStatus) {
        let now = self.context.clock.now();
        match status {
            ChildStatus::Running { .. } => self.schedule.server_started(now),
            ChildStatus::Ended { pid, status } => {
                if !self.rounds.is_running() {
                    let status = status.map(|status| status.to_string()).unwrap_or_default();
                    warn!(pid, %status, "postgres has ended");
                }
                self.schedule.server_ended(now, self.sleep_interval);
                self.context.status.server_ended();
            }
            ChildStatus::NotStarted => {}
        }
    }

    fn on_round_ended(&mut self, outcome: Option<RoundOutcome>) {
        let now = self.context.clock.now();
        let result = outcome.as_ref().map_or("aborted", |outcome| outcome.result.label());
        self.context.metrics.count_round(result, now.since(self.round_began));
        let Some(outcome) = outcome else {
            return self.schedule.round_aborted(now);
        };
        if let Some(spec) = &outcome.spec {
            self.set_sleep_interval(effective_sleep_interval(spec.sleep_interval));
            self.context.publisher.set_fail_interval(spec.fail_interval);
        }
        self.schedule
            .end(now, &outcome.result, &outcome.desired, self.sleep_interval);
        self.last_desired = Some(outcome.desired);
    }

    fn set_sleep_interval(&mut self, sleep_interval: Duration) {
        if sleep_interval == self.sleep_interval {
            return;
        }
        self.sleep_interval = sleep_interval;
        self.context.publisher.set_interval(sleep_interval);
        self.context.monitor.set_interval(sleep_interval);
        self.context.metrics.set_sleep_interval(sleep_interval);
    }

    /// Handles changes in the store. A change triggers a round; its contents only decide whether it is delayed or
    /// aborts the running one (store 7).
    fn on_store_changes(&mut self, changes: &Changes) {
        let keys = self.context.store.keys().clone();
        if changes.gap {
            self.trigger_after(Duration::ZERO);
            self.check_upstream();
        }
        if changes.keys.contains_key(&keys.order(self.context.me.as_str())) {
            self.trigger_after(Duration::ZERO);
        }
        let cluster_data = changes.keys.get(&keys.cluster_data());
        if changes.gap || cluster_data.is_some_and(|change| change.entry.is_none()) {
            // Publish again: a sentinel that finds no cluster data looks for keepers that belonged to a cluster.
            self.context.publisher.change(Due::Now, |_| {});
        }
        if let Some(change) = cluster_data {
            self.on_cluster_data(change);
        }
        if let Some(upstream) = &self.upstream
            && let Some(change) = changes.keys.get(&keys.keeper_info(upstream.as_str()))
            && change
                .entry
                .as_ref()
                .is_some_and(|entry| reports_leaving_or_stopped(&entry.value))
        {
            self.context.monitor.fast_poll();
        }
    }

    fn on_cluster_data(&mut self, change: &KeyChange) {
        let entry = change.entry.as_ref();
        let state = cluster_data_state(entry);
        let desired = desired_state(&state, &self.context.me, &self.context.boot);
        let source = DesiredSource {
            revision: change.revision,
            sent: None,
        };
        self.context.status.set_desired(&desired, source);
        let watched = entry.cloned().map(|entry| WatchedClusterData { entry, state });
        self.rounds.set_latest(watched);
        if self.rounds.is_running() {
            self.rounds.abort_if_superseded(&desired);
            return self.trigger_after(Duration::ZERO);
        }
        match &self.last_desired {
            Some(settled) if *settled == desired => {}
            Some(settled) if is_only_configuration(settled, &desired) => self.trigger_after(COALESCE_DELAY),
            _ => self.trigger_after(Duration::ZERO),
        }
    }

    fn trigger_after(&mut self, delay: Duration) {
        self.schedule.trigger_after(self.context.clock.now(), delay);
    }

    /// Checks after a gap in the watch whether the master has announced a shutdown meanwhile.
    fn check_upstream(&self) {
        let Some(upstream) = &self.upstream else { return };
        let (store, monitor) = (self.context.store.clone(), Arc::clone(&self.context.monitor));
        let key = store.keys().keeper_info(upstream.as_str());
        spawn_local(async move {
            match store.get(&key).await {
                Ok(Some(entry)) if reports_leaving_or_stopped(&entry.value) => monitor.fast_poll(),
                Ok(_) => {}
                Err(error) => debug!(error = %Chain(&error), "could not read the info of our master's keeper"),
            }
        });
    }

    /// Watches the cluster data, this keeper's orders (extensions X-2), and the info of the upstream's keeper.
    fn watch(&self) -> Watch {
        let keys = self.context.store.keys();
        let mut targets = vec![
            KeyRange::Key(keys.cluster_data()),
            KeyRange::Key(keys.order(self.context.me.as_str())),
        ];
        targets.extend(
            self.upstream
                .as_ref()
                .map(|upstream| KeyRange::Key(keys.keeper_info(upstream.as_str()))),
        );
        self.context.store.watch(targets, None)
    }

    /// Updates the watched upstream; returns whether it changed.
    fn update_watched_upstream(&mut self) -> bool {
        let upstream = match self.last_desired.as_ref().map(|desired| &desired.goal) {
            Some(Goal::Run(target)) => match &target.role {
                TargetRole::Standby(Upstream::Member(upstream)) => Some(upstream.keeper.clone()),
                _ => None,
            },
            // The upstream is unknown: keep the watch.
            _ => return false,
        };
        let changed = upstream != self.upstream;
        self.upstream = upstream;
        changed
    }

    /// Renews the liveness key. Returns false when an earlier renewal has found the key of another process.
    fn renew_liveness(&mut self) -> bool {
        if let Some(boot) = self.liveness_key.other() {
            let key = self.liveness_key.key();
            error!(key, bootUUID = %boot, "another process has taken our liveness key, ending");
            return false;
        }
        self.liveness_key.renew();
        true
    }
}

/// Returns the interval of rounds for a stored sleepInterval.
pub fn effective_sleep_interval(stored: Duration) -> Duration {
    stored.max(SLEEP_MIN)
}

/// Ends the keeper when its monitor, marker or publisher has panicked. Otherwise its info would stay outdated; this way the
/// keeper is known to be gone. Its instance runs on until a keeper is started again.
fn propagate_panic(ended: Result<(), JoinError>) -> ! {
    match ended.map_err(JoinError::try_into_panic) {
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        _ => unreachable!("the monitor, the marker and the publisher run until they are aborted"),
    }
}

/// Returns whether an info reports that its keeper is leaving or its instance is stopped.
fn reports_leaving_or_stopped(value: &[u8]) -> bool {
    from_slice::<KeeperInfo>(value).is_ok_and(|info| info.is_leaving_or_stopped())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "as it happened")]
    async fn a_keeper_ends_when_its_publisher_panics() {
        propagate_panic(tokio::spawn(async { panic!("as it happened") }).await);
    }

    #[test]
    fn a_leaving_or_stopped_master_is_going_down() {
        assert!(!reports_leaving_or_stopped(br#"{"uid":"k"}"#));
        assert!(!reports_leaving_or_stopped(b"garbage"));
        assert!(reports_leaving_or_stopped(br#"{"uid":"k","leaving":true}"#));
        assert!(reports_leaving_or_stopped(
            br#"{"uid":"k","stopped":{"clean":true,"lsn":1,"timelineID":1}}"#
        ));
    }
}
