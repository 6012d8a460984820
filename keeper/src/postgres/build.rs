//! Where pg_basebackup and initdb write, and how the result comes to its place. Both refuse directories that are not
//! empty, and a directory that other things lie in, or that is a mount point, can only be filled from below.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::places::{Place, PlaceKind};
use crate::postgres::aside;
use crate::postgres::files::FileError;
use crate::postgres::owned::{NEW, Owned, Space};
use crate::postgres::trees;

/// A set of directories that a program fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    data: PathBuf,
    made_in: PathBuf,
    wal: Option<Moved>,
    spaces: Vec<MovedSpace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    made_in: PathBuf,
    goes_to: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MovedSpace {
    made_in: PathBuf,
    location: PathBuf,
    directory: String,
}

impl Build {
    /// Into PGDATA itself, with nothing elsewhere.
    pub fn plain(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            made_in: data.to_owned(),
            wal: None,
            spaces: Vec::new(),
        }
    }

    /// Empty directories for PGDATA and these places, all of which were cleared before. They are recorded first; the one
    /// below PGDATA means, as long as it is there, that PGDATA is unfinished.
    pub fn prepare(data: &Path, owned: &Owned, places: &[Place]) -> Result<Self, FileError> {
        if data.is_symlink() && !data.is_dir() {
            let missing = std::io::Error::other("it is a link to a directory that is not there; is it mounted?");
            return Err(FileError::new("write into", data)(missing));
        }
        let new = owned.name(NEW);
        if let Some(entry) = aside::content(data, owned)? {
            let found = std::io::Error::other(format!("{} is in it", entry.display()));
            return Err(FileError::new("make a database in", data)(found));
        }
        let made_in = data.join(&new);
        let mut spaces = Vec::new();
        for place in places {
            let PlaceKind::Tablespace { directory } = &place.kind else {
                continue;
            };
            let made_in = place.path.join(&new);
            spaces.push(MovedSpace {
                made_in,
                location: place.path.clone(),
                directory: directory.clone(),
            });
        }
        let wal = owned.record().wal.map(|goes_to| Moved {
            made_in: goes_to.join(&new),
            goes_to,
        });
        let build = Self {
            data: data.to_owned(),
            made_in,
            wal,
            spaces,
        };
        build.create(owned)?;
        Ok(build)
    }

    fn create(&self, owned: &Owned) -> Result<(), FileError> {
        let spaces = self.spaces.iter().map(|space| space.made_in.clone());
        let mut making: Vec<PathBuf> = spaces.chain([self.made_in.clone()]).collect();
        let wal = self.wal.iter().map(|wal| wal.made_in.clone());
        owned.change(|record| record.making = making.iter().cloned().chain(wal.clone()).collect())?;
        for space in &self.spaces {
            owned.put_marker(&space.location)?;
        }
        for dir in making.drain(..) {
            trees::remove(&dir)?;
            trees::create(&dir)?;
        }
        for wal in wal {
            trees::remove(&wal)?; // pg_basebackup and initdb make it
        }
        trees::sync(&self.data)
    }

    /// The directory for `-D`.
    pub fn directory(&self) -> &Path {
        &self.made_in
    }

    /// The options that lead WAL and tablespaces where they are made.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(wal) = &self.wal {
            options.push(format!("--waldir={}", wal.made_in.display()));
        }
        for space in &self.spaces {
            let (from, to) = (escape(&space.location), escape(&space.made_in));
            options.push(format!("--tablespace-mapping={from}={to}"));
        }
        options
    }

    /// Removes what a program that failed has left.
    pub fn discard(&self) -> Result<(), FileError> {
        if let Some(wal) = &self.wal {
            trees::remove(&wal.made_in)?;
        }
        for space in &self.spaces {
            trees::remove(&space.made_in)?;
        }
        if self.made_in == self.data {
            aside::remove_data(&self.data)
        } else {
            trees::remove(&self.made_in)
        }
    }

    /// Moves what was made to its place; a crash before the end leaves an attempt that is made again.
    pub fn finish(&self, owned: &Owned) -> Result<(), FileError> {
        if let Some(wal) = &self.wal {
            trees::move_entries(&wal.made_in, &wal.goes_to, |_| true)?;
            trees::remove(&wal.made_in)?;
            replace_link(&self.made_in.join("pg_wal"), &wal.goes_to)?;
            owned.change(|record| record.not_ours.retain(|path| *path != wal.goes_to))?;
        }
        for space in &self.spaces {
            self.finish_space(owned, space)?;
        }
        if self.made_in != self.data {
            trees::move_entries(&self.made_in, &self.data, |_| true)?;
            trees::remove(&self.made_in)?;
        }
        trees::sync(&self.data)?;
        owned.change(|record| record.making.clear())
    }

    fn finish_space(&self, owned: &Owned, space: &MovedSpace) -> Result<(), FileError> {
        let made = space.made_in.join(&space.directory);
        if let Some(mark) = trees::mark(&made)? {
            let recorded = Space {
                location: space.location.clone(),
                directory: space.directory.clone(),
                mark,
            };
            owned.change(|record| {
                record.tablespaces.retain(|known| known.path() != recorded.path());
                record.tablespaces.push(recorded.clone());
                record.not_ours.retain(|path| *path != recorded.path());
            })?;
            owned.put_marker(&space.location)?;
            trees::rename_to_free(&made, &recorded.path())?;
        }
        trees::remove(&space.made_in)?;
        for link in trees::entries(&self.made_in.join("pg_tblspc"))? {
            if fs::read_link(&link).is_ok_and(|target| target == space.made_in) {
                replace_link(&link, &space.location)?;
            }
        }
        Ok(())
    }
}

/// `=` parts the two directories of a mapping (pg_basebackup's manual page).
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('=', "\\=")
}

fn replace_link(link: &Path, target: &Path) -> Result<(), FileError> {
    trees::remove(link)?;
    symlink(target, link).map_err(FileError::new("link", link))?;
    link.parent().map_or(Ok(()), trees::sync)
}
