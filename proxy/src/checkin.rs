//! The check-in with the store: read the cluster data, stop what they end, announce ourselves against the revision read,
//! and only then open or keep a route (fencing F-1, F-2). What the data mean is `route`'s business, and who is connected
//! is `listener`'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::model::{ClusterData, InfoUid, JsonError, ProxyInfo, ProxyUid, short_uid, to_compact};
use control::store::{LeaseId, Outcome, Revision, Store, StoreError, Target, Txn, Watch, info_ttl};
use control::telemetry::Chain;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use crate::listener::{Path, Reins, Standing, is_here};
use crate::metrics::Metrics;
use crate::relay::{Cut, Gate};
use crate::route::{Endpoint, Found, Publish, Route, Surroundings, Verdict, Why, choose, conclude};

/// The pauses between the starts of check-ins that fail (P-2).
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// By so much the wall clock may move more than the boottime clock before the machine counts as having stood still
/// (fencing section 1).
const JUMP_MAX: i128 = 1_000_000_000;
/// How long a stop may take for its goodbye (P-9), connections and store together.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// How often a proxy that drains looks whether its clients are gone.
const LOOK_FOR_CLIENTS_EVERY: Duration = Duration::from_millis(20);
/// The part of it that connections get to end; they were told to, and nothing is forwarded any more.
const DROP_LIMIT: Duration = Duration::from_millis(400);

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
    fn attempt_limit(self, store_limit: Duration) -> Duration {
        store_limit.min(self.timeout / 3)
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
    me: ProxyUid,
    reins: Reins,
    metrics: Arc<Metrics>,
    life: Arc<Life>,
    /// None before cluster data has been read and announced.
    in_force: Option<Timing>,
    current: Option<Current>,
    lease: Option<InfoLease>,
    renewal: Option<(Boottime, JoinHandle<Result<bool, StoreError>>)>,
    /// What was last published, or may have been.
    published: Option<i64>,
    clocks: Option<(Boottime, i128)>,
    told: Told,
}

/// The open route.
#[derive(Debug)]
struct Current {
    db: String,
    /// As the cluster data name it.
    endpoint: Option<Endpoint>,
    master: SocketAddr,
    gate: Arc<Gate>,
}

/// The lease of the store that our info hangs on. It is renewed apart from the check-ins, so that none waits for it.
#[derive(Debug, Clone, Copy)]
struct InfoLease {
    id: LeaseId,
    ttl: Duration,
    renewed: Boottime,
}

impl InfoLease {
    /// Whether an info put now stays for longer than the check-in is good for, however the next ones go: the sentinel
    /// does not wait for a proxy whose info is gone (sentinel P-1).
    ///
    /// Its time to live is twice the proxyTimeout at least, and more than half of it has to be left: the sentinel takes
    /// our clock for right within 1 % (fencing F-6).
    fn outlives_a_check_in(self, now: Boottime) -> bool {
        now.since(self.renewed) < self.ttl * 9 / 20
    }
}

/// What was last logged, so that changes are logged and not rounds (P-7).
#[derive(Debug, Default)]
struct Told {
    master: Option<SocketAddr>,
    route: Option<Route>,
    failing: bool,
    unpublished: bool,
}

/// Signs of life that a scrape and a summary look at.
#[derive(Debug)]
pub struct Life {
    started: Boottime,
    state: Mutex<Alive>,
}

#[derive(Debug, Default)]
struct Alive {
    good: Option<Boottime>,
    lease_end: Option<Boottime>,
    route: Option<String>,
}

