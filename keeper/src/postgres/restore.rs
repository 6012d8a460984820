//! Restores a backup with the operator's command (keeper 5.3): into a directory of its own, checked, and moved to its
//! place. Recovering the data from the WAL archive is left to the server, when to do what to `reconcile`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use model::Timestamp;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::postgres::config::conf;
use crate::postgres::data::atomic_files::{read_bytes_if_there, write_atomically};
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::cluster_files::{self, RecoverySignal};
use crate::postgres::data::external_dir_holders;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect;
use crate::postgres::data::links;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::staging::StagedData;
use crate::postgres::instance::Instance;
use crate::postgres::programs::command;
use crate::postgres::programs::environment;
use crate::postgres::programs::pg_control::{self, ControlFile};
use crate::postgres::recovery_target;
use crate::postgres::restore_error::RestoreError;
use crate::postgres::server::error::InstanceError;
use crate::postgres::transfer::TransferProgress;

/// Interval of measuring what the command has restored: a walk through all files.
const MEASURE_INTERVAL: Duration = Duration::from_secs(30);

/// A backup to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRestore {
    /// The operator's command, with its placeholders.
    pub command: String,
    /// What the recovery of the data is to end as.
    pub signal: RecoverySignal,
    /// `recovery_target_time`; empty for none, and for a standby, which has no target.
    pub target_time: String,
    /// Time limit of the command; `None` for none.
    pub limit: Option<Duration>,
}

/// Expands the placeholders of a restore command: `%d` is the directory, `%%` a percent sign; others stay as they are
/// (keeper T3).
pub fn expand(command: &str, directory: &str) -> String {
    let mut expanded = String::with_capacity(command.len());
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => match rest.next() {
                Some('d') => expanded.push_str(directory),
                Some('%') | None => expanded.push('%'),
                Some(other) => expanded.extend(['%', other]),
            },
            _ => expanded.push(c),
        }
    }
    expanded
}

/// Restored data that could not be examined yet, or are newer than the recovery target. They are kept.
#[derive(Debug)]
pub struct UnexaminedRestore(Box<StagedData>);

/// Why a restore failed.
#[derive(Debug)]
pub enum FailedRestore {
    /// Everything that was restored is removed, or will be before another attempt.
    Removed(InstanceError),
    /// The command has succeeded, and it is not known whether what it has restored can be used, or another restore would
    /// bring the same.
    Unexamined(InstanceError, UnexaminedRestore),
}

/// Runs the command in the directory of `staged`, checks what it has restored, and moves that to its place. `progress` is
/// called with the bytes that are there, of an unknown total.
pub async fn run(
    instance: &Instance,
    restore: &BackupRestore,
    staged: StagedData,
    owned: &Arc<OwnedDirs>,
    changes: &DataChanges,
    progress: impl Fn(TransferProgress),
) -> Result<(), FailedRestore> {
    let restored = async {
        instance.end_other_processes().await?;
        run_command(instance, restore, staged.directory(), progress).await
    };
    match restored.await {
        Ok(()) => place(instance, restore, UnexaminedRestore(Box::new(staged)), owned, changes).await,
        Err(failed) => {
            // What the command has left running must not write into what is removed.
            instance.end_other_processes().await.map_err(FailedRestore::Removed)?;
            Err(discard(failed, Box::new(staged), changes).await)
        }
    }
}

/// Checks what the restore command has restored, and moves it to its place.
pub async fn place(
    instance: &Instance,
    restore: &BackupRestore,
    UnexaminedRestore(staged): UnexaminedRestore,
    owned: &Arc<OwnedDirs>,
    changes: &DataChanges,
) -> Result<(), FailedRestore> {
    match examine(instance, restore, staged.directory(), changes).await {
        Ok(()) => {}
        Err(failed) if failed.proves_unusable() => return Err(discard(failed, staged, changes).await),
        Err(failed) => return Err(FailedRestore::Unexamined(failed, UnexaminedRestore(staged))),
    }
    // From here on the data are changed: after a failure it is not known how far.
    if let Err(failed) = prepare(instance, restore.signal, &staged, changes).await {
        return Err(discard(failed, staged, changes).await);
    }
    let owned = Arc::clone(owned);
    let finished = changes.run(move || staged.finish(&owned)).await;
    let finished = finished.map_err(InstanceError::from);
    finished
        .and_then(|finished| Ok(finished?))
        .map_err(FailedRestore::Removed)
}

/// Removes what was restored, and returns why.
async fn discard(why: InstanceError, staged: Box<StagedData>, changes: &DataChanges) -> FailedRestore {
    let discarded = changes.run(move || staged.discard()).await.map_err(InstanceError::from);
    if let Err(failed) = discarded.and_then(|discarded| Ok(discarded?)) {
        warn!(error = %Chain(&failed), "could not remove what the restore command left behind");
    }
    FailedRestore::Removed(why)
}

