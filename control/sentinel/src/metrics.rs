//! The metrics of stolon-sentinel (sentinel M-2).

use metrics::{Gauge, describe_gauge, gauge};

/// The handles of all metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Unix time of the last write as leader; 0 on a sentinel that never led.
    pub last_check: Gauge,
    /// 1 on the leader, else 0.
    pub is_leader: Gauge,
    /// Leaderships won since the start.
    pub leader_count: Gauge,
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
}
