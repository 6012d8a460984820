//! The metrics that all daemons have: who they are, their process, and their requests to the store. Those of one program
//! are in its own table.

use super::table::{MetricLabel, MetricRow, MetricUnit};

/// The label of requests to the store.
const OPERATION: MetricLabel = MetricLabel::fixed("operation", &store::metrics::OPERATIONS);

crate::metric_table! {
    CLUSTER_IDENTIFIER = MetricRow::gauge("stolon_cluster_identifier", MetricUnit::Flag,
        "Names the cluster and the component; always 1")
        .with(&[
            MetricLabel::varying("cluster_name", "the cluster's name"),
            MetricLabel::fixed("component", &["keeper", "sentinel", "proxy"]),
        ]);
    BUILD_INFO = MetricRow::gauge("stolon_build_info", MetricUnit::Flag, "Names the version of the program; always 1")
        .with(&[MetricLabel::varying("version", "as printed by --version")]);
    STORE_REQUEST_SECONDS = MetricRow::histogram(store::metrics::REQUEST_SECONDS,
        "Duration of requests to etcd with all their attempts, by operation")
        .with(&[OPERATION]);
    STORE_ERRORS = MetricRow::counter(store::metrics::ERRORS,
        "Failed requests to etcd: not sent, without an answer, or refused")
        .with(&[OPERATION, MetricLabel::fixed("kind", &store::metrics::ERROR_KINDS)]);
    STORE_WATCH_RESTARTS = MetricRow::counter(store::metrics::WATCH_RESTARTS,
        "Watches of etcd that ended and began anew");
    CPU_SECONDS = MetricRow::counter("process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds").in_unit(MetricUnit::Seconds);
    OPEN_FDS = MetricRow::gauge("process_open_fds", MetricUnit::Count, "Number of open file descriptors");
    MAX_FDS = MetricRow::gauge("process_max_fds", MetricUnit::Count, "Maximum number of open file descriptors");
    VIRTUAL_MEMORY = MetricRow::gauge("process_virtual_memory_bytes", MetricUnit::Bytes, "Virtual memory size in bytes");
    RESIDENT_MEMORY = MetricRow::gauge("process_resident_memory_bytes", MetricUnit::Bytes,
        "Resident memory size in bytes");
    THREADS = MetricRow::gauge("process_threads", MetricUnit::Count, "Number of threads");
    START_TIME = MetricRow::gauge("process_start_time_seconds", MetricUnit::UnixTime,
        "Start time of the process since unix epoch in seconds");
}
