//! The single check for features that this version does not support.

use crate::{InitMode, Role, Spec};

/// The spec requests a feature that this version does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not supported yet")]
pub struct NotSupported(pub &'static str);

/// Checks that this version supports everything that the spec requests. No decision may be based on a partly supported
/// spec: the unsupported part would be lost.
///
/// # Errors
/// The first unsupported feature.
pub fn check_supported(spec: &Spec) -> Result<(), NotSupported> {
    if spec.synchronous_replication {
        return Err(NotSupported("synchronousReplication"));
    }
    match spec.init_mode {
        InitMode::Existing => return Err(NotSupported("initMode existing")),
        InitMode::Pitr => return Err(NotSupported("initMode pitr")),
        InitMode::New | InitMode::Other(_) => {}
    }
    if spec.role == Role::Standby {
        return Err(NotSupported("role standby"));
    }
    Ok(())
}
