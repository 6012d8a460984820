//! What killed servers leave behind: themselves, and what PostgreSQL keeps outside its PGDATA.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::processes::{children, is_running, send_signal, wait_gone};

/// The directory of the socket that a keeper's server has besides the one in its own directory.
const SOCKET_DIR: &str = "/tmp";

/// Returns the process id of the postmaster that runs on `pgdata`.
pub fn postmaster(pgdata: &Path) -> Option<u32> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (cwd == pgdata && is_running(pid)).then_some(pid)
}

/// Returns the processes of the server on `pgdata`: the postmaster and its children.
pub fn server_processes(pgdata: &Path) -> Vec<u32> {
    let postmaster = postmaster(pgdata);
    postmaster
        .into_iter()
        .chain(postmaster.map(children).unwrap_or_default())
        .collect()
}

/// Sends an immediate shutdown (SIGQUIT) to the servers of these directories, and waits up to `limit`: they then remove
/// their files and segments. Blocks the thread.
pub fn stop_servers(pgdatas: &[PathBuf], limit: Duration) {
    let servers: Vec<u32> = pgdatas.iter().filter_map(|pgdata| postmaster(pgdata)).collect();
    for pid in &servers {
        // A server that cannot be signalled is found again by its directory.
        let _ = send_signal(*pid, Signal::QUIT);
        let _ = send_signal(*pid, Signal::CONT);
    }
    wait_gone(&servers, limit);
}

/// What servers keep outside their data directories and leave there when they are killed: socket files and a System V
/// shared memory segment. With `dynamic_shared_memory_type = mmap` there are no POSIX segments, whose names would be
/// unknown.
#[derive(Debug, Default)]
pub struct PgLeftovers {
    files: BTreeSet<PathBuf>,
    segments: BTreeSet<i32>,
}

impl PgLeftovers {
    /// Records what the server of `pgdata` uses, if one is running.
    pub fn record(&mut self, pgdata: &Path) {
        if postmaster(pgdata).is_none() {
            return;
        }
        // Lines of postmaster.pid: pid, directory, start time, port, socket directory, address, "key id" of the System
        // V segment, status (src/include/utils/pidfile.h).
        let text = fs::read_to_string(pgdata.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if let (Some(port), Some(dir)) = (lines.get(3), lines.get(4)) {
            // The file names only the first directory.
            for dir in [*dir, SOCKET_DIR] {
                self.files.insert(PathBuf::from(format!("{dir}/.s.PGSQL.{port}")));
                self.files.insert(PathBuf::from(format!("{dir}/.s.PGSQL.{port}.lock")));
            }
        }
        let segment = lines.get(6).and_then(|line| line.split_whitespace().nth(1));
        self.segments.extend(segment.and_then(|id| id.parse::<i32>().ok()));
    }

    /// Removes what is left of it. Must only be called after the servers have exited.
    pub fn remove(&self) {
        for file in &self.files {
            // Another server that listens on that port by now keeps its socket.
            if lock_owner(file).is_none_or(|pid| !is_running(pid)) {
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
