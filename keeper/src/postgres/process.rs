//! Processes of the operating system: which one is the postmaster of a data directory, signals that never reach another
//! process with the same number. Who else works on the data is left to `at_work`, starting and stopping to `instance`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
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
        let started = start_ticks(pid.as_raw_nonzero().get()).ok().flatten();
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
        match start_ticks(self.pid()) {
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
fn start_ticks(pid: i32) -> io::Result<Option<u64>> {
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

/// Who has the number that stands in `postmaster.pid`. `pg_ctl status` takes whoever has it now for the postmaster.
#[derive(Debug)]
pub enum LockHolder {
    /// Nobody, or there is no such file.
    Nobody,
    /// The postmaster of this data directory.
    Postmaster(Process),
    /// A process that works in the data directory, but was not started when the file says: the file must stay.
    UsesDataDir(Process),
    /// A process that has nothing to do with the data directory, or a dead one that nobody has reaped.
    Unrelated,
}

/// Looks at the process that `postmaster.pid` names.
///
/// A postmaster changes into its data directory at its start, whatever its executable is called (wrapper scripts). A
/// name such as `postgres` or the start in line 3 of the file then tells it from another process that got its number.
pub fn lock_holder(data: &Path) -> Result<LockHolder, FileError> {
    let Some(lock) = files::pid_file(data)? else {
        return Ok(LockHolder::Nobody);
    };
    // A single-user server writes its number negative.
    let pid = lock.pid.saturating_abs();
    let process = Process::open(pid).map_err(FileError::new(
        "look for the process named by",
        data.join("postmaster.pid"),
    ))?;
    let Some(process) = process else {
        return Ok(LockHolder::Nobody);
    };
    if !Path::new("/proc/self/exe").exists() {
        return Ok(LockHolder::Postmaster(process)); // no /proc to ask: believe the lock file, as pg_ctl does
    }
    Ok(if !works_in(pid, data) {
        LockHolder::Unrelated
    } else if is_postgres(pid) || is_same_start(lock.started, start_of(pid)) {
        LockHolder::Postmaster(process)
    } else {
        LockHolder::UsesDataDir(process)
    })
}

/// The postmaster that runs on this data directory, ours or an earlier keeper's, as its lock file names it.
pub fn postmaster(data: &Path) -> Result<Option<Process>, FileError> {
    Ok(match lock_holder(data)? {
        LockHolder::Postmaster(process) => Some(process),
        _ => None,
    })
}

/// Is this directory the working directory of a process of our user? Of others that cannot be read (proc_pid_cwd(5)), and
/// nobody else may serve our data.
pub(crate) fn works_in(pid: i32, dir: &Path) -> bool {
    match (working_directory(pid), fs::metadata(dir)) {
        (Some(theirs), Ok(ours)) => theirs == (ours.dev(), ours.ino()),
        _ => false,
    }
}

/// Device and inode of the working directory of a process. They are what the kernel has: its file system, which may not
/// answer, is not asked (statx(2), `AT_STATX_DONT_SYNC`).
pub(crate) fn working_directory(pid: i32) -> Option<(u64, u64)> {
    let path = format!("/proc/{pid}/cwd");
    let known = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some((makedev(known.stx_dev_major, known.stx_dev_minor), known.stx_ino))
}

/// Does a process call itself, or its executable, postgres? Children of a postmaster do so too: `postgres: walwriter`.
pub(crate) fn is_postgres(pid: i32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let title = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let title = String::from_utf8_lossy(title);
    // "postgres (deleted)" after an upgrade of the package
    let is_its = |name: &str| name == "postgres" || name.starts_with("postgres ") || name.starts_with("postgres:");
    is_its(&name) || is_its(&title) || title.ends_with("/postgres")
}

/// A process writes its start down soon after it was started; a wrapper script may come before it.
const WRITTEN_WITHIN_SECONDS: u64 = 600;
/// Both times are rounded.
const ROUNDING_SECONDS: u64 = 2;

fn is_same_start(written: Option<u64>, started: Option<u64>) -> bool {
    let (Some(written), Some(started)) = (written, started) else {
        return false;
    };
    started <= written + ROUNDING_SECONDS && written <= started + WRITTEN_WITHIN_SECONDS
}

/// When a process was started, in seconds since 1970. A clock that was set since then shows here.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let ticks = start_ticks(pid).ok()??;
    Some(boot + ticks / rustix::param::clock_ticks_per_second().max(1))
}

/// How many generations of processes are looked at.
const ANCESTORS_MAX: usize = 64;

/// The parent of a process, its parent, and so on.
pub(crate) fn ancestors(pid: i32) -> Vec<i32> {
    let parent = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the parent is field 4.
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        (parent > 0).then_some(parent)
    };
    std::iter::successors(parent(&pid), parent)
        .take(ANCESTORS_MAX)
        .collect()
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
        assert!(matches!(lock_holder(dir.path()).unwrap(), LockHolder::Unrelated));
        fs::write(dir.path().join("postmaster.pid"), "999999999\n").unwrap();
        assert!(postmaster(dir.path()).unwrap().is_none());
    }

    #[test]
    fn a_process_that_works_there_is_the_postmaster_by_its_name_or_by_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .current_dir(dir.path())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_of(pid).unwrap();
        let named = |started: u64| {
            let text = format!("{pid}\n{}\n{started}\n", dir.path().display());
            fs::write(dir.path().join("postmaster.pid"), text).unwrap();
            lock_holder(dir.path()).unwrap()
        };
        let (same, wrapped, other) = (named(start), named(start + 5), named(start - 5));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(same, LockHolder::Postmaster(_)), "{same:?}");
        assert!(
            matches!(wrapped, LockHolder::Postmaster(_)),
            "a script came before: {wrapped:?}"
        );
        assert!(
            matches!(other, LockHolder::UsesDataDir(_)),
            "it got the number later: {other:?}"
        );
        assert!(matches!(named(start), LockHolder::Nobody));
    }

    #[test]
    fn ancestors_are_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let found = ancestors(child.id().try_into().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.first(), Some(&pid));
        assert!(!ancestors(pid).contains(&pid));
    }
}
