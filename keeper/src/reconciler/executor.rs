//! Executes the steps of a round. Which steps are needed is decided by `reconcile`.

use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use model::{DbUid, RestartState};
use store::{Entry, StoreError};
use tokio::time::sleep;
use tracing::info;

use crate::external_dirs::{ClearRequest, ExternalDir};
use crate::postgres::basebackup;
use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::roles;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::conf::StartMode;
use crate::postgres::config::files::ConfigFiles;
use crate::postgres::config::hba::OtherUsers;
use crate::postgres::data::data_build::DataBuild;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::files;
use crate::postgres::data::previous_data::ClearOutcome;
use crate::postgres::data::walker::FileSystemHung;
use crate::postgres::initdb;
use crate::postgres::programs::pg_control::ControlError;
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::supervisor::StopLimits;
use crate::problems::KeeperProblemKind;
use crate::publish::{Due, Permit};
use crate::reconcile::{self, Desired, Goal, MemberUpstream, ReconcilePlan, ServerConfig, SlotChange, StartAs, Step};
use crate::reconciler::probe::{address, slot_of, stopped};
use crate::reconciler::{ReadClusterData, Reconciler, RoundState, cluster_data_state};
use crate::settings::StartDiagnosis;

/// Time limit of a promotion; after it the next round continues (keeper 12.7).
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
/// Time limit until an instance with its old data streams (keeper 6.7).
const STREAM_LIMIT: Duration = Duration::from_secs(10);
/// Interval of checking the WAL receiver.
const STREAM_POLL: Duration = Duration::from_millis(20);
/// The same while the login is rejected.
const STREAM_POLL_REFUSED: Duration = Duration::from_secs(1);
/// A copy logs its progress in these steps, in percent.
const PROGRESS_STEP: u64 = 20;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The store refused the permit: read the cluster data again.
    #[error("the cluster data have changed, or an order forbids it")]
    NotPermitted,
    /// There is no permit, or it has expired.
    #[error("the permit to become a master is too old: the store answers later than half of failInterval")]
    PermitExpired,
    /// The server ended during its start, possibly because of its configuration.
    #[error("the configuration kept the instance from starting")]
    Configuration(#[source] InstanceError),
    /// Reading or changing directories makes no progress.
    #[error(transparent)]
    NoAnswer(#[from] FileSystemHung),
    /// The instance with its old data does not stream.
    #[error("the instance does not stream from the followed db within {0:?}")]
    DoesNotStream(Duration),
    /// The server rejects the query whether it streams.
    #[error("cannot find out whether the kept data stream: {0}")]
    StreamUnknown(ServerRefusal),
}

impl StepError {
    /// Whether reading the cluster data and planning again may be sufficient.
    pub(super) fn should_plan_again(&self) -> bool {
        matches!(
            self,
            Self::NotPermitted
                | Self::PermitExpired
                | Self::Configuration(_)
                | Self::Instance(InstanceError::NotPermitted { .. })
        )
    }
}

/// Until when a start or promotion may begin.
#[derive(Debug, Clone, Copy)]
enum StartPermission {
    /// No permit is needed.
    Unlimited,
    /// No start as master and no promotion after half of failInterval (extensions ): the sentinel replaces a
    /// silent master only after the whole failInterval since the permit was written.
    Until(Boottime),
}

impl StartPermission {
    #[expect(clippy::disallowed_methods, reason = "the permit's time ends here")]
    fn holds(self) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Until(end) => Boottime::now() <= end,
        }
    }
}

