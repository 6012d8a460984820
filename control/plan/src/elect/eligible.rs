//! Which dbs could replace the master, and why the others cannot (sentinel C-10, C-12, extensions; synchronous
//! SY-1, SY-2, SY-9). Which of them is chosen is left to `choose`.

use crate::classify::{DbClass, Validity, validity};
use crate::condition::Condition;
use crate::elect::usable::{CleanEnd, MasterState};
use crate::in_sync;
use crate::note::Note;
use crate::report::KeeperReport;
use crate::view::{Assessment, PlanView};
use base::clock::Boottime;
use model::{Db, DbUid, Lsn};

/// Maximum bytes of WAL that a master may have written after its promotion to be given up for its predecessor, however
/// large maxStandbyLag is (sentinel C-12).
const DISCARDED_BYTES_MAX: i128 = 64 << 10;

/// The master that is to be replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplacedMaster<'a> {
    pub(crate) uid: &'a DbUid,
    pub(crate) db: &'a Db,
    pub(crate) state: MasterState,
}

impl ReplacedMaster<'_> {
    /// Returns whether only standbys that were in sync may replace it (synchronous SY-1). Its own flag decides: the
    /// spec of the cluster may have changed since its commits began or ceased to wait (sentinel N-6).
    pub(crate) fn is_synchronous(&self) -> bool {
        self.db.spec.synchronous_replication
    }
}

/// A db that could be elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) db: DbUid,
    pub(crate) at: Lsn,
    pub(crate) quality: ReportQuality,
    /// It has received all that the master wrote before a clean stop.
    pub(crate) is_complete: bool,
    pub(crate) kind: CandidateKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CandidateKind {
    /// A standby, or another db of master type that runs and is good.
    Regular,
    /// A former master that is kept. The proxies have to be closed first, and its info must not change (sentinel C-12,
    /// extensions ).
    Fallback(Condition),
    /// A db that an operator asked for, on these conditions (synchronous SY-20).
    Requested {
        /// Its keeper's info is unchanged.
        info: Condition,
        /// So is the request, which is then deleted.
        request: Condition,
    },
}

/// How far the last report of a candidate can be relied upon, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReportQuality {
    /// Fresh, and not reported unhealthy.
    Fresh,
    /// Old: the position may have changed since.
    Stale,
    /// Its own keeper reports it unhealthy.
    ReportedUnhealthy,
}

/// Why a db cannot be elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ineligible {
    /// It is a former master, and the failed one was not announced yet: it can only be a fallback.
    FormerMaster,
    /// It or its keeper is unhealthy, or it did not converge in time.
    Failed,
    /// It has not converged yet.
    Converging,
    /// Its first copy is not complete.
    NotCopied,
    /// Its data are of another cluster, or of another branch than the master's.
    Invalid,
    /// It is on another timeline than the master.
    OtherTimeline,
    /// Its keeper is leaving, or its instance is stopped.
    Leaving,
    /// It lags by more than maxStandbyLag.
    TooFarBehind { at: Lsn, master: Lsn },
    /// Its keeper has `--can-be-master=false`.
    MayNotBeMaster,
    /// It lacks WAL that the master wrote before its clean stop.
    MissingWal { at: Lsn, lsn: Lsn },
    /// It is not known to have been in sync with a synchronous master.
    NotInSync,
    /// A former master whose keeper is not running, or is leaving.
    KeeperNotRunning,
    /// A former master that neither runs well nor has stopped.
    NotRunning,
    /// A former master that stopped on another timeline than the recorded position is about.
    StoppedOnOtherTimeline,
    /// A former master whose data are incomplete, of another cluster, or of another branch.
    OtherData,
    /// A former master that lacks what clients may have written since.
    ClientsMayHaveWritten,
}

impl Ineligible {
    /// Returns the note that is logged.
    pub(crate) fn note(self, uid: &DbUid, db: &Db) -> Note {
        let (uid, keeper) = (uid.clone(), db.spec.keeper_uid.clone());
        let reason = match self {
            Self::Leaving => return Note::CandidateLeaving { db: uid, keeper },
            Self::TooFarBehind { at, master } => return Note::TooFarBehind { db: uid, at, master },
            Self::MayNotBeMaster => return Note::MayNotBeMaster { db: uid, keeper },
            Self::MissingWal { at, lsn } => return Note::MissingWal { db: uid, at, lsn },
            Self::FormerMaster => "it is no standby, and the failed master was not announced",
            Self::Failed => "it or its keeper is unhealthy, or it has not converged in time",
            Self::Converging => "it has not converged yet",
            Self::NotCopied => "its first copy is not complete",
            Self::Invalid => "its data are of another cluster or another branch of it",
            Self::OtherTimeline => "it is on another timeline than the master",
            Self::NotInSync => "it is not known to have been in sync with the master",
            Self::KeeperNotRunning => "it is a former master, and its keeper is not running or is leaving",
            Self::NotRunning => "it is a former master that neither runs nor was stopped by its keeper",
            Self::StoppedOnOtherTimeline => {
                "it is a former master that stopped on another timeline than it reported before"
            }
            Self::OtherData => "it is a former master with incomplete data, or data of another cluster or branch",
            Self::ClientsMayHaveWritten => {
                "it is a former master, and clients may have written to the failed one since"
            }
        };
        Note::NotEligible {
            db: uid,
            keeper,
            reason,
        }
    }
}

