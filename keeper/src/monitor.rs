//! Keeps the published state of the instance current: observes it after events, while its state is about to change, and
//! periodically; important changes are published immediately. Independent of rounds, so that neither waits for the
//! other (keeper 3.2, W4).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::clock::Boottime;
use model::{DbUid, Lsn, PostgresBinaryVersion};
use tokio::sync::Notify;

use crate::connections::{self, ConnectionAttempts};
use crate::health::LoginRecoveryReporter;
use crate::local::state::LocalState;
use crate::monitor::fast_poll::FastPoll;
use crate::monitor::monitor_state::{MonitorState, next_unhealthy_delay};
use crate::monitor::published_state::{is_urgent_change, state};
use crate::monitor::receiver::{ObservedReceiver, ReceiverProcess};
use crate::monitor::ticks::Ticks;
use crate::postgres::config::conninfo::Address;
use crate::postgres::instance::Instance;
use crate::postgres::observe::{Observation, ObserveError, ObserveScope, observe, observe_data};
use crate::problems::{KeeperProblemKind, Problems};
use crate::publish::{Due, Publisher};
use crate::reconcile::RESTART_AFTER_CRASH;
use crate::streaming::Followed;
use crate::synchronous::{InSync, Mark, SyncReplication};

mod details;
mod fast_poll;
mod instance_report;
mod monitor_state;
mod published_state;
mod receiver;
mod ticks;

pub use self::instance_report::InstanceReporter;

/// Interval of looking whether the WAL receiver of a healthy standby still runs, where the kernel does not report its end.
const RECEIVER_POLL: Duration = Duration::from_millis(500);
/// Interval of observations while client logins are blocked until standbys are in sync.
const BLOCKED_LOGINS_DELAY: Duration = Duration::from_millis(100);

/// Observes the instance and publishes its state.
#[derive(Debug)]
pub struct Monitor {
    instance: Arc<Instance>,
    publisher: Arc<Publisher>,
    local: Arc<LocalState>,
    /// The published address.
    advertised: Address,
    problems: Arc<Problems>,
    synchronous: Arc<SyncReplication>,
    reporter: InstanceReporter,
    ticks: Ticks,
    wake: Notify,
    settings: Mutex<MonitorSettings>,
    connections: Mutex<ConnectionAttempts>,
    followed: Mutex<Option<Followed>>,
}

/// What a monitor begins with.
#[derive(Debug, Clone)]
pub struct MonitorOptions {
    /// The published address.
    pub advertised: Address,
    /// The cluster's sleepInterval.
    pub interval: Duration,
}

#[derive(Debug, Clone, Copy)]
struct MonitorSettings {
    interval: Duration,
    fast_poll_until: Option<Boottime>,
    /// A password may have changed: refused logins are tried again.
    try_logins_again: bool,
    /// Something was done to the server: its parameters may be others.
    query_parameters: bool,
}

/// An observation of a server that runs.
struct RunningObservation {
    observation: Observation,
    /// Its lock file reports that it does not accept connections: it starts, or shuts down.
    is_starting: bool,
}

impl From<Observation> for RunningObservation {
    fn from(observation: Observation) -> Self {
        Self {
            observation,
            is_starting: false,
        }
    }
}

impl Monitor {
    pub fn new(
        instance: Arc<Instance>,
        publisher: Arc<Publisher>,
        local: Arc<LocalState>,
        problems: Arc<Problems>,
        synchronous: Arc<SyncReplication>,
        reporter: InstanceReporter,
        options: MonitorOptions,
    ) -> Self {
        let MonitorOptions { advertised, interval } = options;
        let settings = Mutex::new(MonitorSettings {
            interval,
            fast_poll_until: None,
            try_logins_again: false,
            query_parameters: false,
        });
        Self {
            ticks: Ticks::new(instance.clock().now()),
            instance,
            publisher,
            local,
            advertised,
            problems,
            synchronous,
            reporter,
            wake: Notify::new(),
            settings,
            connections: Mutex::default(),
            followed: Mutex::default(),
        }
    }

