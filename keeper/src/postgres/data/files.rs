//! The files of one data directory that are read or written without the server. Their contents are decided by the
//! callers (`conf`, `hba`, `local`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect;

/// WAL segment size that the reference assumes, in bytes (keeper section 0).
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Writes a file atomically and durably (keeper 2.5): a temporary file beside it, mode 0600, is synced and renamed;
/// then the directory is synced, too, because `dbstate` must survive a crash.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let attempt = || -> io::Result<()> {
        let (dir, name) = match (path.parent(), path.file_name()) {
            (Some(dir), Some(name)) => (dir, name),
            _ => return Err(io::Error::new(ErrorKind::InvalidInput, "not the path of a file")),
        };
        let mut file = temporary(dir, name)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|failed| failed.error)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(FileError::new("write", path))
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

/// Entries that initdb creates in every data directory (keeper 12.2; majors 12 to 18).
pub(crate) const REQUIRED_ENTRIES: [&str; 18] = [
    "PG_VERSION",
    "base",
    "global",
    "global/pg_control",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_xact",
    "pg_wal",
];

/// For tests: a complete PGDATA of major 15 with catalog version 202209061; the file `base/content` holds `content`.
#[cfg(test)]
pub(crate) fn make_data(data: &Path, content: &str) {
    let is_directory = |part: &&str| !part.contains('/') && *part != "PG_VERSION";
    for part in REQUIRED_ENTRIES.iter().copied().filter(is_directory) {
        fs::create_dir_all(data.join(part)).unwrap();
    }
    fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    let mut control = vec![0; 12];
    control.extend(202_209_061_u32.to_le_bytes());
    fs::write(data.join("global/pg_control"), control).unwrap();
    fs::write(data.join("base/content"), content).unwrap();
}

/// For tests: the directory in a tablespace's location for the PGDATA of [`make_data`].
#[cfg(test)]
pub(crate) const TABLESPACE_DIRECTORY: &str = "PG_15_202209061";

/// Whether this directory holds a database cluster. Fails if that cannot be determined.
pub fn is_initialised(data: &Path) -> Result<bool, FileError> {
    for part in REQUIRED_ENTRIES {
        if !exists(&data.join(part))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn exists(path: &Path) -> Result<bool, FileError> {
    path.try_exists().map_err(FileError::new("look for", path))
}

/// Returns the major of the data from the first line of `PG_VERSION`; `None` if there is no such file.
pub fn data_major(data: &Path) -> Result<Option<u32>, FileError> {
    let path = data.join("PG_VERSION");
    let Some(text) = read_if_there(&path)? else {
        return Ok(None);
    };
    let major = text.lines().next().unwrap_or("").trim();
    let major = major.split('.').next().unwrap_or("").parse();
    major.map(Some).map_err(|_| {
        FileError::new("read a version from", path)(io::Error::new(
            ErrorKind::InvalidData,
            "no number in its first line",
        ))
    })
}

/// Existing signal files. The server reads them at its start and removes them at the end of recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalFiles {
    /// `standby.signal`: the instance is a standby (keeper R16).
    pub standby: bool,
    /// `recovery.signal`: a recovery to a target; it does not determine the role.
    pub recovery: bool,
}

/// Reads the signal files.
pub fn signals(data: &Path) -> Result<SignalFiles, FileError> {
    Ok(SignalFiles {
        standby: exists(&data.join(STANDBY))?,
        recovery: exists(&data.join(RECOVERY))?,
    })
}

/// Writes `standby.signal` (empty, mode 0600), and removes an obsolete `recovery.signal`.
pub fn signal_standby(data: &Path) -> Result<(), FileError> {
    write_signal(data, STANDBY)?;
    remove_if_there(&data.join(RECOVERY))
}

/// Removes an obsolete `recovery.signal`, which would make the next start of a master fail (keeper 7.4).
/// `standby.signal` is kept: only a promotion makes a standby a master (keeper I2).
pub fn remove_recovery_signal(data: &Path) -> Result<(), FileError> {
    remove_if_there(&data.join(RECOVERY))
}

/// Renames a `recovery.conf`, with which no supported server starts (keeper 7.4). Returns the new name if there was
/// one.
pub fn set_aside_recovery_conf(data: &Path) -> Result<Option<PathBuf>, FileError> {
    let (old, aside) = (data.join("recovery.conf"), data.join("recovery.conf.aside"));
    match fs::rename(&old, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::new("rename", old)(source)),
    }
}

const STANDBY: &str = "standby.signal";
const RECOVERY: &str = "recovery.signal";

fn write_signal(data: &Path, name: &str) -> Result<(), FileError> {
    let path = data.join(name);
    if exists(&path)? {
        Ok(())
    } else {
        write_atomically(&path, b"")
    }
}

/// Removes a file; a missing one is not an error.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(FileError::new("remove", path)(source)),
        _ => Ok(()),
    }
}

