//! The metrics of the proxy (proxy section 3, cli 17.3): names, help texts and handles. When something is counted is
//! decided where it happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base::clock::Boottime;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::relay::{ByteCounters, CloseEvent, CloseReason, RelayEnd};

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

/// Why a client was not connected to the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The route is closed.
    RouteClosed,
    /// `--max-connections` clients are connected.
    Limit,
    /// No descriptor was left (proxy P-14).
    Descriptors,
    /// The connect to the master failed.
    Master,
    /// The connect to the master timed out (`--connect-timeout`).
    Timeout,
    /// The client left, or the route closed, before the connect had completed.
    Abandoned,
    /// The client was held for longer than `--hold` during a change of the master.
    HoldExpired,
    /// The route was closed by a change of the master, and `--hold-max` clients were held already.
    HoldFull,
}

impl RefusalReason {
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

    /// Value of the label `reason`.
    pub fn label(self) -> &'static str {
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

/// What happened to a held client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldOutcome {
    /// Connected to the new master.
    Connected,
    /// Closed after `--hold`.
    Expired,
    /// Closed because there will be no new master, or because the proxy drains.
    RouteClosed,
    /// Found closed by the client when room was needed.
    Abandoned,
}

impl HoldOutcome {
    const ALL: [Self; 4] = [Self::Connected, Self::Expired, Self::RouteClosed, Self::Abandoned];

    /// Value of the label `result`.
    fn label(self) -> &'static str {
        self.refusal().map_or("carried", RefusalReason::label)
    }

    fn refusal(self) -> Option<RefusalReason> {
        match self {
            Self::Connected => None,
            Self::Expired => Some(RefusalReason::HoldExpired),
            Self::RouteClosed => Some(RefusalReason::RouteClosed),
            Self::Abandoned => Some(RefusalReason::Abandoned),
        }
    }
}

/// Values of the label `reason` of ended connections.
const END_REASONS: [&str; 7] = [
    "client",
    "master",
    "error",
    "route_change",
    "lease",
    "clock_jump",
    "stopping",
];

fn end_reason(ended: &RelayEnd, cut: Option<CloseReason>) -> usize {
    match (ended, cut) {
        (RelayEnd::ClientFinished, _) => 0,
        (RelayEnd::ServerFinished, _) => 1,
        (RelayEnd::Failed(_), _) => 2,
        (RelayEnd::GateClosed, Some(CloseReason::RouteChange)) => 3,
        // A forward may find the lease ended before the gate is closed for it.
        (RelayEnd::GateClosed, Some(CloseReason::Lease) | None) => 4,
        (RelayEnd::GateClosed, Some(CloseReason::ClockJump)) => 5,
        (RelayEnd::GateClosed, Some(CloseReason::Stopping)) => 6,
    }
}

/// A counter whose value can also be read, for the summary.
pub struct ReadableCounter {
    counter: Counter,
    value: AtomicU64,
}

impl ReadableCounter {
    fn of(counter: Counter) -> Self {
        let value = AtomicU64::new(0);
        Self { counter, value }
    }

