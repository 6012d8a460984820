//! What PostgreSQL keeps outside its data directory and leaves there when it is killed: socket files, POSIX and
//! System V shared memory. A test that kills servers removes it again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{children, lives};

/// The process id of the server running on `pgdata`.
pub fn postmaster(pgdata: &Path) -> Option<u32> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (cwd == pgdata && lives(pid)).then_some(pid)
}

/// Files and segments of servers that are going to be killed.
#[derive(Debug, Default)]
pub struct Traces {
    files: BTreeSet<PathBuf>,
    segments: BTreeSet<i32>,
}

impl Traces {
    /// Notes what the server of `pgdata` holds, when one runs there.
    pub fn note(&mut self, pgdata: &Path) {
        let Some(postmaster) = postmaster(pgdata) else { return };
        // pid, directory, start, port, socket directory, address, "key id" of the System V segment, status
        // (src/include/utils/pidfile.h)
        let text = fs::read_to_string(pgdata.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if let (Some(port), Some(dir)) = (lines.get(3), lines.get(4)) {
            let socket = PathBuf::from(dir).join(format!(".s.PGSQL.{port}"));
            self.files.insert(socket.with_extension(format!("{port}.lock")));
            self.files.insert(socket);
        }
        let segment = lines.get(6).and_then(|line| line.split_whitespace().nth(1));
        self.segments.extend(segment.and_then(|id| id.parse::<i32>().ok()));
        for pid in std::iter::once(postmaster).chain(children(postmaster)) {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            let shared = maps
                .lines()
                .filter_map(|line| line.find("/dev/shm/PostgreSQL.").map(|at| &line[at..]));
            self.files
                .extend(shared.map(|path| PathBuf::from(path.trim_end_matches(" (deleted)"))));
        }
    }

    /// Removes what is still there of it; the servers must have ended.
    pub fn remove(&self) {
        for file in &self.files {
            // a server that stopped in order has removed it itself
            let _ = fs::remove_file(file);
        }
        for segment in &self.segments {
            // fails when the segment is gone, and then there is nothing to remove
            let _ = Command::new("ipcrm")
                .args(["-m", &segment.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}