impl Life {
    /// Nothing was good yet.
    pub fn new(started: Boottime) -> Self {
        Self {
            started,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Alive> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn good(&self, at: Boottime, lease_end: Boottime) {
        let mut state = self.state();
        (state.good, state.lease_end) = (Some(at), Some(lease_end));
    }

    fn routed(&self, route: Option<String>) {
        self.state().route = route;
    }

    /// Sets the gauges that time alone changes.
    pub fn show(&self, metrics: &Metrics, now: Boottime) {
        let state = self.state();
        metrics
            .checkin_age
            .set(now.since(state.good.unwrap_or(self.started)).as_secs_f64());
        metrics.lease_left.set(
            state
                .lease_end
                .map_or(Duration::ZERO, |end| end.since(now))
                .as_secs_f64(),
        );
    }

    /// Logs how things stand (proxy section 3).
    pub fn summarise(&self, metrics: &Metrics, clients: usize, now: Boottime) {
        let state = self.state();
        let carried = metrics.carried();
        info!(
            route = state.route.as_deref().unwrap_or("closed"),
            lease_left = ?state.lease_end.map_or(Duration::ZERO, |end| end.since(now)),
            up = ?now.since(self.started),
            clients,
            held = metrics.held(),
            accepted = metrics.accepted.value(),
            refused = metrics.refusals(),
            ended = metrics.endings(),
            to_client_bytes = carried.to_client,
            to_master_bytes = carried.to_master,
            spliced_bytes = carried.spliced,
            "summary"
        );
    }
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
    pub fn new(store: Store, me: ProxyUid, reins: Reins, metrics: Arc<Metrics>, life: Arc<Life>) -> Self {
        Self {
            store,
            me,
            reins,
            metrics,
            life,
            in_force: None,
            current: None,
            lease: None,
            renewal: None,
            published: None,
            clocks: None,
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
            let outcome = match self.attempt().await {
                Ok(outcome) => outcome,
                Err(fatal) => return fatal,
            };
            let wait = if outcome == Some(Checked::Good) {
                pause = AGAIN_MIN;
                self.timing().check_interval
            } else {
                // From start to start: an attempt that has waited long enough for the store is repeated at once.
                let rest = pause.saturating_sub(now().since(started));
                pause = (pause * 2).min(AGAIN_MAX);
                rest
            };
            self.sleep(wait, &watch).await;
        }
    }

    async fn sleep(&self, wait: Duration, watch: &Watch) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changes = watch.changed() => {
                self.metrics.watch_events.increment(1);
                if changes.gap {
                    self.metrics.watch_gaps.increment(1);
                }
            }
        }
    }

    /// One check-in, within its limit. `None`: it failed, and was logged.
    async fn attempt(&mut self) -> Result<Option<Checked>, Fatal> {
        let limit = self.timing().attempt_limit(self.store.limit());
        let outcome = self.check_in(now(), limit).await;
        match outcome {
            Err(Failed::Fatal(fatal)) => Err(fatal),
            Ok(checked) => {
                let counter = match checked {
                    Checked::Good => &self.metrics.checkins_good,
                    Checked::Unusable => &self.metrics.checkins_unusable,
                };
                counter.increment(1);
                if std::mem::take(&mut self.told.failing) {
                    info!("checking in again");
                }
                Ok(Some(checked))
            }
            Err(failed) => {
                self.metrics.checkins_failed.increment(1);
                if self.told.failing {
                    debug!(error = %Chain(&failed), "could not check in");
                } else {
                    warn!(error = %Chain(&failed), "could not check in, trying again");
                }
                self.told.failing = true;
                Ok(None)
            }
        }
    }

