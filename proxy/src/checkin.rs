//! The check-in with the store: reads the cluster data, closes a route that they end, publishes the proxy info against
//! the revision read, and only then opens or keeps a route (fencing F-1, F-2). What the data mean is decided in
//! `route`; clients are served by `listener`.

mod document;
mod info_publisher;
mod requests;
mod resolve;
mod resolver;
mod route_log;
mod shutdown;
mod status;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base::clock::{Boottime, wall_clock};
use base::{Chain, Clock};
use model::{JsonError, ProxyUid};
use store::{KeyRange, LeaseId, Store, StoreError, Watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use self::document::Document;
use self::info_publisher::{ProxyInfoLease, PublishOutcome};
use self::requests::PublishRequests;
use self::resolver::Resolver;
use self::route_log::RouteLog;
pub use self::status::CheckInStatus;
use crate::address::MasterAddress;
use crate::listener::{Backend, ListenerHandle};
use crate::metrics::Metrics;
use crate::relay::{CloseReason, Gate};
use crate::route::{MasterEndpoint, PublishInfo, Route, RouteDecision, StoredClusterData, decide};

/// Pauses between the starts of failing check-ins (proxy P-2).
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// From this latency on, check-ins start early so that the lease does not end before the store has answered.
const SLOW_LATENCY: Duration = Duration::from_millis(100);
/// How many nanoseconds the wall clock may move further than the boottime clock before the machine counts as having
/// been paused (fencing section 1).
const CLOCK_JUMP_MAX: i128 = 1_000_000_000;

/// The intervals of the cluster spec (proxy P-2, fencing F-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckInTiming {
    /// Pause between check-ins.
    pub check_interval: Duration,
    /// Length of the lease that a good check-in grants.
    pub timeout: Duration,
}

impl Default for CheckInTiming {
    /// Used until cluster data have been read (proxy P-2).
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
        }
    }
}

impl CheckInTiming {
    /// Returns the time limit of one check-in as a whole (proxy P-3).
    ///
    /// After failures at least `pause`: a third of a valid proxyTimeout may be too short for any store, and then no
    /// check-in would ever read the spec that corrects it. On a slow store there is time for four answers, but at most
    /// half of the remaining lease is used, so that after a request without an answer there is time for another
    /// check-in. Two answers, a conflict and its retry, always have time.
    fn attempt_limit(
        self,
        store_limit: Duration,
        pause: Duration,
        latency: Duration,
        lease_left: Duration,
    ) -> Duration {
        let usual = store_limit.min((self.timeout / 3).max(pause));
        let timing = latency.saturating_mul(4);
        if lease_left.is_zero() {
            return usual.max(timing);
        }
        let two_answers = latency.saturating_mul(5) / 2;
        usual.max(timing.min(lease_left / 2)).max(two_answers)
    }

    /// Returns the pause after a good check-in (proxy P-2). It is counted from the sending of the answered request,
    /// which may be one of the previous check-in. It has a minimum, so that a proxyCheckInterval of 0 causes no busy
    /// loop. On a slow store the next check-in starts while the lease leaves time for four answers: two with conflicts,
    /// and two in reserve.
    fn pause(self, lease_left: Duration, latency: Duration) -> Duration {
        let since_sent = self.timeout.saturating_sub(lease_left);
        let usual = self.check_interval.saturating_sub(since_sent).max(RETRY_PAUSE_MIN);
        if latency < SLOW_LATENCY {
            return usual;
        }
        let spare = lease_left.saturating_sub(latency.saturating_mul(4));
        usual.min(spare.max(RETRY_PAUSE_MIN))
    }
}

/// An error that ends the proxy.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The first attempt to listen failed; later ones are retried.
    #[error("listen for clients on {address}: {reason} (--listen-address, --port)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        reason: String,
    },
}

/// Why a check-in failed.
#[derive(Debug, thiserror::Error)]
enum CheckInError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("decode {key}")]
    Decode {
        key: String,
        #[source]
        source: JsonError,
    },
    #[error("the check-in took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the wall clock jumped during the check-in")]
    ClockJumped,
    #[error("the proxy info is attached to a later lease of the store")]
    LaterLease,
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// The result of a check-in that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckInResult {
    /// The lease is renewed.
    Good,
    /// The cluster data must not be used; the lease is not renewed.
    Unusable,
}

