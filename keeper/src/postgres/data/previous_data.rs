//! Previous data: PGDATA, with its tablespaces and WAL, is set aside until the new data are complete. It is removed
//! once the new server has answered, or before the copy where there is no space for both. At most one previous set is
//! kept.
//!
//! The state of PGDATA is recorded, never guessed. New data are created in a directory of their own below PGDATA
//! (`staging`); while it exists, PGDATA is unfinished. While a previous set is kept, the server of the data that
//! replace it has not answered yet. Each step is recorded before it is executed, so that the next start continues after
//! a crash at any point.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::external_dirs::{ClearRequest, ExternalDirKind, Obstacle, check_may_empty};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::free_space::{self, ReclaimableSpace, SpaceCheck, SpaceShortage};
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;
use crate::postgres::data::links;
use crate::postgres::data::mounts::Mounts;
use crate::postgres::data::owned_dirs::{NEW_KIND, OLD_KIND, OwnedDirs};
use crate::postgres::data::owned_record::{PreviousData, PreviousDataState, TablespaceDir};
use crate::postgres::data::pgdata;
use crate::postgres::data::rewind_scope;
use crate::postgres::data::survey::{self, is_of_wal};
use crate::postgres::data::trees;

/// What happened to the old data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClearOutcome {
    /// PGDATA had none; unfinished data were removed.
    Nothing,
    /// They are kept here until the new server has answered.
    SetAside(PathBuf),
    /// They were removed: there was no space for both.
    Removed,
}

/// Why space was not cleared.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// A file or directory could not be moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An obstacle that an operator has to remove.
    #[error("{} stays as it is: {obstacle}; {}", path.display(), obstacle.remedy())]
    Obstacle { path: PathBuf, obstacle: Obstacle },
}

impl ClearError {
    fn at(path: impl Into<PathBuf>, obstacle: Obstacle) -> Self {
        let path = path.into();
        Self::Obstacle { path, obstacle }
    }
}

