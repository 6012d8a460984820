//! Processes of the operating system as they belong to a data directory: who is the postmaster, who else is at work
//! there, signals that never reach a stranger. It leaves starting and stopping in order to `instance`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, test_kill_process};

use crate::postgres::files::{self, FileError};

/// One process, held so that a number which the system gives to another process later is not mistaken for it
/// (pidfd_open(2), Linux 5.3; without it, by number).
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    handle: Option<OwnedFd>,
    started: Option<u64>,
}

impl Process {
    /// Takes hold of the process with this number; `None` when there is none.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Some(handle),
            Err(Errno::SRCH) => return Ok(None),
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(errno) => return Err(errno.into()),
        };
        let started = life_of(pid.as_raw_nonzero().get()).ok().flatten();
        Ok(Some(Self { pid, handle, started }))
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; one that has ended already is fine.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match &self.handle {
            Some(handle) => pidfd_send_signal(handle.as_fd(), signal),
            None => kill_process(self.pid, signal),
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until it has ended, be it reaped or not. For processes that are not our children; of those the system
    /// tells at once (`server`).
    pub async fn ended(&self) {
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    fn is_alive(&self) -> bool {
        match life_of(self.pid()) {
            Ok(now) => now.is_some() && now == self.started,
            Err(_) => test_kill_process(self.pid).is_ok(),
        }
    }
}

/// How often a process is looked at: nobody tells the end of one that is not our child (a pidfd would, but waiting for
/// it through tokio takes unsafe code).
const POLL: Duration = Duration::from_millis(10);

/// When the process with this number was started, in clock ticks since boot, which tells it from another one with its
/// number; `None` when it is gone, or dead and not reaped (proc_pid_stat(5)). Errs without `/proc`.
fn life_of(pid: i32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(gone) if Path::new("/proc/self/stat").exists() => {
            return if gone.kind() == io::ErrorKind::PermissionDenied {
                Err(gone)
            } else {
                Ok(None)
            };
        }
        Err(no_proc) => return Err(no_proc),
    };
    // The name in parentheses may hold blanks and parentheses itself; state is field 3, the start field 22.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = fields.next().unwrap_or("X");
    if matches!(state, "Z" | "X" | "x") {
        return Ok(None);
    }
    Ok(fields.nth(18).and_then(|start| start.parse().ok()))
}

/// Has any process this number, a dead one that nobody has reaped included?
pub fn exists(pid: i32) -> bool {
    matches!(Process::open(pid), Ok(Some(_)))
}

/// Does a process with this number live?
pub fn is_alive(pid: i32) -> bool {
    matches!(Process::open(pid), Ok(Some(process)) if process.is_alive())
}

/// The postmaster that runs on this data directory, ours or an earlier keeper's, as its lock file names it.
///
/// `pg_ctl status` believes the number in `postmaster.pid` whoever has it now; here it must also be a program called
/// `postgres` whose working directory is the data directory (a postmaster changes into it at its start).
pub fn postmaster(data: &Path) -> Result<Option<Process>, FileError> {
    let Some(lock) = files::pid_file(data)? else {
        return Ok(None);
    };
    // A single-user server writes its number negative.
    let pid = lock.pid.saturating_abs();
    let process = Process::open(pid).map_err(FileError::new(
        "look for the process named by",
        data.join("postmaster.pid"),
    ))?;
    Ok(process.filter(|process| is_at_work_in(process.pid(), data)))
}

/// Every process of PostgreSQL at work in this data directory; after a postmaster has been killed its children may
/// go on for a while, and no other postmaster starts before they are gone.
pub fn at_work_in(data: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_at_work_in(*pid, data))
        .filter_map(|pid| Process::open(pid).ok().flatten())
        .collect()
}

fn is_at_work_in(pid: i32, data: &Path) -> bool {
    if !Path::new("/proc/self/exe").exists() {
        return true; // no /proc to ask: believe the lock file, as pg_ctl does
    }
    // Both links can be read for processes of our own user only (proc(5)); nobody else may serve our data.
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else {
        return false;
    };
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    // "postgres (deleted)" after an upgrade of the package
    if !(name == "postgres" || name.starts_with("postgres ")) {
        return false;
    }
    match (fs::metadata(format!("/proc/{pid}/cwd")), fs::metadata(data)) {
        (Ok(theirs), Ok(ours)) => (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed_and_its_number_is_not_signalled_again() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id().try_into().unwrap()).unwrap().unwrap();
        assert!(process.is_alive());
        process.signal(Signal::KILL).unwrap();
        tokio::time::timeout(Duration::from_secs(30), process.ended())
            .await
            .unwrap();
        child.wait().unwrap();
        process.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn a_stranger_with_the_postmaster_s_number_is_no_postmaster() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert!(postmaster(dir.path()).unwrap().is_none());
        fs::write(dir.path().join("postmaster.pid"), "999999999\n").unwrap();
        assert!(postmaster(dir.path()).unwrap().is_none());
    }
}
