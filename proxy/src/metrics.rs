//! Every metric of the proxy (P-metrics, cli 17.3): names, help and handles. When something counts is decided where it
//! happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::relay::{Cut, Ended, Tally};

const ACCEPTED: &str = "stolon_proxy_connections_accepted_total";
const OPEN: &str = "stolon_proxy_connections_open";
const REFUSED: &str = "stolon_proxy_connections_refused_total";
const ENDED: &str = "stolon_proxy_connections_ended_total";
const RELAYED: &str = "stolon_proxy_relayed_bytes_total";
const ROUTE_OPEN: &str = "stolon_proxy_route_open";
const ROUTE_GENERATION: &str = "stolon_proxy_route_generation";
const ROUTE_SINCE: &str = "stolon_proxy_route_since_seconds";
const MASTER: &str = "stolon_proxy_master_info";
const LISTENING: &str = "stolon_proxy_listening";
const CHECKINS: &str = "stolon_proxy_checkins_total";
const CHECKIN_AGE: &str = "stolon_proxy_last_checkin_age_seconds";
const LEASE_LEFT: &str = "stolon_proxy_lease_left_seconds";
const WATCH_EVENTS: &str = "stolon_proxy_watch_events_total";
const WATCH_GAPS: &str = "stolon_proxy_watch_restarts_total";
const CONNECT: &str = "stolon_proxy_connect_seconds";
const DROP: &str = "stolon_proxy_last_drop_seconds";

/// Why a client got no connection to the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The route is closed.
    RouteClosed,
    /// `--max-connections` are open.
    Limit,
    /// No descriptor was left (P-14).
    Descriptors,
    /// The master refused, or could not be reached.
    Master,
    /// The master did not answer within `--connect-timeout`.
    Timeout,
    /// The client was gone, or the route closed, before the master had answered.
    Abandoned,
}

impl Refused {
    const ALL: [Self; 6] = [
        Self::RouteClosed,
        Self::Limit,
        Self::Descriptors,
        Self::Master,
        Self::Timeout,
        Self::Abandoned,
    ];

