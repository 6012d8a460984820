//! The latency of a connection, and which of several connections to use. Sending is left to `requester`.

use std::collections::BTreeMap;
use std::time::Duration;

use base::clock::Boottime;

/// Minimum time without a response after which an idempotent request is sent on a second connection; longer where the
/// latency is higher.
const HEDGE_MIN: Duration = Duration::from_millis(300);
/// Connections whose latencies differ by less than this, or by less than a factor of two, share the requests.
const SIMILAR: Duration = Duration::from_millis(50);
/// A watch moves only to a connection that is faster by this and by a factor of four.
const MOVE_THRESHOLD: Duration = Duration::from_millis(250);
/// Maximum number of requests timed at once on one connection; others are not timed.
const TIMED_MAX: usize = 64;

/// The measured latency of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency {
    estimate: Option<Duration>,
    pending: BTreeMap<u64, Boottime>,
    next: u64,
    last_measured: Option<Boottime>,
}

impl Latency {
    /// Records a request sent now. Returns its number; none when too many are timed already.
    pub(super) fn sent(&mut self, now: Boottime) -> Option<u64> {
        if self.pending.len() >= TIMED_MAX {
            return None;
        }
        self.next += 1;
        self.pending.insert(self.next, now);
        Some(self.next)
    }

    /// Records a response.
    pub(super) fn answered(&mut self, number: u64, now: Boottime) {
        if let Some(sent) = self.pending.remove(&number) {
            self.measure(now.since(sent), now);
        }
    }

    /// Records that a request was dropped. It would have taken at least as long as it was waited for.
    pub(super) fn abandoned(&mut self, number: u64, now: Boottime) {
        let Some(sent) = self.pending.remove(&number) else {
            return;
        };
        let waited = now.since(sent);
        if self.estimate.is_some_and(|estimate| waited > estimate) {
            self.estimate = Some(waited);
        }
    }

    /// Records one measurement. A slower one replaces the estimate, a faster one counts by half: one quick response
    /// among slow ones does not make a connection a fast one.
    pub(super) fn measure(&mut self, took: Duration, now: Boottime) {
        self.last_measured = Some(now);
        self.estimate = Some(match self.estimate {
            Some(estimate) if took < estimate => (estimate + took) / 2,
            _ => took,
        });
    }

    /// Returns the latency of past responses; zero before the first one.
    pub(super) fn measured(&self) -> Duration {
        self.estimate.unwrap_or_default()
    }

    /// Returns the latency to expect of a request sent now. A pending request counts with its age.
    pub(super) fn expected(&self, now: Boottime) -> Duration {
        let waited = self.pending.values().next().map(|sent| now.since(*sent));
        self.measured().max(waited.unwrap_or_default())
    }

    /// Returns whether nothing has been measured for this long.
    pub(super) fn is_unmeasured_for(&self, time: Duration, now: Boottime) -> bool {
        self.pending.is_empty() && self.last_measured.is_none_or(|at| now.since(at) >= time)
    }
}

/// Returns the indexes of the connections that a request may use: the fastest, and those of similar latency.
pub(super) fn fastest(expected: &[Duration]) -> Vec<usize> {
    let Some(best) = expected.iter().min() else {
        return Vec::new();
    };
    let limit = best.saturating_mul(2).saturating_add(SIMILAR);
    (0..expected.len()).filter(|index| expected[*index] <= limit).collect()
}

/// Returns how long to wait for a first response before sending the request on another connection.
pub(super) fn hedge_after(expected: Duration) -> Duration {
    HEDGE_MIN.max(expected.saturating_mul(3) / 2)
}

/// Returns whether a watch on a connection with this latency should move to the fastest one.
pub(super) fn is_worth_moving(expected: Duration, best: Duration) -> bool {
    expected > best.saturating_mul(4).saturating_add(MOVE_THRESHOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLI: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Boottime {
        Boottime::from_nanos((millis + 1_000_000) * 1_000_000)
    }

    #[test]
    fn a_slow_response_counts_in_full_and_a_fast_one_by_half() {
        let mut latency = Latency::default();
        latency.measure(2 * MILLI, at(0));
        latency.measure(3 * SECOND, at(1));
        assert_eq!(latency.measured(), 3 * SECOND);
        latency.measure(Duration::ZERO, at(2));
        assert_eq!(latency.measured(), 1500 * MILLI);
        for n in 0..10 {
            latency.measure(Duration::ZERO, at(3 + n));
        }
        assert!(latency.measured() < 2 * MILLI);
    }

    #[test]
    fn a_pending_request_counts_with_its_age() {
        let mut latency = Latency::default();
        latency.measure(MILLI, at(0));
        let number = latency.sent(at(0)).unwrap();
        assert_eq!(latency.expected(at(400)), 400 * MILLI);
        assert_eq!(latency.measured(), MILLI, "nothing was measured yet");
        latency.abandoned(number, at(400));
        assert_eq!(latency.expected(at(900)), 400 * MILLI, "it took at least that long");
        let number = latency.sent(at(1000)).unwrap();
        latency.abandoned(number, at(1001));
        assert_eq!(latency.measured(), 400 * MILLI, "abandoned early, it does not count");
    }

    #[test]
    fn no_more_requests_are_timed_than_the_bound() {
        let mut latency = Latency::default();
        let timed = (0..1000).filter(|_| latency.sent(at(0)).is_some()).count();
        assert_eq!(timed, TIMED_MAX);
    }

    #[test]
    fn requests_use_the_fastest_connections_and_those_of_similar_latency() {
        assert!(fastest(&[]).is_empty());
        assert_eq!(fastest(&[MILLI, 3 * SECOND, 40 * MILLI]), [0, 2]);
        assert_eq!(fastest(&[3 * SECOND, 3 * SECOND, 2 * SECOND]), [0, 1, 2]);
        assert_eq!(fastest(&[6 * SECOND]), [0], "a slow one is better than none");
    }

    #[test]
    fn a_second_request_is_sent_after_300_ms_or_later_on_a_slow_store() {
        assert_eq!(hedge_after(MILLI), 300 * MILLI);
        assert_eq!(hedge_after(3 * SECOND), 4500 * MILLI);
    }

    #[test]
    fn a_watch_moves_only_for_a_much_faster_connection() {
        assert!(is_worth_moving(3 * SECOND, 2 * MILLI));
        assert!(is_worth_moving(400 * MILLI, 2 * MILLI), "as far as a hedge has shown");
        assert!(!is_worth_moving(200 * MILLI, MILLI));
        assert!(!is_worth_moving(3 * SECOND, SECOND));
    }
}