/// Sets old data aside, removes unfinished data, and removes old data where there is no space for both. No server may
/// run, and the caller has saved that the data are being created (keeper I4).
pub fn clear(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<ClearOutcome, ClearError> {
    if let Some(point) = mount_point_in(data, owned)? {
        return Err(ClearError::at(point, Obstacle::Mounted));
    }
    if let Some(wal) = survey::foreign_wal(data, owned)? {
        return Err(ClearError::at(wal, Obstacle::NotOurs));
    }
    resume(data, owned)?;
    forget_missing(data, owned)?;
    let tablespaces = own_tablespaces(data, owned, clear)?;
    pgdata::remove_unfinished_outside(data, owned, clear)?;
    let mut cleared = ClearOutcome::Nothing;
    // What pg_rewind has left behind halfway is not worth keeping, and must not be put back.
    let is_half_rewound = rewind_scope::is_half_rewound(data, owned)?;
    if owned.record().old.is_none() && !is_half_rewound && pgdata::unclaimed_content(data, owned)?.is_some() {
        cleared = ClearOutcome::SetAside(set_aside(data, owned, clear, &tablespaces)?);
    } else {
        pgdata::remove(data, owned, &tablespaces)?;
    }
    owned.change(|record| record.rewinding = None)?;
    match make_space(data, owned, clear)? {
        true => Ok(ClearOutcome::Removed),
        false => Ok(cleared),
    }
}

/// Returns a mount point in anything that would be moved or removed: PGDATA, tablespaces, WAL, and leftovers of earlier
/// attempts.
fn mount_point_in(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let (record, mounts) = (owned.record(), Mounts::read());
    let wal = survey::wal_of(data, owned)?.into_iter();
    for dir in wal.chain([data.to_owned()]) {
        if let Some(point) = mounts.below(&dir)? {
            return Ok(Some(point));
        }
    }
    let (new, old) = (owned.name(NEW_KIND), owned.name(OLD_KIND));
    let tablespaces = survey::own_tablespaces(data, owned)?
        .into_iter()
        .chain(record.tablespaces);
    let of_tablespaces = tablespaces.flat_map(|tablespace| {
        [
            tablespace.path(),
            tablespace.location.join(&new),
            tablespace.location.join(&old),
        ]
    });
    let of_old = record.old.iter().flat_map(|old| dirs_of_old(owned, old));
    mounts.first(of_tablespaces.chain(record.staging).chain(of_old))
}

/// Returns a mount point in anything that would be moved or removed, as an obstacle.
pub fn mount_obstacle(data: &Path, owned: &OwnedDirs) -> Result<Option<(PathBuf, Obstacle)>, FileError> {
    Ok(mount_point_in(data, owned)?.map(|point| (point, Obstacle::Mounted)))
}

/// Returns the directories of the previous data.
fn dirs_of_old(owned: &OwnedDirs, old: &PreviousData) -> impl Iterator<Item = PathBuf> {
    let wal = old.wal.iter().map(|wal| wal.join(owned.name(OLD_KIND)));
    let tablespaces = old.tablespaces.iter().map(TablespaceDir::path);
    tablespaces.chain(wal).chain([old.directory.clone()])
}

/// Removes the previous data once the new server has answered: all of them, or none if a file system is mounted in
/// them.
pub fn remove_old(owned: &OwnedDirs) -> Result<(), ClearError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    if let Some(point) = Mounts::read().first(dirs_of_old(owned, &old))? {
        return Err(ClearError::at(point, Obstacle::Mounted));
    }
    let identity = match old.state {
        PreviousDataState::Moving => return Ok(()),
        PreviousDataState::Kept(identity) | PreviousDataState::Dropping(identity) => identity,
    };
    // From here on only PGDATA is valid, whatever is left of the previous data.
    owned.change(|record| {
        if let Some(old) = &mut record.old {
            old.state = PreviousDataState::Dropping(identity);
        }
    })?;
    info!(directory = %old.directory.display(), "removing the old data");
    for tablespace in &old.tablespaces {
        if DirIdentity::of(&tablespace.path())? == Some(tablespace.identity) {
            remove_durably(&tablespace.path())?;
        } else if tablespace.path().exists() {
            warn!(directory = %tablespace.path().display(), "not the tablespace that was set aside, leaving it as it is");
        }
    }
    if let Some(wal) = &old.wal {
        remove_durably(&wal.join(owned.name(OLD_KIND)))?;
    }
    // A directory that replaced it meanwhile, or that of the keeper whose directory was copied, is not ours.
    if DirIdentity::of(&old.directory)? == Some(identity) && owned.is_within(&old.directory) {
        remove_durably(&old.directory)?;
    } else if old.directory.exists() {
        warn!(directory = %old.directory.display(), "not the data that were set aside, leaving them as they are");
    }
    Ok(owned.change(|record| record.old = None)?)
}

fn remove_durably(path: &Path) -> Result<(), FileError> {
    trees::remove(path)?;
    match path.parent().filter(|parent| parent.is_dir()) {
        Some(parent) => trees::sync(parent),
        None => Ok(()),
    }
}

/// Continues what was interrupted.
fn resume(data: &Path, owned: &OwnedDirs) -> Result<(), ClearError> {
    match owned.record().old.map(|old| old.state) {
        Some(PreviousDataState::Moving) => finish_moving(data, owned),
        Some(PreviousDataState::Dropping(_)) => remove_old(owned),
        Some(PreviousDataState::Kept(_)) | None => Ok(()),
    }
}

/// Removes previous data from the record that are no longer where they were put.
fn forget_missing(data: &Path, owned: &OwnedDirs) -> Result<(), FileError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    let PreviousDataState::Kept(identity) = old.state else {
        return Ok(());
    };
    if DirIdentity::of(&old.directory)? == Some(identity) && !inspect::entries(&old.directory)?.is_empty() {
        return Ok(());
    }
    let directory = old.directory.display();
    if DirIdentity::of(data)? == Some(identity) {
        info!(%directory, "the old data were put back");
        restore_remaining(data, owned, &old)?;
    } else {
        warn!(
            %directory,
            remedy = "remove that directory when nothing in it is needed",
            "the old data that were kept are gone, or a copy of them is in their place: the keeper leaves it as it is"
        );
    }
    owned.change(|record| record.old = None)
}

