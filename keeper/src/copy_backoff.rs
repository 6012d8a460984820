//! When a copy that failed is tried again. Each attempt costs the source a checkpoint and the network a part of the
//! data, so attempts become rare: after 5 s first, then after twice the last pause, up to 5 minutes.

use std::time::Duration;

use control::clock::Boottime;

use crate::reconcile::{CopyPause, Desired, HoldReason};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The failed copies of this process since the last one that succeeded.
#[derive(Debug, Default)]
pub struct CopyBackoff {
    failures: u32,
    last: Option<FailedCopy>,
}

#[derive(Debug)]
struct FailedCopy {
    orders: Desired,
    retry_at: Boottime,
    /// It was the one attempt ahead of time that other orders permit.
    was_early: bool,
}

impl CopyBackoff {
    /// A copy under these orders has failed.
    pub fn failed(&mut self, now: Boottime, orders: &Desired) {
        let was_early = self.last.as_ref().is_some_and(|last| now < last.retry_at);
        self.failures = self.failures.saturating_add(1);
        self.last = Some(FailedCopy {
            orders: orders.clone(),
            retry_at: now + pause(self.failures),
            was_early,
        });
    }

    /// The copy is complete and recorded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Why no copy is begun now; `None` when one may be. Changed orders permit one attempt before its time.
    pub fn active_pause(&self, now: Boottime, orders: &Desired) -> Option<CopyPause> {
        let last = self.last.as_ref().filter(|last| now < last.retry_at)?;
        (last.was_early || last.orders == *orders).then(|| CopyPause {
            failures: self.failures,
            pause: pause(self.failures),
        })
    }
}

/// From one look at what is in the way of a copy to the next one, at most: looking costs the source some questions.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What was in the way of a copy at the last look.
#[derive(Debug, Default)]
pub struct KnownObstacle {
    probes: u32,
    last: Option<(Desired, Boottime, HoldReason)>,
}

impl KnownObstacle {
    /// A look under these orders has found this.
    pub fn record(&mut self, now: Boottime, orders: &Desired, why: &HoldReason) {
        let is_known = self.last.as_ref().is_some_and(|(known, ..)| known == orders);
        self.probes = if is_known { self.probes.saturating_add(1) } else { 1 };
        let next = now + pause(self.probes).min(PROBE_PAUSE_MAX);
        self.last = Some((orders.clone(), next, why.clone()));
    }

    /// What is taken to be in the way still; `None` when it is time to look. Other orders are worth a look at once.
    pub fn current(&self, now: Boottime, orders: &Desired) -> Option<HoldReason> {
        let (known, next, why) = self.last.as_ref()?;
        (known == orders && now < *next).then(|| why.clone())
    }
}

fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1);
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Goal;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn orders(cluster: &str) -> Desired {
        Desired {
            cluster: Some(cluster.into()),
            goal: Goal::Hold(HoldReason::NotListed),
        }
    }

    #[test]
    fn attempts_become_rare_up_to_one_in_five_minutes() {
        let (mut backoff, mut now, mut pauses) = (CopyBackoff::default(), 0, Vec::new());
        for _ in 0..9 {
            assert_eq!(backoff.active_pause(at(now), &orders("a")), None);
            backoff.failed(at(now), &orders("a"));
            let begun = now;
            while backoff.active_pause(at(now), &orders("a")).is_some() {
                now += 1;
            }
            pauses.push(now - begun);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        backoff.succeeded();
        backoff.failed(at(now), &orders("a"));
        assert_eq!(
            backoff.active_pause(at(now + 5), &orders("a")),
            None,
            "success begins anew"
        );
    }

    #[test]
    fn other_orders_permit_one_attempt_at_once() {
        let mut backoff = CopyBackoff::default();
        for _ in 0..7 {
            backoff.failed(at(0), &orders("a"));
            backoff.last.as_mut().unwrap().was_early = false;
        }
        assert!(backoff.active_pause(at(1), &orders("a")).is_some());
        assert_eq!(backoff.active_pause(at(1), &orders("b")), None);
        backoff.failed(at(1), &orders("b"));
        assert!(backoff.active_pause(at(2), &orders("b")).is_some());
        assert!(
            backoff.active_pause(at(2), &orders("a")).is_some(),
            "orders that alternate wait too"
        );
        assert_eq!(backoff.active_pause(at(301), &orders("b")), None);
    }

    #[test]
    fn what_is_in_the_way_is_looked_at_more_and_more_rarely_but_at_once_under_other_orders() {
        let (mut held, mut now, mut pauses) = (KnownObstacle::default(), 0, Vec::new());
        let why = HoldReason::NotListed;
        for _ in 0..5 {
            held.record(at(now), &orders("a"), &why);
            assert_eq!(held.current(at(now), &orders("b")), None);
            let begun = now;
            while held.current(at(now), &orders("a")) == Some(why.clone()) {
                now += 1;
            }
            pauses.push(now - begun);
        }
        assert_eq!(pauses, [5, 10, 20, 30, 30]);
    }

    #[test]
    fn failures_without_end_overflow_nothing() {
        let mut backoff = CopyBackoff {
            failures: u32::MAX,
            last: None,
        };
        backoff.failed(at(0), &orders("a"));
        assert_eq!(backoff.active_pause(at(0), &orders("a")).unwrap().pause, PAUSE_MAX);
    }
}
