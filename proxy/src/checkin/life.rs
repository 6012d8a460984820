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
    route: Option<String>,
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

    pub(super) fn routed(&self, route: Option<String>) {
        self.state().route = route;
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
        let carried = metrics.carried();
        info!(
            route = state.route.as_deref().unwrap_or("closed"),
            lease_left = ?state.lease_end.map_or(Duration::ZERO, |end| end.since(now)),
            up = ?now.since(self.started),
            clients,
            held = metrics.held(),
            accepted = metrics.accepted.value(),
            refused = metrics.refusals(),
            ended = metrics.endings(),
            to_client_bytes = carried.to_client,
            to_master_bytes = carried.to_master,
            spliced_bytes = carried.spliced,
            "summary"
        );
    }
}
