//! The sentinel's loop: what a round does, in its order, and when the next one is due. Decisions are left to `plan`,
//! conditional writes to `writer`. Whatever starts a round, it does the same work.

use std::future::Future;
use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock, RandomBytes};
use daemon::health::{BEAT_INTERVAL, Heartbeat, ProgramHealth};
use daemon::telemetry::MetricsServer;
use daemon::{program, systemd};
use model::{CheckedClusterData, ClusterSpec, ClusterUid, SentinelUid, Stored, Timestamp, short_uid};
use plan::{Entropy, Memory, Plan, PlanError, PlanInput, RoutineInfos, Urgency, memory_after_failed_round, plan};
use store::election::{Election, Leader, Leadership};
use store::{Changes, KeyChange, Store, StoreError};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error, info};

use crate::ages;
use crate::decode::{DecodedSnapshot, decode, is_repetition, key_ranges};
use crate::info_publisher::SentinelInfoPublisher;
use crate::log_state::LogState;
use crate::metrics::{FailoverTimer, Metrics, RoundEnd, count_leaderships};
use crate::missing_data::{MissingData, MissingDataDecision};
use crate::order_lease::OrderLease;
use crate::overview::ClusterOverview;
use crate::status::RoundStatus;
use crate::throttle::RoundThrottle;
use crate::timing::{
    FAILURE_RETRY_DELAY, SLEEP_INTERVAL_ABSENT_MIN, SLEEP_INTERVAL_MIN, SLEEP_INTERVAL_UNKNOWN,
    periodic_write_interval, read_lead_time, request_limit,
};
use crate::watch_arrivals::WatchArrivals;
use crate::writer::{DataWriter, PlannedFrom};

/// Requests to the store in a row in one round: the read, the ages of the infos, the lease of orders (renewed, and if it
/// has expired granted) and the write; and one more, so that a slow round is not taken for one that hangs.
const REQUESTS_PER_ROUND_MAX: u32 = 6;

/// What a sentinel is started with.
#[derive(Debug)]
pub struct SentinelParts {
    /// The store of the cluster.
    pub store: Store,
    /// This process.
    pub uid: SentinelUid,
    /// The spec of a new cluster, used only if there is no cluster data.
    pub initial_spec: Option<ClusterSpec>,
    /// Its metrics, already registered.
    pub metrics: Metrics,
    /// The server that shows them, if any.
    pub server: Option<MetricsServer>,
    /// Ages, deadlines and the times in the cluster data.
    pub clock: Clock,
    /// New uids, and the choice between equal candidates.
    pub random: RandomBytes,
}

/// Runs until `stop` completes, then resigns from the election, so that another sentinel leads at once (sentinel L-8).
pub async fn run(mut parts: SentinelParts, stop: impl Future) {
    let server = parts.server.take();
    let election = Election::start(parts.store.clone(), parts.uid.as_str());
    let counting = tokio::spawn(count_leaderships(election.state(), parts.metrics.clone()));
    let mut sentinel = Sentinel::new(parts, election.state());
    sentinel.report_health(server.as_ref());
    tokio::select! {
        _ = stop => {}
        () = sentinel.run_rounds() => {}
    }
    info!("stopping stolon sentinel");
    systemd::report_stopping();
    sentinel.info_publisher.stop();
    counting.abort();
    election.stop().await;
}

/// The state of the loop.
struct Sentinel {
    store: Store,
    initial_spec: Option<ClusterSpec>,
    election: watch::Receiver<Leadership>,
    info_publisher: SentinelInfoPublisher,
    writer: DataWriter,
    order_lease: OrderLease,
    metrics: Metrics,
    clock: Clock,
    random: RandomBytes,
    /// Replaced as a whole once a round has succeeded.
    memory: Memory,
    /// The infos that may be published again without another round.
    routine: RoutineInfos,
    /// A read has failed or was slow. Used only until the first successful read.
    had_outage: bool,
    /// Observations while there is no cluster data.
    missing_data: MissingData,
    throttle: RoundThrottle,
    arrivals: WatchArrivals,
    /// Duration of the sentinel's own requests since the last read.
    own_requests: Duration,
    log_state: LogState,
    heartbeat: Heartbeat,
    status: RoundStatus,
    failover: FailoverTimer,
    /// How the current round ends.
    result: RoundEnd,
}

