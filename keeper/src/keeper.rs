//! The keeper's loop: starts passes, renews the liveness key, says goodbye. What a pass does is `pass`'s affair; what
//! it decides, `converge`'s.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::model::{BootUuid, KeeperInfo, KeeperUid, Spec, Stopped as Announced, from_slice};
use control::store::{Changes, Entry, Store, Target, Watch};
use control::telemetry::Chain;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::args::Config;
use crate::liveness::{self, LivenessKey};
use crate::liveness_claim::LivenessClaim;
use crate::local_state::LocalState;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::postgres::changes::DataChanges;
use crate::postgres::credentials::Secret;
use crate::postgres::instance::{self, Instance, InstanceError, StopLimits};
use crate::postgres::layout;
use crate::postgres::owned_dirs::OwnedDirs;
use crate::postgres::programs::Programs;
use crate::postgres::server::ChildStatus;
use crate::postgres::sockets::{PUBLIC, PrivateSocketDir};
use crate::postgres::walker::Walker;
use crate::problems::Problems;
use crate::publish::{Due, InfoReport, KeeperIdentity, Publisher};
use crate::reconcile::{ClusterDataState, Desired, Goal, TargetRole, desired_state, is_only_configuration};
use crate::reconciler::{
    Reconciler, ReconcilerMemory, RoundOutcome, cluster_data_state, is_superseded, stopped, unix_seconds,
};
use crate::schedule::{COALESCE, Schedule};

/// Limit of each last publication (beyond X-1.1).
const LAST_PUBLISH_LIMIT: Duration = Duration::from_millis(500);
/// How long the end of a pass that was given up is awaited.
const ABORT_LIMIT: Duration = Duration::from_secs(2);
/// A sleepInterval of zero is valid, but no reason for a busy loop.
const SLEEP_MIN: Duration = Duration::from_millis(100);

/// What a keeper is made of.
#[derive(Debug)]
pub struct KeeperParts {
    /// The options.
    pub config: Config,
    /// PostgreSQL's programs.
    pub programs: Programs,
    /// The state files.
    pub local: LocalState,
    /// What the keeper has made outside PGDATA.
    pub owned: OwnedDirs,
    /// Where the instance's socket is.
    pub sockets: PrivateSocketDir,
    /// This keeper.
    pub me: KeeperUid,
    /// This process.
    pub boot: BootUuid,
    /// Processes with this uid that are known to have ended.
    pub predecessors: Vec<BootUuid>,
    /// The metrics.
    pub metrics: Metrics,
    /// The signals, heard from now on.
    pub signals: KeeperSignals,
}

/// The signals that end a keeper, and SIGHUP, after which it reads the password files again.
#[derive(Debug)]
pub struct KeeperSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Why a keeper stops (keeper 3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShutdownKind {
    /// SIGTERM: it leaves for good.
    Leaving,
    /// SIGINT: it means to be back.
    Pausing,
    /// Another process with our uid acts in our place.
    Replaced,
}

/// Another process with our uid has taken the liveness key, so this one has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another process runs with our uid: stop one of the two, or give one a --uid and a --data-dir of its own")]
pub struct ReplacedError;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalAction {
    /// The end of the keeper.
    Shutdown(ShutdownKind),
    /// SIGHUP.
    Reload,
}

impl KeeperSignals {
    /// Hears them from now on, instead of being ended by them.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal that ends the keeper, while nothing else is done.
    async fn next(&mut self) -> ShutdownKind {
        loop {
            if let SignalAction::Shutdown(farewell) = self.any().await {
                return farewell;
            }
        }
    }

    async fn any(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Shutdown(ShutdownKind::Leaving),
            _ = self.interrupt.recv() => SignalAction::Shutdown(ShutdownKind::Pausing),
            _ = self.hangup.recv() => SignalAction::Reload,
        }
    }
}

