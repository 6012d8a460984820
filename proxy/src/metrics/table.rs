//! The one table of the proxy's metrics. What the values mean in detail is in proxy section 3; when something is counted
//! is decided where it happens.

use daemon::telemetry::{MetricLabel, MetricRow, MetricUnit};

daemon::metric_table! {
    ACCEPTED = MetricRow::counter("stolon_proxy_connections_accepted_total", "Clients accepted");
    OPEN = MetricRow::gauge("stolon_proxy_connections_open", MetricUnit::Count, "Clients connected to the master");
    REFUSED = MetricRow::counter("stolon_proxy_connections_refused_total",
        "Clients that were not connected to the master, by reason")
        .with(&[MetricLabel::fixed("reason", &[
            "route_closed", "max_connections", "descriptors", "master", "connect_timeout", "abandoned", "hold_expired",
            "hold_full",
        ])]);
    ENDED = MetricRow::counter("stolon_proxy_connections_ended_total", "Connections that ended, by reason")
        .with(&[MetricLabel::fixed("reason", &[
            "client", "master", "error", "route_change", "lease", "clock_jump", "stopping",
        ])]);
    RELAYED = MetricRow::counter("stolon_proxy_relayed_bytes_total", "Bytes forwarded, by direction")
        .in_unit(MetricUnit::Bytes)
        .with(&[MetricLabel::fixed("toward", &["client", "master"])]);
    BY_PATH = MetricRow::counter("stolon_proxy_relayed_by_path_bytes_total",
        "Bytes forwarded, by method (copy or splice)")
        .in_unit(MetricUnit::Bytes)
        .with(&[MetricLabel::fixed("path", &["splice", "copy"])]);
    SPLICE_REFUSED = MetricRow::counter("stolon_proxy_splice_refused_total",
        "How often bulk data could not be spliced and was copied");
    BATCHES = MetricRow::counter("stolon_proxy_batched_streams_total", "Streams whose wake-ups were batched");
    HELD = MetricRow::gauge("stolon_proxy_connections_held", MetricUnit::Count, "Clients held for the next master");
    HOLDS = MetricRow::counter("stolon_proxy_holds_total", "Clients that were held for the next master, by result")
        .with(&[MetricLabel::fixed("result", &["carried", "hold_expired", "route_closed", "abandoned"])]);
    ROUTE_OPEN = MetricRow::gauge("stolon_proxy_route_open", MetricUnit::Flag,
        "Whether the route to a master is open (0 or 1)");
    ROUTE_GENERATION = MetricRow::gauge("stolon_proxy_route_generation", MetricUnit::Count,
        "Generation of the proxy section last followed");
    ROUTE_SINCE = MetricRow::gauge("stolon_proxy_route_since_seconds", MetricUnit::UnixTime,
        "Unix time of the last change of the route");
    MASTER = MetricRow::gauge("stolon_proxy_master_info", MetricUnit::Flag,
        "The db that clients are connected to; 1 for the current one")
        .with(&[MetricLabel::varying("db", "uid of the db")]);
    LISTENING = MetricRow::gauge("stolon_proxy_listening", MetricUnit::Flag,
        "Whether the socket for clients listens (0 or 1)");
    CHECKINS = MetricRow::counter("stolon_proxy_checkins_total", "Check-ins with the store, by result")
        .with(&[MetricLabel::fixed("result", &["good", "unusable_data", "failed"])]);
    CHECKIN_AGE = MetricRow::gauge("stolon_proxy_last_checkin_age_seconds", MetricUnit::Seconds,
        "Time since the last good check-in; since the start before it");
    LEASE_LEFT = MetricRow::gauge("stolon_proxy_lease_left_seconds", MetricUnit::Seconds,
        "Time until the lease of the last good check-in ends");
    WATCH_EVENTS = MetricRow::counter("stolon_proxy_watch_events_total",
        "Check-ins started by the watch on the cluster data");
    WATCH_GAPS = MetricRow::counter("stolon_proxy_watch_restarts_total",
        "Restarts of the watch, which may have missed changes");
    CONNECT = MetricRow::histogram("stolon_proxy_connect_seconds", "Duration of connects to the master");
    STOP = MetricRow::gauge("stolon_proxy_last_stop_seconds", MetricUnit::Seconds,
        "Time from the last closing of the route until forwarding had stopped");
    DROP = MetricRow::gauge("stolon_proxy_last_drop_seconds", MetricUnit::Seconds,
        "Time from the last closing of the route to the end of its last connection");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_explained() {
        let page = include_str!("../../../docs/design/proxy.md");
        for MetricRow { name, .. } in TABLE {
            assert!(
                page.contains(&format!("`{name}`")),
                "{name} is missing in proxy section 3"
            );
        }
    }
}
