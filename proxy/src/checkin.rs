//! The check-in with the store: read the cluster data, stop what they end, announce ourselves against the revision read,
//! and only then open or keep a route (fencing F-1, F-2). What the data mean is `route`'s business, and who is connected
//! is `listener`'s.

mod announce;
mod copies;
mod document;
mod goodbye;
mod life;
mod lookup;
mod resolver;
mod told;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::model::{JsonError, ProxyUid};
use control::store::{LeaseId, Store, StoreError, Target, Watch};
use control::telemetry::Chain;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use self::announce::{InfoLease, Publication};
use self::copies::Copies;
use self::document::Document;
pub use self::life::Life;
use self::resolver::Resolver;
use self::told::Told;
use crate::address::MasterAddress;
use crate::listener::{Backend, ListenState, ListenerHandle};
use crate::metrics::Metrics;
use crate::relay::{CloseReason, Gate};
use crate::route::{MasterEndpoint, PublishInfo, Route, RouteDecision, StoredClusterData, decide};

/// The pauses between the starts of check-ins that fail (P-2).
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// A store whose answers take longer than this is asked ahead of time.
const SLOW: Duration = Duration::from_millis(100);
/// By so much the wall clock may move more than the boottime clock before the machine counts as having stood still
/// (fencing section 1).
const JUMP_MAX: i128 = 1_000_000_000;

/// The intervals in force (P-2, fencing F-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Pause between check-ins.
    pub check_interval: Duration,
    /// How long a check-in is good for.
    pub timeout: Duration,
}

impl Default for Timing {
    /// Before cluster data has been read (P-2).
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
        }
    }
}

impl Timing {
    /// How long one check-in may take as a whole (P-3).
    ///
    /// After failures no less than their pause: a third of a valid proxyTimeout may be less than any store needs to
    /// answer, and then no check-in would ever read the spec that fixes it. On a slow store it has time for four answers,
    /// but takes no more than half of what is left of the lease: one that is never answered leaves time for another one.
    /// Time for two answers, a refusal and what follows it, there is in any case.
    fn attempt_limit(
        self,
        store_limit: Duration,
        pause: Duration,
        latency: Duration,
        lease_left: Duration,
    ) -> Duration {
        let usual = store_limit.min((self.timeout / 3).max(pause));
        let wanted = latency.saturating_mul(4);
        if lease_left.is_zero() {
            return usual.max(wanted);
        }
        let two_answers = latency.saturating_mul(5) / 2;
        usual.max(wanted.min(lease_left / 2)).max(two_answers)
    }

    /// The pause after a good check-in (P-2). A valid proxyCheckInterval of nothing does not keep the store busy. On a slow
    /// store the next one begins while enough is left of the lease for four answers: two that refuse, and two to spare.
    fn pause(self, lease_left: Duration, latency: Duration) -> Duration {
        let usual = self.check_interval.max(AGAIN_MIN);
        if latency < SLOW {
            return usual;
        }
        let spare = lease_left.saturating_sub(latency.saturating_mul(4));
        usual.min(spare.max(AGAIN_MIN))
    }
}

/// Why the proxy cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// At the first attempt; later ones are repeated.
    #[error("listen for clients on {address}: {reason} (--listen-address, --port)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
}

/// Why a check-in failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("decode {key}")]
    Decode {
        key: String,
        #[source]
        source: JsonError,
    },
    #[error("the check-in took longer than {0:?}")]
    Late(Duration),
    #[error("the wall clock jumped during the check-in")]
    Jumped,
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// How a check-in that was answered ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    /// The lease is renewed.
    Good,
    /// What was read may not be used.
    Unusable,
}

/// The loop's memory.
#[derive(Debug)]
pub struct CheckIn {
    store: Store,
    cluster_name: String,
    me: ProxyUid,
    reins: ListenerHandle,
    metrics: Arc<Metrics>,
    life: Arc<Life>,
    /// None before cluster data has been read and announced.
    in_force: Option<Timing>,
    current: Option<Current>,
    /// The cluster data of the last good check-in, or newer ones that came with a watch or a refused transaction.
    known: Option<Document>,
    lease: Option<InfoLease>,
    /// The lease that was asked for last.
    last_lease: Option<LeaseId>,
    copies: Copies,
    renewal: Option<(Boottime, JoinHandle<Result<bool, StoreError>>)>,
    /// What was last published, or may have been.
    published: Option<i64>,
    clocks: Option<(Boottime, i128)>,
    resolver: Resolver,
    told: Told,
}

