//! The keeper's metrics (keeper 14), with the names of Go stolon.

use std::time::Duration;

use daemon::telemetry::{MetricRow, register_metrics};
use metrics::{Gauge, Histogram};

mod instance;
mod table;

pub use self::instance::{InstanceMetrics, InstanceSample, StandbyLag, UpstreamLag};
pub use self::table::TABLE;
pub(crate) use self::table::{POSTGRES_ENDS, POSTGRES_STARTS, PROBLEMS};

/// Handles of all metrics of the keeper.
#[derive(Debug)]
pub struct Metrics {
    /// Unix time of the last valid cluster data read.
    pub cluster_data_valid: Gauge,
    /// Unix time of the last complete round.
    pub sync_success: Gauge,
    /// Unix time of the stop signal.
    pub shutdown: Gauge,
    sleep_interval: Gauge,
    needs_reload: Gauge,
    needs_restart: Gauge,
    logins_blocked: Gauge,
    target_role: RoleGauges,
    local_role: RoleGauges,
    /// What observations of the instance find.
    pub instance: InstanceMetrics,
    round_seconds: Histogram,
}

/// Role in a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricRole {
    /// Unknown, or none.
    Undefined,
    /// Accepts writes.
    Master,
    /// Follows another instance.
    Standby,
}

impl MetricRole {
    /// Value of the label `role`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Master => "master",
            Self::Standby => "standby",
        }
    }
}

/// One series per role: 1 for the current role, 0 for the others.
#[derive(Debug)]
struct RoleGauges([(MetricRole, Gauge); 3]);

impl Metrics {
    /// Registers all metrics; every series exists from now on.
    pub fn register() -> Self {
        register_metrics(TABLE);
        Self {
            cluster_data_valid: table::VALID.gauge_of(&[]),
            sync_success: table::SYNC_SUCCESS.gauge_of(&[]),
            shutdown: table::SHUTDOWN.gauge_of(&[]),
            sleep_interval: table::SLEEP_INTERVAL.gauge_of(&[]),
            needs_reload: table::NEEDS_RELOAD.gauge_of(&[]),
            needs_restart: table::NEEDS_RESTART.gauge_of(&[]),
            logins_blocked: table::CLIENT_LOGINS_BLOCKED.gauge_of(&[]),
            target_role: RoleGauges::of(&table::TARGET_ROLE),
            local_role: RoleGauges::of(&table::LOCAL_ROLE),
            instance: InstanceMetrics::register(),
            round_seconds: table::ROUND_SECONDS.histogram_of(&[]),
        }
    }

    /// Sets the sleepInterval in force, in whole seconds.
    pub fn set_sleep_interval(&self, interval: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "no interval has 2^52 seconds")]
        self.sleep_interval.set(interval.as_secs() as f64);
    }

    /// Sets whether a reload is needed that has not succeeded.
    pub fn set_needs_reload(&self, needed: bool) {
        self.needs_reload.set(f64::from(u8::from(needed)));
    }

    /// Sets whether a parameter is pending restart.
    pub fn set_needs_restart(&self, needed: bool) {
        self.needs_restart.set(f64::from(u8::from(needed)));
    }

    /// Sets whether a started master blocks client logins.
    pub fn set_client_logins_blocked(&self, are_blocked: bool) {
        self.logins_blocked.set(f64::from(u8::from(are_blocked)));
    }

    /// Records the end of a round: its result, a value of the label, and its duration.
    pub fn count_round(&self, result: &'static str, took: Duration) {
        table::ROUNDS.counter_of(&[result]).increment(1);
        self.round_seconds.record(took.as_secs_f64());
    }

    /// Counts a failed step by the value of its label.
    pub fn count_failed_step(&self, step: &'static str) {
        table::FAILED_STEPS.counter_of(&[step]).increment(1);
    }

    /// Sets the requested role.
    pub fn set_target_role(&self, role: MetricRole) {
        self.target_role.set(role);
    }

    /// Sets the role found in the last round.
    pub fn set_local_role(&self, role: MetricRole) {
        self.local_role.set(role);
    }
}

impl RoleGauges {
    fn of(row: &MetricRow) -> Self {
        let series = |role: MetricRole| (role, row.gauge_of(&[role.label()]));
        Self([MetricRole::Undefined, MetricRole::Master, MetricRole::Standby].map(series))
    }

    fn set(&self, current: MetricRole) {
        for (role, gauge) in &self.0 {
            gauge.set(f64::from(u8::from(*role == current)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A value that the table lacks ends the keeper when that step fails.
    #[test]
    fn each_step_that_may_fail_has_its_label_in_the_table() {
        let source = include_str!("reconcile/step.rs");
        let (_, from) = source.split_once("fn label(").unwrap();
        let (body, _) = from.split_once("\n    }\n").unwrap();
        let labels: BTreeSet<&str> = body.split('"').skip(1).step_by(2).collect();
        assert!(labels.contains("promote"), "{labels:?}");
        let table: BTreeSet<&str> = table::FAILED_STEPS.fixed_series().into_iter().flatten().collect();
        assert_eq!(labels, table);
    }
}
