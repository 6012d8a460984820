//! Changes of directory trees: creating, moving and removing, durably and never through a link or a mount point.
//! Looking at them is left to `inspect`; what belongs to this keeper, to `owned_dirs`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, fstat, openat, openat2, unlinkat};
use rustix::io::Errno;

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect::entries;
use crate::postgres::data::layout::LOST_FOUND;
use crate::postgres::data::mounts::{self, Mounts};
use crate::postgres::data::walker;

/// Syncs a directory or a file.
pub fn sync(dir: &Path) -> Result<(), FileError> {
    let synced = walker::sync_at(dir, || File::open(dir).and_then(|dir| dir.sync_all()));
    synced.map_err(FileError::new("sync", dir))
}

/// Creates a directory with its parents, mode 0700; an existing one is not an error.
pub fn create(dir: &Path) -> Result<(), FileError> {
    walker::progress_at(dir);
    let made = fail_point::check().and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir));
    made.map_err(FileError::new("create", dir))
}

/// Renames a directory or file, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    walker::progress_at(from);
    let renamed = fail_point::check().and_then(|()| fs::rename(from, to));
    renamed.map_err(FileError::new("rename", from))?;
    for parent in [from.parent(), to.parent()].into_iter().flatten() {
        sync(parent)?;
    }
    Ok(())
}

/// Renames a directory or file, durably. Fails if `to` exists, even as an empty directory.
pub fn rename_to_free(from: &Path, to: &Path) -> Result<(), FileError> {
    use rustix::fs::{RenameFlags, renameat_with};
    walker::progress_at(from);
    let renamed = fail_point::check().and_then(|()| Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?));
    match renamed {
        // A file system that does not support the flag, such as NFS.
        Err(unknown) if unknown.kind() == ErrorKind::InvalidInput && !to.exists() => return rename(from, to),
        renamed => renamed.map_err(FileError::new("rename", from))?,
    }
    for parent in [from.parent(), to.parent()].into_iter().flatten() {
        sync(parent)?;
    }
    Ok(())
}

/// Moves the entries of `from` for which `should_move` returns true into `to`, on the same file system. Entries moved
/// before an interruption are skipped.
pub fn move_entries(from: &Path, to: &Path, should_move: impl Fn(&OsStr) -> bool) -> Result<(), FileError> {
    for entry in entries(from)? {
        let name = entry.file_name().unwrap_or_default();
        if should_move(name) {
            walker::progress_at(&entry);
            let renamed = fail_point::check().and_then(|()| fs::rename(&entry, to.join(name)));
            renamed.map_err(FileError::new("rename", &entry))?;
        }
    }
    sync(from)?;
    sync(to)
}

/// Copies a directory of files and directories into a new one, durably. Anything else in it is an error.
pub fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    create(to)?;
    for entry in entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        walker::progress_at(&entry);
        let kind = fs::symlink_metadata(&entry).map_err(FileError::new("examine", &entry))?;
        if kind.is_dir() {
            copy(&entry, &target)?;
        } else if kind.is_file() {
            let copied = fail_point::check().and_then(|()| fs::copy(&entry, &target));
            copied.map_err(FileError::new("copy", &entry))?;
            sync(&target)?;
        } else {
            let other = io::Error::other("it is neither a file nor a directory");
            return Err(FileError::new("copy", &entry)(other));
        }
    }
    sync(to)
}

