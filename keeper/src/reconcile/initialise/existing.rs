//! Init mode `existing`: the data that PGDATA holds (keeper 5.2). Whether they may be used is decided by `adoption`.

use crate::reconcile::{
    AdoptionRefusal, HoldReason, LocalDb, LogMessage, NextAction, ObservedState, ReconcilePlan, ServerState, Step,
    TargetDb, check_adoption, is_incomplete,
};

/// Adopts the data in place (keeper 5.2, E1 to E5). The db is saved last: until then a failure changes nothing but the
/// generated files, and the next round begins anew, with the parameters of the previous configuration still to be read.
pub(super) fn existing(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let Some(existing) = observed.existing else {
        return ReconcilePlan::hold(HoldReason::CannotAdopt(AdoptionRefusal::NoDatabase));
    };
    let recorded = target.recorded.system_id.as_str();
    if let Err(why) = check_adoption(observed.local.data, is_incomplete(observed), existing, recorded) {
        return ReconcilePlan::hold(HoldReason::CannotAdopt(why));
    }
    let mut steps = vec![Step::Log(LogMessage::Adopting)];
    // Stop first and plan again: what the next start requires is read from the data of a stopped instance.
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
        return ReconcilePlan {
            steps,
            next: NextAction::PlanAgain,
        };
    }
    steps.push(Step::KeepOriginalFiles);
    if target.spec.include_previous_config {
        let config = observed.config.cloned().unwrap_or_default();
        steps.extend([
            Step::StartTemporarily(config),
            Step::WaitReady,
            Step::ReadPreviousParameters,
            Step::Stop,
        ]);
    }
    steps.push(Step::SaveAdopted(LocalDb {
        uid: target.db.clone(),
        generation: 0,
        initializing: false,
    }));
    ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    }
}