/// The check-in loop and its state.
#[derive(Debug)]
pub struct CheckIn {
    store: Store,
    cluster_name: String,
    me: ProxyUid,
    listener: ListenerHandle,
    metrics: Arc<Metrics>,
    status: Arc<CheckInStatus>,
    /// The intervals of the last good check-in; `None` before the first one that read cluster data.
    applied_timing: Option<CheckInTiming>,
    open_route: Option<OpenRoute>,
    /// The cluster data of the last good check-in, or newer ones from the watch or from a conflict.
    cached: Option<Document>,
    info_lease: Option<ProxyInfoLease>,
    /// Id of the lease that was requested last.
    last_lease: Option<LeaseId>,
    requests: PublishRequests,
    lease_renewal: Option<(Boottime, JoinHandle<Result<bool, StoreError>>)>,
    /// The generation that was last published, or may have been.
    published_generation: Option<i64>,
    last_clocks: Option<(Boottime, i128)>,
    resolver: Resolver,
    log: RouteLog,
}

/// The open route.
#[derive(Debug)]
struct OpenRoute {
    db: String,
    /// The master's endpoint in the cluster data.
    endpoint: Option<MasterEndpoint>,
    address: SocketAddr,
    /// End of the lease of the last check-in at which the name resolved to the address.
    confirmed_until: Boottime,
    gate: Arc<Gate>,
    backend: Arc<Backend>,
}

#[expect(clippy::disallowed_methods, reason = "the check-in is where time enters")]
fn now() -> Boottime {
    Boottime::now()
}

#[expect(clippy::disallowed_methods, reason = "the guard compares both clocks")]
fn both_clocks() -> (Boottime, i128) {
    (Boottime::now(), wall_clock())
}

/// Whether the wall clock moved over a second further than the boottime clock (fencing section 1).
fn has_jumped(before: (Boottime, i128), after: (Boottime, i128)) -> bool {
    let boottime = i128::from(after.0.as_nanos()) - i128::from(before.0.as_nanos());
    after.1 - before.1 - boottime > CLOCK_JUMP_MAX
}

impl CheckIn {
    /// Returns a proxy that has not checked in yet.
    pub fn new(
        store: Store,
        cluster_name: String,
        me: ProxyUid,
        listener: ListenerHandle,
        metrics: Arc<Metrics>,
        status: Arc<CheckInStatus>,
    ) -> Self {
        Self {
            store,
            cluster_name,
            me,
            listener,
            metrics,
            status,
            applied_timing: None,
            open_route: None,
            cached: None,
            info_lease: None,
            last_lease: None,
            requests: PublishRequests::default(),
            lease_renewal: None,
            published_generation: None,
            last_clocks: None,
            resolver: Resolver::system(),
            log: RouteLog::default(),
        }
    }

    fn timing(&self) -> CheckInTiming {
        self.applied_timing.unwrap_or_default()
    }

