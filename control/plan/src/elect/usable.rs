//! Whether the master is still usable (sentinel N-4, extensions; synchronous SY-12). Which db replaces it is left
//! to `eligible` and `choose`.

use crate::classify::{Convergence, convergence};
use crate::note::Note;
use crate::view::PlanView;
use base::clock::Boottime;
use model::{Db, DbUid, Lsn};

/// The end of the WAL of a master that was stopped cleanly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CleanEnd {
    pub(crate) lsn: Lsn,
    pub(crate) timeline: u64,
}

/// The state of the master, as far as an election depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MasterState {
    /// It serves, or its replacement is delayed.
    Usable,
    /// Its keeper stopped it, published that at this time, and left (extensions ). Without an end of the WAL it
    /// was not stopped cleanly, which counts under synchronous replication only (synchronous SY-12).
    Left { end: Option<CleanEnd>, since: Boottime },
    /// It was stopped in order on the order of a switchover (extensions X-2).
    StoppedByOrder { end: CleanEnd },
    /// It is unhealthy, or did not converge in time. It may have been stopped by a leaving keeper before.
    Failed { end: Option<CleanEnd> },
}

impl MasterState {
    /// Returns where the WAL of the master ends, if it was stopped cleanly by a leaving keeper.
    pub(crate) fn wal_end(self) -> Option<CleanEnd> {
        match self {
            Self::Usable => None,
            Self::StoppedByOrder { end } => Some(end),
            Self::Left { end, .. } | Self::Failed { end } => end,
        }
    }

    pub(crate) fn has_failed(self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// The state of the master, the reasons for it, and when it changes without another report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MasterAssessment {
    pub(crate) state: MasterState,
    pub(crate) notes: Vec<Note>,
    pub(crate) deadline: Option<Boottime>,
}

/// Returns the state of the master. A master that is only in doubt (sentinel N-4) counts as usable while another check or
/// the election backoff delays its replacement.
pub(crate) fn assess(view: &PlanView<'_>, master: &DbUid, db: &Db) -> MasterAssessment {
    let assessment = assess_without_delays(view, master, db);
    // Neither delay makes a keeper that is gone report again.
    if !assessment.state.has_failed() || view.is_keeper_gone(db) {
        return assessment;
    }
    match reason_to_wait(view, master, db) {
        Some((note, deadline)) => {
            let mut notes = assessment.notes;
            notes.push(note);
            MasterAssessment {
                state: MasterState::Usable,
                notes,
                deadline: [assessment.deadline, deadline].into_iter().flatten().min(),
            }
        }
        None => assessment,
    }
}

/// Returns why a failed master whose keeper is running is not replaced yet, and until when that holds.
fn reason_to_wait(view: &PlanView<'_>, master: &DbUid, db: &Db) -> Option<(Note, Option<Boottime>)> {
    let (db_uid, keeper) = (master.clone(), db.spec.keeper_uid.clone());
    // A first run uses the status that another sentinel recorded, perhaps long ago; the next round uses the reports.
    if view.first_run && view.may_be_healthy(master, db) {
        return Some((Note::MasterSeemsWell { db: db_uid, keeper }, None));
    }
    let was_reported_healthy = view.memory.reported_healthy.as_ref() == Some(master);
    let last = view.memory.election.as_ref();
    let last = last.filter(|election| election.master == *master)?;
    let end = last.backoff_end(view.spec, was_reported_healthy);
    let why = Note::ElectionDelayed {
        db: db_uid,
        keeper,
        elections: last.consecutive,
    };
    (view.now <= end).then_some((why, Some(end)))
}

/// Returns the state of the master without regard to delays.
fn assess_without_delays(view: &PlanView<'_>, master: &DbUid, db: &Db) -> MasterAssessment {
    let (db_uid, keeper) = (master.clone(), db.spec.keeper_uid.clone());
    let limit = view.spec.convergence_timeout;
    let (convergence, deadline) = convergence(master, db, limit, view.memory, view.now);
    let (mut failed, mut notes) = (false, Vec::new());
    if !db.status.healthy {
        notes.push(Note::MasterFailed {
            db: db_uid.clone(),
            keeper: keeper.clone(),
        });
        failed = true;
    }
    if convergence == Convergence::Failed {
        let (db_uid, keeper) = (db_uid.clone(), keeper.clone());
        // A master that was reported healthy is being reconfigured, not promoted, so it is only slow
        // (sentinel W-10).
        let is_only_slow = db.status.healthy && view.memory.reported_healthy.as_ref() == Some(master);
        if is_only_slow {
            notes.push(Note::MasterSlow { db: db_uid, keeper });
        } else {
            notes.push(Note::MasterNotConverged { db: db_uid, keeper });
            failed = true;
        }
    }
    let stop = stop_by_leaving_keeper(view, master, db);
    if let Some((end, _)) = stop {
        notes.push(match end {
            Some(CleanEnd { lsn, .. }) => Note::MasterLeft {
                db: db_uid,
                keeper,
                lsn,
            },
            None => Note::MasterLeftUnclean { db: db_uid, keeper },
        });
    }
    // A master that counts as failed is replaced by the rules for failures, even if it also left.
    let state = match stop {
        _ if failed => MasterState::Failed {
            end: stop.and_then(|(end, _)| end),
        },
        Some((end, since)) => MasterState::Left { end, since },
        None => MasterState::Usable,
    };
    MasterAssessment { state, notes, deadline }
}

/// Returns where the WAL of the master ends and when that was published, if its keeper left in an orderly shutdown with
/// the boot UUID that the cluster data holds. Another process of the keeper may have run it otherwise (extensions
///
///
/// An unclean stop has no such end. With asynchronous replication it does not count. With synchronous replication a
/// standby that was in sync has every commit that was acknowledged, however the master stopped (synchronous SY-12).
fn stop_by_leaving_keeper(view: &PlanView<'_>, master: &DbUid, db: &Db) -> Option<(Option<CleanEnd>, Boottime)> {
    let report = view.report_of(db).filter(|report| report.key_exists)?;
    let info = &report.info;
    let boot = &view.before.keepers().get(&db.spec.keeper_uid)?.status.boot_uuid;
    let stopped = info.stopped.as_ref()?;
    let of_master = info.postgres_state.as_ref().is_none_or(|state| state.uid == *master);
    let is_orderly = info.leaving && info.boot_uuid == *boot && of_master;
    let end = stopped.lsn.filter(|_| stopped.clean).map(|lsn| CleanEnd {
        lsn,
        timeline: stopped.timeline_id,
    });
    let counts = end.is_some() || (db.spec.synchronous_replication && !stopped.clean);
    (is_orderly && counts).then_some((end, report.since))
}
