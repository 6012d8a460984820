//! Delays an election after previous ones, so that elections that do not help become less frequent. Whether one is
//! needed is left to `elect`.

use std::time::Duration;

use base::clock::Boottime;
use model::{DbUid, Spec};

/// Longest delay between two elections.
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// After this time without an election the count restarts. It is longer than the longest delay, so that a cluster with
/// continuous elections never reaches it.
const RESET_AFTER: Duration = Duration::from_secs(1_200);
/// Replaces a convergenceTimeout of zero, which means no limit.
const CONVERGENCE_UNLIMITED: Duration = Duration::from_secs(30);

/// The last election that this leader made, or found unfinished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ElectionRecord {
    /// The db that was elected.
    pub(crate) master: DbUid,
    /// When it was elected.
    pub(crate) at: Boottime,
    /// Consecutive elections that replaced a master whose keeper was running.
    pub(crate) consecutive: u32,
}

/// Why a master is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplaceReason {
    /// Its keeper was silent for failInterval, was marked as failed, or is leaving.
    KeeperGone,
    /// Its keeper is running and reports it unhealthy, or it does not converge.
    MasterUnhealthy,
}

impl ElectionRecord {
    /// Returns the record of the election of `master` after `last`.
    pub(crate) fn after(last: Option<&Self>, master: &DbUid, reason: ReplaceReason, now: Boottime) -> Self {
        let previous = last
            .filter(|last| now.since(last.at) < RESET_AFTER)
            .map_or(0, |last| last.consecutive);
        Self {
            master: master.clone(),
            at: now,
            consecutive: match reason {
                ReplaceReason::KeeperGone => previous,
                ReplaceReason::MasterUnhealthy => previous.saturating_add(1),
            },
        }
    }

    /// Returns until when a master whose keeper is running is not replaced.
    ///
    /// The elected db gets its convergence time, but at least failInterval. After consecutive elections that did not
    /// help, each doubles the delay, whether or not its master was reported healthy for a while.
    pub(crate) fn backoff_end(&self, spec: &Spec, was_reported_healthy: bool) -> Boottime {
        let convergence = match spec.convergence_timeout {
            Duration::ZERO => CONVERGENCE_UNLIMITED,
            limit => limit,
        };
        let base = convergence.max(spec.fail_interval);
        let delay = match self.consecutive {
            // A db that was reported healthy was promoted in time, and has failed since: it needs no more time to converge.
            0 | 1 if was_reported_healthy => Duration::ZERO,
            0 | 1 => base,
            count => base
                .saturating_mul(2_u32.saturating_pow(count - 1))
                .min(BACKOFF_MAX.max(base)),
        };
        self.at + delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_elections_double_the_delay_up_to_a_limit() {
        let (spec, start) = (Spec::default(), Boottime::from_nanos(1));
        let mut election = ElectionRecord::after(None, &DbUid::from("db1"), ReplaceReason::MasterUnhealthy, start);
        assert_eq!(election.backoff_end(&spec, true), start, "it was reported healthy");
        let mut delays = Vec::new();
        for _ in 0..8 {
            let end = election.backoff_end(&spec, false);
            delays.push(end.since(election.at).as_secs());
            election = ElectionRecord::after(
                Some(&election),
                &DbUid::from("db1"),
                ReplaceReason::MasterUnhealthy,
                end,
            );
        }
        assert_eq!(delays, [30, 60, 120, 240, 480, 600, 600, 600]);
        let after_reset = ElectionRecord::after(
            Some(&election),
            &DbUid::from("db1"),
            ReplaceReason::MasterUnhealthy,
            election.at + RESET_AFTER,
        );
        assert_eq!(after_reset.consecutive, 1);
    }

    #[test]
    fn elections_for_a_failed_keeper_do_not_count() {
        let (spec, mut now) = (Spec::default(), Boottime::from_nanos(1));
        let mut election = None;
        for _ in 0..20 {
            election = Some(ElectionRecord::after(
                election.as_ref(),
                &DbUid::from("db1"),
                ReplaceReason::KeeperGone,
                now,
            ));
            now = now + Duration::from_secs(1);
        }
        let election = election.unwrap();
        assert_eq!(election.backoff_end(&spec, true), election.at);
        assert_eq!(
            election.backoff_end(&spec, false),
            election.at + Duration::from_secs(30)
        );
    }

    #[test]
    fn the_delay_is_at_least_fail_interval_and_bounded_for_any_spec() {
        let spec = Spec {
            convergence_timeout: Duration::ZERO,
            fail_interval: Duration::from_secs(40),
            ..Spec::default()
        };
        let election = |consecutive| ElectionRecord {
            master: DbUid::from("db1"),
            at: Boottime::default(),
            consecutive,
        };
        let delay = |consecutive| {
            election(consecutive)
                .backoff_end(&spec, false)
                .since(Boottime::default())
        };
        assert_eq!(delay(1), Duration::from_secs(40));
        assert_eq!(delay(u32::MAX), BACKOFF_MAX);
    }
}
