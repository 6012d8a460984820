//! Directories outside PGDATA that a copy writes into: tablespace locations, and the target of a `pg_wal` link. Decides
//! whether they may be emptied; gathering the facts is left to `postgres::data::survey`.

use std::fmt;
use std::path::PathBuf;

/// A directory outside PGDATA that a copy writes into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalDir {
    /// Its path, as on the source.
    pub path: PathBuf,
    /// What a copy writes there.
    pub kind: ExternalDirKind,
    /// Size of this on the source in bytes; `None` when it was not reported.
    pub bytes: Option<u64>,
    /// Its current state.
    pub found: ExternalDirFacts,
}

/// What space is cleared for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearRequest {
    /// The db that is going to be created.
    pub db: String,
    /// Bytes that it takes in PGDATA, WAL included; `None`: as many as the old data.
    pub bytes: Option<u64>,
    /// Other directories that it writes into; their contents may be removed.
    pub external_dirs: Vec<ExternalDir>,
    /// The last attempt ran out of space despite the estimate.
    pub ran_out_of_space: bool,
}

/// What a copy writes into a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalDirKind {
    /// A tablespace.
    Tablespace {
        /// Name of its directory in the location, such as `PG_15_202209061`.
        directory: String,
    },
    /// WAL.
    Wal,
}

/// State of a directory outside PGDATA.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalDirFacts {
    /// Why the directory cannot be written into.
    pub unusable: Option<String>,
    /// It already holds data of the kind that a copy would write.
    pub holds_data: bool,
    /// It is the same directory as the source's.
    pub is_source_dir: bool,
    /// Data directory of another keeper that has marked it.
    pub other_keeper: Option<PathBuf>,
    /// Name and process id of another process that uses it.
    pub user: Option<(String, i32)>,
    /// It belongs to this keeper: recorded, or linked from a PGDATA that is complete.
    pub is_ours: bool,
    /// The recorded data and this marker file are missing: the file system may not be mounted.
    pub missing_marker: Option<PathBuf>,
}

/// Why a directory may not be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It is not writable.
    Unusable(String),
    /// The source uses it.
    UsedBySource,
    /// Another keeper uses it.
    OtherKeeper(PathBuf),
    /// A process uses it.
    InUse {
        /// Its name.
        program: String,
        /// Its process id.
        pid: i32,
    },
    /// It is not known to belong to this keeper.
    NotOurs,
    /// A file system is mounted there.
    Mounted,
    /// Its file system does not answer.
    FileSystemHung,
    /// Its file system is too small for the new data, even without the old ones.
    NotEnoughSpace {
        /// Required bytes.
        needed: u64,
        /// Available bytes.
        free: u64,
    },
    /// This keeper's recorded data there are missing, with this marker file.
    MarkerMissing(PathBuf),
    /// The owner of the data is not recorded.
    Unclaimed,
    /// Its data were moved to this directory before an interruption, and it holds other data now.
    AlreadyMoved(PathBuf),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => f.write_str(why),
            Self::UsedBySource => f.write_str("the followed db uses the same directory"),
            Self::OtherKeeper(dir) => write!(f, "the keeper of {} uses the same directory", dir.display()),
            Self::InUse { program, pid } => write!(f, "process {pid} ({program}) uses it"),
            Self::NotOurs => f.write_str("its contents are not known to belong to this keeper"),
            Self::Mounted => f.write_str("a file system is mounted there"),
            Self::FileSystemHung => f.write_str("it does not answer"),
            Self::NotEnoughSpace { needed, free } => write!(
                f,
                "a copy takes {needed} bytes on its file system, which has {free}, even without the old data: {} bytes are \
                 missing",
                needed.saturating_sub(*free)
            ),
            Self::MarkerMissing(marker) => write!(
                f,
                "this keeper's data there are gone with the file {}; its file system may not be mounted",
                marker.display()
            ),
            Self::Unclaimed => f.write_str("the owner of these data is unknown: dbstate names none"),
            Self::AlreadyMoved(to) => write!(
                f,
                "its data were moved to {} before an interruption, and it holds other data now",
                to.display()
            ),
        }
    }
}

