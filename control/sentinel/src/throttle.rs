//! Limits the rate of rounds (sentinel E-1): the first after a quiet period starts at once, the following ones with
//! growing delays, so that decisions are not delayed and a busy cluster does not make the sentinel read all the time.

use std::time::Duration;

use base::clock::Boottime;

/// After this time without a round the delay is reset.
const QUIET_PERIOD: Duration = Duration::from_millis(500);
/// The delay after the first round; it doubles with each following one.
const DELAY_MIN: Duration = Duration::from_millis(10);
const DELAY_MAX: Duration = Duration::from_millis(160);

/// The delay between rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RoundThrottle {
    last: Option<Boottime>,
    delay: Duration,
}

impl RoundThrottle {
    /// Records that a round starts now.
    pub(super) fn start_round(&mut self, now: Boottime) {
        let quiet = self.last.is_none_or(|last| now.since(last) >= QUIET_PERIOD);
        self.delay = if quiet {
            DELAY_MIN
        } else {
            (self.delay * 2).min(DELAY_MAX)
        };
        self.last = Some(now);
    }

    /// Returns the earliest time of another round.
    pub(super) fn earliest_next(&self) -> Boottime {
        self.last.map_or(Boottime::default(), |last| last + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_after_a_quiet_period_is_not_delayed_and_the_next_ones_are() {
        let mut throttle = RoundThrottle::default();
        let mut now = Boottime::from_nanos(1);
        assert!(throttle.earliest_next() <= now);
        let mut delays = Vec::new();
        for _ in 0..6 {
            throttle.start_round(now);
            delays.push(throttle.earliest_next().since(now).as_millis());
            now = throttle.earliest_next();
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 160]);
        throttle.start_round(now + QUIET_PERIOD);
        assert_eq!(throttle.earliest_next().since(now + QUIET_PERIOD), DELAY_MIN);
    }
}
