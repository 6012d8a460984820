//! The metrics of the proxy (proxy section 3, cli 17.3), by audience: `connections` for those who run the clients,
//! `route` for those who run the cluster, `relay` for those who measure throughput. Names and help texts are in
//! `table`; when something is counted is decided where it happens.

mod connections;
mod relay;
mod route;
mod table;

use daemon::telemetry::register_metrics;

pub use self::connections::{ConnectionMetrics, HoldOutcome, OpenConnection, ReadableCounter, RefusalReason};
pub use self::relay::{RelayMetrics, RelayedBytes};
pub use self::route::RouteMetrics;
pub use self::table::TABLE;

/// The handles of all metrics. A connection costs a few atomic operations.
pub struct Metrics {
    /// Clients and their connections.
    pub connections: ConnectionMetrics,
    /// The route and the check-ins.
    pub route: RouteMetrics,
    /// Forwarded bytes.
    pub relay: RelayMetrics,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers all metrics with their help texts. Every series with fixed labels exists from the first scrape on.
    pub fn register(relay_threads: usize) -> Self {
        register_metrics(table::TABLE);
        Self {
            connections: ConnectionMetrics::register(),
            route: RouteMetrics::register(),
            relay: RelayMetrics::register(relay_threads),
        }
    }
}
