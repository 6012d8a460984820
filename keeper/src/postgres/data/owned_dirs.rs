//! Directories outside PGDATA that belong to this keeper, recorded in its data directory and marked in place: nothing
//! that is not provably its own is removed.
//!
//! Two records must agree. The file `directories` in the keeper's data directory lists each directory with its inode
//! and creation time. A marker file in the tablespace's location names the keeper's data directory, so that other
//! keepers detect it even while this one is not running. Go stolon has neither.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use base::{Chain, RandomBytes};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::postgres::data::atomic_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;
use crate::postgres::data::layout;
use crate::postgres::data::links;
use crate::postgres::data::owned_record::{KeeperHome, OwnedRecord, TablespaceDir, move_paths};
use crate::postgres::data::trees;

const FILE: &str = "directories";
const DAMAGED: &str = "the file is damaged: put back a copy of it, or remove it, and start the keeper again; without it \
                       tablespace directories are not known to be this keeper's, and nothing is made or removed";

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

/// The record, in memory and on disk.
#[derive(Debug)]
pub struct OwnedDirs {
    dir: PathBuf,
    saved: Mutex<OwnedRecord>,
    /// Held while the file is written. Readers of `saved` do not wait for the disk.
    writing: Mutex<()>,
    /// The file is damaged: nothing is recorded, and therefore nothing emptied, until it is repaired.
    is_damaged: bool,
    random: RandomBytes,
}