impl Reconciler {
    pub(super) async fn execute_step(
        &mut self,
        step: &Step,
        desired: &Desired,
        read: &ReadClusterData,
        round: &mut RoundState,
    ) -> Result<(), StepError> {
        match step {
            Step::Log(_) => {}
            Step::SaveCluster(cluster) => {
                self.local.save_cluster(cluster)?;
                self.publisher
                    .change(Due::Now, |report| report.cluster = cluster.clone());
            }
            Step::SaveDb(db) => {
                self.local.save_db(db)?;
                self.monitor.observe_now();
            }
            Step::Stop => {
                self.instance.stop(StopLimits::default()).await?;
                self.memory.process.current = None;
                self.monitor.observe_now();
            }
            Step::PublishStopped(db) => self.publish_stopped(db).await?,
            Step::ClearData(clear) => {
                // Check the port before removing old data: new data are useless if their server cannot listen, the old
                // data may not be.
                self.instance.check_port().map_err(InstanceError::from)?;
                if let Err(failed) = self.clear_data(clear).await {
                    if !matches!(failed, StepError::Instance(InstanceError::NoAnswer(_))) {
                        self.note_failed_copy(desired);
                    }
                    return Err(failed);
                }
            }
            Step::Initdb(config) => {
                let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
                let new = initdb::NewClusterOptions {
                    locale: text(&config.locale),
                    encoding: text(&config.encoding),
                    data_checksums: config.data_checksums,
                };
                let build = self.prepare(&[]).await?;
                initdb::run(&self.instance, &new, &build, &self.owned, &self.changes).await?;
            }
            Step::StartTemporarily(config) => {
                let mut files = self.files(config);
                if let Goal::Run(target) = &desired.goal {
                    files.hba = self.hba(target, &OtherUsers::Nobody); // keeper W21
                }
                let started = self.instance.start(&files, StartMode::Temporary).await;
                self.check_started(&files, started.map(|_| ()))?;
            }
            Step::WaitReady => {
                let limit = match &desired.goal {
                    Goal::Run(target) => Some(target.ready_timeout).filter(|limit| !limit.is_zero()),
                    _ => None,
                };
                let ready = self.instance.wait_ready(limit).await;
                match self
                    .memory
                    .process
                    .current
                    .clone()
                    .filter(|_| self.is_start_unconfirmed())
                {
                    // The startup process may reject settings after the sockets are open.
                    Some(config) => self.check_started(&self.files(&config), ready)?,
                    None => ready?,
                }
                self.monitor.observe_now();
            }
            Step::ReadInitParameters => {
                let parameters = self.instance.sql().configured().await?;
                self.local.save_init_parameters(parameters)?;
            }
            Step::SetUpRoles => {
                roles::set_up(self.instance.sql(), &self.config.superuser, &self.config.replication).await?;
                // A login rejected before its role existed is no longer a problem.
                self.monitor.try_logins();
            }
            Step::BaseBackup(from, external_dirs) => {
                if let Err(failed) = self.copy_from(from, external_dirs, desired).await {
                    self.note_failed_copy(desired);
                    // strerror(ENOSPC), as printed by PostgreSQL's programs and the system.
                    self.memory.process.ran_out_of_space |=
                        Chain(&failed).to_string().contains("No space left on device");
                    return Err(failed);
                }
            }
            Step::MarkStandby => files::signal_standby(&self.instance.config().data)?,
            Step::MarkComplete(db) => self.memory.process.completed = Some(db.clone()),
            Step::Permit => self.request_permit(desired, read, round).await?,
            Step::Start(role, config) => {
                let permit = self.use_permit(*role, desired, round)?;
                if *role == StartAs::Standby && self.memory.process.published_stopped.is_some() {
                    self.retract_stopped();
                }
                self.memory.process.current = None;
                self.start_while(permit, config).await?;
                self.memory.process.current = Some(config.clone());
                self.monitor.observe_now();
            }
            Step::WaitStreaming(db) => {
                if let Err(failed) = self.wait_streaming().await {
                    if proves_rejoin_impossible(&failed) {
                        self.memory.process.rejoin_failed = Some(db.clone());
                    }
                    return Err(failed);
                }
            }
            Step::Promote => {
                if !self.use_permit(StartAs::Master, desired, round)?.holds() {
                    return Err(StepError::PermitExpired);
                }
                let Goal::Run(target) = &desired.goal else {
                    return Ok(());
                };
                let config = self.server_config(target);
                let files = self.files(&config);
                self.instance.promote(&files, PROMOTE_LIMIT).await?;
                // On a slow store, publishing now would delay the publication of the completed promotion.
                if !self.is_store_slow() {
                    self.monitor.observe_now();
                }
            }
            Step::Slot(change) => self.change_slot(change).await,
            Step::Reload(config) => {
                self.metrics.set_needs_reload(true);
                let before = self.instance.sql().conf_load_time().await;
                self.instance.reload(&self.files(config)).await?;
                self.memory.process.current = Some(config.clone());
                self.metrics.set_needs_reload(false);
                self.check_reload(before).await;
            }
            Step::Restart(role, config) => {
                self.report_settings(desired, RestartState::Restarting);
                if let Err(failed) = self.restart(*role, config, desired, read, round).await {
                    // A restart that is retried with less of the configuration, or whose server is still starting or
                    // ended while starting, stays published as restarting: other keepers detect that it is overdue, and
                    // the master does not restart before it is over. What ended one server may end the other.
                    let is_still_restarting = matches!(
                        failed,
                        StepError::Configuration(_)
                            | StepError::Instance(InstanceError::Timeout { .. } | InstanceError::Ended { .. })
                    );
                    if !is_still_restarting {
                        self.report_settings(desired, RestartState::Pending);
                    }
                    return Err(failed);
                }
            }
            Step::ReportRestart(need) => self.report_restart(*need, desired),
            Step::SaveApplied(db) => {
                self.local.save_db(db)?;
                self.memory.process.completed = None;
                self.memory.process.rejoin_failed = None;
                self.memory.process.ran_out_of_space = false;
                self.memory.backoff.succeeded();
                self.monitor.observe_now();
            }
        }
        Ok(())
    }

