//! Directory trees as the file system knows them: which one a path leads to, how large it is, how much room there is,
//! moving and removing what is in it. Whose a directory is `owned` knows.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::postgres::files::FileError;
use crate::postgres::layout::LOST_FOUND;
use crate::postgres::mounts::{self, Mounts};
use crate::postgres::walker;

/// Which directory a path leads to, as long as the system runs; device numbers may change when it starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// The directory or file that a path leads to; links are followed.
pub fn file_id(path: &Path) -> io::Result<FileId> {
    walker::progress_at(path);
    let metadata = fs::metadata(path)?;
    Ok(FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// What tells a directory from others for as long as it exists: its inode and the time of its creation, because an
/// inode number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirMark {
    inode: u64,
    /// Nanoseconds since 1970; 0 where the file system does not record it.
    born: u64,
}

impl DirMark {
    /// Whether a directory with this mark is the one that had it before: without the time of its creation it may be
    /// another one with a freed inode number.
    pub fn proves(self) -> bool {
        self.born != 0
    }
}

/// The mark of the directory that a path leads to; `None` when there is none.
pub fn mark(path: &Path) -> Result<Option<DirMark>, FileError> {
    walker::progress_at(path);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(gone) if matches!(gone.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(source) => return Err(FileError::new("look at", path)(source)),
    };
    let born = metadata
        .created()
        .ok()
        .and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    Ok(Some(DirMark {
        inode: metadata.ino(),
        born: born.and_then(|born| u64::try_from(born.as_nanos()).ok()).unwrap_or(0),
    }))
}

/// The device of the file system that a path lies on, or would lie on, and the bytes that a user may still write there.
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

/// The bytes that a tree takes, links not followed; 0 when it is not there. What vanishes meanwhile does not count.
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

/// The paths in a directory; none when there is no such directory.
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

/// Whether a directory can be renamed as a whole: it is no link, and no file system is mounted there as far as its
/// device shows it.
pub fn is_movable(dir: &Path) -> bool {
    let parent = dir.parent().and_then(|parent| fs::metadata(parent).ok());
    let own = fs::symlink_metadata(dir).ok();
    own.zip(parent)
        .is_some_and(|(own, parent)| own.is_dir() && own.dev() == parent.dev())
}

/// Makes what was done in a directory durable.
pub fn sync(dir: &Path) -> Result<(), FileError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(FileError::new("sync", dir))
}

/// Creates a directory with its parents, for the own user only; one that is there is fine.
pub fn create(dir: &Path) -> Result<(), FileError> {
    walker::progress_at(dir);
    let made = cut::step().and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir));
    made.map_err(FileError::new("create", dir))
}

/// Renames a directory or file, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    let renamed = cut::step().and_then(|()| fs::rename(from, to));
    renamed.map_err(FileError::new("rename", from))?;
    for parent in [from.parent(), to.parent()].into_iter().flatten() {
        sync(parent)?;
    }
    Ok(())
}

/// The same, refused where `to` is there already, even as an empty directory.
pub fn rename_to_free(from: &Path, to: &Path) -> Result<(), FileError> {
    use rustix::fs::{RenameFlags, renameat_with};
    let renamed = cut::step().and_then(|()| Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?));
    match renamed {
        // A file system without the flag, such as NFS.
        Err(unknown) if unknown.kind() == ErrorKind::InvalidInput && !to.exists() => return rename(from, to),
        renamed => renamed.map_err(FileError::new("rename", from))?,
    }
    for parent in [from.parent(), to.parent()].into_iter().flatten() {
        sync(parent)?;
    }
    Ok(())
}

/// Moves the entries of `from` whose names `moves` says yes to into `to`, both on one file system; what was moved
/// before an interruption is not there any more.
pub fn move_entries(from: &Path, to: &Path, moves: impl Fn(&OsStr) -> bool) -> Result<(), FileError> {
    for entry in entries(from)? {
        let name = entry.file_name().unwrap_or_default();
        if moves(name) {
            let renamed = cut::step().and_then(|()| fs::rename(&entry, to.join(name)));
            renamed.map_err(FileError::new("rename", &entry))?;
        }
    }
    sync(from)?;
    sync(to)
}

