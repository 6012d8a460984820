//! The standard process metrics, read from `/proc` at each scrape (proc(5)).

use std::fs;

use super::shared::{CPU_SECONDS, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, START_TIME, THREADS, VIRTUAL_MEMORY};
use super::table::MetricRow;

/// Returns them in the Prometheus text format; values that cannot be read are left out.
pub(crate) fn metrics() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let cpu = (stat_field(&stat, 14).unwrap_or(0.0) + stat_field(&stat, 15).unwrap_or(0.0)) / ticks;
    let start = boot_time().and_then(|boot| Some(boot + stat_field(&stat, 22)? / ticks));
    let values = [
        (CPU_SECONDS, Some(cpu)),
        (OPEN_FDS, open_fds()),
        (MAX_FDS, max_fds()),
        (VIRTUAL_MEMORY, status_bytes(&status, "VmSize:")),
        (RESIDENT_MEMORY, status_bytes(&status, "VmRSS:")),
        (THREADS, stat_field(&stat, 20)),
        (START_TIME, start),
    ];
    let text = |(row, value): (MetricRow, Option<f64>)| Some(row.text([(row.name.to_owned(), value?)]));
    values.into_iter().filter_map(text).collect()
}

/// Returns the field of `/proc/self/stat` with this number, counted from 1 as in proc(5). The second field, a name in
/// parentheses, may contain anything.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn status_bytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn open_fds() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name_whatever_it_holds() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 9 0 12345 1000 200";
        assert_eq!(stat_field(stat, 14), Some(150.0));
        assert_eq!(stat_field(stat, 20), Some(9.0));
        assert_eq!(stat_field(stat, 22), Some(12345.0));
        assert_eq!(stat_field("", 14), None);
    }

    #[test]
    fn all_metrics_are_reported_for_this_process() {
        let text = metrics();
        for name in [
            "cpu_seconds_total",
            "open_fds",
            "max_fds",
            "resident_memory_bytes",
            "start_time_seconds",
        ] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{text}");
        }
    }
}
