//! Inspects directories and files without changing them: size, free space, entries. Each access is reported as progress
//! (`walker`), since a file system may hang. Identities are in `identity`, changes in `trees`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::walker;

/// Returns the device of the file system of a path, existing or not, and the bytes that a user may still write there.
pub fn free_space(path: &Path) -> Result<(u64, u64), FileError> {
    walker::progress_at(path);
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let look = || -> io::Result<(u64, u64)> {
        let free = rustix::fs::statvfs(existing)?;
        Ok((
            fs::metadata(existing)?.dev(),
            free.f_bavail.saturating_mul(free.f_frsize),
        ))
    };
    look().map_err(FileError::new("look for room on the file system of", path))
}

/// Returns the bytes of a tree, without following links; 0 if it does not exist. Entries that vanish meanwhile do not
/// count.
pub fn size(path: &Path) -> u64 {
    walker::progress_at(path);
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = metadata.blocks().saturating_mul(512);
    if !metadata.is_dir() {
        return own;
    }
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    below.fold(own, |sum, entry| sum.saturating_add(size(&entry.path())))
}

/// Returns the paths in a directory; none if it does not exist.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    walker::progress_at(dir);
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(FileError::new("list", dir)(source)),
    };
    list.map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(FileError::new("list", dir))
}

/// Returns the names in a directory that are valid UTF-8; none if it does not exist.
pub fn file_names(dir: &Path) -> Result<Vec<String>, FileError> {
    let names = entries(dir)?.into_iter();
    Ok(names
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .collect())
}

/// Whether a directory can be renamed as a whole: it is not a link, and not a mount point as far as its device shows.
pub fn is_movable(dir: &Path) -> bool {
    let parent = dir.parent().and_then(|parent| fs::metadata(parent).ok());
    let own = fs::symlink_metadata(dir).ok();
    own.zip(parent)
        .is_some_and(|(own, parent)| own.is_dir() && own.dev() == parent.dev())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_not_moved_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        assert_eq!((is_movable(&real), is_movable(&link)), (true, false));
        assert!(!is_movable(Path::new("/proc")), "a file system is mounted there");
    }
}
