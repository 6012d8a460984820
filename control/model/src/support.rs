//! What this version does not support: one list for a spec, one for a db. No decision may be based on a partly supported
//! document: the unsupported part would be lost. What a program does then is left to it.

use crate::{CheckedClusterData, DbInitMode, DbSpec, FollowType, InitMode, Role, Spec};

/// A feature that this version does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not supported yet")]
pub struct NotSupported(pub &'static str);

/// Checks that this version supports everything that cluster data request, the spec and each db. A plan that ignored an
/// unsupported part would undo it.
///
/// # Errors
/// The first unsupported feature.
pub fn cluster_data(checked: &CheckedClusterData) -> Result<(), NotSupported> {
    spec(&checked.spec)?;
    checked.data.dbs().values().try_for_each(|of| Ok(db(&of.spec)?))
}

/// Checks that this version supports everything that a cluster spec requests.
///
/// # Errors
/// The first unsupported feature.
pub fn spec(spec: &Spec) -> Result<(), NotSupported> {
    if spec.init_mode == InitMode::Pitr {
        return Err(NotSupported("initMode pitr"));
    }
    if spec.role == Role::Standby {
        return Err(NotSupported("role standby"));
    }
    Ok(())
}

/// A feature of a db that this version does not support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedDb {
    /// It follows another cluster.
    FollowsOtherCluster,
    /// Init mode `pitr`.
    InitModePitr,
}

impl UnsupportedDb {
    /// Returns the feature, as a keeper logs it of its own db.
    pub fn feature(self) -> &'static str {
        match self {
            Self::FollowsOtherCluster => "following another cluster",
            Self::InitModePitr => "initMode pitr",
        }
    }
}

impl From<UnsupportedDb> for NotSupported {
    fn from(found: UnsupportedDb) -> Self {
        Self(match found {
            UnsupportedDb::FollowsOtherCluster => "a db that follows another cluster",
            UnsupportedDb::InitModePitr => "a db with initMode pitr",
        })
    }
}

/// Checks that this version supports everything that the spec of a db requests.
///
/// # Errors
/// The first unsupported feature.
pub fn db(spec: &DbSpec) -> Result<(), UnsupportedDb> {
    let follow = spec.follow_config.as_ref();
    if follow.is_some_and(|follow| follow.kind == FollowType::External) {
        return Err(UnsupportedDb::FollowsOtherCluster);
    }
    if spec.init_mode == DbInitMode::Pitr {
        return Err(UnsupportedDb::InitModePitr);
    }
    Ok(())
}
