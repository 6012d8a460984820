//! Executes the steps of a plan: data, server, SQL and publication have a file each. Which steps are needed, and in
//! which order, is decided by `reconcile`; the round around them is `reconciler`.

mod checkpoint;
mod checkpoint_receipt;
mod data;
mod error;
mod ordered_stop;
mod permit;
mod publish;
mod rewind;
mod server;
mod sql;

use crate::context::KeeperContext;
use crate::publish::PermitConditions;
use crate::reconcile::{
    DataRole, DataState, Desired, Goal, HoldReason, ProcessState, ReconcilePlan, ServerConfig, ServerState, StartAs,
    Step, StoredOrder, TargetDb, client_logins,
};
use model::{DbUid, RestartState};

use self::checkpoint::OrderedCheckpoint;
use self::data::DataSteps;
use self::ordered_stop::OrderedStop;
use self::publish::PublishSteps;
use self::rewind::RewindSteps;
use self::server::ServerSteps;
use self::sql::SqlSteps;

pub use self::data::slot_of;
pub use self::error::{StepError, failure_message};
pub use self::permit::RoundPermit;
pub use self::publish::read_stopped;

/// Executes steps, and keeps what this process has done.
#[derive(Debug)]
pub struct Executor {
    data: DataSteps,
    rewind: RewindSteps,
    server: ServerSteps,
    sql: SqlSteps,
    publish: PublishSteps,
    checkpoint: OrderedCheckpoint,
    ordered_stop: OrderedStop,
    process: ProcessState,
}

/// What the steps of one plan are executed for.
#[derive(Debug)]
pub struct StepContext<'a> {
    pub desired: &'a Desired,
    /// Revisions of the cluster data with this desired state, and of the keeper's orders key.
    pub revisions: PermitConditions,
    /// What that key holds.
    pub order: &'a StoredOrder,
    /// The permit of this round.
    pub permit: &'a mut RoundPermit,
}

impl Executor {
    pub fn new(context: &KeeperContext) -> Self {
        Self {
            data: DataSteps::new(context),
            rewind: RewindSteps::new(context),
            server: ServerSteps::new(context),
            sql: SqlSteps::new(context),
            publish: PublishSteps::new(context),
            checkpoint: OrderedCheckpoint::new(context),
            ordered_stop: OrderedStop::new(context),
            process: ProcessState::default(),
        }
    }

    /// Returns the state of this process for a plan.
    pub fn process_state(&mut self, desired: &Desired, order: &StoredOrder) -> &ProcessState {
        self.data.complete_late_copy(&mut self.process);
        self.checkpoint.retry_failed(&mut self.process);
        // While the store is not read, the order may still be there.
        if desired.goal != Goal::Hold(HoldReason::StoreUnavailable) {
            self.checkpoint.end_without_order(order, &mut self.process);
        }
        self.process.copy_delay = self.data.copy_delay(desired);
        &self.process
    }

    /// Checks what was not checked yet of the desired configuration, and returns the part that PostgreSQL accepts.
    pub async fn check_config(&mut self, target: &TargetDb, server: &ServerState) -> ServerConfig {
        let logins = client_logins(target, &self.process, server);
        let configuration = self.server.configuration();
        Box::pin(configuration.check(target, server, self.process.current.as_ref(), &logins)).await;
        configuration.server_config(target)
    }

    /// Returns the hba lines that admit only the keepers' own users.
    pub fn own_hba(&mut self, target: &TargetDb) -> Vec<String> {
        self.server.configuration().own_hba(target)
    }

    /// Whether client logins are blocked.
    pub fn are_logins_blocked(&self) -> bool {
        self.process.logins_blocked
    }

    /// Reads from the data of a stopped instance what its next start requires of the parameters.
    pub async fn read_requirements(&mut self, target: &TargetDb, data: DataState) {
        self.server.configuration().read_requirements(target, data).await;
    }

    /// Marks the generated files as unknown: the next round writes them and reloads the server.
    pub fn invalidate_files(&mut self) {
        self.process.current = None;
    }

    /// Withdraws the publication that our db is stopping or stopped when another one, or none, is assigned.
    pub fn withdraw_stopped_unless(&mut self, assigned: Option<&DbUid>) {
        let ordered = self.process.accepted_order.as_ref().map(|order| &order.db);
        if let Some(published) = self.process.published_stopped.as_ref().or(ordered)
            && assigned != Some(published)
        {
            self.publish.withdraw_stopped(&mut self.process);
        }
    }