/// The open route.
#[derive(Debug)]
struct Current {
    db: String,
    /// As the cluster data name it.
    endpoint: Option<MasterEndpoint>,
    master: SocketAddr,
    /// The end of the lease of the last check-in that found the address under its name.
    confirmed_until: Boottime,
    gate: Arc<Gate>,
    path: Arc<Backend>,
}

#[expect(clippy::disallowed_methods, reason = "the check-in is where time enters")]
fn now() -> Boottime {
    Boottime::now()
}

#[expect(clippy::disallowed_methods, reason = "the guard compares both clocks")]
fn both_clocks() -> (Boottime, i128) {
    (Boottime::now(), wall_clock())
}

/// Whether the wall clock moved over a second more than the boottime clock (fencing section 1).
fn has_jumped(before: (Boottime, i128), after: (Boottime, i128)) -> bool {
    let boottime = i128::from(after.0.as_nanos()) - i128::from(before.0.as_nanos());
    after.1 - before.1 - boottime > JUMP_MAX
}

impl CheckIn {
    /// A proxy that has not checked in yet.
    pub fn new(
        store: Store,
        cluster_name: String,
        me: ProxyUid,
        reins: ListenerHandle,
        metrics: Arc<Metrics>,
        life: Arc<Life>,
    ) -> Self {
        Self {
            store,
            cluster_name,
            me,
            reins,
            metrics,
            life,
            in_force: None,
            current: None,
            known: None,
            lease: None,
            last_lease: None,
            copies: Copies::default(),
            renewal: None,
            published: None,
            clocks: None,
            resolver: Resolver::system(),
            told: Told::default(),
        }
    }

    fn timing(&self) -> Timing {
        self.in_force.unwrap_or_default()
    }

    /// Checks in again and again (P-2). Ends only when the address for clients cannot be listened on at first.
    pub async fn run(&mut self) -> Fatal {
        let watch = self
            .store
            .watch(vec![Target::Key(self.store.keys().cluster_data())], None);
        let mut pause = AGAIN_MIN;
        loop {
            let started = now();
            let outcome = match self.attempt(pause).await {
                Ok(outcome) => outcome,
                Err(fatal) => return fatal,
            };
            let wait = if outcome == Some(Checked::Good) && !self.told.unresolved {
                pause = AGAIN_MIN;
                let lease_end = self.reins.commands.borrow().lease_end.unwrap_or_default();
                self.timing().pause(lease_end.since(now()), self.store.latency())
            } else {
                // From start to start: an attempt that has waited long enough for the store is repeated at once.
                let rest = pause.saturating_sub(now().since(started));
                pause = (pause * 2).min(AGAIN_MAX);
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
                self.metrics.watch_events.increment(1);
                self.take_over(&changes);
                if changes.gap {
                    self.metrics.watch_gaps.increment(1);
                }
            }
        }
    }

    /// One check-in, within its limit. `None`: it failed, and was logged.
    async fn attempt(&mut self, pause: Duration) -> Result<Option<Checked>, Fatal> {
        let lease_end = self.reins.commands.borrow().lease_end.unwrap_or_default();
        let left = lease_end.since(now());
        let limit = self
            .timing()
            .attempt_limit(self.store.limit(), pause, self.store.latency(), left);
        let outcome = self.check_in(now(), limit).await;
        match outcome {
            Err(Failed::Fatal(fatal)) => Err(fatal),
            Ok(checked) => {
                let counter = match checked {
                    Checked::Good => &self.metrics.checkins_good,
                    Checked::Unusable => &self.metrics.checkins_unusable,
                };
                counter.increment(1);
                self.life.failed(None);
                if self.told.trouble.take().is_some() {
                    info!("checking in again");
                }
                Ok(Some(checked))
            }
            Err(failed) => {
                let (counter, what) = match &failed {
                    Failed::Decode { .. } => (&self.metrics.checkins_unusable, "cluster data unreadable"),
                    _ => (&self.metrics.checkins_failed, "store silent"),
                };
                counter.increment(1);
                self.life.failed(Some(format!("{what}: {}", Chain(&failed))));
                self.tell_failure(&failed);
                Ok(None)
            }
        }
    }

