//! What the monitor keeps between observations. Observing is left to `monitor`.

use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use model::DbUid;
use tracing::{info, warn};

use crate::health::LoginRecoveryReporter;
use crate::monitor::details::Details;
use crate::monitor::fast_poll::FastPoll;
use crate::monitor::receiver::{ObservedReceiver, OpenReceiver};
use crate::postgres::observe::{Observation, ObserveError, ObserveScope};
use crate::streaming::StreamingCheck;

/// Initial interval of observing a server that runs and is not healthy yet; it grows up to the usual one.
const UNHEALTHY_DELAY: Duration = Duration::from_millis(50);

/// Returns the delay after observing an unhealthy server: 1.5 times the previous one, up to the usual one. It is
/// bounded before it is kept, because a recovery may last for days.
pub(super) fn next_unhealthy_delay(before: Option<Duration>, usual: Duration) -> Duration {
    let next = before.map_or(UNHEALTHY_DELAY, |before| before.saturating_add(before / 2));
    next.min(usual)
}

/// State kept between observations.
#[derive(Debug)]
pub(super) struct MonitorState {
    pub(super) health: LoginRecoveryReporter,
    /// The failure that was last logged, until an observation succeeds.
    failing: Option<String>,
    /// The last delay, while the server runs and is not healthy.
    pub(super) unhealthy_delay: Option<Duration>,
    pub(super) fast_poll: Option<FastPoll>,
    /// The standby's WAL receiver at the last observation.
    pub(super) receiver: Option<ObservedReceiver>,
    pub(super) open_receiver: OpenReceiver,
    pub(super) streaming: StreamingCheck,
    /// The db that the following fields belong to.
    db: DbUid,
    pub(super) details: Details,
}

impl MonitorState {
    pub(super) fn new(health: LoginRecoveryReporter) -> Self {
        Self {
            health,
            failing: None,
            unhealthy_delay: None,
            fast_poll: None,
            receiver: None,
            open_receiver: OpenReceiver::default(),
            streaming: StreamingCheck::default(),
            db: DbUid::default(),
            details: Details::default(),
        }
    }

    /// Returns what the next observation queries.
    pub(super) fn scope(&mut self, db: &DbUid, now: Boottime) -> ObserveScope {
        if self.db != *db {
            self.db = db.clone();
            self.details = Details::default();
        }
        ObserveScope {
            details: self.details.are_due(now),
            parameters: self.details.are_parameters_due(now) || self.failing.is_some(),
            logins: self.health.is_login_due(now),
            replication: !self.health.is_replication_refused() || self.health.is_login_due(now),
        }
    }

    /// Logs the begin and the end of a failure. A server that is not running is not expected to answer.
    pub(super) fn log_failure(&mut self, observation: &Observation, runs: bool) {
        let Some(failed) = observation.failed.as_ref().filter(|_| runs) else {
            if observation.is_healthy && observation.parameters.is_some() && self.failing.take().is_some() {
                info!("postgres answers");
            }
            return;
        };
        let message = failed.to_string();
        if self.failing.as_ref() == Some(&message) {
            return;
        }
        let cause = std::error::Error::source(failed)
            .map(|cause| Chain(cause).to_string())
            .unwrap_or_default();
        match failed {
            ObserveError::Parameters(_) => warn!(error = cause, "cannot get configured pg parameters"),
            ObserveError::Data(_) => warn!(error = cause, "cannot read PGDATA"),
            ObserveError::Sql(_) | ObserveError::Position(_) => warn!(error = cause, "error getting pg state"),
        }
        self.failing = Some(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_never_overflows_however_long_a_server_is_unhealthy() {
        // 292 years is the longest duration of a spec.
        for usual in [
            Duration::ZERO,
            Duration::from_secs(1),
            Duration::from_nanos(i64::MAX as u64),
            Duration::MAX,
        ] {
            let mut delay = None;
            for _ in 0..100_000 {
                delay = Some(next_unhealthy_delay(delay, usual));
                assert!(delay <= Some(usual));
            }
            assert_eq!(delay, Some(usual));
        }
    }
}