    /// Reads and announces until both were done against one revision (fencing F-1).
    async fn check_in(&mut self, started: Boottime, limit: Duration) -> Result<Checked, Failed> {
        self.settle_renewal().await;
        let left = |limit: Duration| Some(limit.saturating_sub(now().since(started))).filter(|left| !left.is_zero());
        let key = self.store.keys().cluster_data();
        loop {
            self.guard_clocks();
            let read_at = now();
            let entry = self
                .store
                .limited(left(limit).ok_or(Failed::Late(limit))?)
                .get(&key)
                .await?;
            let revision = entry.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
            let found = decode(&key, entry.as_ref().map(|entry| entry.value.as_slice()))?;
            self.listen_from_first_read(read_at).await?;
            let endpoint = found.master();
            self.stop_before_look_up(endpoint.as_ref());
            let around = self
                .look_around(endpoint.clone(), left(limit).ok_or(Failed::Late(limit))?)
                .await;
            let verdict = conclude(&found, &around, &self.me);
            let wanted = match &found {
                Found::Data(data) => Timing {
                    check_interval: data.spec.proxy_check_interval,
                    timeout: data.spec.proxy_timeout,
                },
                Found::Nothing | Found::Unusable(_) => self.timing(),
            };
            self.stop_what_ends(&verdict); // before anything is published
            if matches!(&verdict.route, Route::Closed(why) if !why.may_be_a_change()) {
                self.change_is_over();
            }
            self.tell(&verdict.route, around.master);
            if let Publish::Try(generation) | Publish::Must(generation) = verdict.publish {
                self.metrics.route_generation.set(generation as f64);
            }
            if !verdict.renews {
                return Ok(Checked::Unusable);
            }
            let lease_start = match verdict.publish {
                Publish::No => read_at,
                Publish::Try(generation) | Publish::Must(generation) => {
                    let left = left(limit).ok_or(Failed::Late(limit))?;
                    match self.publish(&key, revision, generation, wanted.timeout, left).await {
                        Ok(Some(sent_at)) => {
                            self.told.unpublished = false;
                            sent_at
                        }
                        Ok(None) => continue, // the data changed since they were read
                        Err(err) if matches!(verdict.publish, Publish::Try(_)) => {
                            if !std::mem::replace(&mut self.told.unpublished, true) {
                                warn!(error = %Chain(&err), "could not publish the proxy info");
                            }
                            read_at
                        }
                        Err(err) => return Err(err.into()),
                    }
                }
            };
            if self.guard_clocks() {
                return Err(Failed::Jumped);
            }
            if matches!(found, Found::Data(_)) {
                self.in_force = Some(wanted);
            }
            self.apply(verdict.route, endpoint, lease_start + wanted.timeout);
            self.renew_info_lease();
            return Ok(Checked::Good);
        }
    }

    /// Opens the socket for clients at the first read of the store, whatever it finds (P-5).
    ///
    /// # Errors
    /// The address cannot be listened on; later, when it could be once, the listener tries again by itself.
    async fn listen_from_first_read(&mut self, read_at: Boottime) -> Result<(), Fatal> {
        let lease_end = read_at + self.timing().timeout;
        let first = self.reins.orders.send_if_modified(|orders| {
            let first = orders.lease_end.is_none();
            if first {
                orders.lease_end = Some(lease_end);
            }
            first
        });
        if !first {
            return Ok(());
        }
        let address = self.reins.address;
        let asked = |standing: &Standing| *standing != Standing::Waiting;
        match self.reins.standing.wait_for(asked).await.as_deref() {
            Ok(Standing::Failed(reason)) => Err(Fatal::Listen {
                address,
                reason: reason.clone(),
            }),
            _ => Ok(()), // that the listener is gone is seen where it was started
        }
    }

    async fn look_around(&self, endpoint: Option<Endpoint>, limit: Duration) -> Surroundings {
        let listen = self.reins.address;
        let present = self.current.as_ref().map(|current| current.master).or(self.told.master);
        let master = match endpoint {
            Some(endpoint) => resolve(&endpoint, present, limit).await,
            None => None,
        };
        let wildcard = listen.ip().to_canonical().is_unspecified();
        let master_is_here = wildcard && master.is_some_and(|master| is_here(master.ip().to_canonical()));
        Surroundings {
            master,
            master_is_here,
            listen,
        }
    }

    /// Stops forwarding at once when the data close the route or move it (fencing F-1, P-6).
    fn stop_what_ends(&mut self, verdict: &Verdict) {
        let Some(current) = &self.current else { return };
        if !matches!(&verdict.route, Route::Open { master, .. } if *master == current.master) {
            self.close(Cut::RouteChange);
        }
    }

