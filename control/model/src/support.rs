//! What this version does not support: one list for a spec, one for a db. No decision may be based on a partly supported
//! document: the unsupported part would be lost. What a program does then is left to it.

use crate::{CheckedClusterData, DbInitMode, DbSpec, FollowType, InitMode, Role, Spec};

/// Whether this version supports synchronous replication; if not, every spec and every db that requests it is refused.
pub const SYNCHRONOUS_REPLICATION: bool = false;

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
    if spec.synchronous_replication && !SYNCHRONOUS_REPLICATION {
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

/// A feature of a db that this version does not support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedDb {
    /// Its commits wait for standbys.
    SynchronousReplication,
    /// It follows another cluster.
    FollowsOtherCluster,
    /// Init mode `existing`.
    InitModeExisting,
    /// Init mode `pitr`.
    InitModePitr,
}

impl UnsupportedDb {
    /// Returns the feature, as a keeper logs it of its own db.
    pub fn feature(self) -> &'static str {
        match self {
            Self::SynchronousReplication => "synchronousReplication",
            Self::FollowsOtherCluster => "following another cluster",
            Self::InitModeExisting => "initMode existing",
            Self::InitModePitr => "initMode pitr",
        }
    }
}

impl From<UnsupportedDb> for NotSupported {
    fn from(found: UnsupportedDb) -> Self {
        Self(match found {
            UnsupportedDb::SynchronousReplication => "a db with synchronousReplication",
            UnsupportedDb::FollowsOtherCluster => "a db that follows another cluster",
            UnsupportedDb::InitModeExisting => "a db with initMode existing",
            UnsupportedDb::InitModePitr => "a db with initMode pitr",
        })
    }
}

/// Checks that this version supports everything that the spec of a db requests.
///
/// # Errors
/// The first unsupported feature.
pub fn db(spec: &DbSpec) -> Result<(), UnsupportedDb> {
    // Standbys that are listed although the flag is off are part of the feature too: a plan would remove them.
    let lists_standbys = spec.synchronous_standbys.iter().any(|list| !list.is_empty())
        || spec.external_synchronous_standbys.iter().any(|list| !list.is_empty());
    if (spec.synchronous_replication || lists_standbys) && !SYNCHRONOUS_REPLICATION {
        return Err(UnsupportedDb::SynchronousReplication);
    }
    let follow = spec.follow_config.as_ref();
    if follow.is_some_and(|follow| follow.kind == FollowType::External) {
        return Err(UnsupportedDb::FollowsOtherCluster);
    }
    match spec.init_mode {
        DbInitMode::Existing => Err(UnsupportedDb::InitModeExisting),
        DbInitMode::Pitr => Err(UnsupportedDb::InitModePitr),
        DbInitMode::None | DbInitMode::New | DbInitMode::Resync | DbInitMode::Other(_) => Ok(()),
    }
}
