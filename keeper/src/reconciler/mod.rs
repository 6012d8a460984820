//! The reconciler: one round reads the cluster data, observes the instance, lets `reconcile` plan, and has the steps
//! executed (keeper 4). What the steps are is decided by `reconcile`, when a round runs by `schedule`.

mod copy_needs;
mod existing_data;
mod housekeeping;
mod own_data;
mod plan_files;
mod probe;
mod report;
mod restart_turns;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base::Chain;
use model::{DbInitMode, Spec};
use tracing::{error, info, warn};

use crate::cluster_data::{ClusterDataReader, ReadClusterData, WatchedClusterData, is_slow};
use crate::context::KeeperContext;
use crate::copy_backoff::KnownObstacle;
use crate::executor::{Executor, RoundPermit, StepContext, StepError, failure_message, target_of};
use crate::postgres::data::pgdata;
use crate::postgres::instance::LocalRole as FileRole;
use crate::reconcile::{
    ClusterDataState, CopyFacts, DataRole, DataState, Desired, Goal, HoldReason, LocalFacts, LogMessage,
    MemberUpstream, NextAction, ObservedState, ReconcilePlan, ServerProbe, ServerState, Step, StopReason, TargetDb,
    TargetRole, changed_fields, plan,
};
use crate::round_log::{HoldLog, RoundLog};
use crate::status::DesiredSource;
use crate::streaming::Followed;

use self::housekeeping::Housekeeping;
use self::plan_files::PlanFiles;
use self::probe::Probe;
use self::report::RoundReporter;

/// Plans in one round. More means that two rules undo each other or that the cluster data change all the time.
const PLANS_MAX: usize = 20;

/// Runs the rounds, and keeps the state between them.
pub struct Reconciler {
    context: KeeperContext,
    cluster_data: ClusterDataReader,
    probe: Probe,
    executor: Executor,
    reporter: RoundReporter,
    housekeeping: Housekeeping,
    hold_log: HoldLog,
    /// Obstacle of the last copy.
    known_obstacle: KnownObstacle,
    /// The last db that was assigned.
    target: Option<Box<TargetDb>>,
    /// The desired state for which a long step is running.
    in_progress: Arc<Mutex<Option<Desired>>>,
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
    /// Every step was executed; those that may fail may have failed.
    Done,
    /// Nothing more can be done for this desired state.
    OnHold,
    /// A step failed; it is retried.
    Failed,
    /// The desired state is the one that failed before.
    Skipped,
}

impl RoundResult {
    /// Returns the name of the result in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::OnHold => "on_hold",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
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

/// State of a running round.
struct RoundState {
    /// The cluster data that the round works on.
    read: ReadClusterData,
    log: RoundLog,
    /// The files at the last plan.
    files: Option<PlanFiles>,
    probe: Option<ServerProbe>,
    copy: Option<CopyFacts>,
    permit: RoundPermit,
    /// A step failed after which the round continues.
    has_failed_step: bool,
    /// The steps of the last plan.
    last_steps: Vec<&'static str>,
}

impl Reconciler {
    /// `in_progress` is set to the desired state for which a long step is running, for the loop to
    /// compare with new cluster data; `latest` are the cluster data of the last watch event.
    pub fn new(
        context: &KeeperContext,
        in_progress: Arc<Mutex<Option<Desired>>>,
        latest: Arc<Mutex<Option<WatchedClusterData>>>,
    ) -> Self {
        Self {
            context: context.clone(),
            cluster_data: ClusterDataReader::new(context, latest),
            probe: Probe::new(context),
            executor: Executor::new(context),
            reporter: RoundReporter::new(context),
            housekeeping: Housekeeping::new(context),
            hold_log: HoldLog::default(),
            known_obstacle: KnownObstacle::default(),
            target: None,
            in_progress,
        }
    }

