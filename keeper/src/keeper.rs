//! The keeper's loop: starts rounds, renews the liveness key, and shuts down. What a round does is in `reconciler`,
//! what it decides in `reconcile`.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::clock::{Boottime, wall_clock};
use base::{Chain, Clock, RandomBytes};
use model::{BootUuid, KeeperInfo, KeeperUid, LIVENESS_PERIOD, Spec, Stopped as Announced, from_slice};
use store::{Changes, Entry, KeyRange, Store, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::args::Config;
use crate::liveness::LivenessKey;
use crate::liveness_claim::LivenessClaim;
use crate::local::state::LocalState;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::postgres::config::credentials::Secret;
use crate::postgres::config::instance::InstanceConfig;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::layout;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::postgres::programs::installation::Programs;
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::postmaster::ChildStatus;
use crate::postgres::server::sockets::{PUBLIC, PrivateSocketDir};
use crate::postgres::server::supervisor::StopLimits;
use crate::problems::Problems;
use crate::publish::{Due, InfoReport, KeeperIdentity, Publisher};
use crate::reconcile::{ClusterDataState, Desired, Goal, TargetRole, Upstream, desired_state, is_only_configuration};
use crate::reconciler::{
    Reconciler, ReconcilerMemory, RoundOutcome, cluster_data_state, is_superseded, stopped, unix_seconds,
};
use crate::schedule::{COALESCE, Schedule};

/// Time limit of each publication during shutdown (extensions X-1.1).
const LAST_PUBLISH_LIMIT: Duration = Duration::from_millis(500);
/// Time limit for the end of an aborted round.
const ABORT_LIMIT: Duration = Duration::from_secs(2);
/// A sleepInterval of zero is valid; it must not cause a busy loop.
const SLEEP_MIN: Duration = Duration::from_millis(100);

/// Everything that a keeper is started with.
#[derive(Debug)]
pub struct KeeperParts {
    pub config: Config,
    pub programs: Programs,
    pub local: LocalState,
    /// Directories outside PGDATA that belong to this keeper.
    pub owned: OwnedDirs,
    /// Directory of the instance's unix socket.
    pub sockets: PrivateSocketDir,
    pub me: KeeperUid,
    pub boot: BootUuid,
    /// Processes with this uid that have ended.
    pub predecessors: Vec<BootUuid>,
    pub metrics: Metrics,
    /// Signal handlers, already installed.
    pub signals: KeeperSignals,
}

/// The signals that end a keeper, and SIGHUP, which re-reads the password files.
#[derive(Debug)]
pub struct KeeperSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Kind of shutdown (keeper 3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShutdownKind {
    /// SIGTERM: the keeper leaves, published as `leaving`.
    Leaving,
    /// SIGINT: the keeper is expected to be started again.
    Pausing,
    /// Another process with the same uid has taken over.
    Replaced,
}

/// Another process with the same uid has taken the liveness key, so this one has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another process runs with our uid: stop one of the two, or give one a --uid and a --data-dir of its own")]
pub struct ReplacedError;

/// Effect of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalAction {
    /// Shut down.
    Shutdown(ShutdownKind),
    /// Read the password files again.
    Reload,
}

impl KeeperSignals {
    /// Installs the handlers; from now on the signals no longer end the process.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that ends the keeper; ignores others.
    async fn next(&mut self) -> ShutdownKind {
        loop {
            if let SignalAction::Shutdown(shutdown) = self.any().await {
                return shutdown;
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

/// Runs the keeper until a signal ends it, and stops its instance. Must run in a [`tokio::task::LocalSet`].
///
/// # Errors
///
/// Another process with the same uid has taken over, which happens when this one was suspended for a while.
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
    let store = Store::connect(config.common.store.clone(), Clock::system());
    let mut liveness_key = LivenessKey::new(&store, &me, boot.clone());
    let mut claim = LivenessClaim::default();
    let mut shutdown = tokio::select! {
        () = claim.take(&mut liveness_key, &predecessors) => None,
        shutdown = signals.next() => Some(shutdown),
    };
    let is_ours = shutdown.is_none();
    // Without the lock on the directory another process may supervise its server, too.
    if !is_ours && (claim.is_held() || !config.locking) {
        info!("stopping, another process runs or may run with our uid");
        sockets.remove();
        return Ok(());
    }
    // The request timeout is fixed here for the life of the process (keeper 3.1).
    let mut spec = Spec::default();
    if shutdown.is_none() {
        tokio::select! {
            read = first_spec(&store) => spec = read,
            signal = signals.next() => shutdown = Some(signal),
            () = renew_loop(Some(&mut liveness_key)) => {}
        }
    }
    let mut keeper = KeeperLoop::new(
        config, programs, local, owned, &sockets, me, boot, metrics, signals, store, &spec,
    );
    tokio::select! {
        () = keeper.stop_leftover_instance() => {}
        () = renew_loop(Some(&mut liveness_key)) => {}
    }
    keeper.liveness_key = Some(liveness_key);
    let shutdown = match shutdown {
        None => Box::pin(keeper.run()).await,
        // A process that never held the key publishes nothing: the uid may belong to another process.
        Some(shutdown) if !is_ours => {
            if let Err(error) = keeper.stop_instance().await {
                warn!(error = %Chain(&error), "failed to stop postgres");
            }
            shutdown
        }
        Some(shutdown) => keeper.shutdown(shutdown, None).await,
    };
    sockets.remove();
    if shutdown == ShutdownKind::Replaced {
        Err(ReplacedError)
    } else {
        Ok(())
    }
}

/// Returns the spec in force, or the defaults if it cannot be read.
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

/// The loop and its state.
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
    /// The desired state of the last completed round.
    last_desired: Option<Desired>,
    /// The keeper of the followed instance, whose info is watched (extensions X-1.7).
    upstream: Option<KeeperUid>,
    liveness_key: Option<LivenessKey>,
    /// A password may have changed: the next round writes the files that contain one.
    invalidate_files: bool,
    /// The cluster data of the last watch event, for a promotion on a slow store.
    latest: Arc<Mutex<Option<Entry>>>,
}

/// A running round.
struct RunningRound {
    task: JoinHandle<(Reconciler, Option<RoundOutcome>)>,
    abort: Option<oneshot::Sender<()>>,
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
        let clock = Clock::system();
        let instance = Arc::new(Instance::new(
            InstanceConfig {
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
            clock.clone(),
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
        let publisher = Arc::new(Publisher::new(
            store.clone(),
            fixed,
            report,
            sleep_interval,
            clock,
            RandomBytes::system(),
        ));
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
        let reconciler = Reconciler {
            config,
            me: me.clone(),
            boot: boot.clone(),
            store: store.clone(),
            instance: Arc::clone(&instance),
            publisher: Arc::clone(&publisher),
            monitor: Arc::clone(&monitor),
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
            reconciler: Some(reconciler),
            schedule: Schedule::new(Boottime::now()),
            sleep_interval,
            last_desired: None,
            upstream: None,
            invalidate_files: false,
        }
    }

    /// Stops any server on the data directory at the start (keeper 3.1).
    async fn stop_leftover_instance(&self) {
        match self.instance.running().await {
            Ok(None) => info!("stopping database"), // the reference logs it in any case
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
        let mut monitor = tokio::task::spawn_local({
            let monitor = Arc::clone(&self.monitor);
            async move { monitor.run().await }
        });
        let (shutdown, running_round) = tokio::select! {
            ended = self.reconcile_loop() => ended,
            ended = &mut publisher => propagate_panic(ended),
            ended = &mut monitor => propagate_panic(ended),
        };
        // From here on only the shutdown acts and publishes.
        publisher.abort();
        monitor.abort();
        self.shutdown(shutdown, running_round).await
    }

    /// Runs rounds until a signal arrives; returns it with the round that is still running.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    async fn reconcile_loop(&mut self) -> (ShutdownKind, Option<RunningRound>) {
        let mut watch = self.watch();
        let mut child_status = self.instance.child_status();
        let mut renewal = interval(LIVENESS_PERIOD);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running_round: Option<RunningRound> = None;
        loop {
            let now = Boottime::now();
            if running_round.is_none() && self.schedule.due() <= now {
                running_round = self.begin_round(now);
            }
            // One round at a time; while one runs, signals, the watch and the liveness key are still served.
            let pause = self.schedule.due().since(Boottime::now());
            tokio::select! {
                received = self.signals.any() => match received {
                    SignalAction::Shutdown(shutdown) => return (shutdown, running_round),
                    _ => self.read_passwords_again(),
                },
                changes = watch.changed() => self.on_store_changes(&changes, running_round.as_mut()),
                _ = child_status.changed() => match *child_status.borrow_and_update() {
                    ChildStatus::Running { .. } => self.schedule.server_started(Boottime::now()),
                    ChildStatus::Ended { pid, status } => {
                        if running_round.is_none() {
                            let status = status.map(|status| status.to_string()).unwrap_or_default();
                            warn!(pid, %status, "postgres has ended");
                        }
                        self.schedule.server_ended(Boottime::now(), self.sleep_interval);
                    }
                    ChildStatus::NotStarted => {}
                },
                ended = round_end(&mut running_round) => {
                    running_round = None;
                    self.end_round(ended);
                    if self.update_watched_upstream() {
                        watch = self.watch();
                    }
                }
                _ = renewal.tick() => if self.renew_liveness() == Some(ShutdownKind::Replaced) {
                    return (ShutdownKind::Replaced, running_round);
                },
                () = sleep(pause), if running_round.is_none() => {}
            }
        }
    }

    /// Handles SIGHUP: the next round writes the files that contain passwords, and rejected logins are tried again.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn read_passwords_again(&mut self) {
        info!("SIGHUP, reading the password files again");
        self.instance.config().passwords().for_each(Secret::read_again);
        self.invalidate_files = true;
        self.monitor.try_logins();
        self.schedule.event(Boottime::now(), Duration::ZERO);
    }

    fn begin_round(&mut self, now: Boottime) -> Option<RunningRound> {
        let mut reconciler = self.reconciler.take()?;
        if std::mem::take(&mut self.invalidate_files) {
            reconciler.invalidate_files();
        }
        let woken = self.schedule.begin(now);
        let (abort, aborted) = oneshot::channel::<()>();
        let task = tokio::task::spawn_local(async move {
            let outcome = tokio::select! {
                outcome = Box::pin(reconciler.reconcile(woken)) => Some(outcome),
                _ = aborted => None,
            };
            (reconciler, outcome)
        });
        Some(RunningRound {
            task,
            abort: Some(abort),
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn end_round(&mut self, (reconciler, outcome): (Reconciler, Option<RoundOutcome>)) {
        let now = Boottime::now();
        self.reconciler = Some(reconciler);
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
            self.publisher.set_fail_interval(spec.fail_interval);
        }
        self.schedule
            .end(now, &outcome.result, &outcome.desired, self.sleep_interval);
        self.last_desired = Some(outcome.desired);
    }

    /// Handles changes in the store. A change triggers a round; its contents only decide whether it is delayed or
    /// aborts the running one (store 7).
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    fn on_store_changes(&mut self, changes: &Changes, running_round: Option<&mut RunningRound>) {
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
        if changes.gap || cluster_data.is_some_and(|change| change.entry.is_none()) {
            // Publish again: a sentinel that finds no cluster data looks for keepers that belonged to a cluster.
            self.publisher.change(Due::Now, |_| {});
        }
        if let Some(change) = cluster_data {
            let desired = desired_state(&cluster_data_state(change.entry.as_ref()), &self.me, &self.boot);
            self.latest
                .lock()
                .expect("no thread panics while holding the cluster data")
                .clone_from(&change.entry);
            match running_round {
                Some(running_round) => {
                    let works_on = self
                        .in_progress
                        .lock()
                        .expect("no thread panics while holding the orders")
                        .clone();
                    if works_on.is_some_and(|before| is_superseded(&before, &desired))
                        && running_round.abort.take().is_some()
                    {
                        info!("desired state changed, aborting the current round");
                    }
                    self.schedule.event(now, Duration::ZERO);
                }
                None => match &self.last_desired {
                    Some(settled) if *settled == desired => {}
                    Some(settled) if is_only_configuration(settled, &desired) => self.schedule.event(now, COALESCE),
                    _ => self.schedule.event(now, Duration::ZERO),
                },
            }
        }
        if let Some(upstream) = &self.upstream
            && let Some(change) = changes.keys.get(&keys.keeper_info(upstream.as_str()))
            && change.entry.as_ref().is_some_and(|entry| is_going_down(&entry.value))
        {
            self.monitor.fast_poll();
        }
    }

    /// Checks after a gap in the watch whether the master has announced a shutdown meanwhile.
    fn check_upstream(&self) {
        let Some(upstream) = &self.upstream else { return };
        let (store, monitor) = (self.store.clone(), Arc::clone(&self.monitor));
        let key = store.keys().keeper_info(upstream.as_str());
        tokio::task::spawn_local(async move {
            match store.get(&key).await {
                Ok(Some(entry)) if is_going_down(&entry.value) => monitor.fast_poll(),
                Ok(_) => {}
                Err(error) => debug!(error = %Chain(&error), "could not read the info of our master's keeper"),
            }
        });
    }

    fn watch(&self) -> Watch {
        let keys = self.store.keys();
        let mut targets = vec![
            KeyRange::Key(keys.cluster_data()),
            KeyRange::Key(keys.order(self.me.as_str())),
        ];
        targets.extend(
            self.upstream
                .as_ref()
                .map(|upstream| KeyRange::Key(keys.keeper_info(upstream.as_str()))),
        );
        self.store.watch(targets, None)
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

    /// Renews the liveness key, unless an earlier renewal has found the key of another process.
    fn renew_liveness(&mut self) -> Option<ShutdownKind> {
        let liveness_key = self.liveness_key.as_mut()?;
        if let Some(boot) = liveness_key.other() {
            error!(key = liveness_key.key(), bootUUID = %boot, "another process has taken our liveness key, ending");
            return Some(ShutdownKind::Replaced);
        }
        liveness_key.renew();
        None
    }

    /// Shuts down: stops the instance, publishes where its data end, and only then returns (keeper 3.8, extensions
    /// X-1.1).
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    async fn shutdown(mut self, shutdown: ShutdownKind, running_round: Option<RunningRound>) -> ShutdownKind {
        self.metrics.shutdown.set(unix_seconds(wall_clock()));
        info!(signal = shutdown.signal(), "stopping");
        let publisher = Arc::clone(&self.publisher);
        let publish_leaving = async {
            if shutdown == ShutdownKind::Leaving {
                // The sentinel's timers for a failed master start now, however long the shutdown takes.
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
            if let Some(running_round) = running_round {
                abort(running_round).await;
            }
            self.stop_instance().await
        };
        // In parallel: a slow store must not delay the shutdown, and a slow shutdown not the election.
        let ((), stop) = tokio::join!(publish_leaving, stop);
        let is_down = stop
            .inspect_err(|error| warn!(error = %Chain(error), "failed to stop postgres"))
            .is_ok();
        let db = self.local.db();
        // Incomplete data have no position to publish.
        let has_complete_data =
            !db.uid.is_empty() && !db.initializing && self.instance.is_initialised().unwrap_or(false);
        if is_down && has_complete_data && shutdown != ShutdownKind::Replaced {
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
        // After SIGINT the liveness key expires on its own (extensions X-8.5).
        if shutdown == ShutdownKind::Leaving
            && let Some(liveness_key) = &mut self.liveness_key
            && let Ok(Err(error)) = timeout(LAST_PUBLISH_LIMIT, liveness_key.revoke(LAST_PUBLISH_LIMIT)).await
        {
            debug!(error = %Chain(&error), "could not revoke the liveness key");
        }
        shutdown
    }

    /// Stops the instance fast; a second signal makes it an immediate shutdown (keeper W6). The liveness key is renewed
    /// until then.
    async fn stop_instance(&mut self) -> Result<(), InstanceError> {
        let Self {
            liveness_key,
            signals,
            instance,
            ..
        } = self;
        let renewals = renew_loop(liveness_key.as_mut());
        tokio::pin!(renewals);
        let mut limits = StopLimits::default();
        loop {
            tokio::select! {
                stopped = instance.stop(limits) => return stopped.map(drop),
                _ = signals.next() => {
                    warn!("second signal, stopping postgres at once");
                    limits.fast = Duration::ZERO;
                }
                () = &mut renewals => {}
            }
        }
    }
}

/// Aborts a round and waits for its end.
async fn abort(running_round: RunningRound) {
    drop(running_round.abort);
    if timeout(ABORT_LIMIT, running_round.task).await.is_err() {
        warn!(limit = ?ABORT_LIMIT, "a round does not end");
    }
}

/// Renews the liveness key forever beside other work, which a store that does not answer must not delay (extensions
/// X-1.1).
async fn renew_loop(liveness_key: Option<&mut LivenessKey>) {
    let Some(liveness_key) = liveness_key else {
        return std::future::pending().await;
    };
    let mut renewal = interval(LIVENESS_PERIOD);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewal.tick().await;
        // A key of another process is detected by the loop's own renewals before it acts.
        liveness_key.renew();
    }
}

/// Ends the keeper when its monitor or publisher has panicked. Otherwise its info would stay outdated; this way the
/// keeper is known to be gone. Its instance runs on until a keeper is started again.
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

/// Returns PGDATA of a keeper's data directory (keeper 2.1).
pub fn data_of(config: &Config) -> PathBuf {
    layout::data_of(&config.data_dir)
}

/// Whether an info reports that its instance is stopping or stopped.
fn is_going_down(value: &[u8]) -> bool {
    from_slice::<KeeperInfo>(value).is_ok_and(|info| info.is_leaving_or_stopped())
}

/// Waits for the end of the running round; never returns if there is none.
async fn round_end(running_round: &mut Option<RunningRound>) -> (Reconciler, Option<RoundOutcome>) {
    match running_round {
        Some(running_round) => (&mut running_round.task).await.expect("a round does not panic"),
        None => std::future::pending().await,
    }
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
        assert!(!is_going_down(br#"{"uid":"k"}"#));
        assert!(!is_going_down(b"garbage"));
        assert!(is_going_down(br#"{"uid":"k","leaving":true}"#));
        assert!(is_going_down(
            br#"{"uid":"k","stopped":{"clean":true,"lsn":1,"timelineID":1}}"#
        ));
    }
}
