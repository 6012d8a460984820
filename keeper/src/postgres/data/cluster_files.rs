//! PGDATA as a database cluster: whether it is one, of which version, and the files that decide how its server starts.
//! The generated configuration is in `config`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::postgres::data::atomic_files::{exists, read_if_there, remove_if_there, write_atomically};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect;
use crate::postgres::data::walker;

/// Entries that initdb creates in every PGDATA (keeper 12.2; majors 12 to 18).
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
    Ok(missing_entry(data)?.is_none())
}

/// Returns the first entry that this directory lacks to be a database cluster. A link counts if its target exists.
pub fn missing_entry(data: &Path) -> Result<Option<&'static str>, FileError> {
    // One list is cheaper than a look at each of them. What it does not prove, a look does.
    walker::progress_at(data);
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    let no_links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    let listed: HashSet<OsString> = no_links.map(|entry| entry.file_name()).collect();
    for part in REQUIRED_ENTRIES {
        if !listed.contains(OsStr::new(part)) && !exists(&data.join(part))? {
            return Ok(Some(part));
        }
    }
    Ok(None)
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

/// What the recovery of a restored backup ends as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverySignal {
    /// A master on a new timeline: `recovery.signal`.
    Recovery,
    /// A standby: `standby.signal`.
    Standby,
}

impl RecoverySignal {
    fn file(self) -> &'static str {
        match self {
            Self::Recovery => RECOVERY,
            Self::Standby => STANDBY,
        }
    }
}

/// Prepares a restored backup, which no server has started yet, for its recovery: its signal file is that one, and lock
/// files of the server that was backed up are removed. Only here a `standby.signal` is removed: that of a backup of a
/// standby, whose recovery ends on a new timeline (keeper I2).
pub fn prepare_recovery(restored: &Path, signal: RecoverySignal) -> Result<(), FileError> {
    let other = match signal {
        RecoverySignal::Recovery => RecoverySignal::Standby,
        RecoverySignal::Standby => RecoverySignal::Recovery,
    };
    write_signal(restored, signal.file())?;
    for name in [other.file(), "postmaster.pid", "postmaster.opts"] {
        remove_if_there(&restored.join(name))?;
    }
    Ok(())
}

/// Writes the signal file of a recovery that has not ended, although its signal file is gone.
pub fn continue_recovery(data: &Path, signal: RecoverySignal) -> Result<(), FileError> {
    write_signal(data, signal.file())
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
const BACKUP_LABEL: &str = "backup_label";

fn write_signal(data: &Path, name: &str) -> Result<(), FileError> {
    let path = data.join(name);
    if exists(&path)? {
        Ok(())
    } else {
        write_atomically(&path, b"")
    }
}

/// Returns a file that shows that a backup was put here and has not been recovered.
pub fn unfinished_restore(data: &Path) -> Result<Option<&'static str>, FileError> {
    for name in [RECOVERY, BACKUP_LABEL] {
        if exists(&data.join(name))? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Copies the configuration files that the keeper replaces to the same names with `.original`, unless such a copy
/// exists. A link is not followed: `postgresql.auto.conf` is one in data that a keeper has used before.
pub fn keep_original_files(data: &Path) -> Result<(), FileError> {
    for name in ["postgresql.conf", "pg_hba.conf", "postgresql.auto.conf"] {
        let (file, copy) = (data.join(name), data.join(format!("{name}.original")));
        let is_file = fs::symlink_metadata(&file).is_ok_and(|found| found.is_file());
        if is_file && !exists(&copy)? {
            let content = fs::read(&file).map_err(FileError::new("read", &file))?;
            write_atomically(&copy, &content)?;
        }
    }
    Ok(())
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

/// Sets the mode of PGDATA to 0700, as the server requires, unless it is 0700 or 0750.
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

/// Returns the names of the replication slots in a PGDATA. Slots that were being created or dropped do not
/// count: the next start removes them (slot.c).
pub fn slot_names(data: &Path) -> Result<Vec<String>, FileError> {
    let names = inspect::entries(&data.join("pg_replslot"))?
        .into_iter()
        .filter(|path| path.is_dir())
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.filter(|name| !name.ends_with(".tmp")).collect())
}

#[cfg(test)]
mod tests;