impl OwnedDirs {
    /// Reads the record in a keeper's data directory; a missing one is empty.
    pub fn load(dir: &Path, random: RandomBytes) -> Result<Self, OwnedError> {
        let path = dir.join(FILE);
        let mut is_damaged = false;
        let mut record: OwnedRecord = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|why| {
                error!(file = %path.display(), error = %Chain(&why), "{DAMAGED}");
                is_damaged = true;
                OwnedRecord::default()
            }),
            Err(gone) if gone.kind() == ErrorKind::NotFound => OwnedRecord::default(),
            Err(source) => return Err(OwnedError::Read { path, source }),
        };
        let is_new = record.id.is_empty();
        if is_new {
            record.id = name_of(random.bytes());
        }
        let owned = Self {
            dir: dir.to_owned(),
            saved: Mutex::new(record),
            writing: Mutex::default(),
            is_damaged,
            random,
        };
        if is_new && !is_damaged {
            // Saved before a name is derived from the id, so that the next start uses the same one.
            owned.save(&owned.record())?;
        }
        Ok(owned)
    }

    /// Returns the record.
    pub fn record(&self) -> OwnedRecord {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, OwnedRecord> {
        self.saved.lock().expect("no thread panics while holding the record")
    }

    /// Changes the record durably; an unchanged one is not written.
    pub fn change(&self, change: impl FnOnce(&mut OwnedRecord)) -> Result<(), FileError> {
        if self.is_damaged {
            return Err(FileError::new("change", self.dir.join(FILE))(io::Error::other(DAMAGED)));
        }
        let _writing = self.writing.lock().expect("no thread panics while writing the record");
        let before = self.record();
        let mut next = before.clone();
        change(&mut next);
        if next != before {
            self.save(&next)?;
            *self.lock() = next;
        }
        Ok(())
    }

    fn save(&self, record: &OwnedRecord) -> Result<(), FileError> {
        let path = self.dir.join(FILE);
        let json = serde_json::to_vec(record).map_err(|source| FileError::new("write", &path)(source.into()))?;
        trees::fail_point::check().map_err(FileError::new("write", &path))?;
        atomic_files::write_atomically(&path, &json)
    }

    /// Adopts the record for the keeper with this uid at its current path. The record of another keeper, or of a copied
    /// data directory, proves nothing: what it lists and what the links in the copy lead to does not belong to this
    /// keeper.
    pub fn adopt(&self, uid: &str) -> Result<(), FileError> {
        if self.is_damaged {
            return Ok(());
        }
        let record = self.record();
        let Some(home) = KeeperHome::of(&self.dir)? else {
            return Ok(());
        };
        let is_this_keeper = record.keeper.is_empty() || record.keeper == uid;
        let is_here = record.home.as_ref().is_none_or(|recorded| home.is_of(recorded));
        if is_this_keeper && is_here {
            return self.change(|record| {
                if let Some(before) = record.home.take().filter(|before| before.path != home.path) {
                    move_paths(record, &before.path, &home.path);
                }
                uid.clone_into(&mut record.keeper);
                record.home = Some(home);
            });
        }
        let not_ours = self.referenced_paths(&record)?;
        warn!(
            keeper = record.keeper, original = ?record.home.map(|home| home.path), copy = %self.dir.display(), ?not_ours,
            remedy = "if the original is gone for good, remove by hand what is not needed of these directories",
            "the data directory is a copy of another one: the directories outside it that it names are the original's, and \
             this keeper does not remove them"
        );
        self.change(|record| {
            *record = OwnedRecord {
                id: self.random_name(),
                keeper: uid.to_owned(),
                home: Some(home),
                not_ours,
                ..OwnedRecord::default()
            };
        })
    }

    /// Returns everything that the record lists outside the data directory, and the targets of PGDATA's links.
    fn referenced_paths(&self, record: &OwnedRecord) -> Result<Vec<PathBuf>, FileError> {
        let data = layout::data_of(&self.dir);
        // The targets of the links are not accessed: they may hang.
        let linked = match links::version_directory(&data)? {
            Some(directory) => links::locations(&data)?.iter().map(|at| at.join(&directory)).collect(),
            None => Vec::new(),
        };
        let mut paths: Vec<PathBuf> = record.tablespaces.iter().map(TablespaceDir::path).collect();
        paths.extend(linked);
        paths.extend(links::wal_of(&data, record.wal.clone(), &self.name(NEW_KIND))?);
        paths.extend(record.wal.clone());
        paths.extend(record.not_ours.clone());
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// Whether a path is inside the keeper's data directory.
    pub fn is_within(&self, path: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        path.starts_with(&self.dir) || real(path).starts_with(real(&self.dir))
    }

    /// Returns a file name for use outside the data directory that is unique to this keeper.
    pub fn name(&self, kind: &str) -> String {
        format!("{PREFIX}{}.{kind}", self.record().id)
    }

    /// Returns eight random characters.
    pub(crate) fn random_name(&self) -> String {
        name_of(self.random.bytes())
    }

    /// Writes the marker of this keeper into a location. The record is saved first: a marker without a record would
    /// count as another keeper's.
    pub fn put_marker(&self, location: &Path) -> Result<(), FileError> {
        let path = location.join(self.name(OWNER));
        let Some(identity) = DirIdentity::of(&self.dir)? else {
            return Ok(());
        };
        let marker = OwnerMarker {
            dir: self.dir.clone(),
            identity,
            keeper: self.record().keeper,
        };
        let json = serde_json::to_vec(&marker).map_err(|source| FileError::new("write", &path)(source.into()))?;
        if fs::read(&path).is_ok_and(|text| text == json) {
            return Ok(());
        }
        atomic_files::write_atomically(&path, &json)
    }

    /// Returns the path of this keeper's marker in a location.
    pub fn marker(&self, location: &Path) -> PathBuf {
        location.join(self.name(OWNER))
    }

    /// Whether this keeper's marker exists.
    pub fn has_marker(&self, location: &Path) -> bool {
        self.marker(location).exists()
    }

    /// Removes this keeper's marker from a location.
    pub fn remove_marker(&self, location: &Path) -> Result<(), FileError> {
        atomic_files::remove_if_there(&self.marker(location))
    }

    /// Returns the data directory of another keeper that has marked this location.
    pub fn other_keeper(&self, location: &Path) -> Result<Option<PathBuf>, FileError> {
        for path in inspect::entries(location)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !(name.starts_with(PREFIX) && name.ends_with(OWNER)) {
                continue;
            }
            let text = match fs::read(&path) {
                // A keeper that runs as another user.
                Err(denied) if denied.kind() == ErrorKind::PermissionDenied => return Ok(Some(path)),
                read => read.map_err(FileError::new("read", &path))?,
            };
            let marker: Option<OwnerMarker> = serde_json::from_slice(&text).ok();
            // Marker of this keeper before its data directory was lost: the data there have no owner any more.
            let is_former = |marker: &OwnerMarker| {
                let keeper = self.record().keeper;
                marker.dir == self.dir && marker.keeper == keeper && !keeper.is_empty()
            };
            if name != self.name(OWNER) && marker.as_ref().is_some_and(is_former) {
                continue;
            }
            if name != self.name(OWNER) {
                return Ok(Some(marker.map_or(path, |marker| marker.dir)));
            }
            // A copy of our directory has the same id; a moved directory is not at the path in the marker.
            if let Some(marker) = marker
                && DirIdentity::of(&self.dir)? != Some(marker.identity)
                && DirIdentity::of(&marker.dir)? == Some(marker.identity)
            {
                return Ok(Some(marker.dir));
            }
        }
        Ok(None)
    }
}