async fn run_command(
    instance: &Instance,
    restore: &BackupRestore,
    directory: &Path,
    progress: impl Fn(TransferProgress),
) -> Result<(), InstanceError> {
    let mut command = environment::command(Path::new("/bin/sh"));
    command
        .arg("-c")
        .arg(expand(&restore.command, &directory.to_string_lossy()))
        .env(environment::RESTORE_DIRECTORY, directory);
    info!("running the restore command");
    let restored = command::run(command, |line| debug!(target: "restore", "{line}"));
    let measured = async {
        loop {
            sleep(MEASURE_INTERVAL).await;
            let directory = directory.to_owned();
            let size = instance
                .access()
                .read(move |_| Ok::<_, FileError>(inspect::size(&directory)));
            let done = size.await.unwrap_or_default();
            progress(TransferProgress { done, total: 0 });
        }
    };
    let limited = async {
        match restore.limit {
            Some(limit) => match timeout(limit, restored).await {
                Ok(ended) => ended.map_err(InstanceError::from),
                Err(_) => Err(InstanceError::Timeout {
                    action: "run the restore command",
                    limit,
                }),
            },
            None => restored.await.map_err(InstanceError::from),
        }
    };
    tokio::select! {
        ended = limited => ended,
        () = measured => unreachable!("it is measured until the command has ended"),
    }
}

/// Checks that a database cluster was restored which this keeper's programs can recover to the target, without changing
/// it.
async fn examine(
    instance: &Instance,
    restore: &BackupRestore,
    directory: &Path,
    changes: &DataChanges,
) -> Result<(), InstanceError> {
    // What the command has left running must not write into the data.
    instance.end_other_processes().await?;
    let restored = directory.to_owned();
    let missing = changes.run(move || cluster_files::missing_entry(&restored)).await??;
    if let Some(missing) = missing {
        return Err(RestoreError::Incomplete {
            missing: directory.join(missing),
        }
        .into());
    }
    let (restored, own) = (directory.to_owned(), instance.config().data.clone());
    changes.run(move || check_links(&restored, &own)).await???;
    let restored = directory.to_owned();
    let found = changes.run(move || cluster_files::data_major(&restored)).await??;
    let programs = instance.programs().version().await.map_err(RestoreError::from)?.major;
    let found = found.unwrap_or_default();
    if found != programs {
        return Err(RestoreError::OtherMajor { found, programs }.into());
    }
    let limit = instance.config().request_timeout;
    let failed = match pg_control::read(instance.programs(), directory, limit).await {
        Ok(control) => return Ok(check_target(&restore.target_time, &control)?),
        Err(failed) => failed,
    };
    if failed.is_exit() {
        let restored = directory.to_owned();
        changes.run(move || pg_control::check_readable(&restored)).await??;
    } else if !failed.proves_damage() {
        return Err(RestoreError::ControlUnknown(failed).into());
    }
    Err(RestoreError::Damaged(failed).into())
}

/// Checks that the data are not newer than the recovery target.
fn check_target(target_time: &str, control: &ControlFile) -> Result<(), RestoreError> {
    match control.checkpoint_time {
        Some(checkpoint) if recovery_target::is_before(target_time, checkpoint) => {
            Err(RestoreError::TargetBeforeBackup {
                target: target_time.to_owned(),
                checkpoint: Timestamp::from_unix_nanos(i128::from(checkpoint) * 1_000_000_000),
            })
        }
        _ => Ok(()),
    }
}

/// Prepares restored data for their recovery: files of the server that was backed up are removed, and the signal file is
/// there before the data are in their place.
async fn prepare(
    instance: &Instance,
    signal: RecoverySignal,
    staged: &StagedData,
    changes: &DataChanges,
) -> Result<(), InstanceError> {
    let whole = staged.clone();
    let prepared = changes.run(move || {
        prepare_files(whole.directory(), signal)?;
        whole.place_wal()
    });
    prepared.await??;
    // The command need not have synced what it wrote.
    let mut sync = environment::command(&instance.programs().path("initdb"));
    sync.arg("--sync-only").arg("-D").arg(staged.directory());
    command::run(sync, |line| debug!(target: "initdb", "{line}")).await?;
    Ok(())
}

/// Checks that nothing outside the restored directory is another server's. Links are restored as they were on the host
/// that was backed up, which may be this one.
fn check_links(restored: &Path, own: &Path) -> Result<Result<(), RestoreError>, FileError> {
    let wal = restored.join("pg_wal");
    if let Ok(target) = fs::read_link(&wal) {
        return Ok(Err(RestoreError::LinkedWal { link: wal, target }));
    }
    for location in links::locations(restored)? {
        if let Some(holder) = external_dir_holders::holder_of(&location, &location, own) {
            let (program, pid) = (holder.program, holder.pid);
            return Ok(Err(RestoreError::TablespaceInUse { location, program, pid }));
        }
    }
    Ok(Ok(()))
}

