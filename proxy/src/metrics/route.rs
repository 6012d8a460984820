//! Where clients are sent, and how the check-ins with the store go. When that changes is decided by `checkin`.

use metrics::{Counter, Gauge};

use super::table;

/// The handles of the metrics about the route and the check-ins.
pub struct RouteMetrics {
    open: Gauge,
    /// The proxy generation of the last decision.
    pub generation: Gauge,
    since: Gauge,
    /// Check-ins that renewed the lease.
    pub checkins_good: Counter,
    /// Check-ins that read cluster data that cannot be used.
    pub checkins_unusable: Counter,
    /// Check-ins that failed.
    pub checkins_failed: Counter,
    /// Seconds since the last good check-in; set at each scrape.
    pub checkin_age: Gauge,
    /// Seconds until the lease ends; set at each scrape.
    pub lease_left: Gauge,
    /// Check-ins started by the watch.
    pub watch_events: Counter,
    /// Restarts of the watch.
    pub watch_gaps: Counter,
}

impl RouteMetrics {
    /// Every series with fixed labels exists from the first scrape on.
    pub(super) fn register() -> Self {
        Self {
            open: table::ROUTE_OPEN.gauge_of(&[]),
            generation: table::ROUTE_GENERATION.gauge_of(&[]),
            since: table::ROUTE_SINCE.gauge_of(&[]),
            checkins_good: table::CHECKINS.counter_of(&["good"]),
            checkins_unusable: table::CHECKINS.counter_of(&["unusable_data"]),
            checkins_failed: table::CHECKINS.counter_of(&["failed"]),
            checkin_age: table::CHECKIN_AGE.gauge_of(&[]),
            lease_left: table::LEASE_LEFT.gauge_of(&[]),
            watch_events: table::WATCH_EVENTS.counter_of(&[]),
            watch_gaps: table::WATCH_GAPS.counter_of(&[]),
        }
    }

    /// Sets whether the route is open, since this wall-clock time.
    pub fn set_open(&self, open: bool, wall_nanos: i128) {
        self.open.set(if open { 1.0 } else { 0.0 });
        self.since.set(wall_nanos as f64 / 1e9);
    }

    /// Sets which db clients are sent to.
    pub fn set_master(&self, from: Option<&str>, to: Option<&str>) {
        let former = from.filter(|db| Some(*db) != to).map(|db| (vec![db.to_owned()], 0.0));
        let current = to.map(|db| (vec![db.to_owned()], 1.0));
        table::MASTER.replace_series(former.into_iter().chain(current));
    }
}
