//! Resource usage of processes and of the host (CPU, memory, descriptors), from /proc (proc(5)).

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Returns the CPU time of all threads of these processes, to the nanosecond: the first number of
/// `/proc/PID/task/TID/schedstat` (kernel, Documentation/scheduler/sched-stats).
///
/// # Errors
///
/// One of the processes has ended, or the kernel has no such statistics.
pub fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for pid in pids {
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
            let path = task.with_context(|| format!("read {tasks}"))?.path().join("schedstat");
            // The thread may have ended.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let first = text.split_whitespace().next().unwrap_or_default();
            nanos += first
                .parse::<u64>()
                .with_context(|| format!("{} has {text:?}", path.display()))?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Returns the anonymous resident memory of these processes in bytes (`RssAnon` of `/proc/PID/status`).
///
/// # Errors
///
/// One of the processes has ended.
pub fn anonymous_bytes(pids: &[u32]) -> anyhow::Result<u64> {
    status_bytes(pids, "RssAnon:")
}

/// Returns the resident memory of these processes in bytes, shared pages included (`VmRSS` of `/proc/PID/status`).
///
/// # Errors
///
/// One of the processes has ended.
pub fn resident_bytes(pids: &[u32]) -> anyhow::Result<u64> {
    status_bytes(pids, "VmRSS:")
}

/// Returns the sum of a field of `/proc/PID/status` that is in KiB, in bytes.
fn status_bytes(pids: &[u32], field: &str) -> anyhow::Result<u64> {
    let mut kib = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        kib += number_after(&text, field).with_context(|| format!("no {field} in {path}"))?;
    }
    Ok(kib * 1024)
}

/// Returns the number of open descriptors of these processes.
///
/// # Errors
///
/// One of the processes has ended.
pub fn descriptors(pids: &[u32]) -> anyhow::Result<usize> {
    let mut count = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/fd");
        count += fs::read_dir(&path).with_context(|| format!("read {path}"))?.count();
    }
    Ok(count)
}

/// Returns the memory of all TCP sockets of the host in bytes (`mem` of `/proc/net/sockstat`, in pages).
///
/// # Errors
///
/// It cannot be read.
pub fn tcp_bytes() -> anyhow::Result<u64> {
    let path = Path::new("/proc/net/sockstat");
    let text = fs::read_to_string(path).context("read /proc/net/sockstat")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .context("no TCP in /proc/net/sockstat")?;
    let pages = number_after(line, " mem ").context("no mem in /proc/net/sockstat")?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    rest.split_whitespace().next()?.parse().ok()
}