    /// The same for a master whose name has changed, without waiting for the new one to be looked up (P-6).
    fn stop_before_look_up(&mut self, endpoint: Option<&Endpoint>) {
        let slow = endpoint.is_some_and(|endpoint| endpoint.host.parse::<IpAddr>().is_err());
        if slow
            && self
                .current
                .as_ref()
                .is_some_and(|current| current.endpoint.as_ref() != endpoint)
        {
            self.close(Cut::RouteChange);
        }
    }

    fn close(&mut self, why: Cut) {
        let Some(current) = self.current.take() else { return };
        self.reins.curtain.fall(&current.gate, why, now());
        self.reins.orders.send_modify(|orders| {
            orders.path = None;
            orders.changing = why == Cut::RouteChange;
        });
        self.life.routed(None);
        self.route_metrics(Some(&current.db), None);
    }

    /// Lets no client wait for a next master any more.
    fn change_is_over(&self) {
        self.reins
            .orders
            .send_if_modified(|orders| std::mem::replace(&mut orders.changing, false));
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
            self.close(Cut::ClockJump);
        }
        jumped
    }

    /// Publishes our info if the cluster data are still the ones read. Gives the time from which the lease runs, or
    /// `None` when the data have changed.
    async fn publish(
        &mut self,
        cluster_data: &str,
        revision: Revision,
        generation: i64,
        timeout: Duration,
        limit: Duration,
    ) -> Result<Option<Boottime>, StoreError> {
        // From before the lease of the info is looked at, too: both must hold if this process is paused in between.
        let started = now();
        // fencing F-2: the greater of the two, and of the first one alone, since nothing was forwarded before it
        let announced = self.in_force.map_or(timeout, |in_force| timeout.max(in_force.timeout));
        let lease = self.info_lease(announced, limit).await?;
        let info = self.info(generation, announced);
        let txn = Txn::new().if_unchanged(cluster_data, revision).put_leased(
            &self.store.keys().proxy_info(self.me.as_str()),
            to_compact(&info),
            lease,
        );
        let store = self.store.limited(limit.saturating_sub(now().since(started)));
        self.published = Some(generation);
        match store.commit(txn).await {
            Ok(Outcome::Committed(_)) => Ok(Some(started)),
            Ok(Outcome::Conflict) => Ok(None),
            Err(err) => {
                if matches!(err, StoreError::Refused { .. }) {
                    self.lease = None; // it may be what the store does not know any more
                }
                Err(err)
            }
        }
    }

    fn info(&self, generation: i64, timeout: Duration) -> ProxyInfo {
        ProxyInfo {
            info_uid: InfoUid::from(short_uid(random())),
            uid: self.me.clone(),
            generation,
            proxy_timeout: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            fenced: true,
            stopped: false,
        }
    }

    /// The lease for our info (P-3, store S-20): the present one, or a new one when its time to live has to change or
    /// it may be gone.
    async fn info_lease(&mut self, timeout: Duration, limit: Duration) -> Result<LeaseId, StoreError> {
        let ttl = info_ttl(timeout * 2);
        if let Some(lease) = self
            .lease
            .filter(|lease| lease.ttl == ttl && lease.outlives_a_check_in(now()))
        {
            return Ok(lease.id);
        }
        let asked_at = now();
        let granted = self.store.limited(limit).grant(ttl).await?;
        self.renewal = None;
        self.lease = Some(InfoLease {
            id: granted.lease,
            ttl,
            renewed: asked_at,
        });
        Ok(granted.lease)
    }

    /// Renews the lease of our info in the background when a quarter of its time has passed.
    fn renew_info_lease(&mut self) {
        let Some(lease) = self.lease.filter(|lease| now().since(lease.renewed) >= lease.ttl / 4) else {
            return;
        };
        if self.renewal.is_none() {
            let store = self.store.clone();
            self.renewal = Some((now(), tokio::spawn(async move { store.renew(lease.id).await })));
        }
    }

    /// Takes the result of a renewal, if there is one.
    async fn settle_renewal(&mut self) {
        let Some((asked_at, renewal)) = self.renewal.take_if(|(_, renewal)| renewal.is_finished()) else {
            return;
        };
        match (renewal.await, &mut self.lease) {
            (Ok(Ok(true)), Some(lease)) => lease.renewed = asked_at,
            (Ok(Ok(false)), _) => self.lease = None,
            _ => {} // the next one is due already
        }
    }

    /// Puts into force what a successful check-in concluded.
    fn apply(&mut self, route: Route, endpoint: Option<Endpoint>, lease_end: Boottime) {
        let (moment, mut opened) = (now(), None);
        if let Route::Open { db, master } = route {
            let kept = self
                .current
                .as_mut()
                .filter(|current| current.gate.renew(lease_end, moment));
            if let Some(current) = kept {
                current.endpoint = endpoint;
                if current.db != db.as_str() {
                    let before = std::mem::replace(&mut current.db, db.as_str().to_owned());
                    self.metrics.master(Some(&before), Some(db.as_str())); // another db at the same address (P-6)
                }
            } else {
                self.close(Cut::Lease); // its lease ended before this check-in could renew it
                let gate = Arc::new(Gate::new(lease_end));
                let path = Path::new(master, Arc::clone(&gate), Arc::clone(&self.metrics));
                self.current = Some(Current {
                    db: db.as_str().to_owned(),
                    endpoint,
                    master,
                    gate,
                });
                self.life.routed(Some(format!("db {db} at {master}")));
                self.route_metrics(None, Some(db.as_str()));
                opened = Some(path);
                info!(address = %master, "proxying to master address");
            }
        }
        self.life.good(moment, lease_end);
        self.reins.orders.send_modify(|orders| {
            orders.lease_end = Some(lease_end);
            if opened.is_some() {
                orders.path = opened;
                orders.changing = false;
            }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "a metric in unix time")]
    fn route_metrics(&self, from: Option<&str>, to: Option<&str>) {
        self.metrics.master(from, to);
        self.metrics.route(to.is_some(), wall_clock());
    }

    /// Logs what has changed (P-7).
    fn tell(&mut self, route: &Route, master: Option<SocketAddr>) {
        if let Some(address) = master.filter(|_| master != self.told.master) {
            info!(%address, "master address");
        }
        self.told.master = master;
        if self.told.route.as_ref() == Some(route) {
            return;
        }
        if let Route::Closed(why) = route {
            match why {
                Why::NoClusterData => info!("no clusterdata available, closing connections to master"),
                Why::NoProxyObject => info!("no proxy object available, closing connections to master"),
                Why::NoDb(db) => info!(%db, "no db object available, closing connections to master"),
                Why::NotEnabled(address) => {
                    info!(%address, "not proxying to master address since we aren't in the enabled proxies list");
                }
                Why::NoAddress(db) => error!(
                    %db,
                    "cannot resolve the master's address, closing connections to master: see what its keeper advertises \
                     (--pg-advertise-address)"
                ),
                Why::OwnAddress(address) => {
                    error!(%address, "the master's address is our own, closing connections to master: give the \
                                      proxy another --port, or the keeper another address");
                }
                Why::UnusableData(unusable) => {
                    error!(error = %Chain(unusable), "cannot use the clusterdata, closing connections to master");
                }
            }
        }
        self.told.route = Some(route.clone());
    }

    /// Takes no more clients and lets those that are there end by themselves, for as long as `limit` (P-9). Meanwhile the
    /// check-ins go on, as the lease is what lets connections live.
    ///
    /// # Errors
    /// As `run`.
    pub async fn drain(&mut self, limit: Duration) -> Result<(), Fatal> {
        self.reins.orders.send_modify(|orders| orders.drain = true);
        let clients = Arc::clone(&self.reins.clients);
        let all_gone = async {
            while clients.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK_FOR_CLIENTS_EVERY).await;
            }
        };
        tokio::select! {
            fatal = self.run() => Err(fatal),
            () = all_gone => Ok(()),
            () = tokio::time::sleep(limit) => Ok(()),
        }
    }

    /// Says goodbye (P-9, beyond ): stops forwarding, lets the connections end, publishes that we have stopped.
    pub async fn stop(mut self) {
        let started = now();
        self.close(Cut::Stopping);
        let Self {
            reins,
            store,
            lease,
            published,
            ..
        } = &self;
        reins.orders.send_modify(|orders| orders.stop = true);
        let left = || GOODBYE_LIMIT.saturating_sub(now().since(started));
        while reins.clients.load(Ordering::Relaxed) > 0 && now().since(started) < DROP_LIMIT {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let Some(generation) = *published else { return };
        let goodbye = async {
            let lease = match lease {
                Some(lease) => lease.id,
                None => {
                    store
                        .limited(left())
                        .grant(info_ttl(self.timing().timeout * 2))
                        .await?
                        .lease
                }
            };
            let info = ProxyInfo {
                stopped: true,
                ..self.info(generation, self.timing().timeout)
            };
            let key = store.keys().proxy_info(self.me.as_str());
            store
                .limited(left())
                .commit(Txn::new().put_leased(&key, to_compact(&info), lease))
                .await
        };
        match tokio::time::timeout(left(), goodbye).await {
            Ok(Ok(_)) => debug!("published that we have stopped"),
            Ok(Err(err)) => warn!(error = %Chain(&err), "could not publish that we have stopped"),
            Err(_) => warn!("could not publish that we have stopped: the store did not answer in time"),
        }
    }
}

