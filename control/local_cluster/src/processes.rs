//! All processes of this machine, by /proc: who works in a directory, who is whose child; and signals to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Delay between two looks at /proc.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Sends a signal to a process; does nothing when it does not exist any more.
///
/// # Errors
///
/// It is another user's.
pub fn send_signal(pid: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a process exists and is not a zombie.
pub fn is_running(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Returns the processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|candidate| state_and_parent(*candidate).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// Returns the running processes, except our own, whose working directory is in `dir`, or whose command line names a
/// path below it.
pub fn using_directory(dir: &Path) -> Vec<u32> {
    let text = dir.as_os_str().as_encoded_bytes();
    all()
        .into_iter()
        .filter(|pid| *pid != std::process::id() && is_running(*pid))
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
                || fs::read(proc.join("cmdline"))
                    .is_ok_and(|line| line.windows(text.len().max(1)).any(|part| part == text))
        })
        .collect()
}

/// Sends SIGKILL to the processes that use a directory until there are none. Returns those that are left after `limit`.
/// Blocks the thread.
pub fn kill_users(dir: &Path, limit: Duration) -> Vec<u32> {
    let mut left = Vec::new();
    poll(limit, || {
        left = using_directory(dir);
        // One that cannot be killed is returned.
        left.iter().for_each(|pid| drop(send_signal(*pid, Signal::KILL)));
        left.is_empty()
    });
    left
}

/// Waits until none of these processes runs; returns whether that is so within `limit`. Blocks the thread.
pub fn wait_gone(pids: &[u32], limit: Duration) -> bool {
    poll(limit, || !pids.iter().any(|pid| is_running(*pid)))
}

/// Evaluates a condition until it holds; returns whether it did within about `limit`. Blocks the thread.
pub(crate) fn poll(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let most = limit.as_millis() / POLL_INTERVAL.as_millis();
    for _ in 0..most {
        if holds() {
            return true;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    holds()
}

fn all() -> Vec<u32> {
    // Without /proc nothing can be found.
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_directory_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut sleep = Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let pid = sleep.id();
        assert_eq!(using_directory(dir.path()), [pid]);
        assert!(children(std::process::id()).contains(&pid));
        assert!(!wait_gone(&[pid], Duration::ZERO));
        send_signal(pid, Signal::KILL).unwrap();
        // a zombie does not run
        assert!(wait_gone(&[pid], Duration::from_secs(60)));
        assert_eq!(using_directory(dir.path()), []);
        sleep.wait().unwrap();
    }
}
