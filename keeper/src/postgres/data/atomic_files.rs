//! Files that are read, written and removed as a whole, and their temporary files. What they contain is decided by the
//! callers.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::walker;

/// Writes a file atomically and durably (keeper 2.5): a temporary file beside it, mode 0600, is synced and renamed;
/// then the directory is synced, too, because `dbstate` must survive a crash. Each of these steps counts as progress of
/// the running change (keeper 12.12.1).
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let attempt = || -> io::Result<()> {
        let (dir, name) = match (path.parent(), path.file_name()) {
            (Some(dir), Some(name)) => (dir, name),
            _ => return Err(io::Error::new(ErrorKind::InvalidInput, "not the path of a file")),
        };
        walker::progress_at(path);
        let mut file = temporary(dir, name)?;
        file.write_all(content)?;
        walker::sync_at(dir, || file.as_file().sync_all())?;
        walker::progress_at(path);
        file.persist(path).map_err(|failed| failed.error)?;
        walker::sync_at(dir, || File::open(dir)?.sync_all())?;
        walker::progress_at(dir);
        Ok(())
    };
    attempt().map_err(FileError::new("write", path))
}

/// Writes a file as [`write_atomically`] does, unless it is there with this content and no other user can read it. For
/// generated files only: the one that is there may not have been synced.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<(), FileError> {
    if is_current(path, content) {
        return Ok(());
    }
    write_atomically(path, content)
}

/// Whether [`write_if_changed`] would write nothing.
pub fn is_current(path: &Path, content: &[u8]) -> bool {
    walker::progress_at(path);
    let is_private = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o077 == 0);
    is_private && fs::read(path).is_ok_and(|found| found == content)
}

/// Part of a temporary file's name, between the name of the file and the random suffix; an operator's copy of the file
/// does not have it.
pub(crate) const TEMPORARY: &str = ".stolon-tmp-";

/// Length of the random suffix.
const RANDOM_LENGTH: usize = 6;

/// Creates a temporary file for `name` in `dir`, mode 0600, removed when dropped.
pub(crate) fn temporary(dir: &Path, name: &OsStr) -> io::Result<tempfile::NamedTempFile> {
    let mut prefix = name.to_os_string();
    prefix.push(TEMPORARY);
    tempfile::Builder::new()
        .prefix(&prefix)
        .rand_bytes(RANDOM_LENGTH)
        .tempfile_in(dir)
}

/// Whether this is the name of a temporary file.
fn is_temporary(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let end = name.rsplit_once(TEMPORARY).map(|(_, end)| end);
    end.is_some_and(|end| end.len() == RANDOM_LENGTH && end.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Removes the temporary files of a killed keeper, some of which contain a password (keeper I16). Only while the
/// directory is locked.
pub fn remove_leftovers(dir: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).map_err(FileError::new("list", dir))?.flatten() {
        if is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::remove_file(entry.path()).map_err(FileError::new("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Removes a file; a missing one is not an error.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), FileError> {
    walker::progress_at(path);
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(FileError::new("remove", path)(source)),
        _ => Ok(()),
    }
}

/// Returns the contents of a text file; `None` if it does not exist.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    walker::progress_at(path);
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::new("read", path)(source)),
    }
}

/// Reads a file of any content; `None` if it does not exist.
pub(crate) fn read_bytes_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    walker::progress_at(path);
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::new("read", path)(source)),
    }
}

/// Whether a file or directory exists.
pub(crate) fn exists(path: &Path) -> Result<bool, FileError> {
    walker::progress_at(path);
    path.try_exists().map_err(FileError::new("look for", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_rewritten_file_is_private_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dbstate");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Rule: keeper 12.12.1. All files of a configuration were one step, which a slow disk never ended in time.
    #[test]
    fn each_sync_of_a_written_file_is_progress() {
        let dir = tempfile::tempdir().unwrap();
        let (written, steps) = walker::count_steps(|| write_atomically(&dir.path().join("dbstate"), b"new"));
        written.unwrap();
        assert_eq!(steps, 5, "begun, synced, renamed, directory synced, done");
    }

    #[tokio::test]
    async fn a_hanging_write_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("postgresql.conf");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let walker = walker::Walker::new(std::time::Duration::from_millis(50));
        let read = pipe.clone();
        let hung = walker.run(move || read_if_there(&read)).await.unwrap_err(); // the pipe has no writer
        assert_eq!(hung.path, pipe);
        drop(File::options().write(true).open(&pipe).unwrap());
    }

    #[test]
    fn leftovers_of_a_killed_keeper_are_removed_and_an_operator_s_copies_stay() {
        let dir = tempfile::tempdir().unwrap();
        let leftover = temporary(dir.path(), "pgpass".as_ref())
            .unwrap()
            .into_temp_path()
            .keep()
            .unwrap();
        let kept = [
            "dbstate.backup",
            "pgpass.txt",
            "dbstate",
            "initdb.123456",
            "directories.bak",
        ];
        for name in kept {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("dbstate.stolon-tmp-abcdef")).unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert!(!leftover.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), kept.len() + 1);
    }

    #[test]
    fn a_full_disk_is_named_with_its_remedy() {
        // Writing to /dev/full fails like writing to a full disk.
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
            .write_all(b"x")
            .unwrap_err();
        let message = FileError::new("write", "/data/dbstate")(full).to_string();
        assert_eq!(message, "write /data/dbstate (free space on its file system)");
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