    /// Checks in until the proxy cannot go on (proxy P-2): that is, only if the first attempt to listen fails.
    pub async fn run(&mut self) -> FatalError {
        let watch = self
            .store
            .watch(vec![KeyRange::Key(self.store.keys().cluster_data())], None);
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let started = now();
            let outcome = match self.attempt(pause).await {
                Ok(outcome) => outcome,
                Err(fatal) => return fatal,
            };
            let wait = if outcome == Some(CheckInResult::Good) && !self.log.unresolved {
                pause = RETRY_PAUSE_MIN;
                let lease_end = self.listener.lease_end().unwrap_or_default();
                self.timing().pause(lease_end.since(now()), self.store.latency())
            } else {
                // Measured from start to start: an attempt that has already waited long for the store is repeated at
                // once.
                let rest = pause.saturating_sub(now().since(started));
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
                rest
            };
            self.sleep(wait, &watch).await;
        }
    }

    async fn sleep(&mut self, wait: Duration, watch: &Watch) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.resolver.finished() => {}
            changes = watch.changed() => {
                self.metrics.route.watch_events.increment(1);
                self.cache_changes(&changes);
                if changes.gap {
                    self.metrics.route.watch_gaps.increment(1);
                }
            }
        }
    }

    /// Runs one check-in within its time limit. `None`: it failed, and that was logged.
    async fn attempt(&mut self, pause: Duration) -> Result<Option<CheckInResult>, FatalError> {
        let lease_end = self.listener.lease_end().unwrap_or_default();
        let left = lease_end.since(now());
        let limit = self
            .timing()
            .attempt_limit(self.store.timeout(), pause, self.store.latency(), left);
        let outcome = self.check_in(now(), limit).await;
        match outcome {
            Err(CheckInError::Fatal(fatal)) => Err(fatal),
            Ok(result) => {
                let counter = match result {
                    CheckInResult::Good => &self.metrics.route.checkins_good,
                    CheckInResult::Unusable => &self.metrics.route.checkins_unusable,
                };
                counter.increment(1);
                self.status.set_failure(None);
                if self.log.failure.take().is_some() {
                    info!("checking in again");
                }
                Ok(Some(result))
            }
            Err(error) => {
                let (counter, what) = match &error {
                    CheckInError::Decode { .. } => (&self.metrics.route.checkins_unusable, "cluster data unreadable"),
                    _ => (&self.metrics.route.checkins_failed, "store silent"),
                };
                counter.increment(1);
                self.status.set_failure(Some(format!("{what}: {}", Chain(&error))));
                self.log_failure(&error);
                Ok(None)
            }
        }
    }

    /// Runs one check-in: decides from the cluster data, and publishes against the revision that the decision is based
    /// on, again after each conflict (fencing F-1).
    ///
    /// It starts from the cached cluster data: if they have changed, the transaction that publishes fails and returns
    /// the current ones. Only when there is nothing to publish are they read.
    async fn check_in(&mut self, started: Boottime, limit: Duration) -> Result<CheckInResult, CheckInError> {
        self.finish_lease_renewal().await;
        self.renew_info_lease();
        let left = |limit: Duration| Some(limit.saturating_sub(now().since(started))).filter(|left| !left.is_zero());
        let key = self.store.keys().cluster_data();
        let mut cached = self.cached.take();
        loop {
            // Before every decision: a pause that the boottime clock has not counted may have outlasted the lease.
            self.check_clocks();
            let document = match cached.take() {
                Some(document) => document,
                None => self.read(left(limit).ok_or(CheckInError::TimedOut(limit))?).await?,
            };
            let stored = StoredClusterData::parse(document.value()).map_err(|source| CheckInError::Decode {
                key: key.clone(),
                source,
            })?;
            if let Some(read_at) = document.read_at {
                self.start_listening(read_at).await?;
            }
            let endpoint = stored.master_endpoint().map(|(_, endpoint)| endpoint);
            // A lookup may take long, and a route to a master that is not named any more must not wait for it.
            self.close_renamed_route(endpoint.as_ref());
            let (network, master_address) = self
                .resolve_master(&stored, left(limit).ok_or(CheckInError::TimedOut(limit))?)
                .await;
            let decision = decide(&stored, &network, &self.me);
            let timing = match &stored {
                StoredClusterData::Usable(data) => CheckInTiming {
                    check_interval: data.spec.proxy_check_interval,
                    timeout: data.spec.proxy_timeout,
                },
                StoredClusterData::Absent | StoredClusterData::Unusable(_) => self.timing(),
            };
            self.close_ended_route(&decision); // before anything is published (fencing F-1)
            // A late answer to an earlier request must not renew the lease after a decision that publishes nothing.
            if decision.publish == PublishInfo::No {
                self.requests.discard();
            }
            if matches!(&decision.route, Route::Closed(reason) if !reason.may_be_master_change()) {
                self.end_master_change();
            }
            if matches!(stored, StoredClusterData::Absent) {
                // At most half of the remaining time: only a hint in the log depends on it.
                self.read_former_keepers(left(limit).ok_or(CheckInError::TimedOut(limit))? / 2)
                    .await;
            }
            self.log_route(&decision.route, master_address.as_ref());
            if let PublishInfo::Try(generation) | PublishInfo::Must(generation) = decision.publish {
                self.metrics.route.generation.set(generation as f64);
            }
            let lease_start = match (decision.publish, document.read_at) {
                // Without a transaction only a read proves that the cached data are current.
                (PublishInfo::No, None) => continue,
                _ if !decision.renews_lease => return Ok(CheckInResult::Unusable),
                (PublishInfo::No, Some(read_at)) => read_at,
                (PublishInfo::Try(generation) | PublishInfo::Must(generation), read_at) => {
                    let left = left(limit).ok_or(CheckInError::TimedOut(limit))?;
                    let publication = self.publish(&key, document.revision, generation, timing.timeout, left);
                    match (publication.await, read_at) {
                        (Ok(PublishOutcome::Published(sent_at)), _) => {
                            self.log.publish_failed = false;
                            sent_at
                        }
                        (Ok(PublishOutcome::Changed(newer)), _) => {
                            cached = Some(newer); // conflict: decide again from the current data
                            continue;
                        }
                        (Err(err), Some(read_at)) if matches!(decision.publish, PublishInfo::Try(_)) => {
                            if !std::mem::replace(&mut self.log.publish_failed, true) {
                                warn!(error = %Chain(&err), "could not publish the proxy info");
                            }
                            read_at
                        }
                        (Err(_), None) if matches!(decision.publish, PublishInfo::Try(_)) => continue,
                        (Err(err), _) => {
                            self.cached = Some(document.without_read_time());
                            return Err(err);
                        }
                    }
                }
            };
            // The same for a pause since the request was sent.
            if self.check_clocks() {
                return Err(CheckInError::ClockJumped);
            }
            if matches!(stored, StoredClusterData::Usable(_)) {
                self.applied_timing = Some(timing);
            }
            // An address that was only kept must not be renewed by this check-in, which has not confirmed it.
            let kept_until = match &master_address {
                Some(MasterAddress::Kept { until, .. }) => Some(*until),
                _ => None,
            };
            if decision.publish != PublishInfo::No {
                self.cached = Some(document.without_read_time());
            }
            self.apply(decision.route, endpoint, kept_until, lease_start, timing.timeout);
            return Ok(CheckInResult::Good);
        }
    }

    /// Starts listening after the first read of the store, whatever it returned (proxy P-5).
    ///
    /// # Errors
    ///
    /// The address cannot be listened on. Later failures are retried by the listener.
    async fn start_listening(&mut self, read_at: Boottime) -> Result<(), FatalError> {
        let timeout = self.timing().timeout;
        let first = self.listener.command_if(|command| {
            let first = command.lease_end.is_none();
            if first {
                command.lease_end = Some(read_at + timeout);
                command.proxy_timeout = timeout;
            }
            first
        });
        if !first {
            return Ok(());
        }
        let address = self.listener.address();
        match self.listener.listen_failure().await {
            Some(reason) => Err(FatalError::Listen { address, reason }),
            None => Ok(()),
        }
    }

    /// Stops forwarding at once if the decision closes the route or moves it to another address (fencing F-1, proxy
    /// P-6).
    fn close_ended_route(&mut self, decision: &RouteDecision) {
        let Some(open) = &self.open_route else { return };
        if !matches!(&decision.route, Route::Open { master, .. } if *master == open.address) {
            self.close_route(CloseReason::RouteChange);
        }
    }

    /// Stops forwarding at once if the master's endpoint has changed to a name, without waiting for its lookup (proxy
    /// P-6).
    fn close_renamed_route(&mut self, endpoint: Option<&MasterEndpoint>) {
        let slow = endpoint.is_some_and(|endpoint| endpoint.host.parse::<IpAddr>().is_err());
        if slow
            && self
                .open_route
                .as_ref()
                .is_some_and(|open| open.endpoint.as_ref() != endpoint)
        {
            self.close_route(CloseReason::RouteChange);
        }
    }

    fn close_route(&mut self, reason: CloseReason) {
        if reason != CloseReason::Lease {
            self.requests.discard();
        }
        let Some(open) = self.open_route.take() else { return };
        self.listener.disconnect(&open.gate, reason, now());
        self.listener.command(|command| {
            command.backend = None;
            command.master_changing = reason == CloseReason::RouteChange;
        });
        self.status.route_closed(match reason {
            CloseReason::RouteChange => "the master is changing".to_owned(),
            CloseReason::Lease => "the lease had ended".to_owned(),
            CloseReason::ClockJump => "the wall clock jumped".to_owned(),
            CloseReason::Stopping => "stopping".to_owned(),
        });
        self.route_metrics(Some(&open.db), None);
    }

    /// Ends the change of the master, so that no client is held any longer.
    fn end_master_change(&self) {
        self.listener
            .command_if(|command| std::mem::replace(&mut command.master_changing, false));
    }

    /// Closes the route if the machine may have been paused together with its boottime clock (fencing section 1).
    /// Returns whether it did.
    fn check_clocks(&mut self) -> bool {
        let clocks = both_clocks();
        let jumped = self
            .last_clocks
            .replace(clocks)
            .is_some_and(|before| has_jumped(before, clocks));
        if jumped {
            warn!("the wall clock has moved more than the time that passed, closing connections to master");
            self.close_route(CloseReason::ClockJump);
        }
        jumped
    }

    /// Applies the decision of a good check-in: renews the route's lease or opens a new route, and renews the
    /// listener's. A route to an address that was only kept ends at `kept_until`.
    fn apply(
        &mut self,
        route: Route,
        endpoint: Option<MasterEndpoint>,
        kept_until: Option<Boottime>,
        lease_start: Boottime,
        timeout: Duration,
    ) {
        let (checked_at, mut opened) = (now(), None);
        let lease_end = lease_start + timeout;
        if let Route::Open { db, master } = route {
            // Never past the published timeout, even if the lease that confirmed the address was longer (fencing F-2).
            let confirmed_until = kept_until.unwrap_or(lease_end);
            let route_end = lease_end.min(confirmed_until);
            let kept = self
                .open_route
                .as_mut()
                .filter(|open| open.gate.renew(route_end, checked_at));
            if let Some(open) = kept {
                open.endpoint = endpoint;
                open.confirmed_until = confirmed_until;
                if open.db != db.as_str() {
                    let before = std::mem::replace(&mut open.db, db.as_str().to_owned());
                    self.metrics.route.set_master(Some(&before), Some(db.as_str())); // same address, other db (proxy P-6)
                }
            } else {
                self.close_route(CloseReason::Lease); // its lease ended before this check-in could renew it
                let gate = Arc::new(Gate::new(route_end));
                let backend = Arc::new(Backend::new(
                    master,
                    Arc::clone(&gate),
                    Arc::clone(&self.metrics),
                    Clock::system(),
                ));
                self.open_route = Some(OpenRoute {
                    db: db.as_str().to_owned(),
                    endpoint,
                    address: master,
                    confirmed_until,
                    gate,
                    backend: Arc::clone(&backend),
                });
                self.status.route_opened(format!("db {db} at {master}"));
                self.route_metrics(None, Some(db.as_str()));
                opened = Some(backend);
                info!(address = %master, "proxying to master address");
            }
        }
        self.status.check_in_succeeded(checked_at, lease_end);
        self.listener.command(|command| {
            command.lease_end = Some(lease_end);
            command.proxy_timeout = timeout;
            if opened.is_some() {
                command.backend = opened;
                command.master_changing = false;
            }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "a metric in unix time")]
    fn route_metrics(&self, from: Option<&str>, to: Option<&str>) {
        self.metrics.route.set_master(from, to);
        self.metrics.route.set_open(to.is_some(), wall_clock());
    }
}

