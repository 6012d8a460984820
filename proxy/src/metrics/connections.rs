//! What the proxy did with its clients: accepted, refused, held, connected and ended. When that is counted is decided
//! by `listener`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base::clock::Boottime;
use metrics::{Counter, Gauge, Histogram};

use super::table;
use crate::relay::{CloseEvent, CloseReason, RelayEnd};

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
    /// Closed by the client, which was found when room was needed.
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

fn end_reason(ended: &RelayEnd, close_reason: Option<CloseReason>) -> usize {
    match (ended, close_reason) {
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

/// The handles of the metrics about clients and their connections.
pub struct ConnectionMetrics {
    /// Clients accepted.
    pub accepted: ReadableCounter,
    /// Connections between a client and the master; see [`ConnectionMetrics::opened`].
    open: Gauge,
    refused: [ReadableCounter; RefusalReason::ALL.len()],
    ended: [ReadableCounter; END_REASONS.len()],
    held: Gauge,
    held_now: AtomicUsize,
    holds: [ReadableCounter; HoldOutcome::ALL.len()],
    listening: Gauge,
    connect: Histogram,
    /// Seconds from closing the gate to the end of the last connection, at the last change.
    drop_seconds: Gauge,
    /// Seconds from closing the gate until no relay thread forwarded any more, at the last change.
    stop_seconds: Gauge,
}

impl ConnectionMetrics {
    /// Every series exists from the first scrape on.
    pub(super) fn register() -> Self {
        Self {
            accepted: ReadableCounter::of(table::ACCEPTED.counter_of(&[])),
            open: table::OPEN.gauge_of(&[]),
            refused: RefusalReason::ALL.map(|reason| ReadableCounter::of(table::REFUSED.counter_of(&[reason.label()]))),
            ended: END_REASONS.map(|reason| ReadableCounter::of(table::ENDED.counter_of(&[reason]))),
            held: table::HELD.gauge_of(&[]),
            held_now: AtomicUsize::new(0),
            holds: HoldOutcome::ALL.map(|result| ReadableCounter::of(table::HOLDS.counter_of(&[result.label()]))),
            listening: table::LISTENING.gauge_of(&[]),
            connect: table::CONNECT.histogram_of(&[]),
            drop_seconds: table::DROP.gauge_of(&[]),
            stop_seconds: table::STOP.gauge_of(&[]),
        }
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
    pub fn opened(&self, took: Duration) -> OpenConnection<'_> {
        self.connect.record(took.as_secs_f64());
        self.open.increment(1.0);
        OpenConnection(&self.open)
    }

    /// Counts an ended connection. `close_reason` is why its gate closed, if it did.
    pub fn count_ended(&self, ended: &RelayEnd, close_reason: Option<CloseReason>) {
        self.ended[end_reason(ended, close_reason)].increment(1);
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

    /// Sets whether the socket for clients listens.
    pub fn set_listening(&self, listening: bool) {
        self.listening.set(if listening { 1.0 } else { 0.0 });
    }

    /// Resets the drop time when a gate closes; it stays 0 if no client was connected.
    pub fn backend_closed(&self) {
        self.drop_seconds.set(0.0);
    }

    /// Records how long it took until the last client of a closed backend was gone.
    pub fn backend_drained(&self, closed: CloseEvent, now: Boottime) {
        self.drop_seconds.set(now.since(closed.at).as_secs_f64());
    }

    /// Records that a relay thread forwards nothing for a closed gate any more. The last thread determines the value.
    pub fn thread_stopped(&self, closed: CloseEvent, now: Boottime) {
        self.stop_seconds.set(now.since(closed.at).as_secs_f64());
    }
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
    fn every_reason_has_its_own_counter() {
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
        .map(|reason| end_reason(&RelayEnd::GateClosed, Some(reason)));
        assert_eq!(
            ends.map(|at| END_REASONS[at]),
            ["route_change", "lease", "clock_jump", "stopping"]
        );
    }
}
