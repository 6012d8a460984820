//! The one table of the metrics: name, kind, unit and help text. What the values mean in detail is in proxy section 3;
//! when something is counted is decided where it happens.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Makes a constant of each name, and one function that describes them all.
macro_rules! table {
    ($($constant:ident: $describe:ident, $name:literal, $($unit:ident,)? $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*

        /// Registers the help texts and units.
        pub(super) fn describe_all() {
            $($describe!($constant, $(Unit::$unit,)? $help);)*
        }

        #[cfg(test)]
        const NAMES: &[&str] = &[$($constant),*];
    };
}

table! {
    ACCEPTED: describe_counter, "stolon_proxy_connections_accepted_total", "Clients accepted";
    OPEN: describe_gauge, "stolon_proxy_connections_open", "Clients connected to the master";
    REFUSED: describe_counter, "stolon_proxy_connections_refused_total",
        "Clients that were not connected to the master, by reason";
    ENDED: describe_counter, "stolon_proxy_connections_ended_total", "Connections that ended, by reason";
    RELAYED: describe_counter, "stolon_proxy_relayed_bytes_total", Bytes, "Bytes forwarded, by direction";
    BY_PATH: describe_counter, "stolon_proxy_relayed_by_path_bytes_total", Bytes,
        "Bytes forwarded, by method (copy or splice)";
    SPLICE_REFUSED: describe_counter, "stolon_proxy_splice_refused_total",
        "How often bulk data could not be spliced and was copied";
    BATCHES: describe_counter, "stolon_proxy_batched_streams_total", "Streams whose wake-ups were batched";
    HELD: describe_gauge, "stolon_proxy_connections_held", "Clients held for the next master";
    HOLDS: describe_counter, "stolon_proxy_holds_total",
        "Clients that were held for the next master, by result";
    ROUTE_OPEN: describe_gauge, "stolon_proxy_route_open", "Whether the route to a master is open (0 or 1)";
    ROUTE_GENERATION: describe_gauge, "stolon_proxy_route_generation",
        "Generation of the proxy section last followed";
    ROUTE_SINCE: describe_gauge, "stolon_proxy_route_since_seconds", Seconds,
        "Unix time of the last change of the route";
    MASTER: describe_gauge, "stolon_proxy_master_info", "The db that clients are connected to; 1 for the current one";
    LISTENING: describe_gauge, "stolon_proxy_listening", "Whether the socket for clients listens (0 or 1)";
    CHECKINS: describe_counter, "stolon_proxy_checkins_total", "Check-ins with the store, by result";
    CHECKIN_AGE: describe_gauge, "stolon_proxy_last_checkin_age_seconds", Seconds,
        "Time since the last good check-in; since the start before it";
    LEASE_LEFT: describe_gauge, "stolon_proxy_lease_left_seconds", Seconds,
        "Time until the lease of the last good check-in ends";
    WATCH_EVENTS: describe_counter, "stolon_proxy_watch_events_total",
        "Check-ins started by the watch on the cluster data";
    WATCH_GAPS: describe_counter, "stolon_proxy_watch_restarts_total",
        "Restarts of the watch, which may have missed changes";
    CONNECT: describe_histogram, "stolon_proxy_connect_seconds", Seconds, "Duration of connects to the master";
    STOP: describe_gauge, "stolon_proxy_last_stop_seconds", Seconds,
        "Time from the last closing of the route until forwarding had stopped";
    DROP: describe_gauge, "stolon_proxy_last_drop_seconds", Seconds,
        "Time from the last closing of the route to the end of its last connection";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../../../docs/design/proxy.md");
        for name in NAMES {
            assert!(
                page.contains(&format!("`{name}`")),
                "{name} is missing in proxy section 3"
            );
        }
    }
}