/// Runs the keeper until a signal ends it; its instance is stopped then. To be run in a [`tokio::task::LocalSet`].
///
/// # Errors
///
/// Another process with our uid has taken its place, which happens when this one stood still for a while.
pub async fn run(parts: KeeperParts) -> Result<(), ReplacedError> {
    let KeeperParts {
        config,
        programs,
        local,
        owned,
        sockets,
        me,
        boot,
        predecessors,
        metrics,
        mut signals,
    } = parts;
    let store = Store::connect(config.common.store.clone());
    let mut alive = LivenessKey::new(&store, &me, boot.clone());
    let mut wait = LivenessClaim::default();
    let mut farewell = tokio::select! {
        () = wait.take(&mut alive, &predecessors) => None,
        farewell = signals.next() => Some(farewell),
    };
    let is_ours = farewell.is_none();
    // Without the lock on the directory its server may be supervised by another process, too.
    if !is_ours && (wait.is_held() || !config.locking) {
        info!("stopping, another process runs or may run with our uid");
        sockets.remove();
        return Ok(());
    }
    // keeper 3.1: the request timeout is fixed here for the life of the process.
    let mut spec = Spec::default();
    if farewell.is_none() {
        tokio::select! {
            read = first_spec(&store) => spec = read,
            signal = signals.next() => farewell = Some(signal),
            () = renew_loop(Some(&mut alive)) => {}
        }
    }
    let mut keeper = KeeperLoop::new(
        config, programs, local, owned, &sockets, me, boot, metrics, signals, store, &spec,
    );
    tokio::select! {
        () = keeper.stop_leftover_instance() => {}
        () = renew_loop(Some(&mut alive)) => {}
    }
    keeper.liveness_key = Some(alive);
    let farewell = match farewell {
        None => Box::pin(keeper.run()).await,
        // A process that never had the key publishes nothing: the uid may be another's.
        Some(farewell) if !is_ours => {
            if let Err(error) = keeper.stop_instance().await {
                warn!(error = %Chain(&error), "failed to stop postgres");
            }
            farewell
        }
        Some(farewell) => keeper.shutdown(farewell, None).await,
    };
    sockets.remove();
    if farewell == ShutdownKind::Replaced {
        Err(ReplacedError)
    } else {
        Ok(())
    }
}

/// The spec in force, or the defaults when it cannot be read.
async fn first_spec(store: &Store) -> Spec {
    match store.get(&store.keys().cluster_data()).await {
        Ok(entry) => match cluster_data_state(entry.as_ref()) {
            ClusterDataState::Valid(checked) => checked.spec,
            _ => Spec::default(),
        },
        Err(error) => {
            warn!(error = %Chain(&error), "could not read the cluster data, going on with the default intervals");
            Spec::default()
        }
    }
}

/// The loop and what it holds.
struct KeeperLoop {
    store: Store,
    me: KeeperUid,
    boot: BootUuid,
    instance: Arc<Instance>,
    publisher: Arc<Publisher>,
    monitor: Arc<Monitor>,
    local: Arc<LocalState>,
    metrics: Arc<Metrics>,
    signals: KeeperSignals,
    in_progress: Arc<Mutex<Option<Desired>>>,
    reconciler: Option<Reconciler>,
    schedule: Schedule,
    sleep_interval: Duration,
    /// The last orders that a pass was through with.
    last_desired: Option<Desired>,
    /// The keeper of the instance that ours follows, whose info is watched (beyond X-1.7).
    upstream: Option<KeeperUid>,
    liveness_key: Option<LivenessKey>,
    /// A password may have changed, so the next pass writes the files that hold one.
    invalidate_files: bool,
    /// The cluster data as a watch has last brought them, for a promotion on a slow store.
    latest: Arc<Mutex<Option<Entry>>>,
}

/// A pass under way.
struct RunningRound {
    task: JoinHandle<(Reconciler, Option<RoundOutcome>)>,
    give_up: Option<oneshot::Sender<()>>,
}

