//! When the next round runs and what triggers it: timer, events, and a growing delay after failures.

use std::time::Duration;

use base::clock::Boottime;

use crate::reconcile::{Desired, Goal, StopReason};
use crate::reconciler::{RoundResult, Trigger};

/// Delay of a change of parameters or hba lines only, to combine it with further ones (keeper 18.2).
pub const COALESCE_DELAY: Duration = Duration::from_millis(200);
/// Delay after the first failure; doubled after each further one, up to the sleepInterval (keeper 3.2.3).
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Maximum delay after a failure of a stop that a switchover orders: clients have no master meanwhile.
const ORDERED_DELAY_MAX: Duration = Duration::from_secs(1);
/// A server that ends within this time after its start is crash-looping.
const QUICK_END: Duration = Duration::from_secs(2);

/// Schedule of the rounds.
#[derive(Debug)]
pub struct Schedule {
    /// When the next round runs without an event.
    timer: Boottime,
    /// When the earliest event since the last round triggers one.
    trigger: Option<Boottime>,
    /// Consecutive failed rounds.
    failures: u32,
    /// The desired state of the last failed round, until a round ends done or on hold.
    failed: Option<Desired>,
    /// The last start of a server.
    started: Option<Boottime>,
    /// Consecutive ends of a server soon after its start.
    quick_ends: u32,
}

impl Schedule {
    /// Makes the first round due now.
    pub fn new(now: Boottime) -> Self {
        Self {
            timer: now,
            trigger: None,
            failures: 0,
            failed: None,
            started: None,
            quick_ends: 0,
        }
    }

    /// Returns when the next round is due.
    pub fn due(&self) -> Boottime {
        self.trigger.map_or(self.timer, |event| event.min(self.timer))
    }

    /// Makes a round due after `delay`.
    pub fn trigger_after(&mut self, now: Boottime, delay: Duration) {
        let at = now + delay;
        self.trigger = Some(self.trigger.map_or(at, |event| event.min(at)));
    }

    /// Records the start of a server.
    pub fn server_started(&mut self, now: Boottime) {
        self.started = Some(now);
    }

    /// Records that the server ended unexpectedly: it is restarted immediately, with a growing delay from the second
    /// consecutive end soon after a start on.
    pub fn server_ended(&mut self, now: Boottime, sleep_interval: Duration) {
        // A killed server is restarted immediately, because each second without it counts; one that ends again and
        // again would only fill the log.
        let quick = self.started.is_some_and(|started| now.since(started) < QUICK_END);
        self.quick_ends = if quick { self.quick_ends.saturating_add(1) } else { 0 };
        let delay = if self.quick_ends < 2 {
            Duration::ZERO
        } else {
            delay(self.quick_ends - 2, sleep_interval)
        };
        self.trigger_after(now, delay);
    }

    /// Begins a round and returns its trigger.
    pub fn begin(&mut self, now: Boottime) -> Trigger {
        self.trigger = None;
        if now >= self.timer {
            return Trigger::Timer;
        }
        self.failed.clone().map_or(Trigger::Event, Trigger::EventUnless)
    }

    /// Ends a round; the next one runs after `sleep_interval` at the latest (keeper 3.2).
    pub fn end(&mut self, now: Boottime, ended: &RoundResult, desired: &Desired, sleep_interval: Duration) {
        match ended {
            // A skipped round neither resets nor extends the delay of the failed one.
            RoundResult::Skipped => {}
            RoundResult::Done | RoundResult::OnHold => {
                (self.failures, self.failed) = (0, None);
                self.timer = now + sleep_interval;
            }
            RoundResult::Failed => {
                let max = match desired.goal {
                    Goal::Stop(StopReason::Ordered(_)) => sleep_interval.min(ORDERED_DELAY_MAX),
                    _ => sleep_interval,
                };
                self.timer = now + delay(self.failures, max);
                self.failures = self.failures.saturating_add(1);
                self.failed = Some(desired.clone());
            }
        }
    }

    /// Makes a round due now after one was aborted for another desired state.
    pub fn round_aborted(&mut self, now: Boottime) {
        self.trigger_after(now, Duration::ZERO);
    }
}

