//! How soon after a round another one may follow (sentinel E-1): the first after quiet at once, what follows in a crowd
//! ever less often, so that neither a decision waits nor a busy cluster makes a sentinel read all the time.

use std::time::Duration;

use crate::clock::Boottime;

/// After so long without a round everything is quiet.
const QUIET: Duration = Duration::from_millis(500);
/// The pause after the first round; it doubles with each one that follows.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// The pauses between rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RoundThrottle {
    last: Option<Boottime>,
    pause: Duration,
}

impl RoundThrottle {
    /// A round begins now.
    pub(super) fn start_round(&mut self, now: Boottime) {
        let quiet = self.last.is_none_or(|last| now.since(last) >= QUIET);
        self.pause = if quiet {
            PAUSE_MIN
        } else {
            (self.pause * 2).min(PAUSE_MAX)
        };
        self.last = Some(now);
    }

    /// Before this nothing that happens makes another round.
    pub(super) fn earliest_next(&self) -> Boottime {
        self.last.map_or(Boottime::default(), |last| last + self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_after_quiet_is_at_once_and_a_crowd_is_thinned() {
        let mut pace = RoundThrottle::default();
        let mut now = Boottime::from_nanos(1);
        assert!(pace.earliest_next() <= now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pace.start_round(now);
            pauses.push(pace.earliest_next().since(now).as_millis());
            now = pace.earliest_next();
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 160]);
        pace.start_round(now + QUIET);
        assert_eq!(pace.earliest_next().since(now + QUIET), PAUSE_MIN);
    }
}
