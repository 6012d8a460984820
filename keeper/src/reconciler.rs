//! The reconciler: one round reads the cluster data, observes the instance, lets `reconcile` plan, and executes the
//! steps (keeper 4). What the steps are is decided by `reconcile`, when a round runs by `schedule`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Chain;
use base::clock::{Boottime, wall_clock};
use model::{
    BootUuid, CheckedClusterData, Clamped, CreationRecord, DbUid, KeeperUid, Spec, Stored, Unusable, from_slice,
};
use store::{Entry, Revision, Store};
use tracing::{error, info, warn};

use crate::args::Config;
use crate::copy_backoff::{CopyBackoff, KnownObstacle};
use crate::local::state::LocalState;
use crate::metrics::{MetricRole, Metrics};
use crate::monitor::Monitor;
use crate::postgres::config::conf::{SlotNeeds, StandbyMinimums};
use crate::postgres::config::credentials::Secret;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::links;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::pgdata;
use crate::postgres::data::walker::{FileSystemHung, Walker};
use crate::postgres::instance::{Instance, LocalRole as FileRole};
use crate::problems::{KeeperProblemKind, Problems};
use crate::publish::{Due, Publisher};
use crate::reconcile::{
    ClusterDataState, CopyFacts, DataRole, DataState, Desired, Goal, HoldReason, LocalFacts, LogMessage, NextAction,
    ObservedState, ProcessState, ReconcilePlan, ServerProbe, ServerState, Step, StopReason, TargetDb, TargetRole,
    Upstream, changed_fields, desired_state, endangered_cluster, hold_unless_given_up, plan,
};
use crate::round_log::{self, CopyHold, RoundLog};
use crate::streaming::{self, FollowedDb};

use self::config_check::ConfigCheck;
use self::executor::{StepError, failure_message};
use self::housekeeping::{Housekeeping, HousekeepingContext, HousekeepingInput};

mod config_check;
mod configuration;
mod copy_needs;
mod executor;
mod housekeeping;
mod probe;
mod problem;
mod restart;

pub use probe::stopped;
pub use restart::PeerRestarts;

/// Plans in one round. More means that two rules undo each other or that the cluster data change all the time.
const PLANS_MAX: usize = 20;
/// Latency above which optional reads of the store are skipped.
const SLOW_STORE: Duration = Duration::from_millis(100);
/// Runs the rounds, and holds everything that they need and remember.
pub struct Reconciler {
    pub config: Arc<Config>,
    pub me: KeeperUid,
    pub boot: BootUuid,
    pub store: Store,
    pub instance: Arc<Instance>,
    pub publisher: Arc<Publisher>,
    /// Keeps the published state of the instance current.
    pub monitor: Arc<Monitor>,
    pub local: Arc<LocalState>,
    /// Directories outside PGDATA that belong to this keeper.
    pub owned: Arc<OwnedDirs>,
    /// Reads these directories.
    pub walker: Walker,
    /// Changes them.
    pub changes: DataChanges,
    pub metrics: Arc<Metrics>,
    pub problems: Arc<Problems>,
    /// The desired state for which a long step is running, for the loop to compare with new cluster data.
    pub in_progress: Arc<Mutex<Option<Desired>>>,
    /// The cluster data of the last watch event.
    pub latest: Arc<Mutex<Option<Entry>>>,
    /// Since when other instances have been restarting.
    pub restarts: Mutex<PeerRestarts>,
    /// State kept between rounds.
    pub memory: ReconcilerMemory,
}

/// State kept between rounds.
#[derive(Debug, Default)]
pub struct ReconcilerMemory {
    process: ProcessState,
    /// The last db that was assigned.
    target: Option<Box<TargetDb>>,
    /// The last logged reason for not acting.
    last_logged: Option<LogMessage>,
    /// Why a copy is waiting.
    copy_hold: CopyHold,
    /// Minimum parameters of a standby, from its control file.
    minimums: StandbyMinimums,
    /// Which parts of the configuration are rejected.
    config_check: Box<ConfigCheck>,
    /// The replication slots in the data directory before the last start.
    slots: SlotNeeds,
    /// Failing changes of slots, and why.
    failing_slots: BTreeMap<String, String>,
    /// Work that follows complete rounds.
    housekeeping: Housekeeping,
    /// Failed copies.
    backoff: CopyBackoff,
    /// Obstacle of the last copy.
    known_obstacle: KnownObstacle,
}

