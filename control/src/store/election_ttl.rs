//! Which TTL of the election lease suits the store's latency, and when a lease is changed for it. How a session changes
//! its lease is left to `session`.

use std::collections::VecDeque;
use std::time::Duration;

/// The TTL on a store that answers soon (store 6.1; the reference's is 20 s).
pub const TTL: Duration = Duration::from_secs(5);
/// The longest TTL asked for, however slow the store is: the reference's.
const TTL_MAX: Duration = Duration::from_secs(20);
/// How often the latency is sampled.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Samples in a row that must ask for a longer TTL: 5 s. One slow answer, or one pause of a store whose answers are quick
/// again after it, fills fewer than these.
const SLOW_SAMPLES: usize = 10;
/// Samples in a row that must ask for a shorter TTL: 20 s. A change costs two writes.
const QUICK_SAMPLES: usize = 40;

/// The TTL that suits a store of this latency.
///
/// The leader's write has to be sent while more of the lease is left than its read took (fencing F-7), and what is left
/// is counted from the sending of the last renewal that was answered: four latencies and the margin, with room for the
/// time between two renewals.
pub(super) fn ttl_for(latency: Duration) -> Duration {
    let wanted = latency.saturating_mul(4) + Duration::from_secs(3);
    Duration::from_secs(wanted.as_secs() + u64::from(wanted.subsec_nanos() > 0)).clamp(TTL, TTL_MAX)
}

/// Whether a lease that was asked for and granted with these TTLs is used although another TTL would suit the store.
///
/// One that is too short may end before it is renewed. One that is far too long keeps others waiting after a death.
pub(super) fn is_acceptable(suits: Duration, asked: Duration, granted: Duration) -> bool {
    suits <= granted && suits.saturating_mul(2) > asked
}

/// A change that the latency of the last seconds asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TtlChange {
    /// A longer lease, of this TTL.
    Lengthen(Duration),
    /// A shorter one.
    Shorten(Duration),
}

/// The latencies of the last seconds, sampled every [`SAMPLE_EVERY`].
///
/// A short lease survives answers that come late, so there is time to find out whether they stay late. A long lease makes
/// everybody wait that long after the leader's death, so it is given up when the store has been well for a while.
#[derive(Debug, Default)]
pub(super) struct LatencyWindow {
    /// The newest last.
    samples: VecDeque<Duration>,
}

impl LatencyWindow {
    /// Takes the present latency; zero when it is not known, which is no sample.
    pub(super) fn sample(&mut self, latency: Duration) {
        if latency.is_zero() {
            return;
        }
        if self.samples.len() == QUICK_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(latency);
    }

    /// The change to a lease on which `relied` is relied upon and of which `asked` was asked for, if one is due.
    pub(super) fn due_change(&self, relied: Duration, asked: Duration) -> Option<TtlChange> {
        let newest = self.samples.iter().rev().take(SLOW_SAMPLES);
        let slow = ttl_for(*newest.min()?);
        if self.samples.len() >= SLOW_SAMPLES && slow > relied {
            return Some(TtlChange::Lengthen(slow));
        }
        let (least, quick) = (
            ttl_for(*self.samples.iter().min()?),
            ttl_for(*self.samples.iter().max()?),
        );
        let is_settled = self.samples.len() == QUICK_SAMPLES && quick - least <= Duration::from_secs(1);
        (is_settled && quick < asked).then_some(TtlChange::Shorten(quick))
    }