    async fn restart(
        &mut self,
        role: StartAs,
        config: &ServerConfig,
        desired: &Desired,
        read: &ReadClusterData,
        round: &mut RoundState,
    ) -> Result<(), StepError> {
        self.memory.process.current = None;
        self.instance.stop(StopLimits::default()).await?;
        if role == StartAs::Master {
            // The permit may have expired during the stop.
            self.request_permit(desired, read, round).await?;
        }
        let permit = self.use_permit(role, desired, round)?;
        self.start_while(permit, config).await?;
        self.memory.process.current = Some(config.clone());
        self.metrics.set_needs_reload(false);
        self.monitor.observe_now();
        Ok(())
    }

    /// Requests the permit; its validity counts from before the request (extensions ).
    async fn request_permit(
        &mut self,
        desired: &Desired,
        read: &ReadClusterData,
        round: &mut RoundState,
    ) -> Result<(), StepError> {
        let (me, boot) = (&self.me, &self.boot);
        let is_unchanged =
            |entry: Option<&Entry>| reconcile::desired_state(&cluster_data_state(entry), me, boot) == *desired;
        match self.publisher.permit(read.revision, is_unchanged).await? {
            Permit::Granted(sent) => {
                round.permit = Some(sent);
                self.memory.process.published_stopped = None;
                Ok(())
            }
            Permit::Refused => Err(StepError::NotPermitted),
        }
    }

    /// Consumes the permit for one start as `role` or one promotion.
    fn use_permit(
        &self,
        role: StartAs,
        desired: &Desired,
        round: &mut RoundState,
    ) -> Result<StartPermission, StepError> {
        let (StartAs::Master, Goal::Run(target)) = (role, &desired.goal) else {
            return Ok(StartPermission::Unlimited);
        };
        let sent = round.permit.take().ok_or(StepError::PermitExpired)?;
        Ok(StartPermission::Until(sent + target.fail_interval / 2))
    }

    async fn start_while(&mut self, permission: StartPermission, config: &ServerConfig) -> Result<(), StepError> {
        let permitted = || permission.holds();
        let files = self.files(config);
        let started = self.instance.start_while(&files, StartMode::Normal, permitted).await;
        self.check_started(&files, started.map(|_| ()))?;
        self.note_started();
        Ok(())
    }