/// Returns whether a db is a regular candidate (sentinel C-10, C-12), and when that changes without another report.
pub(crate) fn regular(
    view: &PlanView<'_>,
    uid: &DbUid,
    db: &Db,
    replaced: ReplacedMaster<'_>,
) -> (Result<Candidate, Ineligible>, Option<Boottime>) {
    // Before the failed master was announced, a former master is considered only as a fallback (extensions ).
    if !view.is_announced(replaced.uid) && !db.is_standby_type() {
        return (Err(Ineligible::FormerMaster), None);
    }
    let assessment = view.assess(uid, db, replaced.db);
    let answer = if assessment.is_good() {
        reason_against(view, uid, db, replaced).map_or_else(|| Ok(candidate(view, uid, db, replaced)), Err)
    } else {
        Err(reason_not_good(&assessment))
    };
    (answer, assessment.deadline)
}

/// Returns why a db that is not good, or not valid, cannot be elected.
fn reason_not_good(assessment: &Assessment) -> Ineligible {
    match (&assessment.validity, assessment.class) {
        (Validity::Invalid(_), _) => Ineligible::Invalid,
        (_, DbClass::Failed) => Ineligible::Failed,
        (Validity::Unknown, _) => Ineligible::NotCopied,
        (Validity::Valid, DbClass::Converging | DbClass::Good) => Ineligible::Converging,
    }
}

fn candidate(view: &PlanView<'_>, uid: &DbUid, db: &Db, replaced: ReplacedMaster<'_>) -> Candidate {
    Candidate {
        db: uid.clone(),
        at: db.status.xlog_pos,
        quality: report_quality(view, uid, db),
        is_complete: replaced.state.wal_end().is_some_and(|end| has_all(db, end)),
        kind: CandidateKind::Regular,
    }
}

/// Returns whether a standby has received everything up to the end of the master's WAL (extensions ).
fn has_all(db: &Db, end: CleanEnd) -> bool {
    db.status.xlog_pos >= end.lsn && db.status.timeline_id == end.timeline && db.is_standby_type()
}

/// Returns the first reason against a db that is good.
fn reason_against(view: &PlanView<'_>, uid: &DbUid, db: &Db, replaced: ReplacedMaster<'_>) -> Option<Ineligible> {
    if db.status.timeline_id != replaced.db.status.timeline_id {
        return Some(Ineligible::OtherTimeline);
    }
    if view
        .report_of(db)
        .is_some_and(|report| report.info.is_leaving_or_stopped())
    {
        return Some(Ineligible::Leaving);
    }
    let lacking = if replaced.is_synchronous() {
        reason_not_in_sync(uid, db, replaced)
    } else {
        reason_behind(view, db, replaced)
    };
    // A db that was a master already may be one again, whatever its keeper's --can-be-master is (sentinel C-12).
    let keeper = view.keeper_of(db);
    let may_be_master = keeper.is_none_or(|keeper| keeper.status.can_be_master != Some(false));
    let forbidden = (db.is_standby_type() && !may_be_master).then_some(Ineligible::MayNotBeMaster);
    lacking.or(forbidden)
}

/// Returns why a db may lack too much of what an asynchronous master wrote: more than maxStandbyLag after a failure,
/// anything after a clean stop.
fn reason_behind(view: &PlanView<'_>, db: &Db, replaced: ReplacedMaster<'_>) -> Option<Ineligible> {
    let at = db.status.xlog_pos;
    let too_far = reason_too_far_behind(view, at, replaced.db.status.xlog_pos);
    if too_far.is_some() {
        return too_far;
    }
    match replaced.state {
        MasterState::Left { end: Some(end), .. } | MasterState::StoppedByOrder { end } if !has_all(db, end) => {
            Some(Ineligible::MissingWal { at, lsn: end.lsn })
        }
        MasterState::Left { .. }
        | MasterState::StoppedByOrder { .. }
        | MasterState::Failed { .. }
        | MasterState::Usable => None,
    }
}

/// Returns the reason against a position that is more than maxStandbyLag behind the master's recorded one. One ahead of it passes, and so
/// does one exactly as far behind as allowed (sentinel C-10).
fn reason_too_far_behind(view: &PlanView<'_>, at: Lsn, master: Lsn) -> Option<Ineligible> {
    let is_too_far = at.bytes_behind(master) > i128::from(view.spec.max_standby_lag);
    is_too_far.then_some(Ineligible::TooFarBehind { at, master })
}

