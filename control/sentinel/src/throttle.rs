//! Limits the rate of rounds (sentinel E-1): the first after a quiet period starts at once, the following ones with
//! growing delays, so that decisions are not delayed and a busy cluster does not make the sentinel read all the time.

use std::time::Duration;

use base::clock::Boottime;

/// After this time without a round the delay is reset.
const QUIET: Duration = Duration::from_millis(500);
/// The delay after the first round; it doubles with each following one.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// The delay between rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RoundThrottle {
    last: Option<Boottime>,
    pause: Duration,
}

impl RoundThrottle {
    /// Records that a round starts now.
    pub(super) fn start_round(&mut self, now: Boottime) {
        let quiet = self.last.is_none_or(|last| now.since(last) >= QUIET);
        self.pause = if quiet {
            PAUSE_MIN
        } else {
            (self.pause * 2).min(PAUSE_MAX)
        };
        self.last = Some(now);
    }

    /// Returns the earliest time of another round.
    pub(super) fn earliest_next(&self) -> Boottime {
        self.last.map_or(Boottime::default(), |last| last + self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_after_a_quiet_period_is_not_delayed_and_the_next_ones_are() {
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
