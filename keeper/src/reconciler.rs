//! One pass: reads the orders, looks, has `converge` plan, and does the steps (keeper 4). What a step is for is
//! `converge`'s to say; when a pass runs is the loop's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::model::{BootUuid, Checked, Clamped, ClusterData, Created, DbUid, KeeperUid, Spec, Unusable, from_slice};
use control::store::{Entry, Revision, Store};
use control::telemetry::Chain;
use tracing::{error, info, warn};

use crate::args::Config;
use crate::copy_backoff::{CopyBackoff, KnownObstacle};
use crate::local_state::LocalState;
use crate::metrics::{MetricRole, Metrics};
use crate::monitor::Monitor;
use crate::postgres::changes::DataChanges;
use crate::postgres::conf::{SlotNeeds, StandbyMinimums};
use crate::postgres::credentials::Secret;
use crate::postgres::instance::{Instance, LocalRole as FileRole};
use crate::postgres::links;
use crate::postgres::owned_dirs::OwnedDirs;
use crate::postgres::previous_data;
use crate::postgres::walker::{FileSystemHung, Walker};
use crate::problems::{KeeperProblemKind, Problems};
use crate::publish::{Due, Publisher};
use crate::reconcile::{
    ClusterDataState, CopyFacts, DataRole, DataState, Desired, Goal, HoldReason, LocalFacts, LogMessage, NextAction,
    Observed, ProcessState, ReconcilePlan, ServerProbe, ServerState, Step, StopReason, TargetDb, TargetRole,
    changed_fields, desired_state, endangered_cluster, hold_unless_given_up, plan,
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

/// Looks in one pass; more means that two rules undo each other, or that the orders change all the time.
const PLANS_MAX: usize = 20;
/// A store whose answers take longer than this is not asked where that is not needed.
const SLOW_STORE: Duration = Duration::from_millis(100);
/// What does passes: everything that they need and remember.
pub struct Reconciler {
    /// The options.
    pub config: Arc<Config>,
    /// This keeper.
    pub me: KeeperUid,
    /// This process.
    pub boot: BootUuid,
    /// The store.
    pub store: Store,
    /// The instance.
    pub instance: Arc<Instance>,
    /// The published info.
    pub publisher: Arc<Publisher>,
    /// Who keeps the published state true.
    pub collector: Arc<Monitor>,
    /// The state files.
    pub local: Arc<LocalState>,
    /// What the keeper has made outside PGDATA.
    pub owned: Arc<OwnedDirs>,
    /// Who looks at these directories.
    pub walker: Walker,
    /// Who changes them.
    pub changes: DataChanges,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What an operator has to fix.
    pub problems: Arc<Problems>,
    /// The orders for whose sake something long is under way, for the loop to see.
    pub in_progress: Arc<Mutex<Option<Desired>>>,
    /// The cluster data as a watch has last brought them.
    pub latest: Arc<Mutex<Option<Entry>>>,
    /// Since when other instances are seen to restart.
    pub restarts: Mutex<PeerRestarts>,
    /// What outlives a pass.
    pub memory: ReconcilerMemory,
}

/// What outlives a pass.
#[derive(Debug, Default)]
pub struct ReconcilerMemory {
    process: ProcessState,
    /// The last orders that named a db.
    target: Option<Box<TargetDb>>,
    /// The last thing that was said about why nothing is done.
    last_logged: Option<LogMessage>,
    /// What a copy waits for.
    copy_hold: CopyHold,
    /// What a standby may not have less of than its control file says.
    minima: StandbyMinimums,
    /// What of the configuration is refused.
    config_check: Box<ConfigCheck>,
    /// The replication slots that lay in the data directory before the last start.
    slots: SlotNeeds,
    /// Changes of slots that fail, and why.
    failing_slots: BTreeMap<String, String>,
    /// What follows complete passes.
    housekeeping: Housekeeping,
    /// The copies that failed.
    backoff: CopyBackoff,
    /// What was in the way of the last one.
    known_obstacle: KnownObstacle,
}

/// Why a pass runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// Its time has come: it is told whatever it finds.
    Timer,
    /// Something happened.
    Event,
    /// Something happened, but the last attempt failed not long ago: only other orders than these are worth another.
    EventUnless(Desired),
}

