//! The metrics of stolon-sentinel (sentinel M-2).

use metrics::{Gauge, describe_gauge, gauge};
use store::election::Leadership;
use tokio::sync::watch;

/// The handles of all metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Unix time of the last write as leader; 0 on a sentinel that never led.
    last_check: Gauge,
    /// 1 on the leader, else 0.
    is_leader: Gauge,
    /// Leaderships won since the start.
    leader_count: Gauge,
}

const LAST_CHECK: &str = "stolon_sentinel_last_cluster_check_success_seconds";
const IS_LEADER: &str = "stolon_sentinel_is_leader";
const LEADER_COUNT: &str = "stolon_sentinel_leader_count";

impl Metrics {
    /// Registers all metrics, so that each exists from the start.
    pub fn register() -> Self {
        describe_gauge!(
            LAST_CHECK,
            "Unix time of the last successful write of the cluster data as leader"
        );
        describe_gauge!(IS_LEADER, "Whether this sentinel leads: 1 or 0");
        describe_gauge!(LEADER_COUNT, "Leaderships won since the start");
        Self {
            last_check: gauge!(LAST_CHECK),
            is_leader: gauge!(IS_LEADER),
            leader_count: gauge!(LEADER_COUNT),
        }
    }

    /// Records a write as leader at this time, in nanoseconds since 1970.
    pub(crate) fn set_last_check(&self, unix_nanos: i128) {
        #[expect(clippy::cast_precision_loss, reason = "a metric in seconds needs no nanoseconds")]
        let nanos = unix_nanos as f64;
        self.last_check.set(nanos / 1e9);
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
