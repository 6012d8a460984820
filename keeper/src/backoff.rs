//! When a copy that failed is tried again. Each attempt costs the source a checkpoint and the network a part of the
//! data, so attempts become rare: after 5 s first, then after twice the last pause, up to 5 minutes.

use std::time::Duration;

use control::clock::Boottime;

use crate::converge::{CopyPause, Orders};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The failed copies of this process since the last one that succeeded.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    last: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    orders: Orders,
    retry_at: Boottime,
    /// It was the one attempt ahead of time that other orders permit.
    was_early: bool,
}

impl Backoff {
    /// A copy under these orders has failed.
    pub fn failed(&mut self, now: Boottime, orders: &Orders) {
        let was_early = self.last.as_ref().is_some_and(|last| now < last.retry_at);
        self.failures = self.failures.saturating_add(1);
        self.last = Some(Failure {
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
    pub fn waits(&self, now: Boottime, orders: &Orders) -> Option<CopyPause> {
        let last = self.last.as_ref().filter(|last| now < last.retry_at)?;
        (last.was_early || last.orders == *orders).then(|| CopyPause {
            failures: self.failures,
            pause: pause(self.failures),
        })
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
    use crate::converge::{Be, Unchanged};

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn orders(cluster: &str) -> Orders {
        Orders {
            cluster: Some(cluster.into()),
            be: Be::Unchanged(Unchanged::NotListed),
        }
    }

    #[test]
    fn attempts_become_rare_up_to_one_in_five_minutes() {
        let (mut backoff, mut now, mut pauses) = (Backoff::default(), 0, Vec::new());
        for _ in 0..9 {
            assert_eq!(backoff.waits(at(now), &orders("a")), None);
            backoff.failed(at(now), &orders("a"));
            let begun = now;
            while backoff.waits(at(now), &orders("a")).is_some() {
                now += 1;
            }
            pauses.push(now - begun);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        backoff.succeeded();
        backoff.failed(at(now), &orders("a"));
        assert_eq!(backoff.waits(at(now + 5), &orders("a")), None, "success begins anew");
    }

    #[test]
    fn other_orders_permit_one_attempt_at_once() {
        let mut backoff = Backoff::default();
        for _ in 0..7 {
            backoff.failed(at(0), &orders("a"));
            backoff.last.as_mut().unwrap().was_early = false;
        }
        assert!(backoff.waits(at(1), &orders("a")).is_some());
        assert_eq!(backoff.waits(at(1), &orders("b")), None);
        backoff.failed(at(1), &orders("b"));
        assert!(backoff.waits(at(2), &orders("b")).is_some());
        assert!(
            backoff.waits(at(2), &orders("a")).is_some(),
            "orders that alternate wait too"
        );
        assert_eq!(backoff.waits(at(301), &orders("b")), None);
    }

    #[test]
    fn failures_without_end_overflow_nothing() {
        let mut backoff = Backoff {
            failures: u32::MAX,
            last: None,
        };
        backoff.failed(at(0), &orders("a"));
        assert_eq!(backoff.waits(at(0), &orders("a")).unwrap().pause, PAUSE_MAX);
    }
}
