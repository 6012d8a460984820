//! Init mode `resync`: a standby of the followed instance, on the old data or on a copy (keeper 5.4, 6). Whether old
//! data fit is decided by `rejoin`.

use std::path::PathBuf;

use model::Lsn;

use crate::external_dirs::{ClearRequest, Obstacle, first_obstacle};
use crate::reconcile::initialise::{first_start_config, save_initializing, standby_config, unclaimed_data};
use crate::reconcile::{
    CopyFacts, CopyReason, DataState, HoldReason, LogMessage, MemberUpstream, NextAction, ObservedState, ReconcilePlan,
    Rejoin, ServerState, StartAs, Step, TargetDb, TargetRole, Upstream, check_source, is_incomplete, rejoin,
};

/// Creates a standby of the followed instance (keeper 5.4). All conditions are checked before anything is removed
/// (keeper W10).
pub(super) fn resync(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let upstream = match &target.role {
        TargetRole::Standby(Upstream::Member(upstream)) => upstream,
        TargetRole::Standby(Upstream::External(_)) => return ReconcilePlan::hold(HoldReason::follows_another_cluster()),
        TargetRole::NoUpstream => return ReconcilePlan::hold(HoldReason::FollowedDbMissing),
        TargetRole::Master => {
            return ReconcilePlan::hold(HoldReason::UnknownRole("master with init mode resync".to_owned()));
        }
        TargetRole::Other(role) => return ReconcilePlan::hold(HoldReason::UnknownRole(role.clone())),
    };
    let mut steps = vec![Step::Log(LogMessage::Resyncing)];
    // Stop first and plan again: the control file has its final state only after a shutdown.
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
        return ReconcilePlan {
            steps,
            next: NextAction::PlanAgain,
        };
    }
    if observed.local.data == DataState::Absent {
        steps.push(Step::Log(LogMessage::NotInitialized));
    }
    steps.push(Step::Log(LogMessage::RoleStandby {
        followed: upstream.db.clone(),
    }));
    let has_no_usable_data = observed.local.data == DataState::Absent || is_incomplete(observed);
    // Without usable data only a copy can follow, so the delay applies before the source is probed.
    if let Some(delay) = observed.process.copy_delay.filter(|_| has_no_usable_data) {
        return ReconcilePlan::hold(HoldReason::CopyFailed(delay));
    }
    let Some(copy) = observed.copy else {
        return ReconcilePlan {
            steps,
            next: NextAction::ProbeSource(upstream.clone()),
        };
    };
    if let Err(why) = check_source(&target.recorded, &copy.source) {
        return ReconcilePlan::hold(HoldReason::WrongSource(upstream.clone(), why));
    }
    match choose_rejoin(observed, target, copy) {
        Rejoin::Reuse { end } => steps.extend(reuse_steps(observed, target, upstream, end)),
        Rejoin::Rewind => return ReconcilePlan::hold(HoldReason::NotSupported("pg_rewind")),
        Rejoin::Copy(why) => {
            // All obstacles are checked before the first step that removes data.
            if let Some((path, obstacle)) = copy_obstacle(observed, copy) {
                return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
            }
            steps.extend(copy_steps(observed, target, upstream, copy, why));
        }
    }
    ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    }
}

/// Returns what is done with the old data. A rejoin is preferred to a copy: it takes seconds, however large the data
/// are.
fn choose_rejoin(observed: &ObservedState<'_>, target: &TargetDb, copy: &CopyFacts) -> Rejoin {
    if observed.local.data == DataState::Absent {
        return Rejoin::Copy(CopyReason::NoData);
    }
    if observed.process.rejoin_failed.as_ref() == Some(&target.db) {
        return Rejoin::Copy(CopyReason::DidNotStream);
    }
    // Incomplete data have no reliable end (keeper K1).
    if is_incomplete(observed) {
        return Rejoin::Copy(CopyReason::Incomplete);
    }
    match &copy.own {
        Some(own) => rejoin(own, &copy.source),
        None => Rejoin::Copy(CopyReason::NotShutDown),
    }
}

fn reuse_steps(observed: &ObservedState<'_>, target: &TargetDb, upstream: &MemberUpstream, end: Lsn) -> Vec<Step> {
    let config = first_start_config(standby_config(observed, upstream));
    vec![
        Step::Log(LogMessage::Rejoining { end }),
        save_initializing(target),
        Step::MarkStandby,
        Step::Start(StartAs::Standby, config),
        Step::WaitStreaming(target.db.clone()),
        Step::MarkComplete(target.db.clone()),
    ]
}

/// Returns what prevents a copy, and where.
fn copy_obstacle(observed: &ObservedState<'_>, copy: &CopyFacts) -> Option<(PathBuf, Obstacle)> {
    unclaimed_data(observed)
        .or_else(|| first_obstacle(&copy.external_dirs))
        .or_else(|| copy.obstacle.clone())
}

fn copy_steps(
    observed: &ObservedState<'_>,
    target: &TargetDb,
    upstream: &MemberUpstream,
    copy: &CopyFacts,
    why: CopyReason,
) -> Vec<Step> {
    let clear = ClearRequest {
        db: target.db.to_string(),
        bytes: copy.bytes,
        external_dirs: copy.external_dirs.clone(),
        ran_out_of_space: observed.process.ran_out_of_space,
    };
    vec![
        save_initializing(target),
        Step::ClearData(clear),
        Step::Log(LogMessage::Copying {
            from: upstream.clone(),
            why,
        }),
        Step::BaseBackup(upstream.clone(), copy.external_dirs.clone()),
        Step::Log(LogMessage::Synced),
        Step::MarkComplete(target.db.clone()),
    ]
}