/// Removes the entries of a directory for which `should_remove` returns true, but never a `lost+found`.
pub fn remove_entries(dir: &Path, should_remove: impl Fn(&OsStr) -> bool) -> Result<(), FileError> {
    let mounts = Mounts::read();
    for entry in entries(dir)? {
        let name = entry.file_name().unwrap_or_default();
        if name != LOST_FOUND && should_remove(name) {
            remove_unless_mounted(&entry, &mounts)?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a tree, without following links; a missing one is not an error. A tree that is or contains
/// a mount point is not touched.
pub fn remove(path: &Path) -> Result<(), FileError> {
    remove_unless_mounted(path, &Mounts::read())
}

fn remove_unless_mounted(path: &Path, mounts: &Mounts) -> Result<(), FileError> {
    walker::progress_at(path);
    let removed = match fail_point::check().and_then(|()| fs::symlink_metadata(path)) {
        Ok(metadata) if metadata.is_dir() => match mounts.at_or_below(path)? {
            Some(point) => Err(mounts::mounted_error(&point)),
            None => remove_tree_at(path),
        },
        Ok(_) => fs::remove_file(path),
        Err(source) => Err(source),
    };
    match removed {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(FileError::new("remove", path)(source)),
        _ => Ok(()),
    }
}

fn remove_tree_at(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    remove_tree(openat(CWD, parent, flags, Mode::empty())?, name, path)
}

/// Removes a directory recursively and reports each entry as progress (`walker::progress_at`). Names are resolved in
/// the open directory that was listed, so that a directory replaced by a link, or covered by a mount, meanwhile leads
/// nowhere else.
fn remove_tree(parent: impl AsFd, name: &OsStr, path: &Path) -> io::Result<()> {
    walker::progress_at(path);
    let dir = match open_unmounted(&parent, name) {
        Err(Errno::XDEV) => return Err(mounts::mounted_error(path)),
        opened => opened?,
    };
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
            // Directories: Linux returns the first error, POSIX specifies the second.
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(&dir, name, &path)?,
            Err(other) => return Err(other.into()),
        }
    }
    walker::progress_at(path);
    Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}

/// Opens a directory in another one unless it is a mount point.
fn open_unmounted(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(&parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // Linux before 5.6, or a container that denies unknown system calls: bind mounts are not detected.
        Err(Errno::NOSYS | Errno::PERM) => {
            let dir = openat(&parent, name, flags, Mode::empty())?;
            match fstat(&dir)?.st_dev == fstat(&parent)?.st_dev {
                true => Ok(dir),
                false => Err(Errno::XDEV),
            }
        }
        opened => opened,
    }
}

/// A fail point before each change, at which tests interrupt a sequence of changes, like a crash.
pub(crate) mod fail_point {
    #[cfg(not(test))]
    pub(crate) fn check() -> std::io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(crate) use tests_only::{check, disable, fail_after};

    #[cfg(test)]
    mod tests_only {
        use std::cell::Cell;
        use std::io;

        thread_local!(static LEFT: Cell<Option<u32>> = const { Cell::new(None) });

        /// Lets every change after the next `count` ones fail.
        pub(crate) fn fail_after(count: u32) {
            LEFT.set(Some(count));
        }

        /// Disables the fail point; returns whether a change has failed.
        pub(crate) fn disable() -> bool {
            LEFT.replace(None) == Some(0)
        }

        pub(crate) fn check() -> io::Result<()> {
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
    use crate::postgres::data::identity::DirIdentity;

    #[test]
    fn a_directory_keeps_its_mark_when_renamed_and_another_one_differs() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        let before = DirIdentity::of(&a).unwrap();
        assert!(before.is_some());
        rename(&a, &b).unwrap();
        assert_eq!(
            (DirIdentity::of(&a).unwrap(), DirIdentity::of(&b).unwrap()),
            (None, before)
        );
        fs::create_dir(&a).unwrap();
        assert_ne!(DirIdentity::of(&a).unwrap(), before);
    }

    #[test]
    fn removing_never_follows_a_link_and_keeps_lost_and_found() {
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
    fn a_removal_reports_its_progress() {
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
    fn each_entry_that_is_moved_or_removed_is_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for made in [&from, &to] {
            fs::create_dir(made).unwrap();
        }
        for number in 0..100 {
            fs::write(from.join(number.to_string()), "").unwrap();
        }
        let (moved, steps) = walker::count_steps(|| move_entries(&from, &to, |_| true));
        moved.unwrap();
        assert!(steps > 100, "many segments take longer than the limit: {steps}");
        let (removed, steps) = walker::count_steps(|| remove_entries(&to, |_| true));
        removed.unwrap();
        assert!(steps > 100, "{steps}");
    }

    /// The directory in which another process of this test program mounts and removes.
    const DIR: &str = "STOLON_TESTS_TREES_DIR";

    #[test]
    #[ignore = "the other process of another test"]
    fn removes_a_tree_for_another_test() {
        let Some(dir) = std::env::var_os(DIR) else { return }; // that it printed something is what the other test asserts
        println!("\nremoved: {:?}", remove_tree_at(&Path::new(&dir).join("tree")));
    }

    /// After the mount points were read: another directory of the same file system.
    #[test]
    fn what_is_mounted_meanwhile_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        let (point, other) = (dir.path().join("tree/base/point"), dir.path().join("other"));
        for made in [&point, &other] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(other.join("kept"), "").unwrap();
        let removal = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-e", "-c"])
            .args(["mount --bind \"$1\" \"$2\"; shift 2; exec \"$@\"", "sh"])
            .args([&other, &point, &std::env::current_exe().unwrap()])
            .args([
                "--exact",
                "postgres::data::trees::tests::removes_a_tree_for_another_test",
            ])
            .args(["--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&removal.stdout);
        assert!(
            printed.contains("removed: Err") && printed.contains("unmount it"),
            "{removal:?}"
        );
        assert!(other.join("kept").exists());
    }
}
