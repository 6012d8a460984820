//! Whether the db that an operator asked for may replace the master although it may lack what was acknowledged
//! (synchronous SY-20). Only asked when nobody may be elected by the other rules; the order of the steps is left to
//! `elect`.

use crate::condition::{Condition, RequestFate};
use crate::elect::eligible::{Candidate, CandidateKind, ReplacedMaster, ReportQuality};
use crate::failover_refusal::FailoverRefusal;
use crate::report::KeeperReport;
use crate::view::PlanView;
use model::{Db, DbUid, FailoverRequest, check_requested_data};

/// Returns the candidate that an operator asked for, by a request of this revision, or why it is none.
pub(crate) fn candidate(
    view: &PlanView<'_>,
    request: &FailoverRequest,
    revision: i64,
    replaced: ReplacedMaster<'_>,
) -> Result<Candidate, FailoverRefusal> {
    let (uid, db, report) = check(view, request, replaced)?;
    Ok(Candidate {
        db: uid.clone(),
        at: db.status.xlog_pos,
        quality: ReportQuality::Fresh,
        is_complete: false,
        kind: CandidateKind::Requested {
            info: Condition::KeeperInfo {
                key: report.key.clone(),
                revision: Some(report.revision),
            },
            request: Condition::FailoverRequest {
                revision,
                fate: RequestFate::Deleted,
            },
        },
    })
}

/// Returns the db that is asked for, if it may be elected.
fn check<'v>(
    view: &'v PlanView<'_>,
    request: &FailoverRequest,
    replaced: ReplacedMaster<'_>,
) -> Result<(&'v DbUid, &'v Db, &'v KeeperReport), FailoverRefusal> {
    if !request.accept_data_loss {
        return Err(FailoverRefusal::LossNotAccepted);
    }
    if request.master != *replaced.uid {
        return Err(FailoverRefusal::OtherMaster);
    }
    let (uid, db) = view.data.db_of_keeper(&request.to).ok_or(FailoverRefusal::NoDb)?;
    if uid == replaced.uid {
        return Err(FailoverRefusal::IsMaster);
    }
    let report = check_keeper(view, uid, db)?;
    check_requested_data(&view.data, replaced.uid, uid)?;
    Ok((uid, db, report))
}

/// Returns the report of a db's keeper if it is there and reports that db well. A former master may also be stopped:
/// its keeper keeps it so until it is the master again (extensions ).
fn check_keeper<'v>(view: &'v PlanView<'_>, uid: &DbUid, db: &Db) -> Result<&'v KeeperReport, FailoverRefusal> {
    let keeper = view.keeper_of(db).ok_or(FailoverRefusal::NoDb)?;
    // A keeper that an operator has marked as failed is not healthy in this round (sentinel H-10).
    if !keeper.status.healthy || keeper.status.force_fail {
        return Err(FailoverRefusal::Failed);
    }
    let report = view.report_of(db).ok_or(FailoverRefusal::NotReported)?;
    let stopped = report.info.stopped.as_ref();
    let is_stopped_master = db.is_master_type() && stopped.is_some();
    if report.info.leaving || (report.info.is_leaving_or_stopped() && !is_stopped_master) {
        return Err(FailoverRefusal::Leaving);
    }
    if !report.is_keeper_running {
        return Err(FailoverRefusal::NotReported);
    }
    if is_stopped_master {
        // The recorded position is about its own timeline (extensions ).
        let same_timeline = stopped.is_some_and(|stopped| stopped.timeline_id == db.status.timeline_id);
        return same_timeline.then_some(report).ok_or(FailoverRefusal::NotReported);
    }
    if !db.status.healthy {
        return Err(FailoverRefusal::Failed);
    }
    let is_healthy = report.reports_healthy(uid);
    is_healthy.then_some(report).ok_or(FailoverRefusal::NotReported)
}
