//! The metrics of stolon-sentinel (sentinel M-2).

use std::time::Duration;

use daemon::telemetry::{register_metrics, unix_seconds};
use metrics::{Gauge, Histogram};
use store::election::Leadership;
use tokio::sync::watch;

use crate::overview::ClusterOverview;

mod failover;
mod table;

pub(crate) use failover::FailoverTimer;

pub use table::TABLE;

/// The handles of all metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Unix time of the last write as leader; 0 on a sentinel that never led.
    last_check: Gauge,
    /// 1 on the leader, else 0.
    is_leader: Gauge,
    /// Leaderships won since the start.
    leader_count: Gauge,
    round_seconds: Histogram,
    /// The figures of the cluster data, in the order of `set_cluster`.
    cluster: [Gauge; 7],
}

impl Metrics {
    /// Registers all metrics, so that each exists from the start.
    pub fn register() -> Self {
        register_metrics(TABLE);
        Self {
            last_check: table::LAST_CHECK.gauge_of(&[]),
            is_leader: table::IS_LEADER.gauge_of(&[]),
            leader_count: table::LEADER_COUNT.gauge_of(&[]),
            round_seconds: table::ROUND_SECONDS.histogram_of(&[]),
            cluster: [
                table::MASTER_ANNOUNCED,
                table::MASTER_HEALTHY,
                table::HEALTHY_STANDBYS,
                table::SYNC_STANDBYS_MISSING,
                table::KEEPERS,
                table::KEEPERS_FAILED,
                table::PROXIES,
            ]
            .map(|row| row.gauge_of(&[])),
        }
    }

    /// Records a write as leader at this time, in nanoseconds since 1970.
    pub(crate) fn set_last_check(&self, unix_nanos: i128) {
        self.last_check.set(unix_seconds(unix_nanos));
    }

    /// Counts a round that ended so and took this long.
    pub(crate) fn count_round(&self, result: RoundEnd, took: Duration) {
        table::ROUNDS.counter_of(&[result.label()]).increment(1);
        self.round_seconds.record(took.as_secs_f64());
    }

    /// Records the cluster as it was read.
    pub(crate) fn set_cluster(&self, cluster: &ClusterOverview) {
        let values = [
            usize::from(cluster.announced.is_some()),
            usize::from(cluster.is_master_healthy),
            cluster.healthy_standbys,
            cluster.missing_sync_standbys,
            cluster.keepers,
            cluster.failed_keepers,
            cluster.proxies,
        ];
        for (gauge, value) in self.cluster.iter().zip(values) {
            gauge.set(u32::try_from(value).map_or(f64::MAX, f64::from));
        }
    }
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoundEnd {
    /// The leader wrote its plan.
    Written,
    /// The leader's plan can wait.
    Unchanged,
    /// Another sentinel leads.
    Followed,
    /// The store has changed since it was read.
    Conflict,
    /// The write failed.
    WriteFailed,
    /// Nothing can be planned from the cluster data.
    NotPlanned,
    /// There are no usable cluster data.
    NoData,
    /// The store did not answer.
    NoStore,
}

impl RoundEnd {
    const fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Unchanged => "unchanged",
            Self::Followed => "followed",
            Self::Conflict => "conflict",
            Self::WriteFailed => "write_failed",
            Self::NotPlanned => "not_planned",
            Self::NoData => "no_data",
            Self::NoStore => "no_store",
        }
    }
}

/// Updates the metrics of the leadership until the election ends.
pub(crate) async fn count_leaderships(mut state: watch::Receiver<Leadership>, metrics: Metrics) {
    loop {
        let leader = state.borrow_and_update().leader().map(|leader| leader.count);
        metrics.is_leader.set(if leader.is_some() { 1.0 } else { 0.0 });
        if let Some(count) = leader {
            metrics
                .leader_count
                .set(u32::try_from(count).map_or(f64::MAX, f64::from));
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