    /// Runs one round. Dropping the future aborts it; the next round finds what was started.
    pub async fn reconcile(&mut self, trigger: Trigger) -> RoundOutcome {
        self.set_in_progress(None);
        let hung = self.context.changes.wait_idle().await.err();
        self.reporter.report_hung_change(hung.as_ref());
        let mut round = RoundState {
            log: self.hold_log.begin(trigger == Trigger::Timer),
            read: self.cluster_data.first_read().await,
            files: None,
            probe: None,
            copy: None,
            permit: RoundPermit::default(),
            has_failed_step: false,
            last_steps: Vec::new(),
        };
        if hung.is_some() {
            let desired = self.cluster_data.desired(&round.read).await;
            return round.outcome(RoundResult::Failed, desired);
        }
        for plan_number in 0..PLANS_MAX {
            let desired = self.cluster_data.desired(&round.read).await;
            if plan_number == 0 && matches!(&trigger, Trigger::EventUnless(failed) if *failed == desired) {
                return round.outcome(RoundResult::Skipped, desired);
            }
            if let Some(result) = self.plan_and_execute(&desired, &mut round).await {
                return round.outcome(result, desired);
            }
        }
        let steps = round.last_steps.join(",");
        error!(
            plans = PLANS_MAX,
            steps, "the round was planned too often without completing"
        );
        let desired = self.cluster_data.desired(&round.read).await;
        round.outcome(RoundResult::Failed, desired)
    }

    /// Marks the generated files as unknown: the next round writes them and reloads the server.
    pub fn invalidate_files(&mut self) {
        self.executor.invalidate_files();
    }

    /// Plans once and executes the plan. Returns the result of the round when it ends here.
    async fn plan_and_execute(&mut self, desired: &Desired, round: &mut RoundState) -> Option<RoundResult> {
        self.update_from_cluster_data(desired, round);
        let plan = match self.plan(desired, round).await {
            Ok(plan) => plan,
            Err(error) => {
                error!(error = %Chain(&error), "could not read the local state");
                return Some(RoundResult::Failed);
            }
        };
        let steps = plan.steps.iter().filter(|step| step.has_effect());
        round.last_steps = steps.map(Step::label).collect();
        self.reporter.publish_data_lost(desired, &plan);
        match self.execute(desired, &plan, round).await {
            Ok(()) => {}
            Err(error) if error.should_plan_again() => {
                (round.probe, round.copy) = (None, None);
                round.read = self.cluster_data.read().await;
                return None;
            }
            Err(_) => return Some(RoundResult::Failed),
        }
        match &plan.next {
            NextAction::PlanAgain => {
                (round.probe, round.copy) = (None, None);
                // On a slow store the steps after a promotion skip another read: the permit has just confirmed the
                // revision of the cluster data, and a change of them aborts the round.
                if !(is_slow(&self.context.store) && plan.steps.iter().any(|step| matches!(step, Step::Promote(_)))) {
                    round.read = self.cluster_data.read().await;
                }
                None
            }
            NextAction::ProbeServer => {
                // A step may have started the server since the files were read.
                let files = round.files.as_ref().filter(|_| round.last_steps.is_empty());
                let reports_ready = files.map(|files| files.reports_ready);
                let are_blocked = self.executor.are_logins_blocked();
                round.probe = Some(Box::pin(self.probe.server(desired, are_blocked, reports_ready)).await);
                None
            }
            NextAction::ProbeSource(from) => self.probe_source(from, desired, round).await,
            NextAction::Done => Some(self.end_done(desired, round).await),
            NextAction::Hold(why) => Some(self.end_on_hold(why, desired, round)),
        }
    }

    async fn probe_source(
        &mut self,
        from: &MemberUpstream,
        desired: &Desired,
        round: &mut RoundState,
    ) -> Option<RoundResult> {
        if let Some(why) = self.known_obstacle.current(self.context.clock.now(), desired) {
            self.hold_log.log(&LogMessage::OnHold(why), &mut round.log);
            return Some(RoundResult::OnHold);
        }
        self.set_in_progress(Some(desired));
        let probed = Box::pin(self.probe.source(from, target_of(desired))).await;
        self.set_in_progress(None);
        match probed {
            Ok(copy) => round.copy = Some(copy),
            Err(error) => {
                error!(error = %Chain(&error), "could not read the local state");
                return Some(RoundResult::Failed);
            }
        }
        None
    }

