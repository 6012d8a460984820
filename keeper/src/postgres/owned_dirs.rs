//! What this keeper has made outside PGDATA, as recorded in its directory and marked where it lies: nothing that is not
//! provably its own is removed.
//!
//! Two records must agree. The file `directories` in the keeper's directory names each directory with its inode and
//! time of creation. A marker file in the tablespace's location names this keeper's directory, so that a keeper that
//! does not run now is seen by the others. Neither is known to the reference.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use control::telemetry::Chain;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::postgres::files::{self, FileError};
use crate::postgres::layout;
use crate::postgres::links;
use crate::postgres::trees::{self, DirMark};

const FILE: &str = "directories";
const DAMAGED: &str = "the file is damaged: put back a copy of it, or remove it, and start the keeper again; without it \
                       tablespace directories are not known to be this keeper's, and nothing is made or removed";

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
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnedRecord {
    /// Random; part of the names of everything that this keeper makes outside its directory.
    pub id: String,
    /// The tablespace directories of the instance.
    pub tablespaces: Vec<TablespaceDir>,
    /// Where `pg_wal` leads, when it is a link.
    pub wal: Option<PathBuf>,
    /// Which directory that was when it was recorded.
    pub wal_mark: Option<DirMark>,
    /// The uid of the keeper; empty when it was recorded before this was.
    pub keeper: String,
    /// Where the keeper's directory was at the last start; absent when it was recorded before this was.
    pub home: Option<KeeperDirIdentity>,
    /// Tablespace directories and the target of `pg_wal` to which the links of a copied directory lead: they are the
    /// original's, until this keeper has made something there itself.
    pub not_ours: Vec<PathBuf>,
    /// Directories in which new data are being made: below PGDATA, in tablespaces' locations, below `pg_wal`.
    pub making: Vec<PathBuf>,
    /// Data that were set aside until what replaces them has answered.
    pub old: Option<PreviousData>,
}

/// Which directory is a keeper's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeeperDirIdentity {
    /// Its path, without links.
    pub path: PathBuf,
    /// The device that it lies on; it may have another number after a restart of the system.
    pub device: u64,
    /// Which directory of that it is.
    pub mark: DirMark,
}

impl KeeperDirIdentity {
    fn of(dir: &Path) -> Result<Option<Self>, FileError> {
        let Some(mark) = trees::mark(dir)? else {
            return Ok(None);
        };
        let look = || Ok::<_, io::Error>((fs::canonicalize(dir)?, fs::metadata(dir)?.dev()));
        let (path, device) = look().map_err(FileError::new("look at", dir))?;
        Ok(Some(Self { path, device, mark }))
    }

    /// Whether this is the directory that was recorded: at the same path, as after a restored backup, or moved.
    fn is_of(&self, recorded: &Self) -> bool {
        let is_moved = self.mark == recorded.mark && self.mark.proves() && self.device == recorded.device;
        self.path == recorded.path || is_moved
    }
}

/// What a tablespace has in its location: the directory of one major and catalog version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TablespaceDir {
    /// The location, as the catalog has it.
    pub location: PathBuf,
    /// Name of the directory in it: `PG_15_202209061`.
    pub directory: String,
    /// Which directory it was when it was recorded.
    pub mark: DirMark,
}

impl TablespaceDir {
    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.location.join(&self.directory)
    }
}

/// Data that were set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviousData {
    /// The db that replaces them.
    pub db: String,
    /// Where they are.
    pub directory: PathBuf,
    /// PGDATA's entries were moved one by one, because PGDATA is a link or a mount point.
    pub by_entries: bool,
    /// How far they are.
    pub state: PreviousDataState,
    /// Their tablespaces.
    pub tablespaces: Vec<TablespaceDir>,
    /// Where their `pg_wal` leads.
    pub wal: Option<PathBuf>,
}

/// How far a set of old data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PreviousDataState {
    /// Being moved: what lies in PGDATA is old.
    Moving,
    /// Moved, to a directory with this mark: what lies in PGDATA is new, and its server has not answered yet.
    Kept(DirMark),
    /// Being removed: PGDATA is what counts.
    Dropping(DirMark),
}

/// The record, in memory and on disk together.
#[derive(Debug)]
pub struct OwnedDirs {
    dir: PathBuf,
    saved: Mutex<OwnedRecord>,
    /// The file is damaged: nothing is recorded, and so nothing is emptied, before it is mended.
    is_damaged: bool,
}

