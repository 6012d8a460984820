//! Runs pg_basebackup (keeper 6.3). Waiting for the slot on the source is done before, see `upstream`.

use std::path::Path;
use std::sync::Arc;

use tracing::{debug, info};

use crate::postgres::client::session_settings::{self, SessionUser};
use crate::postgres::config::conninfo::{Address, copy_conninfo, copy_passfile};
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::cluster_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::scratch_file::ScratchFile;
use crate::postgres::data::staging::StagedData;
use crate::postgres::instance::Instance;
use crate::postgres::programs::command;
use crate::postgres::programs::environment;
use crate::postgres::server::error::InstanceError;
use crate::postgres::transfer::TransferProgress;

/// Source and slot of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackup {
    /// The instance to copy.
    pub source: Address,
    /// Name of this instance in the source's views.
    pub application_name: String,
    /// Slot that retains the WAL from now on; it must exist on the source.
    pub slot: String,
}

/// Runs pg_basebackup as the replication user into the directories of `staged`, moves the result to its place, and
/// passes its progress to `progress` about once a second. Without a time limit: dropping the future ends the copy.
/// The result is a standby that was never started: `standby.signal` exists, its settings are written at the first
/// start.
///
/// `finished` is called once the data are complete, also when the caller has given up because that took too long.
pub async fn run(
    instance: &Instance,
    copy: &BaseBackup,
    staged: &StagedData,
    owned: &Arc<OwnedDirs>,
    changes: &DataChanges,
    finished: impl FnOnce() + Send + 'static,
    mut progress: impl FnMut(TransferProgress),
) -> Result<(), InstanceError> {
    instance.end_other_processes().await?;
    let config = instance.config();
    let login = &config.replication;
    let mut password_file = None;
    if let Some(content) = copy_passfile(&copy.source, login) {
        let file = ScratchFile::write(instance.access(), config.scratch_dir(), "pgpass", content).await?;
        password_file = Some(file);
    }
    let major = session_settings::major(Some(instance.programs())).await;
    let options = session_settings::options(major, SessionUser::Replication);
    let mut command = environment::command(&instance.programs().path("pg_basebackup"));
    if let Some(file) = &password_file {
        command.env("PGPASSFILE", file.path());
    }
    // -R creates `standby.signal`, so that the copy can never start as a second master. A fast checkpoint avoids
    // waiting for a spread one (keeper W11).
    command
        .args(["-R", "-v", "-P", "-w", "-X", "stream", "-c", "fast"])
        .arg("-D")
        .arg(staged.directory())
        .args(staged.options());
    command
        .arg("-d")
        .arg(copy_conninfo(&copy.application_name, &copy.source, login, &options));
    command.arg("--slot").arg(&copy.slot);
    info!("running pg_basebackup");
    let copied = command::run(command, |line| match TransferProgress::parse(line) {
        Some(now) => progress(now),
        None => debug!(target: "pg_basebackup", "{line}"),
    })
    .await;
    if let Some(file) = password_file {
        file.remove().await;
    }
    copied?;
    let (staged, owned, data) = (staged.clone(), Arc::clone(owned), config.data.clone());
    Ok(changes
        .run(move || complete(&staged, &owned, &data, finished))
        .await??)
}

/// Moves a copy to its place, and calls `finished` once it is complete.
fn complete(staged: &StagedData, owned: &OwnedDirs, data: &Path, finished: impl FnOnce()) -> Result<(), FileError> {
    staged.finish(owned)?;
    // -R wrote the connection with the password there.
    cluster_files::link_auto_conf(data)?;
    cluster_files::signal_standby(data)?;
    finished();
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::RandomBytes;

    use super::*;

    /// Rule: keeper 12.12.5.
    #[test]
    fn a_copy_is_reported_as_finished_once_it_is_complete_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        let owned = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        let staged = StagedData::prepare(&data, &owned, &[]).unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        let missing = complete(&staged, &owned, &data, || panic!("there are no data"));
        assert!(missing.is_err());
        let staged = StagedData::prepare(&data, &owned, &[]).unwrap();
        cluster_files::make_data(staged.directory(), "content");
        let mut has_finished = false;
        complete(&staged, &owned, &data, || {
            has_finished = cluster_files::signals(&data).unwrap().standby
        })
        .unwrap();
        assert!(has_finished);
    }
}