    async fn end_done(&mut self, desired: &Desired, round: &mut RoundState) -> RoundResult {
        self.hold_log.end(None, &mut round.log);
        self.reporter.report_hold(None);
        if !round.has_failed_step {
            self.reporter.withdraw_failed_steps();
        }
        if let Goal::Run(target) = &desired.goal {
            self.hold_log.forget();
            if !self.context.local.db().initializing {
                let shares_address = target.peer_addresses.contains(&self.context.config.advertise_address);
                let answers = matches!(round.probe, Some(ServerProbe::Answered(_)));
                let tablespaces = round.files.take().map(|files| files.tablespaces).unwrap_or_default();
                let now = self.context.clock.now();
                self.housekeeping.begin(now, tablespaces, shares_address, answers);
            }
            self.reporter.set_complete();
        }
        RoundResult::Done
    }

    fn end_on_hold(&mut self, why: &HoldReason, desired: &Desired, round: &mut RoundState) -> RoundResult {
        self.hold_log.end(Some(why), &mut round.log);
        self.reporter.report_hold(Some(why));
        if matches!(why, HoldReason::Obstacle(..)) {
            self.known_obstacle.record(self.context.clock.now(), desired, why);
        }
        RoundResult::OnHold
    }

    /// Updates metrics and published facts from the cluster data, logs a changed db, and withdraws an outdated
    /// `stopped`.
    fn update_from_cluster_data(&mut self, desired: &Desired, round: &mut RoundState) {
        if let ClusterDataState::Valid(checked) = &round.read.state {
            self.reporter.report_cluster_data(checked);
            self.context.status.set_keepers(checked);
        }
        let source = DesiredSource {
            revision: round.read.revision,
            sent: round.read.sent,
        };
        self.context.status.set_desired(desired, source);
        self.reporter.report_password_files();
        let assigned = match &desired.goal {
            Goal::Run(target) => Some(Some(&target.db)),
            Goal::Stop(StopReason::FormerMaster { db, .. }) => Some(Some(db)),
            Goal::Stop(StopReason::Ordered(order)) => Some(Some(&order.db)),
            Goal::Stop(StopReason::NoDb) | Goal::Hold(HoldReason::NotListed) => Some(None),
            Goal::Stop(StopReason::BootNotAcknowledged) | Goal::Hold(_) => None,
        };
        if let Some(assigned) = assigned {
            self.executor.withdraw_stopped_unless(assigned);
        }
        self.context
            .monitor
            .set_followed(Followed::of(desired, &round.read.state));
        let target = match &desired.goal {
            Goal::Run(target) => Some(&**target),
            Goal::Stop(_) => None,
            Goal::Hold(_) => self.target.as_deref(), // the instance is left as it is
        };
        self.context.synchronous.set_target(target);
        let Goal::Run(target) = &desired.goal else { return };
        self.reporter.set_target_role(&target.role);
        match &self.target {
            Some(before) if before.db == target.db && before.spec != target.spec => {
                let changed = changed_fields(&before.spec, &target.spec).join(",");
                round.log.flush();
                info!(db = %target.db, generation = target.generation, %changed, "our db changed");
            }
            _ => {}
        }
        self.target = Some(target.clone());
    }