/// What triggered a round.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// The timer. The round is logged even if it finds nothing to do.
    Timer,
    /// An event.
    Event,
    /// An event soon after a failed round. The round runs only if the desired state is not this one.
    EventUnless(Desired),
}

/// Result of a round.
#[derive(Debug, Clone, PartialEq)]
pub enum RoundResult {
    /// The desired state is reached.
    Done,
    /// Nothing more can be done for this desired state.
    OnHold,
    /// A step failed; it is retried.
    Failed,
    /// The desired state is the one that failed before.
    Skipped,
}

/// What a round returns to the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundOutcome {
    pub result: RoundResult,
    /// The last desired state of the round.
    pub desired: Desired,
    /// The spec in force; `None` without usable cluster data.
    pub spec: Option<Spec>,
}

/// Cluster data as read, with their revision.
#[derive(Debug, Clone)]
struct ReadClusterData {
    state: ClusterDataState,
    revision: Revision,
}

/// State of a running round.
struct RoundState {
    log: RoundLog,
    probe: Option<ServerProbe>,
    copy: Option<CopyFacts>,
    /// When the permit was requested.
    permit: Option<base::clock::Boottime>,
    /// A step failed that may fail.
    is_incomplete: bool,
}

impl Reconciler {
    /// Runs one round. Dropping the future aborts it; the next round finds what was started.
    pub async fn reconcile(&mut self, trigger: Trigger) -> RoundOutcome {
        self.set_in_progress(None);
        let hung = self.changes.wait_idle().await.err();
        self.report_hung_change(hung.as_ref());
        let mut round = RoundState {
            log: RoundLog::new(trigger == Trigger::Timer && !self.memory.copy_hold.is_held()),
            probe: None,
            copy: None,
            permit: None,
            is_incomplete: false,
        };
        let mut read = self.first_read().await;
        if hung.is_some() {
            let desired = self.desired(&read.state).await;
            return outcome(RoundResult::Failed, desired, &read);
        }
        for plan_number in 0..PLANS_MAX {
            let desired = self.desired(&read.state).await;
            if plan_number == 0 && matches!(&trigger, Trigger::EventUnless(failed) if *failed == desired) {
                return outcome(RoundResult::Skipped, desired, &read);
            }
            self.update_from_cluster_data(&desired, &read, &mut round.log);
            let plan = match self.plan(&desired, &round).await {
                Ok(plan) => plan,
                Err(error) => {
                    error!(error = %Chain(&error), "could not observe the instance");
                    return outcome(RoundResult::Failed, desired, &read);
                }
            };
            self.publish_data_lost(&desired, &plan);
            match self.execute(&desired, &read, &plan, &mut round).await {
                Ok(()) => {}
                Err(error) if error.should_plan_again() => {
                    (round.probe, round.copy) = (None, None);
                    read = self.read().await;
                    continue;
                }
                Err(_) => return outcome(RoundResult::Failed, desired, &read),
            }
            match plan.next {
                NextAction::PlanAgain => {
                    (round.probe, round.copy) = (None, None);
                    // On a slow store the steps after a promotion skip another read: the permit has just confirmed the
                    // revision of the cluster data, and a change of them aborts the round.
                    if !(self.is_store_slow() && plan.steps.contains(&Step::Promote)) {
                        read = self.read().await;
                    }
                }
                NextAction::ProbeServer => round.probe = Some(Box::pin(self.probe_server(&desired)).await),
                NextAction::ProbeSource(from) => {
                    #[expect(clippy::disallowed_methods, reason = "the pause between two looks ends here")]
                    let now = Boottime::now();
                    if let Some(why) = self.memory.known_obstacle.current(now, &desired) {
                        self.log(&LogMessage::OnHold(why), &mut round.log);
                        return outcome(RoundResult::OnHold, desired, &read);
                    }
                    self.set_in_progress(Some(&desired));
                    round.copy = Some(Box::pin(self.probe_source(&from, &desired)).await);
                    self.set_in_progress(None);
                }
                NextAction::Done => {
                    self.end_log(None, &mut round.log);
                    self.problems.set(KeeperProblemKind::Data, "copy", Vec::new());
                    if !round.is_incomplete {
                        self.forget_failed_steps();
                    }
                    if let Goal::Run(target) = &desired.goal {
                        self.round_complete(target, matches!(round.probe, Some(ServerProbe::Answered(_))));
                    }
                    return outcome(RoundResult::Done, desired, &read);
                }
                NextAction::Hold(why) => {
                    self.end_log(Some(&why), &mut round.log);
                    let problem = problem::problem(&why, &self.instance.config().data, &self.local.cluster());
                    self.problems
                        .set(KeeperProblemKind::Data, "copy", problem.into_iter().collect());
                    if matches!(why, HoldReason::Obstacle(..)) {
                        #[expect(clippy::disallowed_methods, reason = "the pause between two looks begins here")]
                        self.memory.known_obstacle.record(Boottime::now(), &desired, &why);
                    }
                    return outcome(RoundResult::OnHold, desired, &read);
                }
            }
        }
        error!(looks = PLANS_MAX, "the round does not settle");
        let desired = self.desired(&read.state).await;
        outcome(RoundResult::Failed, desired, &read)
    }

