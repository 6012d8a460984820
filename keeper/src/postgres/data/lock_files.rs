//! The lock files of servers: `postmaster.pid`, and those of their sockets. Which process they name is left to
//! `server::process`.

use std::path::{Path, PathBuf};

use crate::postgres::data::atomic_files::{read_if_there, remove_if_there};
use crate::postgres::data::file_error::FileError;

/// Contents of a server's lock file, `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// Its process id; negative for a single-user server.
    pub pid: i32,
    /// Start time in seconds since 1970, line 3.
    pub started: Option<u64>,
    /// Its first socket directory, line 5; `None` for none.
    pub socket_dir: Option<String>,
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
    let text = |line: Option<&str>| {
        let text = line.map(str::trim).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    let socket_dir = text(lines.nth(1));
    let status = text(lines.nth(2));
    Ok(Some(PidFile {
        pid,
        started,
        socket_dir,
        status,
    }))
}

/// Contents of a socket's lock file, which begins like `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketLock {
    /// Its process id.
    pub pid: i32,
    /// Its PGDATA.
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

/// Removes `postmaster.pid`. The caller has made sure that no server runs.
pub fn remove_lock(data: &Path) -> Result<(), FileError> {
    remove_if_there(&data.join("postmaster.pid"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_lock_file_contains_pid_and_state() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(dir.path().join("postmaster.pid"), text).unwrap();
        assert_eq!(pid_file(dir.path()).unwrap(), None);
        write("");
        assert_eq!(pid_file(dir.path()).unwrap(), None);
        write("4711\n/data\n1700000000\n5432\n/tmp\n");
        assert_eq!(
            pid_file(dir.path()).unwrap(),
            Some(PidFile {
                pid: 4711,
                started: Some(1_700_000_000),
                socket_dir: Some("/tmp".into()),
                status: None
            })
        );
        write("4711\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  123   456\nready   \n");
        assert_eq!(
            pid_file(dir.path()).unwrap(),
            Some(PidFile {
                pid: 4711,
                started: Some(1_700_000_000),
                socket_dir: Some("/tmp".into()),
                status: Some("ready".into())
            })
        );
    }
}