/// Returns why a db may lack a commit that a synchronous master acknowledged: it was not known to be in sync, in the
/// document that the write depends on (synchronous SY-1). After a clean stop one that has received everything will do
/// as well (synchronous SY-2). How far it is behind the recorded position proves nothing in either direction.
fn reason_not_in_sync(uid: &DbUid, db: &Db, replaced: ReplacedMaster<'_>) -> Option<Ineligible> {
    let end = replaced.state.wal_end();
    if in_sync::electable(replaced.db).contains(uid) || end.is_some_and(|end| has_all(db, end)) {
        return None;
    }
    Some(end.map_or(Ineligible::NotInSync, |end| Ineligible::MissingWal {
        at: db.status.xlog_pos,
        lsn: end.lsn,
    }))
}

/// Returns how far the last report of a candidate can be relied upon.
fn report_quality(view: &PlanView<'_>, uid: &DbUid, db: &Db) -> ReportQuality {
    match view.report_of(db) {
        Some(report) if report.state_of(uid).is_some_and(|state| !state.healthy) => ReportQuality::ReportedUnhealthy,
        Some(report) if report.is_fresh() => ReportQuality::Fresh,
        _ => ReportQuality::Stale,
    }
}

/// Returns whether a former master that is kept could be used again (sentinel C-12, extensions ).
pub(crate) fn fallback(
    view: &PlanView<'_>,
    uid: &DbUid,
    db: &Db,
    replaced: ReplacedMaster<'_>,
    no_regular_candidate: bool,
) -> Result<Candidate, Ineligible> {
    let report = view
        .report_of(db)
        .filter(|report| report.is_keeper_running && !report.info.leaving)
        .ok_or(Ineligible::KeeperNotRunning)?;
    let stopped = report.info.stopped.as_ref();
    let is_running = report.state_of(uid).is_some_and(|state| state.healthy) && db.status.healthy && db.is_converged();
    if !is_running && stopped.is_none() {
        return Err(Ineligible::NotRunning);
    }
    // The recorded position is about its own timeline; an instance that stopped on another one has different data
    // (extensions ). With synchronous replication it has all that was acknowledged on any timeline (synchronous
    // SY-9).
    if !replaced.is_synchronous() && stopped.is_some_and(|stopped| stopped.timeline_id != db.status.timeline_id) {
        return Err(Ineligible::StoppedOnOtherTimeline);
    }
    reason_against_fallback(view, uid, db, report, replaced, no_regular_candidate)
        .map_or_else(|| Ok(fallback_candidate(uid, db, report)), Err)
}

/// Returns the first reason in its data against a former master.
fn reason_against_fallback(
    view: &PlanView<'_>,
    uid: &DbUid,
    db: &Db,
    report: &KeeperReport,
    replaced: ReplacedMaster<'_>,
    no_regular_candidate: bool,
) -> Option<Ineligible> {
    let master = &replaced.db.status;
    let (own, current) = (db.status.timeline_id, master.timeline_id);
    let complete = db.status.current_generation > 0;
    let same_system = db.status.system_id.is_empty() || db.status.system_id == master.system_id;
    if replaced.is_synchronous() && complete && same_system {
        // The write that announces a synchronous master removes all former ones (synchronous SY-8). One that is still
        // there had all that was acknowledged when it was replaced, and nothing was since (synchronous SY-9).
        return view
            .is_announced(replaced.uid)
            .then_some(Ineligible::ClientsMayHaveWritten);
    }
    // The replaced master failed before clients could write to it (extensions ).
    let before_announcement = !view.is_announced(replaced.uid) && own == current;
    // A converged one may have been announced: the write that closes the proxies for C-12 clears the proxy section.
    if before_announcement && replaced.db.is_converged() {
        let too_far = reason_too_far_behind(view, fallback_position(db, report), master.xlog_pos);
        if too_far.is_some() {
            return too_far;
        }
    }
    // Only the WAL of the replaced master's promotion is discarded, and little more (sentinel C-12).
    let discarded = master
        .history_entry(own)
        .map(|switch| switch.switch_point.bytes_behind(master.xlog_pos));
    let allowed = DISCARDED_BYTES_MAX.min(i128::from(view.spec.max_standby_lag));
    let replaced_just_promoted =
        no_regular_candidate && own < current && discarded.is_some_and(|bytes| bytes <= allowed);
    let same_branch = replaced_just_promoted || matches!(validity(uid, db, master), Validity::Valid);
    if !complete || !same_system || !same_branch {
        return Some(Ineligible::OtherData);
    }
    (!before_announcement && !replaced_just_promoted).then_some(Ineligible::ClientsMayHaveWritten)
}

/// Returns the position of a former master. A clean stop reports one that may be newer than the recorded one.
fn fallback_position(db: &Db, report: &KeeperReport) -> Lsn {
    let stopped_at = report.info.stopped.as_ref().and_then(|stopped| stopped.lsn);
    stopped_at.map_or(db.status.xlog_pos, |lsn| lsn.max(db.status.xlog_pos))
}

fn fallback_candidate(uid: &DbUid, db: &Db, report: &KeeperReport) -> Candidate {
    Candidate {
        db: uid.clone(),
        at: fallback_position(db, report),
        quality: ReportQuality::Fresh,
        is_complete: false,
        kind: CandidateKind::Fallback(Condition::KeeperInfo {
            key: report.key.clone(),
            revision: Some(report.revision),
        }),
    }
}