/// Removes the entries of a directory whose names `goes` says yes to, but never a `lost+found`.
pub fn remove_entries(dir: &Path, goes: impl Fn(&OsStr) -> bool) -> Result<(), FileError> {
    let mounts = Mounts::read();
    for entry in entries(dir)? {
        let name = entry.file_name().unwrap_or_default();
        if name != LOST_FOUND && goes(name) {
            remove_unless_mounted(&entry, &mounts)?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a whole tree, without following links; one that is not there is fine. A tree that is a mount
/// point, or has one in it, stays whole.
pub fn remove(path: &Path) -> Result<(), FileError> {
    remove_unless_mounted(path, &Mounts::read())
}

fn remove_unless_mounted(path: &Path, mounts: &Mounts) -> Result<(), FileError> {
    let removed = match cut::step().and_then(|()| fs::symlink_metadata(path)) {
        Ok(metadata) if metadata.is_dir() => match mounts.at_or_below(path)? {
            Some(point) => Err(mounts::mounted_error(&point)),
            None => remove_tree(CWD, path.as_os_str(), path),
        },
        Ok(_) => fs::remove_file(path),
        Err(source) => Err(source),
    };
    match removed {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(FileError::new("remove", path)(source)),
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it, each entry a step of the walk (`walk::at`). Every name is looked up in the open
/// directory that was listed, so that nothing outside is reached where a link is put in a directory's place meanwhile.
fn remove_tree(parent: impl AsFd, name: &OsStr, path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    walker::progress_at(path);
    let dir = openat(&parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let path = path.join(name);
        walker::progress_at(&path);
        match unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A directory: Linux has the first error for it, POSIX the second.
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(&dir, name, &path)?,
            Err(other) => return Err(other.into()),
        }
    }
    walker::progress_at(path);
    Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}

/// Where tests interrupt a sequence of changes, as a crash would.
pub(crate) mod cut {
    #[cfg(not(test))]
    pub(crate) fn step() -> std::io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(crate) use tests_only::{after, never, step};

    #[cfg(test)]
    mod tests_only {
        use std::cell::Cell;
        use std::io;

        thread_local!(static LEFT: Cell<Option<u32>> = const { Cell::new(None) });

        /// Every change after the next `count` ones fails.
        pub(crate) fn after(count: u32) {
            LEFT.set(Some(count));
        }

        /// No change fails; tells whether one has.
        pub(crate) fn never() -> bool {
            LEFT.replace(None) == Some(0)
        }

        pub(crate) fn step() -> io::Result<()> {
            match LEFT.get() {
                None => Ok(()),
                Some(0) => Err(io::Error::other("cut here")),
                Some(left) => {
                    LEFT.set(Some(left - 1));
                    Ok(())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_keeps_its_mark_when_it_is_renamed_and_another_one_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        let before = mark(&a).unwrap();
        assert!(before.is_some());
        rename(&a, &b).unwrap();
        assert_eq!((mark(&a).unwrap(), mark(&b).unwrap()), (None, before));
        fs::create_dir(&a).unwrap();
        assert_ne!(mark(&a).unwrap(), before);
    }

    #[test]
    fn removing_never_follows_a_link_and_spares_a_lost_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let (data, other) = (dir.path().join("data"), dir.path().join("other"));
        for made in [data.join("base"), data.join("lost+found/x"), other.join("kept")] {
            fs::create_dir_all(made).unwrap();
        }
        symlink(&other, data.join("link")).unwrap();
        symlink(&other, data.join("base/link")).unwrap();
        remove_entries(&data, |_| true).unwrap();
        assert_eq!(entries(&data).unwrap(), [data.join("lost+found")]);
        assert!(data.join("lost+found/x").exists() && other.join("kept").exists());
        remove(&data.join("gone")).unwrap();
    }

    #[test]
    fn a_removal_shows_how_it_gets_on() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        for name in ["a", "b", "c"] {
            fs::create_dir_all(data.join("base").join(name)).unwrap();
            fs::write(data.join("base").join(name).join("file"), "").unwrap();
        }
        let (removed, steps) = walker::count_steps(|| remove(&data));
        removed.unwrap();
        assert!(!data.exists());
        assert!(steps > 8, "each of the entries is a step, not the tree: {steps}");
    }

    #[test]
    fn a_mark_without_a_time_of_creation_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = mark(dir.path()).unwrap().unwrap();
        assert!(!DirMark { born: 0, ..found }.proves());
        assert_eq!(found.proves(), found.born != 0);
    }

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
