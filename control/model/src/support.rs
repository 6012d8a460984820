//! Valid specs that cannot be carried out. No decision may be based on such a document. What a program does then is left to
//! it.

use crate::{InitMode, Role, Spec};

/// Why a valid spec cannot be carried out, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotSupported(pub &'static str);

/// Checks that everything that a cluster spec requests can be carried out.
///
/// # Errors
/// The first thing that cannot.
pub fn spec(spec: &Spec) -> Result<(), NotSupported> {
    if spec.role == Role::Standby {
        return standby_cluster(spec);
    }
    Ok(())
}

/// Checks that a standby cluster has an upstream: without one its standbys wait for WAL that never comes.
fn standby_cluster(spec: &Spec) -> Result<(), NotSupported> {
    if spec.init_mode == InitMode::Existing {
        return Err(NotSupported(
            "role standby with initMode existing is not supported: use initMode pitr, with a backup of the upstream",
        ));
    }
    let config = spec.standby_config.as_ref();
    let streams = config.and_then(|config| config.standby_settings.as_ref());
    let restores = config.and_then(|config| config.archive_recovery_settings.as_ref());
    let streams = streams.is_some_and(|settings| !settings.primary_conninfo.is_empty());
    let restores = restores.is_some_and(|settings| !settings.restore_command.is_empty());
    if streams || restores {
        Ok(())
    } else {
        Err(NotSupported(
            "role standby needs an upstream: set standbySettings.primaryConninfo or \
             archiveRecoverySettings.restoreCommand in standbyConfig",
        ))
    }
}
