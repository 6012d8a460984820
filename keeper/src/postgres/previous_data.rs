//! Old data until the new are complete: PGDATA, with its tablespaces and WAL, is moved aside, and removed once the new
//! server has answered, or before the new data are made where there is no room for both. At most one set is kept.
//!
//! What PGDATA holds is recorded, never guessed: while new data are made they lie in a directory of their own below
//! PGDATA (`build`), so that this directory means that PGDATA is unfinished; and as long as an old set is kept, the data
//! that replace it have not answered yet. Each step is recorded before it is done, so that the next start, after a
//! crash at any point, goes on from there.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::external_dirs::{ClearRequest, ExternalDirKind, Obstacle, check_may_empty};
use crate::postgres::files::FileError;
use crate::postgres::free_space::{self, ReclaimableSpace, SpaceCheck, SpaceShortage};
use crate::postgres::links;
use crate::postgres::mounts::{self, Mounts};
use crate::postgres::owned_dirs::{NEW_KIND, OwnedDirs, PreviousData, PreviousDataState, TablespaceDir, random_name};
use crate::postgres::survey::{self, is_of_wal};
use crate::postgres::trees;

/// What became of the old data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClearOutcome {
    /// There were none in PGDATA; what was unfinished is removed.
    Nothing,
    /// They are kept here until the new server has answered.
    SetAside(PathBuf),
    /// There was no room for both.
    Removed,
}

/// Why the way was not cleared.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// A file or directory could not be moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is in the way that an operator has to see to.
    #[error("{} stays as it is: {obstacle}; {}", path.display(), obstacle.remedy())]
    Obstacle {
        /// Where.
        path: PathBuf,
        /// What.
        obstacle: Obstacle,
    },
}

impl ClearError {
    fn at(path: impl Into<PathBuf>, obstacle: Obstacle) -> Self {
        let path = path.into();
        Self::Obstacle { path, obstacle }
    }
}

/// Moves old data aside, removes what is unfinished, and removes old data where there is no room for both. No server may
/// run, and the caller has recorded that the data are being made again (keeper I4).
pub fn clear(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<ClearOutcome, ClearError> {
    if let Some(point) = mount_point_in(data, owned)? {
        return Err(ClearError::at(point, Obstacle::Mounted));
    }
    if let Some(wal) = survey::foreign_wal(data, owned)? {
        return Err(ClearError::at(wal, Obstacle::NotOurs));
    }
    resume(data, owned)?;
    forget_missing(data, owned)?;
    let spaces = own_spaces(data, owned, clear)?;
    remove_unfinished_outside(data, owned, clear)?;
    let mut cleared = ClearOutcome::Nothing;
    if owned.record().old.is_none() && unclaimed_content(data, owned)?.is_some() {
        cleared = ClearOutcome::SetAside(set_aside(data, owned, clear, &spaces)?);
    } else {
        remove(data, owned, &spaces)?;
    }
    match make_room(data, owned, clear)? {
        true => Ok(ClearOutcome::Removed),
        false => Ok(cleared),
    }
}

/// A mount point in anything that would be moved or removed to make new data: PGDATA, tablespaces, WAL, and what lies
/// there of earlier attempts.
fn mount_point_in(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let (record, mounts) = (owned.record(), Mounts::read());
    let wal = survey::wal_of(data, owned)?.into_iter();
    for dir in wal.chain([data.to_owned()]) {
        if let Some(point) = mounts.below(&dir)? {
            return Ok(Some(point));
        }
    }
    let (new, old) = (owned.name(NEW_KIND), owned.name(OLD));
    let spaces = survey::own_spaces(data, owned)?.into_iter().chain(record.tablespaces);
    let of_spaces = spaces.flat_map(|space| [space.path(), space.location.join(&new), space.location.join(&old)]);
    let of_old = record.old.iter().flat_map(|old| dirs_of_old(owned, old));
    mounts.first(of_spaces.chain(record.making).chain(of_old))
}

/// The same as what an operator has to see to.
pub fn mount_obstacle(data: &Path, owned: &OwnedDirs) -> Result<Option<(PathBuf, Obstacle)>, FileError> {
    Ok(mount_point_in(data, owned)?.map(|point| (point, Obstacle::Mounted)))
}

/// Where the data are that were set aside.
fn dirs_of_old(owned: &OwnedDirs, old: &PreviousData) -> impl Iterator<Item = PathBuf> {
    let wal = old.wal.iter().map(|wal| wal.join(owned.name(OLD)));
    let spaces = old.tablespaces.iter().map(TablespaceDir::path);
    spaces.chain(wal).chain([old.directory.clone()])
}

/// Removes what was set aside, once the new server has answered; all of it or, where a file system is mounted in it,
/// nothing.
pub fn remove_old(owned: &OwnedDirs) -> Result<(), ClearError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    if let Some(point) = Mounts::read().first(dirs_of_old(owned, &old))? {
        return Err(ClearError::at(point, Obstacle::Mounted));
    }
    let mark = match old.state {
        PreviousDataState::Moving => return Ok(()),
        PreviousDataState::Kept(mark) | PreviousDataState::Dropping(mark) => mark,
    };
    // From here on PGDATA is what counts, whatever is left of the old data.
    owned.change(|record| {
        if let Some(old) = &mut record.old {
            old.state = PreviousDataState::Dropping(mark);
        }
    })?;
    info!(directory = %old.directory.display(), "removing the old data");
    for space in &old.tablespaces {
        if trees::mark(&space.path())? == Some(space.mark) {
            remove_durably(&space.path())?;
        } else if space.path().exists() {
            warn!(directory = %space.path().display(), "not the tablespace that was set aside, leaving it as it is");
        }
    }
    if let Some(wal) = &old.wal {
        remove_durably(&wal.join(owned.name(OLD)))?;
    }
    // A directory that was put in its place meanwhile, or that of the keeper whose directory this is a copy of, is not
    // ours.
    if trees::mark(&old.directory)? == Some(mark) && owned.is_within(&old.directory) {
        remove_durably(&old.directory)?;
    } else if old.directory.exists() {
        warn!(directory = %old.directory.display(), "not the data that were set aside, leaving them as they are");
    }
    Ok(owned.change(|record| record.old = None)?)
}

