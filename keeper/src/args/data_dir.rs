//! Checks of the option --data-dir, without changing anything (keeper 1.3). Creating the directory is left to `start`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use daemon::args::Faults;

use crate::postgres::data::layout::{LOST_FOUND, SUBDIRECTORY};

/// Checks that a directory can be, or become, a keeper's data directory (keeper 1.3).
pub(super) fn check(dir: &Path, user: u32, faults: &mut Faults) {
    let path = dir.display();
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return faults_of_parent(dir, faults);
        }
        Err(error) => return faults.push(format!("data dir {path} cannot be read: {error}")),
    };
    if !metadata.is_dir() {
        return faults.push(format!("data dir {path} is not a directory"));
    }
    if metadata.uid() != user {
        return faults.push(format!(
            "data dir {path} belongs to user {}, not to user {user} that runs the keeper: use another --data-dir or user",
            metadata.uid()
        ));
    }
    let names = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(),
        Err(error) => return faults.push(format!("data dir {path} cannot be read: {error}")),
    };
    let names: Vec<_> = names.into_iter().filter(|name| name != LOST_FOUND).collect();
    let has = |name: &str| names.iter().any(|entry| entry == name);
    if has("PG_VERSION") {
        faults.push(format!(
            "data dir {path} is itself a PostgreSQL data directory: the keeper keeps its own in {path}/postgres, use another --data-dir"
        ));
    } else if !names.is_empty() && !["keeperstate", "lock", "postgres"].into_iter().any(has) {
        faults.push(format!(
            "data dir {path} is not empty and not a keeper's: use another --data-dir"
        ));
    } else if !has("keeperstate") && is_foreign(&dir.join("postgres")) {
        // an existing PostgreSQL instance is accepted (init mode existing); anything else would be deleted
        faults.push(format!(
            "data dir {path} has files in {path}/postgres that are neither a keeper's nor PostgreSQL's: use another --data-dir"
        ));
    } else if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        faults.push(format!("data dir {path} is not writable"));
    }
}

/// Returns whether a directory has contents other than a PostgreSQL data directory. The root of a file system may have
/// a `lost+found`, with the data in a subdirectory.
fn is_foreign(dir: &Path) -> bool {
    let foreign = |name: &std::ffi::OsStr| name != LOST_FOUND && name != SUBDIRECTORY;
    let has_entry = |dir: &Path, counts: &dyn Fn(&std::ffi::OsStr) -> bool| {
        std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|entry| counts(&entry.file_name())))
    };
    let below = dir.join(SUBDIRECTORY);
    let is_foreign_below = has_entry(&below, &|_| true) && !below.join("PG_VERSION").exists();
    !dir.join("PG_VERSION").exists() && (has_entry(dir, &foreign) || is_foreign_below)
}

/// Checks that a missing directory can be created in its nearest existing parent.
fn faults_of_parent(dir: &Path, faults: &mut Faults) {
    let Some(parent) = dir.ancestors().skip(1).find(|parent| parent.exists()) else {
        return;
    };
    if !parent.is_dir() {
        faults.push(format!(
            "data dir {} cannot be created: {} is not a directory",
            dir.display(),
            parent.display()
        ));
    } else if rustix::fs::access(parent, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        faults.push(format!(
            "data dir {} cannot be created: {} is not writable",
            dir.display(),
            parent.display()
        ));
    }
}
