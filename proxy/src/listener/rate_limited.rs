//! A log line about an event that hits many clients at once, at most one a second. What is logged is left to the
//! callers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::clock::Boottime;

/// Shortest time between two log lines about something that happens to many clients at once.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// When a log line was last written.
#[derive(Debug, Default)]
pub(super) struct RateLimited(AtomicU64);

impl RateLimited {
    /// Runs `log`, unless it ran less than a second before `now`.
    pub(super) fn log(&self, now: Boottime, log: impl FnOnce()) {
        let now = now.as_nanos();
        let quiet = LOG_INTERVAL.as_nanos() as u64;
        let due = |last: u64| (last == 0 || now >= last.saturating_add(quiet)).then_some(now);
        if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            log();
        }
    }
}
