//! Every metric of the proxy (P-metrics, cli 17.3): names, help and handles. When something counts is decided where it
//! happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use control::clock::Boottime;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::relay::{Cut, Ended, Shut, Tally};

const ACCEPTED: &str = "stolon_proxy_connections_accepted_total";
const OPEN: &str = "stolon_proxy_connections_open";
const REFUSED: &str = "stolon_proxy_connections_refused_total";
const ENDED: &str = "stolon_proxy_connections_ended_total";
const RELAYED: &str = "stolon_proxy_relayed_bytes_total";
const BY_PATH: &str = "stolon_proxy_relayed_by_path_bytes_total";
const SPLICE_REFUSED: &str = "stolon_proxy_splice_refused_total";
const BATCHES: &str = "stolon_proxy_batched_streams_total";
const HELD: &str = "stolon_proxy_connections_held";
const HOLDS: &str = "stolon_proxy_holds_total";
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
const STOP: &str = "stolon_proxy_last_stop_seconds";
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
    /// The route was closed by a change of the master for longer than `--hold`.
    HoldExpired,
    /// The same, and `--hold-max` clients were held already.
    HoldFull,
}

impl Refused {
    const ALL: [Self; 8] = [
        Self::RouteClosed,
        Self::Limit,
        Self::Descriptors,
        Self::Master,
        Self::Timeout,
        Self::Abandoned,
        Self::HoldExpired,
        Self::HoldFull,
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
            Self::HoldExpired => "hold_expired",
            Self::HoldFull => "hold_full",
        }
    }
}

/// What became of a client that waited for the next master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Released {
    /// Sent on to the new master.
    Carried,
    /// Closed after `--hold`.
    Expired,
    /// Closed because there will be no new master, or because the proxy drains.
    RouteClosed,
    /// Gone by itself, and found to be when room was needed.
    Abandoned,
}

impl Released {
    const ALL: [Self; 4] = [Self::Carried, Self::Expired, Self::RouteClosed, Self::Abandoned];

