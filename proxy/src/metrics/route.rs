//! Where clients are sent, and how the check-ins with the store go. When that changes is decided by `checkin`.

use metrics::{Counter, Gauge, counter, gauge};

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
            open: gauge!(table::ROUTE_OPEN),
            generation: gauge!(table::ROUTE_GENERATION),
            since: gauge!(table::ROUTE_SINCE),
            checkins_good: counter!(table::CHECKINS, "result" => "good"),
            checkins_unusable: counter!(table::CHECKINS, "result" => "unusable_data"),
            checkins_failed: counter!(table::CHECKINS, "result" => "failed"),
            checkin_age: gauge!(table::CHECKIN_AGE),
            lease_left: gauge!(table::LEASE_LEFT),
            watch_events: counter!(table::WATCH_EVENTS),
            watch_gaps: counter!(table::WATCH_GAPS),
        }
    }

    /// Sets whether the route is open, since this wall-clock time.
    pub fn set_open(&self, open: bool, wall_nanos: i128) {
        self.open.set(if open { 1.0 } else { 0.0 });
        self.since.set(wall_nanos as f64 / 1e9);
    }

    /// Sets which db clients are sent to.
    pub fn set_master(&self, from: Option<&str>, to: Option<&str>) {
        if let Some(db) = from {
            gauge!(table::MASTER, "db" => db.to_owned()).set(0.0);
        }
        if let Some(db) = to {
            gauge!(table::MASTER, "db" => db.to_owned()).set(1.0);
        }
    }
}
