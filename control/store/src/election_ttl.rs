//! The TTL of the election lease that fits the store's latency, and when a lease is replaced for it. Replacing it is
//! left to `session`.

use std::collections::VecDeque;
use std::time::Duration;

/// The TTL on a fast store (store 6.1; Go stolon's is 20 s).
pub const TTL: Duration = Duration::from_secs(5);
/// The longest TTL, however slow the store is: that of Go stolon.
const TTL_MAX: Duration = Duration::from_secs(20);
/// Interval of latency samples: that of the renewals on a fast store, which wake the program in any case.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Consecutive samples that require a longer TTL: 5 s. One slow response, or one pause of a store that is fast again
/// afterwards, fills fewer.
const SLOW_SAMPLES: usize = 5;
/// Consecutive samples that allow a shorter TTL: 20 s. A change costs two writes.
const FAST_SAMPLES: usize = 20;

/// Returns the TTL for a store of this latency.
///
/// The leader's write must be sent while more of the lease is left than its read took (fencing F-7), and what is left
/// counts from the sending of the last confirmed renewal. That makes four latencies and the margin, plus the interval
/// of renewals.
pub(super) fn ttl_for(latency: Duration) -> Duration {
    let wanted = latency.saturating_mul(4) + Duration::from_secs(3);
    Duration::from_secs(wanted.as_secs() + u64::from(wanted.subsec_nanos() > 0)).clamp(TTL, TTL_MAX)
}

/// Returns whether a lease that was requested and granted with these TTLs is kept although `fitting` would be chosen.
///
/// A lease that is too short may expire before it is renewed. One that is far too long delays the next leader after a
/// crash.
pub(super) fn is_acceptable(fitting: Duration, requested: Duration, granted: Duration) -> bool {
    fitting <= granted && fitting.saturating_mul(2) > requested
}

/// A change of the TTL that the recent latency requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TtlChange {
    /// To this longer TTL.
    Lengthen(Duration),
    /// To this shorter TTL.
    Shorten(Duration),
}

/// The latencies of the last seconds, sampled every [`SAMPLE_INTERVAL`].
///
/// A short lease survives late responses, so there is time to find out whether they stay late. A long lease delays the
/// next leader after a crash, so it is shortened when the store has been fast for a while.
#[derive(Debug, Default)]
pub(super) struct LatencyWindow {
    /// The newest last.
    samples: VecDeque<Duration>,
}

impl LatencyWindow {
    /// Adds the current latency; zero means unknown and is not a sample.
    pub(super) fn sample(&mut self, latency: Duration) {
        if latency.is_zero() {
            return;
        }
        if self.samples.len() == FAST_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(latency);
    }

    /// Returns the change, if any, of a lease whose TTL is counted on as `counted_on` and was requested as `requested`.
    pub(super) fn due_change(&self, counted_on: Duration, requested: Duration) -> Option<TtlChange> {
        let newest = self.samples.iter().rev().take(SLOW_SAMPLES);
        let longer = ttl_for(*newest.min()?);
        if self.samples.len() >= SLOW_SAMPLES && longer > counted_on {
            return Some(TtlChange::Lengthen(longer));
        }
        let (shortest, longest) = (
            ttl_for(*self.samples.iter().min()?),
            ttl_for(*self.samples.iter().max()?),
        );
        let is_settled = self.samples.len() == FAST_SAMPLES && longest - shortest <= Duration::from_secs(1);
        (is_settled && longest < requested).then_some(TtlChange::Shorten(longest))
    }