impl Obstacle {
    /// Returns what an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Unusable(_) => {
                "mount its file system, or, if what was there is lost for good, create it, writable by the user that runs \
                 the keeper"
            }
            Self::UsedBySource => "run this keeper on another host, or drop the tablespace",
            Self::OtherKeeper(_) => {
                "run one of them on another host; if that keeper is gone for good, remove its stolon-*.owner file there"
            }
            Self::InUse { .. } => "end that process",
            Self::NotOurs => "if it is not needed, move it away or remove it",
            Self::Mounted => {
                "unmount it, and mount it outside of PGDATA, its tablespaces and its WAL; pg_wal may be a link to it"
            }
            Self::FileSystemHung => "fix its file system, or the server that exports it",
            Self::NotEnoughSpace { .. } => "free space on that file system, or make it larger",
            Self::MarkerMissing(_) => "mount it; if what was there is lost for good, create that file, empty",
            Self::Unclaimed => "put dbstate back, or move the data away",
            Self::AlreadyMoved(_) => "move the data out of one of the two directories",
        }
    }
}

/// Checks whether a copy may use this directory, which empties it.
///
/// # Errors
/// Returns the first obstacle.
pub fn check_may_empty(found: &ExternalDirFacts) -> Result<(), Obstacle> {
    if let Some(why) = &found.unusable {
        return Err(Obstacle::Unusable(why.clone()));
    }
    if let Some(marker) = &found.missing_marker {
        return Err(Obstacle::MarkerMissing(marker.clone()));
    }
    // Emptying the source's own directory would destroy the only good copy.
    if found.is_source_dir {
        return Err(Obstacle::UsedBySource);
    }
    // A copy of the other keeper may be running, or its previous data may be there.
    if let Some(dir) = &found.other_keeper {
        return Err(Obstacle::OtherKeeper(dir.clone()));
    }
    if !found.holds_data {
        return Ok(());
    }
    if let Some((program, pid)) = &found.user {
        return Err(Obstacle::InUse {
            program: program.clone(),
            pid: *pid,
        });
    }
    if found.is_ours { Ok(()) } else { Err(Obstacle::NotOurs) }
}

/// Returns the first directory that may not be emptied, and why.
pub fn first_obstacle(external_dirs: &[ExternalDir]) -> Option<(PathBuf, Obstacle)> {
    external_dirs.iter().find_map(|external_dir| {
        check_may_empty(&external_dir.found)
            .err()
            .map(|obstacle| (external_dir.path.clone(), obstacle))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_and_unused_directories_are_emptied() {
        let empty = ExternalDirFacts::default();
        let ours = ExternalDirFacts {
            holds_data: true,
            is_ours: true,
            ..ExternalDirFacts::default()
        };
        assert_eq!(check_may_empty(&empty), Ok(()));
        assert_eq!(check_may_empty(&ours), Ok(()));
        let not_ours = ExternalDirFacts {
            is_ours: false,
            ..ours.clone()
        };
        assert_eq!(check_may_empty(&not_ours), Err(Obstacle::NotOurs));
        let source = ExternalDirFacts {
            is_source_dir: true,
            ..ours.clone()
        };
        assert_eq!(
            check_may_empty(&source),
            Err(Obstacle::UsedBySource),
            "though it is recorded as ours"
        );
        let marked = ExternalDirFacts {
            other_keeper: Some("/k2".into()),
            ..ours.clone()
        };
        assert_eq!(check_may_empty(&marked), Err(Obstacle::OtherKeeper("/k2".into())));
        let used = ExternalDirFacts {
            user: Some(("postgres".into(), 7)),
            ..ours
        };
        let in_use = Obstacle::InUse {
            program: "postgres".into(),
            pid: 7,
        };
        assert_eq!(check_may_empty(&used), Err(in_use));
        let closed = ExternalDirFacts {
            unusable: Some("create /x: permission denied".into()),
            ..empty
        };
        assert!(matches!(check_may_empty(&closed), Err(Obstacle::Unusable(_))));
    }
}
