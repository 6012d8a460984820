//! What a program reports about itself: whether its main loop runs, and whether it does its job. HTTP pages and systemd
//! get it from here; what the job is, is left to the program.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use serde_json::{Value, json};

use crate::http::{HttpPage, HttpStatus};
use crate::telemetry::MetricsServer;

/// A loop that has made no progress for this long hangs. It makes some at least every [`BEAT_INTERVAL`], or after the
/// requests of one round to the store; a busy or suspended machine must not look like a hung loop.
pub const HANG_LIMIT: Duration = Duration::from_secs(30);

/// Maximum time between two beats of a loop that waits: each one wakes an idle program.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The last progress of a program's main loop. Clones share it.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    clock: Clock,
    limit: Duration,
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// The loop has just made progress. `round` is the longest time that one round may take, such as the timeouts of
    /// its requests.
    pub fn new(clock: Clock, round: Duration) -> Self {
        let last = Arc::new(AtomicU64::new(clock.now().as_nanos()));
        let limit = HANG_LIMIT.max(round);
        Self { clock, limit, last }
    }

    /// Records progress of the loop.
    pub fn beat(&self) {
        self.last.store(self.clock.now().as_nanos(), Ordering::Relaxed);
    }

    /// Beats on behalf of a loop while `is_due`: it proves that the tasks of this thread run.
    pub async fn beat_while(self, is_due: impl Fn() -> bool) {
        loop {
            if is_due() {
                self.beat();
            }
            tokio::time::sleep(BEAT_INTERVAL).await;
        }
    }

    /// Returns the time since the last progress.
    pub fn age(&self) -> Duration {
        let last = Boottime::from_nanos(self.last.load(Ordering::Relaxed));
        self.clock.now().since(last)
    }

    /// Whether the loop runs.
    pub fn is_fresh(&self) -> bool {
        self.age() < self.limit
    }
}

/// What a program does at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// It has started: systemd may start what comes after it.
    pub is_started: bool,
    /// Role and work on one line, such as `master, 2 standbys streaming`.
    pub summary: String,
    /// Why it does not do its job; `None` when it does.
    pub not_ready: Option<String>,
    /// More fields for the pages; an object or null.
    pub details: Value,
}

type StatusSource = dyn Fn() -> ServiceStatus + Send + Sync;

/// Health of a program, asked for at each request. Clones share it.
#[derive(Clone)]
pub struct ProgramHealth {
    heartbeat: Heartbeat,
    status: Arc<StatusSource>,
}

impl fmt::Debug for ProgramHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramHealth")
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}

impl ProgramHealth {
    /// `status` is called at each request and about once a second for systemd, on other threads: it must not block.
    pub fn new(heartbeat: Heartbeat, status: impl Fn() -> ServiceStatus + Send + Sync + 'static) -> Self {
        let status = Arc::new(status);
        Self { heartbeat, status }
    }

    /// Whether the main loop runs.
    pub fn is_alive(&self) -> bool {
        self.heartbeat.is_fresh()
    }

    /// Returns what the program does now.
    pub fn status(&self) -> ServiceStatus {
        (self.status)()
    }

    /// Adds `/healthz` (the main loop runs) and `/readyz` (the program does its job).
    pub fn add_pages(&self, server: &MetricsServer) {
        let health = self.clone();
        server.add_page("/healthz", move |_| check_page(health.status(), health.hang_reason()));
        let health = self.clone();
        server.add_page("/readyz", move |_| {
            let status = health.status();
            let reason = health.hang_reason().or_else(|| status.not_ready.clone());
            check_page(status, reason)
        });
    }

    fn hang_reason(&self) -> Option<String> {
        let age = self.heartbeat.age();
        (age >= self.heartbeat.limit).then(|| format!("the main loop has made no progress for {} s", age.as_secs()))
    }
}

/// Returns the page of a check: status 200, or 503 with the reason, and what the program does.
pub fn check_page(status: ServiceStatus, failed: Option<String>) -> HttpPage {
    let mut body = json!({ "status": if failed.is_none() { "ok" } else { "unavailable" } });
    if let Some(reason) = &failed {
        body["reason"] = reason.as_str().into();
    }
    if !status.summary.is_empty() {
        body["summary"] = status.summary.into();
    }
    if let (Value::Object(details), Some(body)) = (status.details, body.as_object_mut()) {
        body.extend(details);
    }
    let http_status = match failed {
        None => HttpStatus::Ok,
        Some(_) => HttpStatus::Unavailable,
    };
    HttpPage::json(http_status, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(age: Duration, status: ServiceStatus) -> ProgramHealth {
        let now = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&now);
        let clock = Clock::custom(move || Boottime::from_nanos(read.load(Ordering::Relaxed)));
        let health = ProgramHealth::new(Heartbeat::new(clock, Duration::ZERO), move || status.clone());
        now.store(u64::try_from(age.as_nanos()).unwrap(), Ordering::Relaxed);
        health
    }

    #[test]
    fn a_loop_hangs_once_it_has_made_no_progress_for_the_limit() {
        let status = ServiceStatus::default();
        assert!(health(HANG_LIMIT - Duration::from_nanos(1), status.clone()).is_alive());
        let hung = health(HANG_LIMIT, status);
        assert!(!hung.is_alive());
        assert_eq!(
            hung.hang_reason().unwrap(),
            "the main loop has made no progress for 30 s"
        );
        hung.heartbeat.beat();
        assert!(hung.is_alive());
    }

    #[test]
    fn a_check_page_has_the_reason_and_the_details() {
        let status = ServiceStatus {
            is_started: true,
            summary: "standby of keeper0".to_owned(),
            not_ready: None,
            details: json!({ "role": "standby" }),
        };
        let ok = check_page(status.clone(), None);
        assert_eq!(ok.status, HttpStatus::Ok);
        assert_eq!(
            ok.body,
            "{\"role\":\"standby\",\"status\":\"ok\",\"summary\":\"standby of keeper0\"}\n"
        );
        let failed = check_page(status, Some("no master".to_owned()));
        assert_eq!(failed.status, HttpStatus::Unavailable);
        assert!(failed.body.contains("\"reason\":\"no master\""), "{}", failed.body);
    }
}