fn prepare_files(restored: &Path, signal: RecoverySignal) -> Result<(), FileError> {
    cluster_files::prepare_recovery(restored, signal)?;
    // An earlier recovery target or a former upstream, in the file that the first start includes.
    let file = restored.join(conf::FILE);
    if let Some(content) = read_bytes_if_there(&file)? {
        let kept = conf::without_recovery_settings(&content);
        if kept != content {
            write_atomically(&file, &kept)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::instance::test_instance;

    #[test]
    fn links_of_the_server_that_was_backed_up_are_refused() {
        let (restored, wal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let check = || check_links(restored.path(), Path::new("/nonexistent")).unwrap();
        assert!(check().is_ok());
        fs::create_dir(restored.path().join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(wal.path(), restored.path().join("pg_tblspc/16384")).unwrap();
        assert!(check().is_ok(), "nobody uses the directory");
        let open = fs::File::create(wal.path().join("file")).unwrap();
        let mut other = std::process::Command::new("sleep")
            .arg("1000")
            .stdin(open)
            .spawn()
            .unwrap();
        let refused = check().unwrap_err();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(matches!(refused, RestoreError::TablespaceInUse { .. }), "{refused}");
        std::os::unix::fs::symlink(wal.path(), restored.path().join("pg_wal")).unwrap();
        let refused = check().unwrap_err().to_string();
        assert!(refused.contains("pg_wal is a link to"), "{refused}");
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Restores data by a command that counts its runs, on an instance whose pg_controldata is this script. Returns how it
    /// failed, how often the command ran, and whether what it restored is still there.
    async fn failure(pg_controldata: &str, limit: Duration) -> (InstanceError, bool, bool) {
        let dir = tempfile::tempdir().unwrap();
        let instance = test_instance(dir.path(), "pg_controldata", pg_controldata, limit);
        let data = &instance.config().data;
        let backup = dir.path().join("backup");
        fs::rename(data, &backup).unwrap();
        fs::create_dir(data).unwrap();
        let major = instance.programs().version().await.unwrap().major;
        fs::write(backup.join("PG_VERSION"), format!("{major}\n")).unwrap();
        let owned = Arc::new(OwnedDirs::load(dir.path(), base::RandomBytes::system()).unwrap());
        let staged = StagedData::prepare(data, &owned, &[]).unwrap();
        let directory = staged.directory().to_owned();
        let restore = BackupRestore {
            command: format!("cp -a {}/. %d", backup.display()),
            signal: RecoverySignal::Recovery,
            target_time: String::new(),
            limit: None,
        };
        let changes = DataChanges::default();
        let restored = run(&instance, &restore, staged, &owned, &changes, |_| {}).await;
        let is_there = directory.join("PG_VERSION").exists();
        match restored.unwrap_err() {
            FailedRestore::Removed(failed) => (failed, false, is_there),
            FailedRestore::Unexamined(failed, _) => (failed, true, is_there),
        }
    }

    /// Rule: keeper 12.13.5. These were reported as damaged data, and removed.
    #[tokio::test]
    async fn restored_data_whose_control_file_was_not_read_are_kept() {
        for (pg_controldata, limit) in [("exec sleep 1000", Duration::from_secs(2)), ("kill -KILL $$", LONG)] {
            let (failed, is_kept, is_there) = failure(pg_controldata, limit).await;
            assert!(is_kept && is_there, "{failed:?}");
            let text = Chain(&failed).to_string();
            assert!(
                text.starts_with("could not read the control file of the restored data"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn restored_data_that_are_damaged_are_removed() {
        for pg_controldata in [
            "exit 1",
            "echo nonsense",
            "echo WARNING: Calculated CRC checksum does not match",
        ] {
            let (failed, is_kept, is_there) = failure(pg_controldata, LONG).await;
            assert!(!is_kept && !is_there, "{failed:?}");
            assert_eq!(failed.to_string(), "the restored data are damaged");
        }
    }

    /// Rule: keeper T3.
    #[test]
    fn placeholders_of_a_restore_command() {
        for (command, expanded) in [
            ("", ""),
            ("%a", "%a"),
            ("%d", "/datadir"),
            ("%%d", "%d"),
            ("%%%d", "%/datadir"),
            ("x %", "x %"),
            (
                "%%%danother/string/%%%%%%%f%dddddblabla",
                "%/datadiranother/string/%%%%f/datadirddddblabla",
            ),
        ] {
            assert_eq!(expand(command, "/datadir"), expanded, "{command}");
        }
    }
}
