//! A db uid that is not the local one: the instance is built again as the init mode says (keeper 5, 6).

use std::path::PathBuf;

use control::model::DbInitMode;

use crate::external_dirs::{ClearRequest, Obstacle, first_obstacle};

use crate::reconcile::{
    CopyReason, DataState, HoldReason, LocalDb, LogMessage, NextAction, Observed, ReconcilePlan, ServerConfig,
    ServerState, StartAs, Step, TargetDb, TargetRole, Upstream, check_rejoin, check_source, is_incomplete,
};

pub(crate) fn initialise(seen: &Observed<'_>, target: &TargetDb) -> ReconcilePlan {
    let local = &seen.local.db.uid;
    let mut steps = Vec::new();
    if is_incomplete(seen) {
        steps.push(Step::Log(LogMessage::Incomplete { db: local.clone() }));
    }
    if *local != target.db {
        steps.push(Step::Log(LogMessage::DbDiffers {
            local: local.clone(),
            wanted: target.db.clone(),
        }));
    }
    let mut plan = match &target.spec.init_mode {
        DbInitMode::New => new(seen, target),
        DbInitMode::Resync => resync(seen, target),
        DbInitMode::None => ReconcilePlan::hold(HoldReason::DataLost), // keeper I5
        mode => ReconcilePlan::hold(HoldReason::UnknownInitMode(mode.as_str().to_owned())),
    };
    steps.append(&mut plan.steps);
    ReconcilePlan { steps, ..plan }
}

/// Saved before anything is destroyed (keeper I4).
fn save_begun(target: &TargetDb) -> Step {
    Step::SaveDb(LocalDb {
        uid: target.db.clone(),
        generation: 0,
        initializing: true,
    })
}

/// Data of unknown origin are not removed.
fn unclaimed_data(seen: &Observed<'_>) -> Option<(PathBuf, Obstacle)> {
    let found = seen.local.unclaimed.clone()?;
    Some((found, Obstacle::Unclaimed))
}

/// More than what initdb makes.
const NEW_BYTES: u64 = 256 << 20;

/// An empty database cluster (keeper 5.1, N1 to N8).
fn new(seen: &Observed<'_>, target: &TargetDb) -> ReconcilePlan {
    if let Some((path, obstacle)) = unclaimed_data(seen) {
        return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
    }
    let sets = seen.config.cloned().unwrap_or_default();
    let mut steps = vec![Step::Log(LogMessage::Initializing), save_begun(target)];
    if *seen.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    steps.extend([
        Step::ClearData(ClearRequest {
            db: target.db.to_string(),
            bytes: Some(NEW_BYTES),
            external_dirs: Vec::new(),
            lacked_room: false,
        }),
        Step::Initdb(target.spec.new_config.clone().unwrap_or_default()),
        Step::StartTemporarily(sets),
        Step::WaitReady,
    ]);
    if target.spec.include_previous_config {
        steps.push(Step::ReadInitParameters);
    }
    steps.extend([Step::SetUpRoles, Step::Stop, Step::MarkComplete(target.db.clone())]);
    ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    }
}

/// A standby made from the instance that it is to follow (keeper 5.4), with every condition looked at before anything
/// is destroyed (keeper W10).
fn resync(seen: &Observed<'_>, target: &TargetDb) -> ReconcilePlan {
    let upstream = match &target.role {
        TargetRole::Standby(upstream) => upstream,
        TargetRole::NoUpstream => return ReconcilePlan::hold(HoldReason::FollowedDbMissing),
        TargetRole::Master => {
            return ReconcilePlan::hold(HoldReason::UnknownRole("master with init mode resync".to_owned()));
        }
        TargetRole::Other(role) => return ReconcilePlan::hold(HoldReason::UnknownRole(role.clone())),
    };
    let mut steps = vec![Step::Log(LogMessage::Resyncing)];
    if *seen.server != ServerState::Down {
        steps.push(Step::Stop);
        return ReconcilePlan {
            steps,
            next: NextAction::PlanAgain,
        };
    }
    if seen.local.data == DataState::Absent {
        steps.push(Step::Log(LogMessage::NotInitialized));
    }
    steps.push(Step::Log(LogMessage::RoleStandby {
        followed: upstream.db.clone(),
    }));
    let has_nothing_to_keep = seen.local.data == DataState::Absent || is_incomplete(seen);
    if let Some(pause) = seen.process.copy_pause.filter(|_| has_nothing_to_keep) {
        return ReconcilePlan::hold(HoldReason::CopyFailed(pause));
    }
    let Some(copy) = seen.copy else {
        return ReconcilePlan {
            steps,
            next: NextAction::ProbeSource(upstream.clone()),
        };
    };
    if let Err(why) = check_source(&target.recorded, &copy.source) {
        return ReconcilePlan::hold(HoldReason::WrongSource(upstream.clone(), why));
    }
    let kept = match &copy.own {
        _ if seen.local.data == DataState::Absent => Err(CopyReason::NoData),
        _ if seen.process.rejoin_failed.as_ref() == Some(&target.db) => Err(CopyReason::DidNotStream),
        _ if is_incomplete(seen) => Err(CopyReason::Incomplete), // K1
        Some(own) => check_rejoin(own, &copy.source).map(|()| own.position),
        None => Err(CopyReason::NotShutDown),
    };
    match kept {
        Ok(end) => {
            let sets = first_start_config(with_upstream(seen, upstream));
            steps.extend([
                Step::Log(LogMessage::Rejoining { end }),
                save_begun(target),
                Step::MarkStandby,
                Step::Start(StartAs::Standby, sets),
                Step::WaitStreaming(target.db.clone()),
                Step::MarkComplete(target.db.clone()),
            ]);
        }
        Err(why) => {
            let in_the_way = unclaimed_data(seen)
                .or_else(|| first_obstacle(&copy.external_dirs))
                .or_else(|| copy.obstacle.clone());
            if let Some((path, obstacle)) = in_the_way {
                return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
            }
            let clear = ClearRequest {
                db: target.db.to_string(),
                bytes: copy.bytes,
                external_dirs: copy.external_dirs.clone(),
                lacked_room: seen.process.lacked_room,
            };
            steps.extend([
                save_begun(target),
                Step::ClearData(clear),
                Step::Log(LogMessage::Copying {
                    from: upstream.clone(),
                    why,
                }),
                Step::BaseBackup(upstream.clone(), copy.external_dirs.clone()),
                Step::Log(LogMessage::Synced),
                Step::MarkComplete(target.db.clone()),
            ]);
        }
    }
    ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    }
}

/// The wanted configuration of a standby of `upstream`.
pub(crate) fn with_upstream(seen: &Observed<'_>, upstream: &Upstream) -> ServerConfig {
    ServerConfig {
        upstream: Some(upstream.clone()),
        ..seen.config.cloned().unwrap_or_default()
    }
}

/// The configuration for the first start of data that were just made; the pass ends with a reload of the wanted one.
///
/// What clients wrote into a new master before its pass is complete would be lost if that pass failed, for then the
/// data are made again (keeper R12): until then it says read only. A new standby tries again quickly when its source
/// is not ready, instead of every five seconds.
pub(crate) fn first_start_config(mut sets: ServerConfig) -> ServerConfig {
    let (name, value) = match sets.upstream {
        None => ("default_transaction_read_only", "on"),
        Some(_) => ("wal_retrieve_retry_interval", "500ms"),
    };
    sets.parameters
        .entry(name.to_owned())
        .or_insert_with(|| value.to_owned());
    sets
}