const OLD: &str = "old";

fn remove_durably(path: &Path) -> Result<(), FileError> {
    trees::remove(path)?;
    match path.parent().filter(|parent| parent.is_dir()) {
        Some(parent) => trees::sync(parent),
        None => Ok(()),
    }
}

/// Goes on with what was begun before an interruption.
fn resume(data: &Path, owned: &OwnedDirs) -> Result<(), ClearError> {
    match owned.record().old.map(|old| old.state) {
        Some(PreviousDataState::Moving) => finish_moving(data, owned),
        Some(PreviousDataState::Dropping(_)) => remove_old(owned),
        Some(PreviousDataState::Kept(_)) | None => Ok(()),
    }
}

/// Old data count only as long as they are where they were put.
fn forget_missing(data: &Path, owned: &OwnedDirs) -> Result<(), FileError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    let PreviousDataState::Kept(mark) = old.state else {
        return Ok(());
    };
    if trees::mark(&old.directory)? == Some(mark) && !trees::entries(&old.directory)?.is_empty() {
        return Ok(());
    }
    let directory = old.directory.display();
    if trees::mark(data)? == Some(mark) {
        info!(%directory, "the old data were put back");
        restore_remaining(data, owned, &old)?;
    } else {
        warn!(%directory, "the old data are not there any more, or were copied there: what is there is left as it is");
    }
    owned.change(|record| record.old = None)
}

/// Tablespaces and WAL of old data whose PGDATA was put back.
fn restore_remaining(data: &Path, owned: &OwnedDirs, old: &PreviousData) -> Result<(), FileError> {
    if let Some(directory) = links::version_directory(data)? {
        for space in &old.tablespaces {
            let to = space.location.join(&directory);
            if trees::mark(&space.path())? == Some(space.mark) && trees::mark(&to)?.is_none() {
                trees::rename(&space.path(), &to)?;
            }
        }
    }
    let Some(wal) = &old.wal else { return Ok(()) };
    let from = wal.join(owned.name(OLD));
    let has_wal = |entry: &PathBuf| entry.file_name().is_some_and(is_of_wal);
    if from.is_dir() && !trees::entries(wal)?.iter().any(has_wal) {
        trees::move_entries(&from, wal, |_| true)?;
        trees::remove(&from)?;
    }
    Ok(())
}

/// Something in PGDATA that this keeper is not making: whose it is, `dbstate` has to say.
pub fn unclaimed_content(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let is_unfinished = trees::mark(&data.join(owned.name(NEW_KIND)))?.is_some();
    Ok(content(data, owned)?.filter(|_| !is_unfinished))
}

