//! Keeps the published state of the instance current: observes it after events, while its state is about to change, and
//! periodically; important changes are published immediately. Independent of rounds, so that neither waits for the
//! other (keeper 3.2, W4).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use model::{DbUid, Lsn, PostgresBinaryVersion, PostgresState, TimelineHistory};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::connections::{self, ConnectionAttempts};
use crate::health::Health;
use crate::local::state::LocalState;
use crate::postgres::config::conf::Parameters;
use crate::postgres::data::history::Ancestor;
use crate::postgres::instance::Instance;
use crate::postgres::observe::{Observation, ObserveError, ObserveScope, observe};
use crate::postgres::server::postmaster::ChildStatus;
use crate::problems::{KeeperProblemKind, Problems};
use crate::publish::{Due, Publisher};
use crate::streaming::{FollowedDb, StreamingCheck};

/// Observes the instance and publishes its state.
#[derive(Debug)]
pub struct Monitor {
    instance: Arc<Instance>,
    publisher: Arc<Publisher>,
    local: Arc<LocalState>,
    advertised: (String, String),
    problems: Arc<Problems>,
    wake: Notify,
    settings: Mutex<MonitorSettings>,
    connections: Mutex<ConnectionAttempts>,
    followed: Mutex<Option<FollowedDb>>,
}

#[derive(Debug, Clone, Copy)]
struct MonitorSettings {
    interval: Duration,
    fast_poll_until: Option<Boottime>,
    /// A password may have changed: rejected logins are tried again.
    try_logins_again: bool,
}

/// Interval of observations while a standby's position is expected to come to rest (extensions ).
const FAST_POLL_PAUSE: Duration = Duration::from_millis(25);
/// Time limit of fast polling.
const FAST_POLL_LIMIT: Duration = Duration::from_secs(10);
/// Fast polling ends after this number of observations with the same position and without a WAL receiver.
const UNCHANGED_POLLS_MAX: u32 = 4;
/// Initial interval of observing a server that runs and is not healthy yet; it grows up to the usual one.
const UNHEALTHY_PAUSE: Duration = Duration::from_millis(50);
/// Interval of checking the WAL receiver of a healthy standby.
const RECEIVER_PAUSE: Duration = Duration::from_millis(500);

impl Monitor {
    /// Observes nothing yet. `advertised` is the published address and port, `interval` the cluster's sleepInterval.
    pub fn new(
        instance: Arc<Instance>,
        publisher: Arc<Publisher>,
        local: Arc<LocalState>,
        problems: Arc<Problems>,
        advertised: (String, String),
        interval: Duration,
    ) -> Self {
        let settings = Mutex::new(MonitorSettings {
            interval,
            fast_poll_until: None,
            try_logins_again: false,
        });
        Self {
            instance,
            publisher,
            local,
            advertised,
            problems,
            wake: Notify::new(),
            settings,
            connections: Mutex::default(),
            followed: Mutex::default(),
        }
    }

    /// Sets the cluster's sleepInterval; observations are made twice as often (keeper 3.2).
    pub fn set_interval(&self, interval: Duration) {
        self.lock().interval = interval;
    }

