//! Processes of the operating system: finding the postmaster of a PGDATA, and sending signals that never reach
//! another process with a reused id. Other users of the data are in `pgdata_holders`, starting and stopping in
//! `supervisor`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, test_kill_process};
use tokio::net::unix::pipe::Receiver;

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::identity::FileId;
use crate::postgres::data::lock_files;
use crate::postgres::data::walker;

/// A process, held by a pidfd so that a reused process id is not mistaken for it (pidfd_open(2), Linux 5.3; without it,
/// by id).
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    handle: Option<OwnedFd>,
    started: Option<u64>,
}

impl Process {
    /// Opens the process with this id; `None` when there is none.
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

    /// Returns its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; a process that has ended is not an error.
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

    /// Waits until it has ended, reaped or not. For processes that are not children; the end of children is reported by
    /// the system (`postmaster`).
    pub async fn ended(&self) {
        self.ended_or_polled_every(POLL).await;
    }

    /// The same; without a pidfd, with this polling interval.
    pub async fn ended_or_polled_every(&self, interval: Duration) {
        if let Some(end) = self.end_event() {
            // An error proves nothing: the loop below looks.
            let _ = end.readable().await;
        }
        while self.is_alive() {
            tokio::time::sleep(interval).await;
        }
    }

    /// Returns what becomes readable when the process ends, which a pidfd does as the reading end of a pipe does (pidfd_open(2)).
    /// Tokio has no type for a pidfd that needs no unsafe code; nothing is ever read from this one.
    fn end_event(&self) -> Option<Receiver> {
        let handle = self.handle.as_ref()?.try_clone().ok()?;
        Receiver::from_owned_fd_unchecked(handle).ok()
    }

    fn is_alive(&self) -> bool {
        match start_ticks(self.pid()) {
            Ok(now) => now.is_some() && now == self.started,
            Err(_) => test_kill_process(self.pid).is_ok(),
        }
    }
}

/// Polling interval without a pidfd.
const POLL: Duration = Duration::from_millis(10);

/// Returns the start of a process in clock ticks since boot, which distinguishes it from another one with the same id;
/// `None` when it has ended or is a zombie (proc_pid_stat(5)). Fails without `/proc`.
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
    // The name in parentheses may contain spaces and parentheses; state is field 3, the start field 22.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = fields.next().unwrap_or("X");
    if matches!(state, "Z" | "X" | "x") {
        return Ok(None);
    }
    Ok(fields.nth(18).and_then(|start| start.parse().ok()))
}

/// Whether a process with this id exists, zombies included.
pub fn exists(pid: i32) -> bool {
    matches!(Process::open(pid), Ok(Some(_)))
}

/// Whether a process with this id is alive.
pub fn is_alive(pid: i32) -> bool {
    matches!(Process::open(pid), Ok(Some(process)) if process.is_alive())
}

/// Holder of the process id in `postmaster.pid`. (`pg_ctl status` assumes that any holder is the postmaster.)
#[derive(Debug)]
pub enum LockHolder {
    /// No process, or no such file.
    NoProcess,
    /// The postmaster of this PGDATA.
    Postmaster(Process),
    /// A process that has PGDATA as its working directory but was started at another time than recorded:
    /// the file must stay.
    UsesPgData(Process),
    /// A process that does not use PGDATA, or a zombie.
    Unrelated,
}

/// Identifies the process that `postmaster.pid` names.
///
/// A postmaster changes into its PGDATA at its start, whatever its executable is called (wrapper scripts). A
/// name such as `postgres`, or the start time in line 3 of the file, then distinguishes it from a process with a reused
/// id.
pub fn lock_holder(data: &Path) -> Result<LockHolder, FileError> {
    let Some(lock) = lock_files::pid_file(data)? else {
        return Ok(LockHolder::NoProcess);
    };
    // A single-user server writes its id negative.
    let pid = lock.pid.saturating_abs();
    let process = Process::open(pid).map_err(FileError::new(
        "look for the process named by",
        data.join("postmaster.pid"),
    ))?;
    let Some(process) = process else {
        return Ok(LockHolder::NoProcess);
    };
    if !Path::new("/proc/self/exe").exists() {
        return Ok(LockHolder::Postmaster(process)); // without /proc trust the lock file, as pg_ctl does
    }
    Ok(if !works_in(pid, data) {
        LockHolder::Unrelated
    } else if is_postgres(pid) || is_same_start(lock.started, start_of(pid)) {
        LockHolder::Postmaster(process)
    } else {
        LockHolder::UsesPgData(process)
    })
}

