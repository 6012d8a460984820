//! Steps that start, stop, reload and promote the server. Whether it may be a master is decided before, by the permit
//! that comes in.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use store::Store;

use crate::cluster_data::is_slow;
use crate::configuration::{ConfigCheck, RELOAD_LIMIT, ReloadEffect};
use crate::context::KeeperContext;
use crate::executor::StepError;
use crate::executor::permit::StartDeadline;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::postgres::config::conf::{Recovery, StartMode};
use crate::postgres::config::files::ConfigFiles;
use crate::postgres::instance::Instance;
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::supervisor::StopLimits;
use crate::reconcile::{
    ProcessState, RESTART_AFTER_CRASH, SYNCHRONOUS_STANDBY_NAMES, ServerConfig, TargetDb, TargetRole,
};
use crate::settings::StartDiagnosis;
use crate::synchronous::{SyncReplication, WrittenFor};

/// Time limit of a promotion; after it the next round continues (keeper 12.7).
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);

/// Time limit until the names of a standby's new db are in force; then the next round goes on waiting.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// Controls the server of one instance.
#[derive(Debug)]
pub(super) struct ServerSteps {
    instance: Arc<Instance>,
    configuration: ConfigCheck,
    monitor: Arc<Monitor>,
    synchronous: Arc<SyncReplication>,
    metrics: Arc<Metrics>,
    store: Store,
    clock: Clock,
}

