//! The sentinel's loop: read the store, plan, write. The decisions are in `plan`; whatever starts a round, it does the
//! same work.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::ages;
use crate::decode::{DecodedSnapshot, decode, key_ranges};
use crate::log_state::LogState;
use crate::metrics::Metrics;
use crate::missing_data::{MissingData, MissingDataDecision};
use crate::stale_reads::StaleReads;
use crate::throttle::RoundThrottle;
use crate::watch_arrivals::WatchArrivals;
use base::clock::Boottime;
use base::{Chain, Clock, RandomBytes};
use model::{
    CheckedClusterData, ClusterData, ClusterSpec, ClusterUid, CreationRecord, SentinelInfo, SentinelUid, Stored,
    Timestamp, short_uid, to_compact,
};
use plan::{Condition, Entropy, Memory, Plan, PlanInput, Urgency, memory_after_failed_round, plan};
use store::election::{Election, Leader, Leadership};
use store::{Changes, Revision, Store, StoreError, Txn, TxnOutcome, info_ttl};

/// Interval of rounds while no cluster data sets one (sentinel L-9).
const SLEEP_INTERVAL_UNKNOWN: Duration = Duration::from_secs(5);
/// Minimum sleepInterval of an initial spec while waiting for keepers.
const SLEEP_INTERVAL_ABSENT_MIN: Duration = Duration::from_secs(1);
/// Minimum interval of rounds: sleepInterval may be zero.
const SLEEP_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Delay after a failed request, which has waited already.
const FAILURE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Above this latency reads are sent ahead of time.
const SLOW_STORE_LATENCY: Duration = Duration::from_millis(100);

/// Returns how long before a deadline the read for it is sent, so that a slow store does not add its latency. It is
/// less than the whole latency: a response just before the deadline would be of no use.
fn read_lead_time(latency: Duration) -> Duration {
    if latency < SLOW_STORE_LATENCY {
        return Duration::ZERO;
    }
    latency / 10 * 9
}

/// Minimum interval of periodic writes while no master is announced (extensions ).
const PERIODIC_WRITE_WHILE_AWAITED: Duration = Duration::from_secs(5);

/// Returns the minimum interval of periodic writes, which update only times and positions.
///
/// Permits and check-ins are conditional on the revision of the cluster data, and each write fails those in flight. On
/// a slow store there must be time for one that fails and its repetition.
fn periodic_write_interval(sleep_interval: Duration, is_master_awaited: bool, latency: Duration) -> Duration {
    let awaited = if is_master_awaited {
        PERIODIC_WRITE_WHILE_AWAITED
    } else {
        Duration::ZERO
    };
    sleep_interval.max(awaited).max(latency.saturating_mul(3))
}

/// Everything that a sentinel is started with.
#[derive(Debug)]
pub struct SentinelParts {
    /// The store of the cluster.
    pub store: Store,
    /// This process.
    pub uid: SentinelUid,
    /// The spec of a new cluster, used only if there is no cluster data.
    pub initial_spec: Option<ClusterSpec>,
    /// Already registered.
    pub metrics: Metrics,
    /// Ages, deadlines and the times in the cluster data.
    pub clock: Clock,
    /// New uids, and the choice between equal candidates.
    pub random: RandomBytes,
}

/// Returns eight random hexadecimal digits (data-model 2.3).
pub fn random_uid(random: &RandomBytes) -> String {
    short_uid(random.bytes())
}

