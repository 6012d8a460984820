//! The directories outside PGDATA that a copy writes into: locations of tablespaces, and the target of a `pg_wal` that
//! is a link. Whether they may be emptied for it is decided here, from what was found; finding is `postgres::survey`'s.

use std::fmt;
use std::path::PathBuf;

/// One such directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalDir {
    /// Its path, as the source has it.
    pub path: PathBuf,
    /// What a copy puts there.
    pub kind: ExternalDirKind,
    /// The size of that on the source, in bytes; absent when it did not report it.
    pub bytes: Option<u64>,
    /// What is there now.
    pub found: ExternalDirFacts,
}

/// What the way is cleared for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearRequest {
    /// The db that is to be made.
    pub db: String,
    /// The bytes that it will take in PGDATA, WAL included; unknown: as many as the old data take.
    pub bytes: Option<u64>,
    /// Where else it will write; what is there may be emptied.
    pub external_dirs: Vec<ExternalDir>,
    /// The last attempt had no room, whatever was estimated.
    pub lacked_room: bool,
}

/// What a copy puts into a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalDirKind {
    /// A tablespace.
    Tablespace {
        /** Name of the directory that holds it: `PG_15_202209061`. */
        directory: String,
    },
    /// WAL.
    Wal,
}

/// What was found in a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalDirFacts {
    /// Why the directory cannot be written into.
    pub unusable: Option<String>,
    /// It already holds what a copy would put there.
    pub holds_data: bool,
    /// The source sees the same directory.
    pub is_source_dir: bool,
    /// The directory of another keeper that has marked it.
    pub other_keeper: Option<PathBuf>,
    /// Another process that uses it: its name and process id.
    pub user: Option<(String, i32)>,
    /// It is recorded as this keeper's, or PGDATA, which is not unfinished, leads to it.
    pub is_ours: bool,
    /// This keeper's data were recorded there, and are gone with this file: is its file system mounted?
    pub missing_marker: Option<PathBuf>,
}

/// Why a place may not be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It cannot be written into.
    Unusable(String),
    /// It is the source's own.
    UsedBySource,
    /// Another keeper uses it.
    OtherKeeper(PathBuf),
    /// A process uses it.
    InUse {
        /** Its name. */
        program: String,
        /** Its process id. */
        pid: i32,
    },
    /// It is not known to be this keeper's.
    NotOurs,
    /// A file system is mounted there.
    Mounted,
    /// Its file system does not answer.
    NoAnswer,
    /// Its file system has too little room for the new data, without the old ones as well.
    NoRoom {
        /** Bytes that are needed. */
        needed: u64,
        /** Bytes that there would be. */
        free: u64,
    },
    /// What this keeper recorded there is gone with this file.
    MarkerMissing(PathBuf),
    /// Nothing records whose the data there are.
    Unclaimed,
    /// Data lie there that were to be moved to this directory, where some lie as well.
    AlreadyMoved(PathBuf),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => f.write_str(why),
            Self::UsedBySource => f.write_str("the followed db uses the same directory"),
            Self::OtherKeeper(dir) => write!(f, "the keeper of {} uses the same directory", dir.display()),
            Self::InUse { program, pid } => write!(f, "process {pid} ({program}) uses it"),
            Self::NotOurs => f.write_str("what is there is not known to be this keeper's"),
            Self::Mounted => f.write_str("a file system is mounted there"),
            Self::NoAnswer => f.write_str("it does not answer"),
            Self::NoRoom { needed, free } => write!(
                f,
                "a copy takes {needed} bytes on its file system, which has {free}, even without the old data"
            ),
            Self::MarkerMissing(marker) => write!(
                f,
                "this keeper's data there are gone with the file {}; its file system may not be mounted",
                marker.display()
            ),
            Self::Unclaimed => f.write_str("it is not known whose data these are: dbstate names none"),
            Self::AlreadyMoved(to) => write!(
                f,
                "its data were moved to {} before, and others lie there now",
                to.display()
            ),
        }
    }
}

impl Obstacle {
    /// What an operator can do about it.
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
            Self::NotOurs => "if nobody needs it, move it away or remove it",
            Self::Mounted => {
                "unmount it, and mount it outside of the data directory, its tablespaces and its WAL; pg_wal may be a link to it"
            }
            Self::NoAnswer => "mend its file system, or the server that it comes from",
            Self::NoRoom { .. } => "free space on that file system, or make it larger",
            Self::MarkerMissing(_) => "mount it; if what was there is lost for good, create that file, empty",
            Self::Unclaimed => "put dbstate back, or move the data away",
            Self::AlreadyMoved(_) => "move one of the two away",
        }
    }
}

/// Whether a copy may take this place, which empties it.
///
/// # Errors
/// The first thing that speaks against it.
pub fn check_may_empty(found: &ExternalDirFacts) -> Result<(), Obstacle> {
    if let Some(why) = &found.unusable {
        return Err(Obstacle::Unusable(why.clone()));
    }
    if let Some(marker) = &found.missing_marker {
        return Err(Obstacle::MarkerMissing(marker.clone()));
    }
    if found.is_source_dir {
        return Err(Obstacle::UsedBySource);
    }
    // Its copy may be under way, or its data aside.
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

/// The first place that may not be emptied, and why.
pub fn first_obstacle(places: &[ExternalDir]) -> Option<(PathBuf, Obstacle)> {
    places.iter().find_map(|place| {
        check_may_empty(&place.found)
            .err()
            .map(|obstacle| (place.path.clone(), obstacle))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_and_nobody_else_s_is_emptied() {
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