    /// Adds `more`.
    pub fn increment(&self, more: u64) {
        self.counter.increment(more);
        self.value.fetch_add(more, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// The sum of a counter that each relay thread has for itself.
struct SummedCounter {
    counter: Counter,
    of: fn(&ByteCounters) -> &AtomicU64,
    /// The part of the sum that `counter` already contains.
    reported: AtomicU64,
}

impl SummedCounter {
    fn of(counter: Counter, of: fn(&ByteCounters) -> &AtomicU64) -> Self {
        let reported = AtomicU64::new(0);
        Self { counter, of, reported }
    }

    /// Brings `counter` up to date. Concurrent calls add everything once (checked in `relay/gate/exhaustive.rs`).
    fn update(&self, byte_counters: &[Arc<ByteCounters>]) {
        let sum = byte_counters
            .iter()
            .map(|counters| (self.of)(counters).load(Ordering::Relaxed))
            .sum();
        let before = self.reported.fetch_max(sum, Ordering::Relaxed);
        self.counter.increment(sum.saturating_sub(before));
    }
}

/// The handles of all metrics. A connection costs a few atomic operations; bytes are counted per thread and summed at
/// each scrape.
pub struct Metrics {
    /// Clients accepted.
    pub accepted: ReadableCounter,
    /// Connections between a client and the master; see [`Metrics::connection_opened`].
    open: Gauge,
    refused: [ReadableCounter; RefusalReason::ALL.len()],
    ended: [ReadableCounter; END_REASONS.len()],
    summed: [SummedCounter; 5],
    copied: (Counter, AtomicU64),
    held: Gauge,
    held_now: AtomicUsize,
    holds: [ReadableCounter; HoldOutcome::ALL.len()],
    route_open: Gauge,
    /// The proxy generation of the last decision.
    pub route_generation: Gauge,
    route_since: Gauge,
    /// 1 while the socket for clients listens.
    pub listening: Gauge,
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
    connect: Histogram,
    /// Seconds from closing the gate to the end of the last connection, at the last change.
    drop_seconds: Gauge,
    /// Seconds from closing the gate until no relay thread forwarded any more, at the last change.
    stop_seconds: Gauge,
    /// Byte counters of each relay thread.
    byte_counters: Vec<Arc<ByteCounters>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers all metrics with their help texts. Every series with fixed labels exists from the first scrape on.
    pub fn register(relay_threads: usize) -> Self {
        describe_counter!(ACCEPTED, "Clients accepted");
        describe_gauge!(OPEN, "Clients connected to the master");
        describe_counter!(REFUSED, "Clients that were not connected to the master, by reason");
        describe_counter!(ENDED, "Connections that ended, by reason");
        describe_counter!(RELAYED, Unit::Bytes, "Bytes forwarded, by direction");
        describe_counter!(BY_PATH, Unit::Bytes, "Bytes forwarded, by method (copy or splice)");
        describe_counter!(
            SPLICE_REFUSED,
            "How often bulk data could not be spliced and was copied"
        );
        describe_counter!(BATCHES, "Streams whose wake-ups were batched");
        describe_gauge!(HELD, "Clients held for the next master");
        describe_counter!(HOLDS, "Clients that were held for the next master, by result");
        describe_gauge!(ROUTE_OPEN, "Whether the route to a master is open (0 or 1)");
        describe_gauge!(ROUTE_GENERATION, "Generation of the proxy section last followed");
        describe_gauge!(ROUTE_SINCE, Unit::Seconds, "Unix time of the last change of the route");
        describe_gauge!(MASTER, "The db that clients are connected to; 1 for the current one");
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
            "Time until the lease of the last good check-in ends"
        );
        describe_counter!(WATCH_EVENTS, "Check-ins started by the watch on the cluster data");
        describe_counter!(WATCH_GAPS, "Restarts of the watch, which may have missed changes");
        describe_histogram!(CONNECT, Unit::Seconds, "Duration of connects to the master");
        describe_gauge!(
            STOP,
            Unit::Seconds,
            "Time from the last closing of the route until forwarding had stopped"
        );
        describe_gauge!(
            DROP,
            Unit::Seconds,
            "Time from the last closing of the route to the end of its last connection"
        );
        Self {
            accepted: ReadableCounter::of(counter!(ACCEPTED)),
            open: gauge!(OPEN),
            refused: RefusalReason::ALL
                .map(|reason| ReadableCounter::of(counter!(REFUSED, "reason" => reason.label()))),
            ended: END_REASONS.map(|reason| ReadableCounter::of(counter!(ENDED, "reason" => reason))),
            summed: [
                SummedCounter::of(counter!(RELAYED, "toward" => "client"), |counters| &counters.to_client),
                SummedCounter::of(counter!(RELAYED, "toward" => "master"), |counters| &counters.to_server),
                SummedCounter::of(counter!(BY_PATH, "path" => "splice"), |counters| &counters.spliced),
                SummedCounter::of(counter!(SPLICE_REFUSED), |counters| &counters.splice_refused),
                SummedCounter::of(counter!(BATCHES), |counters| &counters.batches),
            ],
            copied: (counter!(BY_PATH, "path" => "copy"), AtomicU64::new(0)),
            held: gauge!(HELD),
            held_now: AtomicUsize::new(0),
            holds: HoldOutcome::ALL.map(|result| ReadableCounter::of(counter!(HOLDS, "result" => result.label()))),
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
            byte_counters: (0..relay_threads).map(|_| Arc::default()).collect(),
        }
    }

    /// Returns the byte counters of one relay thread.
    pub fn thread_counters(&self, thread: usize) -> Arc<ByteCounters> {
        Arc::clone(&self.byte_counters[thread])
    }

    /// Counts a client that was not connected to the master.
    pub fn count_refused(&self, reason: RefusalReason) {
        self.refused[reason as usize].increment(1);
    }

    /// Counts a client that is no longer held; also as refused, unless it was connected to the new master.
    pub fn count_hold_outcome(&self, result: HoldOutcome) {
        self.holds[result as usize].increment(1);
        if let Some(reason) = result.refusal() {
            self.count_refused(reason);
        }
    }

    /// Counts a connection as open until the returned guard is dropped.
    pub fn connection_opened(&self, took: Duration) -> OpenConnection<'_> {
        self.connect.record(took.as_secs_f64());
        self.open.increment(1.0);
        OpenConnection(&self.open)
    }

    /// Counts an ended connection. `cut` is why its gate closed, if it did.
    pub fn count_ended(&self, ended: &RelayEnd, cut: Option<CloseReason>) {
        self.ended[end_reason(ended, cut)].increment(1);
    }

    /// Sets whether the route is open, since this wall-clock time.
    pub fn set_route_open(&self, open: bool, wall_nanos: i128) {
        self.route_open.set(if open { 1.0 } else { 0.0 });
        self.route_since.set(wall_nanos as f64 / 1e9);
    }

    /// Sets which db clients are sent to.
    pub fn set_master(&self, from: Option<&str>, to: Option<&str>) {
        if let Some(db) = from {
            gauge!(MASTER, "db" => db.to_owned()).set(0.0);
        }
        if let Some(db) = to {
            gauge!(MASTER, "db" => db.to_owned()).set(1.0);
        }
    }

    /// Updates the counters that sum over the relay threads. Called at each scrape.
    pub fn update_sums(&self) {
        for summed in &self.summed {
            summed.update(&self.byte_counters);
        }
        let sum = self.relayed_bytes();
        let copied = (sum.to_client + sum.to_server).saturating_sub(sum.spliced);
        let before = self.copied.1.fetch_max(copied, Ordering::Relaxed);
        self.copied.0.increment(copied.saturating_sub(before));
    }

    /// Returns what all relay threads have forwarded.
    pub fn relayed_bytes(&self) -> RelayedBytes {
        let sum = |of: fn(&ByteCounters) -> &AtomicU64| {
            self.byte_counters
                .iter()
                .map(|counters| of(counters).load(Ordering::Relaxed))
                .sum()
        };
        RelayedBytes {
            to_client: sum(|counters| &counters.to_client),
            to_server: sum(|counters| &counters.to_server),
            spliced: sum(|counters| &counters.spliced),
        }
    }

    /// Returns the number of clients that were not connected to the master.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(ReadableCounter::value).sum()
    }