/// What PGDATA holds besides what was set aside in it, or is being made; the first such entry.
pub(crate) fn content(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let new = owned.name(NEW_KIND);
    let mut entries = trees::entries(data)?.into_iter();
    Ok(entries.find(|entry| {
        let name = entry.file_name().unwrap_or_default();
        belongs_to_data(name, owned) && name != &*new
    }))
}

/// The tablespaces that go with the old data: the places of the new ones, and others that are provably ours.
fn own_spaces(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<Vec<TablespaceDir>, ClearError> {
    let mut spaces = Vec::new();
    for place in survey::own_external_dirs(data, owned)? {
        let ExternalDirKind::Tablespace { directory } = &place.kind else {
            continue;
        };
        let path = place.path.join(directory);
        let is_wanted = clear.external_dirs.iter().any(|wanted| wanted.path == place.path);
        match (check_may_empty(&place.found), trees::mark(&path)?) {
            (Ok(()), Some(mark)) => spaces.push(TablespaceDir {
                location: place.path,
                directory: directory.clone(),
                mark,
            }),
            (Ok(()), None) => {}
            (Err(why), _) if !is_wanted => {
                warn!(directory = %path.display(), %why, "leaving a tablespace directory as it is");
            }
            (Err(obstacle), _) => return Err(ClearError::at(path, obstacle)),
        }
    }
    Ok(spaces)
}

/// The file system that has no room for new data, even when everything of ours that they replace is removed.
pub fn shortage(
    data: &Path,
    owned: &OwnedDirs,
    clear: &ClearRequest,
) -> Result<Option<(PathBuf, Obstacle)>, FileError> {
    let mut spaces = survey::own_spaces(data, owned)?;
    let wal = survey::own_wal(data, owned)?;
    let mut freed = ReclaimableSpace::default();
    if let Some(old) = owned.record().old {
        spaces.extend(old.tablespaces);
        // By entries it lies in PGDATA.
        if !old.by_entries {
            freed.add(&old.directory)?;
        }
    }
    for path in spaces
        .iter()
        .map(TablespaceDir::path)
        .chain(wal)
        .chain([data.to_owned()])
    {
        freed.add(&path)?;
    }
    Ok(match free_space::check_space(data, clear, &freed)? {
        SpaceCheck::TooLittle(SpaceShortage { path, needed, free }) => Some((path, Obstacle::NoRoom { needed, free })),
        SpaceCheck::ForBoth | SpaceCheck::InsteadOfOld(_) => None,
    })
}

/// Whether old data were removed to make room. Nothing is removed where that does not help.
fn make_room(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<bool, ClearError> {
    let old = owned.record().old;
    let mut freed = ReclaimableSpace::default();
    if let Some(old) = &old {
        let wal = old.wal.iter().map(|wal| wal.join(owned.name(OLD)));
        let spaces = old.tablespaces.iter().map(TablespaceDir::path);
        for path in spaces.chain(wal).chain([old.directory.clone()]) {
            freed.add(&path)?;
        }
    }
    match free_space::check_space(data, clear, &freed)? {
        SpaceCheck::ForBoth => Ok(false),
        SpaceCheck::InsteadOfOld(short) => {
            warn!(
                path = %short.path.display(), needed = short.needed, free = short.free,
                "no room to keep the old data until the new are complete, removing them first"
            );
            remove_old(owned)?;
            Ok(true)
        }
        SpaceCheck::TooLittle(short) => {
            let (needed, free) = (short.needed, short.free);
            Err(ClearError::at(short.path, Obstacle::NoRoom { needed, free }))
        }
    }
}

fn set_aside(
    data: &Path,
    owned: &OwnedDirs,
    clear: &ClearRequest,
    spaces: &[TablespaceDir],
) -> Result<PathBuf, ClearError> {
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
    let wal = survey::own_wal(data, owned)?;
    if let Some(wal) = &wal {
        trees::remove(&wal.join(owned.name(OLD)))?;
    }
    let old = PreviousData {
        db: clear.db.clone(),
        directory,
        by_entries,
        state: PreviousDataState::Moving,
        tablespaces: spaces.to_vec(),
        wal,
    };
    survey::record_wal(owned, survey::wal_of(data, owned)?.as_deref())?;
    owned.change(|record| record.old = Some(old))?;
    finish_moving(data, owned)?;
    Ok(owned.record().old.map(|old| old.directory).unwrap_or_default())
}

/// Moves what of the recorded old data is not moved yet.
fn finish_moving(data: &Path, owned: &OwnedDirs) -> Result<(), ClearError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    let aside = owned.name(OLD);
    let mut moved = Vec::new();
    for space in &old.tablespaces {
        let to = space.location.join(&aside);
        if trees::mark(&space.path())? == Some(space.mark) && trees::mark(&to)?.is_none() {
            trees::rename(&space.path(), &to)?;
        }
        if trees::mark(&to)? == Some(space.mark) {
            moved.push(TablespaceDir {
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
    let mark = trees::mark(&old.directory)?;
    owned.change(|record| {
        record
            .tablespaces
            .retain(|space| moved.iter().all(|moved| moved.mark != space.mark));
        record.old = mark.map(|mark| PreviousData {
            state: PreviousDataState::Kept(mark),
            tablespaces: moved,
            ..old
        });
    })?;
    Ok(())
}

/// Moves PGDATA. Nothing new is written there before the move is recorded as done, so that what is there, is old.
fn move_data(data: &Path, owned: &OwnedDirs, old: PreviousData) -> Result<PreviousData, ClearError> {
    if !old.by_entries {
        if trees::mark(&old.directory)?.is_some() {
            if content(data, owned)?.is_some() {
                return Err(ClearError::at(data, Obstacle::AlreadyMoved(old.directory)));
            }
            return Ok(old); // moved before the interruption
        }
        match trees::rename(data, &old.directory) {
            Err(busy) if matches!(busy.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {}
            moved => return Ok(moved.map(|()| old)?),
        }
    }
    // A mount point that its device does not show, such as a bind mount, ends here as well.
    let directory = data.join(owned.name(OLD));
    let old = PreviousData {
        directory: directory.clone(),
        by_entries: true,
        ..old
    };
    owned.change(|record| record.old = Some(old.clone()))?;
    trees::create(&directory)?;
    trees::move_entries(data, &directory, |name| belongs_to_data(name, owned))?;
    Ok(old)
}

fn belongs_to_data(name: &OsStr, owned: &OwnedDirs) -> bool {
    name != crate::postgres::layout::LOST_FOUND && name.to_string_lossy() != owned.name(OLD)
}

/// Removes the directories outside PGDATA in which an attempt that broke off was made.
fn remove_unfinished_outside(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<(), FileError> {
    let new = owned.name(NEW_KIND);
    let places = clear.external_dirs.iter().map(|place| place.path.join(&new));
    for made in owned.record().making.into_iter().chain(places) {
        if made != data.join(&new) {
            trees::remove(&made)?;
        }
    }
    Ok(())
}

/// Removes what was made and never answered, here and elsewhere, but not what was set aside. The directory that shows
/// that it is unfinished goes last.
fn remove(data: &Path, owned: &OwnedDirs, spaces: &[TablespaceDir]) -> Result<(), FileError> {
    let new = owned.name(NEW_KIND);
    let wal = survey::own_wal(data, owned)?;
    survey::record_wal(owned, survey::wal_of(data, owned)?.as_deref())?;
    for space in spaces {
        trees::remove(&space.path())?;
    }
    owned.change(|record| record.tablespaces.retain(|space| !spaces.contains(space)))?;
    if let Some(wal) = wal.filter(|wal| wal.is_dir()) {
        trees::remove_entries(&wal, |name| is_of_wal(name) || name == &*new)?;
    }
    trees::remove_entries(data, |name| belongs_to_data(name, owned) && name != &*new)?;
    trees::remove(&data.join(&new))?;
    owned.change(|record| record.making.clear())
}

/// Removes PGDATA, or what is in it when it is a link or a mount point.
pub(crate) fn remove_data(data: &Path) -> Result<(), FileError> {
    if let Some(point) = Mounts::read().below(data)? {
        return Err(FileError::new("remove", data)(mounts::mounted_error(&point)));
    }
    if trees::is_movable(data)
        && trees::entries(data)?
            .iter()
            .all(|path| !path.ends_with(crate::postgres::layout::LOST_FOUND))
    {
        match trees::remove(data) {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => {}
            removed => return removed,
        }
    }
    trees::remove_entries(data, |_| true)
}

#[cfg(test)]
mod tests;