/// What a round has read.
struct RoundInput {
    snapshot: DecodedSnapshot,
    /// The time just before the read was sent, from which its age counts (fencing F-7).
    began: Boottime,
    /// The time at which the response had arrived.
    now: Boottime,
}

/// When the next round is due if nothing happens.
enum NextRound {
    /// At the plan's deadline or after the interval.
    At(Boottime),
    /// As soon as the throttle allows.
    Soon,
}

impl NextRound {
    fn no_later_than(self, limit: Boottime) -> Self {
        match self {
            Self::At(at) => Self::At(at.min(limit)),
            Self::Soon => Self::Soon,
        }
    }
}

impl Sentinel {
    fn new(parts: SentinelParts, election: watch::Receiver<Leadership>) -> Self {
        let SentinelParts {
            store,
            uid,
            initial_spec,
            metrics,
            server: _,
            clock,
            random,
        } = parts;
        let longest_round = store.timeout().saturating_mul(REQUESTS_PER_ROUND_MAX);
        Self {
            info_publisher: SentinelInfoPublisher::start(store.clone(), uid),
            writer: DataWriter::new(store.clone(), clock.clone()),
            order_lease: OrderLease::new(store.clone(), clock.clone()),
            store,
            initial_spec,
            election,
            metrics,
            heartbeat: Heartbeat::new(clock.clone(), longest_round),
            clock,
            random,
            memory: Memory::default(),
            routine: RoutineInfos::default(),
            had_outage: false,
            missing_data: MissingData::default(),
            throttle: RoundThrottle::default(),
            arrivals: WatchArrivals::default(),
            own_requests: Duration::ZERO,
            log_state: LogState::default(),
            status: RoundStatus::default(),
            failover: FailoverTimer::default(),
            result: RoundEnd::NoStore,
        }
    }

    /// Reports what this sentinel does from now on. Without the thread for systemd, systemd reports that it waits.
    fn report_health(&self, server: Option<&MetricsServer>) {
        let (status, election) = (self.status.clone(), self.election.clone());
        let health = ProgramHealth::new(self.heartbeat.clone(), move || status.service_status(&election));
        if let Err(error) = program::report_health(server, health) {
            error!(%error, "cannot report to systemd");
        }
    }

    async fn run_rounds(&mut self) {
        let watch = self.store.watch(key_ranges(self.store.keys()), None);
        let mut election = self.election.clone();
        loop {
            self.throttle.start_round(self.clock.now());
            self.heartbeat.beat();
            let began = self.clock.now();
            let next = self.round().await;
            self.metrics.count_round(self.result, self.clock.now().since(began));
            let earliest = self.throttle.earliest_next();
            let due = match next {
                NextRound::At(at) => at.before(read_lead_time(self.store.latency())).max(earliest),
                NextRound::Soon => earliest,
            };
            loop {
                self.heartbeat.beat();
                let remaining = due.since(self.clock.now());
                tokio::select! {
                    () = sleep(remaining.min(BEAT_INTERVAL)) => if remaining <= BEAT_INTERVAL {
                        break;
                    },
                    changes = watch.changed() => {
                        self.arrivals.record(&changes, self.store.keys());
                        if self.has_other_changes(&changes) {
                            break;
                        }
                        self.arrivals.record_repetitions(&changes, self.store.keys());
                    }
                    changed = election.changed() => match changed {
                        Ok(()) => break,
                        // only at the end of the process
                        Err(_) => return,
                    },
                }
            }
            sleep(earliest.since(self.clock.now())).await;
            // Events during the delay belong to the next read.
            if let Some(changes) = watch.take() {
                self.arrivals.record(&changes, self.store.keys());
            }
        }
    }