    /// Executes one step.
    pub async fn execute(&mut self, step: &Step, context: &mut StepContext<'_>) -> Result<(), StepError> {
        let desired = context.desired;
        let process = &mut self.process;
        match step {
            Step::Log(_) => {} // written by the round's log
            Step::SaveCluster(cluster) => self.publish.save_cluster(cluster).await?,
            Step::SaveDb(db) => self.data.save_db(db).await?,
            Step::Stop => {
                let hurry = self.ordered_stop.hurry_if_over(&desired.goal);
                self.server.stop(hurry, process).await?;
            }
            Step::PublishStopped(db) => self.publish.publish_stopped(db, process).await?,
            Step::AcceptOrder(order) => self.publish.accept_order(order, context, process).await?,
            Step::WithdrawStopped => self.publish.withdraw_stopped(process),
            Step::Checkpoint(switchover) => self.checkpoint.begin(switchover, process),
            Step::ClearData(clear) => {
                (process.restored, process.unexamined) = (None, None);
                self.data.clear(clear, desired).await?;
            }
            Step::KeepOriginalFiles => self.data.keep_original_files().await?,
            Step::Initdb(config) => self.data.initdb(config).await?,
            Step::StartTemporarily(config) => self.server.start_temporarily(config, target_of(desired)).await?,
            Step::RestoreBackup => self.data.restore(target_of(desired), desired, process).await?,
            Step::StartRecovery(config) => {
                let started = self.server.start_recovery(config, target_of(desired)).await;
                self.data.record_failed_attempt(started, desired)?;
            }
            Step::WaitRecovered => {
                let recovery = self.server.wait_recovered(target_of(desired));
                self.data.watch_recovery(recovery, desired).await?;
            }
            Step::WaitReady => self.server.wait_ready(target_of(desired), process).await?,
            Step::ReadInitParameters => self.sql.read_init_parameters().await?,
            Step::ReadPreviousParameters => self.sql.read_previous_parameters().await?,
            Step::SaveAdopted(db) => self.data.save_adopted(db, self.sql.take_previous_parameters()).await?,
            Step::SetUpRoles => self.sql.set_up_roles().await?,
            Step::BaseBackup(from, dirs) => self.data.copy(from, dirs, target_of(desired), desired, process).await?,
            Step::Recover => self.rewind.recover(&target_of(desired).db, process).await?,
            Step::CheckRewind(from, source) => self.rewind.check(from, source, target_of(desired), process).await?,
            Step::Rewind(from) => self.rewind.run(from, target_of(desired), process).await?,
            Step::WaitRewound(db) => self.wait_rewound(db, target_of(desired)).await?,
            Step::MarkStandby => self.data.mark_standby().await?,
            Step::MarkComplete(db) => process.completed = Some(db.clone()),
            Step::Permit => self.request_permit(context).await?,
            Step::Start(role, config) => self.start(*role, config, context).await?,
            Step::WaitStreaming(db) => self.sql.wait_streaming(db, process).await?,
            Step::ConfirmStandbyNames(names) => self.server.confirm_names(names).await?,
            Step::CatchUp(ahead) => {
                process.catch_up_tried = Some(target_of(desired).db.clone());
                self.sql.catch_up(ahead).await;
            }
            Step::Promote(config) => {
                let deadline = context.permit.consume(StartAs::Master, target_of(desired))?;
                self.server.promote(deadline, config, target_of(desired)).await?;
            }
            Step::Slot(change) => self.sql.change_slot(change).await?,
            Step::Reload(config) => self.server.reload(config, target_of(desired), process).await?,
            Step::Restart(role, config) => self.restart(*role, config, context).await?,
            Step::ReportRestart(need) => {
                let has_reverted = self.server.configuration().has_reverted();
                self.publish.publish_restart_need(*need, has_reverted, desired);
            }
            Step::SaveApplied(db) => self.data.save_applied(db, process).await?,
        }
        Ok(())
    }

    /// Reports failed slot changes that are still part of this plan.
    pub fn report_slots(&mut self, plan: &ReconcilePlan) {
        self.sql.report_slots(plan);
    }

    async fn request_permit(&mut self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        self.publish.request_permit(context, &mut self.process).await
    }

    async fn start(
        &mut self,
        role: StartAs,
        config: &ServerConfig,
        context: &mut StepContext<'_>,
    ) -> Result<(), StepError> {
        let target = target_of(context.desired);
        let deadline = context.permit.consume(role, target)?;
        if role == StartAs::Standby {
            self.withdraw_stopped_unless(None);
        }
        self.server.start(deadline, config, target, &mut self.process).await
    }

