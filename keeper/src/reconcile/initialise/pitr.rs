//! Init mode `pitr`: a backup is restored and recovered from its WAL archive (keeper 5.3). Half-restored data are never
//! started: they are restored in a directory of their own, and only this process, which has seen the restore command
//! succeed, starts their server.

use model::DbUid;

use crate::external_dirs::ClearRequest;
use crate::reconcile::initialise::{save_initializing, standby_config, unclaimed_data};
use crate::reconcile::{
    DataState, ExternalUpstream, HoldReason, InvalidDbSpec, LogMessage, NextAction, ObservedState, ReconcilePlan,
    ServerState, Step, TargetDb, TargetRole, Upstream,
};

/// Whether this process has restored the data of the target and their recovery is not complete.
fn is_restored(observed: &ObservedState<'_>, target: &TargetDb) -> bool {
    is_of_target(observed, target, observed.process.restored.as_ref()) && observed.local.data != DataState::Absent
}

/// Whether this process has restored the data of the target and could not examine them yet.
fn is_unexamined(observed: &ObservedState<'_>, target: &TargetDb) -> bool {
    is_of_target(observed, target, observed.process.unexamined.as_ref())
}

fn is_of_target(observed: &ObservedState<'_>, target: &TargetDb, restored: Option<&DbUid>) -> bool {
    let db = &observed.local.db;
    db.initializing && db.uid == target.db && restored == Some(&target.db)
}

/// Whether what is there of the target's data, although incomplete, was restored by this process and is kept.
pub(crate) fn is_kept(observed: &ObservedState<'_>, target: &TargetDb) -> bool {
    is_restored(observed, target) || is_unexamined(observed, target)
}

/// Restores and recovers a backup (keeper 5.3, P1 to P8).
pub(super) fn pitr(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    if let Some((path, obstacle)) = unclaimed_data(observed) {
        return ReconcilePlan::hold(HoldReason::Obstacle(path, obstacle));
    }
    match &target.role {
        TargetRole::Master | TargetRole::Standby(Upstream::External(_)) => {}
        TargetRole::Standby(Upstream::Member(_)) | TargetRole::NoUpstream => {
            return ReconcilePlan::hold(HoldReason::InvalidSpec(InvalidDbSpec::WrongRole {
                init_mode: "pitr",
                role: "a standby of another db",
            }));
        }
        TargetRole::UndefinedUpstream(why) => return ReconcilePlan::hold(HoldReason::InvalidSpec(why.clone())),
        TargetRole::Other(role) => return ReconcilePlan::hold(HoldReason::UnknownRole(role.clone())),
    }
    let has_command = target.spec.pitr_config.as_ref();
    if has_command.is_none_or(|config| config.data_restore_command.is_empty()) {
        return ReconcilePlan::hold(HoldReason::InvalidSpec(InvalidDbSpec::NoRestoreCommand));
    }
    // A server that still recovers goes on meanwhile.
    if let Some(delay) = observed.process.copy_delay {
        return ReconcilePlan::hold(HoldReason::RestoreFailed(delay));
    }
    let mut steps = Vec::new();
    if is_restored(observed, target) {
        steps.push(Step::Log(LogMessage::Recovering));
        recover(observed, target, &mut steps);
    } else {
        steps.push(Step::Log(LogMessage::Restoring));
        restore(observed, target, &mut steps);
    }
    ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    }
}

fn restore(observed: &ObservedState<'_>, target: &TargetDb, steps: &mut Vec<Step>) {
    if is_unexamined(observed, target) {
        steps.push(Step::RestoreBackup);
        return;
    }
    steps.push(save_initializing(target));
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    steps.extend([
        Step::ClearData(ClearRequest {
            db: target.db.to_string(),
            bytes: None, // as many as the old data
            external_dirs: Vec::new(),
            ran_out_of_space: false,
        }),
        Step::RestoreBackup,
    ]);
}

/// Recovers restored data. A recovery that failed is continued on the same data: the server continues where it was, and
/// a backup may take hours to restore.
fn recover(observed: &ObservedState<'_>, target: &TargetDb, steps: &mut Vec<Step>) {
    // Stop first and plan again: what the next start requires is read from the data of a stopped instance.
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
        return;
    }
    let config = match &target.role {
        TargetRole::Standby(Upstream::External(upstream)) => {
            standby_config(observed, Upstream::External(with_archive(upstream, target)))
        }
        _ => observed.config.cloned().unwrap_or_default(),
    };
    steps.extend([Step::StartRecovery(config), Step::WaitRecovered]);
    if target.spec.include_previous_config {
        steps.push(Step::ReadInitParameters);
    }
    steps.extend([Step::Stop, Step::MarkComplete(target.db.clone())]);
}

/// Returns the upstream of a standby cluster whose backup is recovered: the WAL that the backup needs may be in its own
/// archive only.
fn with_archive(upstream: &ExternalUpstream, target: &TargetDb) -> ExternalUpstream {
    let config = target.spec.pitr_config.as_ref();
    let own = config.and_then(|config| config.archive_recovery_settings.clone());
    ExternalUpstream {
        archive: own.or_else(|| upstream.archive.clone()),
        ..upstream.clone()
    }
}
