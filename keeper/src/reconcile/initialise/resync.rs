//! Init mode `resync`: a standby of the followed instance, on the old data as they are, on rewound ones or on a copy
//! (keeper 5.4, 6). Whether old data fit is decided by `rejoin`.

use std::path::PathBuf;

use model::Lsn;

use crate::external_dirs::{ClearRequest, Obstacle, first_obstacle};
use crate::reconcile::initialise::{first_start_config, save_initializing, standby_config, unclaimed_data};
use crate::reconcile::{
    CopyFacts, CopyReason, DataRole, DataState, HoldReason, InvalidDbSpec, LogMessage, MemberUpstream, NextAction,
    NoRewind, ObservedState, ReconcilePlan, Rejoin, ServerState, StartAs, Step, TargetDb, TargetRole, Upstream,
    check_source, is_incomplete, rejoin,
};

/// Creates a standby of the followed instance (keeper 5.4). All conditions are checked before anything is removed
/// (keeper W10).
pub(super) fn resync(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let upstream = match &target.role {
        TargetRole::Standby(Upstream::Member(upstream)) => upstream,
        TargetRole::Standby(Upstream::External(_)) => {
            return wrong_role("a standby of another cluster");
        }
        TargetRole::NoUpstream => return ReconcilePlan::hold(HoldReason::FollowedDbMissing),
        TargetRole::UndefinedUpstream(why) => return ReconcilePlan::hold(HoldReason::InvalidSpec(why.clone())),
        TargetRole::Master => return wrong_role("a master"),
        TargetRole::Other(role) => return ReconcilePlan::hold(HoldReason::UnknownRole(role.clone())),
    };
    if let Some(plan) = finish_rewound(observed, target, upstream) {
        return plan;
    }
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
        followed: Some(upstream.db.clone()),
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
    let chosen = choose_rejoin(observed, target, copy);
    // Also what pg_rewind would change is examined before the first step.
    let obstacle = match &chosen {
        Rejoin::Reuse { .. } => None,
        Rejoin::Recover | Rejoin::Rewind => unclaimed_data(observed),
        Rejoin::Copy { .. } => copy_obstacle(observed, copy),
    };
    if let Some((path, obstacle)) = obstacle {
        return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
    }
    steps.extend(match chosen {
        Rejoin::Reuse { end } => reuse_steps(observed, target, upstream, end),
        Rejoin::Recover => vec![Step::Log(LogMessage::RecoveringToRewind), Step::Recover],
        Rejoin::Rewind => rewind_steps(target, upstream, copy),
        Rejoin::Copy { why, no_rewind } => copy_steps(observed, target, upstream, copy, why, no_rewind),
    });
    ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    }
}

/// Returns what is done with the old data. A rejoin is preferred to a rewind, and that to a copy: it takes seconds,
/// however large the data are.
fn choose_rejoin(observed: &ObservedState<'_>, target: &TargetDb, copy: &CopyFacts) -> Rejoin {
    let DataState::Present(role) = observed.local.data else {
        return Rejoin::copy(CopyReason::NoData);
    };
    if observed.process.rejoin_failed.as_ref() == Some(&target.db) {
        return Rejoin::copy(CopyReason::DidNotStream);
    }
    // Incomplete data, also half-rewound ones, have no reliable end (keeper K1).
    if is_incomplete(observed) {
        return Rejoin::copy(CopyReason::Incomplete);
    }
    let Some(own) = &copy.own else {
        return Rejoin::copy(CopyReason::NoEnd);
    };
    let rejoin = rejoin(own, role, &copy.source, copy.rewind.as_ref());
    let has_failed = observed.process.rewind_failed.as_ref() == Some(&target.db);
    match rejoin {
        Rejoin::Rewind | Rejoin::Recover if has_failed => Rejoin::Copy {
            why: CopyReason::NotRewound,
            no_rewind: Some(NoRewind::Failed),
        },
        chosen => chosen,
    }
}

fn wrong_role(role: &'static str) -> ReconcilePlan {
    ReconcilePlan::hold(HoldReason::InvalidSpec(InvalidDbSpec::WrongRole {
        init_mode: "resync",
        role,
    }))
}

/// Rewinds the data. All that pg_rewind can find wrong it finds in the check, which changes nothing but
/// postgresql.auto.conf; only then the db is saved as initializing, so that half-rewound ones are never started.
fn rewind_steps(target: &TargetDb, upstream: &MemberUpstream, copy: &CopyFacts) -> Vec<Step> {
    vec![
        Step::CheckRewind(upstream.clone(), copy.source.clone()),
        save_initializing(target),
        Step::Log(LogMessage::Rewinding { to: upstream.clone() }),
        Step::Rewind(upstream.clone()),
        Step::Log(LogMessage::Rewound),
    ]
}

/// Starts the data that this process has rewound, and checks that they stream; `None` if there are none.
///
/// This is a plan of its own, since the rewound control file sets other minimums for the parameters than the old one.
fn finish_rewound(observed: &ObservedState<'_>, target: &TargetDb, upstream: &MemberUpstream) -> Option<ReconcilePlan> {
    let local = &observed.local.db;
    let is_rewound = local.initializing
        && local.uid == target.db
        && observed.process.rewound.as_ref() == Some(&target.db)
        && observed.process.rejoin_failed.as_ref() != Some(&target.db)
        && observed.local.data == DataState::Present(DataRole::Standby);
    if !is_rewound {
        return None;
    }
    let mut steps = Vec::new();
    if *observed.server == ServerState::Down {
        let config = first_start_config(standby_config(observed, upstream));
        steps.push(Step::Start(StartAs::Standby, config));
    }
    steps.extend([
        Step::WaitRewound(target.db.clone()),
        Step::WaitStreaming(target.db.clone()),
        Step::MarkComplete(target.db.clone()),
    ]);
    Some(ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    })
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
    no_rewind: Option<NoRewind>,
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
            no_rewind,
        }),
        Step::BaseBackup(upstream.clone(), copy.external_dirs.clone()),
        Step::Log(LogMessage::Synced),
        Step::MarkComplete(target.db.clone()),
    ]
}
