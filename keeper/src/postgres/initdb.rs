//! Runs initdb (keeper 5.1, N4).

use std::sync::Arc;

use base::Chain;
use tracing::{debug, warn};

use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::scratch_file::ScratchFile;
use crate::postgres::data::staging::StagedData;
use crate::postgres::instance::Instance;
use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;
use crate::postgres::server::error::InstanceError;

/// Options of a new database cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewClusterOptions {
    /// `--locale`; otherwise that of the environment.
    pub locale: Option<String>,
    /// `--encoding`; otherwise that of the locale.
    pub encoding: Option<String>,
    /// `--data-checksums`. False uses the major's default: on from 18 on (keeper section 19, note 2).
    pub data_checksums: bool,
}

/// Runs initdb in the directories of `staged` and moves the result to its place. After a failure everything is
/// removed (keeper I4 (c)).
pub async fn run(
    instance: &Instance,
    new: &NewClusterOptions,
    staged: &StagedData,
    owned: &Arc<OwnedDirs>,
    changes: &DataChanges,
) -> Result<(), InstanceError> {
    instance.end_other_processes().await?;
    let config = instance.config();
    let mut command = environment::command(&instance.programs().path("initdb"));
    command
        .arg("-D")
        .arg(staged.directory())
        .args(staged.options())
        .arg("-U")
        .arg(&config.superuser.user);
    let mut password_file = None;
    if let Some(password) = config.superuser.password() {
        let content = format!("{password}\n");
        let file = ScratchFile::write(instance.access(), config.scratch_dir(), "initdb", content).await?;
        command.arg("--pwfile").arg(file.path());
        password_file = Some(file);
    }
    for (option, value) in [("--locale", &new.locale), ("--encoding", &new.encoding)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            command.arg(option).arg(value);
        }
    }
    if new.data_checksums {
        command.arg("--data-checksums");
    }
    let result = command::run(command, |line| debug!(target: "initdb", "{line}")).await;
    if let Some(file) = password_file {
        file.remove().await;
    }
    let (staged, owned) = (staged.clone(), Arc::clone(owned));
    if let Err(CommandError::Failed { .. } | CommandError::Read { .. }) = result {
        let discarded = changes.run(move || staged.discard()).await.map_err(InstanceError::from);
        if let Err(failed) = discarded.and_then(|discarded| Ok(discarded?)) {
            warn!(error = %Chain(&failed), "could not remove what initdb left behind");
        }
        return Ok(result?);
    }
    result?;
    Ok(changes.run(move || staged.finish(&owned)).await??)
}
