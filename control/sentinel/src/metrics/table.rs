//! The one table of the sentinel's metrics (sentinel M-2). When something is measured is decided where it happens.

use daemon::telemetry::{MetricLabel, MetricRow, MetricUnit};

daemon::metric_table! {
    LAST_CHECK = MetricRow::gauge("stolon_sentinel_last_cluster_check_success_seconds", MetricUnit::UnixTime,
        "Unix time of the last successful write of the cluster data as leader");
    IS_LEADER = MetricRow::gauge("stolon_sentinel_is_leader", MetricUnit::Flag, "Whether this sentinel leads: 1 or 0");
    LEADER_COUNT = MetricRow::gauge("stolon_sentinel_leader_count", MetricUnit::Count,
        "Leaderships won since the start");
    ROUNDS = MetricRow::counter("stolon_sentinel_rounds_total", "Rounds of the main loop, by result")
        .with(&[MetricLabel::fixed("result", &[
            "written", "unchanged", "followed", "conflict", "write_failed", "not_planned", "no_data", "no_store",
        ])]);
    ROUND_SECONDS = MetricRow::histogram("stolon_sentinel_round_seconds", "Duration of rounds of the main loop");
    ELECTIONS = MetricRow::counter("stolon_sentinel_elections_total",
        "Masters that this sentinel elected as leader in place of another one, by reason")
        .with(&[MetricLabel::fixed("reason", &["failed", "not_converged", "left", "switchover"])]);
    MASTER_CHANGE = MetricRow::gauge("stolon_sentinel_last_failover_seconds", MetricUnit::UnixTime,
        "Unix time at which this sentinel last found another master elected in the cluster data");
    CHANGE_PHASE = MetricRow::gauge("stolon_sentinel_last_failover_phase_seconds", MetricUnit::Seconds,
        "Duration of the phases of the last failover that this sentinel made: from detecting the failure to the election, \
         to the promotion, to the announcement")
        .with(&[MetricLabel::fixed("phase", &["election", "promotion", "announcement"])]);
    MASTER_ANNOUNCED = MetricRow::gauge("stolon_sentinel_master_announced", MetricUnit::Flag,
        "Whether the cluster data send proxies to a master (0 or 1)");
    MASTER_HEALTHY = MetricRow::gauge("stolon_sentinel_master_healthy", MetricUnit::Flag,
        "Whether the cluster data have a healthy master (0 or 1)");
    HEALTHY_STANDBYS = MetricRow::gauge("stolon_sentinel_healthy_standbys", MetricUnit::Count,
        "Healthy standbys in the cluster data");
    SYNC_STANDBYS_MISSING = MetricRow::gauge("stolon_sentinel_synchronous_standbys_missing", MetricUnit::Count,
        "Standbys that the master's commits wait for in vain: not healthy, or lacking to minSynchronousStandbys; 0 without synchronous replication");
    KEEPERS = MetricRow::gauge("stolon_sentinel_keepers", MetricUnit::Count, "Keepers in the cluster data");
    KEEPERS_FAILED = MetricRow::gauge("stolon_sentinel_keepers_failed", MetricUnit::Count,
        "Keepers in the cluster data that are not healthy");
    PROXIES = MetricRow::gauge("stolon_sentinel_proxies", MetricUnit::Count, "Enabled proxies in the cluster data");
}
