//! How long the loop waits: between rounds, after failures, between periodic writes. Its rate limit is in `throttle`.

use std::time::Duration;

/// Interval of rounds while no cluster data sets one (sentinel L-9).
pub(crate) const SLEEP_INTERVAL_UNKNOWN: Duration = Duration::from_secs(5);
/// Minimum sleepInterval of an initial spec while waiting for keepers.
pub(crate) const SLEEP_INTERVAL_ABSENT_MIN: Duration = Duration::from_secs(1);
/// Minimum interval of rounds: sleepInterval may be zero.
pub(crate) const SLEEP_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Delay after a failed request, which has waited already.
pub(crate) const FAILURE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Above this latency reads are sent ahead of time.
const SLOW_STORE_LATENCY: Duration = Duration::from_millis(100);
/// Minimum interval of periodic writes while no master is announced (extensions ).
const PERIODIC_WRITE_MIN_WHILE_AWAITED: Duration = Duration::from_secs(5);

/// Returns how long before a deadline the read for it is sent, so that a slow store does not add its latency. It is
/// less than the whole latency: a response just before the deadline would be of no use.
pub(crate) fn read_lead_time(latency: Duration) -> Duration {
    if latency < SLOW_STORE_LATENCY {
        return Duration::ZERO;
    }
    latency / 10 * 9
}

/// Returns the minimum interval of periodic writes, which update only times and positions.
///
/// Permits to promote (extensions) and check-ins of proxies are conditional on the revision of the cluster data,
/// and each write fails those in flight. On a slow store there must be time for one that fails and its repetition.
pub(crate) fn periodic_write_interval(
    sleep_interval: Duration,
    is_master_awaited: bool,
    latency: Duration,
) -> Duration {
    let awaited = if is_master_awaited {
        PERIODIC_WRITE_MIN_WHILE_AWAITED
    } else {
        Duration::ZERO
    };
    sleep_interval.max(awaited).max(latency.saturating_mul(3))
}

/// Returns the longest duration of a request while the store works normally.
pub(crate) fn request_limit(latency: Duration) -> Duration {
    FAILURE_RETRY_DELAY.max(latency.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_writes_come_once_a_sleep_interval_and_less_often_when_they_delay_others() {
        let interval = |sleep, is_awaited, latency| {
            let millis = Duration::from_millis;
            periodic_write_interval(millis(sleep), is_awaited, millis(latency)).as_millis()
        };
        assert_eq!(interval(5000, false, 2), 5000);
        assert_eq!(interval(1000, false, 2), 1000);
        assert_eq!(interval(1000, true, 2), 5000, "a permit is awaited");
        assert_eq!(interval(5000, false, 3000), 9000);
    }

    #[test]
    fn reads_of_a_fast_store_are_not_sent_ahead_of_time() {
        assert_eq!(read_lead_time(Duration::from_millis(5)), Duration::ZERO);
        assert_eq!(read_lead_time(Duration::from_secs(1)), Duration::from_millis(900));
    }
}