    /// As in the label `result`.
    fn name(self) -> &'static str {
        self.refused().map_or("carried", Refused::name)
    }

    fn refused(self) -> Option<Refused> {
        match self {
            Self::Carried => None,
            Self::Expired => Some(Refused::HoldExpired),
            Self::RouteClosed => Some(Refused::RouteClosed),
            Self::Abandoned => Some(Refused::Abandoned),
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

/// A counter that the summary can read, too.
pub struct Count {
    told: Counter,
    value: AtomicU64,
}

impl Count {
    fn of(told: Counter) -> Self {
        let value = AtomicU64::new(0);
        Self { told, value }
    }

    /// Counts `more`.
    pub fn increment(&self, more: u64) {
        self.told.increment(more);
        self.value.fetch_add(more, Ordering::Relaxed);
    }

    /// What has been counted.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// A counter of what the relay threads count by themselves.
struct Summed {
    told: Counter,
    of: fn(&Tally) -> &AtomicU64,
    /// What the counter has been told.
    before: AtomicU64,
}

impl Summed {
    fn of(told: Counter, of: fn(&Tally) -> &AtomicU64) -> Self {
        let before = AtomicU64::new(0);
        Self { told, of, before }
    }

    /// Brings it up to date; two at once tell everything once (checked in `relay/gate/exhaustive.rs`).
    fn sum(&self, tallies: &[Arc<Tally>]) {
        let sum = tallies
            .iter()
            .map(|tally| (self.of)(tally).load(Ordering::Relaxed))
            .sum();
        let before = self.before.fetch_max(sum, Ordering::Relaxed);
        self.told.increment(sum.saturating_sub(before));
    }
}

/// The handles. Those of connections are few atomics a connection; bytes are counted by thread and summed at scrape.
pub struct Metrics {
    /// Clients accepted.
    pub accepted: Count,
    /// Connections between a client and the master now; see [`Metrics::opened`].
    open: Gauge,
    refused: [Count; Refused::ALL.len()],
    ended: [Count; ENDINGS.len()],
    summed: [Summed; 5],
    copied: (Counter, AtomicU64),
    held: Gauge,
    held_now: AtomicUsize,
    holds: [Count; Released::ALL.len()],
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
    drop_seconds: Gauge,
    /// Seconds from closing the gate until no relay thread forwarded any more, at the last change.
    stop_seconds: Gauge,
    /// One tally for each relay thread.
    tallies: Vec<Arc<Tally>>,
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
        describe_counter!(BY_PATH, Unit::Bytes, "Bytes carried, by the path that they took");
        describe_counter!(SPLICE_REFUSED, "Times that bulk could not be spliced and was copied");
        describe_counter!(BATCHES, "Long streams for which wake-ups were batched");
        describe_gauge!(HELD, "Clients that wait for the next master now");
        describe_counter!(
            HOLDS,
            "Clients that have waited for the next master, by what became of them"
        );
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
            STOP,
            Unit::Seconds,
            "Time from closing the route until nothing was forwarded any more, last time"
        );
        describe_gauge!(
            DROP,
            Unit::Seconds,
            "Time from closing the route to the end of its last connection, last time"
        );
        Self {
            accepted: Count::of(counter!(ACCEPTED)),
            open: gauge!(OPEN),
            refused: Refused::ALL.map(|reason| Count::of(counter!(REFUSED, "reason" => reason.name()))),
            ended: ENDINGS.map(|reason| Count::of(counter!(ENDED, "reason" => reason))),
            summed: [
                Summed::of(counter!(RELAYED, "toward" => "client"), |tally| &tally.to_client),
                Summed::of(counter!(RELAYED, "toward" => "master"), |tally| &tally.to_master),
                Summed::of(counter!(BY_PATH, "path" => "splice"), |tally| &tally.spliced),
                Summed::of(counter!(SPLICE_REFUSED), |tally| &tally.splice_refused),
                Summed::of(counter!(BATCHES), |tally| &tally.batches),
            ],
            copied: (counter!(BY_PATH, "path" => "copy"), AtomicU64::new(0)),
            held: gauge!(HELD),
            held_now: AtomicUsize::new(0),
            holds: Released::ALL.map(|result| Count::of(counter!(HOLDS, "result" => result.name()))),
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
            stop_seconds: gauge!(STOP),
            tallies: (0..relay_threads).map(|_| Arc::default()).collect(),
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

    /// Counts a client that is held no more, and if it was not sent on to the new master, as refused.
    pub fn released(&self, result: Released) {
        self.holds[result as usize].increment(1);
        if let Some(reason) = result.refused() {
            self.refused(reason);
        }
    }

    /// Counts a connection as open for as long as the answer lives.
    pub fn opened(&self, took: Duration) -> OpenConnection<'_> {
        self.connect.record(took.as_secs_f64());
        self.open.increment(1.0);
        OpenConnection(&self.open)
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

    /// Brings the counters of what the relay threads count up to date. Called at scrape.
    pub fn sum_tallies(&self) {
        for summed in &self.summed {
            summed.sum(&self.tallies);
        }
        let sum = self.carried();
        let copied = (sum.to_client + sum.to_master).saturating_sub(sum.spliced);
        let before = self.copied.1.fetch_max(copied, Ordering::Relaxed);
        self.copied.0.increment(copied.saturating_sub(before));
    }

    /// What all relay threads have carried.
    pub fn carried(&self) -> Carried {
        let sum =
            |of: fn(&Tally) -> &AtomicU64| self.tallies.iter().map(|tally| of(tally).load(Ordering::Relaxed)).sum();
        Carried {
            to_client: sum(|tally| &tally.to_client),
            to_master: sum(|tally| &tally.to_master),
            spliced: sum(|tally| &tally.spliced),
        }
    }

    /// Clients that got no connection to the master, for whatever reason.
    pub fn refusals(&self) -> u64 {
        self.refused.iter().map(Count::value).sum()
    }

    /// Connections that have ended, however.
    pub fn endings(&self) -> u64 {
        self.ended.iter().map(Count::value).sum()
    }

    /// Clients that are held now.
    pub fn held(&self) -> usize {
        self.held_now.load(Ordering::Relaxed)
    }

    /// Sets how many clients are held.
    pub fn set_held(&self, held: usize) {
        self.held_now.store(held, Ordering::Relaxed);
        self.held.set(held as f64);
    }

    /// Tells that a gate has closed. If nobody was connected, nothing more is measured of its end.
    pub fn path_closed(&self) {
        self.drop_seconds.set(0.0);
    }

    /// Tells that the last client of a path is gone, whose gate had closed.
    pub fn path_emptied(&self, shut: Shut, now: Boottime) {
        self.drop_seconds.set(now.since(shut.at).as_secs_f64());
    }

    /// Tells that one more relay thread is known to forward nothing past the closing of its gate; the last one counts.
    pub fn thread_stopped(&self, shut: Shut, now: Boottime) {
        self.stop_seconds.set(now.since(shut.at).as_secs_f64());
    }
}

/// Bytes carried since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Given to clients.
    pub to_client: u64,
    /// Given to masters.
    pub to_master: u64,
    /// Those of both that were spliced.
    pub spliced: u64,
}

/// Counts one connection as open until it is dropped, so that the gauge cannot drift.
pub struct OpenConnection<'a>(&'a Gauge);

impl Drop for OpenConnection<'_> {
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
        for (at, result) in Released::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at);
        }
        let ends =
            [Cut::RouteChange, Cut::Lease, Cut::ClockJump, Cut::Stopping].map(|cut| ending(&Ended::Cut, Some(cut)));
        assert_eq!(
            ends.map(|at| ENDINGS[at]),
            ["route_change", "lease", "clock_jump", "stopping"]
        );
    }
}
