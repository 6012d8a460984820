//! Staging directories for pg_basebackup and initdb, and moving the result to its place. Both refuse directories that
//! are not empty, and a directory with other contents, or a mount point, can only be filled by moving entries into it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::external_dirs::{ExternalDir, ExternalDirKind};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;
use crate::postgres::data::owned_dirs::{NEW_KIND, OwnedDirs};
use crate::postgres::data::owned_record::TablespaceDir;
use crate::postgres::data::pgdata;
use crate::postgres::data::trees;

/// Directories that a program fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedData {
    data: PathBuf,
    staging: PathBuf,
    wal: Option<StagedWal>,
    tablespaces: Vec<StagedTablespace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct StagedWal {
    staging: PathBuf,
    target: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct StagedTablespace {
    staging: PathBuf,
    location: PathBuf,
    directory: String,
}

impl StagedData {
    /// Creates empty staging directories for PGDATA and these external directories, all of which were cleared before.
    /// They are recorded first; while the one in PGDATA exists, PGDATA is unfinished.
    pub fn prepare(data: &Path, owned: &OwnedDirs, external_dirs: &[ExternalDir]) -> Result<Self, FileError> {
        if data.is_symlink() && !data.is_dir() {
            let missing = std::io::Error::other("it is a link to a directory that is not there; is it mounted?");
            return Err(FileError::new("write into", data)(missing));
        }
        let new = owned.name(NEW_KIND);
        if let Some(entry) = pgdata::content(data, owned)? {
            let found = std::io::Error::other(format!("{} is in it", entry.display()));
            return Err(FileError::new("make a database in", data)(found));
        }
        let staging = data.join(&new);
        let mut tablespaces = Vec::new();
        for external_dir in external_dirs {
            let ExternalDirKind::Tablespace { directory } = &external_dir.kind else {
                continue;
            };
            let staging = external_dir.path.join(&new);
            tablespaces.push(StagedTablespace {
                staging,
                location: external_dir.path.clone(),
                directory: directory.clone(),
            });
        }
        let wal = owned.record().wal.map(|target| StagedWal {
            staging: target.join(&new),
            target,
        });
        let staged = Self {
            data: data.to_owned(),
            staging,
            wal,
            tablespaces,
        };
        staged.create(owned)?;
        Ok(staged)
    }

    fn create(&self, owned: &OwnedDirs) -> Result<(), FileError> {
        let tablespaces = self.tablespaces.iter().map(|tablespace| tablespace.staging.clone());
        let mut dirs: Vec<PathBuf> = tablespaces.chain([self.staging.clone()]).collect();
        let wal = self.wal.iter().map(|wal| wal.staging.clone());
        owned.change(|record| record.staging = dirs.iter().cloned().chain(wal.clone()).collect())?;
        for tablespace in &self.tablespaces {
            owned.put_marker(&tablespace.location)?;
        }
        for dir in dirs.drain(..) {
            trees::remove(&dir)?;
            trees::create(&dir)?;
        }
        for wal in wal {
            trees::remove(&wal)?; // pg_basebackup and initdb create it
        }
        trees::sync(&self.data)
    }

    /// Moves WAL that was made in the directory of the data to the directory for WAL, if there is one: what has filled
    /// the former need not know of the latter. It was made as a directory.
    pub fn place_wal(&self) -> Result<(), FileError> {
        let made = self.staging.join("pg_wal");
        let Some(wal) = &self.wal else { return Ok(()) };
        trees::copy(&made, &wal.staging)?; // it may be on another file system
        replace_link(&made, &wal.staging)
    }

    /// Returns the directory for `-D`.
    pub fn directory(&self) -> &Path {
        &self.staging
    }

    /// Returns the options for the staging directories of WAL and tablespaces.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(wal) = &self.wal {
            options.push(format!("--waldir={}", wal.staging.display()));
        }
        for tablespace in &self.tablespaces {
            let (from, to) = (escape(&tablespace.location), escape(&tablespace.staging));
            options.push(format!("--tablespace-mapping={from}={to}"));
        }
        options
    }

    /// Removes the leftovers of a failed program.
    pub fn discard(&self) -> Result<(), FileError> {
        if let Some(wal) = &self.wal {
            trees::remove(&wal.staging)?;
        }
        for tablespace in &self.tablespaces {
            trees::remove(&tablespace.staging)?;
        }
        trees::remove(&self.staging)
    }

    /// Moves the result to its place. A crash before the end leaves unfinished data, which are created again.
    pub fn finish(&self, owned: &OwnedDirs) -> Result<(), FileError> {
        if let Some(wal) = &self.wal {
            trees::move_entries(&wal.staging, &wal.target, |_| true)?;
            trees::remove(&wal.staging)?;
            replace_link(&self.staging.join("pg_wal"), &wal.target)?;
            owned.change(|record| record.not_ours.retain(|path| *path != wal.target))?;
        }
        for tablespace in &self.tablespaces {
            self.finish_tablespace(owned, tablespace)?;
        }
        trees::move_entries(&self.staging, &self.data, |_| true)?;
        trees::remove(&self.staging)?;
        trees::sync(&self.data)?;
        owned.change(|record| record.staging.clear())
    }

    fn finish_tablespace(&self, owned: &OwnedDirs, tablespace: &StagedTablespace) -> Result<(), FileError> {
        let made = tablespace.staging.join(&tablespace.directory);
        if let Some(identity) = DirIdentity::of(&made)? {
            let recorded = TablespaceDir {
                location: tablespace.location.clone(),
                directory: tablespace.directory.clone(),
                identity,
            };
            owned.change(|record| {
                record.tablespaces.retain(|known| known.path() != recorded.path());
                record.tablespaces.push(recorded.clone());
                record.not_ours.retain(|path| *path != recorded.path());
            })?;
            owned.put_marker(&tablespace.location)?;
            trees::rename_to_free(&made, &recorded.path())?;
        }
        trees::remove(&tablespace.staging)?;
        for link in inspect::entries(&self.staging.join("pg_tblspc"))? {
            if fs::read_link(&link).is_ok_and(|target| target == tablespace.staging) {
                replace_link(&link, &tablespace.location)?;
            }
        }
        Ok(())
    }
}

/// `=` separates the two directories of a mapping (pg_basebackup's manual page).
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('=', "\\=")
}

fn replace_link(link: &Path, target: &Path) -> Result<(), FileError> {
    trees::remove(link)?;
    symlink(target, link).map_err(FileError::new("link", link))?;
    link.parent().map_or(Ok(()), trees::sync)
}
