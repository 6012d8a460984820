//! What of an assigned db's spec cannot be carried out because the spec contradicts itself. The sentinel writes no such
//! spec; who edits the cluster data by hand may.

use std::fmt;

/// What is wrong with the spec of the assigned db.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidDbSpec {
    /// A standby without `followConfig`.
    NoFollowConfig,
    /// The type in `followConfig` is unknown to this version.
    UnknownFollowType(String),
    /// The init mode does not fit the role.
    WrongRole {
        init_mode: &'static str,
        /// The db that has this init mode.
        role: &'static str,
    },
    /// Init mode `pitr` without `dataRestoreCommand`.
    NoRestoreCommand,
}

impl InvalidDbSpec {
    /// Returns what an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownFollowType(_) => "run the same version of all programs",
            Self::NoRestoreCommand => "give pitrConfig.dataRestoreCommand, with `stolonctl init`",
            Self::NoFollowConfig | Self::WrongRole { .. } => {
                "put the cluster data of a backup back with `stolonctl clusterdata write --yes -f FILE`; a keeper that is \
                 not the master's gets another db after `stolonctl removekeeper`"
            }
        }
    }
}

impl fmt::Display for InvalidDbSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFollowConfig => f.write_str("role standby without followConfig"),
            Self::UnknownFollowType(kind) => write!(f, "unknown type of followConfig {kind:?}"),
            Self::WrongRole { init_mode, role } => write!(f, "initMode {init_mode} of {role}"),
            Self::NoRestoreCommand => f.write_str("initMode pitr without pitrConfig.dataRestoreCommand"),
        }
    }
}