    /// Announces until that was done against the revision of the cluster data that it was decided on (fencing F-1).
    ///
    /// Those of the last check-in will do: the transaction that announces is refused when they have changed, and brings
    /// the present ones. Where nothing is announced they are read.
    async fn check_in(&mut self, started: Boottime, limit: Duration) -> Result<Checked, Failed> {
        self.settle_renewal().await;
        self.renew_info_lease();
        let left = |limit: Duration| Some(limit.saturating_sub(now().since(started))).filter(|left| !left.is_zero());
        let key = self.store.keys().cluster_data();
        let mut known = self.known.take();
        loop {
            self.guard_clocks();
            let document = match known.take() {
                Some(document) => document,
                None => self.read(left(limit).ok_or(Failed::Late(limit))?).await?,
            };
            let found = StoredClusterData::parse(document.value()).map_err(|source| Failed::Decode {
                key: key.clone(),
                source,
            })?;
            if let Some(read_at) = document.read_at {
                self.listen_from_first_read(read_at).await?;
            }
            let endpoint = found.master_endpoint().map(|(_, endpoint)| endpoint);
            self.stop_before_look_up(endpoint.as_ref());
            let (around, settled) = self.look_around(&found, left(limit).ok_or(Failed::Late(limit))?).await;
            let verdict = decide(&found, &around, &self.me);
            let wanted = match &found {
                StoredClusterData::Usable(data) => Timing {
                    check_interval: data.spec.proxy_check_interval,
                    timeout: data.spec.proxy_timeout,
                },
                StoredClusterData::Absent | StoredClusterData::Unusable(_) => self.timing(),
            };
            self.stop_what_ends(&verdict); // before anything is published
            if verdict.publish == PublishInfo::No {
                self.copies.discard();
            }
            if matches!(&verdict.route, Route::Closed(why) if !why.may_be_master_change()) {
                self.change_is_over();
            }
            if matches!(found, StoredClusterData::Absent) {
                // No more than half of what is left: nothing follows from it but a hint.
                self.look_for_keepers(left(limit).ok_or(Failed::Late(limit))? / 2).await;
            }
            self.tell(&verdict.route, settled.as_ref());
            if let PublishInfo::Try(generation) | PublishInfo::Must(generation) = verdict.publish {
                self.metrics.route_generation.set(generation as f64);
            }
            let lease_start = match (verdict.publish, document.read_at) {
                // nothing but a reading tells whether it is still so
                (PublishInfo::No, None) => continue,
                _ if !verdict.renews_lease => return Ok(Checked::Unusable),
                (PublishInfo::No, Some(read_at)) => read_at,
                (PublishInfo::Try(generation) | PublishInfo::Must(generation), read_at) => {
                    let left = left(limit).ok_or(Failed::Late(limit))?;
                    let publication = self.publish(&key, document.revision, generation, wanted.timeout, left);
                    match (publication.await, read_at) {
                        (Ok(Publication::Done(sent_at)), _) => {
                            self.told.unpublished = false;
                            sent_at
                        }
                        (Ok(Publication::Changed(present)), _) => {
                            known = Some(present); // the data changed since they were read
                            continue;
                        }
                        (Err(err), Some(read_at)) if matches!(verdict.publish, PublishInfo::Try(_)) => {
                            if !std::mem::replace(&mut self.told.unpublished, true) {
                                warn!(error = %Chain(&err), "could not publish the proxy info");
                            }
                            read_at
                        }
                        (Err(_), None) if matches!(verdict.publish, PublishInfo::Try(_)) => continue,
                        (Err(err), _) => {
                            self.known = Some(document.as_known());
                            return Err(err);
                        }
                    }
                }
            };
            if self.guard_clocks() {
                return Err(Failed::Jumped);
            }
            if matches!(found, StoredClusterData::Usable(_)) {
                self.in_force = Some(wanted);
            }
            let kept_until = match &settled {
                Some(MasterAddress::Kept { until, .. }) => Some(*until),
                _ => None,
            };
            if verdict.publish != PublishInfo::No {
                self.known = Some(document.as_known());
            }
            self.apply(verdict.route, endpoint, kept_until, lease_start, wanted.timeout);
            return Ok(Checked::Good);
        }
    }