/// Runs until `stop` completes, then resigns from the election, so that another sentinel leads at once (L-8).
pub async fn run(parts: SentinelParts, stop: impl Future) {
    let SentinelParts {
        store,
        uid,
        initial_spec,
        metrics,
        clock,
        random,
    } = parts;
    let election = Election::start(store.clone(), uid.as_str());
    let (publish, wanted) = watch::channel(None);
    let info_task = tokio::spawn(publish_info(store.clone(), uid, wanted));
    let metrics_task = tokio::spawn(count_leaderships(election.state(), metrics.clone()));
    let mut sentinel = Sentinel {
        store,
        initial_spec,
        election: election.state(),
        info_interval: publish,
        metrics,
        clock,
        random,
        memory: Memory::default(),
        had_outage: false,
        last_write: None,
        missing_data: MissingData::default(),
        throttle: RoundThrottle::default(),
        arrivals: WatchArrivals::default(),
        stale_reads: StaleReads::default(),
        own_requests: Duration::ZERO,
        log_state: LogState::default(),
    };
    tokio::select! {
        _ = stop => {}
        () = sentinel.run_rounds() => {}
    }
    info!("stopping stolon sentinel");
    info_task.abort();
    metrics_task.abort();
    election.stop().await;
}

/// Publishes the sentinel's info once per sleepInterval while there is valid cluster data (sentinel M-1, store S-20).
async fn publish_info(store: Store, uid: SentinelUid, mut wanted: watch::Receiver<Option<Duration>>) {
    let key = store.keys().sentinel_info(uid.as_str());
    let value = to_compact(&SentinelInfo { uid });
    let mut failing = false;
    loop {
        let interval = *wanted.borrow_and_update();
        let pause = match interval {
            None => None,
            Some(interval) => {
                let outcome = store
                    .put_leased(&key, value.as_str(), info_ttl(interval.saturating_mul(2)))
                    .await;
                match outcome {
                    Ok(_) => failing = false,
                    Err(error) if failing => debug!(error = %Chain(&error), "cannot update sentinel info"),
                    Err(error) => {
                        error!(error = %Chain(&error), "cannot update sentinel info");
                        failing = true;
                    }
                }
                Some(interval)
            }
        };
        let interval_elapsed = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interval_elapsed => {}
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn count_leaderships(mut state: watch::Receiver<Leadership>, metrics: Metrics) {
    loop {
        let leader = state.borrow_and_update().leader().map(|leader| leader.count);
        metrics.is_leader.set(if leader.is_some() { 1.0 } else { 0.0 });
        if let Some(count) = leader {
            metrics
                .leader_count
                .set(u32::try_from(count).map_or(f64::MAX, f64::from));
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// The state of the loop.
struct Sentinel {
    store: Store,
    initial_spec: Option<ClusterSpec>,
    election: watch::Receiver<Leadership>,
    info_interval: watch::Sender<Option<Duration>>,
    metrics: Metrics,
    clock: Clock,
    random: RandomBytes,
    /// Replaced as a whole once a round has succeeded.
    memory: Memory,
    /// A read failed or was slow; this matters only before the first successful read.
    had_outage: bool,
    /// The last write of this sentinel.
    last_write: Option<LastWrite>,
    /// Observations while there is no cluster data.
    missing_data: MissingData,
    throttle: RoundThrottle,
    arrivals: WatchArrivals,
    stale_reads: StaleReads,
    /// Duration of the sentinel's own requests since the last read.
    own_requests: Duration,
    log_state: LogState,
}

#[derive(Debug, Clone, Copy)]
struct LastWrite {
    at: Boottime,
    revision: Revision,
    urgency: Urgency,
}

/// When the next round is due if nothing happens.
enum NextRound {
    /// At the plan's deadline or after the interval.
    At(Boottime),
    /// As soon as the throttle allows.
    Soon,
}

impl Sentinel {
    async fn run_rounds(&mut self) {
        let watch = self.store.watch(key_ranges(self.store.keys()), None);
        let mut election = self.election.clone();
        loop {
            self.throttle.start_round(self.clock.now());
            let next = self.round().await;
            let earliest = self.throttle.earliest_next();
            let due = match next {
                NextRound::At(at) => at.before(read_lead_time(self.store.latency())).max(earliest),
                NextRound::Soon => earliest,
            };
            loop {
                tokio::select! {
                    () = sleep(due.since(self.clock.now())) => break,
                    changes = watch.changed() => {
                        self.arrivals.record(&changes, self.store.keys());
                        if self.is_news(&changes) {
                            break;
                        }
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

    /// Returns whether anything has changed except by this sentinel's own periodic write.
    fn is_news(&self, changes: &Changes) -> bool {
        let own = self.last_write.filter(|written| written.urgency == Urgency::Periodic);
        let data = self.store.keys().cluster_data();
        changes.gap
            || changes
                .keys
                .iter()
                .any(|(key, change)| own.is_none_or(|own| *key != data || change.revision != own.revision))
    }

    /// Runs one round (sentinel L-10).
    async fn round(&mut self) -> NextRound {
        // The age of what is read counts from before the read (fencing F-7).
        let began = self.clock.now();
        let snapshot = match self.store.snapshot(&key_ranges(self.store.keys())).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.had_outage = true;
                self.log_state.log_store_error(&error, "error retrieving cluster data");
                self.missing_data.restart_wait();
                return NextRound::At(self.clock.now() + FAILURE_RETRY_DELAY);
            }
        };
        let now = self.clock.now();
        let mut reading = decode(snapshot, self.store.keys());
        reading.observations.latency = now.since(began);
        reading.observations.own_requests = std::mem::take(&mut self.own_requests);
        self.arrivals.apply_to(&mut reading.observations, now);
        self.log_state.warn_of_undecodable_infos(&reading);
        let data = match &reading.data {
            Stored::Usable(data) => (**data).clone(),
            found => {
                self.info_interval.send_if_modified(|wanted| wanted.take().is_some());
                if matches!(found, Stored::Absent) {
                    return self.handle_missing_data(&reading, now).await;
                }
                let key = self.store.keys().cluster_data();
                self.log_state.log_unusable_data(&reading, &key, now);
                return NextRound::At(self.clock.now() + SLEEP_INTERVAL_UNKNOWN);
            }
        };
        self.missing_data.reset();
        self.log_state.warn_of_clamped_durations(&data);
        let interval = data.spec.sleep_interval.max(SLEEP_INTERVAL_MIN);
        self.info_interval
            .send_if_modified(|wanted| wanted.replace(interval) != Some(interval));
        // During an outage infos were not renewed, so their lease ages are wrong (sentinel E-3): then no ages are used.
        self.had_outage |= now.since(began) > self.request_limit();
        if self.memory.history.is_empty() && !self.had_outage {
            self.query_info_ages(&mut reading, now).await;
        }
        let leader = self.election.borrow().leader().cloned();
        let Some(leader) = leader else {
            self.stale_reads.reset();
            self.memory = self.memory.after_read(&reading.observations, &data, now);
            self.log_state.forget_notes();
            self.log_state.clear_error();
            return NextRound::At(self.clock.now() + interval);
        };
        let next = self.lead_round(&leader, &data, &reading, began, now).await;
        match next {
            NextRound::At(at) => NextRound::At(at.min(self.clock.now() + interval)),
            NextRound::Soon => NextRound::Soon,
        }
    }

    /// The part of a round that only the leader runs.
    async fn lead_round(
        &mut self,
        leader: &Leader,
        data: &CheckedClusterData,
        reading: &DecodedSnapshot,
        began: Boottime,
        now: Boottime,
    ) -> NextRound {
        let input = PlanInput {
            data,
            observations: &reading.observations,
            memory: &self.memory,
            leadership: leader.count,
            now,
            wall: Timestamp::from_unix_nanos(self.clock.wall()),
        };
        let interval = data.spec.sleep_interval.max(SLEEP_INTERVAL_MIN);
        let mut uid = || random_uid(&self.random);
        let entropy = &mut Entropy {
            uid: &mut uid,
            number: u64::from_ne_bytes(self.random.bytes()),
        };
        let memory_if_failed = memory_after_failed_round(&input);
        let plan = match plan(&input, entropy) {
            Ok(plan) => plan,
            Err(refusal) => {
                let first_run = self.memory.leadership != memory_if_failed.leadership;
                self.memory = memory_if_failed;
                self.log_state.log_plan_error(&refusal);
                // Nothing was derived in a first run (sentinel H-2); running keepers register in the next round.
                return if first_run {
                    NextRound::Soon
                } else {
                    NextRound::At(now + interval)
                };
            }
        };
        self.log_state.clear_error();
        let refresh = periodic_write_interval(interval, plan.next.proxied_master().is_none(), self.store.latency());
        let due = self.last_write.map(|written| written.at + refresh);
        let refreshed_at = due.filter(|due| plan.urgency == Urgency::Periodic && *due > now);
        if let Some(due) = refreshed_at {
            self.log_state.log_notes(&plan.notes);
            self.memory = plan.memory;
            return NextRound::At(plan.wake_at.map_or(due, |at| at.min(due)));
        }
        match self.write(leader, data, &plan, reading.revision, began).await {
            Ok(Some(revision)) => {
                let at = self.clock.now();
                self.last_write = Some(LastWrite {
                    at,
                    revision,
                    urgency: plan.urgency,
                });
                self.metrics.last_check.set(seconds(self.clock.wall()));
                self.log_state.log_notes(&plan.notes);
                self.memory = plan.memory;
                NextRound::At(plan.wake_at.map_or(at + interval, |wake| wake.min(at + interval)))
            }
            Ok(None) => {
                // Another program wrote, the old master published, or this sentinel no longer leads: read again.
                debug!("the store has changed since it was read, planning again");
                self.memory = memory_if_failed;
                NextRound::Soon
            }
            Err(error) => {
                self.log_state.log_notes(&plan.notes);
                error!(error = %Chain(&error), "error saving clusterdata");
                self.memory = memory_if_failed.keeping_election_of(&plan);
                NextRound::At(self.clock.now() + FAILURE_RETRY_DELAY)
            }
        }
    }

    /// Writes a plan as leader (fencing F-7). Returns none when a condition does not hold.
    async fn write(
        &mut self,
        leader: &Leader,
        read: &CheckedClusterData,
        plan: &Plan,
        read_at: Revision,
        began: Boottime,
    ) -> Result<Option<Revision>, StoreError> {
        let keys = self.store.keys();
        let data = keys.cluster_data();
        let mut txn = leader.guard(Txn::new()).if_unchanged(&data, read_at);
        for condition in &plan.conditions {
            txn = match condition {
                Condition::KeeperInfo { key, revision } => {
                    let revision = revision.map_or(Revision::ABSENT, Revision);
                    txn.if_unchanged(&keys.keeper_info(key), revision)
                }
            };
        }
        let txn = txn.put(&data, to_compact(&plan.next));
        // What was read may be as old as the time since then, which must be less than what is left of the lease. A
        // request that waits for a connection is sent later, so that wait is limited, too.
        let sent = self.clock.now();
        let left = leader.lease_end().since(sent).saturating_sub(sent.since(began));
        if left.is_zero() {
            debug!("what was read is too old for what is left of the election lease");
            if self.stale_reads.record_unsent_write(sent, read.spec.fail_interval) {
                warn!(
                    latency = ?self.store.latency(),
                    "no cluster data could be written for failInterval: the store's answers take longer than is left of \
                     the election lease, so nothing fails over; check the store"
                );
            }
            return Ok(None);
        }
        self.stale_reads.reset();
        let outcome = self.store.sent_within(left).commit(txn).await;
        self.own_requests += self.clock.now().since(sent);
        Ok(outcome?.committed())
    }

    /// Handles missing cluster data: creates a cluster, whether or not this sentinel leads, unless keepers show that
    /// the cluster data was lost.
    async fn handle_missing_data(&mut self, reading: &DecodedSnapshot, now: Boottime) -> NextRound {
        let spec = self.initial_spec.as_ref().and_then(|spec| spec.resolve().ok());
        let interval = spec.map_or(SLEEP_INTERVAL_UNKNOWN, |spec| spec.sleep_interval);
        let verdict = self
            .missing_data
            .observe(reading, interval.max(SLEEP_INTERVAL_ABSENT_MIN), now);
        let next = self.clock.now() + SLEEP_INTERVAL_UNKNOWN;
        match (verdict, self.initial_spec.clone()) {
            (MissingDataDecision::KeepersExist(former), _) => self.log_state.log_lost_data(&former, now),
            (_, None) => self.log_state.log_no_data(),
            (MissingDataDecision::WaitUntil(end), Some(_)) => {
                self.log_state.log_waiting_for_keepers();
                return NextRound::At(next.min(end));
            }
            (MissingDataDecision::Create, Some(spec)) => self.create(spec, reading).await,
        }
        NextRound::At(next)
    }

    /// Creates the first cluster data (sentinel B-1, B-3), unless a keeper has published meanwhile.
    async fn create(&mut self, spec: ClusterSpec, reading: &DecodedSnapshot) {
        info!("writing initial cluster data");
        let now = Timestamp::from_unix_nanos(self.clock.wall());
        let uid = ClusterUid::from(random_uid(&self.random));
        let data = ClusterData::initial(uid.clone(), now, spec);
        let keys = self.store.keys();
        let key = keys.cluster_data();
        let mut txn = Txn::new().if_unchanged(&key, reading.revision);
        if reading.observations.keeper_keys.is_empty() {
            txn = txn.if_none_below(&keys.keeper_infos());
        }
        let txn = txn
            .put(&key, to_compact(&data))
            .put(&keys.created(), to_compact(&CreationRecord::by_sentinel(uid)));
        match self.store.commit(txn).await {
            Ok(TxnOutcome::Committed(_)) => {}
            Ok(TxnOutcome::Conflict) => {
                info!("a sentinel has written the initial cluster data, or a keeper has appeared")
            }
            Err(error) => error!(error = %Chain(&error), "error saving cluster data"),
        }
    }

    /// Returns the longest duration of a request while the store works normally.
    fn request_limit(&self) -> Duration {
        FAILURE_RETRY_DELAY.max(self.store.latency().saturating_mul(2))
    }

    /// Queries how old the infos were at `now`, at this sentinel's first read (sentinel E-6). Ages not received within
    /// the limit stay unknown.
    async fn query_info_ages(&mut self, reading: &mut DecodedSnapshot, now: Boottime) {
        let limit = self.request_limit();
        let store = self.store.with_timeout(limit);
        let clock = self.clock.clone();
        let ask = |lease| {
            let (store, clock) = (store.clone(), clock.clone());
            async move {
                let left = store.remaining(lease).await?;
                Ok(left.map(|left| ages::age_from_lease(left).saturating_sub(clock.now().since(now))))
            }
        };
        for (uid, age) in ages::query_ages(&reading.leases, ask).await {
            if let Some(observed) = reading.observations.keepers.get_mut(&uid) {
                observed.age = observed.age.max(age);
            }
        }
        self.own_requests += self.clock.now().since(now);
    }
}

fn seconds(unix_nanos: i128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a metric in seconds needs no nanoseconds")]
    let nanos = unix_nanos as f64;
    nanos / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_writes_come_once_a_sleep_interval_and_less_often_when_they_delay_others() {
        let refresh = |sleep, is_awaited, latency| {
            let millis = Duration::from_millis;
            periodic_write_interval(millis(sleep), is_awaited, millis(latency)).as_millis()
        };
        assert_eq!(refresh(5000, false, 2), 5000);
        assert_eq!(refresh(1000, false, 2), 1000);
        assert_eq!(refresh(1000, true, 2), 5000, "a permit is awaited");
        assert_eq!(refresh(5000, false, 3000), 9000);
    }

    #[test]
    fn reads_of_a_fast_store_are_not_sent_ahead_of_time() {
        assert_eq!(read_lead_time(Duration::from_millis(5)), Duration::ZERO);
        assert_eq!(read_lead_time(Duration::from_secs(1)), Duration::from_millis(900));
    }
}