fn decode(key: &str, value: Option<&[u8]>) -> Result<Found, Failed> {
    let Some(value) = value else { return Ok(Found::Nothing) };
    match ClusterData::parse(value) {
        Ok(None) => Ok(Found::Nothing),
        Ok(Some(data)) => Ok(data
            .check()
            .map_or_else(Found::Unusable, |checked| Found::Data(Box::new(checked)))),
        Err(source) => Err(Failed::Decode {
            key: key.to_owned(),
            source,
        }),
    }
}

/// The address of a master; names are looked up, for as long as the check-in lasts at most.
async fn resolve(endpoint: &Endpoint, present: Option<SocketAddr>, limit: Duration) -> Option<SocketAddr> {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, endpoint.port));
    }
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    match tokio::time::timeout(limit, lookup).await {
        Ok(Ok(found)) => choose(&found.collect::<Vec<_>>(), present),
        Ok(Err(err)) => {
            debug!(host = %endpoint.host, error = %err, "could not resolve the master's address");
            None
        }
        Err(_) => None,
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
            timing.attempt_limit(Duration::from_secs(store)).as_secs()
        };
        assert_eq!((limit(15, 5), limit(3, 5), limit(30, 5)), (5, 1, 5));
    }

    #[test]
    fn an_info_put_under_a_lease_stays_for_longer_than_anything_is_forwarded_after_it() {
        // The sentinel drops a proxy whose info is gone (sentinel P-1), whatever that proxy's own lease says.
        for timeout in [1, 3, 10, 15, 60, 3600].map(Duration::from_secs) {
            let lease = InfoLease {
                id: LeaseId(1),
                ttl: info_ttl(timeout * 2),
                renewed: Boottime::from_nanos(SECOND),
            };
            let gone = lease.renewed + lease.ttl;
            let checked_in = (0..100)
                .map(|part| lease.renewed + lease.ttl * part / 100)
                .rfind(|at| lease.outlives_a_check_in(*at))
                .unwrap();
            assert!(checked_in + timeout.mul_f64(1.01) < gone, "{timeout:?}");
        }
    }
}