    /// Opens the socket for clients at the first read of the store, whatever it finds (P-5).
    ///
    /// # Errors
    /// The address cannot be listened on; later, when it could be once, the listener tries again by itself.
    async fn listen_from_first_read(&mut self, read_at: Boottime) -> Result<(), Fatal> {
        let timeout = self.timing().timeout;
        let first = self.reins.commands.send_if_modified(|orders| {
            let first = orders.lease_end.is_none();
            if first {
                orders.lease_end = Some(read_at + timeout);
                orders.proxy_timeout = timeout;
            }
            first
        });
        if !first {
            return Ok(());
        }
        let address = self.reins.address;
        let asked = |standing: &ListenState| *standing != ListenState::Waiting;
        match self.reins.state.wait_for(asked).await.as_deref() {
            Ok(ListenState::Failed(reason)) => Err(Fatal::Listen {
                address,
                reason: reason.clone(),
            }),
            _ => Ok(()), // that the listener is gone is seen where it was started
        }
    }

    /// Stops forwarding at once when the data close the route or move it (fencing F-1, P-6).
    fn stop_what_ends(&mut self, verdict: &RouteDecision) {
        let Some(current) = &self.current else { return };
        if !matches!(&verdict.route, Route::Open { master, .. } if *master == current.master) {
            self.close(CloseReason::RouteChange);
        }
    }

    /// The same for a master whose name has changed, without waiting for the new one to be looked up (P-6).
    fn stop_before_look_up(&mut self, endpoint: Option<&MasterEndpoint>) {
        let slow = endpoint.is_some_and(|endpoint| endpoint.host.parse::<IpAddr>().is_err());
        if slow
            && self
                .current
                .as_ref()
                .is_some_and(|current| current.endpoint.as_ref() != endpoint)
        {
            self.close(CloseReason::RouteChange);
        }
    }

    fn close(&mut self, why: CloseReason) {
        if why != CloseReason::Lease {
            self.copies.discard();
        }
        let Some(current) = self.current.take() else { return };
        self.reins.disconnector.disconnect(&current.gate, why, now());
        self.reins.commands.send_modify(|orders| {
            orders.backend = None;
            orders.master_changing = why == CloseReason::RouteChange;
        });
        self.life.closed(match why {
            CloseReason::RouteChange => "the master is changing".to_owned(),
            CloseReason::Lease => "the lease had ended".to_owned(),
            CloseReason::ClockJump => "the wall clock jumped".to_owned(),
            CloseReason::Stopping => "stopping".to_owned(),
        });
        self.route_metrics(Some(&current.db), None);
    }

    /// Lets no client wait for a next master any more.
    fn change_is_over(&self) {
        self.reins
            .commands
            .send_if_modified(|orders| std::mem::replace(&mut orders.master_changing, false));
    }

    /// Closes first when the machine may have stood still with its clock (fencing section 1). True when it did.
    fn guard_clocks(&mut self) -> bool {
        let clocks = both_clocks();
        let jumped = self
            .clocks
            .replace(clocks)
            .is_some_and(|before| has_jumped(before, clocks));
        if jumped {
            warn!("the wall clock has moved more than the time that passed, closing connections to master");
            self.close(CloseReason::ClockJump);
        }
        jumped
    }

