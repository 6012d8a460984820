//! What this version does not support. No decision may be based on a partly supported document: the unsupported part would
//! be lost. What a program does then is left to it.

use crate::{CheckedClusterData, InitMode, Role, Spec};

/// A feature that this version does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not supported yet")]
pub struct NotSupported(pub &'static str);

/// Checks that this version supports everything that cluster data request. A plan that ignored an unsupported part would
/// undo it.
///
/// # Errors
/// The first unsupported feature.
pub fn cluster_data(checked: &CheckedClusterData) -> Result<(), NotSupported> {
    spec(&checked.spec)
}

/// Checks that this version supports everything that a cluster spec requests.
///
/// # Errors
/// The first unsupported feature.
pub fn spec(spec: &Spec) -> Result<(), NotSupported> {
    if spec.role == Role::Standby {
        return standby_cluster(spec);
    }
    Ok(())
}

/// Checks that a standby cluster has an upstream: without one its standbys wait for WAL that never comes.
fn standby_cluster(spec: &Spec) -> Result<(), NotSupported> {
    if spec.init_mode == InitMode::Existing {
        return Err(NotSupported("role standby with initMode existing"));
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
            "role standby without standbySettings.primaryConninfo and archiveRecoverySettings.restoreCommand in \
             standbyConfig",
        ))
    }
}
