//! How one process uses PGDATA, read from `/proc`. In another mount namespace a path proves nothing. Finding all
//! such processes and ending them is left to `pgdata_holders`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::postgres::data::identity::FileId;
use crate::postgres::data::owned_dirs;
use crate::postgres::data::walker;
use crate::postgres::programs::environment::RESTORE_DIRECTORY;
use crate::postgres::server::process;

/// How a process uses a PGDATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseKind {
    /// An argument names it.
    Argument,
    /// A process of PostgreSQL has it as its working directory.
    WorkingDirectory,
    /// It has a file in the directory open for writing.
    OpenFile,
    /// A program of PostgreSQL uses it by `PGDATA`.
    Environment,
    /// Its `STOLON_RESTORE_DIRECTORY` is in PGDATA: a restore command, or what one has started.
    RestoreCommand,
}

impl UseKind {
    /// Returns the reason for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Argument => "an argument names PGDATA",
            Self::WorkingDirectory => "its working directory is PGDATA",
            Self::OpenFile => "it has a file of PGDATA open for writing",
            Self::Environment => "its environment variable PGDATA names it",
            Self::RestoreCommand => "its environment variable STOLON_RESTORE_DIRECTORY names PGDATA",
        }
    }
}

/// Returns the title of a process and how it uses the data, if it does. Other users' processes are skipped.
pub(super) fn use_by(pid: i32, data_dir: &PgDataPath) -> Option<(String, UseKind)> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    walker::progress_at(&proc);
    if fs::metadata(&proc).ok()?.uid() != geteuid().as_raw() {
        return None;
    }
    let command: Vec<OsString> = fs::read(proc.join("cmdline"))
        .ok()?
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    let cwd = fs::read_link(proc.join("cwd")).unwrap_or_default();
    let executable = fs::read_link(proc.join("exe")).unwrap_or_default();
    let title = command.first().cloned().unwrap_or_default();
    let is_server = process::is_postgres(pid);
    let is_program = is_server || is_program_of_postgres(&title) || is_program_of_postgres(executable.as_os_str());
    let named = arguments_for_data(&command, is_program);
    let view = MountView::of(&proc);
    let how = if named.iter().any(|path| view.is(data_dir, path, &cwd)) {
        UseKind::Argument
    } else if is_server && data_dir.id.is_some() && process::working_directory(pid) == data_dir.id {
        UseKind::WorkingDirectory
    } else if writes_below(&proc, &data_dir.path, &view) {
        UseKind::OpenFile
    } else if (is_server || writes_to_pgdata(&title) || writes_to_pgdata(executable.as_os_str()))
        && named.is_empty()
        && variable(&proc, "PGDATA").is_some_and(|path| view.is(data_dir, &path, &cwd))
    {
        UseKind::Environment
    } else if variable(&proc, RESTORE_DIRECTORY).is_some_and(|path| view.is(data_dir, &path, &cwd)) {
        UseKind::RestoreCommand
    } else {
        return None;
    };
    Some((title.to_string_lossy().into_owned(), how))
}

/// A PGDATA, which may be missing.
#[derive(Debug)]
pub(super) struct PgDataPath {
    path: PathBuf,
    id: Option<FileId>,
}

impl PgDataPath {
    pub(super) fn of(data: &Path) -> Self {
        // If it is missing, its parent may still be reached through a link.
        let real = fs::canonicalize(data).ok().or_else(|| {
            let parent = fs::canonicalize(data.parent()?).ok()?;
            Some(parent.join(data.file_name()?))
        });
        Self {
            path: real.unwrap_or_else(|| data.to_owned()),
            id: FileId::of(data).ok(),
        }
    }

    /// Whether a path, relative to a process's working directory, is PGDATA or the directory in it in which
    /// new data are created.
    fn is(&self, path: &Path, cwd: &Path) -> bool {
        if path.as_os_str().is_empty() {
            return false;
        }
        let mut path = cwd.join(path);
        if path.file_name().is_some_and(owned_dirs::is_new) {
            path.pop();
        }
        let is_same = self.id.is_some() && FileId::of(&path).ok() == self.id;
        is_same || Self::of(&path).path == self.path
    }
}

/// Mount namespace of a process.
#[derive(Debug)]
enum MountView {
    /// The same as ours.
    Ours,
    /// Another one, or an unreadable one: a path proves nothing, an inode does. Holds its root directory.
    Other(PathBuf),
}

impl MountView {
    fn of(proc: &Path) -> Self {
        let mounts = |proc: &Path| fs::read_link(proc.join("ns/mnt")).ok();
        let theirs = mounts(proc);
        match theirs.is_some() && theirs == mounts(Path::new("/proc/self")) {
            true => Self::Ours,
            false => Self::Other(proc.join("root")),
        }
    }

