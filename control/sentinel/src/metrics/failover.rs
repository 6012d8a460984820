//! The metrics of elections: their reasons, and how long the phases of the last failover took. Decisions are left to `plan`;
//! they are read from its notes.

use std::time::Duration;

use base::clock::Boottime;
use daemon::telemetry::unix_seconds;
use model::{ClusterData, DbUid, SwitchoverState};
use plan::{Note, Plan};

use super::table::{CHANGE_PHASE, ELECTIONS, MASTER_CHANGE};

/// Follows the changes of master that this sentinel sees and makes.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailoverTimer {
    /// The master of the last cluster data.
    master: Option<DbUid>,
    /// When the current master was first found not to be usable.
    detected: Option<Boottime>,
    change: Option<Change>,
}

/// An election whose master is not announced yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    master: DbUid,
    elected: Boottime,
    promoted: Option<Boottime>,
}

/// A phase of a failover that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PhaseEnd {
    phase: &'static str,
    took: Duration,
}

impl FailoverTimer {
    /// Records cluster data as they were read, by a leader or not, at this time and wall-clock time.
    pub(crate) fn record_read(&mut self, data: &ClusterData, now: Boottime, wall: i128) {
        if self.finds_other_master(data) {
            MASTER_CHANGE.gauge_of(&[]).set(unix_seconds(wall));
        }
        set_phase(self.promoted(data, now));
    }

    /// Records a plan of the leader that was written or needed no write: what it noted about the master, and decided.
    pub(crate) fn record_plan(&mut self, plan: &Plan, now: Boottime, wall: i128) {
        let notes = &plan.notes;
        if let Some(reason) = election_reason(notes) {
            ELECTIONS.counter_of(&[reason]).increment(1);
        }
        set_phase(self.elected(notes, is_being_stopped(plan), now));
        // One plan may find that the new master has taken over, and announce it.
        self.record_read(&plan.next, now, wall);
        set_phase(self.announced(notes, now));
    }

    /// Forgets what only a leader can measure.
    pub(crate) fn end_leadership(&mut self) {
        (self.detected, self.change) = (None, None);
    }

    fn finds_other_master(&mut self, data: &ClusterData) -> bool {
        let master = data.master_uid().filter(|uid| !uid.as_str().is_empty()).cloned();
        let is_other = self.master.is_some() && master.is_some() && self.master != master;
        self.master = master.or(self.master.take());
        is_other
    }

    /// `is_being_stopped`: a switchover keeps clients from the master.
    fn elected(&mut self, notes: &[Note], is_being_stopped: bool, now: Boottime) -> Option<PhaseEnd> {
        if is_being_stopped || unusable_reason(notes).is_some() {
            self.detected.get_or_insert(now);
        } else {
            self.detected = None;
        }
        let elected = notes.iter().find_map(|note| match note {
            Note::Electing { db, .. } => Some(db),
            _ => None,
        })?;
        self.change = Some(Change {
            master: elected.clone(),
            elected: now,
            promoted: None,
        });
        let detected = self.detected.take().unwrap_or(now);
        Some(PhaseEnd {
            phase: "election",
            took: now.since(detected),
        })
    }

    /// The new master has taken over once its keeper reports it healthy with the generation that made it one.
    fn promoted(&mut self, data: &ClusterData, now: Boottime) -> Option<PhaseEnd> {
        let change = self.change.as_mut().filter(|change| change.promoted.is_none())?;
        let db = data.dbs().get(&change.master)?;
        if !(db.status.healthy && db.is_converged()) {
            return None;
        }
        change.promoted = Some(now);
        Some(PhaseEnd {
            phase: "promotion",
            took: now.since(change.elected),
        })
    }

    fn announced(&mut self, notes: &[Note], now: Boottime) -> Option<PhaseEnd> {
        let is_announced = |note: &Note| matches!(note, Note::MasterAnnounced { db, .. } if Some(db) == self.change.as_ref().map(|change| &change.master));
        if !notes.iter().any(is_announced) {
            return None;
        }
        let change = self.change.take()?;
        Some(PhaseEnd {
            phase: "announcement",
            took: now.since(change.promoted.unwrap_or(now)),
        })
    }
}

/// Returns whether a switchover has closed the proxies and not yet elected.
fn is_being_stopped(plan: &Plan) -> bool {
    let state = plan.switchover.as_ref().map(|report| &report.state);
    state.is_some_and(|state| {
        use SwitchoverState::{ClosingProxies, Receiving, Stopping};
        matches!(state, ClosingProxies | Stopping | Receiving)
    })
}

fn set_phase(ended: Option<PhaseEnd>) {
    if let Some(PhaseEnd { phase, took }) = ended {
        CHANGE_PHASE.gauge_of(&[phase]).set(took.as_secs_f64());
    }
}

/// Returns the reason of the election in this plan, if there is one.
fn election_reason(notes: &[Note]) -> Option<&'static str> {
    let is_election = notes.iter().any(|note| matches!(note, Note::Electing { .. }));
    unusable_reason(notes).filter(|_| is_election)
}

