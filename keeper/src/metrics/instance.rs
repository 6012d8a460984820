//! The metrics of the PostgreSQL instance, set after each observation. Observing is left to `monitor`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use daemon::telemetry::{MetricRow, unix_seconds};
use metrics::Gauge;

use crate::metrics::{MetricRole, RoleGauges, table};

/// What one observation found of the instance, as far as it is reported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InstanceSample {
    /// It answers.
    pub healthy: bool,
    /// The role in which it runs; `None` if that is unknown.
    pub role: Option<MetricRole>,
    /// Its timeline.
    pub timeline: Option<u64>,
    /// Its WAL position in bytes: flushed on a master, received or replayed on a standby.
    pub position: Option<u64>,
    /// The keepers' standbys that are connected to it, by uid of the keeper; `None` if unknown.
    pub standbys: Option<BTreeMap<String, StandbyLag>>,
    /// What a standby lacks; `None` on a master, and if unknown.
    pub upstream: Option<UpstreamLag>,
}

/// A connected standby.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StandbyLag {
    /// It has caught up once and streams.
    pub is_streaming: bool,
    pub flush_bytes: Option<u64>,
    pub replay_bytes: Option<u64>,
    pub replay_seconds: Option<f64>,
}

/// How far a standby is behind the instance that it follows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpstreamLag {
    /// Its WAL receiver streams.
    pub is_streaming: bool,
    /// What it has not flushed of the WAL that the upstream last reported; `None` before the first report.
    pub receive_bytes: Option<u64>,
    /// What it has not replayed of it.
    pub replay_bytes: Option<u64>,
    /// Age of the last replayed transaction, while there is WAL to replay.
    pub replay_seconds: f64,
}

impl InstanceSample {
    /// Returns the number of standbys that stream.
    pub fn streaming_standbys(&self) -> usize {
        let standbys = self.standbys.iter().flat_map(BTreeMap::values);
        standbys.filter(|standby| standby.is_streaming).count()
    }
}

/// Handles of the metrics of the instance.
#[derive(Debug)]
pub struct InstanceMetrics {
    healthy: Gauge,
    role: RoleGauges,
    role_change: Gauge,
    timeline: Gauge,
    position: Gauge,
    streaming_standbys: Gauge,
    receive_lag: Gauge,
    replay_lag: Gauge,
    replay_seconds: Gauge,
    last_role: Mutex<Option<MetricRole>>,
}

impl InstanceMetrics {
    pub(super) fn register() -> Self {
        Self {
            healthy: table::HEALTHY.gauge_of(&[]),
            role: RoleGauges::of(&table::ROLE_OBSERVED),
            role_change: table::ROLE_CHANGE.gauge_of(&[]),
            timeline: table::TIMELINE.gauge_of(&[]),
            position: table::WAL_POSITION.gauge_of(&[]),
            streaming_standbys: table::STREAMING_STANDBYS.gauge_of(&[]),
            receive_lag: table::RECEIVE_LAG.gauge_of(&[]),
            replay_lag: table::REPLAY_LAG.gauge_of(&[]),
            replay_seconds: table::REPLAY_SECONDS.gauge_of(&[]),
            last_role: Mutex::default(),
        }
    }

    /// Sets all of them; `wall` are nanoseconds since 1970. What is unknown keeps its value.
    pub fn set(&self, sample: &InstanceSample, wall: i128) {
        self.healthy.set(f64::from(u8::from(sample.healthy)));
        if let Some(role) = sample.role.filter(|_| sample.healthy) {
            self.role.set(role);
            let mut last = self.last_role.lock().expect("no thread panics while holding the role");
            if last.replace(role) != Some(role) {
                self.role_change.set(unix_seconds(wall));
            }
        }
        set_number(&self.timeline, sample.timeline);
        set_number(&self.position, sample.position);
        if !sample.healthy {
            // Nothing streams from or to a server that does not answer, as far as is known.
            self.streaming_standbys.set(0.0);
            return set_standbys(&BTreeMap::new());
        }
        if let Some(standbys) = &sample.standbys {
            set_number(
                &self.streaming_standbys,
                u64::try_from(sample.streaming_standbys()).ok(),
            );
            set_standbys(standbys);
        }
        let lag = match (sample.role, sample.upstream) {
            (_, Some(lag)) => lag,
            (Some(MetricRole::Master), None) => UpstreamLag {
                receive_bytes: Some(0),
                replay_bytes: Some(0),
                ..UpstreamLag::default()
            },
            (_, None) => return,
        };
        set_number(&self.receive_lag, lag.receive_bytes);
        set_number(&self.replay_lag, lag.replay_bytes);
        self.replay_seconds.set(lag.replay_seconds);
    }
}

fn set_standbys(standbys: &BTreeMap<String, StandbyLag>) {
    let replace = |row: &MetricRow, value: fn(&StandbyLag) -> Option<f64>| {
        let series = standbys.iter();
        row.replace_series(series.filter_map(|(uid, lag)| Some((vec![uid.clone()], value(lag)?))));
    };
    replace(&table::STANDBY_FLUSH_LAG, |lag| lag.flush_bytes.map(number));
    replace(&table::STANDBY_REPLAY_LAG, |lag| lag.replay_bytes.map(number));
    replace(&table::STANDBY_REPLAY_SECONDS, |lag| lag.replay_seconds);
}

fn set_number(gauge: &Gauge, value: Option<u64>) {
    if let Some(value) = value {
        gauge.set(number(value));
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53: no WAL has 8 PiB")]
fn number(value: u64) -> f64 {
    value as f64
}
