//! When a server that does not accept connections yet is examined, and when that is logged. Examining it is left to
//! `server::recovery`.

use std::time::Duration;

use base::clock::Boottime;

/// Interval of examining a recovery. A usual start takes less and is not reported.
const INTERVAL: Duration = Duration::from_secs(2);
/// Interval of logging a recovery.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Times of one recovery; empty while there is none.
#[derive(Debug, Default)]
pub(super) struct RecoveryWatch(Option<RecoveryTimes>);

#[derive(Debug)]
struct RecoveryTimes {
    since: Boottime,
    examined: Boottime,
    logged: Boottime,
}

/// What to do about a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecoveryAction {
    /// Nothing.
    None,
    /// Examine it; it has lasted for this time.
    Examine(Duration),
    /// It has ended: report that, after this time if it was reported before.
    End(Option<Duration>),
}

impl RecoveryWatch {
    /// Records whether a server does not accept connections yet, and returns what to do.
    pub(super) fn record(&mut self, is_recovering: bool, now: Boottime) -> RecoveryAction {
        if !is_recovering {
            return match self.0.take() {
                Some(times) => RecoveryAction::End(Some(now.since(times.since)).filter(|after| *after >= INTERVAL)),
                None => RecoveryAction::None,
            };
        }
        let times = self.0.get_or_insert(RecoveryTimes {
            since: now,
            examined: now,
            logged: now,
        });
        if now.since(times.examined) < INTERVAL {
            return RecoveryAction::None;
        }
        times.examined = now;
        RecoveryAction::Examine(now.since(times.since))
    }

    /// Whether to log a recovery that was examined now.
    pub(super) fn is_log_due(&mut self, now: Boottime) -> bool {
        let Some(times) = &mut self.0 else { return false };
        let is_due = times.logged == times.since || now.since(times.logged) >= LOG_INTERVAL;
        if is_due {
            times.logged = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_recovery_is_examined_every_two_seconds_and_logged_every_thirty() {
        let mut watch = RecoveryWatch::default();
        assert_eq!(watch.record(false, at(0)), RecoveryAction::None);
        let (mut examined, mut logged) = (Vec::new(), Vec::new());
        for second in 0..=40 {
            if let RecoveryAction::Examine(after) = watch.record(true, at(second)) {
                examined.push(after.as_secs());
                if watch.is_log_due(at(second)) {
                    logged.push(second);
                }
            }
        }
        assert_eq!(examined, (2..=40).step_by(2).collect::<Vec<u64>>());
        assert_eq!(logged, [2, 32]);
        assert_eq!(
            watch.record(false, at(41)),
            RecoveryAction::End(Some(Duration::from_secs(41)))
        );
        assert_eq!(watch.record(false, at(42)), RecoveryAction::None);
    }

    #[test]
    fn a_usual_start_is_not_reported() {
        let mut watch = RecoveryWatch::default();
        assert_eq!(watch.record(true, at(0)), RecoveryAction::None);
        assert_eq!(watch.record(true, at(1)), RecoveryAction::None);
        assert_eq!(watch.record(false, at(1)), RecoveryAction::End(None));
    }
}