    /// Maps the result of a start. A failed start is worth retrying with less of the configuration while some part of
    /// it is not proven by an earlier start.
    fn check_started(&mut self, files: &ConfigFiles, started: Result<(), InstanceError>) -> Result<(), StepError> {
        let failed = match started {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let blame = match &failed {
            // A server killed by a signal was killed from outside, and one that exited with 0 was asked to stop.
            InstanceError::Ended {
                status: Some(status),
                tail,
                ..
            } if status.code().is_some_and(|code| code != 0) => self.diagnose_failed_start(files, tail),
            _ => StartDiagnosis::Unknown,
        };
        Err(match blame {
            StartDiagnosis::Configuration => StepError::Configuration(failed),
            StartDiagnosis::Unknown => failed.into(),
        })
    }

    /// Creates or drops a slot. A failure is recorded; the round continues and the next one retries.
    async fn change_slot(&mut self, change: &SlotChange) {
        let (slot, action, done) = match change {
            SlotChange::Drop(slot) => {
                info!(%slot, "dropping replication slot");
                (slot, "drop", self.instance.sql().drop_slot(slot).await)
            }
            SlotChange::Create(slot) => {
                info!(%slot, "creating replication slot");
                (slot, "create", self.instance.sql().create_slot(slot).await)
            }
        };
        match done {
            Ok(()) => {
                self.memory.failing_slots.remove(slot);
            }
            Err(error) => {
                let why = format!("could not {action} replication slot {slot}: {}", Chain(&error));
                self.memory.failing_slots.insert(slot.clone(), why);
            }
        }
    }

    /// Reports failed slot changes that are still part of this plan.
    pub(super) fn report_slots(&mut self, plan: &ReconcilePlan) {
        let is_asked_for = |slot: &String| {
            plan.steps.iter().any(|step| match step {
                Step::Slot(SlotChange::Drop(name) | SlotChange::Create(name)) => name == slot,
                _ => false,
            })
        };
        self.memory.failing_slots.retain(|slot, _| is_asked_for(slot));
        const REMEDY: &str = "drop an unused replication slot, or end the WAL sender that uses this one; if \
                              max_replication_slots waits for a restart, restart the instance";
        let problems = self.memory.failing_slots.values();
        let problems = problems
            .map(|why| KeeperProblemKind::Configuration.problem(why, REMEDY))
            .collect();
        self.problems.set(KeeperProblemKind::Configuration, "slots", problems);
    }

    pub(super) fn retract_stopped(&mut self) {
        self.memory.process.published_stopped = None;
        self.publisher.change(Due::Now, |report| report.stopped = None);
    }

    async fn publish_stopped(&mut self, db: &DbUid) -> Result<(), StepError> {
        let stopped = stopped(&self.instance).await?;
        info!(%db, clean = stopped.clean, "publishing that our db is stopped");
        self.publisher.change(Due::Now, |report| {
            report.stopped = Some(stopped);
            if let Some(state) = &mut report.state {
                state.healthy = false;
            }
        });
        self.memory.process.published_stopped = Some(db.clone());
        Ok(())
    }

    async fn clear_data(&self, clear: &ClearRequest) -> Result<(), StepError> {
        let owned = Arc::clone(&self.owned);
        let cleared = self.instance.clear_data(&self.changes, owned, clear.clone()).await?;
        if let ClearOutcome::SetAside(directory) = cleared {
            info!(directory = %directory.display(), "keeping the old data until the new data are complete");
        }
        Ok(())
    }

    async fn prepare(&self, external_dirs: &[ExternalDir]) -> Result<DataBuild, StepError> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let external_dirs = external_dirs.to_vec();
        let prepare = move || DataBuild::prepare(&data, &owned, &external_dirs);
        Ok(self.changes.run(prepare).await??)
    }