    /// Returns whether anything has changed that may need a decision: neither this sentinel's own periodic write nor an
    /// info that only repeats what the last round has read (sentinel E-1).
    fn has_other_changes(&self, changes: &Changes) -> bool {
        let keys = self.store.keys();
        let is_routine = |(key, change): (&String, &KeyChange)| {
            self.writer.is_own_periodic_write(key, change.revision) || is_repetition(&self.routine, keys, key, change)
        };
        changes.gap || !changes.keys.iter().all(is_routine)
    }

    /// Runs one round (sentinel L-10): reads; then leads, or follows the leader's decisions.
    async fn round(&mut self) -> NextRound {
        self.routine = RoutineInfos::default();
        let Some(mut input) = self.read().await else {
            return NextRound::At(self.clock.now() + FAILURE_RETRY_DELAY);
        };
        let data = match &input.snapshot.data {
            Stored::Usable(data) => (**data).clone(),
            Stored::Absent => return self.handle_missing_data(&input).await,
            Stored::Unusable { .. } | Stored::Undecodable(_) => return self.handle_unusable_data(&input),
        };
        let interval = self.record_usable_data(&data);
        self.query_info_ages(&mut input).await;
        let leader = self.election.borrow().leader().cloned();
        match leader {
            Some(leader) => {
                let next = self.lead(&leader, &data, &input, interval).await;
                next.no_later_than(self.clock.now() + interval)
            }
            None => self.follow(&data, &input, interval),
        }
    }

