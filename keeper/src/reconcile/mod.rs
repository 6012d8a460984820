//! Desired state + observed instance → next steps, as pure functions. Reading the store, running programs and querying
//! the server are left to the reconciler, which executes the steps in order.

mod adoption;
mod configure;
mod db_spec;
mod desired;
mod diff;
mod foreign_cluster;
mod initialise;
mod log_message;
mod observed;
mod order;
mod promotion;
mod rejoin;
mod restart_order;
mod rewind;
mod role;
mod slots;
mod source_check;
mod step;
mod synchronous;

pub use adoption::{AdoptionRefusal, ExistingControl, ExistingData, check_adoption};
pub use db_spec::InvalidDbSpec;
pub use desired::{
    ClusterDataState, Desired, ExternalUpstream, Goal, HoldReason, MemberUpstream, OtherKeeper, StopReason, TargetDb,
    TargetRole, Upstream, desired_state,
};
pub use diff::{changed_fields, changed_parameters, is_only_configuration, is_superseded};
pub use foreign_cluster::{endangered_cluster, hold_unless_given_up};
pub use log_message::{LogMessage, ParameterChange};
pub use observed::{
    CopyDelay, CopyFacts, DataRole, DataState, LocalDb, LocalFacts, ObservedState, ProcessState, ServerConfig,
    ServerFacts, ServerProbe, ServerState,
};
pub use order::{AcceptedOrder, StoredOrder, desired_under_order};
pub use promotion::{AheadStandby, ahead_standby};
pub use rejoin::{CopyReason, DataEnd, EndState, Fork, Rejoin, SourceFacts, has_segment_of, rejoin};
pub use restart_order::{Peer, RestartTurn, fingerprint, restart_turn};
pub use rewind::{NoRewind, RewindFacts};
pub use slots::{SlotChange, is_foreign_slot, is_short_of_slots};
pub use source_check::{RecordedIdentity, WrongSource, check_source};
pub use step::{NextAction, ReconcilePlan, RestartNeed, StartAs, Step};
pub use synchronous::{
    ClientLogins, RESTART_AFTER_CRASH, SYNCHRONOUS_STANDBY_NAMES, client_logins, lists_as_synchronous,
};

use model::DbInitMode;

use crate::external_dirs::ClearRequest;

#[cfg(test)]
mod tests;

/// Returns the steps that bring the instance closer to the desired state (keeper 4).
///
/// The steps are executed in order. The first failure ends the round, unless the step may fail. A plan that ends in
/// [`NextAction::PlanAgain`] changed what the rest depends on: the reconciler observes and plans again within the same
/// round.
pub fn plan(observed: &ObservedState<'_>) -> ReconcilePlan {
    if let Some(plan) = save_cluster_uid(observed) {
        return plan;
    }
    // Hold comes before everything that changes the instance: unusable cluster data must never stop a running server.
    let target = match &observed.desired.goal {
        Goal::Hold(why) => return ReconcilePlan::hold(why.clone()),
        // Neither stopped nor used: it may be an instance that an operator wants to hand over.
        _ if observed.local.foreign_server.is_some() => return hold_for_foreign_server(observed),
        Goal::Stop(StopReason::Ordered(order)) => return order::stop_as_ordered(observed, order),
        Goal::Stop(why) => return keep_stopped(observed, why),
        Goal::Run(target) => target,
    };
    order::under_order(observed, target, run(observed, target))
}

/// Returns the steps that make the instance run this db.
fn run(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    if let Some(plan) = discard_incomplete(observed, target) {
        return plan;
    }
    // Another db uid means other data: they are created, or reused, before a role can be taken.
    if observed.local.db.uid != target.db || is_incomplete(observed) {
        return initialise::initialise(observed, target);
    }
    role::reconcile_role(observed, target)
}

/// Saves the cluster uid before anything else is done for that cluster (keeper R7).
fn save_cluster_uid(observed: &ObservedState<'_>) -> Option<ReconcilePlan> {
    let cluster = observed.desired.cluster.as_ref()?;
    (*cluster != observed.local.cluster).then(|| ReconcilePlan {
        steps: vec![Step::SaveCluster(cluster.clone())],
        next: NextAction::PlanAgain,
    })
}

/// Leaves a server that no keeper has started, and its data, as they are.
fn hold_for_foreign_server(observed: &ObservedState<'_>) -> ReconcilePlan {
    let pid = observed.local.foreign_server.unwrap_or_default();
    ReconcilePlan::hold(HoldReason::ForeignServer { pid })
}

/// Stops the instance: no db is assigned, the boot uuid is not acknowledged yet, or the instance is a former master that
/// is kept for its possible return (keeper R9, R10, R27, I8, I20).
fn keep_stopped(observed: &ObservedState<'_>, why: &StopReason) -> ReconcilePlan {
    let mut steps = vec![Step::Log(LogMessage::KeptStopped(why.clone()))];
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    // Publish once where a former master's data end, so that the sentinel can compare it with the standbys.
    if let StopReason::FormerMaster { db, .. } = why {
        let ours = observed.local.db.uid == *db && observed.local.data != DataState::Absent;
        if ours && observed.process.published_stopped.as_ref() != Some(db) {
            steps.push(Step::PublishStopped(db.clone()));
        }
    }
    ReconcilePlan {
        steps,
        next: NextAction::Done,
    }
}

/// Whether an initialisation was started and did not complete, so that its data cannot be used.
///
/// Data that this same process has completed count as complete. The sentinel updates the cluster data all the time, and
/// a round that has to read them again must not discard a fresh copy.
fn is_incomplete(observed: &ObservedState<'_>) -> bool {
    let db = &observed.local.db;
    db.initializing && observed.process.completed.as_ref() != Some(&db.uid)
}

/// Removes incomplete data (keeper R12). For a resync they stay until the source has answered (keeper W10): they may be
/// a complete old master whose new master failed a moment after the rejoin.
fn discard_incomplete(observed: &ObservedState<'_>, target: &TargetDb) -> Option<ReconcilePlan> {
    // Existing data are never removed: those that are incomplete are refused (keeper 5.2).
    let is_kept = matches!(target.spec.init_mode, DbInitMode::Resync | DbInitMode::Existing)
        || initialise::is_kept(observed, target);
    if !is_incomplete(observed) || is_kept {
        return None;
    }
    let db = &observed.local.db;
    let mut steps = vec![Step::Log(LogMessage::Incomplete { db: db.uid.clone() })];
    if *observed.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    steps.push(Step::ClearData(ClearRequest {
        db: db.uid.to_string(),
        bytes: Some(0), // no new data follow
        external_dirs: Vec::new(),
        ran_out_of_space: false,
    }));
    // Forget the db last: after a crash in between, the next round removes the rest.
    steps.push(Step::SaveDb(LocalDb::default()));
    Some(ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    })
}
