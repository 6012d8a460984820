//! Limits the rate of rounds (sentinel E-1): the first after a quiet period starts at once, the following ones with
//! growing delays, so that decisions are not delayed and a busy cluster does not make the sentinel read all the time.

use std::time::Duration;

use base::clock::Boottime;

/// After this time without a round the delay is reset.
const QUIET_PERIOD: Duration = Duration::from_millis(500);
/// The delay after the first round; it doubles with each following one.
const DELAY_MIN: Duration = Duration::from_millis(10);
const DELAY_MAX: Duration = Duration::from_millis(160);
/// The longest delay while a switchover is under way: clients wait for each of its steps (extensions ).
const DELAY_MAX_IN_SWITCHOVER: Duration = Duration::from_millis(20);

/// The delay between rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RoundThrottle {
    last: Option<Boottime>,
    delay: Duration,
    in_switchover: bool,
}

impl RoundThrottle {
    /// Records that a round starts now.
    pub(super) fn start_round(&mut self, now: Boottime) {
        let quiet = self.last.is_none_or(|last| now.since(last) >= QUIET_PERIOD);
        let longest = if self.in_switchover {
            DELAY_MAX_IN_SWITCHOVER
        } else {
            DELAY_MAX
        };
        self.delay = if quiet {
            DELAY_MIN
        } else {
            (self.delay * 2).min(longest)
        };
        self.last = Some(now);
    }

    /// Sets whether a switchover is under way.
    pub(super) fn set_in_switchover(&mut self, in_switchover: bool) {
        self.in_switchover = in_switchover;
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

    #[test]
    fn the_steps_of_a_switchover_follow_each_other_without_long_delays() {
        let mut throttle = RoundThrottle::default();
        let mut now = Boottime::from_nanos(1);
        let mut delay = |in_switchover| {
            throttle.set_in_switchover(in_switchover);
            throttle.start_round(now);
            let next = throttle.earliest_next();
            let delay = next.since(now);
            now = next;
            delay.as_millis()
        };
        let delays = [false, false, false, true, true, true, false].map(&mut delay);
        assert_eq!(delays, [10, 20, 40, 20, 20, 20, 40]);
    }
}