/// Returns four random bytes from the system.
pub fn random_bytes() -> [u8; 4] {
    let mut bytes = [0; 4];
    let mut filled = 0;
    while filled < bytes.len() {
        let got = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled += got.expect("getrandom(2) fails only for a bad buffer or an old kernel");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn only_a_wall_clock_that_moves_ahead_counts_as_a_jump() {
        let at = |boottime: u64, wall: i128| (Boottime::from_nanos(boottime), wall);
        let wall = 1_700_000_000 * i128::from(SECOND);
        let jumped = |forward: i128| has_jumped(at(SECOND, wall), at(6 * SECOND, wall + forward));
        assert!(!jumped(5 * i128::from(SECOND)));
        assert!(!jumped(6 * i128::from(SECOND)), "a second is tolerated");
        assert!(jumped(6 * i128::from(SECOND) + 1));
        assert!(!jumped(-3600 * i128::from(SECOND)), "set back");
    }

    #[test]
    fn a_check_in_may_take_a_third_of_the_proxy_timeout_and_no_more_than_a_request() {
        let limit = |timeout, store| {
            let timing = CheckInTiming {
                check_interval: Duration::ZERO,
                timeout: Duration::from_secs(timeout),
            };
            timing
                .attempt_limit(
                    Duration::from_secs(store),
                    RETRY_PAUSE_MAX,
                    Duration::ZERO,
                    Duration::ZERO,
                )
                .as_secs()
        };
        assert_eq!((limit(15, 5), limit(3, 5), limit(30, 5)), (5, 1, 5));
    }

    #[test]
    fn zero_intervals_leave_time_for_a_check_in_and_between_two() {
        let timing = CheckInTiming {
            check_interval: Duration::ZERO,
            timeout: Duration::from_nanos(1),
        };
        let store = Duration::from_secs(5);
        let quick = Duration::ZERO;
        assert_eq!(
            timing.attempt_limit(store, RETRY_PAUSE_MIN, quick, Duration::ZERO),
            RETRY_PAUSE_MIN
        );
        assert_eq!(
            timing.attempt_limit(store, RETRY_PAUSE_MAX, quick, Duration::ZERO),
            RETRY_PAUSE_MAX
        );
        assert_eq!(timing.pause(Duration::ZERO, quick), RETRY_PAUSE_MIN);
    }

    #[test]
    fn an_answer_to_a_request_of_the_previous_check_in_is_followed_by_another_check_in_at_once() {
        let timing = CheckInTiming {
            check_interval: Duration::from_secs(8),
            timeout: Duration::from_secs(15),
        };
        let latency = Duration::from_millis(2);
        let fresh = timing.pause(timing.timeout - latency, latency);
        assert_eq!(fresh, timing.check_interval - latency);
        // Sent one interval ago: the lease ends before another interval has passed.
        let old = timing.pause(timing.timeout - timing.check_interval, latency);
        assert_eq!(old, RETRY_PAUSE_MIN);
        assert_eq!(timing.pause(Duration::ZERO, latency), RETRY_PAUSE_MIN);
    }

    #[test]
    fn on_a_slow_store_every_lease_is_renewed_before_it_ends() {
        let millis = Duration::from_millis;
        for (timeout, interval, latency) in [
            (15_000, 5000, 3000),
            (15_000, 5000, 1400),
            (3000, 1000, 1000),
            (6000, 2000, 1900),
        ] {
            let timing = CheckInTiming {
                check_interval: millis(interval),
                timeout: millis(timeout),
            };
            let latency = millis(latency);
            let left = timing.timeout - latency;
            let next_answer = timing.pause(left, latency) + latency;
            assert!(next_answer < left, "{timeout} {latency:?}");
            let limit = timing.attempt_limit(Duration::from_secs(5), RETRY_PAUSE_MIN, latency, left);
            assert!(limit > latency * 2, "time for one that is refused and one that is not");
        }
    }

    #[test]
    fn an_unanswered_check_in_leaves_time_for_another_one() {
        let millis = Duration::from_millis;
        for (timeout, interval, latency) in [
            (3000, 1000, 500),
            (3000, 1000, 300),
            (15_000, 5000, 1400),
            (15_000, 5000, 3000),
        ] {
            let timing = CheckInTiming {
                check_interval: millis(interval),
                timeout: millis(timeout),
            };
            let latency = millis(latency);
            let after_answer = timing.timeout - latency;
            let left = after_answer - timing.pause(after_answer, latency);
            let limit = timing.attempt_limit(Duration::from_secs(5), RETRY_PAUSE_MIN, latency, left);
            assert!(
                limit + RETRY_PAUSE_MIN + latency < left,
                "{timeout} {latency:?}: {limit:?} of {left:?}"
            );
        }
    }
}
