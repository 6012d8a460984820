//! When observations without an event and attempts to connect are due: at the same moments, because each moment wakes
//! the process several times. What happens then is in `monitor`.

use std::time::Duration;

use base::clock::Boottime;

/// Moments at the multiples of a period.
#[derive(Debug)]
pub(super) struct Ticks {
    start: Boottime,
}

impl Ticks {
    /// Creates them; they count from `start`.
    pub(super) fn new(start: Boottime) -> Self {
        Self { start }
    }

    /// Returns the time until the next one, at most a `period`.
    pub(super) fn until_next(&self, period: Duration, now: Boottime) -> Duration {
        let since_last = now.since(self.start).as_nanos() % period.as_nanos().max(1);
        let since_last = u64::try_from(since_last).unwrap_or(u64::MAX);
        period.saturating_sub(Duration::from_nanos(since_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_between_two_ticks_is_woken_at_the_next_one() {
        let at = |millis: u64| Boottime::from_nanos(millis * 1_000_000);
        let ticks = Ticks::new(at(100));
        let due = |now| at(now) + ticks.until_next(Duration::from_millis(2500), at(now));
        assert_eq!([100, 103, 2599].map(due), [at(2600); 3]);
        assert_eq!([2600, 2606, 5099].map(due), [at(5100); 3]);
    }

    #[test]
    fn no_period_is_too_short_or_too_long() {
        for period in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            for now in [0, 1, u64::MAX] {
                let ticks = Ticks::new(Boottime::from_nanos(0));
                assert!(ticks.until_next(period, Boottime::from_nanos(now)) <= period);
            }
        }
    }
}