    /// Whether a path of such a process is PGDATA.
    fn is(&self, data_dir: &PgDataPath, path: &Path, cwd: &Path) -> bool {
        match self {
            Self::Ours => data_dir.is(path, cwd),
            Self::Other(_) if path.as_os_str().is_empty() => false,
            Self::Other(root) => {
                let path = cwd.join(path);
                let path = root.join(path.strip_prefix("/").unwrap_or(&path));
                data_dir.id.is_some() && FileId::of(&path).ok() == data_dir.id
            }
        }
    }

    /// Whether an open file of a process is the file at its path in our namespace.
    fn is_same_file(&self, open: &Path, path: &Path) -> bool {
        match self {
            Self::Ours => true,
            Self::Other(_) => FileId::of(open).is_ok_and(|open| FileId::of(path).ok() == Some(open)),
        }
    }
}

/// Whether this is a program of PostgreSQL, such as `pg_basebackup`, `initdb` or `.pg_ctl-wrapped`.
fn is_program_of_postgres(path: &OsStr) -> bool {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    name.starts_with("pg_") || name.starts_with("initdb") || name.starts_with("postgres")
}

/// Whether a program uses the directory in its variable PGDATA and may write there. Clients such as pg_dump inherit the
/// variable, too.
fn writes_to_pgdata(path: &OsStr) -> bool {
    const PROGRAMS: [&str; 9] = [
        "postgres",
        "postmaster",
        "initdb",
        "pg_ctl",
        "pg_rewind",
        "pg_basebackup",
        "pg_resetwal",
        "pg_checksums",
        "pg_upgrade",
    ];
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    PROGRAMS.contains(&name.strip_suffix("-wrapped").unwrap_or(name))
}

/// Returns the arguments that may name a PGDATA: the values of `-D` and `--pgdata`, and every argument of a
/// program of PostgreSQL.
fn arguments_for_data(command: &[OsString], is_program: bool) -> Vec<PathBuf> {
    const LONG: [&str; 2] = ["--pgdata", "--target-pgdata"];
    let mut found = Vec::new();
    let mut words = command.iter().skip(1).peekable();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        let value = |rest: &[u8]| PathBuf::from(OsStr::from_bytes(rest));
        if bytes == b"-D" || LONG.iter().any(|name| word == *name) {
            found.extend(words.peek().map(PathBuf::from));
        } else if let Some(rest) = bytes.strip_prefix(b"-D") {
            found.push(value(rest));
        } else if let Some(rest) = LONG
            .iter()
            .find_map(|name| bytes.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        {
            found.push(value(rest));
        } else if is_program && !bytes.starts_with(b"-") && bytes.contains(&b'/') {
            found.push(PathBuf::from(word));
        }
    }
    found
}

/// Whether a process has a file below `dir` open for writing (proc_pid_fd(5), proc_pid_fdinfo(5)).
fn writes_below(proc: &Path, dir: &Path, view: &MountView) -> bool {
    let Ok(open) = fs::read_dir(proc.join("fd")) else {
        return false;
    };
    open.flatten().any(|descriptor| {
        let is_below = fs::read_link(descriptor.path())
            .is_ok_and(|file| file.starts_with(dir) && view.is_same_file(&descriptor.path(), &file));
        is_below && is_for_writing(&proc.join("fdinfo").join(descriptor.file_name()))
    })
}

fn is_for_writing(info: &Path) -> bool {
    const ACCESS_MODE: u32 = 3; // O_ACCMODE; 0 is O_RDONLY
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & ACCESS_MODE != 0)
}

fn variable(proc: &Path, name: &str) -> Option<PathBuf> {
    let environment = fs::read(proc.join("environ")).ok()?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(PathBuf::from(OsStr::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_path_of_a_process_with_other_mounts_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        fs::create_dir(&data).unwrap();
        let data_dir = PgDataPath::of(&data);
        // Another volume at the same path, as in another container.
        let root = dir.path().join("root");
        fs::create_dir_all(root.join(data.strip_prefix("/").unwrap())).unwrap();
        let other = MountView::Other(root.clone());
        let cwd = Path::new("/");
        assert!(MountView::Ours.is(&data_dir, &data, cwd));
        assert!(!other.is(&data_dir, &data, cwd));
        assert!(!MountView::Other(root.join("not there")).is(&data_dir, &data, cwd));
        // The same volume at another path.
        let shared = MountView::Other(dir.path().to_owned());
        assert!(shared.is(&data_dir, Path::new("/postgres"), cwd));
        assert!(shared.is(&data_dir, Path::new("postgres"), cwd));

        fs::write(data.join("file"), "").unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert!(other.is_same_file(&data.join("file"), &data.join("file")));
        assert!(!other.is_same_file(&root.join("file"), &data.join("file")));
        assert!(matches!(MountView::of(Path::new("/proc/self")), MountView::Ours));
        assert!(matches!(MountView::of(Path::new("/proc/0")), MountView::Other(_)));
    }

    #[test]
    fn the_working_directory_is_known_without_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .current_dir(dir.path())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = process::working_directory(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, FileId::of(dir.path()).ok());
        assert_eq!(process::working_directory(0), None);
    }
}
