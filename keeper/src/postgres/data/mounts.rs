//! Mount points. Nothing is moved or removed through a mount point: the mounted file system may belong to something
//! else.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect;
use crate::postgres::data::walker;

/// All mount points of this process's namespace, as of one reading.
#[derive(Debug)]
pub struct Mounts(Option<Vec<PathBuf>>);

impl Mounts {
    /// Reads them; once for all directories that are checked together.
    pub fn read() -> Self {
        let table = fs::read("/proc/self/mountinfo").ok();
        let points = table.map(|table| {
            let points = of_table(&String::from_utf8_lossy(&table)).collect::<Vec<_>>();
            #[cfg(test)]
            let points = [points, fake::points()].concat();
            points
        });
        Self(points)
    }

    /// Returns a mount point below a directory, at any depth.
    pub fn below(&self, dir: &Path) -> Result<Option<PathBuf>, FileError> {
        walker::progress_at(dir);
        let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let Some(points) = &self.0 else {
            return by_device(dir);
        };
        let is_below = |point: &&PathBuf| **point != real && point.starts_with(&real);
        Ok(points.iter().find(is_below).cloned())
    }

    /// Returns the directory itself if it is a mount point, or one below it. A link is not followed: its target is
    /// neither moved nor removed with it.
    pub fn at_or_below(&self, path: &Path) -> Result<Option<PathBuf>, FileError> {
        walker::progress_at(path);
        if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(None);
        }
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let is_one = match &self.0 {
            Some(points) => points.contains(&real),
            None => !inspect::is_movable(&real),
        };
        if is_one { Ok(Some(real)) } else { self.below(path) }
    }

    /// Returns the first mount point that is, or is below, one of these directories.
    pub fn first(&self, dirs: impl IntoIterator<Item = PathBuf>) -> Result<Option<PathBuf>, FileError> {
        for dir in dirs {
            if let Some(point) = self.at_or_below(&dir)? {
                return Ok(Some(point));
            }
        }
        Ok(None)
    }
}

/// Returns the error for a mount point in a tree to remove.
pub fn mounted_error(point: &Path) -> io::Error {
    let why = format!("a file system is mounted at {}: unmount it", point.display());
    io::Error::new(io::ErrorKind::ResourceBusy, why)
}

/// The fifth field of each line; space, tab, newline and backslash are written in octal (proc_pid_mountinfo(5)).
fn of_table(table: &str) -> impl Iterator<Item = PathBuf> + '_ {
    let fields = table.lines().filter_map(|line| line.split(' ').nth(4));
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let unescaped = move |field: &str| {
        plain
            .iter()
            .fold(field.to_owned(), |text, (code, sign)| text.replace(code, sign))
    };
    fields.map(move |field| PathBuf::from(unescaped(field)))
}

/// Without `/proc`: entries of the directory on another device.
fn by_device(dir: &Path) -> Result<Option<PathBuf>, FileError> {
    let Ok(own) = fs::metadata(dir) else { return Ok(None) };
    let is_mounted = |path: &PathBuf| {
        let entry = fs::symlink_metadata(path);
        entry.is_ok_and(|entry| entry.is_dir() && entry.dev() != own.dev())
    };
    Ok(inspect::entries(dir)?.into_iter().find(is_mounted))
}

/// Mount points that tests add to the real ones; mounting needs privileges.
#[cfg(test)]
pub(crate) mod fake {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local!(static POINTS: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) });

    pub(crate) fn mount(at: &Path) {
        POINTS.with_borrow_mut(|points| points.push(at.canonicalize().unwrap()));
    }

    pub(crate) fn unmount() {
        POINTS.with_borrow_mut(Vec::clear);
    }

    pub(super) fn points() -> Vec<PathBuf> {
        POINTS.with_borrow(Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_at_any_depth_and_with_odd_names() {
        let table =
            "36 35 98:0 / /data/base\\040one/backup rw - ext4 /dev/root rw\n37 35 0:3 / /proc rw - proc proc rw\n";
        let points: Vec<_> = of_table(table).collect();
        assert_eq!(points, [Path::new("/data/base one/backup"), Path::new("/proc")]);
        let has_proc = Path::new("/proc/self").exists();
        let mounts = Mounts::read();
        assert_eq!(mounts.below(Path::new("/")).unwrap().is_some(), has_proc);
        assert_eq!(mounts.at_or_below(Path::new("/proc")).unwrap().is_some(), has_proc);
    }

    #[test]
    fn a_mount_point_is_not_below_itself_and_a_link_to_one_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let (point, link) = (dir.path().join("a/point"), dir.path().join("link"));
        fs::create_dir_all(&point).unwrap();
        std::os::unix::fs::symlink(&point, &link).unwrap();
        fake::mount(&point);
        let (mounts, real) = (Mounts::read(), point.canonicalize().unwrap());
        assert_eq!(mounts.below(&point).unwrap(), None);
        assert_eq!(mounts.at_or_below(&point).unwrap(), Some(real.clone()));
        assert_eq!(mounts.at_or_below(&dir.path().join("a")).unwrap(), Some(real));
        assert_eq!(mounts.at_or_below(&link).unwrap(), None);
        fake::unmount();
    }
}
