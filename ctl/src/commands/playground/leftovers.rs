//! Finds and removes what killed processes leave behind: other processes that work in a directory, and what PostgreSQL
//! keeps outside its data directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// PostgreSQL's socket directory, as the keeper sets it.
const SOCKET_DIR: &str = "/tmp";

/// What servers keep outside their data directories and leave there when they are killed: socket files and a System V
/// shared memory segment. With `dynamic_shared_memory_type = mmap` there are no POSIX segments, whose names would be
/// unknown.
#[derive(Debug, Default)]
pub(super) struct PgLeftovers {
    files: BTreeSet<PathBuf>,
    segments: BTreeSet<i32>,
}

impl PgLeftovers {
    /// Records what the server of `pgdata` uses, if one is running.
    pub(super) fn record(&mut self, pgdata: &Path) {
        // Lines of postmaster.pid: pid, directory, start time, port, socket directory, address, "key id" of the System
        // V segment, status (src/include/utils/pidfile.h).
        let Ok(text) = fs::read_to_string(pgdata.join("postmaster.pid")) else {
            return;
        };
        let lines: Vec<&str> = text.lines().collect();
        if postmaster_pid(pgdata).is_none() {
            return;
        }
        if let Some(port) = lines.get(3) {
            self.files
                .insert(PathBuf::from(format!("{SOCKET_DIR}/.s.PGSQL.{port}")));
            self.files
                .insert(PathBuf::from(format!("{SOCKET_DIR}/.s.PGSQL.{port}.lock")));
        }
        let segment = lines.get(6).and_then(|line| line.split_whitespace().nth(1));
        self.segments.extend(segment.and_then(|id| id.parse::<i32>().ok()));
    }

    /// Removes what is left of it. Must only be called after the servers have exited.
    pub(super) fn remove(&self) {
        for file in &self.files {
            // Another server that listens on that port by now keeps its socket.
            if lock_owner(file).is_none_or(|pid| !is_alive(pid)) {
                // A server that shut down normally has removed it.
                let _ = fs::remove_file(file);
            }
        }
        for segment in &self.segments {
            // The only expected failure is an id that is gone already.
            let _ = Command::new("ipcrm")
                .args(["-m", &segment.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Returns the process id of the server that runs on `pgdata`.
pub(super) fn postmaster_pid(pgdata: &Path) -> Option<u32> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (cwd == pgdata).then_some(pid)
}

/// Returns the processes whose parent is `pid`.
pub(super) fn child_pids(pid: u32) -> Vec<u32> {
    all_pids()
        .into_iter()
        .filter(|candidate| state_and_parent(*candidate).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// Returns the processes whose working directory is in `dir`, or whose command line names a path below it.
pub(super) fn pids_using(dir: &Path) -> Vec<u32> {
    let text = dir.as_os_str().as_encoded_bytes();
    all_pids()
        .into_iter()
        .filter(|pid| *pid != std::process::id() && is_alive(*pid))
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
                || fs::read(proc.join("cmdline")).is_ok_and(|line| line.windows(text.len()).any(|part| part == text))
        })
        .collect()
}

/// Whether a process exists and is not a zombie.
pub(super) fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Sends a signal to one of the playground's processes, which may have exited meanwhile.
pub(super) fn send_signal(pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // The only possible error is that it has exited.
    let _ = kill_process(pid, signal);
}

/// Returns the process that wrote the lock file of a socket: its first line is the process id, negative for a
/// stand-alone backend.
fn lock_owner(socket_or_lock: &Path) -> Option<u32> {
    let mut lock = socket_or_lock.as_os_str().to_owned();
    if socket_or_lock.extension().is_none_or(|extension| extension != "lock") {
        lock.push(".lock");
    }
    let text = fs::read_to_string(PathBuf::from(lock)).ok()?;
    text.lines().next()?.trim().trim_start_matches('-').parse().ok()
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Returns the state letter and the parent of a process (proc_pid_stat(5)). The process name before them may contain
/// blanks and parentheses.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
