//! Initialisation: the assigned db is not the local one, so that its data are created as the init mode says (keeper 5,
//! 6).

use std::path::PathBuf;

use model::DbInitMode;

use crate::external_dirs::{ClearRequest, Obstacle, first_obstacle};

use crate::reconcile::{
    CopyReason, DataState, HoldReason, LocalDb, LogMessage, NextAction, ObservedState, ReconcilePlan, ServerConfig,
    ServerState, StartAs, Step, TargetDb, TargetRole, Upstream, check_rejoin, check_source, is_incomplete,
};

pub(crate) fn initialise(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let local = &observed.local.db.uid;
    let mut steps = Vec::new();
    if is_incomplete(observed) {
        steps.push(Step::Log(LogMessage::Incomplete { db: local.clone() }));
    }
    if *local != target.db {
        steps.push(Step::Log(LogMessage::DbDiffers {
            local: local.clone(),
            wanted: target.db.clone(),
        }));
    }
    let mut plan = match &target.spec.init_mode {
        DbInitMode::New => new(observed, target),
        DbInitMode::Resync => resync(observed, target),
        DbInitMode::None => ReconcilePlan::hold(HoldReason::DataLost), // keeper I5
        mode => ReconcilePlan::hold(HoldReason::UnknownInitMode(mode.as_str().to_owned())),
    };
    steps.append(&mut plan.steps);
    ReconcilePlan { steps, ..plan }
}

/// Saves that an initialisation begins, before anything is removed (keeper I4).
fn save_initializing(target: &TargetDb) -> Step {
    Step::SaveDb(LocalDb {
        uid: target.db.clone(),
        generation: 0,
        initializing: true,
    })
}

/// Data of unknown origin are never removed.
fn unclaimed_data(observed: &ObservedState<'_>) -> Option<(PathBuf, Obstacle)> {
    let found = observed.local.unclaimed.clone()?;
    Some((found, Obstacle::Unclaimed))
}

/// Upper bound for what initdb creates.
const NEW_BYTES: u64 = 256 << 20;

/// Creates an empty database cluster (keeper 5.1, N1 to N8).
fn new(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    if let Some((path, obstacle)) = unclaimed_data(observed) {
        return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
    }
    let config = observed.config.cloned().unwrap_or_default();
    let mut steps = vec![Step::Log(LogMessage::Initializing), save_initializing(target)];
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    steps.extend([
        Step::ClearData(ClearRequest {
            db: target.db.to_string(),
            bytes: Some(NEW_BYTES),
            external_dirs: Vec::new(),
            ran_out_of_space: false,
        }),
        Step::Initdb(target.spec.new_config.clone().unwrap_or_default()),
        Step::StartTemporarily(config),
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

/// Creates a standby of the followed instance (keeper 5.4). All conditions are checked before anything is removed
/// (keeper W10).
fn resync(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let upstream = match &target.role {
        TargetRole::Standby(upstream) => upstream,
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
    // Without usable data only a copy can follow, so the pause applies before the source is probed.
    if let Some(pause) = observed.process.copy_pause.filter(|_| has_no_usable_data) {
        return ReconcilePlan::hold(HoldReason::CopyFailed(pause));
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
    // A rejoin is preferred to a copy: it takes seconds, however large the data are.
    let kept = match &copy.own {
        _ if observed.local.data == DataState::Absent => Err(CopyReason::NoData),
        _ if observed.process.rejoin_failed.as_ref() == Some(&target.db) => Err(CopyReason::DidNotStream),
        _ if is_incomplete(observed) => Err(CopyReason::Incomplete), // incomplete data have no reliable end (keeper K1)
        Some(own) => check_rejoin(own, &copy.source).map(|()| own.position),
        None => Err(CopyReason::NotShutDown),
    };
    match kept {
        Ok(end) => {
            let config = first_start_config(with_upstream(observed, upstream));
            steps.extend([
                Step::Log(LogMessage::Rejoining { end }),
                save_initializing(target),
                Step::MarkStandby,
                Step::Start(StartAs::Standby, config),
                Step::WaitStreaming(target.db.clone()),
                Step::MarkComplete(target.db.clone()),
            ]);
        }
        Err(why) => {
            // All obstacles are checked before the first step that removes data.
            let obstacle = unclaimed_data(observed)
                .or_else(|| first_obstacle(&copy.external_dirs))
                .or_else(|| copy.obstacle.clone());
            if let Some((path, obstacle)) = obstacle {
                return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
            }
            let clear = ClearRequest {
                db: target.db.to_string(),
                bytes: copy.bytes,
                external_dirs: copy.external_dirs.clone(),
                ran_out_of_space: observed.process.ran_out_of_space,
            };
            steps.extend([
                save_initializing(target),
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

/// Returns the desired configuration of a standby of `upstream`.
pub(crate) fn with_upstream(observed: &ObservedState<'_>, upstream: &Upstream) -> ServerConfig {
    ServerConfig {
        upstream: Some(upstream.clone()),
        ..observed.config.cloned().unwrap_or_default()
    }
}

/// Returns the configuration for the first start of newly created data. The round ends with a reload of the desired
/// one.
///
/// A new master is read-only until its round has completed: if the round failed, the data would be created again and
/// writes of clients would be lost (keeper R12). A new standby retries every 500 ms instead of every 5 s while its
/// source is not ready.
pub(crate) fn first_start_config(mut config: ServerConfig) -> ServerConfig {
    let (name, value) = match config.upstream {
        None => ("default_transaction_read_only", "on"),
        Some(_) => ("wal_retrieve_retry_interval", "500ms"),
    };
    config
        .parameters
        .entry(name.to_owned())
        .or_insert_with(|| value.to_owned());
    config
}