    /// Sets the db that the instance has to follow; `None` for none.
    pub fn set_followed(&self, followed: Option<FollowedDb>) {
        *self.followed() = followed;
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Option<FollowedDb>> {
        self.followed
            .lock()
            .expect("no thread panics while holding the followed db")
    }

    /// Triggers an observation now.
    pub fn observe_now(&self) {
        self.wake.notify_one();
    }

    /// Triggers an observation with all logins, because passwords may have changed.
    pub fn try_logins(&self) {
        self.lock().try_logins_again = true;
        self.wake.notify_one();
    }

    /// Starts fast polling, because the master is shutting down or the WAL receiver has ended: every observation is
    /// published until the position comes to rest (extensions ).
    pub fn fast_poll(&self) {
        self.lock().fast_poll_until = Some(self.now() + FAST_POLL_LIMIT);
        self.wake.notify_one();
    }

    /// Observes and publishes. Never returns.
    pub async fn run(&self) {
        tokio::join!(self.observe_loop(), self.try_connections());
    }

    /// Tries new connections beside the observations: an attempt at a hanging server takes the whole request timeout.
    async fn try_connections(&self) {
        let is_up = || {
            let runs = matches!(*self.instance.child_status().borrow(), ChildStatus::Running { .. });
            runs && self.instance.reports_ready().unwrap_or(true)
        };
        loop {
            let began = self.now();
            let answered = match is_up() {
                true => Some(self.instance.observer().answers_new_connections().await),
                false => None,
            };
            self.connections().note(answered.filter(|_| is_up()), began);
            let pause = self.lock().interval / 2;
            tokio::time::sleep(pause).await;
        }
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, ConnectionAttempts> {
        self.connections
            .lock()
            .expect("no thread panics while holding the connections")
    }

    /// Whether no new connection was answered for the request timeout; sets the problem.
    fn check_connections(&self, runs: bool, now: Boottime) -> bool {
        let limit = self.instance.config().request_timeout;
        let is_silent = runs && self.connections().is_silent(now, limit);
        let problem = is_silent.then(connections::problem);
        self.problems
            .set(KeeperProblemKind::Login, "connections", problem.into_iter().collect());
        is_silent
    }

    /// Sets the problem of a standby that receives no WAL. An observation without an answer changes nothing.
    fn check_streaming(&self, memory: &mut MonitorState, observation: &Observation, runs: bool, now: Boottime) {
        let followed = self.followed().clone();
        let is_refused = match &observation.standby {
            _ if !runs || followed.is_none() => {
                memory.streaming.reset();
                false
            }
            Some(standby) => memory.streaming.note(followed.as_ref(), standby, now).is_some(),
            None => return,
        };
        let problem = followed
            .filter(|_| is_refused)
            .map(|followed| memory.streaming.problem(&followed, &self.instance.recent_output()));
        self.problems
            .set(KeeperProblemKind::Replication, "stream", problem.into_iter().collect());
    }

    async fn observe_loop(&self) {
        let mut child_status = self.instance.child_status();
        let mut memory = MonitorState::new(Health::new(Arc::clone(&self.instance), Arc::clone(&self.problems)));
        loop {
            let pause = self.observe_once(&mut memory).await;
            tokio::select! {
                () = self.wake.notified() => {}
                // The sender belongs to the instance and exists as long as it.
                _ = child_status.changed() => {}
                () = self.wait_next(pause, &memory) => {}
            }
        }
    }

    /// Observes once and publishes; returns the pause until the next observation.
    async fn observe_once(&self, memory: &mut MonitorState) -> Duration {
        let now = self.now();
        let db = self.local.db();
        if std::mem::take(&mut self.lock().try_logins_again) {
            memory.health.try_logins_again();
        }
        let runs = matches!(*self.instance.child_status().borrow(), ChildStatus::Running { .. });
        let mut scope = memory.scope(&db.uid, now);
        // Each attempt would take the request timeout and delay the observation.
        scope.logins &= !self.connections().is_failing();
        let is_starting = runs && !self.instance.reports_ready().unwrap_or(true);
        let mut observation = match is_starting {
            true => Observation::default(),
            false => observe(&self.instance, scope).await,
        };
        let runs = runs && matches!(*self.instance.child_status().borrow(), ChildStatus::Running { .. });
        memory.log_failure(&observation, runs);
        let recovers = runs && (is_starting || observation.is_not_accepting());
        memory.health.check_recovery(recovers, now).await;
        if self.local.db() != db {
            return Duration::ZERO; // the data now belong to another db: discard the observation
        }
        if observation.is_healthy {
            memory.health.record_logins(&observation.logins, scope.logins, now);
        }
        memory.details.carry(&mut observation, scope, now);
        let is_silent = self.check_connections(runs, now);
        self.check_streaming(memory, &observation, runs, now);
        let version = self.instance.programs().version().await;
        let version = version.map_or_else(
            |_| PostgresBinaryVersion::default(),
            |version| PostgresBinaryVersion {
                major: version.major.into(),
                minor: version.minor.into(),
            },
        );
        memory.has_receiver = observation
            .standby
            .as_ref()
            .is_some_and(|standby| standby.receiver.is_some());
        let position = observation.position;
        // An open session may still work while the postmaster hangs: clients could not connect, so it is not healthy.
        let healthy = observation.is_healthy && runs && !is_silent;
        let state = state(&db.uid, db.generation, &self.advertised, observation, healthy);
        let is_fast_poll = self.continue_fast_poll(memory, position);
        let before = self.publisher.report();
        let due = match &before.state {
            Some(before) if !differs(before, &state, is_fast_poll) => Due::Later,
            _ => Due::Now,
        };
        self.publisher.change(due, |report| {
            report.state = Some(state);
            report.version = version;
        });
        let usual = self.lock().interval / 2;
        memory.unhealthy_pause = (runs && !healthy).then(|| next_unhealthy_pause(memory.unhealthy_pause, usual));
        match memory.unhealthy_pause {
            _ if is_fast_poll => FAST_POLL_PAUSE,
            Some(pause) => pause,
            None => usual,
        }
    }

    /// Waits; starts fast polling when the WAL receiver of a standby ends meanwhile.
    async fn wait_next(&self, pause: Duration, memory: &MonitorState) {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        if !memory.has_receiver {
            return over.await;
        }
        loop {
            tokio::select! {
                () = &mut over => return,
                () = tokio::time::sleep(RECEIVER_PAUSE) => {}
            }
            match self.instance.observer().standby().await {
                Ok(Some(standby)) if standby.receiver.is_some() => {}
                _ => return self.fast_poll(),
            }
        }
    }

    fn continue_fast_poll(&self, memory: &mut MonitorState, position: Option<Lsn>) -> bool {
        let mut settings = self.lock();
        let Some(end) = settings.fast_poll_until else {
            memory.unchanged_polls = 0;
            return false;
        };
        let is_unchanged = position == memory.position && !memory.has_receiver;
        memory.unchanged_polls = if is_unchanged { memory.unchanged_polls + 1 } else { 0 };
        memory.position = position;
        if position.is_none() || memory.unchanged_polls >= UNCHANGED_POLLS_MAX || self.now() >= end {
            settings.fast_poll_until = None;
            memory.unchanged_polls = 0;
            return position.is_some();
        }
        true
    }

    fn now(&self) -> Boottime {
        self.instance.clock().now()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MonitorSettings> {
        self.settings
            .lock()
            .expect("no thread panics while holding the settings")
    }
}

/// Returns the pause after observing an unhealthy server: 1.5 times the previous one, up to the usual one. It is
/// bounded before it is kept, because a recovery may last for days.
fn next_unhealthy_pause(before: Option<Duration>, usual: Duration) -> Duration {
    let next = before.map_or(UNHEALTHY_PAUSE, |before| before.saturating_add(before / 2));
    next.min(usual)
}

/// State kept between observations.
#[derive(Debug)]
struct MonitorState {
    health: Health,
    failing: Option<String>,
    unhealthy_pause: Option<Duration>,
    position: Option<Lsn>,
    unchanged_polls: u32,
    has_receiver: bool,
    streaming: StreamingCheck,
    /// The db that the following fields belong to.
    db: DbUid,
    details: Details,
}

/// Details of the last observations.
#[derive(Debug, Default)]
struct Details {
    /// The parameters. Only the keeper's own reloads change them.
    parameters: Option<Parameters>,
    /// When details could not be queried.
    failed: Option<Boottime>,
}

impl Details {
    fn are_due(&self, now: Boottime) -> bool {
        self.failed.is_none_or(|at| now.since(at) >= DETAILS_PAUSE)
    }

    /// Fills in parameters that could not be queried this time.
    fn carry(&mut self, observation: &mut Observation, scope: ObserveScope, now: Boottime) {
        if !observation.is_healthy {
            return;
        }
        if observation.parameters.is_none() && self.parameters.is_none() && !observation.is_refused() {
            // A new cluster adopts the parameters of its first master (sentinel I-4): missing ones must not be
            // published as none.
            observation.is_healthy = false;
            self.failed = None;
            return;
        }
        if scope.details {
            self.failed = observation.failed.as_ref().map(|_| now);
        }
        match &observation.parameters {
            Some(parameters) => self.parameters = Some(parameters.clone()),
            None => observation.parameters = self.parameters.clone(),
        }
    }
}

/// Pause after a failed query of details: each attempt may take a request timeout.
const DETAILS_PAUSE: Duration = Duration::from_secs(30);

impl MonitorState {
    fn new(health: Health) -> Self {
        Self {
            health,
            failing: None,
            unhealthy_pause: None,
            position: None,
            unchanged_polls: 0,
            has_receiver: false,
            streaming: StreamingCheck::default(),
            db: DbUid::default(),
            details: Details::default(),
        }
    }

    /// Returns what the next observation queries.
    fn scope(&mut self, db: &DbUid, now: Boottime) -> ObserveScope {
        if self.db != *db {
            self.db = db.clone();
            self.details = Details::default();
        }
        ObserveScope {
            details: self.details.are_due(now),
            logins: self.health.is_login_due(now),
            replication: !self.health.is_replication_refused() || self.health.is_login_due(now),
        }
    }

    /// Logs the begin and the end of a failure. A server that is not running is not expected to answer.
    fn log_failure(&mut self, observation: &Observation, runs: bool) {
        let Some(failed) = observation.failed.as_ref().filter(|_| runs) else {
            if observation.is_healthy && observation.parameters.is_some() && self.failing.take().is_some() {
                info!("postgres answers");
            }
            return;
        };
        let message = failed.to_string();
        if self.failing.as_ref() == Some(&message) {
            return;
        }
        let cause = std::error::Error::source(failed)
            .map(|cause| Chain(cause).to_string())
            .unwrap_or_default();
        match failed {
            ObserveError::Parameters(_) => warn!(error = cause, "cannot get configured pg parameters"),
            ObserveError::Data(_) => warn!(error = cause, "cannot look at the data directory"),
            ObserveError::Sql(_) | ObserveError::Position(_) => warn!(error = cause, "error getting pg state"),
        }
        self.failing = Some(message);
    }
}

/// Builds the published state (keeper 3.4).
fn state(
    uid: &DbUid,
    generation: i64,
    advertised: &(String, String),
    observation: Observation,
    healthy: bool,
) -> PostgresState {
    let entry = |ancestor: Ancestor| TimelineHistory {
        timeline_id: ancestor.timeline,
        switch_point: ancestor.switch_point,
        reason: ancestor.reason,
    };
    // only names with the keepers' prefix (keeper 3.5 step 4)
    let in_sync = |names: Vec<String>| {
        names
            .iter()
            .filter_map(|name| name.strip_prefix("stolon_"))
            .map(Into::into)
            .collect()
    };
    PostgresState {
        uid: uid.clone(),
        generation,
        listen_address: advertised.0.clone(),
        port: advertised.1.clone(),
        healthy,
        system_id: observation.system_id.map(|id| id.to_string()).unwrap_or_default(),
        timeline_id: observation.timeline.unwrap_or_default(),
        xlog_pos: observation.position.unwrap_or_default(),
        timelines_history: observation.history.into_iter().map(entry).collect(),
        pg_parameters: observation.parameters.unwrap_or_default(),
        synchronous_standbys: observation.in_sync.map(in_sync),
        older_wal_file: observation.oldest_wal.unwrap_or_default(),
    }
}

/// Whether a change is published immediately. Positions change all the time and count only during fast polling.
fn differs(before: &PostgresState, after: &PostgresState, is_fast_poll: bool) -> bool {
    let level = |state: &PostgresState| PostgresState {
        xlog_pos: if is_fast_poll { state.xlog_pos } else { Lsn::default() },
        older_wal_file: String::new(),
        ..state.clone()
    };
    level(before) != level(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::refusal::ServerRefusal;
    use crate::postgres::client::sql_error::SqlError;

    #[test]
    fn positions_alone_are_published_immediately_only_during_fast_polling() {
        let before = PostgresState {
            healthy: true,
            xlog_pos: Lsn(1),
            ..PostgresState::default()
        };
        let moved = PostgresState {
            xlog_pos: Lsn(2),
            older_wal_file: "x".into(),
            ..before.clone()
        };
        assert!(!differs(&before, &moved, false));
        assert!(differs(&before, &moved, true));
        assert!(differs(
            &before,
            &PostgresState {
                healthy: false,
                ..before.clone()
            },
            false
        ));
        assert!(differs(
            &before,
            &PostgresState {
                generation: 2,
                ..before.clone()
            },
            false
        ));
    }

    #[test]
    fn parameters_that_were_never_read_are_not_reported_as_none() {
        let unanswered = || Observation {
            is_healthy: true,
            failed: Some(ObserveError::Parameters(SqlError::Timeout {
                action: "read",
                limit: Duration::from_secs(1),
            })),
            ..Observation::default()
        };
        let now = Boottime::from_nanos(0);
        let mut read = Details::default();
        let mut first = unanswered();
        read.carry(&mut first, ObserveScope::ALL, now);
        assert!(!first.is_healthy && read.are_due(now));

        // A rejected login proves that the server is alive, and must not cause a failover.
        let mut refused = unanswered();
        refused.failed = None;
        refused.logins.superuser = Some(Err(ServerRefusal::new("28P01", "no").unwrap()));
        read.carry(&mut refused, ObserveScope::ALL, now);
        assert!(refused.is_healthy);

        let mut whole = Observation {
            is_healthy: true,
            parameters: Some(Parameters::from([("a".into(), "1".into())])),
            ..Observation::default()
        };
        read.carry(&mut whole, ObserveScope::ALL, now);
        let mut later = unanswered();
        read.carry(&mut later, ObserveScope::ALL, now);
        assert!(later.is_healthy && !read.are_due(now));
        assert_eq!(later.parameters, whole.parameters);
    }

    #[test]
    fn the_pause_never_overflows_however_long_a_server_is_unhealthy() {
        // 292 years is the longest duration of a spec.
        for usual in [
            Duration::ZERO,
            Duration::from_secs(1),
            Duration::from_nanos(i64::MAX as u64),
            Duration::MAX,
        ] {
            let mut pause = None;
            for _ in 0..100_000 {
                pause = Some(next_unhealthy_pause(pause, usual));
                assert!(pause <= Some(usual));
            }
            assert_eq!(pause, Some(usual));
        }
    }

    #[test]
    fn only_names_with_our_prefix_are_reported_in_sync() {
        let observation = Observation {
            in_sync: Some(vec!["stolon_b".into(), "other".into()]),
            ..Observation::default()
        };
        let state = state(&"a".into(), 1, &("h".into(), "1".into()), observation, true);
        assert_eq!(state.synchronous_standbys, Some(vec!["b".into()]));
    }
}