impl ServerSteps {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            instance: Arc::clone(&context.instance),
            configuration: ConfigCheck::new(context),
            monitor: Arc::clone(&context.monitor),
            synchronous: Arc::clone(&context.synchronous),
            metrics: Arc::clone(&context.metrics),
            store: context.store.clone(),
            clock: context.clock.clone(),
        }
    }

    /// Returns the configuration that the server is given.
    pub(super) fn configuration(&mut self) -> &mut ConfigCheck {
        &mut self.configuration
    }

    /// Stops the instance (fast shutdown) and waits for its end; meanwhile `hurry` ends what that waits for without need.
    pub(super) async fn stop(
        &self,
        hurry: impl Future<Output = Infallible>,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        tokio::select! {
            stopped = self.instance.stop(StopLimits::default()) => stopped?,
            never = hurry => match never {},
        };
        process.current = None;
        process.logins_blocked = false;
        self.synchronous.record_stop();
        self.monitor.observe_now();
        Ok(())
    }

    /// Starts the server for the initialisation only, unreachable for clients (keeper W21).
    pub(super) async fn start_temporarily(
        &mut self,
        config: &ServerConfig,
        target: &TargetDb,
    ) -> Result<(), StepError> {
        let mut files = self.configuration.files(&target.db, config);
        files.hba = self.configuration.own_hba(target);
        // What is read as the parameters of the initialisation must be the user's only.
        files.parameters.remove(RESTART_AFTER_CRASH);
        let started = self.instance.start(&files, StartMode::Temporary).await;
        self.check_started(target, &files, started.map(|_| ()))
    }

    /// Starts the recovery of a restored backup, unreachable for clients. A failure is not blamed on parameters: another
    /// attempt with fewer of them would hide what the recovery lacks.
    pub(super) async fn start_recovery(&mut self, config: &ServerConfig, target: &TargetDb) -> Result<(), StepError> {
        let mut files = self.configuration.files(&target.db, config);
        files.hba = self.configuration.own_hba(target);
        files.parameters.remove(RESTART_AFTER_CRASH);
        if let (TargetRole::Master, Some(pitr)) = (&target.role, &target.spec.pitr_config) {
            files.recovery = Recovery::of_backup(pitr);
        }
        self.instance.start(&files, StartMode::Temporary).await?;
        Ok(())
    }

    /// Waits until the recovery of a restored backup is complete.
    pub(super) async fn wait_recovered(&self, target: &TargetDb) -> Result<(), StepError> {
        let limit = Some(target.sync_timeout).filter(|limit| !limit.is_zero());
        self.instance.wait_recovered(limit).await?;
        self.monitor.observe_now();
        Ok(())
    }

    /// Waits until the instance accepts connections.
    pub(super) async fn wait_ready(&mut self, target: &TargetDb, process: &ProcessState) -> Result<(), StepError> {
        let limit = Some(target.ready_timeout).filter(|limit| !limit.is_zero());
        let ready = self.instance.wait_ready(limit).await;
        let current = process.current.as_ref();
        match current.filter(|_| self.configuration.is_start_unconfirmed()) {
            // The startup process may refuse settings after the sockets are open.
            Some(config) => {
                let files = self.configuration.files(&target.db, config);
                self.check_started(target, &files, ready)?;
            }
            None => ready?,
        }
        self.monitor.observe_now();
        Ok(())
    }

    /// Starts the instance.
    pub(super) async fn start(
        &mut self,
        deadline: StartDeadline,
        config: &ServerConfig,
        target: &TargetDb,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        process.current = None;
        // Also if the start fails: the server may be running all the same.
        self.set_logins_blocked(process, config);
        self.synchronous.expect_names(names(config), WrittenFor::Start);
        self.start_while(deadline, config, target).await?;
        process.current = Some(config.clone());
        process.reload_unconfirmed = false;
        self.monitor.observe_now();
        Ok(())
    }

    /// Waits until every commit waits for exactly these names.
    pub(super) async fn confirm_names(&self, names: &str) -> Result<(), StepError> {
        match self.synchronous.wait_confirmed(names, CONFIRM_LIMIT).await {
            true => Ok(()),
            false => Err(StepError::StandbyNamesNotConfirmed(CONFIRM_LIMIT)),
        }
    }

    /// Promotes the running standby, and writes `config`, the files of a master, for the next reload or start.
    pub(super) async fn promote(
        &mut self,
        deadline: StartDeadline,
        config: &ServerConfig,
        target: &TargetDb,
    ) -> Result<(), StepError> {
        if !deadline.allows(self.clock.now()) {
            return Err(StepError::PermitExpired);
        }
        let files = self.configuration.files(&target.db, config);
        self.synchronous.expect_names(names(config), WrittenFor::Reload);
        self.instance.promote(&files, PROMOTE_LIMIT).await?;
        self.synchronous.record_promotion();
        // On a slow store, publishing now would delay the publication of the completed promotion.
        if !is_slow(&self.store) {
            self.monitor.observe_now();
        }
        Ok(())
    }

    /// Writes the configuration and reloads the server.
    pub(super) async fn reload(
        &mut self,
        config: &ServerConfig,
        target: &TargetDb,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        self.metrics.set_needs_reload(true);
        let before = self.instance.sql().conf_load_time().await;
        self.synchronous.expect_names(names(config), WrittenFor::Reload);
        self.instance
            .reload(&self.configuration.files(&target.db, config))
            .await?;
        self.monitor.observe_now();
        self.set_logins_blocked(process, config);
        process.current = Some(config.clone());
        self.metrics.set_needs_reload(false);
        let is_repeated = std::mem::replace(&mut process.reload_unconfirmed, true);
        match self.configuration.check_reload(target, before).await {
            ReloadEffect::Read => process.reload_unconfirmed = false,
            // The next plan that has the server's facts reloads once more.
            ReloadEffect::Refused => {}
            ReloadEffect::Unknown if !is_repeated => {}
            ReloadEffect::None | ReloadEffect::Unknown => {
                return Err(StepError::Instance(InstanceError::Timeout {
                    action: "wait until PostgreSQL has read its configuration",
                    limit: RELOAD_LIMIT,
                }));
            }
        }
        Ok(())
    }

    /// Stops the instance for a restart.
    pub(super) async fn stop_for_restart(&self, process: &mut ProcessState) -> Result<(), StepError> {
        process.current = None;
        self.instance.stop(StopLimits::default()).await?;
        self.synchronous.record_stop();
        Ok(())
    }

    /// Starts the instance again.
    pub(super) async fn start_again(
        &mut self,
        deadline: StartDeadline,
        config: &ServerConfig,
        target: &TargetDb,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        self.start(deadline, config, target, process).await?;
        self.metrics.set_needs_reload(false);
        Ok(())
    }

    fn set_logins_blocked(&self, process: &mut ProcessState, config: &ServerConfig) {
        process.logins_blocked = config.blocks_client_logins;
        self.synchronous.set_logins_blocked(config.blocks_client_logins);
    }

    async fn start_while(
        &mut self,
        deadline: StartDeadline,
        config: &ServerConfig,
        target: &TargetDb,
    ) -> Result<(), StepError> {
        let permitted = || deadline.allows(self.clock.now());
        let files = self.configuration.files(&target.db, config);
        let started = self.instance.start_while(&files, StartMode::Normal, permitted).await;
        self.check_started(target, &files, started.map(|_| ()))?;
        self.configuration.record_started();
        Ok(())
    }

    /// Maps the result of a start. A failed start is worth retrying with less of the configuration while some part of
    /// it is not proven by an earlier start.
    fn check_started(
        &mut self,
        target: &TargetDb,
        files: &ConfigFiles,
        started: Result<(), InstanceError>,
    ) -> Result<(), StepError> {
        let failed = match started {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let diagnosis = match &failed {
            // A server killed by a signal was killed from outside, and one that exited with 0 was asked to stop.
            InstanceError::Ended {
                status: Some(status),
                tail,
                ..
            } if status.code().is_some_and(|code| code != 0) => {
                self.configuration.diagnose_failed_start(target, files, tail)
            }
            _ => StartDiagnosis::Unknown,
        };
        Err(match diagnosis {
            StartDiagnosis::Configuration => StepError::Configuration(failed),
            StartDiagnosis::Unknown => failed.into(),
        })
    }
}

/// Returns the names that commits wait for with this configuration.
fn names(config: &ServerConfig) -> &str {
    config
        .parameters
        .get(SYNCHRONOUS_STANDBY_NAMES)
        .map_or("", String::as_str)
}
