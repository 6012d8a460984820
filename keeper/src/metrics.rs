//! The keeper's metrics (keeper 14), with the names of Go stolon.

use std::time::Duration;

use metrics::{Gauge, Unit, describe_gauge, gauge};

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
    target_role: RoleGauges,
    local_role: RoleGauges,
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

/// One series per role: 1 for the current role, 0 for the others.
#[derive(Debug)]
struct RoleGauges([(MetricRole, Gauge); 3]);

impl Metrics {
    /// Registers all metrics; every series exists from now on.
    pub fn register() -> Self {
        describe_gauge!(VALID, Unit::Seconds, "Unix time of the last valid cluster data read");
        describe_gauge!(TARGET_ROLE, "1 for the role last asked for");
        describe_gauge!(LOCAL_ROLE, "1 for the role found in the last round");
        describe_gauge!(NEEDS_RELOAD, "1 while a reload is needed that has not succeeded");
        describe_gauge!(NEEDS_RESTART, "1 while some parameter waits for a restart");
        describe_gauge!(SYNC_SUCCESS, Unit::Seconds, "Unix time of the last complete round");
        describe_gauge!(SLEEP_INTERVAL, Unit::Seconds, "The sleepInterval in force");
        describe_gauge!(SHUTDOWN, Unit::Seconds, "Unix time of the stop signal");
        let metrics = Self {
            cluster_data_valid: gauge!(VALID),
            sync_success: gauge!(SYNC_SUCCESS),
            shutdown: gauge!(SHUTDOWN),
            sleep_interval: gauge!(SLEEP_INTERVAL),
            needs_reload: gauge!(NEEDS_RELOAD),
            needs_restart: gauge!(NEEDS_RESTART),
            target_role: RoleGauges::register(TARGET_ROLE),
            local_role: RoleGauges::register(LOCAL_ROLE),
        };
        let single = [
            &metrics.cluster_data_valid,
            &metrics.sync_success,
            &metrics.shutdown,
            &metrics.sleep_interval,
        ];
        single
            .into_iter()
            .chain([&metrics.needs_reload, &metrics.needs_restart])
            .for_each(|gauge| gauge.set(0.0));
        metrics
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
    fn register(name: &'static str) -> Self {
        let series = |role: MetricRole, label: &'static str| {
            let gauge = gauge!(name, "role" => label);
            gauge.set(0.0);
            (role, gauge)
        };
        Self([
            series(MetricRole::Undefined, "undefined"),
            series(MetricRole::Master, "master"),
            series(MetricRole::Standby, "standby"),
        ])
    }

    fn set(&self, current: MetricRole) {
        for (role, gauge) in &self.0 {
            gauge.set(f64::from(u8::from(*role == current)));
        }
    }
}

/// Converts nanoseconds to the seconds of a metric.
pub fn unix_seconds(nanos: i128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a metric needs no nanoseconds")]
    let seconds = nanos as f64 / 1e9;
    seconds
}

const VALID: &str = "stolon_keeper_clusterdata_last_valid_update_seconds";
const TARGET_ROLE: &str = "stolon_keeper_target_role";
const LOCAL_ROLE: &str = "stolon_keeper_local_role";
const NEEDS_RELOAD: &str = "stolon_keeper_needs_reload";
const NEEDS_RESTART: &str = "stolon_keeper_needs_restart";
const SYNC_SUCCESS: &str = "stolon_keeper_last_sync_success_seconds";
const SLEEP_INTERVAL: &str = "stolon_keeper_sleep_interval";
const SHUTDOWN: &str = "stolon_keeper_shutdown_seconds";