impl KeeperLoop {
    #[expect(clippy::too_many_arguments, reason = "the parts, taken apart")]
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn new(
        config: Config,
        programs: Programs,
        local: LocalState,
        owned: OwnedDirs,
        sockets: &PrivateSocketDir,
        me: KeeperUid,
        boot: BootUuid,
        metrics: Metrics,
        signals: KeeperSignals,
        store: Store,
        spec: &Spec,
    ) -> Self {
        let sleep_interval = spec.sleep_interval.max(SLEEP_MIN);
        let (config, local, metrics) = (Arc::new(config), Arc::new(local), Arc::new(metrics));
        let instance = Arc::new(Instance::new(
            instance::InstanceConfig {
                data: data_of(&config),
                socket_dir: sockets.path().to_owned(),
                public_socket_dir: Some(PUBLIC.to_owned()),
                listen_addresses: config.listen_address.clone(),
                port: config.port,
                superuser: config.superuser.clone(),
                replication: config.replication.clone(),
                request_timeout: spec.request_timeout,
            },
            Arc::new(programs),
        ));
        let fixed = KeeperIdentity {
            uid: me.clone(),
            boot: boot.clone(),
            can_be_master: config.can_be_master,
            can_be_synchronous_replica: config.can_be_synchronous_replica,
        };
        let report = InfoReport {
            cluster: local.cluster(),
            ..InfoReport::default()
        };
        let publisher = Arc::new(Publisher::new(store.clone(), fixed, report, sleep_interval));
        let problems = Arc::new(Problems::new(Arc::clone(&publisher)));
        let advertised = (config.advertise_address.clone(), config.advertise_port.clone());
        let monitor = Arc::new(Monitor::new(
            Arc::clone(&instance),
            Arc::clone(&publisher),
            Arc::clone(&local),
            Arc::clone(&problems),
            advertised,
            sleep_interval,
        ));
        metrics.set_sleep_interval(sleep_interval);
        let in_progress = Arc::new(Mutex::new(None));
        let latest = Arc::new(Mutex::new(None));
        let walker = Walker::default();
        let engine = Reconciler {
            config,
            me: me.clone(),
            boot: boot.clone(),
            store: store.clone(),
            instance: Arc::clone(&instance),
            publisher: Arc::clone(&publisher),
            collector: Arc::clone(&monitor),
            local: Arc::clone(&local),
            owned: Arc::new(owned),
            changes: DataChanges::new(walker.clone()),
            walker,
            metrics: Arc::clone(&metrics),
            problems: Arc::clone(&problems),
            in_progress: Arc::clone(&in_progress),
            latest: Arc::clone(&latest),
            restarts: Mutex::default(),
            memory: ReconcilerMemory::default(),
        };
        Self {
            liveness_key: None,
            latest,
            store,
            me,
            boot,
            instance,
            publisher,
            monitor,
            local,
            metrics,
            signals,
            in_progress,
            reconciler: Some(engine),
            schedule: Schedule::new(Boottime::now()),
            sleep_interval,
            last_desired: None,
            upstream: None,
            invalidate_files: false,
        }
    }

    /// Whatever runs on the data directory is stopped at the start (keeper 3.1).
    async fn stop_leftover_instance(&self) {
        match self.instance.running().await {
            Ok(None) => info!("stopping database"), // said in any case: the walk-through shows it
            Ok(Some(_)) => {
                if let Err(error) = self.instance.stop(StopLimits::default()).await {
                    warn!(error = %Chain(&error), "could not stop the instance that was left running");
                }
            }
            Err(error) => warn!(error = %Chain(&error), "could not find out whether an instance was left running"),
        }
        if let Ok(None) = self.instance.running().await
            && let Err(error) = self.instance.end_other_processes().await
        {
            warn!(error = %Chain(&error), "could not stop the processes that use the data directory");
        }
    }

    async fn run(mut self) -> ShutdownKind {
        let mut publisher = tokio::task::spawn_local({
            let publisher = Arc::clone(&self.publisher);
            async move { publisher.run().await }
        });
        let mut collector = tokio::task::spawn_local({
            let collector = Arc::clone(&self.monitor);
            async move { collector.run().await }
        });
        let (farewell, running) = tokio::select! {
            ended = self.reconcile_loop() => ended,
            ended = &mut publisher => propagate_panic(ended),
            ended = &mut collector => propagate_panic(ended),
        };
        // From here on nobody else acts or speaks.
        publisher.abort();
        collector.abort();
        self.shutdown(farewell, running).await
    }