fn delay(failures: u32, sleep_interval: Duration) -> Duration {
    FIRST_DELAY
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(sleep_interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{AcceptedOrder, HoldReason};

    const SLEEP: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Boottime {
        Boottime::from_nanos(millis * 1_000_000)
    }

    fn some_desired_state() -> Desired {
        Desired {
            cluster: None,
            goal: Goal::Hold(HoldReason::NotListed),
        }
    }

    #[test]
    fn the_timer_runs_from_the_end_of_a_round_and_events_come_before_it() {
        let mut schedule = Schedule::new(at(0));
        assert_eq!(schedule.begin(at(0)), Trigger::Timer);
        schedule.end(at(1000), &RoundResult::Done, &some_desired_state(), SLEEP);
        assert_eq!(schedule.due(), at(6000));
        schedule.trigger_after(at(2000), COALESCE_DELAY);
        schedule.trigger_after(at(2100), COALESCE_DELAY);
        assert_eq!(schedule.due(), at(2200));
        assert_eq!(schedule.begin(at(2200)), Trigger::Event);
        assert_eq!(schedule.due(), at(6000), "an event does not move the timer");
    }

    #[test]
    fn failures_are_retried_more_and_more_slowly_unless_the_desired_state_changes() {
        let mut schedule = Schedule::new(at(0));
        let mut delays = Vec::new();
        let mut now = at(0);
        for _ in 0..7 {
            schedule.begin(now);
            schedule.end(now, &RoundResult::Failed, &some_desired_state(), SLEEP);
            delays.push(schedule.due().since(now).as_millis());
            now = schedule.due();
        }
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000]);
        let mut schedule = Schedule::new(at(0));
        schedule.begin(at(0));
        schedule.end(at(0), &RoundResult::Failed, &some_desired_state(), SLEEP);
        schedule.trigger_after(at(10), Duration::ZERO);
        assert_eq!(schedule.begin(at(10)), Trigger::EventUnless(some_desired_state()));
        schedule.end(at(11), &RoundResult::Skipped, &some_desired_state(), SLEEP);
        assert_eq!(schedule.due(), at(200));
    }

    /// Rule: keeper 3.2.3.
    #[test]
    fn a_failed_ordered_stop_is_retried_every_second_at_least() {
        let order = AcceptedOrder {
            db: "A".into(),
            switchover: "s1".into(),
        };
        let ordered = Desired {
            cluster: None,
            goal: Goal::Stop(StopReason::Ordered(order)),
        };
        let mut schedule = Schedule::new(at(0));
        let mut delays = Vec::new();
        for sleep in [SLEEP, SLEEP, SLEEP, SLEEP, SLEEP, SLEEP / 10] {
            schedule.begin(at(0));
            schedule.end(at(0), &RoundResult::Failed, &ordered, sleep);
            delays.push(schedule.due().since(at(0)).as_millis());
        }
        assert_eq!(delays, [200, 400, 800, 1000, 1000, 500]);
    }

    #[test]
    fn no_duration_and_no_count_is_too_large() {
        for sleep in [Duration::ZERO, Duration::from_nanos(i64::MAX as u64), Duration::MAX] {
            for count in [0, 1, 31, 32, 63, u32::MAX - 1, u32::MAX] {
                assert!(delay(count, sleep) <= sleep);
                let mut schedule = Schedule::new(at(0));
                (schedule.failures, schedule.quick_ends) = (count, count);
                schedule.server_started(at(0));
                schedule.server_ended(at(1), sleep);
                schedule.end(
                    Boottime::from_nanos(u64::MAX),
                    &RoundResult::Failed,
                    &some_desired_state(),
                    sleep,
                );
                schedule.end(at(1), &RoundResult::Done, &some_desired_state(), sleep);
                schedule.trigger_after(at(1), Duration::MAX);
            }
        }
    }

    #[test]
    fn a_killed_server_is_started_at_once_but_not_one_that_never_lasts() {
        let mut schedule = Schedule::new(at(0));
        schedule.end(at(0), &RoundResult::Done, &some_desired_state(), SLEEP);
        let mut delay = |started, ended| {
            schedule.server_started(at(started));
            schedule.server_ended(at(ended), SLEEP);
            let delay = schedule.due().since(at(ended)).as_millis();
            schedule.begin(at(ended));
            delay
        };
        assert_eq!(delay(0, 60), 0);
        assert_eq!(delay(100, 200), 200);
        assert_eq!(delay(500, 600), 400);
        assert_eq!(delay(1100, 3600), 0, "it lasted");
    }
}