/// Makes `postgresql.auto.conf` a symbolic link to `/dev/null`, so that settings of an earlier ALTER SYSTEM or
/// `pg_basebackup -R` have no effect and ALTER SYSTEM fails (keeper 8.5, I17).
pub fn link_auto_conf(data: &Path) -> Result<(), FileError> {
    let path = data.join("postgresql.auto.conf");
    if fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null")) {
        return Ok(());
    }
    remove_if_there(&path)?;
    symlink("/dev/null", &path).map_err(FileError::new("link to /dev/null", path))
}

/// Sets the mode of the data directory to 0700, as the server requires, unless it is 0700 or 0750.
pub fn restrict_data_mode(data: &Path) -> Result<(), FileError> {
    let attempt = || {
        let mode = fs::metadata(data)?.permissions().mode() & 0o777;
        if matches!(mode, 0o700 | 0o750) {
            return Ok(());
        }
        fs::set_permissions(data, fs::Permissions::from_mode(0o700))
    };
    attempt().map_err(FileError::new("set the mode of", data))
}

/// Returns the names in a directory that are valid UTF-8; none if it does not exist.
pub fn file_names(dir: &Path) -> Result<Vec<String>, FileError> {
    let names = inspect::entries(dir)?.into_iter();
    Ok(names
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .collect())
}

/// Returns the names of the replication slots in a data directory. Slots that were being created or dropped do not
/// count: the next start removes them (slot.c).
pub fn slot_names(data: &Path) -> Result<Vec<String>, FileError> {
    let names = inspect::entries(&data.join("pg_replslot"))?
        .into_iter()
        .filter(|path| path.is_dir())
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.filter(|name| !name.ends_with(".tmp")).collect())
}

/// Whether this is the name of a WAL segment file: 24 characters `0`-`9`, `A`-`F` (keeper T4).
pub fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// Oldest WAL segment in `pg_wal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldestWal {
    /// Its name.
    File(String),
    /// There are no segments.
    NoneThere,
    /// Segments are not 16 MiB, as sentinels assume, so nothing is published (keeper W27).
    OtherSize {
        /// Segment size in bytes.
        bytes: u64,
    },
}

/// Returns the oldest segment in `pg_wal`: the first name in text order (keeper 3.5 step 8).
pub fn oldest_wal(data: &Path) -> Result<OldestWal, FileError> {
    let dir = data.join("pg_wal");
    let names = inspect::entries(&dir)?
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let Some(oldest) = names.filter(|name| is_segment_name(name)).min() else {
        return Ok(OldestWal::NoneThere);
    };
    let path = dir.join(&oldest);
    let bytes = fs::metadata(&path).map_err(FileError::new("look at", path))?.len();
    Ok(if bytes == SEGMENT_BYTES {
        OldestWal::File(oldest)
    } else {
        OldestWal::OtherSize { bytes }
    })
}

/// Contents of a server's lock file, `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// Its process id; negative for a single-user server.
    pub pid: i32,
    /// Start time in seconds since 1970, line 3.
    pub started: Option<u64>,
    /// State, line 8 (`utils/pidfile.h`): `starting`, `ready`, `standby`, `stopping`; `None` until its sockets are
    /// open.
    pub status: Option<String>,
}

/// Reads `postmaster.pid`; `None` if it does not exist or is incomplete.
pub fn pid_file(data: &Path) -> Result<Option<PidFile>, FileError> {
    let Some(text) = read_if_there(&data.join("postmaster.pid"))? else {
        return Ok(None);
    };
    let mut lines = text.lines();
    let Some(pid) = lines.next().and_then(|line| line.trim().parse().ok()) else {
        return Ok(None);
    };
    let started = lines.nth(1).and_then(|line| line.trim().parse().ok());
    let status = lines
        .nth(4)
        .map(str::trim)
        .filter(|status| !status.is_empty())
        .map(str::to_owned);
    Ok(Some(PidFile { pid, started, status }))
}

/// Contents of a socket's lock file, which begins like `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketLock {
    /// Its process id.
    pub pid: i32,
    /// Its data directory.
    pub data: Option<PathBuf>,
}

/// Reads the lock file of a socket; `None` if it does not exist or is incomplete.
pub fn socket_lock(lock: &Path) -> Result<Option<SocketLock>, FileError> {
    let text = read_if_there(lock)?.unwrap_or_default();
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse().ok());
    let data = lines.next().filter(|line| !line.is_empty()).map(PathBuf::from);
    Ok(pid.map(|pid| SocketLock { pid, data }))
}

fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::new("read", path)(source)),
    }
}

/// Removes `postmaster.pid`. The caller has made sure that no server runs.
pub fn remove_lock(data: &Path) -> Result<(), FileError> {
    remove_if_there(&data.join("postmaster.pid"))
}

#[cfg(test)]
mod tests;
