//! The check-in with the store: performs the steps that `sequence` orders, one check-in after the other, until the proxy
//! stops (proxy P-2). What the data mean is decided in `route`; clients are served by `listener`.

mod clock_jump;
mod document;
mod error;
mod forwarding;
mod info_publisher;
mod requests;
mod resolve;
mod resolver;
mod route_log;
mod sequence;
mod status;
mod step;
mod timing;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock, RandomBytes};
use model::{DbUid, KeepersWithData, ProxyUid};
use store::{Changes, KeyChange, KeyRange, Store, StoreError, Watch};
use tracing::{debug, warn};

use self::clock_jump::ClockComparison;
use self::document::Document;
use self::error::CheckInError;
pub use self::error::FatalError;
use self::forwarding::Forwarding;
use self::info_publisher::InfoPublisher;
use self::resolve::{network_facts, resolve};
use self::resolver::Resolver;
use self::route_log::RouteLog;
use self::sequence::CheckInSequence;
pub use self::status::CheckInStatus;
use self::step::{CheckInResult, CheckInStep, PublishOutcome, RouteReport};
use self::timing::{CheckInTiming, RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use crate::address::MasterAddress;
use crate::listener::ListenerHandle;
use crate::metrics::Metrics;
use crate::relay::CloseReason;
use crate::route::{MasterEndpoint, Route, StoredClusterData};

/// Time limit for ending connections and publishing at the stop (proxy P-9).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// The part of it that is spent waiting for connections to end. They have been woken for it, and nothing is forwarded
/// any more.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(400);
/// Delay between two checks whether all clients are gone, while they may leave by themselves.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The same once their connections are being ended.
const DISCONNECT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What the check-in loop is made of.
#[derive(Debug)]
pub struct CheckInParts {
    /// The store of the cluster.
    pub store: Store,
    /// The cluster's name, for the log.
    pub cluster_name: String,
    /// The uid of this proxy.
    pub me: ProxyUid,
    /// What accepts the clients.
    pub listener: ListenerHandle,
    /// Where check-ins and changes of the route are counted.
    pub metrics: Arc<Metrics>,
    /// What scrapes and the summary read.
    pub status: Arc<CheckInStatus>,
    /// The time that leases are compared with.
    pub clock: Clock,
    /// The source of uids and lease ids.
    pub random: RandomBytes,
}

/// The check-in loop and its state.
#[derive(Debug)]
pub struct CheckInLoop {
    store: Store,
    me: ProxyUid,
    metrics: Arc<Metrics>,
    status: Arc<CheckInStatus>,
    clock: Clock,
    /// The intervals of the last good check-in; `None` before the first one that read cluster data.
    applied_timing: Option<CheckInTiming>,
    /// The cluster data of the last good check-in, or newer ones from the watch or from a conflict.
    cached: Option<Document>,
    /// How the master's address was found last.
    master: Option<MasterAddress>,
    clocks: ClockComparison,
    resolver: Resolver,
    publisher: InfoPublisher,
    forwarding: Forwarding,
    log: RouteLog,
}

impl CheckInLoop {
    /// Returns the loop before its first check-in.
    pub fn new(parts: CheckInParts) -> Self {
        let CheckInParts {
            store,
            cluster_name,
            me,
            listener,
            metrics,
            status,
            clock,
            random,
        } = parts;
        Self {
            publisher: InfoPublisher::new(store.clone(), me.clone(), clock.clone(), random),
            forwarding: Forwarding::new(listener, Arc::clone(&metrics), Arc::clone(&status), clock.clone()),
            log: RouteLog::new(cluster_name, store.keys().cluster_data()),
            store,
            me,
            metrics,
            status,
            clock,
            applied_timing: None,
            cached: None,
            master: None,
            clocks: ClockComparison::default(),
            resolver: Resolver::system(),
        }
    }

    fn timing(&self) -> CheckInTiming {
        self.applied_timing.unwrap_or_default()
    }

    /// Checks in again and again (proxy P-2). Returns only if the first attempt to listen fails.
    pub async fn run(&mut self) -> FatalError {
        let watch = self
            .store
            .watch(vec![KeyRange::Key(self.store.keys().cluster_data())], None);
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let started = self.clock.now();
            let outcome = match self.attempt(delay).await {
                Ok(outcome) => outcome,
                Err(fatal) => return fatal,
            };
            let wait = if outcome == Some(CheckInResult::Good) && !self.needs_lookup() {
                delay = RETRY_DELAY_MIN;
                self.timing().delay(self.forwarding.lease_left(), self.store.latency())
            } else {
                // Measured from start to start: an attempt that has already waited long for the store is repeated at
                // once.
                let rest = delay.saturating_sub(self.clock.now().since(started));
                delay = (delay * 2).min(RETRY_DELAY_MAX);
                rest
            };
            self.sleep(wait, &watch).await;
        }
    }

    /// Whether the last lookup did not confirm the master's address, so that another one is due soon.
    fn needs_lookup(&self) -> bool {
        matches!(
            self.master,
            Some(MasterAddress::Kept { .. } | MasterAddress::Unknown(_))
        )
    }

    async fn sleep(&mut self, wait: Duration, watch: &Watch) {
        let due = tokio::time::sleep(wait);
        tokio::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => return,
                () = self.resolver.finished() => return,
                changes = watch.changed() => {
                    self.metrics.route.watch_events.increment(1);
                    if changes.gap {
                        self.metrics.route.watch_gaps.increment(1);
                    }
                    let needs_check_in = changes.gap || self.may_change_route(&changes);
                    self.cache_changes(&changes);
                    if needs_check_in {
                        return;
                    }
                }
            }
        }
    }

    /// Whether a check-in may decide otherwise from the changed cluster data. The leading sentinel writes them once per
    /// sleepInterval to record positions and times, on which no route depends; a check-in for each would write this
    /// proxy's info twice as often.
    fn may_change_route(&self, changes: &Changes) -> bool {
        let change = changes.keys.get(&self.store.keys().cluster_data());
        let newer = change.and_then(|change| change.entry.as_ref());
        let (Some(newer), Some(cached), true) = (newer, &self.cached, self.forwarding.is_open()) else {
            return true;
        };
        let decoded = (
            StoredClusterData::parse(cached.value()),
            StoredClusterData::parse(Some(&newer.value)),
        );
        !matches!(decoded, (Ok(cached), Ok(newer)) if cached.routes_like(&newer))
    }

    /// Puts newer cluster data from the watch into the cache. A watch may lag behind, so nothing depends on them but
    /// which revision the next transaction is compared with.
    fn cache_changes(&mut self, changes: &Changes) {
        let Some(KeyChange { entry: Some(entry), .. }) = changes.keys.get(&self.store.keys().cluster_data()) else {
            return;
        };
        let is_newer = |cached: &Document| cached.revision < entry.mod_revision;
        if self.cached.as_ref().is_some_and(is_newer) {
            self.cached = Some(Document::from_entry(Some(entry.clone())));
        }
    }

    /// Runs one check-in within its time limit. `None`: it failed, and that was logged.
    async fn attempt(&mut self, delay: Duration) -> Result<Option<CheckInResult>, FatalError> {
        let (lease_left, latency) = (self.forwarding.lease_left(), self.store.latency());
        let limit = self
            .timing()
            .attempt_limit(self.store.timeout(), delay, latency, lease_left);
        match self.check_in(self.clock.now(), limit).await {
            Err(CheckInError::Fatal(fatal)) => Err(fatal),
            Ok(result) => {
                let counter = match result {
                    CheckInResult::Good => &self.metrics.route.checkins_good,
                    CheckInResult::Unusable => &self.metrics.route.checkins_unusable,
                };
                counter.increment(1);
                self.status.set_failure(None);
                self.log.check_in_answered();
                Ok(Some(result))
            }
            Err(error) => {
                let metrics = &self.metrics.route;
                let (counter, what) = match &error {
                    CheckInError::Decode { .. } => (&metrics.checkins_unusable, "cluster data unreadable"),
                    _ => (&metrics.checkins_failed, "check-in failed"),
                };
                counter.increment(1);
                self.status.set_failure(Some(format!("{what}: {}", Chain(&error))));
                self.log.check_in_failed(&error);
                Ok(None)
            }
        }
    }

    async fn check_in(&mut self, started: Boottime, limit: Duration) -> Result<CheckInResult, CheckInError> {
        self.publisher.maintain_lease().await;
        let mut sequence = CheckInSequence::new(
            self.me.clone(),
            self.store.keys().cluster_data(),
            self.applied_timing,
            self.forwarding.open_endpoint(),
            self.cached.take(),
        );
        let result = self.perform(&mut sequence, started, limit).await;
        self.cached = sequence.into_reusable();
        result
    }

    /// Performs the steps of a check-in that was started then and may take `limit`.
    async fn perform(
        &mut self,
        sequence: &mut CheckInSequence,
        started: Boottime,
        limit: Duration,
    ) -> Result<CheckInResult, CheckInError> {
        let clock = self.clock.clone();
        let left = || {
            let left = limit.saturating_sub(clock.now().since(started));
            Some(left)
                .filter(|left| !left.is_zero())
                .ok_or(CheckInError::TimedOut(limit))
        };
        loop {
            match sequence.next_step() {
                CheckInStep::CompareClocks => {
                    let jumped = self.compare_clocks();
                    sequence.clocks_compared(jumped)?;
                }
                CheckInStep::Read => sequence.read(self.read(left()?).await?)?,
                CheckInStep::Listen(read_at) => self.forwarding.start_listening(read_at, self.timing()).await?,
                CheckInStep::StopForwarding => self.stop_forwarding(CloseReason::RouteChange),
                CheckInStep::Resolve(endpoint) => {
                    let master = self.resolve_master(endpoint, left()?).await;
                    let address = master.as_ref().and_then(MasterAddress::address);
                    sequence.resolved(&network_facts(self.forwarding.listen_address(), address), master);
                }
                CheckInStep::DiscardRequests => self.publisher.discard_requests(),
                CheckInStep::EndMasterChange => self.forwarding.end_master_change(),
                // At most half of the remaining time: only a hint in the log depends on it.
                CheckInStep::ReadKeepersWithData => self.read_keepers_with_data(left()? / 2).await,
                CheckInStep::Report(report) => self.report(report),
                CheckInStep::Publish(content) => {
                    let outcome = self.publisher.publish(content, left()?).await;
                    if matches!(outcome, Ok(PublishOutcome::Published(_))) {
                        self.log.info_published();
                    }
                    if let Some(err) = sequence.published(outcome)? {
                        self.log.publishing_failed(&err);
                    }
                }
                CheckInStep::Open(granted) => {
                    self.applied_timing = granted.timing.or(self.applied_timing);
                    self.forwarding.apply(*granted);
                }
                CheckInStep::Done(result) => return Ok(result),
            }
        }
    }

    /// Closes the route if the machine may have been paused together with its boottime clock (fencing section 1).
    /// Returns whether it did.
    fn compare_clocks(&mut self) -> bool {
        let jumped = self.clocks.has_jumped(&self.clock);
        if jumped {
            warn!(
                "the wall clock jumped ahead, closing connections to master: the machine may have been suspended, check \
                 time synchronisation"
            );
            self.stop_forwarding(CloseReason::ClockJump);
        }
        jumped
    }

    /// Closes the route. No late response may renew its lease from then on.
    fn stop_forwarding(&mut self, reason: CloseReason) {
        self.publisher.discard_requests();
        self.forwarding.stop(reason);
    }

    async fn read(&self, limit: Duration) -> Result<Document, StoreError> {
        let read_at = self.clock.now();
        let store = self.store.with_timeout(limit);
        let entry = store.get(&self.store.keys().cluster_data()).await?;
        Ok(Document::read(entry, read_at))
    }

    async fn resolve_master(
        &mut self,
        endpoint: Option<(DbUid, MasterEndpoint)>,
        limit: Duration,
    ) -> Option<MasterAddress> {
        let (db, endpoint) = endpoint?;
        let in_use = || self.forwarding.current_address(&db, &endpoint);
        let preferred = self.master.as_ref().and_then(MasterAddress::address);
        let resolver = &mut self.resolver;
        Some(resolve(resolver, &endpoint, in_use, preferred, limit, &self.clock).await)
    }

    /// Reads whether keepers of a cluster exist, if the cluster data are missing and that was not logged yet.
    async fn read_keepers_with_data(&mut self, limit: Duration) {
        if !self.log.needs_keepers_with_data() {
            return;
        }
        let prefix = self.store.keys().keeper_infos();
        let targets = [KeyRange::Prefix(prefix.clone())];
        let keepers = match self.store.with_timeout(limit).snapshot(&targets).await {
            Ok(mut snapshot) => {
                let infos = snapshot.take(0);
                KeepersWithData::from_infos(infos.iter().map(|entry| (entry.name(&prefix), entry.value.as_slice())))
            }
            Err(error) => {
                debug!(error = %Chain(&error), "cannot read the keepers' infos");
                KeepersWithData::default()
            }
        };
        self.log.set_keepers_with_data(keepers);
    }

    fn report(&mut self, report: RouteReport) {
        let RouteReport {
            route,
            master,
            generation,
        } = report;
        if self
            .log
            .note_route(&route, master.as_ref(), self.applied_timing.is_some())
        {
            match &route {
                Route::Closed(reason) => self.status.route_closed(reason.to_string()),
                Route::Open { .. } if !self.forwarding.is_open() => {
                    self.status.route_closed("not published yet".to_owned());
                }
                Route::Open { .. } => {}
            }
        }
        self.master = master;
        if let Some(generation) = generation {
            self.metrics.route.generation.set(generation as f64);
        }
    }

    /// Accepts no more clients and waits up to `limit` for the connected ones to leave (proxy P-9). Check-ins continue
    /// meanwhile, because connections need the lease.
    ///
    /// # Errors
    ///
    /// As of `run`.
    pub async fn drain(&mut self, limit: Duration) -> Result<(), FatalError> {
        self.forwarding.drain();
        self.status.set_draining();
        let clients = self.forwarding.client_counter();
        let all_gone = async {
            while clients.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            fatal = self.run() => Err(fatal),
            () = all_gone => Ok(()),
            () = tokio::time::sleep(limit) => Ok(()),
        }
    }

    /// Stops forwarding, ends the connections, and publishes that the proxy has stopped (proxy P-9, extensions ).
    pub async fn stop(mut self) {
        let started = self.clock.now();
        let passed = |clock: &Clock| clock.now().since(started);
        self.stop_forwarding(CloseReason::Stopping);
        self.forwarding.stop_listener();
        while self.forwarding.clients() > 0 && passed(&self.clock) < DISCONNECT_TIMEOUT {
            tokio::time::sleep(DISCONNECT_POLL_INTERVAL).await;
        }
        if !self.publisher.may_have_published() {
            return;
        }
        let left = || SHUTDOWN_TIMEOUT.saturating_sub(passed(&self.clock));
        let publish_stopped = self.publisher.publish_stopped(self.timing().timeout, left);
        match tokio::time::timeout(left(), publish_stopped).await {
            Ok(Ok(())) => debug!("published that we have stopped"),
            Ok(Err(err)) => warn!(error = %Chain(&err), "could not publish that we have stopped"),
            Err(_) => warn!("could not publish that we have stopped: the store did not answer in time"),
        }
    }
}
