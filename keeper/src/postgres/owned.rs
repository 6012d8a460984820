//! What this keeper has made outside PGDATA, as recorded in its directory and marked where it lies: nothing that is not
//! provably its own is removed.
//!
//! Two records must agree. The file `directories` in the keeper's directory names each directory with its inode and
//! time of creation. A marker file in the tablespace's location names this keeper's directory, so that a keeper that
//! does not run now is seen by the others. Neither is known to the reference.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::postgres::files::{self, FileError};
use crate::postgres::trees::{self, Mark};

const FILE: &str = "directories";

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not what a keeper writes.
    #[error(
        "{} is damaged: put back a copy of it, or remove it; without it tablespace directories are not known to be \
         this keeper's", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    /// Random; part of the names of everything that this keeper makes outside its directory.
    pub id: String,
    /// The tablespace directories of the instance.
    pub tablespaces: Vec<Space>,
    /// Where `pg_wal` leads, when it is a link.
    pub wal: Option<PathBuf>,
    /// Data that were set aside until what replaces them is complete.
    pub old: Option<Old>,
}

/// What a tablespace has in its location: the directory of one major and catalog version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// The location, as the catalog has it.
    pub location: PathBuf,
    /// Name of the directory in it: `PG_15_202209061`.
    pub directory: String,
    /// Which directory it was when it was recorded.
    pub mark: Mark,
}

impl Space {
    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.location.join(&self.directory)
    }
}

/// Data that were set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Old {
    /// The db that replaces them.
    pub db: String,
    /// Where they are.
    pub directory: PathBuf,
    /// PGDATA's entries were moved one by one, because PGDATA is a link or a mount point.
    pub by_entries: bool,
    /// Everything is there.
    pub is_complete: bool,
    /// Which directory PGDATA was.
    pub mark: Mark,
    /// Their tablespaces.
    pub tablespaces: Vec<Space>,
    /// Where their `pg_wal` leads.
    pub wal: Option<PathBuf>,
}

/// The record, in memory and on disk together.
#[derive(Debug)]
pub struct Owned {
    dir: PathBuf,
    saved: Mutex<Record>,
}

impl Owned {
    /// Reads the record of a keeper's directory; a missing one is empty.
    pub fn load(dir: &Path) -> Result<Self, OwnedError> {
        let path = dir.join(FILE);
        let mut record: Record = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| OwnedError::Damaged { path, source })?,
            Err(gone) if gone.kind() == ErrorKind::NotFound => Record::default(),
            Err(source) => return Err(OwnedError::Read { path, source }),
        };
        if record.id.is_empty() {
            record.id = random_name();
        }
        Ok(Self {
            dir: dir.to_owned(),
            saved: Mutex::new(record),
        })
    }

    /// What is recorded.
    pub fn record(&self) -> Record {
        self.saved
            .lock()
            .expect("nobody panics while holding the record")
            .clone()
    }

    /// Changes the record durably; nothing is written when nothing changes.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), FileError> {
        let mut saved = self.saved.lock().expect("nobody panics while holding the record");
        let mut next = saved.clone();
        change(&mut next);
        if next != *saved {
            let json = serde_json::to_vec(&next);
            let json = json.map_err(|source| FileError::new("write", self.dir.join(FILE))(source.into()))?;
            trees::cut::step().map_err(FileError::new("write", self.dir.join(FILE)))?;
            files::write_atomically(&self.dir.join(FILE), &json)?;
            *saved = next;
        }
        Ok(())
    }

    /// A name in a directory outside the keeper's that nobody else uses.
    pub fn name(&self, kind: &str) -> String {
        format!("{PREFIX}{}.{kind}", self.record().id)
    }

    /// Whether a tablespace directory is the recorded one. `location` may be written in another way than the record has
    /// it, through a link.
    pub fn has(&self, location: &Path, directory: &str) -> Result<bool, FileError> {
        let found = trees::mark(&location.join(directory))?;
        Ok(found.is_some()
            && self
                .record()
                .tablespaces
                .iter()
                .any(|space| space.directory == directory && Some(space.mark) == found))
    }

    /// Marks a location as one that this keeper's instance uses. The record is saved first: a marker without a record
    /// would be a stranger's.
    pub fn put_marker(&self, location: &Path) -> Result<(), FileError> {
        let path = location.join(self.name(OWNER));
        let Some(mark) = trees::mark(&self.dir)? else {
            return Ok(());
        };
        let marker = Marker {
            dir: self.dir.clone(),
            mark,
        };
        let json = serde_json::to_vec(&marker).map_err(|source| FileError::new("write", &path)(source.into()))?;
        if fs::read(&path).is_ok_and(|text| text == json) {
            return Ok(());
        }
        files::write_atomically(&path, &json)
    }

    /// Removes the own marker from a location.
    pub fn remove_marker(&self, location: &Path) -> Result<(), FileError> {
        files::remove_if_there(&location.join(self.name(OWNER)))
    }

    /// The directory of another keeper that has marked this location; `None` when there is none.
    pub fn other_keeper(&self, location: &Path) -> Result<Option<PathBuf>, FileError> {
        for path in trees::entries(location)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !(name.starts_with(PREFIX) && name.ends_with(OWNER)) {
                continue;
            }
            let text = fs::read(&path).map_err(FileError::new("read", &path))?;
            let marker: Option<Marker> = serde_json::from_slice(&text).ok();
            if name != self.name(OWNER) {
                return Ok(Some(marker.map_or(path, |marker| marker.dir)));
            }
            // A copy of our directory has our id too; a directory that was moved is not where the marker says.
            if let Some(marker) = marker
                && trees::mark(&self.dir)? != Some(marker.mark)
                && trees::mark(&marker.dir)? == Some(marker.mark)
            {
                return Ok(Some(marker.dir));
            }
        }
        Ok(None)
    }
}