    async fn copy_from(
        &self,
        from: &MemberUpstream,
        external_dirs: &[ExternalDir],
        desired: &Desired,
    ) -> Result<(), StepError> {
        let slot = slot_of(desired);
        let copy = basebackup::BaseBackup {
            source: address(from),
            application_name: slot.clone(),
            slot,
        };
        let mut logged_percent = 0;
        let build = self.prepare(external_dirs).await?;
        let progress = |progress: basebackup::BaseBackupProgress| {
            let percent = progress.percent();
            if percent >= logged_percent + PROGRESS_STEP {
                logged_percent = percent - percent % PROGRESS_STEP;
                info!(percent, kib = progress.done_kib, "copying");
            }
        };
        basebackup::run(&self.instance, &copy, &build, &self.owned, &self.changes, progress).await?;
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "the pause between failed copies begins here")]
    fn note_failed_copy(&mut self, desired: &Desired) {
        self.memory.backoff.failed(Boottime::now(), desired);
    }

    /// Waits until the WAL receiver streams (keeper 6.7).
    async fn wait_streaming(&self) -> Result<(), StepError> {
        let mut refusal = None;
        let streams = async {
            loop {
                match self.instance.sql().standby().await {
                    Ok(Some(standby)) if standby.receiver.as_ref().is_some_and(|receiver| receiver.is_streaming) => {
                        return;
                    }
                    Ok(_) => refusal = None,
                    Err(failed) => refusal = failed.refusal().or(refusal.take()),
                }
                if refusal.is_none() {
                    sleep(STREAM_POLL).await;
                } else {
                    // The new password may be in WAL that is not replayed yet. Each attempt is a line in the server's
                    // log.
                    sleep(STREAM_POLL_REFUSED).await;
                    self.instance.sql().forget_refusals();
                }
            }
        };
        let is_in_time = tokio::time::timeout(STREAM_LIMIT, streams).await.is_ok();
        match refusal {
            _ if is_in_time => Ok(()),
            None => Err(StepError::DoesNotStream(STREAM_LIMIT)),
            Some(refusal) => Err(StepError::StreamUnknown(refusal)),
        }
    }
}

/// Whether the failure proves that the old data cannot be used. A rejected login proves nothing about them.
fn proves_rejoin_impossible(failed: &StepError) -> bool {
    matches!(failed, StepError::DoesNotStream(_))
}

/// Returns the log message of a failed step.
pub(super) fn failure_message(step: &Step, failed: &StepError) -> &'static str {
    match step {
        // The port is checked before data are created, too.
        _ if matches!(failed, StepError::Instance(InstanceError::Port(_))) => "failed to start postgres",
        Step::Log(_) | Step::ReportRestart(_) | Step::MarkComplete(_) => "could not continue",
        Step::SaveCluster(_) => "could not save the cluster uid",
        Step::SaveDb(_) | Step::SaveApplied(_) => "could not save the state of the local db",
        Step::Stop => "failed to stop postgres",
        Step::PublishStopped(_) => "could not find out how our db was stopped",
        Step::ClearData(_) => "could not clear the data directory",
        Step::Initdb(_) => "failed to initialize the database cluster",
        Step::StartTemporarily(_) | Step::Start(..) => "failed to start postgres",
        Step::WaitReady => "postgres does not take connections",
        Step::ReadInitParameters => "could not read the configured parameters",
        Step::SetUpRoles => "could not set up the roles",
        Step::BaseBackup(..) => "failed to copy the followed db",
        Step::MarkStandby => "could not create standby.signal",
        Step::Permit => "no permit to be master",
        Step::WaitStreaming(_) => "the old data cannot be used, copying",
        Step::Promote => "failed to promote postgres",
        Step::Slot(_) => "could not change a replication slot",
        Step::Reload(_) => "failed to reload postgres",
        Step::Restart(..) => "failed to restart postgres",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_login_does_not_prove_that_old_data_are_unusable() {
        assert!(proves_rejoin_impossible(&StepError::DoesNotStream(STREAM_LIMIT)));
        let refusal = ServerRefusal::new("28P01", "password authentication failed").unwrap();
        assert!(!proves_rejoin_impossible(&StepError::StreamUnknown(refusal)));
    }
}