    /// Passes, until a signal comes; with the one that was under way then.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    async fn reconcile_loop(&mut self) -> (ShutdownKind, Option<RunningRound>) {
        let mut watch = self.watch();
        let mut life = self.instance.life();
        let mut beat = interval(liveness::PERIOD);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running: Option<RunningRound> = None;
        loop {
            let now = Boottime::now();
            if running.is_none() && self.schedule.due() <= now {
                running = self.begin_round(now);
            }
            let pause = self.schedule.due().since(Boottime::now());
            tokio::select! {
                received = self.signals.any() => match received {
                    SignalAction::Shutdown(farewell) => return (farewell, running),
                    _ => self.read_passwords_again(),
                },
                changes = watch.changed() => self.on_store_changes(&changes, running.as_mut()),
                _ = life.changed() => match *life.borrow_and_update() {
                    ChildStatus::Running { .. } => self.schedule.server_started(Boottime::now()),
                    ChildStatus::Ended { pid, status } => {
                        if running.is_none() {
                            let status = status.map(|status| status.to_string()).unwrap_or_default();
                            warn!(pid, %status, "postgres has ended");
                        }
                        self.schedule.server_ended(Boottime::now(), self.sleep_interval);
                    }
                    ChildStatus::NotStarted => {}
                },
                ended = round_end(&mut running) => {
                    running = None;
                    self.end_round(ended);
                    if self.update_watched_upstream() {
                        watch = self.watch();
                    }
                }
                _ = beat.tick() => if self.renew_liveness() == Some(ShutdownKind::Replaced) {
                    return (ShutdownKind::Replaced, running);
                },
                () = sleep(pause), if running.is_none() => {}
            }
        }
    }

    /// SIGHUP: the files that hold passwords are written again by the next pass, and logins tried again.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn read_passwords_again(&mut self) {
        info!("SIGHUP, reading the password files again");
        self.instance.config().passwords().for_each(Secret::read_again);
        self.invalidate_files = true;
        self.monitor.try_logins();
        self.schedule.event(Boottime::now(), Duration::ZERO);
    }

    fn begin_round(&mut self, now: Boottime) -> Option<RunningRound> {
        let mut engine = self.reconciler.take()?;
        if std::mem::take(&mut self.invalidate_files) {
            engine.invalidate_files();
        }
        let woken = self.schedule.begin(now);
        let (give_up, given_up) = oneshot::channel::<()>();
        let task = tokio::task::spawn_local(async move {
            let outcome = tokio::select! {
                outcome = Box::pin(engine.reconcile(woken)) => Some(outcome),
                _ = given_up => None,
            };
            (engine, outcome)
        });
        Some(RunningRound {
            task,
            give_up: Some(give_up),
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn end_round(&mut self, (engine, outcome): (Reconciler, Option<RoundOutcome>)) {
        let now = Boottime::now();
        self.reconciler = Some(engine);
        let Some(outcome) = outcome else {
            return self.schedule.round_aborted(now);
        };
        if let Some(spec) = &outcome.spec {
            let sleep_interval = spec.sleep_interval.max(SLEEP_MIN);
            if sleep_interval != self.sleep_interval {
                self.sleep_interval = sleep_interval;
                self.publisher.set_interval(sleep_interval);
                self.monitor.set_interval(sleep_interval);
                self.metrics.set_sleep_interval(sleep_interval);
            }
        }
        self.schedule
            .end(now, &outcome.result, &outcome.desired, self.sleep_interval);
        self.last_desired = Some(outcome.desired);
    }

    /// A watch event is an alarm clock; what it carries only tells how loud (store 7).
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn on_store_changes(&mut self, changes: &Changes, running: Option<&mut RunningRound>) {
        let now = Boottime::now();
        let keys = self.store.keys();
        if changes.gap {
            self.schedule.event(now, Duration::ZERO);
            self.check_upstream();
        }
        if changes.keys.contains_key(&keys.order(self.me.as_str())) {
            self.schedule.event(now, Duration::ZERO);
        }
        let cluster_data = changes.keys.get(&keys.cluster_data());
        if changes.gap || cluster_data.is_some_and(|change| change.now.is_none()) {
            // A sentinel that finds no cluster data looks for keepers that have belonged to a cluster.
            self.publisher.change(Due::Now, |_| {});
        }
        if let Some(change) = cluster_data {
            let orders = desired_state(&cluster_data_state(change.now.as_ref()), &self.me, &self.boot);
            self.latest
                .lock()
                .expect("nobody panics while holding the cluster data")
                .clone_from(&change.now);
            match running {
                Some(running) => {
                    let works_on = self
                        .in_progress
                        .lock()
                        .expect("nobody panics while holding the orders")
                        .clone();
                    if works_on.is_some_and(|before| is_superseded(&before, &orders))
                        && running.give_up.take().is_some()
                    {
                        info!("orders changed, giving up what was under way");
                    }
                    self.schedule.event(now, Duration::ZERO);
                }
                None => match &self.last_desired {
                    Some(settled) if *settled == orders => {}
                    Some(settled) if is_only_configuration(settled, &orders) => self.schedule.event(now, COALESCE),
                    _ => self.schedule.event(now, Duration::ZERO),
                },
            }
        }
        if let Some(upstream) = &self.upstream
            && let Some(change) = changes.keys.get(&keys.keeper_info(upstream.as_str()))
            && change.now.as_ref().is_some_and(|entry| is_going_down(&entry.value))
        {
            self.monitor.fast_poll();
        }
    }

    /// After a gap in the watch: whether the master left meanwhile.
    fn check_upstream(&self) {
        let Some(upstream) = &self.upstream else { return };
        let (store, collector) = (self.store.clone(), Arc::clone(&self.monitor));
        let key = store.keys().keeper_info(upstream.as_str());
        tokio::task::spawn_local(async move {
            match store.get(&key).await {
                Ok(Some(entry)) if is_going_down(&entry.value) => collector.fast_poll(),
                Ok(_) => {}
                Err(error) => debug!(error = %Chain(&error), "could not read the info of our master's keeper"),
            }
        });
    }

    fn watch(&self) -> Watch {
        let keys = self.store.keys();
        let mut targets = vec![
            Target::Key(keys.cluster_data()),
            Target::Key(keys.order(self.me.as_str())),
        ];
        targets.extend(
            self.upstream
                .as_ref()
                .map(|upstream| Target::Key(keys.keeper_info(upstream.as_str()))),
        );
        self.store.watch(targets, None)
    }

    /// Whether the instance follows another keeper's now than the one that is watched.
    fn update_watched_upstream(&mut self) -> bool {
        let upstream = match self.last_desired.as_ref().map(|orders| &orders.goal) {
            Some(Goal::Run(target)) => match &target.role {
                TargetRole::Standby(upstream) => Some(upstream.keeper.clone()),
                _ => None,
            },
            // Nothing is known: go on as before.
            _ => return false,
        };
        let changed = upstream != self.upstream;
        self.upstream = upstream;
        changed
    }

    /// Gives the beat, unless an earlier one has found the key of another process.
    fn renew_liveness(&mut self) -> Option<ShutdownKind> {
        let alive = self.liveness_key.as_mut()?;
        if let Some(boot) = alive.other() {
            error!(key = alive.key(), bootUUID = %boot, "another process has taken our liveness key, ending");
            return Some(ShutdownKind::Replaced);
        }
        alive.renew();
        None
    }

    /// Stops the instance, says where it stands, and then only ends (keeper 3.8, beyond X-1.1).
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    async fn shutdown(mut self, farewell: ShutdownKind, running: Option<RunningRound>) -> ShutdownKind {
        self.metrics.shutdown.set(unix_seconds(wall_clock()));
        info!(signal = farewell.signal(), "stopping");
        let publisher = Arc::clone(&self.publisher);
        let announce = async {
            if farewell == ShutdownKind::Leaving {
                // The timers of a failed master run from here, however long the shutdown takes.
                publisher.change(Due::Later, |report| {
                    report.leaving = true;
                    if let Some(state) = &mut report.state {
                        state.healthy = false;
                    }
                });
                publisher.publish_within(LAST_PUBLISH_LIMIT).await;
            }
        };
        let stop = async {
            if let Some(running) = running {
                abort(running).await;
            }
            self.stop_instance().await
        };
        let ((), stop) = tokio::join!(announce, stop);
        let is_down = stop
            .inspect_err(|error| warn!(error = %Chain(error), "failed to stop postgres"))
            .is_ok();
        let db = self.local.db();
        // What was only half made stands nowhere.
        let is_whole = !db.uid.is_empty() && !db.initializing && self.instance.is_initialised().unwrap_or(false);
        if is_down && is_whole && farewell != ShutdownKind::Replaced {
            let stopped = stopped(&self.instance).await.unwrap_or_else(|error| {
                warn!(error = %Chain(&error), "could not find out how postgres was stopped");
                Announced::default()
            });
            info!(
                clean = stopped.clean,
                timelineID = stopped.timeline_id,
                "postgres is stopped"
            );
            self.publisher.change(Due::Later, |report| {
                report.stopped = Some(stopped);
                if let Some(state) = &mut report.state {
                    state.healthy = false;
                }
            });
            self.publisher.publish_within(LAST_PUBLISH_LIMIT).await;
        }
        // After SIGINT the liveness key runs out by itself (beyond X-8.5).
        if farewell == ShutdownKind::Leaving
            && let Some(alive) = &mut self.liveness_key
            && let Ok(Err(error)) = timeout(LAST_PUBLISH_LIMIT, alive.revoke(LAST_PUBLISH_LIMIT)).await
        {
            debug!(error = %Chain(&error), "could not revoke the liveness key");
        }
        farewell
    }

    /// A fast stop; a second signal makes it an immediate one (keeper W6). The keeper lives until then.
    async fn stop_instance(&mut self) -> Result<(), InstanceError> {
        let Self {
            liveness_key: alive,
            signals,
            instance,
            ..
        } = self;
        let beats = renew_loop(alive.as_mut());
        tokio::pin!(beats);
        let mut limits = StopLimits::default();
        loop {
            tokio::select! {
                stopped = instance.stop(limits) => return stopped.map(drop),
                _ = signals.next() => {
                    warn!("second signal, stopping postgres at once");
                    limits.fast = Duration::ZERO;
                }
                () = &mut beats => {}
            }
        }
    }
}

/// Gives a pass up, and waits for its end.
async fn abort(running: RunningRound) {
    drop(running.give_up);
    if timeout(ABORT_LIMIT, running.task).await.is_err() {
        warn!(limit = ?ABORT_LIMIT, "a pass does not end");
    }
}

/// Beats for ever, beside what is done meanwhile, which a store that is away must not hold up (beyond X-1.1).
async fn renew_loop(alive: Option<&mut LivenessKey>) {
    let Some(alive) = alive else {
        return std::future::pending().await;
    };
    let mut beat = interval(liveness::PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        // Whoever is about to act finds a key of another process by its own beats.
        alive.renew();
    }
}

/// A keeper that does not look, or does not publish, any more says for ever what was true once: it ends, so that it is
/// known to be gone. Its instance goes on until a keeper is started again.
fn propagate_panic(ended: Result<(), JoinError>) -> ! {
    match ended.map_err(JoinError::try_into_panic) {
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        _ => unreachable!("looking and publishing go on until they are aborted"),
    }
}

impl ShutdownKind {
    fn signal(self) -> &'static str {
        match self {
            Self::Leaving => "SIGTERM",
            Self::Pausing => "SIGINT",
            Self::Replaced => "none",
        }
    }
}

/// PGDATA of a keeper's data directory (keeper 2.1).
pub fn data_of(config: &Config) -> PathBuf {
    layout::data_of(&config.data_dir)
}

/// Whether an info says that its instance goes down or is down.
fn is_going_down(value: &[u8]) -> bool {
    from_slice::<KeeperInfo>(value)
        .is_ok_and(|info| info.leaving || info.stopped.is_some() || !info.stopping.is_empty())
}

/// The end of the pass under way; never, when there is none.
async fn round_end(running: &mut Option<RunningRound>) -> (Reconciler, Option<RoundOutcome>) {
    match running {
        Some(running) => (&mut running.task).await.expect("a pass does not panic"),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "as it happened")]
    async fn a_keeper_does_not_outlive_its_publications() {
        propagate_panic(tokio::spawn(async { panic!("as it happened") }).await);
    }

    #[test]
    fn a_master_that_leaves_or_is_stopped_goes() {
        assert!(!is_going_down(br#"{"uid":"k"}"#));
        assert!(!is_going_down(b"garbage"));
        assert!(is_going_down(br#"{"uid":"k","leaving":true}"#));
        assert!(is_going_down(
            br#"{"uid":"k","stopped":{"clean":true,"lsn":1,"timelineID":1}}"#
        ));
    }
}