    /// Returns the number of connections that have ended.
    pub fn ended_total(&self) -> u64 {
        self.ended.iter().map(ReadableCounter::value).sum()
    }

    /// Returns the number of clients held now.
    pub fn held(&self) -> usize {
        self.held_now.load(Ordering::Relaxed)
    }

    /// Sets the number of clients held now.
    pub fn set_held(&self, held: usize) {
        self.held_now.store(held, Ordering::Relaxed);
        self.held.set(held as f64);
    }

    /// Resets the drop time when a gate closes; it stays 0 if no client was connected.
    pub fn backend_closed(&self) {
        self.drop_seconds.set(0.0);
    }

    /// Records how long it took until the last client of a closed backend was gone.
    pub fn backend_drained(&self, shut: CloseEvent, now: Boottime) {
        self.drop_seconds.set(now.since(shut.at).as_secs_f64());
    }

    /// Records that a relay thread forwards nothing for a closed gate any more. The last thread determines the value.
    pub fn thread_stopped(&self, shut: CloseEvent, now: Boottime) {
        self.stop_seconds.set(now.since(shut.at).as_secs_f64());
    }
}

/// Bytes forwarded since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedBytes {
    /// To clients.
    pub to_client: u64,
    /// To servers.
    pub to_server: u64,
    /// The part of both that was spliced.
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
        for (at, reason) in RefusalReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        for (at, result) in HoldOutcome::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, at);
        }
        let ends = [
            CloseReason::RouteChange,
            CloseReason::Lease,
            CloseReason::ClockJump,
            CloseReason::Stopping,
        ]
        .map(|cut| end_reason(&RelayEnd::GateClosed, Some(cut)));
        assert_eq!(
            ends.map(|at| END_REASONS[at]),
            ["route_change", "lease", "clock_jump", "stopping"]
        );
    }
}