/// Returns why the master is not usable; a failure outweighs the rest.
fn unusable_reason(notes: &[Note]) -> Option<&'static str> {
    let has = |is: fn(&Note) -> bool| notes.iter().any(is);
    if has(|note| matches!(note, Note::MasterFailed { .. })) {
        return Some("failed");
    }
    if has(|note| matches!(note, Note::MasterNotConverged { .. })) {
        return Some("not_converged");
    }
    if has(|note| matches!(note, Note::MasterLeft { .. } | Note::MasterLeftUnclean { .. })) {
        return Some("left");
    }
    has(|note| matches!(note, Note::MasterStoppedByOrder { .. })).then_some("switchover")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Lsn;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn failed() -> Note {
        Note::MasterFailed {
            db: "a".into(),
            keeper: "k".into(),
        }
    }

    /// Both kinds of a stop by a leaving keeper count, also that of a synchronous master (synchronous SY-12).
    #[test]
    fn an_election_after_a_stop_by_a_leaving_keeper_has_a_reason() {
        let (db, keeper) = (|| "a".into(), || "k".into());
        let clean = Note::MasterLeft {
            db: db(),
            keeper: keeper(),
            lsn: Lsn(1),
        };
        let unclean = Note::MasterLeftUnclean {
            db: db(),
            keeper: keeper(),
        };
        for left in [clean, unclean] {
            assert_eq!(election_reason(&[left, electing()]), Some("left"));
        }
    }

    fn electing() -> Note {
        Note::Electing {
            db: "b".into(),
            keeper: "k".into(),
            from: "a".into(),
            at: Lsn(1),
        }
    }

    fn announced(db: &str) -> Note {
        Note::MasterAnnounced {
            db: db.into(),
            generation: 2,
        }
    }

    /// Cluster data with this master, whose db has this generation and status.
    fn data(master: &str, current: i64, healthy: bool) -> ClusterData {
        let json = format!(
            r#"{{"formatVersion":1,"cluster":{{"uid":"c","generation":1,"spec":{{}},"status":{{"phase":"normal","master":"{master}"}}}},
            "keepers":{{}},"dbs":{{"b":{{"uid":"b","generation":2,"spec":{{"keeperUID":"k","role":"master"}},
            "status":{{"healthy":{healthy},"currentGeneration":{current}}}}}}},"proxy":{{"generation":1,"spec":{{}},"status":{{}}}}}}"#
        );
        model::from_slice(json.as_bytes()).unwrap()
    }

    #[test]
    fn phases_run_from_the_first_sign_of_a_failure_to_the_announcement() {
        let mut timer = FailoverTimer::default();
        let ended = |ended: Option<PhaseEnd>| ended.map(|ended| (ended.phase, ended.took.as_secs()));
        assert_eq!(ended(timer.elected(&[], false, at(1))), None);
        assert_eq!(ended(timer.elected(&[failed()], false, at(10))), None);
        assert_eq!(ended(timer.elected(&[failed()], false, at(11))), None);
        assert_eq!(
            ended(timer.elected(&[failed(), electing()], false, at(13))),
            Some(("election", 3))
        );
        assert_eq!(
            ended(timer.promoted(&data("b", 1, true), at(14))),
            None,
            "not converged"
        );
        assert_eq!(ended(timer.promoted(&data("b", 2, false), at(14))), None, "not healthy");
        assert_eq!(
            ended(timer.promoted(&data("b", 2, true), at(15))),
            Some(("promotion", 2))
        );
        assert_eq!(ended(timer.promoted(&data("b", 2, true), at(16))), None, "once");
        assert_eq!(ended(timer.announced(&[announced("a")], at(16))), None);
        assert_eq!(
            ended(timer.announced(&[announced("b")], at(19))),
            Some(("announcement", 4))
        );
        assert_eq!(ended(timer.announced(&[announced("b")], at(20))), None, "once");
    }

    #[test]
    fn the_time_of_a_switchover_runs_from_the_closing_of_the_proxies() {
        let mut timer = FailoverTimer::default();
        assert_eq!(timer.elected(&[], false, at(9)), None);
        assert_eq!(timer.elected(&[], true, at(10)), None);
        assert_eq!(timer.elected(&[], true, at(12)), None);
        let stopped = Note::MasterStoppedByOrder {
            db: "a".into(),
            keeper: "k".into(),
            lsn: Lsn(1),
        };
        let notes = [stopped, electing()];
        assert_eq!(timer.elected(&notes, false, at(13)).unwrap().took.as_secs(), 3);
        assert_eq!(election_reason(&notes), Some("switchover"));
    }

    #[test]
    fn a_master_that_recovers_is_detected_anew() {
        let mut timer = FailoverTimer::default();
        for (notes, second) in [(vec![failed()], 10), (vec![], 11), (vec![failed()], 20)] {
            assert_eq!(timer.elected(&notes, false, at(second)), None);
        }
        assert_eq!(
            timer
                .elected(&[failed(), electing()], false, at(21))
                .unwrap()
                .took
                .as_secs(),
            1
        );
    }

    #[test]
    fn the_first_master_that_is_seen_is_no_failover() {
        let mut timer = FailoverTimer::default();
        assert!(!timer.finds_other_master(&data("", 1, true)));
        assert!(!timer.finds_other_master(&data("a", 1, true)));
        assert!(!timer.finds_other_master(&data("a", 1, true)));
        assert!(timer.finds_other_master(&data("b", 1, true)));
    }

    #[test]
    fn an_election_has_one_reason() {
        assert_eq!(election_reason(&[failed()]), None);
        assert_eq!(election_reason(&[failed(), electing()]), Some("failed"));
        let left = Note::MasterLeft {
            db: "a".into(),
            keeper: "k".into(),
            lsn: Lsn(1),
        };
        assert_eq!(election_reason(&[left.clone(), electing()]), Some("left"));
        assert_eq!(election_reason(&[failed(), left, electing()]), Some("failed"));
    }
}
