//! The metrics of stolon-sentinel (sentinel M-2).

use daemon::telemetry::register_metrics;
use metrics::Gauge;
use store::election::Leadership;
use tokio::sync::watch;

mod table;

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
}

impl Metrics {
    /// Registers all metrics, so that each exists from the start.
    pub fn register() -> Self {
        register_metrics(TABLE);
        Self {
            last_check: table::LAST_CHECK.gauge_of(&[]),
            is_leader: table::IS_LEADER.gauge_of(&[]),
            leader_count: table::LEADER_COUNT.gauge_of(&[]),
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
