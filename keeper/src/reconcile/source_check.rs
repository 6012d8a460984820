//! Whether the instance at the address of the followed db is the recorded one. This is checked before anything is
//! removed: an address may lead to another cluster with the same passwords.

use std::fmt;

use crate::reconcile::SourceFacts;

/// Identity of the followed db as recorded in the cluster data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordedIdentity {
    /// System identifier; empty until a keeper has published one.
    pub system_id: String,
    /// The last timeline that its keeper published; 0 for none.
    pub timeline: u64,
}

/// Why the instance that answers must not be followed or copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongSource {
    /// The cluster data have no system identifier yet.
    NotRecorded,
    /// It belongs to another database cluster.
    OtherSystem {
        /// Value in the cluster data.
        recorded: String,
        /// Value at the address.
        found: String,
    },
    /// Its timeline is older than the one that its keeper published.
    Behind {
        /// Value in the cluster data.
        recorded: u64,
        /// Value at the address.
        found: u64,
    },
}

impl fmt::Display for WrongSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRecorded => f.write_str("the cluster data have no system identifier yet"),
            Self::OtherSystem { recorded, found } => {
                write!(f, "its system identifier is {found}, and the cluster's is {recorded}")
            }
            Self::Behind { recorded, found } => {
                write!(
                    f,
                    "its timeline is {found}, and the cluster data have {recorded} for the followed db"
                )
            }
        }
    }
}

impl WrongSource {
    /// Returns what an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotRecorded => "wait until the master's keeper has published it",
            Self::OtherSystem { .. } | Self::Behind { .. } => {
                "correct the address that the keeper of the followed db advertises, or the name resolution here"
            }
        }
    }
}

/// Checks that `source` may be followed or copied.
///
/// # Errors
/// It is not the recorded instance.
pub fn check_source(recorded: &RecordedIdentity, source: &SourceFacts) -> Result<(), WrongSource> {
    if recorded.system_id.is_empty() {
        return Err(WrongSource::NotRecorded);
    }
    if recorded.system_id != source.system_id {
        return Err(WrongSource::OtherSystem {
            recorded: recorded.system_id.clone(),
            found: source.system_id.clone(),
        });
    }
    if source.timeline < recorded.timeline {
        return Err(WrongSource::Behind {
            recorded: recorded.timeline,
            found: source.timeline,
        });
    }
    Ok(())
}
