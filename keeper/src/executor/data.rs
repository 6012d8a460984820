//! Steps that change the data: removing, creating and copying them, and saving which db they belong to.

use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base::{Chain, Clock};
use model::{DbUid, NewConfig, stolon_name};
use tracing::info;

use crate::configuration::address;
use crate::context::KeeperContext;
use crate::copy_backoff::CopyBackoff;
use crate::executor::StepError;
use crate::external_dirs::{ClearRequest, ExternalDir};
use crate::local::state::LocalState;
use crate::monitor::Monitor;
use crate::postgres::basebackup;
use crate::postgres::config::conf::Parameters;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::cluster_files::{self, RecoverySignal};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data::ClearOutcome;
use crate::postgres::data::staging::StagedData;
use crate::postgres::initdb;
use crate::postgres::instance::Instance;
use crate::postgres::restore::{self, BackupRestore, FailedRestore, UnexaminedRestore};
use crate::postgres::server::error::InstanceError;
use crate::reconcile::{CopyDelay, Desired, LocalDb, MemberUpstream, ProcessState, TargetDb, TargetRole};
use crate::step_progress::StepProgress;

/// Changes the data of one instance.
#[derive(Debug)]
pub(super) struct DataSteps {
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    /// Directories outside PGDATA that belong to this keeper.
    owned: Arc<OwnedDirs>,
    /// Changes them.
    changes: DataChanges,
    monitor: Arc<Monitor>,
    clock: Clock,
    /// Failed copies.
    backoff: CopyBackoff,
    late: LateCopy,
    /// A backup that was restored for this db and could not be examined yet.
    unexamined: Option<(DbUid, UnexaminedRestore)>,
    progress: StepProgress,
}

/// The db whose copy has been completed since the copying step gave up waiting for a slow file system.
#[derive(Debug, Clone, Default)]
struct LateCopy(Arc<Mutex<Option<DbUid>>>);

impl LateCopy {
    fn set(&self, db: Option<DbUid>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = db;
    }