    /// Puts into force what a successful check-in concluded. An address that is only kept is kept until its time.
    fn apply(
        &mut self,
        route: Route,
        endpoint: Option<MasterEndpoint>,
        kept_until: Option<Boottime>,
        lease_start: Boottime,
        timeout: Duration,
    ) {
        let (moment, mut opened) = (now(), None);
        let lease_end = lease_start + timeout;
        if let Route::Open { db, master } = route {
            // never past what was announced, however long the lease was that confirmed the address (fencing F-2)
            let confirmed_until = kept_until.unwrap_or(lease_end);
            let route_end = lease_end.min(confirmed_until);
            let kept = self
                .current
                .as_mut()
                .filter(|current| current.gate.renew(route_end, moment));
            if let Some(current) = kept {
                current.endpoint = endpoint;
                current.confirmed_until = confirmed_until;
                if current.db != db.as_str() {
                    let before = std::mem::replace(&mut current.db, db.as_str().to_owned());
                    self.metrics.set_master(Some(&before), Some(db.as_str())); // another db at the same address (P-6)
                }
            } else {
                self.close(CloseReason::Lease); // its lease ended before this check-in could renew it
                let gate = Arc::new(Gate::new(route_end));
                let path = Arc::new(Backend::new(master, Arc::clone(&gate), Arc::clone(&self.metrics)));
                self.current = Some(Current {
                    db: db.as_str().to_owned(),
                    endpoint,
                    master,
                    confirmed_until,
                    gate,
                    path: Arc::clone(&path),
                });
                self.life.opened(format!("db {db} at {master}"));
                self.route_metrics(None, Some(db.as_str()));
                opened = Some(path);
                info!(address = %master, "proxying to master address");
            }
        }
        self.life.good(moment, lease_end);
        self.reins.commands.send_modify(|orders| {
            orders.lease_end = Some(lease_end);
            orders.proxy_timeout = timeout;
            if opened.is_some() {
                orders.backend = opened;
                orders.master_changing = false;
            }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "a metric in unix time")]
    fn route_metrics(&self, from: Option<&str>, to: Option<&str>) {
        self.metrics.set_master(from, to);
        self.metrics.set_route_open(to.is_some(), wall_clock());
    }
}

/// Four fresh random bytes.
pub fn random() -> [u8; 4] {
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
    fn only_a_wall_clock_that_runs_ahead_counts_as_a_jump() {
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
            let timing = Timing {
                check_interval: Duration::ZERO,
                timeout: Duration::from_secs(timeout),
            };
            timing
                .attempt_limit(Duration::from_secs(store), AGAIN_MAX, Duration::ZERO, Duration::ZERO)
                .as_secs()
        };
        assert_eq!((limit(15, 5), limit(3, 5), limit(30, 5)), (5, 1, 5));
    }

    #[test]
    fn intervals_of_nothing_leave_time_for_a_check_in_and_between_two() {
        let timing = Timing {
            check_interval: Duration::ZERO,
            timeout: Duration::from_nanos(1),
        };
        let store = Duration::from_secs(5);
        let quick = Duration::ZERO;
        assert_eq!(timing.attempt_limit(store, AGAIN_MIN, quick, Duration::ZERO), AGAIN_MIN);
        assert_eq!(timing.attempt_limit(store, AGAIN_MAX, quick, Duration::ZERO), AGAIN_MAX);
        assert_eq!(timing.pause(Duration::ZERO, quick), AGAIN_MIN);
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
            let timing = Timing {
                check_interval: millis(interval),
                timeout: millis(timeout),
            };
            let latency = millis(latency);
            let left = timing.timeout - latency;
            let next_answer = timing.pause(left, latency) + latency;
            assert!(next_answer < left, "{timeout} {latency:?}");
            let limit = timing.attempt_limit(Duration::from_secs(5), AGAIN_MIN, latency, left);
            assert!(limit > latency * 2, "time for one that is refused and one that is not");
        }
    }

    #[test]
    fn one_check_in_that_is_never_answered_leaves_time_for_another_one() {
        let millis = Duration::from_millis;
        for (timeout, interval, latency) in [
            (3000, 1000, 500),
            (3000, 1000, 300),
            (15_000, 5000, 1400),
            (15_000, 5000, 3000),
        ] {
            let timing = Timing {
                check_interval: millis(interval),
                timeout: millis(timeout),
            };
            let latency = millis(latency);
            let after_answer = timing.timeout - latency;
            let left = after_answer - timing.pause(after_answer, latency);
            let limit = timing.attempt_limit(Duration::from_secs(5), AGAIN_MIN, latency, left);
            assert!(
                limit + AGAIN_MIN + latency < left,
                "{timeout} {latency:?}: {limit:?} of {left:?}"
            );
        }
    }
}