    /// Marks the generated files as unknown: the next round writes them and reloads the server.
    pub fn invalidate_files(&mut self) {
        self.memory.process.current = None;
    }

    /// Returns the cluster data for the first plan. They are read from the store, except before a promotion on a slow
    /// store: the promotion first requests a permit, which is granted only on the current revision, so the data of the
    /// last watch event are sufficient.
    async fn first_read(&self) -> ReadClusterData {
        let latest = self
            .latest
            .lock()
            .expect("no thread panics while holding the cluster data")
            .take();
        let Some(entry) = latest.filter(|_| self.is_store_slow()) else {
            return self.read().await;
        };
        let read = ReadClusterData {
            state: cluster_data_state(Some(&entry)),
            revision: entry.mod_revision,
        };
        let is_standby = matches!(self.instance.local_role(), Ok(FileRole::Standby));
        let runs = matches!(self.instance.running().await, Ok(Some(_)));
        match desired_state(&read.state, &self.me, &self.boot).goal {
            Goal::Run(target) if target.role == TargetRole::Master && target.db == self.local.db().uid => {
                if is_standby && runs { read } else { self.read().await }
            }
            _ => self.read().await,
        }
    }

    fn is_store_slow(&self) -> bool {
        self.store.latency() > SLOW_STORE
    }

