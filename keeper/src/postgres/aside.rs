//! Old data until the new are complete: PGDATA, with its tablespaces and WAL, is moved aside where there is room for
//! both, and removed once the new data are recorded as complete. At most one set of old data is kept.
//!
//! Each step is recorded before it is done, so that the next start, after a crash at any point, goes on from there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::places::{Clear, PlaceKind, judge};
use crate::postgres::files::{self, FileError};
use crate::postgres::owned::{NEW, Old, Owned, Space, random_name};
use crate::postgres::survey::{self, is_of_wal};
use crate::postgres::trees;

/// What became of the old data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleared {
    /// There were none that are whole; what was half made is removed.
    NothingWhole,
    /// They are kept here until the new data are complete.
    SetAside(PathBuf),
    /// There was no room for both.
    Removed,
}

/// Too little room for old and new data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shortage {
    path: PathBuf,
    needed: u64,
    free: u64,
}

/// Moves whole data aside or removes them, and removes what is half made. No server may run, and the caller has
/// recorded that the data are being made again (keeper I4).
pub fn clear(data: &Path, owned: &Owned, clear: &Clear) -> Result<Cleared, FileError> {
    if let Some(mounted) = trees::mounted_below(data)? {
        let why = "a file system is mounted there: make it a link to a directory of that file system";
        return Err(FileError::new("move or remove", mounted)(std::io::Error::other(why)));
    }
    finish_moving(data, owned)?;
    let is_whole = files::is_initialised(data)?;
    // Old data that were set aside for this db are older than what lies in PGDATA, which is a copy that broke off.
    let is_of_this = owned.record().old.is_some_and(|old| old.db == clear.db);
    let own = own_places(data, owned, clear)?;
    let mut cleared = Cleared::NothingWhole;
    if is_whole && !is_of_this {
        drop_old(owned)?;
        match shortage(data, clear)? {
            None => {
                let directory = set_aside(data, owned, clear, &own)?;
                return Ok(Cleared::SetAside(directory));
            }
            Some(Shortage { path, needed, free }) => {
                warn!(path = %path.display(), needed, free, "no room to keep the old data until the new are complete, removing them first");
                cleared = Cleared::Removed;
            }
        }
    }
    remove(data, owned, &own)?;
    for place in &clear.places {
        trees::remove(&place.path.join(owned.name(NEW)))?;
    }
    if owned.record().old.is_some()
        && let Some(Shortage { path, needed, free }) = shortage(data, clear)?
    {
        warn!(path = %path.display(), needed, free, "no room any more to keep the old data until the new are complete, removing them");
        drop_old(owned)?;
        cleared = Cleared::Removed;
    }
    Ok(cleared)
}

/// Removes what was set aside, once the new data are recorded as complete.
pub fn drop_old(owned: &Owned) -> Result<(), FileError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    if !old.is_complete {
        return Ok(());
    }
    info!(directory = %old.directory.display(), "removing the old data");
    for space in &old.tablespaces {
        if trees::mark(&space.path())? == Some(space.mark) {
            trees::remove(&space.path())?;
        }
    }
    if let Some(wal) = &old.wal {
        trees::remove(&wal.join(owned.name(OLD)))?;
    }
    // A directory that was put in its place meanwhile is not ours.
    if old.by_entries || trees::mark(&old.directory)? == Some(old.mark) {
        trees::remove(&old.directory)?;
    }
    owned.change(|record| record.old = None)
}

const OLD: &str = "old";

/// The tablespaces that go with the old data: the places of the new ones, and others that are provably ours.
fn own_places(data: &Path, owned: &Owned, clear: &Clear) -> Result<Vec<Space>, FileError> {
    let mut spaces = Vec::new();
    for place in survey::own_places(data, owned)? {
        let PlaceKind::Tablespace { directory } = &place.kind else {
            continue;
        };
        let path = place.path.join(directory);
        let is_wanted = clear.places.iter().any(|wanted| wanted.path == place.path);
        match (judge(&place.found), trees::mark(&path)?) {
            (Ok(()), Some(mark)) => spaces.push(Space {
                location: place.path,
                directory: directory.clone(),
                mark,
            }),
            (Ok(()), None) => {}
            (Err(why), _) if !is_wanted => {
                warn!(directory = %path.display(), %why, "leaving a tablespace directory as it is");
            }
            (Err(why), _) => {
                return Err(FileError::new("empty", path)(std::io::Error::other(why.to_string())));
            }
        }
    }
    Ok(spaces)
}

/// What the new data need beside the old ones, by file system; a tenth more, because sizes are estimates.
fn shortage(data: &Path, clear: &Clear) -> Result<Option<Shortage>, FileError> {
    let in_data = clear.bytes.unwrap_or_else(|| trees::size(data));
    let mut demands = vec![(data.to_owned(), in_data)];
    demands.extend(clear.places.iter().map(|place| (place.path.clone(), place.bytes)));
    let demands = demands.into_iter().map(|(path, bytes)| {
        let (device, free) = trees::room(&path)?;
        Ok((device, path, bytes, free))
    });
    Ok(first_shortage(&demands.collect::<Result<Vec<_>, FileError>>()?))
}

