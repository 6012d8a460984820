//! The directories outside PGDATA that a copy writes into: locations of tablespaces, and the target of a `pg_wal` that
//! is a link. Whether they may be emptied for it is decided here, from what was found; finding is `postgres::survey`'s.

use std::fmt;
use std::path::PathBuf;

/// One such directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path, as the source has it.
    pub path: PathBuf,
    /// What a copy puts there.
    pub kind: PlaceKind,
    /// The size of that on the source, in bytes; absent when it did not report it.
    pub bytes: Option<u64>,
    /// What is there now.
    pub found: Found,
}

/// What the way is cleared for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    /// The db that is to be made.
    pub db: String,
    /// The bytes that it will take in PGDATA, WAL included; unknown: as many as the old data take.
    pub bytes: Option<u64>,
    /// Where else it will write; what is there may be emptied.
    pub places: Vec<Place>,
    /// The last attempt had no room, whatever was estimated.
    pub lacked_room: bool,
}

/// What a copy puts into a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceKind {
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
pub struct Found {
    /// Why the directory cannot be written into.
    pub unusable: Option<String>,
    /// It already holds what a copy would put there.
    pub holds_data: bool,
    /// The source sees the same directory.
    pub is_the_source_s: bool,
    /// The directory of another keeper that has marked it.
    pub other_keeper: Option<PathBuf>,
    /// Another process that uses it: its name and process id.
    pub user: Option<(String, i32)>,
    /// It is recorded as this keeper's, or PGDATA, which is not unfinished, leads to it.
    pub is_ours: bool,
    /// This keeper's data were recorded there, and are gone with this file: is its file system mounted?
    pub is_away: Option<PathBuf>,
}

/// Why a place may not be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It cannot be written into.
    Unusable(String),
    /// It is the source's own.
    TheSource,
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
    Away(PathBuf),
    /// Nothing records whose the data there are.
    Unclaimed,
    /// Data lie there that were to be moved to this directory, where some lie as well.
    MovedTwice(PathBuf),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => f.write_str(why),
            Self::TheSource => f.write_str("the followed db uses the same directory"),
            Self::OtherKeeper(dir) => write!(f, "the keeper of {} uses the same directory", dir.display()),
            Self::InUse { program, pid } => write!(f, "process {pid} ({program}) uses it"),
            Self::NotOurs => f.write_str("what is there is not known to be this keeper's"),
            Self::Mounted => f.write_str("a file system is mounted there"),
            Self::NoAnswer => f.write_str("it does not answer"),
            Self::NoRoom { needed, free } => write!(
                f,
                "a copy takes {needed} bytes on its file system, which has {free}, even without the old data"
            ),
            Self::Away(marker) => write!(
                f,
                "this keeper's data there are gone with the file {}; its file system may not be mounted",
                marker.display()
            ),
            Self::Unclaimed => f.write_str("it is not known whose data these are: dbstate names none"),
            Self::MovedTwice(to) => write!(
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
            Self::TheSource => "run this keeper on another host, or drop the tablespace",
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
            Self::Away(_) => "mount it; if what was there is lost for good, create that file, empty",
            Self::Unclaimed => "put dbstate back, or move the data away",
            Self::MovedTwice(_) => "move one of the two away",
        }
    }
}

/// Whether a copy may take this place, which empties it.
///
/// # Errors
/// The first thing that speaks against it.
pub fn judge(found: &Found) -> Result<(), Obstacle> {
    if let Some(why) = &found.unusable {
        return Err(Obstacle::Unusable(why.clone()));
    }
    if let Some(marker) = &found.is_away {
        return Err(Obstacle::Away(marker.clone()));
    }
    if found.is_the_source_s {
        return Err(Obstacle::TheSource);
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
pub fn obstacle(places: &[Place]) -> Option<(PathBuf, Obstacle)> {
    places
        .iter()
        .find_map(|place| judge(&place.found).err().map(|obstacle| (place.path.clone(), obstacle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_and_nobody_else_s_is_emptied() {
        let empty = Found::default();
        let ours = Found {
            holds_data: true,
            is_ours: true,
            ..Found::default()
        };
        assert_eq!(judge(&empty), Ok(()));
        assert_eq!(judge(&ours), Ok(()));
        let not_ours = Found {
            is_ours: false,
            ..ours.clone()
        };
        assert_eq!(judge(&not_ours), Err(Obstacle::NotOurs));
        let source = Found {
            is_the_source_s: true,
            ..ours.clone()
        };
        assert_eq!(
            judge(&source),
            Err(Obstacle::TheSource),
            "though it is recorded as ours"
        );
        let marked = Found {
            other_keeper: Some("/k2".into()),
            ..ours.clone()
        };
        assert_eq!(judge(&marked), Err(Obstacle::OtherKeeper("/k2".into())));
        let used = Found {
            user: Some(("postgres".into(), 7)),
            ..ours
        };
        let in_use = Obstacle::InUse {
            program: "postgres".into(),
            pid: 7,
        };
        assert_eq!(judge(&used), Err(in_use));
        let closed = Found {
            unusable: Some("create /x: permission denied".into()),
            ..empty
        };
        assert!(matches!(judge(&closed), Err(Obstacle::Unusable(_))));
    }
}