/// How a pass ended.
#[derive(Debug, Clone, PartialEq)]
pub enum RoundResult {
    /// Everything is as the orders say.
    Done,
    /// Nothing more can be done under these orders.
    OnHold,
    /// A step failed: try again.
    Failed,
    /// The orders are those that failed before.
    Skipped,
}

/// What a pass tells the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundOutcome {
    /// How it ended.
    pub result: RoundResult,
    /// The orders that it worked on last.
    pub desired: Desired,
    /// The spec in force, when there is one.
    pub spec: Option<Spec>,
}

/// Cluster data as read, and the revision of the document.
#[derive(Debug, Clone)]
struct ReadClusterData {
    state: ClusterDataState,
    revision: Revision,
}

/// What one pass knows while it runs.
struct Round {
    log: RoundLog,
    probe: Option<ServerProbe>,
    copy: Option<CopyFacts>,
    /// When the permit was asked for.
    permit: Option<control::clock::Boottime>,
    /// A step failed without which the pass went on.
    is_incomplete: bool,
}

impl Reconciler {
    /// Runs one pass. Dropping the future ends it; what was begun is found by the next one.
    pub async fn reconcile(&mut self, woken: Trigger) -> RoundOutcome {
        self.set_in_progress(None);
        let hung = self.changes.wait_idle().await.err();
        self.report_hung_change(hung.as_ref());
        let mut pass = Round {
            log: RoundLog::new(woken == Trigger::Timer && !self.memory.copy_hold.is_held()),
            probe: None,
            copy: None,
            permit: None,
            is_incomplete: false,
        };
        let mut read = self.first_read().await;
        if hung.is_some() {
            let orders = self.desired(&read.state).await;
            return outcome(RoundResult::Failed, orders, &read);
        }
        for look in 0..PLANS_MAX {
            let orders = self.desired(&read.state).await;
            if look == 0 && matches!(&woken, Trigger::EventUnless(failed) if *failed == orders) {
                return outcome(RoundResult::Skipped, orders, &read);
            }
            self.update_from_cluster_data(&orders, &read, &mut pass.log);
            let plan = match self.plan(&orders, &pass).await {
                Ok(plan) => plan,
                Err(error) => {
                    error!(error = %Chain(&error), "could not look at the instance");
                    return outcome(RoundResult::Failed, orders, &read);
                }
            };
            self.publish_data_lost(&orders, &plan);
            match self.execute(&orders, &read, &plan, &mut pass).await {
                Ok(()) => {}
                Err(error) if error.should_plan_again() => {
                    (pass.probe, pass.copy) = (None, None);
                    read = self.read().await;
                    continue;
                }
                Err(_) => return outcome(RoundResult::Failed, orders, &read),
            }
            match plan.next {
                NextAction::PlanAgain => {
                    (pass.probe, pass.copy) = (None, None);
                    // On a slow store what follows a promotion does not wait for another reading: the permit has just
                    // found the cluster data as they were read, and a change of them gives the pass up.
                    if !(self.is_store_slow() && plan.steps.contains(&Step::Promote)) {
                        read = self.read().await;
                    }
                }
                NextAction::ProbeServer => pass.probe = Some(Box::pin(self.probe_server(&orders)).await),
                NextAction::ProbeSource(from) => {
                    #[expect(clippy::disallowed_methods, reason = "the pause between two looks ends here")]
                    let now = Boottime::now();
                    if let Some(why) = self.memory.known_obstacle.current(now, &orders) {
                        self.log(&LogMessage::OnHold(why), &mut pass.log);
                        return outcome(RoundResult::OnHold, orders, &read);
                    }
                    self.set_in_progress(Some(&orders));
                    pass.copy = Some(Box::pin(self.probe_source(&from, &orders)).await);
                    self.set_in_progress(None);
                }
                NextAction::Done => {
                    self.end_log(None, &mut pass.log);
                    self.problems.set(KeeperProblemKind::Data, "copy", Vec::new());
                    if !pass.is_incomplete {
                        self.forget_failed_steps();
                    }
                    if let Goal::Run(target) = &orders.goal {
                        self.round_complete(target, matches!(pass.probe, Some(ServerProbe::Answered(_))));
                    }
                    return outcome(RoundResult::Done, orders, &read);
                }
                NextAction::Hold(why) => {
                    self.end_log(Some(&why), &mut pass.log);
                    let problem = problem::problem(&why, &self.instance.config().data, &self.local.cluster());
                    self.problems
                        .set(KeeperProblemKind::Data, "copy", problem.into_iter().collect());
                    if matches!(why, HoldReason::Obstacle(..)) {
                        #[expect(clippy::disallowed_methods, reason = "the pause between two looks begins here")]
                        self.memory.known_obstacle.record(Boottime::now(), &orders, &why);
                    }
                    return outcome(RoundResult::OnHold, orders, &read);
                }
            }
        }
        error!(looks = PLANS_MAX, "the pass does not come to its end");
        let orders = self.desired(&read.state).await;
        outcome(RoundResult::Failed, orders, &read)
    }