fn name_of(bytes: [u8; 4]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Contents of a marker file.
#[derive(Debug, Serialize, Deserialize)]
struct OwnerMarker {
    dir: PathBuf,
    #[serde(rename = "mark")]
    identity: DirIdentity,
    #[serde(default)]
    keeper: String,
}

const PREFIX: &str = "stolon-";
const OWNER: &str = "owner";
/// Suffix of the directories in which new data are created.
pub(crate) const NEW_KIND: &str = "new";
/// Suffix of what is set aside.
pub(crate) const OLD_KIND: &str = "old";

/// Whether this is the name of a directory in which a keeper creates new data.
pub(crate) fn is_new(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(_, kind)| kind == NEW_KIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_survives_a_restart_and_a_damaged_file_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let owned = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        owned.change(|record| record.wal = Some("/wal".into())).unwrap();
        let again = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        assert_eq!(again.record(), owned.record());
        // A healthy instance runs without the record, but nothing is changed.
        fs::write(dir.path().join(FILE), "{").unwrap();
        let damaged = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        let refused = damaged.change(|_| {}).unwrap_err();
        let refused = Chain(&refused).to_string();
        assert!(refused.contains("put back a copy of it, or remove it"), "{refused}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "{");
    }

    #[test]
    fn the_record_of_another_keeper_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let owned = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        owned.adopt("k1").unwrap();
        owned.change(|record| record.wal = Some("/wal/k1".into())).unwrap();
        owned.adopt("k1").unwrap();
        let before = owned.record();
        assert_eq!(before.wal, Some("/wal/k1".into()));
        owned.adopt("k2").unwrap();
        let after = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap().record();
        assert_eq!((after.wal.clone(), after.keeper.as_str()), (None, "k2"));
        assert_ne!(after.id, before.id);
        assert_eq!(after.not_ours, [Path::new("/wal/k1")]);
    }

    #[test]
    fn a_moved_directory_stays_its_keeper_s_and_a_copied_one_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, three] = ["one", "two", "three"].map(|name| dir.path().join(name));
        fs::create_dir(&one).unwrap();
        let taken = |at: &Path| {
            let owned = OwnedDirs::load(at, RandomBytes::system()).unwrap();
            owned.adopt("k1").unwrap();
            owned.record()
        };
        let first = OwnedDirs::load(&one, RandomBytes::system()).unwrap();
        first.adopt("k1").unwrap();
        first
            .change(|record| {
                record.wal = Some("/wal/k1".into());
                record.staging = vec![one.join("postgres/new"), "/ts/new".into()];
            })
            .unwrap();
        let first = first.record();
        fs::rename(&one, &two).unwrap();
        let moved = taken(&two);
        assert_eq!((&moved.id, &moved.wal), (&first.id, &first.wal));
        assert_eq!(moved.staging, [two.join("postgres/new"), "/ts/new".into()]);
        assert_eq!(taken(&two), moved, "the same directory again");

        // Restored from a backup at the same path.
        fs::create_dir(&three).unwrap();
        fs::copy(two.join(FILE), three.join(FILE)).unwrap();
        fs::rename(&two, &one).unwrap();
        fs::rename(&three, &two).unwrap();
        assert_eq!(taken(&two).id, first.id);

        // A copy beside it.
        fs::create_dir(&three).unwrap();
        fs::copy(two.join(FILE), three.join(FILE)).unwrap();
        let copied = taken(&three);
        assert_ne!(copied.id, first.id);
        assert_eq!((copied.wal, copied.staging), (None, Vec::new()));
        assert_eq!(copied.not_ours, [Path::new("/wal/k1")]);
        assert_eq!(taken(&three).not_ours, [Path::new("/wal/k1")], "at the next start too");
    }

    #[test]
    fn names_made_from_the_id_are_known_to_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let name = OwnedDirs::load(dir.path(), RandomBytes::system())
            .unwrap()
            .name(NEW_KIND);
        assert_eq!(
            OwnedDirs::load(dir.path(), RandomBytes::system())
                .unwrap()
                .name(NEW_KIND),
            name
        );
        assert!(is_new(name.as_ref()) && !is_new("stolon-1.old".as_ref()) && !is_new("new".as_ref()));
    }

    #[test]
    fn another_keeper_s_marker_is_detected_while_it_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, space) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("space"));
        for made in [&one, &two, &space] {
            fs::create_dir(made).unwrap();
        }
        let (mine, other) = (
            OwnedDirs::load(&one, RandomBytes::system()).unwrap(),
            OwnedDirs::load(&two, RandomBytes::system()).unwrap(),
        );
        mine.change(|record| record.wal = None).unwrap();
        mine.put_marker(&space).unwrap();
        assert_eq!(mine.other_keeper(&space).unwrap(), None);
        assert_eq!(other.other_keeper(&space).unwrap(), Some(one.clone()));
        other.put_marker(&space).unwrap();
        assert_eq!(mine.other_keeper(&space).unwrap(), Some(two));
        other.remove_marker(&space).unwrap();

        // The keeper's directory is lost and its tablespaces are not.
        mine.adopt("k1").unwrap();
        mine.put_marker(&space).unwrap();
        let record = fs::read(one.join(FILE)).unwrap();
        fs::remove_file(one.join(FILE)).unwrap();
        let anew = OwnedDirs::load(&one, RandomBytes::system()).unwrap();
        assert_eq!(anew.other_keeper(&space).unwrap(), Some(one.clone()));
        anew.adopt("k1").unwrap();
        assert_eq!(anew.other_keeper(&space).unwrap(), None);
        fs::write(one.join(FILE), record).unwrap();
        let mine = OwnedDirs::load(&one, RandomBytes::system()).unwrap();

        // A moved directory still belongs to the same keeper; a copy beside it does not.
        mine.change(|record| record.wal = Some("/w".into())).unwrap();
        let moved = dir.path().join("moved");
        fs::rename(&one, &moved).unwrap();
        assert_eq!(
            OwnedDirs::load(&moved, RandomBytes::system())
                .unwrap()
                .other_keeper(&space)
                .unwrap(),
            None
        );
        fs::create_dir(&one).unwrap();
        fs::copy(moved.join(FILE), one.join(FILE)).unwrap();
        fs::rename(&one, dir.path().join("copy")).unwrap();
        fs::rename(&moved, &one).unwrap();
        let copy = OwnedDirs::load(&dir.path().join("copy"), RandomBytes::system()).unwrap();
        assert_eq!(copy.other_keeper(&space).unwrap(), Some(one));
    }
}