    /// Discards the samples, so that the next change is based on new ones.
    pub(super) fn restart(&mut self) {
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;
    use base::clock::Boottime;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_a_slow_store_gets_a_longer_lease() {
        let seconds = |latency| ttl_for(latency).as_secs();
        assert_eq!(seconds(Duration::ZERO), 5);
        assert_eq!(seconds(500 * MILLI), 5);
        assert_eq!(seconds(1400 * MILLI), 9);
        assert_eq!(seconds(3000 * MILLI), 15);
        assert_eq!(seconds(60_000 * MILLI), 20);
    }

    /// A session whose lease is renewed once a second, and the TTL that it uses.
    struct Session {
        now: Boottime,
        latency: Latency,
        window: LatencyWindow,
        ttl: Duration,
        changes: Vec<TtlChange>,
    }

    impl Session {
        fn fast() -> Self {
            let mut session = Self {
                now: Boottime::from_nanos(1_000_000_000),
                latency: Latency::default(),
                window: LatencyWindow::default(),
                ttl: TTL,
                changes: Vec::new(),
            };
            session.respond(60, &[2 * MILLI]);
            session
        }

        /// Simulates one response a second for this many seconds, with these latencies in turns.
        fn respond(&mut self, seconds: usize, took: &[Duration]) {
            for took in took.iter().cycle().take(seconds) {
                self.latency.measure(*took, self.now);
                self.now = self.now + SAMPLE_INTERVAL;
                self.window.sample(self.latency.measured());
                self.change();
            }
        }

        fn change(&mut self) {
            let Some(change) = self.window.due_change(self.ttl, self.ttl) else {
                return;
            };
            match change {
                TtlChange::Lengthen(ttl) => self.ttl = ttl,
                TtlChange::Shorten(ttl) => {
                    self.ttl = ttl;
                    self.window.restart();
                }
            }
            self.changes.push(change);
        }
    }

    #[test]
    fn one_slow_response_changes_no_lease() {
        for slow in [1400 * MILLI, 3 * SECOND, 4 * SECOND] {
            let mut session = Session::fast();
            session.respond(1, &[slow]);
            session.respond(30, &[2 * MILLI]);
            assert_eq!(session.changes, [], "{slow:?}");
        }
    }

    #[test]
    fn one_pause_of_the_store_changes_no_lease_although_several_responses_were_late() {
        let mut session = Session::fast();
        for waited in [3300, 2500, 1600, 800] {
            session.latency.measure(waited * MILLI, session.now);
        }
        session.respond(30, &[2 * MILLI]);
        assert_eq!(session.changes, []);
    }

    #[test]
    fn occasional_slow_responses_change_no_lease() {
        let mut session = Session::fast();
        session.respond(120, &[3 * SECOND, MILLI, MILLI, MILLI, MILLI, MILLI]);
        assert_eq!(session.changes, []);
    }

    #[test]
    fn a_store_that_stays_slow_gets_a_longer_lease_before_the_short_one_expires() {
        let mut session = Session::fast();
        session.respond(8, &[3 * SECOND]);
        assert_eq!(session.changes, [TtlChange::Lengthen(15 * SECOND)]);
    }

    #[test]
    fn the_lease_is_shortened_once_the_store_is_fast_again() {
        let mut session = Session::fast();
        session.respond(60, &[3 * SECOND]);
        session.changes.clear();
        session.respond(10, &[2 * MILLI]);
        assert_eq!(session.changes, [], "not at the first fast responses");
        session.respond(20, &[2 * MILLI]);
        assert!(session.ttl <= TTL + SECOND, "{:?} half a minute later", session.ttl);
        session.respond(30, &[2 * MILLI]);
        assert_eq!(session.ttl, TTL);
        assert!(session.changes.len() <= 2, "{:?}", session.changes);
    }

    #[test]
    fn a_lease_that_could_not_be_shortened_is_tried_again_later_and_not_at_once() {
        let mut window = LatencyWindow::default();
        let attempts = (0..4 * FAST_SAMPLES).filter(|_| {
            window.sample(MILLI);
            let due = window.due_change(TTL, 15 * SECOND) == Some(TtlChange::Shorten(TTL));
            if due {
                window.restart();
            }
            due
        });
        assert_eq!(attempts.count(), 4);
    }

    #[test]
    fn the_first_measurements_do_not_decide_the_ttl() {
        assert!(is_acceptable(5 * SECOND, 5 * SECOND, 5 * SECOND));
        assert!(!is_acceptable(15 * SECOND, 5 * SECOND, 5 * SECOND), "it would run out");
        assert!(
            !is_acceptable(5 * SECOND, 15 * SECOND, 15 * SECOND),
            "the first response was slow, no other"
        );
        assert!(is_acceptable(13 * SECOND, 15 * SECOND, 15 * SECOND));
        assert!(
            is_acceptable(5 * SECOND, 5 * SECOND, 20 * SECOND),
            "the store grants no less"
        );
    }
}