    /// Sets the cluster's sleepInterval; observations are made twice as often (keeper 3.2).
    pub fn set_interval(&self, interval: Duration) {
        self.settings().interval = interval;
    }

    /// Sets the db that the instance has to follow; `None` for none.
    pub fn set_followed(&self, followed: Option<Followed>) {
        *self.followed() = followed;
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Option<Followed>> {
        self.followed
            .lock()
            .expect("no thread panics while holding the followed db")
    }

    /// Triggers an observation now, also of the parameters: something was done to the server.
    pub fn observe_now(&self) {
        self.settings().query_parameters = true;
        self.wake.notify_one();
    }

    /// Triggers an observation with all logins, because passwords may have changed.
    pub fn request_logins(&self) {
        self.settings().try_logins_again = true;
        self.wake.notify_one();
    }

    /// Starts fast polling, because the master is shutting down or the WAL receiver has ended: every observation is
    /// published until the position does not change any more (extensions ).
    pub fn fast_poll(&self) {
        self.settings().fast_poll_until = Some(self.now() + fast_poll::LIMIT);
        self.wake.notify_one();
    }

    /// Observes and publishes. Never returns.
    pub async fn run(&self) {
        tokio::join!(self.observe_loop(), self.try_connections());
    }

    /// Tries new connections beside the observations: an attempt at a hanging server takes the whole request timeout.
    async fn try_connections(&self) {
        loop {
            let began = self.now();
            let answered = match self.runs() {
                true => self.instance.observer().answers_new_connections().await,
                false => None,
            };
            // A failed attempt during which the server has stopped accepting connections proves nothing.
            let has_stopped = answered == Some(false) && !self.is_up().await;
            let was_failing = self.connections().is_failing();
            self.connections().record(answered.filter(|_| !has_stopped), began);
            if was_failing || self.connections().is_failing() {
                self.observe_now(); // the one that was due together with the attempt has not waited for it
            }
            tokio::time::sleep(self.until_tick()).await;
        }
    }

    fn until_tick(&self) -> Duration {
        self.ticks.until_next(self.settings().interval / 2, self.now())
    }

    /// Whether the server runs and, as far as its lock file shows, accepts connections.
    async fn is_up(&self) -> bool {
        self.runs() && self.instance.reports_ready().await.unwrap_or(true)
    }

    fn runs(&self) -> bool {
        self.instance.child_status().borrow().is_running()
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, ConnectionAttempts> {
        self.connections
            .lock()
            .expect("no thread panics while holding the connections")
    }

    /// Whether no new connection was answered for the request timeout; sets the problem.
    fn report_connections(&self, runs: bool, now: Boottime) -> bool {
        let limit = self.instance.config().request_timeout;
        let is_silent = runs && self.connections().is_silent(now, limit);
        let problem = is_silent.then(connections::problem);
        self.problems
            .set(KeeperProblemKind::Login, "connections", problem.into_iter().collect());
        is_silent
    }

    /// Sets the problem of data whose file system does not answer.
    fn report_unanswered_data(&self, observation: &Observation) {
        let unanswered = observation.failed.as_ref().and_then(ObserveError::unanswered);
        let problem = unanswered.map(|path| {
            let text = format!("{} does not answer: the instance counts as not healthy", path.display());
            KeeperProblemKind::Data.problem(&text, "fix its file system, or the server that exports it")
        });
        self.problems
            .set(KeeperProblemKind::Data, "pgdata", problem.into_iter().collect());
    }

    /// Removes what the keeper sets itself from the reported parameters.
    fn remove_own_parameters(&self, observation: &mut Observation) {
        if let (true, Some(parameters)) = (self.synchronous.is_configured(), &mut observation.parameters) {
            parameters.remove(RESTART_AFTER_CRASH);
        }
    }

    /// Returns who is in sync, and reports who is missing. `mark` was the mark before the observation.
    fn report_in_sync(&self, mark: Option<Mark>, observation: &Observation) -> InSync {
        let senders = observation.senders.as_deref().unwrap_or_default();
        let in_sync = self.synchronous.in_sync(mark, senders);
        let keeper_of = |db: &DbUid| self.reporter.keeper_of(db);
        self.synchronous.report_missing_standbys(&in_sync, senders, keeper_of);
        in_sync
    }

    /// Sets the problem of a standby that receives no WAL. An observation without a response changes nothing.
    fn report_streaming(&self, memory: &mut MonitorState, observation: &Observation, runs: bool, now: Boottime) {
        let followed = self.followed().clone();
        let is_problem = match &observation.standby {
            _ if !runs || followed.is_none() => {
                memory.streaming.reset();
                false
            }
            Some(standby) => memory.streaming.record(followed.as_ref(), standby, now).is_some(),
            None => return,
        };
        let problem = followed
            .filter(|_| is_problem)
            .map(|followed| memory.streaming.problem(&followed, &self.instance.recent_output()));
        self.problems
            .set(KeeperProblemKind::Replication, "stream", problem.into_iter().collect());
    }

    async fn observe_loop(&self) {
        let mut child_status = self.instance.child_status();
        let mut mark = self.synchronous.subscribe();
        let mut memory = MonitorState::new(LoginRecoveryReporter::new(
            Arc::clone(&self.instance),
            Arc::clone(&self.problems),
        ));
        loop {
            let delay = self.observe_once(&mut memory).await;
            tokio::select! {
                () = self.wake.notified() => {}
                // The senders belong to the instance and to its synchronous replication, and exist as long as they.
                _ = child_status.changed() => {}
                _ = mark.changed() => {}
                () = self.wait_next(delay, &mut memory) => {}
            }
        }
    }

    /// Observes once and publishes; returns the delay until the next observation.
    async fn observe_once(&self, memory: &mut MonitorState) -> Duration {
        let now = self.now();
        let db = self.local.db();
        if std::mem::take(&mut self.settings().try_logins_again) {
            memory.health.try_logins_again();
        }
        let child = *self.instance.child_status().borrow();
        let runs = child.is_running();
        let query_again = std::mem::take(&mut self.settings().query_parameters);
        let was_healthy = memory.details.begin(child, query_again);
        let mut scope = memory.scope(&db.uid, now);
        // Each login would take the request timeout and delay the observation.
        scope.logins &= !self.connections().is_failing();
        // A new cluster has no roles yet.
        scope.logins &= !db.initializing;
        let mark = self.synchronous.mark();
        let RunningObservation {
            mut observation,
            is_starting,
        } = match runs {
            true => self.observe_running(was_healthy, scope).await,
            false => observe(&self.instance, scope).await.into(),
        };
        let runs = runs && self.runs();
        memory.details.record_health(child, runs && observation.is_healthy);
        memory.log_failure(&observation, runs);
        self.report_unanswered_data(&observation);
        let is_recovering = runs && (is_starting || observation.is_not_accepting());
        memory.health.report_recovery(is_recovering, now).await;
        if self.local.db() != db {
            return Duration::ZERO; // the data now belong to another db: discard the observation
        }
        if observation.is_healthy {
            memory.health.report_logins(&observation.logins, scope.logins, now);
        }
        memory.details.fill_in(&mut observation, scope, now);
        let is_silent = self.report_connections(runs, now);
        self.report_streaming(memory, &observation, runs, now);
        let version = self.version().await;
        memory.receiver = observation.standby.as_ref().and_then(ObservedReceiver::of);
        let (position, is_standby) = (observation.position, observation.standby.is_some());
        // An open session may still work while the postmaster hangs: clients could not connect, so it is not healthy.
        let healthy = observation.is_healthy && runs && !is_silent;
        self.reporter.report(&observation, healthy);
        self.remove_own_parameters(&mut observation);
        let in_sync = self.report_in_sync(mark, &observation);
        let state = state(&db, &self.advertised, observation, healthy, &in_sync);
        // A master's position may never settle.
        let is_fast_poll = self.continue_fast_poll(memory, position.filter(|_| is_standby));
        let before = self.publisher.report();
        let due = match &before.state {
            Some(before) if !is_urgent_change(before, &state, is_fast_poll) => Due::Later,
            _ => Due::Now,
        };
        self.publisher.change(due, |report| {
            report.state = Some(state);
            report.version = version;
        });
        let usual = self.usual_delay();
        memory.unhealthy_delay = (runs && !healthy).then(|| next_unhealthy_delay(memory.unhealthy_delay, usual));
        match memory.unhealthy_delay {
            _ if is_fast_poll => fast_poll::DELAY,
            Some(delay) => delay,
            None => usual.min(self.until_tick()),
        }
    }

    /// Returns the longest delay until the next observation.
    fn usual_delay(&self) -> Duration {
        let usual = self.settings().interval / 2;
        match self.synchronous.are_logins_blocked() {
            true => usual.min(BLOCKED_LOGINS_DELAY),
            false => usual,
        }
    }

    /// Observes a server that runs. One that was healthy is queried at once, and its files are read only if it does not
    /// answer: they show that it shuts down or starts, or that its file system hangs.
    async fn observe_running(&self, was_healthy: bool, scope: ObserveScope) -> RunningObservation {
        let unhealthy = match was_healthy {
            false => None,
            true => match observe_data(&self.instance, true, scope).await {
                healthy if healthy.is_healthy || !self.runs() => return healthy.into(),
                unhealthy => Some(unhealthy),
            },
        };
        match (self.instance.file_status().await, unhealthy) {
            (Ok(status), _) if !status.reports_ready => RunningObservation {
                observation: Observation::default(),
                is_starting: true,
            },
            (Err(failed), _) if failed.unanswered().is_some() => Observation::failed(ObserveError::Data(failed)).into(),
            (Ok(status), Some(unhealthy)) if status.is_initialised => unhealthy.into(),
            (Ok(status), _) => observe_data(&self.instance, status.is_initialised, scope).await.into(),
            (Err(_), Some(unhealthy)) => unhealthy.into(),
            (Err(_), None) => observe(&self.instance, scope).await.into(),
        }
    }

    /// Returns the published version of the programs.
    async fn version(&self) -> PostgresBinaryVersion {
        let version = self.instance.programs().version().await;
        version.map_or_else(
            |_| PostgresBinaryVersion::default(),
            |version| PostgresBinaryVersion {
                major: version.major.into(),
                minor: version.minor.into(),
            },
        )
    }

    /// Waits; starts fast polling when the WAL receiver of a standby ends meanwhile.
    async fn wait_next(&self, delay: Duration, memory: &mut MonitorState) {
        let receiver = memory.open_receiver.process(memory.receiver);
        let receiver_ended = async {
            match receiver {
                ReceiverProcess::Runs(process) => process.ended_or_polled_every(RECEIVER_POLL).await,
                ReceiverProcess::HasEnded => tokio::time::sleep(fast_poll::DELAY).await,
                ReceiverProcess::NoneOrUnknown => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = receiver_ended => {
                memory.open_receiver.close();
                self.fast_poll();
            }
        }
    }

    fn continue_fast_poll(&self, memory: &mut MonitorState, position: Option<Lsn>) -> bool {
        let now = self.now();
        let mut settings = self.settings();
        let Some(until) = settings.fast_poll_until else {
            return false;
        };
        if !FastPoll::record(&mut memory.fast_poll, until, position, memory.receiver, now) {
            settings.fast_poll_until = None;
        }
        // The last one is published, too.
        position.is_some()
    }

    fn now(&self) -> Boottime {
        self.instance.clock().now()
    }

    fn settings(&self) -> std::sync::MutexGuard<'_, MonitorSettings> {
        self.settings
            .lock()
            .expect("no thread panics while holding the settings")
    }
}