    /// Reads all that decisions depend on, at one revision (sentinel E-2); none when the store has no response.
    async fn read(&mut self) -> Option<RoundInput> {
        let began = self.clock.now();
        let snapshot = match self.store.snapshot(&key_ranges(self.store.keys())).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.had_outage = true;
                self.result = RoundEnd::NoStore;
                self.log_state.log_store_error(&error, "error retrieving cluster data");
                self.status.set_no_store(Chain(&error).to_string());
                self.missing_data.restart_wait();
                return None;
            }
        };
        let now = self.clock.now();
        let mut snapshot = decode(snapshot, self.store.keys(), self.order_lease.id());
        snapshot.observations.latency = now.since(began);
        snapshot.observations.own_requests = std::mem::take(&mut self.own_requests);
        self.arrivals.apply_to(&mut snapshot.observations, now);
        self.log_state.warn_of_undecodable_infos(&snapshot, self.store.keys());
        self.log_state.warn_of_unusable_requests(&snapshot);
        Some(RoundInput { snapshot, began, now })
    }

    /// Records that there is usable cluster data. Returns the interval of rounds that it sets.
    fn record_usable_data(&mut self, data: &CheckedClusterData) -> Duration {
        self.missing_data.reset();
        let overview = ClusterOverview::of(data);
        self.metrics.set_cluster(&overview);
        self.status.set_cluster(overview);
        self.failover
            .record_read(&data.data, self.clock.now(), self.clock.wall());
        self.log_state.warn_of_clamped_durations(data);
        let interval = data.spec.sleep_interval.max(SLEEP_INTERVAL_MIN);
        self.info_publisher.set_interval(Some(interval));
        interval
    }

    /// Records that another sentinel leads. What was read is added to the memory, in case this one leads next.
    fn follow(&mut self, data: &CheckedClusterData, input: &RoundInput, interval: Duration) -> NextRound {
        self.result = RoundEnd::Followed;
        self.failover.end_leadership();
        self.throttle.set_in_switchover(false);
        self.writer.end_leadership();
        self.memory = self.memory.after_read(&input.snapshot.observations, data, input.now);
        self.routine = RoutineInfos::of(&data.data, &self.memory);
        self.log_state.clear_notes();
        self.log_state.clear_error();
        NextRound::At(self.clock.now() + interval)
    }

    /// The part of a round that only the leader runs: plans, then writes the plan unless it can wait.
    async fn lead(
        &mut self,
        leader: &Leader,
        data: &CheckedClusterData,
        input: &RoundInput,
        interval: Duration,
    ) -> NextRound {
        let plan_input = PlanInput {
            data,
            observations: &input.snapshot.observations,
            memory: &self.memory,
            leadership: leader.count,
            now: input.now,
            wall: Timestamp::from_unix_nanos(self.clock.wall()),
        };
        let memory_if_failed = memory_after_failed_round(&plan_input);
        let plan = match self.make_plan(&plan_input) {
            Ok(plan) => plan,
            Err(error) => return self.record_plan_error(&error, memory_if_failed, input.now + interval),
        };
        self.log_state.clear_error();
        let left = leader.lease_end().since(self.clock.now());
        let order_lease = self
            .order_lease
            .keep_for(&plan, data.spec.fail_interval, left, &mut self.own_requests);
        let order_lease = match order_lease.await {
            Ok(lease) => lease,
            Err(error) => return self.record_write(Err(error), plan, memory_if_failed, interval),
        };
        if let Some(due) = self.postponed_until(&plan, interval, input.now) {
            self.result = RoundEnd::Unchanged;
            self.record_decisions(&plan);
            self.routine = plan.routine_infos();
            self.memory = plan.memory;
            return NextRound::At(plan.wake_at.map_or(due, |wake| wake.min(due)));
        }
        let read = PlannedFrom {
            data,
            revision: input.snapshot.revision,
            began: input.began,
            order_lease,
        };
        let written = self
            .writer
            .write_plan(leader, read, &plan, &mut self.own_requests)
            .await;
        self.record_write(written, plan, memory_if_failed, interval)
    }

    fn make_plan(&self, input: &PlanInput<'_>) -> Result<Plan, PlanError> {
        let mut uid = || short_uid(self.random.bytes());
        let entropy = &mut Entropy {
            uid: &mut uid,
            number: u64::from_ne_bytes(self.random.bytes()),
        };
        plan(input, entropy)
    }

    /// Records that nothing can be planned from this input. The next round is due at `retry_at`.
    fn record_plan_error(&mut self, error: &PlanError, memory_if_failed: Memory, retry_at: Boottime) -> NextRound {
        self.result = RoundEnd::NotPlanned;
        let first_run = self.memory.leadership != memory_if_failed.leadership;
        self.memory = memory_if_failed;
        self.log_state.log_plan_error(error);
        // Nothing was derived in a first run (sentinel H-2); running keepers register in the next round.
        if first_run {
            NextRound::Soon
        } else {
            NextRound::At(retry_at)
        }
    }

    /// Returns until when the plan need not be written: it changes only times and positions, and the last write is
    /// recent.
    fn postponed_until(&self, plan: &Plan, interval: Duration, now: Boottime) -> Option<Boottime> {
        let write_interval =
            periodic_write_interval(interval, plan.next.proxied_master().is_none(), self.store.latency());
        let due = self.writer.periodic_write_due(write_interval)?;
        (plan.urgency == Urgency::Periodic && due > now).then_some(due)
    }

    /// Records the result of a write. Only what was written counts as decided.
    fn record_write(
        &mut self,
        written: Result<Option<Boottime>, StoreError>,
        plan: Plan,
        memory_if_failed: Memory,
        interval: Duration,
    ) -> NextRound {
        match written {
            Ok(Some(at)) => {
                self.result = RoundEnd::Written;
                self.metrics.set_last_check(self.clock.wall());
                self.record_decisions(&plan);
                self.routine = plan.routine_infos();
                self.memory = plan.memory;
                NextRound::At(plan.wake_at.map_or(at + interval, |wake| wake.min(at + interval)))
            }
            Ok(None) => {
                // Another program wrote, the old master published, or this sentinel no longer leads: read again.
                self.result = RoundEnd::Conflict;
                debug!("the store has changed since it was read, planning again");
                self.memory = memory_if_failed;
                NextRound::Soon
            }
            Err(error) => {
                self.result = RoundEnd::WriteFailed;
                self.log_state.log_notes(&plan.notes);
                error!(error = %Chain(&error), "error saving clusterdata");
                self.memory = memory_if_failed.keeping_election_of(&plan.memory);
                NextRound::At(self.clock.now() + FAILURE_RETRY_DELAY)
            }
        }
    }

    /// Logs and measures what a plan decided that counts.
    fn record_decisions(&mut self, plan: &Plan) {
        self.log_state.log_notes(&plan.notes);
        let (now, wall) = (self.clock.now(), self.clock.wall());
        self.failover.record_plan(plan, now, wall);
        if let Some(report) = &plan.switchover {
            self.info_publisher.set_switchover(report);
        }
        self.throttle.set_in_switchover(plan.leads_switchover());
    }

    fn handle_unusable_data(&mut self, input: &RoundInput) -> NextRound {
        self.result = RoundEnd::NoData;
        self.info_publisher.set_interval(None);
        self.status.set_no_data("the cluster data cannot be used");
        let key = self.store.keys().cluster_data();
        self.log_state.log_unusable_data(&input.snapshot, &key, input.now);
        NextRound::At(self.clock.now() + SLEEP_INTERVAL_UNKNOWN)
    }

    /// Handles missing cluster data: creates a cluster, whether or not this sentinel leads, unless keepers show that
    /// the cluster data was lost.
    async fn handle_missing_data(&mut self, input: &RoundInput) -> NextRound {
        self.result = RoundEnd::NoData;
        self.info_publisher.set_interval(None);
        self.status.set_no_data("there are no cluster data");
        let spec = self.initial_spec.as_ref().and_then(|spec| spec.resolve().ok());
        let interval = spec.map_or(SLEEP_INTERVAL_UNKNOWN, |spec| spec.sleep_interval);
        let decision = self
            .missing_data
            .observe(&input.snapshot, interval.max(SLEEP_INTERVAL_ABSENT_MIN), input.now);
        let next = self.clock.now() + SLEEP_INTERVAL_UNKNOWN;
        match (decision, self.initial_spec.clone()) {
            (MissingDataDecision::KeepersExist(known), _) => self.log_state.log_lost_data(&known, input.now),
            (_, None) => self.log_state.log_no_data(),
            (MissingDataDecision::WaitUntil(end), Some(_)) => {
                self.log_state.log_waiting_for_keepers();
                return NextRound::At(next.min(end));
            }
            (MissingDataDecision::Create, Some(spec)) => {
                let uid = ClusterUid::from(short_uid(self.random.bytes()));
                self.writer.create(spec, uid, &input.snapshot).await;
            }
        }
        NextRound::At(next)
    }

    /// Adds how old the infos were, at this sentinel's first read (sentinel E-6). Ages not received within the limit
    /// stay unknown.
    ///
    /// During an outage infos were not renewed, so their lease ages are wrong (sentinel E-3): then no ages are used.
    async fn query_info_ages(&mut self, input: &mut RoundInput) {
        let limit = request_limit(self.store.latency());
        self.had_outage |= input.now.since(input.began) > limit;
        if self.had_outage || !self.memory.history.is_empty() {
            return;
        }
        let (store, clock, read_at) = (self.store.with_timeout(limit), self.clock.clone(), input.now);
        let query = |lease| {
            let (store, clock) = (store.clone(), clock.clone());
            async move {
                let left = store.remaining(lease).await?;
                // The response arrives later than what was read.
                Ok(left.map(|left| ages::age_from_lease(left).saturating_sub(clock.now().since(read_at))))
            }
        };
        for (uid, age) in ages::query_ages(&input.snapshot.leases, query).await {
            if let Some(observed) = input.snapshot.observations.keepers.get_mut(&uid) {
                observed.age = observed.age.max(age);
            }
        }
        self.own_requests += self.clock.now().since(read_at);
    }
}
