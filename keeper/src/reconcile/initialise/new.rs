//! Init mode `new`: an empty database cluster (keeper 5.1).

use crate::external_dirs::ClearRequest;
use crate::reconcile::initialise::{save_initializing, unclaimed_data};
use crate::reconcile::{HoldReason, LogMessage, NextAction, ObservedState, ReconcilePlan, ServerState, Step, TargetDb};

/// Upper bound for what initdb creates.
const NEW_BYTES: u64 = 256 << 20;

/// Creates an empty database cluster (keeper 5.1, N1 to N8).
pub(super) fn new(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
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