/// Returns the postmaster that runs on this PGDATA according to its lock file.
pub fn postmaster(data: &Path) -> Result<Option<Process>, FileError> {
    Ok(match lock_holder(data)? {
        LockHolder::Postmaster(process) => Some(process),
        _ => None,
    })
}

/// Whether this directory is the working directory of a process of this user. That of other users' processes cannot be
/// read (proc_pid_cwd(5)), and they cannot serve our data.
pub(crate) fn works_in(pid: i32, dir: &Path) -> bool {
    match (working_directory(pid), FileId::of(dir)) {
        (Some(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

/// Returns the ids of the processes that work in this PGDATA and whose titles `wanted` picks, with what it returns. The
/// server's processes are titled `postgres: <what they do>`, with the cluster name before it if there is one (PostgreSQL
/// manual 28.1).
pub(crate) fn with_title<'a, T>(
    data: &'a Path,
    wanted: impl Fn(&str) -> Option<T> + 'a,
) -> impl Iterator<Item = (i32, T)> + 'a {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        walker::progress_at(&entry.path());
        let found = wanted(&title_of(pid)?)?;
        works_in(pid, data).then_some((pid, found))
    })
}

/// Returns the title of a process, or its first argument.
pub(crate) fn title_of(pid: i32) -> Option<String> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = command.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(title).into_owned())
}

/// Returns the identity of a process's working directory as known to the kernel, without accessing its file system,
/// which may hang (statx(2), `AT_STATX_DONT_SYNC`).
pub(crate) fn working_directory(pid: i32) -> Option<FileId> {
    let path = format!("/proc/{pid}/cwd");
    let known = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    let device = makedev(known.stx_dev_major, known.stx_dev_minor);
    Some(FileId::new(device, known.stx_ino))
}

/// Whether the title or the executable of a process is postgres. This includes children of a postmaster: `postgres:
/// walwriter`.
pub(crate) fn is_postgres(pid: i32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let title = title_of(pid).unwrap_or_default();
    // "postgres (deleted)" after an upgrade of the package
    let is_its = |name: &str| name == "postgres" || name.starts_with("postgres ") || name.starts_with("postgres:");
    is_its(&name) || is_its(&title) || title.ends_with("/postgres")
}

/// The server records its start time soon after it was started; a wrapper script may run before it.
const WRITTEN_WITHIN_SECONDS: u64 = 600;
/// Rounding of both times.
const ROUNDING_SECONDS: u64 = 2;

fn is_same_start(written: Option<u64>, started: Option<u64>) -> bool {
    let (Some(written), Some(started)) = (written, started) else {
        return false;
    };
    started <= written + ROUNDING_SECONDS && written <= started + WRITTEN_WITHIN_SECONDS
}

/// Returns when a process was started, in seconds since 1970, according to the current clock.
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

/// Maximum number of ancestors.
const ANCESTORS_MAX: usize = 64;

/// Returns the parent of a process, its parent, and so on.
pub(crate) fn ancestors(pid: i32) -> Vec<i32> {
    let parent = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything; the parent is field 4.
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
    async fn the_end_of_a_process_is_detected_and_its_id_is_not_signalled_again() {
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

    #[tokio::test]
    async fn the_end_of_a_process_is_reported_and_not_polled_for() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id().try_into().unwrap()).unwrap().unwrap();
        let never = Duration::from_secs(100_000);
        let mut ended = Box::pin(process.ended_or_polled_every(never));
        assert!(
            tokio::time::timeout(Duration::from_millis(20), &mut ended)
                .await
                .is_err()
        );
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_unrelated_process_with_the_postmaster_s_id_is_not_the_postmaster() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert!(postmaster(dir.path()).unwrap().is_none());
        assert!(matches!(lock_holder(dir.path()).unwrap(), LockHolder::Unrelated));
        fs::write(dir.path().join("postmaster.pid"), "999999999\n").unwrap();
        assert!(postmaster(dir.path()).unwrap().is_none());
    }

    #[test]
    fn a_process_in_the_directory_is_the_postmaster_by_its_name_or_start_time() {
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
            matches!(other, LockHolder::UsesPgData(_)),
            "it got the number later: {other:?}"
        );
        assert!(matches!(named(start), LockHolder::NoProcess));
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