impl OwnedDirs {
    /// Reads the record of a keeper's directory; a missing one is empty.
    pub fn load(dir: &Path) -> Result<Self, OwnedError> {
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
            record.id = random_name();
        }
        let owned = Self {
            dir: dir.to_owned(),
            saved: Mutex::new(record),
            is_damaged,
        };
        if is_new && !is_damaged {
            // Before anything gets a name made from it: the next start must know that name.
            owned.save(&owned.record())?;
        }
        Ok(owned)
    }

    /// What is recorded.
    pub fn record(&self) -> OwnedRecord {
        self.saved
            .lock()
            .expect("nobody panics while holding the record")
            .clone()
    }

    /// Changes the record durably; nothing is written when nothing changes.
    pub fn change(&self, change: impl FnOnce(&mut OwnedRecord)) -> Result<(), FileError> {
        if self.is_damaged {
            return Err(FileError::new("change", self.dir.join(FILE))(io::Error::other(DAMAGED)));
        }
        let mut saved = self.saved.lock().expect("nobody panics while holding the record");
        let mut next = saved.clone();
        change(&mut next);
        if next != *saved {
            self.save(&next)?;
            *saved = next;
        }
        Ok(())
    }

    fn save(&self, record: &OwnedRecord) -> Result<(), FileError> {
        let path = self.dir.join(FILE);
        let json = serde_json::to_vec(record).map_err(|source| FileError::new("write", &path)(source.into()))?;
        trees::cut::step().map_err(FileError::new("write", &path))?;
        files::write_atomically(&path, &json)
    }

    /// Takes the record for the keeper with this uid, in the directory where it is now. That of another keeper, or of
    /// this one's directory elsewhere, which was copied, proves nothing here: neither what it names nor what the links in
    /// the copy lead to is this keeper's.
    pub fn adopt(&self, uid: &str) -> Result<(), FileError> {
        if self.is_damaged {
            return Ok(());
        }
        let record = self.record();
        let Some(home) = KeeperDirIdentity::of(&self.dir)? else {
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
            keeper = record.keeper, directory = ?record.home.map(|home| home.path), ?not_ours,
            "the data directory is a copy of another one: what it names outside is not removed by this keeper"
        );
        self.change(|record| {
            *record = OwnedRecord {
                id: random_name(),
                keeper: uid.to_owned(),
                home: Some(home),
                not_ours,
                ..OwnedRecord::default()
            };
        })
    }

    /// All that the record names outside the keeper's directory, and what the links of PGDATA lead to.
    fn referenced_paths(&self, record: &OwnedRecord) -> Result<Vec<PathBuf>, FileError> {
        let data = layout::data_of(&self.dir);
        // Without a look at what the links lead to: it may not answer.
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

    /// Whether a path lies in the keeper's directory, or beside PGDATA in it.
    pub fn is_within(&self, path: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        path.starts_with(&self.dir) || real(path).starts_with(real(&self.dir))
    }

    /// A name in a directory outside the keeper's that nobody else uses.
    pub fn name(&self, kind: &str) -> String {
        format!("{PREFIX}{}.{kind}", self.record().id)
    }

    /// Marks a location as one that this keeper's instance uses. The record is saved first: a marker without a record
    /// would be a stranger's.
    pub fn put_marker(&self, location: &Path) -> Result<(), FileError> {
        let path = location.join(self.name(OWNER));
        let Some(mark) = trees::mark(&self.dir)? else {
            return Ok(());
        };
        let marker = OwnerMarker {
            dir: self.dir.clone(),
            mark,
            keeper: self.record().keeper,
        };
        let json = serde_json::to_vec(&marker).map_err(|source| FileError::new("write", &path)(source.into()))?;
        if fs::read(&path).is_ok_and(|text| text == json) {
            return Ok(());
        }
        files::write_atomically(&path, &json)
    }

    /// Where the own marker of a location is.
    pub fn marker(&self, location: &Path) -> PathBuf {
        location.join(self.name(OWNER))
    }

    /// Whether the own marker is there.
    pub fn has_marker(&self, location: &Path) -> bool {
        self.marker(location).exists()
    }

    /// Removes the own marker from a location.
    pub fn remove_marker(&self, location: &Path) -> Result<(), FileError> {
        files::remove_if_there(&self.marker(location))
    }

    /// The directory of another keeper that has marked this location; `None` when there is none.
    pub fn other_keeper(&self, location: &Path) -> Result<Option<PathBuf>, FileError> {
        for path in trees::entries(location)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !(name.starts_with(PREFIX) && name.ends_with(OWNER)) {
                continue;
            }
            let text = match fs::read(&path) {
                // Of a keeper that runs as another user.
                Err(denied) if denied.kind() == ErrorKind::PermissionDenied => return Ok(Some(path)),
                read => read.map_err(FileError::new("read", &path))?,
            };
            let marker: Option<OwnerMarker> = serde_json::from_slice(&text).ok();
            // Of this keeper before its directory was lost: what lies there is nobody's any more.
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

/// After a move of the keeper's directory: what lies in it has other paths.
fn move_paths(record: &mut OwnedRecord, from: &Path, to: &Path) {
    let moved = |path: &mut PathBuf| {
        if let Ok(below) = path.strip_prefix(from) {
            *path = to.join(below);
        }
    };
    record.making.iter_mut().for_each(moved);
    if let Some(old) = &mut record.old {
        moved(&mut old.directory);
    }
}

/// What a marker file says.
#[derive(Debug, Serialize, Deserialize)]
struct OwnerMarker {
    dir: PathBuf,
    mark: DirMark,
    #[serde(default)]
    keeper: String,
}

const PREFIX: &str = "stolon-";
const OWNER: &str = "owner";
/// Ending of the name of a directory in which something new is made.
pub(crate) const NEW_KIND: &str = "new";

/// Whether this is the name of a directory in which a keeper makes something new.
pub(crate) fn is_new(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(_, kind)| kind == NEW_KIND)
}

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
        let owned = OwnedDirs::load(dir.path()).unwrap();
        owned.change(|record| record.wal = Some("/wal".into())).unwrap();
        let again = OwnedDirs::load(dir.path()).unwrap();
        assert_eq!(again.record(), owned.record());
        // A healthy instance runs without it, but nothing is changed.
        fs::write(dir.path().join(FILE), "{").unwrap();
        let damaged = OwnedDirs::load(dir.path()).unwrap();
        let refused = damaged.change(|_| {}).unwrap_err();
        let refused = Chain(&refused).to_string();
        assert!(refused.contains("put back a copy of it, or remove it"), "{refused}");
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "{");
    }

    #[test]
    fn the_record_of_another_keeper_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let owned = OwnedDirs::load(dir.path()).unwrap();
        owned.adopt("k1").unwrap();
        owned.change(|record| record.wal = Some("/wal/k1".into())).unwrap();
        owned.adopt("k1").unwrap();
        let before = owned.record();
        assert_eq!(before.wal, Some("/wal/k1".into()));
        owned.adopt("k2").unwrap();
        let after = OwnedDirs::load(dir.path()).unwrap().record();
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
            let owned = OwnedDirs::load(at).unwrap();
            owned.adopt("k1").unwrap();
            owned.record()
        };
        let first = OwnedDirs::load(&one).unwrap();
        first.adopt("k1").unwrap();
        first
            .change(|record| {
                record.wal = Some("/wal/k1".into());
                record.making = vec![one.join("postgres/new"), "/ts/new".into()];
            })
            .unwrap();
        let first = first.record();
        fs::rename(&one, &two).unwrap();
        let moved = taken(&two);
        assert_eq!((&moved.id, &moved.wal), (&first.id, &first.wal));
        assert_eq!(moved.making, [two.join("postgres/new"), "/ts/new".into()]);
        assert_eq!(taken(&two), moved, "the same directory again");

        // Restored from a backup at its place.
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
        assert_eq!((copied.wal, copied.making), (None, Vec::new()));
        assert_eq!(copied.not_ours, [Path::new("/wal/k1")]);
        assert_eq!(taken(&three).not_ours, [Path::new("/wal/k1")], "at the next start too");
    }

    #[test]
    fn names_made_from_the_id_are_known_to_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let name = OwnedDirs::load(dir.path()).unwrap().name(NEW_KIND);
        assert_eq!(OwnedDirs::load(dir.path()).unwrap().name(NEW_KIND), name);
        assert!(is_new(name.as_ref()) && !is_new("stolon-1.old".as_ref()) && !is_new("new".as_ref()));
    }

    #[test]
    fn another_keeper_s_marker_is_seen_though_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, space) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("space"));
        for made in [&one, &two, &space] {
            fs::create_dir(made).unwrap();
        }
        let (mine, other) = (OwnedDirs::load(&one).unwrap(), OwnedDirs::load(&two).unwrap());
        mine.change(|record| record.wal = None).unwrap();
        mine.put_marker(&space).unwrap();
        assert_eq!(mine.other_keeper(&space).unwrap(), None);
        assert_eq!(other.other_keeper(&space).unwrap(), Some(one.clone()));
        other.put_marker(&space).unwrap();
        assert_eq!(mine.other_keeper(&space).unwrap(), Some(two));
        other.remove_marker(&space).unwrap();

        // The keeper's directory was lost, and its tablespaces were not.
        mine.adopt("k1").unwrap();
        mine.put_marker(&space).unwrap();
        let record = fs::read(one.join(FILE)).unwrap();
        fs::remove_file(one.join(FILE)).unwrap();
        let anew = OwnedDirs::load(&one).unwrap();
        assert_eq!(anew.other_keeper(&space).unwrap(), Some(one.clone()));
        anew.adopt("k1").unwrap();
        assert_eq!(anew.other_keeper(&space).unwrap(), None);
        fs::write(one.join(FILE), record).unwrap();
        let mine = OwnedDirs::load(&one).unwrap();

        // A moved directory is still the same keeper's; a copy beside it is another one.
        mine.change(|record| record.wal = Some("/w".into())).unwrap();
        let moved = dir.path().join("moved");
        fs::rename(&one, &moved).unwrap();
        assert_eq!(OwnedDirs::load(&moved).unwrap().other_keeper(&space).unwrap(), None);
        fs::create_dir(&one).unwrap();
        fs::copy(moved.join(FILE), one.join(FILE)).unwrap();
        fs::rename(&one, dir.path().join("copy")).unwrap();
        fs::rename(&moved, &one).unwrap();
        let copy = OwnedDirs::load(&dir.path().join("copy")).unwrap();
        assert_eq!(copy.other_keeper(&space).unwrap(), Some(one));
    }
}