    /// Waits for fresh samples before the next change.
    pub(super) fn restart(&mut self) {
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::latency::Latency;
    use super::*;
    use crate::clock::Boottime;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_longer_lease_suits_only_a_slow_store() {
        let seconds = |latency| ttl_for(latency).as_secs();
        assert_eq!(seconds(Duration::ZERO), 5);
        assert_eq!(seconds(500 * MILLI), 5);
        assert_eq!(seconds(1400 * MILLI), 9);
        assert_eq!(seconds(3000 * MILLI), 15);
        assert_eq!(seconds(60_000 * MILLI), 20);
    }

    /// A connection whose renewals are sent once a second, and the TTL that a session relies upon.
    struct Session {
        now: Boottime,
        latency: Latency,
        fit: LatencyWindow,
        ttl: Duration,
        changes: Vec<TtlChange>,
    }

    impl Session {
        fn quick() -> Self {
            let mut scene = Self {
                now: Boottime::from_nanos(1_000_000_000),
                latency: Latency::default(),
                fit: LatencyWindow::default(),
                ttl: TTL,
                changes: Vec::new(),
            };
            scene.answers(60, &[2 * MILLI]);
            scene
        }

        /// Answers that took so long come in turns, one a second, for this many seconds.
        fn answers(&mut self, seconds: usize, took: &[Duration]) {
            for took in took.iter().cycle().take(seconds) {
                self.latency.measure(*took, self.now);
                for _ in 0..2 {
                    self.now = self.now + SAMPLE_INTERVAL;
                    self.fit.sample(self.latency.measured());
                    self.change();
                }
            }
        }

        fn change(&mut self) {
            let Some(change) = self.fit.due_change(self.ttl, self.ttl) else {
                return;
            };
            match change {
                TtlChange::Lengthen(ttl) => self.ttl = ttl,
                TtlChange::Shorten(ttl) => {
                    self.ttl = ttl;
                    self.fit.restart();
                }
            }
            self.changes.push(change);
        }
    }

    #[test]
    fn one_slow_answer_changes_no_lease() {
        for slow in [1400 * MILLI, 3 * SECOND, 4 * SECOND] {
            let mut scene = Session::quick();
            scene.answers(1, &[slow]);
            scene.answers(30, &[2 * MILLI]);
            assert_eq!(scene.changes, [], "{slow:?}");
        }
    }

    #[test]
    fn one_pause_of_the_store_changes_no_lease_although_several_answers_waited_for_its_end() {
        let mut scene = Session::quick();
        for waited in [3300, 2500, 1600, 800] {
            scene.latency.measure(waited * MILLI, scene.now);
        }
        scene.answers(30, &[2 * MILLI]);
        assert_eq!(scene.changes, []);
    }

    #[test]
    fn slow_answers_now_and_then_change_no_lease() {
        let mut scene = Session::quick();
        scene.answers(120, &[3 * SECOND, MILLI, MILLI, MILLI, MILLI, MILLI]);
        assert_eq!(scene.changes, []);
    }

    #[test]
    fn a_store_that_stays_slow_gets_a_longer_lease_while_the_short_one_still_lives() {
        let mut scene = Session::quick();
        scene.answers(8, &[3 * SECOND]);
        assert_eq!(scene.changes, [TtlChange::Lengthen(15 * SECOND)]);
    }

    #[test]
    fn the_short_lease_comes_back_once_the_store_is_well_again() {
        let mut scene = Session::quick();
        scene.answers(60, &[3 * SECOND]);
        scene.changes.clear();
        scene.answers(10, &[2 * MILLI]);
        assert_eq!(scene.changes, [], "not at the first quick answers");
        scene.answers(20, &[2 * MILLI]);
        assert!(scene.ttl <= TTL + SECOND, "{:?} half a minute later", scene.ttl);
        scene.answers(30, &[2 * MILLI]);
        assert_eq!(scene.ttl, TTL);
        assert!(scene.changes.len() <= 2, "{:?}", scene.changes);
    }

    #[test]
    fn a_lease_that_could_not_be_shortened_is_tried_again_later_and_not_at_once() {
        let mut fit = LatencyWindow::default();
        let attempts = (0..4 * QUICK_SAMPLES).filter(|_| {
            fit.sample(MILLI);
            let due = fit.due_change(TTL, 15 * SECOND) == Some(TtlChange::Shorten(TTL));
            if due {
                fit.restart();
            }
            due
        });
        assert_eq!(attempts.count(), 4);
    }

    #[test]
    fn what_was_measured_at_the_start_is_not_taken_for_the_rule() {
        assert!(is_acceptable(5 * SECOND, 5 * SECOND, 5 * SECOND));
        assert!(!is_acceptable(15 * SECOND, 5 * SECOND, 5 * SECOND), "it would run out");
        assert!(
            !is_acceptable(5 * SECOND, 15 * SECOND, 15 * SECOND),
            "the first answer was slow, no other"
        );
        assert!(is_acceptable(13 * SECOND, 15 * SECOND, 15 * SECOND));
        assert!(
            is_acceptable(5 * SECOND, 5 * SECOND, 20 * SECOND),
            "the store grants no less"
        );
    }
}