    /// What is in the files is not known any more: the next pass writes them, and reloads the server.
    pub fn invalidate_files(&mut self) {
        self.memory.process.current = None;
    }

    /// The cluster data to begin with: read, but for a promotion on a slow store. That asks for a permit before anything
    /// else, which is granted only on the present cluster data, so those that the watch has brought do.
    async fn first_read(&self) -> ReadClusterData {
        let latest = self
            .latest
            .lock()
            .expect("nobody panics while holding the cluster data")
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

    /// Reads the cluster data.
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

    /// What the cluster data say that this keeper has to be, unless they are of another cluster than its database.
    async fn desired(&self, reading: &ClusterDataState) -> Desired {
        let orders = desired_state(reading, &self.me, &self.boot);
        let ClusterDataState::Valid(checked) = reading else {
            return orders;
        };
        // What cannot be looked at may be data.
        let has_data = !matches!(self.instance.local_role(), Ok(FileRole::Undefined));
        let local = LocalFacts {
            cluster: self.local.cluster(),
            db: self.local.db(),
            data: if has_data {
                DataState::Present(DataRole::Master)
            } else {
                DataState::Absent
            },
            unclaimed: None, // this judges only what dbstate names
        };
        let Some(own) = endangered_cluster(checked, &self.me, &local) else {
            return orders;
        };
        let key = self.store.keys().created();
        match self.store.get(&key).await {
            Ok(entry) => {
                let created = entry.and_then(|entry| from_slice::<Created>(&entry.value).ok());
                hold_unless_given_up(orders, &own, created.as_ref())
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

    /// What every reading brings with it: metrics, what is said of a changed db, a `stopped` that is over.
    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn update_from_cluster_data(&mut self, orders: &Desired, read: &ReadClusterData, lines: &mut RoundLog) {
        if let ClusterDataState::Valid(checked) = &read.state {
            self.report_limits(checked);
            self.metrics.cluster_data_valid.set(unix_seconds(wall_clock()));
        }
        self.report_password_files();
        let assigned = match &orders.goal {
            Goal::Run(target) => Some(Some(&target.db)),
            Goal::Stop(StopReason::OldMaster { db, .. }) => Some(Some(db)),
            Goal::Stop(StopReason::NoDb) | Goal::Hold(HoldReason::NotListed) => Some(None),
            Goal::Stop(StopReason::BootNotAcknowledged) | Goal::Hold(_) => None,
        };
        if let (Some(said), Some(assigned)) = (&self.memory.process.published_stopped, assigned)
            && assigned != Some(said)
        {
            self.retract_stopped();
        }
        self.collector.set_followed(followed(orders, &read.state));
        let Goal::Run(target) = &orders.goal else { return };
        self.metrics.set_target_role(match target.role {
            TargetRole::Master => MetricRole::Master,
            TargetRole::Standby(_) | TargetRole::NoUpstream => MetricRole::Standby,
            TargetRole::Other(_) => MetricRole::Undefined,
        });
        match &self.memory.target {
            Some(before) if before.db == target.db && before.spec != target.spec => {
                let changed = changed_fields(&before.spec, &target.spec).join(",");
                lines.flush();
                info!(db = %target.db, generation = target.generation, %changed, "our db changed");
            }
            _ => {}
        }
        self.memory.target = Some(target.clone());
    }

    /// Reports each stored duration that counts as another one.
    fn report_limits(&self, checked: &Checked) {
        let clamped = checked.cluster().spec.as_ref().map(|spec| spec.clamped());
        let clamped = clamped.unwrap_or_default();
        let problem = |stored: &Clamped| {
            let text = format!("{} of the cluster spec cannot be used as it is: {stored}", stored.field);
            KeeperProblemKind::Configuration.problem(&text, "set another duration with stolonctl update")
        };
        let problems = clamped.iter().map(problem).collect();
        self.problems.set(KeeperProblemKind::Configuration, "limits", problems);
    }

    /// Reports password files that cannot be read any more.
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

    /// Publishes whether the data of our db are gone, so that the sentinel gives us another one in its place.
    fn publish_data_lost(&self, orders: &Desired, plan: &ReconcilePlan) {
        let lost = match (&plan.next, &orders.goal) {
            (NextAction::Hold(HoldReason::DataLost | HoldReason::NoUsableData), Goal::Run(target)) => target.db.clone(),
            _ => DbUid::default(),
        };
        if self.publisher.report().data_lost != lost {
            self.publisher.change(Due::Now, |report| report.data_lost = lost);
        }
    }

    /// Looks at the data directory and the process, and plans.
    async fn plan(&mut self, orders: &Desired, pass: &Round) -> Result<ReconcilePlan, StepError> {
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
                "" => previous_data::unclaimed_content(&self.instance.config().data, &self.owned)?,
                _ => None,
            },
        };
        let server = match self.instance.running().await? {
            None => ServerState::Down,
            Some(_) => ServerState::Up(pass.probe.clone().unwrap_or(ServerProbe::NotProbed)),
        };
        let sets = match &orders.goal {
            Goal::Run(target) => {
                if server == ServerState::Down {
                    self.read_minima(target, data).await;
                    self.read_slots(data);
                }
                if matches!(target.role, TargetRole::Standby(_)) {
                    self.instance.refresh_passfile()?;
                }
                Box::pin(self.check_config(target, &server)).await;
                Some(self.server_config(target))
            }
            _ => None,
        };
        #[expect(clippy::disallowed_methods, reason = "the pause between failed copies ends here")]
        let now = Boottime::now();
        self.memory.process.copy_pause = self.memory.backoff.active_pause(now, orders);
        let seen = Observed {
            desired: orders,
            local: &local,
            server: &server,
            config: sets.as_ref(),
            process: &self.memory.process,
            copy: pass.copy.as_ref(),
        };
        Ok(plan(&seen))
    }

    /// Does the steps in their order.
    async fn execute(
        &mut self,
        orders: &Desired,
        read: &ReadClusterData,
        plan: &ReconcilePlan,
        pass: &mut Round,
    ) -> Result<(), StepError> {
        for step in &plan.steps {
            if matches!(step, Step::ReportRestart(_)) {
                self.report_slots(plan);
            }
            if let Step::Log(line) = step {
                self.log(line, &mut pass.log);
                continue;
            }
            if step.has_effect() {
                pass.log.flush();
                self.memory.last_logged = None;
            }
            self.set_in_progress(step.is_long().then_some(orders));
            let done = self.execute_step(step, orders, read, pass).await;
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
                pass.is_incomplete = true;
                warn!(error = %Chain(&failed), "{message}");
            } else {
                error!(error = %Chain(&failed), "{message}");
                return Err(failed);
            }
        }
        Ok(())
    }

    /// Reports that nothing is done, because a change of the data that was begun does not get on.
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

    fn set_in_progress(&self, orders: Option<&Desired>) {
        *self.in_progress.lock().expect("nobody panics while holding the orders") = orders.cloned();
    }

    /// The pass ends, held for this reason or otherwise.
    fn end_log(&mut self, held: Option<&HoldReason>, lines: &mut RoundLog) {
        if self.memory.copy_hold.round_ended(held) {
            lines.flush();
        }
    }

    /// Why nothing is done is said when it changes, and again only where that is useful.
    fn log(&mut self, line: &LogMessage, lines: &mut RoundLog) {
        let repeats = match line {
            LogMessage::OnHold(why) => round_log::is_repeated(why),
            LogMessage::KeptStopped(_) => true,
            _ => return lines.log(line),
        };
        if self.memory.last_logged.as_ref() != Some(line) {
            lines.flush();
            round_log::write(line);
            self.memory.last_logged = Some(line.clone());
        } else if repeats {
            lines.log(line);
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

    /// Begins what follows a complete pass.
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
            locations: links::locations(&site.data).unwrap_or_default(), // the look itself reports why
            has_neighbour: target.peers.contains(&self.config.advertise_address),
            answers,
        };
        self.memory.housekeeping.begin(Boottime::now(), &site, &basis);
    }
}

/// What a value of `clusterdata` is.
pub fn cluster_data_state(entry: Option<&Entry>) -> ClusterDataState {
    let Some(entry) = entry else {
        return ClusterDataState::Absent;
    };
    match ClusterData::parse(&entry.value) {
        Ok(None) => ClusterDataState::Absent,
        Ok(Some(data)) => match data.check() {
            Ok(checked) => ClusterDataState::Valid(Box::new(checked)),
            Err(Unusable::FormatVersion(version)) => ClusterDataState::UnsupportedFormat(version),
            Err(unusable) => ClusterDataState::Unusable(Chain(&unusable).to_string()),
        },
        Err(error) => ClusterDataState::Unusable(Chain(&error).to_string()),
    }
}

/// Whether a pass that works on `before` is better given up because of `after`: what it makes, or keeps running, is
/// not wanted any more (keeper W3).
pub fn is_superseded(before: &Desired, after: &Desired) -> bool {
    let be = |orders: &Desired| match &orders.goal {
        Goal::Run(target) => Ok((target.db.clone(), target.role.clone(), target.spec.init_mode.clone())),
        Goal::Stop(why) => Err(Some(why.clone())),
        Goal::Hold(_) => Err(None),
    };
    match (be(before), be(after)) {
        // What cannot be used changes nothing, and stops nothing that was begun (keeper I7).
        (_, Err(None)) => false,
        // The end of an initialisation changes the mode of the same db.
        (Ok((db, role, _)), Ok((after_db, after_role, _))) => db != after_db || role != after_role,
        (before, after) => before != after,
    }
}

/// The db that the instance is to follow under these orders.
fn followed(orders: &Desired, reading: &ClusterDataState) -> Option<FollowedDb> {
    let (Goal::Run(target), ClusterDataState::Valid(checked)) = (&orders.goal, reading) else {
        return None;
    };
    let TargetRole::Standby(upstream) = &target.role else {
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

fn outcome(ended: RoundResult, orders: Desired, read: &ReadClusterData) -> RoundOutcome {
    let spec = match &read.state {
        ClusterDataState::Valid(checked) => {
            let Checked { spec, .. } = checked.as_ref();
            Some(spec.clone())
        }
        _ => None,
    };
    RoundOutcome {
        result: ended,
        desired: orders,
        spec,
    }
}

/// Nanoseconds as the seconds of a metric.
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
    fn garbage_in_the_store_is_named_and_changes_nothing() {
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
    fn a_pass_is_given_up_only_for_orders_that_make_its_work_useless() {
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
