//! Whether the instance that answers at the address of the followed db is the one that the cluster data mean. It is
//! decided before anything is removed: an address may lead to another cluster that has the same passwords.

use std::fmt;

use crate::reconcile::SourceFacts;

/// What the cluster data record of the followed db.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordedIdentity {
    /// PostgreSQL's system identifier; empty while no keeper has published one.
    pub system_id: String,
    /// The timeline that its keeper published last; 0 for none.
    pub timeline: u64,
}

/// Why the instance that answers is not the one to copy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongSource {
    /// The cluster data do not say yet which database cluster it is.
    NotRecorded,
    /// It is another database cluster.
    OtherSystem {
        /** In the cluster data. */
        recorded: String,
        /** At the address. */
        found: String,
    },
    /// It is on an older timeline than the one that its keeper published.
    Behind {
        /** In the cluster data. */
        recorded: u64,
        /** At the address. */
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
    /// What an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotRecorded => "wait until the master's keeper has published it",
            Self::OtherSystem { .. } | Self::Behind { .. } => {
                "correct the address that the keeper of the followed db advertises, or the name resolution here"
            }
        }
    }
}

/// Whether `source` may be followed or copied.
///
/// # Errors
/// It is not what `recorded` describes.
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