    /// As in the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RouteClosed => "route_closed",
            Self::Limit => "max_connections",
            Self::Descriptors => "descriptors",
            Self::Master => "master",
            Self::Timeout => "connect_timeout",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What ended a connection, as in the label `reason`.
const ENDINGS: [&str; 7] = [
    "client",
    "master",
    "error",
    "route_change",
    "lease",
    "clock_jump",
    "stopping",
];

fn ending(ended: &Ended, cut: Option<Cut>) -> usize {
    match (ended, cut) {
        (Ended::ClientLeft, _) => 0,
        (Ended::MasterLeft, _) => 1,
        (Ended::Failed(_), _) => 2,
        (Ended::Cut, Some(Cut::RouteChange)) => 3,
        // A lease that ran out is noticed at a forward before its end is told to all.
        (Ended::Cut, Some(Cut::Lease) | None) => 4,
        (Ended::Cut, Some(Cut::ClockJump)) => 5,
        (Ended::Cut, Some(Cut::Stopping)) => 6,
    }
}

/// The handles. Those of connections are few atomics a connection; bytes are counted by thread and summed at scrape.
pub struct Metrics {
    /// Clients accepted.
    pub accepted: Counter,
    /// Connections between a client and the master now; see [`Metrics::opened`].
    open: Gauge,
    refused: [Counter; Refused::ALL.len()],
    ended: [Counter; ENDINGS.len()],
    to_client: Counter,
    to_master: Counter,
    route_open: Gauge,
    /// The proxy generation last concluded from.
    pub route_generation: Gauge,
    route_since: Gauge,
    /// 1 while the socket for clients listens.
    pub listening: Gauge,
    /// Check-ins that renewed the lease.
    pub checkins_good: Counter,
    /// Check-ins that read data which may not be used.
    pub checkins_unusable: Counter,
    /// Check-ins that failed.
    pub checkins_failed: Counter,
    /// Seconds since the last good check-in, set at scrape.
    pub checkin_age: Gauge,
    /// Seconds that the lease still runs, set at scrape.
    pub lease_left: Gauge,
    /// Wake-ups by the watch.
    pub watch_events: Counter,
    /// Times that the watch began anew.
    pub watch_gaps: Counter,
    connect: Histogram,
    /// Seconds from stopping to forward to the end of the last connection, at the last change.
    pub drop_seconds: Gauge,
    /// One tally for each relay thread.
    tallies: Vec<Arc<Tally>>,
    /// What the counters of bytes have been told of the tallies.
    summed: [AtomicU64; 2],
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Names and helps all metrics; every series with fixed labels is there from the first scrape on.
    pub fn register(relay_threads: usize) -> Self {
        describe_counter!(ACCEPTED, "Clients accepted");
        describe_gauge!(OPEN, "Clients connected to the master now");
        describe_counter!(REFUSED, "Clients closed without a connection to the master, by reason");
        describe_counter!(ENDED, "Connections that ended, by what ended them");
        describe_counter!(RELAYED, Unit::Bytes, "Bytes carried, by direction");
        describe_gauge!(ROUTE_OPEN, "Whether clients may go to a master (0 or 1)");
        describe_gauge!(ROUTE_GENERATION, "Generation of the proxy section last followed");
        describe_gauge!(ROUTE_SINCE, Unit::Seconds, "Unix time of the last change of the route");
        describe_gauge!(MASTER, "Names the db that clients are sent to; 1 for the present one");
        describe_gauge!(LISTENING, "Whether the socket for clients listens (0 or 1)");
        describe_counter!(CHECKINS, "Check-ins with the store, by result");
        describe_gauge!(
            CHECKIN_AGE,
            Unit::Seconds,
            "Time since the last good check-in; since the start before it"
        );
        describe_gauge!(
            LEASE_LEFT,
            Unit::Seconds,
            "Time that the lease of the last good check-in still runs"
        );
        describe_counter!(WATCH_EVENTS, "Wake-ups by the watch on the cluster data");
        describe_counter!(
            WATCH_GAPS,
            "Times that the watch began anew and may have missed something"
        );
        describe_histogram!(
            CONNECT,
            Unit::Seconds,
            "Time that the master took to accept a connection"
        );
        describe_gauge!(
            DROP,
            Unit::Seconds,
            "Time from closing the route to the end of its last connection, last time"
        );
        Self {
            accepted: counter!(ACCEPTED),
            open: gauge!(OPEN),
            refused: Refused::ALL.map(|reason| counter!(REFUSED, "reason" => reason.name())),
            ended: ENDINGS.map(|reason| counter!(ENDED, "reason" => reason)),
            to_client: counter!(RELAYED, "toward" => "client"),
            to_master: counter!(RELAYED, "toward" => "master"),
            route_open: gauge!(ROUTE_OPEN),
            route_generation: gauge!(ROUTE_GENERATION),
            route_since: gauge!(ROUTE_SINCE),
            listening: gauge!(LISTENING),
            checkins_good: counter!(CHECKINS, "result" => "good"),
            checkins_unusable: counter!(CHECKINS, "result" => "unusable_data"),
            checkins_failed: counter!(CHECKINS, "result" => "failed"),
            checkin_age: gauge!(CHECKIN_AGE),
            lease_left: gauge!(LEASE_LEFT),
            watch_events: counter!(WATCH_EVENTS),
            watch_gaps: counter!(WATCH_GAPS),
            connect: histogram!(CONNECT),
            drop_seconds: gauge!(DROP),
            tallies: (0..relay_threads).map(|_| Arc::default()).collect(),
            summed: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// The tally of one relay thread.
    pub fn tally(&self, thread: usize) -> Arc<Tally> {
        Arc::clone(&self.tallies[thread])
    }

    /// Counts a client that got no connection to the master.
    pub fn refused(&self, reason: Refused) {
        self.refused[reason as usize].increment(1);
    }

    /// Counts a connection as open for as long as the answer lives.
    pub fn opened(&self, took: Duration) -> OpenConnection {
        self.connect.record(took.as_secs_f64());
        self.open.increment(1.0);
        OpenConnection(self.open.clone())
    }

    /// Counts how a connection ended; `cut` is why its gate closed, if it did.
    pub fn ended(&self, ended: &Ended, cut: Option<Cut>) {
        self.ended[ending(ended, cut)].increment(1);
    }

    /// Tells that the route opened or closed, at this wall-clock time.
    pub fn route(&self, open: bool, wall_nanos: i128) {
        self.route_open.set(if open { 1.0 } else { 0.0 });
        self.route_since.set(wall_nanos as f64 / 1e9);
    }

    /// Names the db that clients are sent to.
    pub fn master(&self, from: Option<&str>, to: Option<&str>) {
        if let Some(db) = from {
            gauge!(MASTER, "db" => db.to_owned()).set(0.0);
        }
        if let Some(db) = to {
            gauge!(MASTER, "db" => db.to_owned()).set(1.0);
        }
    }

    /// Brings the counters of bytes up to date. Called at scrape.
    pub fn sum_tallies(&self) {
        let sum = |of: fn(&Tally) -> &AtomicU64| -> u64 {
            self.tallies.iter().map(|tally| of(tally).load(Ordering::Relaxed)).sum()
        };
        let sums = [
            (&self.to_client, sum(|tally| &tally.to_client)),
            (&self.to_master, sum(|tally| &tally.to_master)),
        ];
        for ((counter, sum), told) in sums.into_iter().zip(&self.summed) {
            let before = told.fetch_max(sum, Ordering::Relaxed);
            counter.increment(sum.saturating_sub(before));
        }
    }
}

/// Counts one connection as open until it is dropped, so that the gauge cannot drift.
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place() {
        for (at, reason) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        let ends =
            [Cut::RouteChange, Cut::Lease, Cut::ClockJump, Cut::Stopping].map(|cut| ending(&Ended::Cut, Some(cut)));
        assert_eq!(
            ends.map(|at| ENDINGS[at]),
            ["route_change", "lease", "clock_jump", "stopping"]
        );
    }
}
