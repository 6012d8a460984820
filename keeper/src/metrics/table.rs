//! The one table of the keeper's metrics (keeper 14). When something is measured is decided where it happens.

use daemon::telemetry::{MetricLabel, MetricRow, MetricUnit};

/// The label of roles.
const ROLE: MetricLabel = MetricLabel::fixed("role", &["undefined", "master", "standby"]);
/// The label of the standbys of the instance.
const STANDBY: MetricLabel = MetricLabel::varying("standby", "uid of the standby's keeper");

daemon::metric_table! {
    VALID = MetricRow::gauge("stolon_keeper_clusterdata_last_valid_update_seconds", MetricUnit::UnixTime,
        "Unix time of the last valid cluster data read");
    TARGET_ROLE = MetricRow::gauge("stolon_keeper_target_role", MetricUnit::Flag, "1 for the role last asked for")
        .with(&[ROLE]);
    LOCAL_ROLE = MetricRow::gauge("stolon_keeper_local_role", MetricUnit::Flag,
        "1 for the role that the data had in the last round")
        .with(&[ROLE]);
    NEEDS_RELOAD = MetricRow::gauge("stolon_keeper_needs_reload", MetricUnit::Flag,
        "1 while a reload is needed that has not succeeded");
    NEEDS_RESTART = MetricRow::gauge("stolon_keeper_needs_restart", MetricUnit::Flag,
        "1 while some parameter waits for a restart");
    CLIENT_LOGINS_BLOCKED = MetricRow::gauge("stolon_keeper_client_logins_blocked", MetricUnit::Flag,
        "1 while client logins of a started master are blocked until its synchronous standbys have everything");
    SYNC_SUCCESS = MetricRow::gauge("stolon_keeper_last_sync_success_seconds", MetricUnit::UnixTime,
        "Unix time of the last complete round");
    SLEEP_INTERVAL = MetricRow::gauge("stolon_keeper_sleep_interval", MetricUnit::Seconds,
        "The sleepInterval in force, whole seconds");
    SHUTDOWN = MetricRow::gauge("stolon_keeper_shutdown_seconds", MetricUnit::UnixTime, "Unix time of the stop signal");
    PROBLEMS = MetricRow::gauge("stolon_keeper_problems", MetricUnit::Count,
        "Problems as listed by stolonctl status: an operator has to fix them, but for recovery, which takes time only")
        .with(&[MetricLabel::fixed("kind", &["login", "configuration", "recovery", "data", "replication", "server"])]);
    HEALTHY = MetricRow::gauge("stolon_keeper_healthy", MetricUnit::Flag,
        "Whether the instance answered at the last observation (0 or 1)");
    ROLE_OBSERVED = MetricRow::gauge("stolon_keeper_role", MetricUnit::Flag,
        "1 for the role in which the instance ran at the last observation that it answered")
        .with(&[ROLE]);
    ROLE_CHANGE = MetricRow::gauge("stolon_keeper_last_role_change_seconds", MetricUnit::UnixTime,
        "Unix time at which that role last changed");
    TIMELINE = MetricRow::gauge("stolon_keeper_timeline", MetricUnit::Count, "Timeline of the instance");
    WAL_POSITION = MetricRow::gauge("stolon_keeper_wal_position_bytes", MetricUnit::Bytes,
        "WAL position: flushed on a master, received or replayed on a standby");
    STREAMING_STANDBYS = MetricRow::gauge("stolon_keeper_streaming_standbys", MetricUnit::Count,
        "Standbys that stream from the instance");
    STANDBY_FLUSH_LAG = MetricRow::gauge("stolon_keeper_standby_flush_lag_bytes", MetricUnit::Bytes,
        "WAL of the instance that a standby has not flushed yet")
        .with(&[STANDBY]);
    STANDBY_REPLAY_LAG = MetricRow::gauge("stolon_keeper_standby_replay_lag_bytes", MetricUnit::Bytes,
        "WAL of the instance that a standby has not replayed yet")
        .with(&[STANDBY]);
    STANDBY_REPLAY_SECONDS = MetricRow::gauge("stolon_keeper_standby_replay_lag_seconds", MetricUnit::Seconds,
        "Time until a standby had replayed recent WAL of the instance; 0 when idle")
        .with(&[STANDBY]);
    RECEIVE_LAG = MetricRow::gauge("stolon_keeper_receive_lag_bytes", MetricUnit::Bytes,
        "WAL that the followed instance has and this standby has not flushed; 0 on a master");
    REPLAY_LAG = MetricRow::gauge("stolon_keeper_replay_lag_bytes", MetricUnit::Bytes,
        "WAL that the followed instance has and this standby has not replayed; 0 on a master");
    REPLAY_SECONDS = MetricRow::gauge("stolon_keeper_replay_lag_seconds", MetricUnit::Seconds,
        "Age of the last transaction that this standby replayed, while it has WAL to replay; else 0");
    ROUND_SECONDS = MetricRow::histogram("stolon_keeper_reconcile_seconds", "Duration of rounds of the main loop");
    ROUNDS = MetricRow::counter("stolon_keeper_reconcile_rounds_total", "Rounds of the main loop, by result")
        .with(&[MetricLabel::fixed("result", &["done", "on_hold", "failed", "skipped", "aborted"])]);
    FAILED_STEPS = MetricRow::counter("stolon_keeper_failed_steps_total", "Failed steps of rounds, by step")
        .with(&[MetricLabel::fixed("step", &[
            "save_cluster", "save_db", "stop", "publish_stopped", "accept_order", "clear_data", "initdb", "start", "wait_ready",
            "keep_original_files", "restore_backup", "wait_recovered", "read_init_parameters", "set_up_roles", "base_backup", "recover", "check_rewind", "rewind",
            "mark_standby", "permit", "wait_rewound", "wait_streaming", "confirm_names", "promote",
            "slot", "reload", "restart", "save_applied", "other",
        ])]);
    POSTGRES_STARTS = MetricRow::counter("stolon_keeper_postgres_starts_total", "Times that postgres was started");
    POSTGRES_ENDS = MetricRow::counter("stolon_keeper_postgres_ends_total", "Times that postgres ended, for any reason");
}
