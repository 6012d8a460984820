//! What PGDATA holds: data, unfinished data, or nothing; and removing unfinished data. Previous data, which may lie in it, are left
//! to `previous_data`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::external_dirs::ClearRequest;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;
use crate::postgres::data::layout::LOST_FOUND;
use crate::postgres::data::owned_dirs::{NEW_KIND, OLD_KIND, OwnedDirs};
use crate::postgres::data::owned_record::TablespaceDir;
use crate::postgres::data::survey::{self, is_of_wal};
use crate::postgres::data::trees;

/// Returns a file in PGDATA that is not part of unfinished data; `dbstate` has to account for it.
pub fn unclaimed_content(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let is_unfinished = DirIdentity::of(&data.join(owned.name(NEW_KIND)))?.is_some();
    Ok(content(data, owned)?.filter(|_| !is_unfinished))
}

/// Returns the first entry of PGDATA besides previous data and unfinished data.
pub(crate) fn content(data: &Path, owned: &OwnedDirs) -> Result<Option<PathBuf>, FileError> {
    let new = owned.name(NEW_KIND);
    let mut entries = inspect::entries(data)?.into_iter();
    Ok(entries.find(|entry| {
        let name = entry.file_name().unwrap_or_default();
        belongs_to_data(name, owned) && name != &*new
    }))
}

/// Whether an entry of PGDATA is part of data, finished or not.
pub(super) fn belongs_to_data(name: &OsStr, owned: &OwnedDirs) -> bool {
    name != LOST_FOUND && name.to_string_lossy() != owned.name(OLD_KIND)
}

/// Removes directories of unfinished data outside PGDATA.
pub(super) fn remove_unfinished_outside(data: &Path, owned: &OwnedDirs, clear: &ClearRequest) -> Result<(), FileError> {
    let new = owned.name(NEW_KIND);
    let external_dirs = clear
        .external_dirs
        .iter()
        .map(|external_dir| external_dir.path.join(&new));
    for made in owned.record().staging.into_iter().chain(external_dirs) {
        if made != data.join(&new) {
            trees::remove(&made)?;
        }
    }
    Ok(())
}

/// Removes data whose server never answered, in PGDATA and elsewhere, but not the previous data. The directory that
/// marks PGDATA as unfinished is removed last.
pub(super) fn remove(data: &Path, owned: &OwnedDirs, tablespaces: &[TablespaceDir]) -> Result<(), FileError> {
    let new = owned.name(NEW_KIND);
    let wal = survey::own_wal(data, owned)?;
    survey::record_wal(owned, survey::wal_of(data, owned)?.as_deref())?;
    for tablespace in tablespaces {
        trees::remove(&tablespace.path())?;
    }
    owned.change(|record| {
        record
            .tablespaces
            .retain(|tablespace| !tablespaces.contains(tablespace))
    })?;
    if let Some(wal) = wal.filter(|wal| wal.is_dir()) {
        trees::remove_entries(&wal, |name| is_of_wal(name) || name == &*new)?;
    }
    trees::remove_entries(data, |name| belongs_to_data(name, owned) && name != &*new)?;
    trees::remove(&data.join(&new))?;
    owned.change(|record| record.staging.clear())
}
