//! What a killed PostgreSQL leaves outside its data directory: socket files and a System V shared memory segment. A
//! test that kills servers removes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{self, Signal, is_running};
use crate::wait::now;

/// Returns the process id of the postmaster that runs on `pgdata`.
pub fn postmaster(pgdata: &Path) -> Option<u32> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (cwd == pgdata && is_running(pid)).then_some(pid)
}

/// Sends an immediate shutdown (SIGQUIT) to the servers of these directories, and waits up to 2 s: they then remove
/// their files and segments.
pub fn stop_immediately(pgdatas: &[PathBuf]) {
    let servers: Vec<u32> = pgdatas.iter().filter_map(|pgdata| postmaster(pgdata)).collect();
    for pid in &servers {
        process::send_signal(*pid, Signal::QUIT);
        process::send_signal(*pid, Signal::CONT);
    }
    let start = now();
    while servers.iter().any(|pid| is_running(*pid)) && now().since(start) < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Files and segments of servers that a test kills.
///
/// POSIX segments are not among them, as their names are unknown: test clusters have `dynamic_shared_memory_type =
/// mmap`.
#[derive(Debug, Default)]
pub struct ServerLeftovers {
    files: BTreeSet<PathBuf>,
    segments: BTreeSet<i32>,
}

impl ServerLeftovers {
    /// Records the files and the segment of the server that runs on `pgdata`, if one does.
    pub fn record(&mut self, pgdata: &Path) {
        if postmaster(pgdata).is_none() {
            return;
        }
        // pid, directory, start, port, socket directory, address, "key id" of the System V segment, status
        // (src/include/utils/pidfile.h)
        let text = fs::read_to_string(pgdata.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if let (Some(port), Some(dir)) = (lines.get(3), lines.get(4)) {
            // The file names only the first directory; a keeper's server has a second socket.
            for dir in [*dir, "/tmp"] {
                let socket = PathBuf::from(dir).join(format!(".s.PGSQL.{port}"));
                self.files.insert(socket.with_extension(format!("{port}.lock")));
                self.files.insert(socket);
            }
        }
        let segment = lines.get(6).and_then(|line| line.split_whitespace().nth(1));
        self.segments.extend(segment.and_then(|id| id.parse::<i32>().ok()));
    }

    /// Removes the files and segments that still exist; the servers must have ended.
    pub fn remove(&self) {
        for file in &self.files {
            // A server that stopped cleanly has removed it.
            let _ = fs::remove_file(file);
        }
        for segment in &self.segments {
            // Fails when the segment does not exist any more.
            let _ = Command::new("ipcrm")
                .args(["-m", &segment.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}