    /// Waits until the rewound instance of `db` accepts connections, or gives up its data: its server ends, or has nothing
    /// to replay.
    async fn wait_rewound(&mut self, db: &DbUid, target: &TargetDb) -> Result<(), StepError> {
        let ready = tokio::select! {
            ready = self.server.wait_ready(target, &self.process) => ready,
            stalled = self.rewind.stalled(target.ready_timeout) => Err(stalled),
        };
        if ready
            .as_ref()
            .is_err_and(|failed| !failed.should_plan_again() && !failed.is_unanswered())
        {
            self.process.rejoin_failed = Some(db.clone());
        }
        ready
    }

    /// Restarts for parameters, published as such from before the stop.
    async fn restart(
        &mut self,
        role: StartAs,
        config: &ServerConfig,
        context: &mut StepContext<'_>,
    ) -> Result<(), StepError> {
        self.publish
            .publish_restart_state(context.desired, RestartState::Restarting);
        let restarted = self.stop_and_start(role, config, context).await;
        if let Err(failed) = &restarted {
            // What is still under way stays published as restarting: other keepers detect that it is overdue, and the
            // master does not restart before it is over. What ended one server may end the other.
            if !failed.leaves_restart_under_way() {
                self.publish
                    .publish_restart_state(context.desired, RestartState::Pending);
            }
        }
        restarted
    }

    async fn stop_and_start(
        &mut self,
        role: StartAs,
        config: &ServerConfig,
        context: &mut StepContext<'_>,
    ) -> Result<(), StepError> {
        self.server.stop_for_restart(&mut self.process).await?;
        let target = target_of(context.desired);
        let data = DataState::Present(match role {
            StartAs::Master => DataRole::Master,
            StartAs::Standby => DataRole::Standby,
        });
        // Until its end a standby may have replayed higher parameters of its master, and a client may have made slots.
        let config = self.server.configuration().for_restart(config, target, data).await;
        if role == StartAs::Master {
            // The permit may have expired during the stop.
            self.request_permit(context).await?;
        }
        let deadline = context.permit.consume(role, target)?;
        self.server
            .start_again(deadline, &config, target, &mut self.process)
            .await
    }
}

/// Returns the db to run.
pub fn target_of(desired: &Desired) -> &TargetDb {
    match &desired.goal {
        Goal::Run(target) => target,
        Goal::Stop(_) | Goal::Hold(_) => {
            unreachable!("only plans for a db to run have such steps, see reconcile::plan")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Due;
    use crate::start::test_context;
    use model::{KeeperOrder, OrderKind};
    use tokio::task::LocalSet;

    /// Rule: keeper 12.12.5.
    #[tokio::test]
    async fn a_plan_counts_a_copy_that_was_completed_after_its_step_gave_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut executor = Executor::new(&test_context(dir.path()));
        let desired = Desired {
            cluster: Some("c1".into()),
            goal: Goal::Hold(HoldReason::NotListed),
        };
        assert_eq!(executor.process_state(&desired, &StoredOrder::Absent).completed, None);
        executor.data.complete_late("db1");
        let process = executor.process_state(&desired, &StoredOrder::Absent);
        assert_eq!(process.completed, Some("db1".into()));
    }

    /// What was published is as old as the order. A store that is not read proves nothing about it.
    #[tokio::test]
    async fn without_an_order_a_checkpoint_is_withdrawn_and_the_next_order_makes_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let context = test_context(dir.path());
        let mut executor = Executor::new(&context);
        let desired = |why| Desired {
            cluster: Some("c1".into()),
            goal: Goal::Hold(why),
        };
        let order = StoredOrder::Usable(KeeperOrder {
            switchover: "s1".to_owned(),
            db: "db1".into(),
            order: OrderKind::Checkpoint,
        });
        LocalSet::new()
            .run_until(async {
                executor.checkpoint.begin("s1", &mut executor.process);
                context.publisher.change(Due::Now, |report| {
                    report.checkpointed = "s1".to_owned();
                    report.checkpoint_received = [("db2".into(), true)].into();
                });
                let mut begun = |why, order: &StoredOrder| {
                    let process = executor.process_state(&desired(why), order);
                    process.checkpoint_for.is_some()
                };
                assert!(begun(HoldReason::NotListed, &order));
                assert!(begun(HoldReason::StoreUnavailable, &StoredOrder::Absent));
                assert_eq!(context.publisher.report().checkpointed, "s1");
                assert!(!begun(HoldReason::NotListed, &StoredOrder::Absent));
                let report = context.publisher.report();
                assert_eq!(
                    (report.checkpointed.as_str(), report.checkpoint_received.len()),
                    ("", 0)
                );
            })
            .await;
    }
}
