//! How long a check-in may take, and when the next one starts (proxy P-2, P-3). Pure; the lease itself is in `sequence`.

use std::time::Duration;

/// Delays between the starts of failing check-ins (proxy P-2).
pub(super) const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
pub(super) const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
/// From this latency on, check-ins start early so that the lease does not end before the store has answered.
const SLOW_LATENCY: Duration = Duration::from_millis(100);

/// The intervals of the cluster spec (proxy P-2, fencing F-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CheckInTiming {
    pub(super) check_interval: Duration,
    /// The length of the lease that a good check-in grants.
    pub(super) timeout: Duration,
}

impl Default for CheckInTiming {
    /// Used until cluster data have been read (proxy P-2).
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
        }
    }
}

impl CheckInTiming {
    /// Returns the time limit of one check-in as a whole (proxy P-3).
    ///
    /// After failures it is at least `delay`: a third of a valid proxyTimeout may be too short for any store, and then
    /// no check-in would ever read the spec that corrects it. On a slow store there is time for four answers, but at
    /// most half of the remaining lease is used, so that after a request without a response there is time for another
    /// check-in. Two responses, a conflict and its retry, always have time.
    pub(super) fn attempt_limit(
        self,
        store_limit: Duration,
        delay: Duration,
        latency: Duration,
        lease_left: Duration,
    ) -> Duration {
        let usual = store_limit.min((self.timeout / 3).max(delay));
        let four_answers = latency.saturating_mul(4);
        if lease_left.is_zero() {
            return usual.max(four_answers);
        }
        let two_answers = latency.saturating_mul(5) / 2;
        usual.max(four_answers.min(lease_left / 2)).max(two_answers)
    }

    /// Returns the delay after a good check-in (proxy P-2). It is counted from the sending of the answered request,
    /// which may be one of the previous check-in. It has a minimum, so that a proxyCheckInterval of 0 causes no busy
    /// loop. On a slow store the next check-in starts while the lease leaves time for four answers: two with conflicts,
    /// and two in reserve.
    pub(super) fn delay(self, lease_left: Duration, latency: Duration) -> Duration {
        let since_sent = self.timeout.saturating_sub(lease_left);
        let usual = self.check_interval.saturating_sub(since_sent).max(RETRY_DELAY_MIN);
        if latency < SLOW_LATENCY {
            return usual;
        }
        let spare = lease_left.saturating_sub(latency.saturating_mul(4));
        usual.min(spare.max(RETRY_DELAY_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_in_may_take_a_third_of_the_proxy_timeout_and_no_more_than_a_request() {
        let limit = |timeout, store| {
            let timing = CheckInTiming {
                check_interval: Duration::ZERO,
                timeout: Duration::from_secs(timeout),
            };
            timing
                .attempt_limit(
                    Duration::from_secs(store),
                    RETRY_DELAY_MAX,
                    Duration::ZERO,
                    Duration::ZERO,
                )
                .as_secs()
        };
        assert_eq!((limit(15, 5), limit(3, 5), limit(30, 5)), (5, 1, 5));
    }

    #[test]
    fn zero_intervals_leave_time_for_a_check_in_and_between_two() {
        let timing = CheckInTiming {
            check_interval: Duration::ZERO,
            timeout: Duration::from_nanos(1),
        };
        let store = Duration::from_secs(5);
        let quick = Duration::ZERO;
        assert_eq!(
            timing.attempt_limit(store, RETRY_DELAY_MIN, quick, Duration::ZERO),
            RETRY_DELAY_MIN
        );
        assert_eq!(
            timing.attempt_limit(store, RETRY_DELAY_MAX, quick, Duration::ZERO),
            RETRY_DELAY_MAX
        );
        assert_eq!(timing.delay(Duration::ZERO, quick), RETRY_DELAY_MIN);
    }

    #[test]
    fn an_answer_to_a_request_of_the_previous_check_in_is_followed_by_another_check_in_at_once() {
        let timing = CheckInTiming {
            check_interval: Duration::from_secs(8),
            timeout: Duration::from_secs(15),
        };
        let latency = Duration::from_millis(2);
        let fresh = timing.delay(timing.timeout - latency, latency);
        assert_eq!(fresh, timing.check_interval - latency);
        // Sent one interval ago: the lease ends before another interval has passed.
        let old = timing.delay(timing.timeout - timing.check_interval, latency);
        assert_eq!(old, RETRY_DELAY_MIN);
        assert_eq!(timing.delay(Duration::ZERO, latency), RETRY_DELAY_MIN);
    }

    #[test]
    fn on_a_slow_store_every_lease_is_renewed_before_it_ends() {
        let millis = Duration::from_millis;
        for (timeout, interval, latency) in [
            (15_000, 5000, 3000),
            (15_000, 5000, 1400),
            (3000, 1000, 1000),
            (6000, 2000, 1900),
        ] {
            let timing = CheckInTiming {
                check_interval: millis(interval),
                timeout: millis(timeout),
            };
            let latency = millis(latency);
            let left = timing.timeout - latency;
            let next_answer = timing.delay(left, latency) + latency;
            assert!(next_answer < left, "{timeout} {latency:?}");
            let limit = timing.attempt_limit(Duration::from_secs(5), RETRY_DELAY_MIN, latency, left);
            assert!(limit > latency * 2, "time for one that is refused and one that is not");
        }
    }

    #[test]
    fn an_unanswered_check_in_leaves_time_for_another_one() {
        let millis = Duration::from_millis;
        for (timeout, interval, latency) in [
            (3000, 1000, 500),
            (3000, 1000, 300),
            (15_000, 5000, 1400),
            (15_000, 5000, 3000),
        ] {
            let timing = CheckInTiming {
                check_interval: millis(interval),
                timeout: millis(timeout),
            };
            let latency = millis(latency);
            let after_answer = timing.timeout - latency;
            let left = after_answer - timing.delay(after_answer, latency);
            let limit = timing.attempt_limit(Duration::from_secs(5), RETRY_DELAY_MIN, latency, left);
            assert!(
                limit + RETRY_DELAY_MIN + latency < left,
                "{timeout} {latency:?}: {limit:?} of {left:?}"
            );
        }
    }
}
