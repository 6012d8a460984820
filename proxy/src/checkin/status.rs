//! The state of the check-in for metrics and for the summary. It is updated by the check-in.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::clock::Boottime;
use base::counted;
use daemon::health::ServiceStatus;
use serde_json::json;
use tracing::info;

use crate::metrics::Metrics;

/// The state of the check-in, shared with scrapes and the summary.
#[derive(Debug)]
pub struct CheckInStatus {
    started: Boottime,
    state: Mutex<StatusState>,
}

#[derive(Debug, Default)]
struct StatusState {
    last_good: Option<Boottime>,
    lease_end: Option<Boottime>,
    /// The open route; `None` while it is closed.
    route: Option<ReportedRoute>,
    /// Why it was last closed.
    close_reason: String,
    /// Why the last check-in failed, if it did.
    failure: Option<String>,
    /// New clients are not accepted any more.
    is_draining: bool,
}

/// An open route.
#[derive(Debug)]
struct ReportedRoute {
    db: String,
    address: String,
}

impl fmt::Display for ReportedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "db {} at {}", self.db, self.address)
    }
}

impl StatusState {
    /// Returns why the route is closed now; `None` if it is open. A route whose lease has ended is closed, whether or
    /// not a check-in has noticed.
    fn closed_reason(&self, now: Boottime) -> Option<&str> {
        let leased = self.lease_end.is_some_and(|end| now < end);
        match (&self.route, &self.failure) {
            (Some(_), _) if leased => None,
            (_, Some(failed)) if !leased => Some(failed),
            (Some(_), _) => Some("the lease has ended"),
            (None, _) if self.close_reason.is_empty() => Some("no check-in yet"),
            (None, _) => Some(&self.close_reason),
        }
    }
}

impl CheckInStatus {
    /// Returns the state before the first check-in.
    pub fn new(started: Boottime) -> Self {
        Self {
            started,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, StatusState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_in_succeeded(&self, at: Boottime, lease_end: Boottime) {
        let mut state = self.state();
        (state.last_good, state.lease_end) = (Some(at), Some(lease_end));
    }

    /// Records that the route is open.
    pub(super) fn route_opened(&self, db: &str, address: String) {
        let db = db.to_owned();
        self.state().route = Some(ReportedRoute { db, address });
    }

    /// Records that the route is closed.
    pub(super) fn route_closed(&self, reason: String) {
        let mut state = self.state();
        (state.route, state.close_reason) = (None, reason);
    }

    /// Records why the last check-in failed; `None` if it did not.
    pub(super) fn set_failure(&self, reason: Option<String>) {
        self.state().failure = reason;
    }

    /// Records that new clients are not accepted any more.
    pub(super) fn set_draining(&self) {
        self.state().is_draining = true;
    }

    /// Sets the gauges that change with time alone.
    pub fn update_gauges(&self, metrics: &Metrics, now: Boottime) {
        let state = self.state();
        metrics
            .route
            .checkin_age
            .set(now.since(state.last_good.unwrap_or(self.started)).as_secs_f64());
        metrics.route.lease_left.set(
            state
                .lease_end
                .map_or(Duration::ZERO, |end| end.since(now))
                .as_secs_f64(),
        );
    }

    /// Returns what the proxy reports about itself.
    pub fn service_status(&self, clients: usize, now: Boottime) -> ServiceStatus {
        let state = self.state();
        let reason = state.closed_reason(now).map(str::to_owned);
        let route = state.route.as_ref().filter(|_| reason.is_none());
        let clients_text = counted(clients, "client", "clients");
        ServiceStatus {
            // The first check-in has ended, with or without success.
            is_started: state.last_good.is_some() || state.failure.is_some(),
            summary: match route {
                Some(route) => format!("proxying to {}, {clients_text}", route.address),
                None => format!("route closed, {clients_text}"),
            },
            not_ready: reason.or_else(|| {
                state
                    .is_draining
                    .then(|| "draining: new clients are not accepted".to_owned())
            }),
            details: json!({ "clients": clients }),
        }
    }

    /// Logs the summary (proxy section 3).
    pub fn log_summary(&self, metrics: &Metrics, clients: usize, now: Boottime) {
        let state = self.state();
        let relayed = metrics.relay.relayed_bytes();
        let reason = state.closed_reason(now);
        let route = state.route.as_ref().filter(|_| reason.is_none());
        info!(
            route = route.map_or_else(|| "closed".to_owned(), ToString::to_string),
            why = reason,
            lease_left = ?to_millis(state.lease_end.map_or(Duration::ZERO, |end| end.since(now))),
            up = ?to_millis(now.since(self.started)),
            clients,
            held = metrics.connections.held(),
            accepted = metrics.connections.accepted.value(),
            refused = metrics.connections.refused_total(),
            ended = metrics.connections.ended_total(),
            to_client_bytes = relayed.to_client,
            to_master_bytes = relayed.to_server,
            spliced_bytes = relayed.spliced,
            "summary"
        );
    }
}

/// Truncates to milliseconds, for readability.
fn to_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_whose_lease_has_ended_is_summed_up_as_closed_with_the_reason() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let status = CheckInStatus::new(at(1));
        let reason = |now| status.state().closed_reason(now).map(str::to_owned);
        assert_eq!(reason(at(1)).as_deref(), Some("no check-in yet"));
        status.route_opened("a", "10.0.0.1:5432".to_owned());
        status.check_in_succeeded(at(2), at(17));
        assert_eq!(reason(at(16)), None);
        status.set_failure(Some("check-in failed: no response".to_owned()));
        assert_eq!(reason(at(16)), None, "the lease still runs");
        assert_eq!(reason(at(17)).as_deref(), Some("check-in failed: no response"));
        status.set_failure(None);
        status.route_closed("not enabled".to_owned());
        status.check_in_succeeded(at(18), at(33));
        assert_eq!(reason(at(19)).as_deref(), Some("not enabled"));
    }

    #[test]
    fn the_status_names_the_master_or_why_there_is_none() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let status = CheckInStatus::new(at(1));
        let starting = status.service_status(0, at(1));
        assert!(!starting.is_started);
        assert_eq!(starting.not_ready.as_deref(), Some("no check-in yet"));
        status.route_opened("a", "10.0.0.1:5432".to_owned());
        status.check_in_succeeded(at(2), at(17));
        let open = status.service_status(132, at(3));
        assert!(open.is_started);
        assert_eq!(
            (open.summary.as_str(), open.not_ready),
            ("proxying to 10.0.0.1:5432, 132 clients", None)
        );
        status.set_draining();
        let draining = status.service_status(132, at(3)).not_ready;
        assert_eq!(draining.as_deref(), Some("draining: new clients are not accepted"));
        let ended = status.service_status(1, at(17));
        assert_eq!(ended.summary, "route closed, 1 client");
        assert_eq!(ended.not_ready.as_deref(), Some("the lease has ended"));
    }

    #[test]
    fn times_of_a_summary_are_in_milliseconds() {
        assert_eq!(
            format!("{:?}", to_millis(Duration::from_nanos(1_234_567_891))),
            "1.234s"
        );
    }
}
