//! What processes and the host have used: CPU, memory, descriptors. All from /proc (proc(5)).

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// CPU time that all threads of these processes have had, to the nanosecond: the first number of
/// `/proc/PID/task/TID/schedstat` (kernel, Documentation/scheduler/sched-stats).
///
/// # Errors
///
/// One of the processes is gone, or the kernel keeps no such statistics.
pub fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for pid in pids {
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
            let path = task.with_context(|| format!("read {tasks}"))?.path().join("schedstat");
            // a thread may have ended since
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let first = text.split_whitespace().next().unwrap_or_default();
            nanos += first
                .parse::<u64>()
                .with_context(|| format!("{} says {text:?}", path.display()))?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Anonymous resident memory of these processes, in bytes (`RssAnon` of `/proc/PID/status`).
///
/// # Errors
///
/// One of the processes is gone.
pub fn anonymous_bytes(pids: &[u32]) -> anyhow::Result<u64> {
    let mut kib = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        kib += number_after(&text, "RssAnon:").with_context(|| format!("no RssAnon in {path}"))?;
    }
    Ok(kib * 1024)
}

/// Open descriptors of these processes.
///
/// # Errors
///
/// One of the processes is gone.
pub fn descriptors(pids: &[u32]) -> anyhow::Result<usize> {
    let mut count = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/fd");
        count += fs::read_dir(&path).with_context(|| format!("read {path}"))?.count();
    }
    Ok(count)
}

/// Memory that the host's TCP sockets hold, in bytes (`mem` of `/proc/net/sockstat`, in pages).
///
/// # Errors
///
/// The kernel does not tell.
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
