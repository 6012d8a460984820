//! Contents of the file `directories` in a keeper's data directory: what outside PGDATA belongs to this keeper. Reading,
//! saving and proving it is left to `owned_dirs`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;

/// Contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnedRecord {
    /// Random id, part of the names of everything that this keeper creates outside its data directory.
    pub id: String,
    /// Tablespace directories of the instance.
    pub tablespaces: Vec<TablespaceDir>,
    /// Target of `pg_wal` if it is a link.
    pub wal: Option<PathBuf>,
    /// Identity of that directory when it was recorded.
    #[serde(rename = "walMark")]
    pub wal_identity: Option<DirIdentity>,
    /// Uid of the keeper; empty in files of earlier versions.
    pub keeper: String,
    /// The keeper's data directory at the last start; `None` in files of earlier versions.
    pub home: Option<KeeperHome>,
    /// Targets of the links in a copied data directory: they belong to the original keeper until this keeper has
    /// created something there.
    pub not_ours: Vec<PathBuf>,
    /// Directories of unfinished data: below PGDATA, in tablespace locations, below the target of `pg_wal`.
    #[serde(rename = "making")]
    pub staging: Vec<PathBuf>,
    /// Previous data.
    pub old: Option<PreviousData>,
    /// Identity of the PGDATA that pg_rewind is changing: its content is neither the old nor the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewinding: Option<DirIdentity>,
}

/// Where a keeper's data directory is, and which one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeeperHome {
    /// Its canonical path.
    pub path: PathBuf,
    /// Its device number, which may change when the system is restarted.
    pub device: u64,
    /// Its identity.
    #[serde(rename = "mark")]
    pub identity: DirIdentity,
}

impl KeeperHome {
    pub(super) fn of(dir: &Path) -> Result<Option<Self>, FileError> {
        let Some(identity) = DirIdentity::of(dir)? else {
            return Ok(None);
        };
        let look = || Ok::<_, io::Error>((fs::canonicalize(dir)?, fs::metadata(dir)?.dev()));
        let (path, device) = look().map_err(FileError::new("look at", dir))?;
        Ok(Some(Self { path, device, identity }))
    }

    /// Whether this is the recorded directory: at the same path, for example restored from a backup, or moved.
    pub(super) fn is_of(&self, recorded: &Self) -> bool {
        let is_moved = self.identity == recorded.identity && self.identity.proves() && self.device == recorded.device;
        self.path == recorded.path || is_moved
    }
}

/// Directory of a tablespace in its location: of one major and catalog version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TablespaceDir {
    /// The location as in the catalog.
    pub location: PathBuf,
    /// Name of the directory in it, such as `PG_15_202209061`.
    pub directory: String,
    /// Its identity when it was recorded.
    #[serde(rename = "mark")]
    pub identity: DirIdentity,
}

impl TablespaceDir {
    /// Returns its path.
    pub fn path(&self) -> PathBuf {
        self.location.join(&self.directory)
    }
}

/// Previous data that were set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviousData {
    /// The db that replaces them.
    pub db: String,
    /// Their directory.
    pub directory: PathBuf,
    /// Entries of PGDATA were moved one by one because PGDATA is a link or a mount point.
    pub by_entries: bool,
    /// Their state.
    pub state: PreviousDataState,
    /// Their tablespaces.
    pub tablespaces: Vec<TablespaceDir>,
    /// Target of their `pg_wal`.
    pub wal: Option<PathBuf>,
}

/// State of previous data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PreviousDataState {
    /// Being moved: the contents of PGDATA are old.
    Moving,
    /// Moved to a directory with this identity: the contents of PGDATA are new, and their server has not answered yet.
    Kept(DirIdentity),
    /// Being removed: only PGDATA is valid.
    Dropping(DirIdentity),
}

/// Updates paths inside the keeper's data directory after it was moved.
pub(super) fn move_paths(record: &mut OwnedRecord, from: &Path, to: &Path) {
    let moved = |path: &mut PathBuf| {
        if let Ok(below) = path.strip_prefix(from) {
            *path = to.join(below);
        }
    };
    record.staging.iter_mut().for_each(moved);
    if let Some(old) = &mut record.old {
        moved(&mut old.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_record_is_read_and_written_back_unchanged() {
        const STORED: &str = r#"{"id":"0a","tablespaces":[{"location":"/ts","directory":"PG_15_1","mark":{"inode":2,"born":3}}],"wal":"/wal","walMark":{"inode":4,"born":5},"keeper":"k1","home":{"path":"/k1","device":6,"mark":{"inode":7,"born":8}},"notOurs":[],"making":[],"old":{"db":"d","directory":"/k1/old","byEntries":false,"state":{"kept":{"inode":9,"born":10}},"tablespaces":[],"wal":null}}"#;
        let record: OwnedRecord = serde_json::from_str(STORED).unwrap();
        assert!(record.wal_identity.is_some_and(DirIdentity::proves));
        assert_eq!(serde_json::to_string(&record).unwrap(), STORED);
    }
}