/// Restores tablespaces and WAL of previous data whose PGDATA was put back.
fn restore_remaining(data: &Path, owned: &OwnedDirs, old: &PreviousData) -> Result<(), FileError> {
    if let Some(directory) = links::version_directory(data)? {
        for tablespace in &old.tablespaces {
            let to = tablespace.location.join(&directory);
            if DirIdentity::of(&tablespace.path())? == Some(tablespace.identity) && DirIdentity::of(&to)?.is_none() {
                trees::rename(&tablespace.path(), &to)?;
            }
        }
    }
    let Some(wal) = &old.wal else { return Ok(()) };
    let from = wal.join(owned.name(OLD_KIND));
    let has_wal = |entry: &PathBuf| entry.file_name().is_some_and(is_of_wal);
    if from.is_dir() && !inspect::entries(wal)?.iter().any(has_wal) {
        trees::move_entries(&from, wal, |_| true)?;
        trees::remove(&from)?;
    }
    Ok(())
}

/// Returns the tablespaces that are moved with the old data: those that the new data replace, and others that provably
/// belong to this keeper.
fn own_tablespaces(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<Vec<TablespaceDir>, ClearError> {
    let mut tablespaces = Vec::new();
    for external_dir in survey::own_external_dirs(data, owned)? {
        let ExternalDirKind::Tablespace { directory } = &external_dir.kind else {
            continue;
        };
        let path = external_dir.path.join(directory);
        let is_wanted = clear
            .external_dirs
            .iter()
            .any(|wanted| wanted.path == external_dir.path);
        match (check_may_empty(&external_dir.found), DirIdentity::of(&path)?) {
            (Ok(()), Some(identity)) => tablespaces.push(TablespaceDir {
                location: external_dir.path,
                directory: directory.clone(),
                identity,
            }),
            (Ok(()), None) => {}
            (Err(why), _) if !is_wanted => {
                warn!(directory = %path.display(), %why, "leaving a tablespace directory as it is");
            }
            (Err(obstacle), _) => return Err(ClearError::at(path, obstacle)),
        }
    }
    Ok(tablespaces)
}

/// Returns the file system that has no space for the new data, even if everything that they replace is removed.
pub fn shortage(
    data: &Path,
    owned: &OwnedDirs,
    clear: &ClearRequest,
) -> Result<Option<(PathBuf, Obstacle)>, FileError> {
    let mut tablespaces = survey::own_tablespaces(data, owned)?;
    let wal = survey::own_wal(data, owned)?;
    let mut freed = ReclaimableSpace::default();
    if let Some(old) = owned.record().old {
        tablespaces.extend(old.tablespaces);
        // Moved entry by entry, it lies in PGDATA.
        if !old.by_entries {
            freed.add(&old.directory)?;
        }
    }
    for path in tablespaces
        .iter()
        .map(TablespaceDir::path)
        .chain(wal)
        .chain([data.to_owned()])
    {
        freed.add(&path)?;
    }
    Ok(match free_space::check_space(data, clear, &freed)? {
        SpaceCheck::TooLittle(SpaceShortage { path, needed, free }) => {
            Some((path, Obstacle::NotEnoughSpace { needed, free }))
        }
        SpaceCheck::EnoughForBoth | SpaceCheck::EnoughWithoutOld(_) => None,
    })
}

/// Makes space; returns whether previous data were removed for it. Nothing is removed where that would not suffice.
fn make_space(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<bool, ClearError> {
    let old = owned.record().old;
    let mut freed = ReclaimableSpace::default();
    if let Some(old) = &old {
        let wal = old.wal.iter().map(|wal| wal.join(owned.name(OLD_KIND)));
        let tablespaces = old.tablespaces.iter().map(TablespaceDir::path);
        for path in tablespaces.chain(wal).chain([old.directory.clone()]) {
            freed.add(&path)?;
        }
    }
    match free_space::check_space(data, clear, &freed)? {
        SpaceCheck::EnoughForBoth => Ok(false),
        SpaceCheck::EnoughWithoutOld(short) => {
            warn!(
                path = %short.path.display(), needed = short.needed, free = short.free,
                "no space to keep the old data until the new are complete, removing them first"
            );
            remove_old(owned)?;
            Ok(true)
        }
        SpaceCheck::TooLittle(short) => {
            let (needed, free) = (short.needed, short.free);
            Err(ClearError::at(short.path, Obstacle::NotEnoughSpace { needed, free }))
        }
    }
}

fn set_aside(
    data: &Path,
    owned: &OwnedDirs,
    clear: &ClearRequest,
    tablespaces: &[TablespaceDir],
) -> Result<PathBuf, ClearError> {
    let by_entries = !inspect::is_movable(data);
    let directory = if by_entries {
        data.join(owned.name(OLD_KIND))
    } else {
        let mut name = data.file_name().unwrap_or_default().to_owned();
        name.push(format!(".old-{}", owned.random_name()));
        data.with_file_name(name)
    };
    for tablespace in tablespaces {
        // Leftovers of an earlier set, if any: the name is unique to this keeper.
        trees::remove(&tablespace.location.join(owned.name(OLD_KIND)))?;
    }
    let wal = survey::own_wal(data, owned)?;
    if let Some(wal) = &wal {
        trees::remove(&wal.join(owned.name(OLD_KIND)))?;
    }
    let old = PreviousData {
        db: clear.db.clone(),
        directory,
        by_entries,
        state: PreviousDataState::Moving,
        tablespaces: tablespaces.to_vec(),
        wal,
    };
    survey::record_wal(owned, survey::wal_of(data, owned)?.as_deref())?;
    owned.change(|record| record.old = Some(old))?;
    finish_moving(data, owned)?;
    Ok(owned.record().old.map(|old| old.directory).unwrap_or_default())
}

/// Moves the recorded old data that are not moved yet.
fn finish_moving(data: &Path, owned: &OwnedDirs) -> Result<(), ClearError> {
    let Some(old) = owned.record().old else { return Ok(()) };
    let aside = owned.name(OLD_KIND);
    let mut moved = Vec::new();
    for tablespace in &old.tablespaces {
        let to = tablespace.location.join(&aside);
        if DirIdentity::of(&tablespace.path())? == Some(tablespace.identity) && DirIdentity::of(&to)?.is_none() {
            trees::rename(&tablespace.path(), &to)?;
        }
        if DirIdentity::of(&to)? == Some(tablespace.identity) {
            moved.push(TablespaceDir {
                directory: aside.clone(),
                ..tablespace.clone()
            });
        }
    }
    if let Some(wal) = old.wal.as_ref().filter(|wal| wal.is_dir()) {
        trees::create(&wal.join(&aside))?;
        trees::move_entries(wal, &wal.join(&aside), is_of_wal)?;
    }
    let old = move_data(data, owned, old)?;
    let identity = DirIdentity::of(&old.directory)?;
    owned.change(|record| {
        record
            .tablespaces
            .retain(|tablespace| moved.iter().all(|moved| moved.identity != tablespace.identity));
        record.old = identity.map(|identity| PreviousData {
            state: PreviousDataState::Kept(identity),
            tablespaces: moved,
            ..old
        });
    })?;
    Ok(())
}

/// Moves PGDATA. Nothing new is written there before the move is recorded as complete, so everything in it is old.
fn move_data(data: &Path, owned: &OwnedDirs, old: PreviousData) -> Result<PreviousData, ClearError> {
    if !old.by_entries {
        if DirIdentity::of(&old.directory)?.is_some() {
            if pgdata::content(data, owned)?.is_some() {
                return Err(ClearError::at(data, Obstacle::AlreadyMoved(old.directory)));
            }
            return Ok(old); // it was moved before the interruption
        }
        match trees::rename(data, &old.directory) {
            Err(busy) if matches!(busy.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {}
            moved => return Ok(moved.map(|()| old)?),
        }
    }
    // A mount point on the same device, such as a bind mount, is detected here.
    let directory = data.join(owned.name(OLD_KIND));
    let old = PreviousData {
        directory: directory.clone(),
        by_entries: true,
        ..old
    };
    owned.change(|record| record.old = Some(old.clone()))?;
    trees::create(&directory)?;
    trees::move_entries(data, &directory, |name| pgdata::belongs_to_data(name, owned))?;
    Ok(old)
}

#[cfg(test)]
mod tests;
