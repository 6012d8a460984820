//! Signs of life that a scrape and a summary look at. They are given by the check-in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::clock::Boottime;
use tracing::info;

use crate::metrics::Metrics;

/// Signs of life that a scrape and a summary look at.
#[derive(Debug)]
pub struct Life {
    started: Boottime,
    state: Mutex<Alive>,
}

#[derive(Debug, Default)]
struct Alive {
    good: Option<Boottime>,
    lease_end: Option<Boottime>,
    /// The open route; none while it is closed.
    route: Option<String>,
    /// Why it was closed last.
    closed: String,
    /// Why the last check-in failed, if it did.
    failed: Option<String>,
}

impl Alive {
    /// Why clients may go nowhere now; `None` when they may go somewhere. An open route ends with its lease, whether or not
    /// a check-in has seen that.
    fn why_closed(&self, now: Boottime) -> Option<&str> {
        let leased = self.lease_end.is_some_and(|end| now < end);
        match (&self.route, &self.failed) {
            (Some(_), _) if leased => None,
            (_, Some(failed)) if !leased => Some(failed),
            (Some(_), _) => Some("the lease has ended"),
            (None, _) if self.closed.is_empty() => Some("no check-in yet"),
            (None, _) => Some(&self.closed),
        }
    }
}

/// For people: to the millisecond.
fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl Life {
    /// Nothing was good yet.
    pub fn new(started: Boottime) -> Self {
        Self {
            started,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Alive> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn good(&self, at: Boottime, lease_end: Boottime) {
        let mut state = self.state();
        (state.good, state.lease_end) = (Some(at), Some(lease_end));
    }

    /// Clients go there from now on.
    pub(super) fn opened(&self, route: String) {
        self.state().route = Some(route);
    }

    /// Clients may go nowhere.
    pub(super) fn closed(&self, why: String) {
        let mut state = self.state();
        (state.route, state.closed) = (None, why);
    }

    /// Why the last check-in failed; `None` when it was answered.
    pub(super) fn failed(&self, why: Option<String>) {
        self.state().failed = why;
    }

    /// Sets the gauges that time alone changes.
    pub fn show(&self, metrics: &Metrics, now: Boottime) {
        let state = self.state();
        metrics
            .checkin_age
            .set(now.since(state.good.unwrap_or(self.started)).as_secs_f64());
        metrics.lease_left.set(
            state
                .lease_end
                .map_or(Duration::ZERO, |end| end.since(now))
                .as_secs_f64(),
        );
    }

    /// Logs how things stand (proxy section 3).
    pub fn summarise(&self, metrics: &Metrics, clients: usize, now: Boottime) {
        let state = self.state();
        let carried = metrics.relayed_bytes();
        let why = state.why_closed(now);
        info!(
            route = state.route.as_deref().filter(|_| why.is_none()).unwrap_or("closed"),
            why,
            lease_left = ?rounded(state.lease_end.map_or(Duration::ZERO, |end| end.since(now))),
            up = ?rounded(now.since(self.started)),
            clients,
            held = metrics.held(),
            accepted = metrics.accepted.value(),
            refused = metrics.refused_total(),
            ended = metrics.ended_total(),
            to_client_bytes = carried.to_client,
            to_master_bytes = carried.to_server,
            spliced_bytes = carried.spliced,
            "summary"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_whose_lease_has_ended_is_summed_up_as_closed_with_the_reason() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let life = Life::new(at(1));
        let why = |now| life.state().why_closed(now).map(str::to_owned);
        assert_eq!(why(at(1)).as_deref(), Some("no check-in yet"));
        life.opened("db a at 10.0.0.1:5432".to_owned());
        life.good(at(2), at(17));
        assert_eq!(why(at(16)), None);
        life.failed(Some("store silent: no answer".to_owned()));
        assert_eq!(why(at(16)), None, "the lease still runs");
        assert_eq!(why(at(17)).as_deref(), Some("store silent: no answer"));
        life.failed(None);
        life.closed("not enabled".to_owned());
        life.good(at(18), at(33));
        assert_eq!(why(at(19)).as_deref(), Some("not enabled"));
    }

    #[test]
    fn times_of_a_summary_are_told_to_the_millisecond() {
        assert_eq!(format!("{:?}", rounded(Duration::from_nanos(1_234_567_891))), "1.234s");
    }
}
