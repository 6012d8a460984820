//! How soon after an election another one may follow. Whether one is needed is left to `elect`.

use std::time::Duration;

use crate::clock::Boottime;
use crate::model::{DbUid, Spec};

/// The longest pause between two elections.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// An election this long after the last one begins the count anew. Longer than the longest pause, so that a cluster that
/// elects as often as it may never gets there.
const CALM: Duration = Duration::from_secs(1_200);
/// What a convergenceTimeout of zero, which means no limit, counts as here.
const CONVERGENCE_UNLIMITED: Duration = Duration::from_secs(30);

/// The last election that this leader made, or found unfinished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Election {
    /// The db that was elected.
    pub(crate) master: DbUid,
    /// When it was elected.
    pub(crate) at: Boottime,
    /// Elections in a row that replaced a master whose keeper was there.
    pub(crate) doubtful: u32,
}

/// Why a master is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its keeper has been silent for failInterval, was failed by hand, or is leaving.
    Gone,
    /// Its keeper is there and reports it unhealthy, or it does not converge.
    Doubtful,
}

impl Election {
    /// The election of `master`, after `last`.
    pub(crate) fn after(last: Option<&Self>, master: &DbUid, loss: Loss, now: Boottime) -> Self {
        let before = last
            .filter(|last| now.since(last.at) < CALM)
            .map_or(0, |last| last.doubtful);
        Self {
            master: master.clone(),
            at: now,
            doubtful: match loss {
                Loss::Gone => before,
                Loss::Doubtful => before.saturating_add(1),
            },
        }
    }

    /// Until when a master that is only in doubt is not replaced.
    ///
    /// The elected db has its convergence time, but not less than failInterval. When elections in a row have not helped,
    /// the next one is unlikely to: each doubles the pause, whether or not its master served for a while.
    pub(crate) fn pause_ends(&self, spec: &Spec, served: bool) -> Boottime {
        let convergence = match spec.convergence_timeout {
            Duration::ZERO => CONVERGENCE_UNLIMITED,
            limit => limit,
        };
        let once = convergence.max(spec.fail_interval);
        let pause = match self.doubtful {
            0 | 1 if served => Duration::ZERO,
            0 | 1 => once,
            more => once
                .saturating_mul(2_u32.saturating_pow(more - 1))
                .min(PAUSE_MAX.max(once)),
        };
        self.at + pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_that_do_not_help_follow_each_other_ever_more_slowly() {
        let (spec, start) = (Spec::default(), Boottime::from_nanos(1));
        let mut election = Election::after(None, &DbUid::from("db1"), Loss::Doubtful, start);
        assert_eq!(election.pause_ends(&spec, true), start, "it served");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let end = election.pause_ends(&spec, false);
            pauses.push(end.since(election.at).as_secs());
            election = Election::after(Some(&election), &DbUid::from("db1"), Loss::Doubtful, end);
        }
        assert_eq!(pauses, [30, 60, 120, 240, 480, 600, 600, 600]);
        let calm = Election::after(Some(&election), &DbUid::from("db1"), Loss::Doubtful, election.at + CALM);
        assert_eq!(calm.doubtful, 1);
    }

    #[test]
    fn masters_that_are_gone_do_not_count() {
        let (spec, mut now) = (Spec::default(), Boottime::from_nanos(1));
        let mut election = None;
        for _ in 0..20 {
            election = Some(Election::after(election.as_ref(), &DbUid::from("db1"), Loss::Gone, now));
            now = now + Duration::from_secs(1);
        }
        let election = election.unwrap();
        assert_eq!(election.pause_ends(&spec, true), election.at);
        assert_eq!(election.pause_ends(&spec, false), election.at + Duration::from_secs(30));
    }

    #[test]
    fn the_pause_is_never_below_fail_interval_and_bounded_for_any_spec() {
        let spec = Spec {
            convergence_timeout: Duration::ZERO,
            fail_interval: Duration::from_secs(40),
            ..Spec::default()
        };
        let election = |doubtful| Election {
            master: DbUid::from("db1"),
            at: Boottime::default(),
            doubtful,
        };
        let pause = |doubtful| election(doubtful).pause_ends(&spec, false).since(Boottime::default());
        assert_eq!(pause(1), Duration::from_secs(40));
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