    fn take(&self) -> Option<DbUid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl DataSteps {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            owned: Arc::clone(&context.owned),
            changes: context.changes.clone(),
            monitor: Arc::clone(&context.monitor),
            clock: context.clock.clone(),
            backoff: CopyBackoff::default(),
            late: LateCopy::default(),
            unexamined: None,
            progress: StepProgress::new(Arc::clone(&context.problems), context.clock.clone()),
        }
    }

    /// Returns the delay that prevents a copy now.
    pub(super) fn copy_delay(&self, desired: &Desired) -> Option<CopyDelay> {
        self.backoff.active_delay(self.clock.now(), desired)
    }

    /// Records that the data of a copy are complete whose step has given up waiting: they need not be copied again
    /// (keeper 12.12.5).
    pub(super) fn complete_late_copy(&self, process: &mut ProcessState) {
        if let Some(db) = self.late.take() {
            info!(%db, "the copy was completed after its step had timed out");
            process.completed = Some(db);
        }
    }

    /// For tests: the copy of this db is completed after its step gave up.
    #[cfg(test)]
    pub(super) fn complete_late(&self, db: &str) {
        self.late.set(Some(db.into()));
    }

    /// Saves the local db durably before the steps that follow.
    pub(super) async fn save_db(&self, db: &LocalDb) -> Result<(), StepError> {
        self.write_db(db).await?;
        self.monitor.observe_now();
        Ok(())
    }

    /// Saves the db of adopted data, with the parameters of their previous configuration.
    pub(super) async fn save_adopted(&self, db: &LocalDb, previous: Option<Parameters>) -> Result<(), StepError> {
        let (local, db) = (Arc::clone(&self.local), db.clone());
        let save = move |_: &Path| local.save_adopted(&db, previous);
        self.instance.access().write(save).await?;
        self.monitor.observe_now();
        Ok(())
    }

    /// Keeps copies of the configuration files that the data came with.
    pub(super) async fn keep_original_files(&self) -> Result<(), StepError> {
        Ok(self.instance.access().write(cluster_files::keep_original_files).await?)
    }

    /// Saves that the desired state is reached.
    pub(super) async fn save_applied(&mut self, db: &LocalDb, process: &mut ProcessState) -> Result<(), StepError> {
        self.write_db(db).await?;
        process.completed = None;
        process.restored = None;
        process.rejoin_failed = None;
        process.rewind_failed = None;
        process.rewound = None;
        process.ran_out_of_space = false;
        self.backoff.succeeded();
        self.monitor.observe_now();
        Ok(())
    }

    /// Sets complete data aside or removes them; removes incomplete data.
    pub(super) async fn clear(&mut self, clear: &ClearRequest, desired: &Desired) -> Result<(), StepError> {
        // Check the port before removing old data: new data are useless if their server cannot listen, the old data may
        // not be.
        self.instance.check_port().await.map_err(InstanceError::from)?;
        let owned = Arc::clone(&self.owned);
        self.late.set(None);
        let cleared = self.instance.clear_data(&self.changes, owned, clear.clone()).await;
        match cleared {
            Ok(ClearOutcome::SetAside(directory)) => {
                info!(directory = %directory.display(), "keeping the old data until the new data are complete");
            }
            Ok(_) => {}
            Err(failed) => {
                if !failed.is_unanswered() {
                    self.record_failed_copy(desired);
                }
                return Err(failed.into());
            }
        }
        Ok(())
    }

    /// Creates an empty database cluster.
    pub(super) async fn initdb(&self, config: &NewConfig) -> Result<(), StepError> {
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let new = initdb::NewClusterOptions {
            locale: text(&config.locale),
            encoding: text(&config.encoding),
            data_checksums: config.data_checksums,
        };
        let staged = self.prepare(&[]).await?;
        initdb::run(&self.instance, &new, &staged, &self.owned, &self.changes).await?;
        Ok(())
    }

    /// Restores the backup of the assigned db; one that was restored and could not be examined is only examined again.
    pub(super) async fn restore(
        &mut self,
        target: &TargetDb,
        desired: &Desired,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        process.restored = None;
        let unexamined = process.unexamined.take();
        let kept = self.unexamined.take();
        let kept = kept.filter(|(db, _)| *db == target.db && unexamined.as_ref() == Some(db));
        match self.restore_target(target, kept.map(|(_, kept)| kept)).await? {
            Ok(()) => {
                process.restored = Some(target.db.clone());
                Ok(())
            }
            Err(FailedRestore::Removed(failed)) => self.record_failed_attempt(Err(failed.into()), desired),
            // Nothing is restored again, so no delay is needed; but what waits for the operator is not tried all the time.
            Err(FailedRestore::Unexamined(failed, kept)) => {
                process.unexamined = Some(target.db.clone());
                self.unexamined = Some((target.db.clone(), kept));
                match failed.is_target_before_backup() {
                    true => self.record_failed_attempt(Err(failed.into()), desired),
                    false => Err(failed.into()),
                }
            }
        }
    }

    /// Waits for the recovery of a restored backup, and shows that it is under way.
    pub(super) async fn watch_recovery(
        &mut self,
        recovery: impl Future<Output = Result<(), StepError>>,
        desired: &Desired,
    ) -> Result<(), StepError> {
        let shown = self.progress.show("recovering the restored backup", || None, recovery);
        let recovered = shown.await;
        self.record_failed_attempt(recovered, desired)
    }

    /// Records a failed attempt to restore or recover a backup: the next one is delayed.
    pub(super) fn record_failed_attempt(
        &mut self,
        done: Result<(), StepError>,
        desired: &Desired,
    ) -> Result<(), StepError> {
        if done.as_ref().is_err_and(|failed| !failed.is_unanswered()) {
            self.record_failed_copy(desired);
        }
        done
    }

    async fn restore_target(
        &self,
        target: &TargetDb,
        kept: Option<UnexaminedRestore>,
    ) -> Result<Result<(), FailedRestore>, StepError> {
        let config = target.spec.pitr_config.clone().unwrap_or_default();
        let restore = BackupRestore {
            command: config.data_restore_command,
            signal: match target.role {
                TargetRole::Master => RecoverySignal::Recovery,
                _ => RecoverySignal::Standby,
            },
            target_time: match target.role {
                TargetRole::Master => config.recovery_target_settings.unwrap_or_default().recovery_target_time,
                _ => String::new(),
            },
            limit: Some(target.sync_timeout).filter(|limit| !limit.is_zero()),
        };
        let (instance, owned, changes) = (&self.instance, &self.owned, &self.changes);
        if let Some(kept) = kept {
            return Ok(restore::place(instance, &restore, kept, owned, changes).await);
        }
        let staged = self.prepare(&[]).await?;
        let restored = Cell::new(None);
        let run = restore::run(instance, &restore, staged, owned, changes, |now| {
            restored.set(Some(now))
        });
        let shown = self.progress.show("restoring the backup", || restored.get(), run);
        Ok(shown.await)
    }

    /// Copies the data of this instance with pg_basebackup.
    pub(super) async fn copy(
        &mut self,
        from: &MemberUpstream,
        external_dirs: &[ExternalDir],
        target: &TargetDb,
        desired: &Desired,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        let copied = self.copy_from(from, external_dirs, target).await;
        // Data that are completed in time are recorded by a later step of the plan.
        if copied.is_ok() {
            self.late.set(None);
        }
        if let Err(failed) = &copied {
            if !failed.is_unanswered() {
                self.record_failed_copy(desired);
            }
            // strerror(ENOSPC), as printed by PostgreSQL's programs and the system.
            process.ran_out_of_space |= Chain(failed).to_string().contains("No space left on device");
        }
        copied
    }

    /// Creates `standby.signal`.
    pub(super) async fn mark_standby(&self) -> Result<(), StepError> {
        Ok(self.instance.access().write(cluster_files::signal_standby).await?)
    }

    async fn write_db(&self, db: &LocalDb) -> Result<(), FileError> {
        let (local, db) = (Arc::clone(&self.local), db.clone());
        self.instance.access().write(move |_| local.save_db(&db)).await
    }

    async fn prepare(&self, external_dirs: &[ExternalDir]) -> Result<StagedData, StepError> {
        let (data, owned) = (self.instance.config().data.clone(), Arc::clone(&self.owned));
        let external_dirs = external_dirs.to_vec();
        let prepare = move || StagedData::prepare(&data, &owned, &external_dirs);
        Ok(self.changes.run(prepare).await??)
    }

    async fn copy_from(
        &self,
        from: &MemberUpstream,
        external_dirs: &[ExternalDir],
        target: &TargetDb,
    ) -> Result<(), StepError> {
        let slot = slot_of(target);
        let copy = basebackup::BaseBackup {
            source: address(from),
            application_name: slot.clone(),
            slot,
        };
        let staged = self.prepare(external_dirs).await?;
        let transferred = Cell::new(None);
        let late = self.late.clone();
        let db = target.db.clone();
        let finished = move || late.set(Some(db));
        let copying = basebackup::run(
            &self.instance,
            &copy,
            &staged,
            &self.owned,
            &self.changes,
            finished,
            |now| transferred.set(Some(now)),
        );
        let shown = self
            .progress
            .show("copying the followed db", || transferred.get(), copying);
        Ok(shown.await?)
    }

    fn record_failed_copy(&mut self, desired: &Desired) {
        self.backoff.failed(self.clock.now(), desired);
    }
}

/// Returns the name of the replication slot that the source's keeper creates for this db.
pub fn slot_of(target: &TargetDb) -> String {
    stolon_name(target.db.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Rule: keeper 12.12.5.
    #[tokio::test]
    async fn a_copy_that_is_completed_after_its_step_gave_up_counts_once() {
        let changes = DataChanges::with_limit(Duration::from_millis(50));
        let (answer, waits) = mpsc::channel::<()>();
        let late = LateCopy::default();
        let finished = late.clone();
        let finish = move || {
            let _ = waits.recv(); // the last fsync takes until the test sends
            finished.set(Some("db".into()));
        };
        assert!(changes.run(finish).await.is_err());
        assert_eq!(late.take(), None);
        answer.send(()).unwrap();
        while changes.wait_idle().await.is_err() {}
        assert_eq!(late.take(), Some("db".into()));
        assert_eq!(late.take(), None);
    }
}
