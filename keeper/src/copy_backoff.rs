//! Backoff of failed copies, and of checking an obstacle of a copy. Each copy costs the source a checkpoint and network
//! traffic, each check a few queries. The delay is 5 s first and doubles, up to 5 minutes or 30 s.

use std::time::Duration;

use base::clock::Boottime;

use crate::reconcile::{CopyDelay, Desired, HoldReason};

const FIRST_DELAY: Duration = Duration::from_secs(5);
const DELAY_MAX: Duration = Duration::from_secs(300);

/// Maximum interval of checking an obstacle: each check queries the source.
const PROBE_DELAY_MAX: Duration = Duration::from_secs(30);

/// Failed copies since the last successful one.
#[derive(Debug, Default)]
pub struct CopyBackoff {
    failures: u32,
    last: Option<FailedCopy>,
}

#[derive(Debug)]
struct FailedCopy {
    desired: Desired,
    retry_at: Boottime,
    /// It was the one early attempt that a changed desired state permits.
    was_early: bool,
}

impl FailedCopy {
    fn is_of_another_cluster(&self, desired: &Desired) -> bool {
        self.desired.cluster != desired.cluster
    }
}

impl CopyBackoff {
    /// Records a failed copy for this desired state; failures for an earlier cluster no longer count.
    pub fn failed(&mut self, now: Boottime, desired: &Desired) {
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.is_of_another_cluster(desired))
        {
            *self = Self::default();
        }
        let was_early = self.last.as_ref().is_some_and(|last| now < last.retry_at);
        self.failures = self.failures.saturating_add(1);
        self.last = Some(FailedCopy {
            desired: desired.clone(),
            retry_at: now + delay(self.failures),
            was_early,
        });
    }

    /// Resets the backoff after a complete copy.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Returns the delay that prevents a copy now; `None` when one may start. A changed desired state permits one early
    /// attempt; failures for an earlier cluster do not count.
    pub fn active_delay(&self, now: Boottime, desired: &Desired) -> Option<CopyDelay> {
        let last = self.last.as_ref().filter(|last| now < last.retry_at)?;
        if last.is_of_another_cluster(desired) {
            return None;
        }
        // Alternating desired states must not defeat the backoff: a second early attempt is not granted.
        (last.was_early || last.desired == *desired).then(|| CopyDelay {
            failures: self.failures,
            delay: delay(self.failures),
        })
    }
}

/// Obstacle of a copy at the last check.
#[derive(Debug, Default)]
pub struct KnownObstacle {
    probes: u32,
    last: Option<(Desired, Boottime, HoldReason)>,
}

impl KnownObstacle {
    /// Records an obstacle found for this desired state.
    pub fn record(&mut self, now: Boottime, desired: &Desired, why: &HoldReason) {
        let is_known = self.last.as_ref().is_some_and(|(known, ..)| known == desired);
        self.probes = if is_known { self.probes.saturating_add(1) } else { 1 };
        let next = now + delay(self.probes).min(PROBE_DELAY_MAX);
        self.last = Some((desired.clone(), next, why.clone()));
    }

    /// Returns the obstacle that is assumed to persist; `None` when a check is due. Another desired state is checked
    /// immediately.
    pub fn current(&self, now: Boottime, desired: &Desired) -> Option<HoldReason> {
        let (known, next, why) = self.last.as_ref()?;
        (known == desired && now < *next).then(|| why.clone())
    }
}

fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1);
    FIRST_DELAY
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Goal;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn of_cluster(cluster: &str, goal: &str) -> Desired {
        let goal = match goal {
            "a" => HoldReason::NotListed,
            _ => HoldReason::FollowedDbMissing,
        };
        Desired {
            cluster: Some(cluster.into()),
            goal: Goal::Hold(goal),
        }
    }

    fn desired(goal: &str) -> Desired {
        of_cluster("c", goal)
    }

    #[test]
    fn attempts_slow_down_to_one_in_five_minutes() {
        let (mut backoff, mut now, mut delays) = (CopyBackoff::default(), 0, Vec::new());
        for _ in 0..9 {
            assert_eq!(backoff.active_delay(at(now), &desired("a")), None);
            backoff.failed(at(now), &desired("a"));
            let begun = now;
            while backoff.active_delay(at(now), &desired("a")).is_some() {
                now += 1;
            }
            delays.push(now - begun);
        }
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        backoff.succeeded();
        backoff.failed(at(now), &desired("a"));
        assert_eq!(
            backoff.active_delay(at(now + 5), &desired("a")),
            None,
            "success begins anew"
        );
    }

    #[test]
    fn another_desired_state_permits_one_attempt_immediately() {
        let mut backoff = CopyBackoff::default();
        for _ in 0..7 {
            backoff.failed(at(0), &desired("a"));
            backoff.last.as_mut().unwrap().was_early = false;
        }
        assert!(backoff.active_delay(at(1), &desired("a")).is_some());
        assert_eq!(backoff.active_delay(at(1), &desired("b")), None);
        backoff.failed(at(1), &desired("b"));
        assert!(backoff.active_delay(at(2), &desired("b")).is_some());
        assert!(
            backoff.active_delay(at(2), &desired("a")).is_some(),
            "desired states that alternate wait too"
        );
        assert_eq!(backoff.active_delay(at(301), &desired("b")), None);
    }

    #[test]
    fn failures_of_another_cluster_do_not_count() {
        let mut backoff = CopyBackoff::default();
        for _ in 0..7 {
            backoff.failed(at(0), &desired("a"));
        }
        let other = of_cluster("d", "a");
        assert_eq!(backoff.active_delay(at(1), &other), None);
        backoff.failed(at(1), &other);
        assert_eq!(backoff.active_delay(at(2), &other).unwrap().failures, 1);
        assert_eq!(backoff.active_delay(at(6), &other), None, "5 s later");
    }

    #[test]
    fn an_obstacle_is_checked_less_and_less_often_but_immediately_for_another_desired_state() {
        let (mut obstacle, mut now, mut delays) = (KnownObstacle::default(), 0, Vec::new());
        let why = HoldReason::NotListed;
        for _ in 0..5 {
            obstacle.record(at(now), &desired("a"), &why);
            assert_eq!(obstacle.current(at(now), &desired("b")), None);
            let begun = now;
            while obstacle.current(at(now), &desired("a")) == Some(why.clone()) {
                now += 1;
            }
            delays.push(now - begun);
        }
        assert_eq!(delays, [5, 10, 20, 30, 30]);
    }

    #[test]
    fn failures_without_end_overflow_nothing() {
        let mut backoff = CopyBackoff {
            failures: u32::MAX,
            last: None,
        };
        backoff.failed(at(0), &desired("a"));
        assert_eq!(backoff.active_delay(at(0), &desired("a")).unwrap().delay, DELAY_MAX);
    }
}