    /// Observes PGDATA and the process, and plans.
    async fn plan(&mut self, desired: &Desired, round: &mut RoundState) -> Result<ReconcilePlan, StepError> {
        let instance = &self.context.instance;
        let is_standby = matches!(&desired.goal, Goal::Run(target) if matches!(target.role, TargetRole::Standby(_)));
        // Once a round: a plan after a probe is made moments later.
        let files = PlanFiles::read(instance, is_standby && round.probe.is_none()).await?;
        let data = match files.role {
            FileRole::Undefined => DataState::Absent,
            FileRole::Master => DataState::Present(DataRole::Master),
            FileRole::Standby => DataState::Present(DataRole::Standby),
        };
        self.reporter.set_local_role(data);
        let db = self.context.local.db();
        let existing = match &desired.goal {
            Goal::Run(target) if target.spec.init_mode == DbInitMode::Existing && target.db != db.uid => {
                Some(existing_data::existing_data(instance).await?)
            }
            _ => None,
        };
        let local = LocalFacts {
            cluster: self.context.local.cluster(),
            data,
            unclaimed: match db.uid.as_str() {
                "" => {
                    let owned = Arc::clone(&self.context.owned);
                    let look = move |data: &Path| pgdata::unclaimed_content(data, &owned);
                    instance.access().read(look).await?
                }
                _ => None,
            },
            foreign_server: self.context.foreign_server().await?,
            db,
        };
        let server = match instance.running().await? {
            None => ServerState::Down,
            Some(_) => ServerState::Up(round.probe.clone().unwrap_or(ServerProbe::NotProbed)),
        };
        let (config, own_hba) = match &desired.goal {
            Goal::Run(target) => {
                if server == ServerState::Down {
                    self.executor.read_requirements(target, data).await;
                }
                if !files.is_passfile_current {
                    instance.refresh_passfile().await?;
                }
                let config = self.executor.check_config(target, &server).await;
                (Some(config), self.executor.own_hba(target))
            }
            _ => (None, Vec::new()),
        };
        let (cluster_data, me) = (&round.read.state, &self.context.me);
        let ahead = self.probe.ahead_of_server(cluster_data, me, &server).await;
        let observed = ObservedState {
            desired,
            order: &round.read.order,
            own_hba: &own_hba,
            local: &local,
            server: &server,
            config: config.as_ref(),
            process: self.executor.process_state(desired, &round.read.order),
            existing: existing.as_ref(),
            copy: round.copy.as_ref(),
            ahead: ahead.as_ref(),
        };
        let plan = plan(&observed);
        round.files = Some(files);
        Ok(plan)
    }

    /// Executes the steps in order.
    async fn execute(
        &mut self,
        desired: &Desired,
        plan: &ReconcilePlan,
        round: &mut RoundState,
    ) -> Result<(), StepError> {
        for step in &plan.steps {
            // All slot changes of a plan come before this step, so their failures are known here.
            if matches!(step, Step::ReportRestart(_)) {
                self.executor.report_slots(plan);
            }
            if let Step::Log(message) = step {
                self.hold_log.log(message, &mut round.log);
                continue;
            }
            if step.has_effect() {
                self.hold_log.before_effect(&mut round.log);
            }
            let mut context = StepContext {
                desired,
                revisions: round.read.revisions(),
                order: &round.read.order,
                permit: &mut round.permit,
            };
            self.set_in_progress(step.is_long().then_some(desired));
            let done = self.executor.execute(step, &mut context).await;
            self.set_in_progress(None);
            if let Err(failed) = done {
                round.has_failed_step |= self.report_failure(step, failed)?;
            } else if matches!(step, Step::SaveCluster(_)) {
                // Failures of the previous cluster's steps say nothing about this one.
                self.reporter.withdraw_failed_steps();
            }
        }
        Ok(())
    }

    /// Reports a failed step. Returns true if the round continues after it, otherwise the error.
    fn report_failure(&self, step: &Step, failed: StepError) -> Result<bool, StepError> {
        if let StepError::Configuration(cause) = &failed {
            warn!(error = %Chain(cause), "postgres did not start, trying it with less of the configuration");
            return Err(failed);
        }
        if failed.should_plan_again() {
            info!(why = %failed, "{}, reading the cluster data again", failure_message(step, &failed));
            return Err(failed);
        }
        self.reporter.report_failed_step(step, &failed);
        let message = failure_message(step, &failed);
        if step.may_fail() {
            warn!(error = %Chain(&failed), "{message}");
            Ok(true)
        } else {
            error!(error = %Chain(&failed), "{message}");
            Err(failed)
        }
    }

    fn set_in_progress(&self, desired: Option<&Desired>) {
        *self
            .in_progress
            .lock()
            .expect("no thread panics while holding the desired state") = desired.cloned();
    }
}

impl RoundState {
    fn outcome(&self, result: RoundResult, desired: Desired) -> RoundOutcome {
        let spec = match &self.read.state {
            ClusterDataState::Valid(checked) => Some(checked.spec.clone()),
            _ => None,
        };
        RoundOutcome { result, desired, spec }
    }
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("me", &self.context.me)
            .finish_non_exhaustive()
    }
}