/// What a marker file says.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    dir: PathBuf,
    mark: Mark,
}

const PREFIX: &str = "stolon-";
const OWNER: &str = "owner";
/// Ending of the name of a directory in which something new is made.
pub(crate) const NEW: &str = "new";

/// Eight random characters.
pub(crate) fn random_name() -> String {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_there_again_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let owned = Owned::load(dir.path()).unwrap();
        owned.change(|record| record.wal = Some("/wal".into())).unwrap();
        let again = Owned::load(dir.path()).unwrap();
        assert_eq!(again.record(), owned.record());
        fs::write(dir.path().join(FILE), "{").unwrap();
        let refused = Owned::load(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains("directories is damaged: put back a copy of it, or remove it"),
            "{refused}"
        );
    }

    #[test]
    fn a_directory_is_ours_only_while_it_is_the_recorded_one() {
        let dir = tempfile::tempdir().unwrap();
        let space = dir.path().join("space");
        fs::create_dir_all(space.join("PG_15_1")).unwrap();
        let owned = Owned::load(dir.path()).unwrap();
        assert!(!owned.has(&space, "PG_15_1").unwrap());
        let mark = trees::mark(&space.join("PG_15_1")).unwrap().unwrap();
        let recorded = Space {
            location: space.clone(),
            directory: "PG_15_1".into(),
            mark,
        };
        owned.change(|record| record.tablespaces.push(recorded)).unwrap();
        assert!(owned.has(&space, "PG_15_1").unwrap());
        fs::rename(space.join("PG_15_1"), space.join("PG_15_2")).unwrap();
        fs::create_dir(space.join("PG_15_1")).unwrap();
        assert!(!owned.has(&space, "PG_15_1").unwrap(), "another one took its place");
        assert!(!owned.has(&space, "PG_15_2").unwrap());
    }

    #[test]
    fn another_keeper_s_marker_is_seen_though_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, space) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("space"));
        for made in [&one, &two, &space] {
            fs::create_dir(made).unwrap();
        }
        let (mine, other) = (Owned::load(&one).unwrap(), Owned::load(&two).unwrap());
        mine.change(|record| record.wal = None).unwrap();
        mine.put_marker(&space).unwrap();
        assert_eq!(mine.other_keeper(&space).unwrap(), None);
        assert_eq!(other.other_keeper(&space).unwrap(), Some(one.clone()));
        other.put_marker(&space).unwrap();
        assert_eq!(mine.other_keeper(&space).unwrap(), Some(two));
        other.remove_marker(&space).unwrap();

        // A moved directory is still the same keeper's; a copy beside it is another one.
        mine.change(|record| record.wal = Some("/w".into())).unwrap();
        let moved = dir.path().join("moved");
        fs::rename(&one, &moved).unwrap();
        assert_eq!(Owned::load(&moved).unwrap().other_keeper(&space).unwrap(), None);
        fs::create_dir(&one).unwrap();
        fs::copy(moved.join(FILE), one.join(FILE)).unwrap();
        fs::rename(&one, dir.path().join("copy")).unwrap();
        fs::rename(&moved, &one).unwrap();
        let copy = Owned::load(&dir.path().join("copy")).unwrap();
        assert_eq!(copy.other_keeper(&space).unwrap(), Some(one));
    }
}