/// The first file system that has not room for what will be written to it: device, path, bytes needed, bytes free.
fn first_shortage(demands: &[(u64, PathBuf, u64, u64)]) -> Option<Shortage> {
    demands.iter().find_map(|(device, path, _, free)| {
        let on_it = demands.iter().filter(|(other, ..)| other == device);
        let bytes = on_it.fold(0_u64, |sum, (_, _, bytes, _)| sum.saturating_add(*bytes));
        let needed = bytes.saturating_add(bytes / 10).saturating_add(RESERVE_BYTES);
        (needed > *free).then(|| Shortage {
            path: path.clone(),
            needed,
            free: *free,
        })
    })
}

/// WAL that is written while a copy is under way, at least.
const RESERVE_BYTES: u64 = 64 << 20;

fn set_aside(data: &Path, owned: &Owned, clear: &Clear, spaces: &[Space]) -> Result<PathBuf, FileError> {
    let Some(mark) = trees::mark(data)? else {
        return Err(FileError::new("look at", data)(std::io::ErrorKind::NotFound.into()));
    };
    let by_entries = !trees::is_movable(data);
    let directory = if by_entries {
        data.join(owned.name(OLD))
    } else {
        let mut name = data.file_name().unwrap_or_default().to_owned();
        name.push(format!(".old-{}", random_name()));
        data.with_file_name(name)
    };
    for space in spaces {
        // What an earlier set left, if anything: its name is this keeper's alone.
        trees::remove(&space.location.join(owned.name(OLD)))?;
    }
    let wal = survey::wal_of(data, owned)?;
    if let Some(wal) = &wal {
        trees::remove(&wal.join(owned.name(OLD)))?;
    }
    let old = Old {
        db: clear.db.clone(),
        directory: directory.clone(),
        by_entries,
        is_complete: false,
        mark,
        tablespaces: spaces.to_vec(),
        wal,
    };
    owned.change(|record| {
        record.wal.clone_from(&old.wal);
        record.old = Some(old);
    })?;
    finish_moving(data, owned)?;
    Ok(directory)
}

/// Moves what of the recorded old data is not moved yet.
fn finish_moving(data: &Path, owned: &Owned) -> Result<(), FileError> {
    let Some(old) = owned.record().old.filter(|old| !old.is_complete) else {
        return Ok(());
    };
    let aside = owned.name(OLD);
    let mut moved = Vec::new();
    for space in &old.tablespaces {
        let to = space.location.join(&aside);
        if trees::mark(&space.path())? == Some(space.mark) && trees::mark(&to)?.is_none() {
            trees::rename(&space.path(), &to)?;
        }
        if trees::mark(&to)? == Some(space.mark) {
            moved.push(Space {
                directory: aside.clone(),
                ..space.clone()
            });
        }
    }
    if let Some(wal) = old.wal.as_ref().filter(|wal| wal.is_dir()) {
        trees::create(&wal.join(&aside))?;
        trees::move_entries(wal, &wal.join(&aside), is_of_wal)?;
    }
    let old = move_data(data, owned, old)?;
    owned.change(|record| {
        record
            .tablespaces
            .retain(|space| moved.iter().all(|moved| moved.mark != space.mark));
        record.old = Some(Old {
            is_complete: true,
            tablespaces: moved,
            ..old
        });
    })
}

fn move_data(data: &Path, owned: &Owned, old: Old) -> Result<Old, FileError> {
    if trees::mark(data)? != Some(old.mark) {
        return Ok(old); // moved before the interruption
    }
    if !old.by_entries {
        match trees::rename(data, &old.directory) {
            Err(busy)
                if matches!(
                    busy.kind(),
                    std::io::ErrorKind::ResourceBusy | std::io::ErrorKind::CrossesDevices
                ) => {}
            moved => return moved.map(|()| old),
        }
    }
    // A mount point that its device does not show, such as a bind mount, ends here as well.
    let directory = data.join(owned.name(OLD));
    let old = Old {
        directory: directory.clone(),
        by_entries: true,
        ..old
    };
    owned.change(|record| record.old = Some(old.clone()))?;
    trees::create(&directory)?;
    trees::move_entries(data, &directory, |name| is_moved(name, owned))?;
    Ok(old)
}

fn is_moved(name: &OsStr, owned: &Owned) -> bool {
    name != crate::postgres::layout::LOST_FOUND && name.to_string_lossy() != owned.name(OLD)
}

/// Removes PGDATA's content and what belongs to it elsewhere, but not what was set aside.
fn remove(data: &Path, owned: &Owned, spaces: &[Space]) -> Result<(), FileError> {
    let wal = survey::wal_of(data, owned)?;
    owned.change(|record| record.wal.clone_from(&wal))?;
    for space in spaces {
        trees::remove(&space.path())?;
    }
    owned.change(|record| record.tablespaces.retain(|space| !spaces.contains(space)))?;
    if let Some(wal) = wal.filter(|wal| wal.is_dir()) {
        trees::remove_entries(&wal, |name| is_of_wal(name) || name == &*owned.name(NEW))?;
    }
    remove_data(data, |name| name.to_string_lossy() != owned.name(OLD))
}

/// Removes PGDATA, or what is in it when it is a link or a mount point; `goes` says which entries are meant then.
pub(crate) fn remove_data(data: &Path, goes: impl Fn(&OsStr) -> bool) -> Result<(), FileError> {
    if trees::is_movable(data)
        && trees::entries(data)?
            .iter()
            .all(|path| goes(path.file_name().unwrap_or_default()))
    {
        match trees::remove(data) {
            Err(busy) if busy.kind() == std::io::ErrorKind::ResourceBusy => {}
            removed => return removed,
        }
    }
    trees::remove_entries(data, goes)
}

#[cfg(test)]
mod tests;
