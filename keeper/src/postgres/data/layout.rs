//! Location of PGDATA in a keeper's data directory (keeper 2.1). Its contents are in `cluster_files`.

use std::path::{Path, PathBuf};

/// Directory in the root of many file systems. It belongs to root and is never changed.
pub const LOST_FOUND: &str = "lost+found";

/// Subdirectory for PGDATA in the root of a file system with a [`LOST_FOUND`].
pub const SUBDIRECTORY: &str = "data";

/// Returns PGDATA of a keeper's data directory: `postgres`, or `postgres/data` if `postgres` is the root of a file
/// system with a `lost+found` and holds no database yet.
///
/// initdb and pg_basebackup refuse a directory that is not empty, and a base backup of an instance fails at an
/// unreadable directory in PGDATA (`sendDir` in basebackup.c).
pub fn data_of(dir: &Path) -> PathBuf {
    let top = dir.join("postgres");
    let below = top.join(SUBDIRECTORY);
    let is_below = !top.join("PG_VERSION").exists() && (below.is_dir() || top.join(LOST_FOUND).exists());
    if is_below { below } else { top }
}

/// Returns the keeper's data directory that contains this PGDATA.
pub fn keeper_dir(data: &Path) -> &Path {
    let is_below = data.ends_with(Path::new("postgres").join(SUBDIRECTORY));
    data.ancestors().nth(if is_below { 2 } else { 1 }).unwrap_or(data)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pgdata_goes_below_a_lost_and_found_and_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (top, below) = (dir.path().join("postgres"), dir.path().join("postgres/data"));
        assert_eq!(data_of(dir.path()), top);
        fs::create_dir_all(top.join(LOST_FOUND)).unwrap();
        assert_eq!(data_of(dir.path()), below);
        fs::write(top.join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(data_of(dir.path()), top, "a database that is there already is used");
        fs::remove_file(top.join("PG_VERSION")).unwrap();
        fs::create_dir(&below).unwrap();
        fs::remove_dir(top.join(LOST_FOUND)).unwrap();
        assert_eq!((keeper_dir(&top), keeper_dir(&below)), (dir.path(), dir.path()));
        assert_eq!(
            data_of(dir.path()),
            below,
            "the choice does not depend on the lost+found alone"
        );
    }
}
