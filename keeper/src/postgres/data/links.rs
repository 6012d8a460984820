//! Targets of PGDATA's links: tablespaces and WAL. The targets are not accessed, since they may hang. Ownership is in
//! `owned_dirs` and `survey`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::postgres::data::cluster_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::DirIdentity;
use crate::postgres::data::inspect;

/// Returns the name of this PGDATA's directory in a tablespace's location, `PG_<major>_<catalog version>`; `None` if
/// PGDATA has no version or no control file.
pub fn version_directory(data: &Path) -> Result<Option<String>, FileError> {
    let Some(major) = cluster_files::data_major(data)? else {
        return Ok(None);
    };
    let path = data.join("global/pg_control");
    // ControlFileData in catalog/pg_control.h: system identifier (8 bytes), its own version (4), catalog version (4).
    let mut first = [0; 16];
    match fs::File::open(&path).and_then(|mut file| file.read_exact(&mut first)) {
        Ok(()) => {}
        Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::new("read", path)(source)),
    }
    let catalog = u32::from_le_bytes([first[12], first[13], first[14], first[15]]);
    Ok(Some(format!("PG_{major}_{catalog}")))
}

/// Returns the locations of PGDATA's tablespaces, without in-place ones.
pub fn locations(data: &Path) -> Result<Vec<PathBuf>, FileError> {
    let links = inspect::entries(&data.join("pg_tblspc"))?;
    let targets = links.iter().filter_map(|link| fs::read_link(link).ok());
    let mut locations: Vec<PathBuf> = targets.filter(|target| target.is_absolute()).collect();
    locations.sort();
    Ok(locations)
}

/// Returns the target of `pg_wal` if it is a link; of missing or incomplete data the `recorded` one. `new` is the name
/// of the directories in which this keeper creates new data.
pub fn wal_of(data: &Path, recorded: Option<PathBuf>, new: &str) -> Result<Option<PathBuf>, FileError> {
    let Ok(target) = fs::read_link(data.join("pg_wal")) else {
        let is_there = DirIdentity::of(&data.join("pg_wal"))?.is_some();
        return Ok(recorded.filter(|_| !is_there));
    };
    let target = data.join(target);
    // The link of an interrupted attempt leads into the directory of unfinished data.
    let is_made_there = target.file_name().is_some_and(|name| name == new);
    Ok(if is_made_there {
        target.parent().map(Path::to_owned)
    } else {
        Some(target)
    })
}
