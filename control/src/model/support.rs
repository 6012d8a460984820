//! What this version does not do yet, told in one place so that no program pretends.

use crate::model::{InitMode, Role, Spec};

/// A spec asks for something that this version does not do yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not supported yet")]
pub struct NotSupported(pub &'static str);

/// What the spec asks for that this version does not do yet: nothing may be decided on such a spec, because half of it
/// would be lost.
///
/// # Errors
/// Names the first such thing.
pub fn not_supported(spec: &Spec) -> Result<(), NotSupported> {
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