    async fn read(&self) -> ReadClusterData {
        match self.store.get(&self.store.keys().cluster_data()).await {
            Ok(entry) => ReadClusterData {
                state: cluster_data_state(entry.as_ref()),
                revision: entry.map_or(Revision::ABSENT, |entry| entry.mod_revision),
            },
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "could not read the cluster data");
                ReadClusterData {
                    state: ClusterDataState::Unavailable,
                    revision: Revision::ABSENT,
                }
            }
        }
    }

    /// Returns the desired state; on hold if the cluster data belong to another cluster than the local database.
    async fn desired(&self, reading: &ClusterDataState) -> Desired {
        let desired = desired_state(reading, &self.me, &self.boot);
        let ClusterDataState::Valid(checked) = reading else {
            return desired;
        };
        // What cannot be read may be data.
        let has_data = !matches!(self.instance.local_role(), Ok(FileRole::Undefined));
        let local = LocalFacts {
            cluster: self.local.cluster(),
            db: self.local.db(),
            data: if has_data {
                DataState::Present(DataRole::Master)
            } else {
                DataState::Absent
            },
            unclaimed: None, // this check covers only data named in dbstate
        };
        let Some(own) = endangered_cluster(checked, &self.me, &local) else {
            return desired;
        };
        let key = self.store.keys().created();
        match self.store.get(&key).await {
            Ok(entry) => {
                let created = entry.and_then(|entry| from_slice::<CreationRecord>(&entry.value).ok());
                hold_unless_given_up(desired, &own, created.as_ref())
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "could not read who created the cluster");
                Desired {
                    cluster: None,
                    goal: Goal::Hold(HoldReason::StoreUnavailable),
                }
            }
        }
    }

    /// Updates metrics and published facts from the cluster data, logs a changed db, and withdraws an outdated
    /// `stopped`.
    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn update_from_cluster_data(&mut self, desired: &Desired, read: &ReadClusterData, log: &mut RoundLog) {
        if let ClusterDataState::Valid(checked) = &read.state {
            self.report_limits(checked);
            self.metrics.cluster_data_valid.set(unix_seconds(wall_clock()));
        }
        self.report_password_files();
        let assigned = match &desired.goal {
            Goal::Run(target) => Some(Some(&target.db)),
            Goal::Stop(StopReason::OldMaster { db, .. }) => Some(Some(db)),
            Goal::Stop(StopReason::NoDb) | Goal::Hold(HoldReason::NotListed) => Some(None),
            Goal::Stop(StopReason::BootNotAcknowledged) | Goal::Hold(_) => None,
        };
        if let (Some(published), Some(assigned)) = (&self.memory.process.published_stopped, assigned)
            && assigned != Some(published)
        {
            self.retract_stopped();
        }
        self.monitor.set_followed(followed(desired, &read.state));
        let Goal::Run(target) = &desired.goal else { return };
        self.metrics.set_target_role(match target.role {
            TargetRole::Master => MetricRole::Master,
            TargetRole::Standby(_) | TargetRole::NoUpstream => MetricRole::Standby,
            TargetRole::Other(_) => MetricRole::Undefined,
        });
        match &self.memory.target {
            Some(before) if before.db == target.db && before.spec != target.spec => {
                let changed = changed_fields(&before.spec, &target.spec).join(",");
                log.flush();
                info!(db = %target.db, generation = target.generation, %changed, "our db changed");
            }
            _ => {}
        }
        self.memory.target = Some(target.clone());
    }

    /// Reports each stored duration that is clamped to another value.
    fn report_limits(&self, checked: &CheckedClusterData) {
        let clamped = checked.cluster().spec.as_ref().map(|spec| spec.clamped());
        let clamped = clamped.unwrap_or_default();
        let problem = |stored: &Clamped| {
            let text = format!("{} of the cluster spec cannot be used as it is: {stored}", stored.field);
            KeeperProblemKind::Configuration.problem(&text, "set another duration with stolonctl update")
        };
        let problems = clamped.iter().map(problem).collect();
        self.problems.set(KeeperProblemKind::Configuration, "limits", problems);
    }

    /// Reports password files that can no longer be read.
    fn report_password_files(&self) {
        let failing = self.instance.config().passwords().filter_map(Secret::failure);
        let problem = |text: String| {
            KeeperProblemKind::Login.problem(&text, "make the file readable with a password in it, and send SIGHUP")
        };
        self.problems.set(
            KeeperProblemKind::Login,
            "password files",
            failing.map(problem).collect(),
        );
    }

    /// Publishes whether the data of the assigned db are missing, so that the sentinel assigns another db.
    fn publish_data_lost(&self, desired: &Desired, plan: &ReconcilePlan) {
        let lost = match (&plan.next, &desired.goal) {
            (NextAction::Hold(HoldReason::DataLost | HoldReason::NoUsableData), Goal::Run(target)) => target.db.clone(),
            _ => DbUid::default(),
        };
        if self.publisher.report().data_lost != lost {
            self.publisher.change(Due::Now, |report| report.data_lost = lost);
        }
    }

    /// Observes the data directory and the process, and plans.
    async fn plan(&mut self, desired: &Desired, round: &RoundState) -> Result<ReconcilePlan, StepError> {
        let data = match self.instance.local_role()? {
            FileRole::Undefined => DataState::Absent,
            FileRole::Master => DataState::Present(DataRole::Master),
            FileRole::Standby => DataState::Present(DataRole::Standby),
        };
        self.metrics.set_local_role(match data {
            DataState::Absent => MetricRole::Undefined,
            DataState::Present(DataRole::Master) => MetricRole::Master,
            DataState::Present(DataRole::Standby) => MetricRole::Standby,
        });
        let local = LocalFacts {
            cluster: self.local.cluster(),
            db: self.local.db(),
            data,
            unclaimed: match self.local.db().uid.as_str() {
                "" => pgdata::unclaimed_content(&self.instance.config().data, &self.owned)?,
                _ => None,
            },
        };
        let server = match self.instance.running().await? {
            None => ServerState::Down,
            Some(_) => ServerState::Up(round.probe.clone().unwrap_or(ServerProbe::NotProbed)),
        };
        let config = match &desired.goal {
            Goal::Run(target) => {
                if server == ServerState::Down {
                    self.read_minima(target, data).await;
                    self.read_slots(data);
                }
                if matches!(target.role, TargetRole::Standby(_)) {
                    self.instance.config().refresh_passfile()?;
                }
                Box::pin(self.check_config(target, &server)).await;
                Some(self.server_config(target))
            }
            _ => None,
        };
        #[expect(clippy::disallowed_methods, reason = "the pause between failed copies ends here")]
        let now = Boottime::now();
        self.memory.process.copy_pause = self.memory.backoff.active_pause(now, desired);
        let observed = ObservedState {
            desired,
            local: &local,
            server: &server,
            config: config.as_ref(),
            process: &self.memory.process,
            copy: round.copy.as_ref(),
        };
        Ok(plan(&observed))
    }

    /// Executes the steps in order.
    async fn execute(
        &mut self,
        desired: &Desired,
        read: &ReadClusterData,
        plan: &ReconcilePlan,
        round: &mut RoundState,
    ) -> Result<(), StepError> {
        for step in &plan.steps {
            if matches!(step, Step::ReportRestart(_)) {
                self.report_slots(plan);
            }
            if let Step::Log(line) = step {
                self.log(line, &mut round.log);
                continue;
            }
            if step.has_effect() {
                round.log.flush();
                self.memory.last_logged = None;
            }
            self.set_in_progress(step.is_long().then_some(desired));
            let done = self.execute_step(step, desired, read, round).await;
            self.set_in_progress(None);
            let Err(failed) = done else { continue };
            if let StepError::Configuration(cause) = &failed {
                warn!(error = %Chain(cause), "postgres did not start, trying it with less of the configuration");
                return Err(failed);
            }
            if failed.should_plan_again() {
                info!(why = %failed, "not permitted to be master, reading the cluster data again");
                return Err(failed);
            }
            if let Some((kind, problem)) = problem::failed_step(step, &failed, &self.owned) {
                self.problems.set(kind, "step", vec![problem]);
            }
            let message = failure_message(step, &failed);
            if step.may_fail() {
                round.is_incomplete = true;
                warn!(error = %Chain(&failed), "{message}");
            } else {
                error!(error = %Chain(&failed), "{message}");
                return Err(failed);
            }
        }
        Ok(())
    }

    /// Reports that nothing else is done because a started change of the data makes no progress.
    fn report_hung_change(&self, hung: Option<&FileSystemHung>) {
        let problem = hung.map(problem::hung_change);
        self.problems
            .set(KeeperProblemKind::Data, "change", problem.into_iter().collect());
    }

    fn forget_failed_steps(&self) {
        for kind in [KeeperProblemKind::Data, KeeperProblemKind::Server] {
            self.problems.set(kind, "step", Vec::new());
        }
    }

    fn set_in_progress(&self, desired: Option<&Desired>) {
        *self
            .in_progress
            .lock()
            .expect("no thread panics while holding the orders") = desired.cloned();
    }

    /// Flushes the log at the end of a round that is on hold for this reason, or not on hold.
    fn end_log(&mut self, held: Option<&HoldReason>, log: &mut RoundLog) {
        if self.memory.copy_hold.round_ended(held) {
            log.flush();
        }
    }

    /// Logs a message. The reason for not acting is logged when it changes, and repeated only where that is useful.
    fn log(&mut self, line: &LogMessage, log: &mut RoundLog) {
        let repeats = match line {
            LogMessage::OnHold(why) => round_log::is_repeated(why),
            LogMessage::KeptStopped(_) => true,
            _ => return log.log(line),
        };
        if self.memory.last_logged.as_ref() != Some(line) {
            log.flush();
            round_log::write(line);
            self.memory.last_logged = Some(line.clone());
        } else if repeats {
            log.log(line);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn round_complete(&mut self, target: &TargetDb, answers: bool) {
        self.memory.last_logged = None;
        if !self.local.db().initializing {
            self.begin_housekeeping(target, answers);
        }
        self.metrics.sync_success.set(unix_seconds(wall_clock()));
    }

    /// Starts the work that follows a complete round.
    #[expect(clippy::disallowed_methods, reason = "the pause between two looks ends here")]
    fn begin_housekeeping(&mut self, target: &TargetDb, answers: bool) {
        let site = HousekeepingContext {
            data: self.instance.config().data.clone(),
            owned: Arc::clone(&self.owned),
            problems: Arc::clone(&self.problems),
            walker: self.walker.clone(),
            changes: self.changes.clone(),
        };
        let basis = HousekeepingInput {
            locations: links::locations(&site.data).unwrap_or_default(), // the survey itself reports why
            has_neighbour: target.peers.contains(&self.config.advertise_address),
            answers,
        };
        self.memory.housekeeping.begin(Boottime::now(), &site, &basis);
    }
}

/// Decodes a value of the `clusterdata` key.
pub fn cluster_data_state(entry: Option<&Entry>) -> ClusterDataState {
    match Stored::decode(entry.map(|entry| entry.value.as_slice())) {
        Stored::Absent => ClusterDataState::Absent,
        Stored::Garbage(error) => ClusterDataState::Unusable(Chain(&error).to_string()),
        Stored::Unusable {
            why: Unusable::FormatVersion(version),
            ..
        } => ClusterDataState::UnsupportedFormat(version),
        Stored::Unusable { why, .. } => ClusterDataState::Unusable(Chain(&why).to_string()),
        Stored::Usable(checked) => ClusterDataState::Valid(checked),
    }
}

/// Whether a round for `before` should be aborted because of `after`: what it creates, or keeps running, is no longer
/// wanted (keeper W3).
pub fn is_superseded(before: &Desired, after: &Desired) -> bool {
    let be = |desired: &Desired| match &desired.goal {
        Goal::Run(target) => Ok((target.db.clone(), target.role.clone(), target.spec.init_mode.clone())),
        Goal::Stop(why) => Err(Some(why.clone())),
        Goal::Hold(_) => Err(None),
    };
    match (be(before), be(after)) {
        // Unusable cluster data change nothing and interrupt nothing (keeper I7).
        (_, Err(None)) => false,
        // The init mode is ignored: it changes for the same db when its initialisation ends.
        (Ok((db, role, _)), Ok((after_db, after_role, _))) => db != after_db || role != after_role,
        (before, after) => before != after,
    }
}

/// Returns the db that the instance has to follow.
fn followed(desired: &Desired, reading: &ClusterDataState) -> Option<FollowedDb> {
    let (Goal::Run(target), ClusterDataState::Valid(checked)) = (&desired.goal, reading) else {
        return None;
    };
    let TargetRole::Standby(Upstream::Member(upstream)) = &target.role else {
        return None;
    };
    let db = checked.data.dbs().get(&upstream.db)?;
    Some(FollowedDb {
        db: upstream.db.clone(),
        address: upstream.host.clone(),
        port: upstream.port.clone(),
        is_healthy: db.status.healthy,
        limit: streaming::limit(target.ready_timeout, target.fail_interval),
    })
}

fn outcome(ended: RoundResult, desired: Desired, read: &ReadClusterData) -> RoundOutcome {
    let spec = match &read.state {
        ClusterDataState::Valid(checked) => {
            let CheckedClusterData { spec, .. } = checked.as_ref();
            Some(spec.clone())
        }
        _ => None,
    };
    RoundOutcome {
        result: ended,
        desired,
        spec,
    }
}

/// Converts nanoseconds to the seconds of a metric.
pub fn unix_seconds(nanos: i128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a metric needs no nanoseconds")]
    let seconds = nanos as f64 / 1e9;
    seconds
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("me", &self.me).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str) -> Entry {
        Entry {
            key: "k".into(),
            value: value.as_bytes().to_vec(),
            mod_revision: Revision(1),
            create_revision: Revision(1),
            lease: None,
        }
    }

    #[test]
    fn undecodable_cluster_data_are_reported_and_change_nothing() {
        assert_eq!(cluster_data_state(None), ClusterDataState::Absent);
        assert_eq!(cluster_data_state(Some(&entry("null"))), ClusterDataState::Absent);
        assert!(matches!(
            cluster_data_state(Some(&entry("{a}"))),
            ClusterDataState::Unusable(_)
        ));
        assert!(matches!(
            cluster_data_state(Some(&entry(""))),
            ClusterDataState::Unusable(_)
        ));
        assert_eq!(
            cluster_data_state(Some(&entry(r#"{"formatVersion":2}"#))),
            ClusterDataState::UnsupportedFormat(2)
        );
        assert!(matches!(
            cluster_data_state(Some(&entry(r#"{"formatVersion":1}"#))),
            ClusterDataState::Unusable(_)
        ));
    }

    #[test]
    fn a_round_is_aborted_only_if_its_result_is_not_wanted_any_more() {
        let down = |why| Desired {
            cluster: None,
            goal: Goal::Stop(why),
        };
        let unread = Desired {
            cluster: None,
            goal: Goal::Hold(HoldReason::StoreUnavailable),
        };
        assert!(!is_superseded(&down(StopReason::NoDb), &unread));
        assert!(!is_superseded(&down(StopReason::NoDb), &down(StopReason::NoDb)));
        assert!(is_superseded(
            &down(StopReason::NoDb),
            &down(StopReason::BootNotAcknowledged)
        ));
        assert!(is_superseded(&unread, &down(StopReason::NoDb)));
    }
}
