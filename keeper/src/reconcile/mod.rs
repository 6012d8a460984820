//! Wanted db and observed instance → next steps, as plain functions of what was seen. Reading the store, running
//! programs and asking the server is left to the loop, which does the steps in their order.

mod configure;
mod desired;
mod diff;
mod foreign_cluster;
mod initialise;
mod log_message;
mod observed;
mod rejoin;
mod restart_order;
mod role;
mod slots;
mod source_check;
mod step;

pub use desired::{
    ClusterDataState, Desired, Goal, HoldReason, StopReason, TargetDb, TargetRole, Upstream, desired_state,
};
pub use diff::{changed_fields, changed_parameters, is_only_configuration};
pub use foreign_cluster::{endangered_cluster, hold_unless_given_up};
pub use log_message::{LogMessage, ParameterChange};
pub use observed::{
    CopyFacts, CopyPause, DataRole, DataState, LocalDb, LocalFacts, Observed, ProcessState, ServerConfig, ServerFacts,
    ServerProbe, ServerState,
};
pub use rejoin::{CopyReason, DataEnd, EndState, Fork, SourceFacts, check_rejoin};
pub use restart_order::{Peer, RestartTurn, fingerprint, restart_turn};
pub use slots::{SlotChange, is_foreign_slot, is_short_of_slots};
pub use source_check::{RecordedIdentity, WrongSource, check_source};
pub use step::{NextAction, ReconcilePlan, RestartNeed, StartAs, Step};

use control::model::DbInitMode;

use crate::external_dirs::ClearRequest;

#[cfg(test)]
mod tests;

/// What the keeper does next, given what it sees (keeper 4).
///
/// The steps are done in order and the first one that fails ends the pass, unless it says that it may fail. A plan that
/// ends in [`Then::LookAgain`] changed what the rest depends on: look again and plan again, in the same pass.
pub fn plan(seen: &Observed<'_>) -> ReconcilePlan {
    if let Some(plan) = save_cluster_uid(seen) {
        return plan;
    }
    let target = match &seen.desired.goal {
        Goal::Hold(why) => return ReconcilePlan::hold(why.clone()),
        Goal::Stop(why) => return keep_stopped(seen, why),
        Goal::Run(target) => target,
    };
    if let Some(plan) = discard_incomplete(seen, target) {
        return plan;
    }
    if seen.local.db.uid != target.db || is_incomplete(seen) {
        return initialise::initialise(seen, target);
    }
    role::reconcile_role(seen, target)
}

/// The cluster uid is saved before anything else is done in that cluster (keeper R7).
fn save_cluster_uid(seen: &Observed<'_>) -> Option<ReconcilePlan> {
    let cluster = seen.desired.cluster.as_ref()?;
    (*cluster != seen.local.cluster).then(|| ReconcilePlan {
        steps: vec![Step::SaveCluster(cluster.clone())],
        next: NextAction::PlanAgain,
    })
}

/// No db, a boot uuid that nobody acknowledged, or an old master kept for its possible return: not running (keeper R9,
/// R10, I8, I20).
fn keep_stopped(seen: &Observed<'_>, why: &StopReason) -> ReconcilePlan {
    let mut steps = vec![Step::Log(LogMessage::KeptStopped(why.clone()))];
    if *seen.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    if let StopReason::OldMaster { db, .. } = why {
        let ours = seen.local.db.uid == *db && seen.local.data != DataState::Absent;
        if ours && seen.process.published_stopped.as_ref() != Some(db) {
            steps.push(Step::PublishStopped(db.clone()));
        }
    }
    ReconcilePlan {
        steps,
        next: NextAction::Done,
    }
}

/// Whether an initialisation was begun and did not complete, so that there is nothing to build on.
///
/// One whose data this very process completed is gone on with: the sentinel rewrites the document all the time, and a
/// pass that has to read it again must not throw a fresh copy away.
fn is_incomplete(seen: &Observed<'_>) -> bool {
    let db = &seen.local.db;
    db.initializing && seen.process.completed.as_ref() != Some(&db.uid)
}

/// What is half made goes (keeper R12), but where a copy is to take its place not before the source answers (W10): it
/// may be all of an old master, tried as it was, whose new master has failed a moment later.
fn discard_incomplete(seen: &Observed<'_>, target: &TargetDb) -> Option<ReconcilePlan> {
    if !is_incomplete(seen) || target.spec.init_mode == DbInitMode::Resync {
        return None;
    }
    let db = &seen.local.db;
    let mut steps = vec![Step::Log(LogMessage::Incomplete { db: db.uid.clone() })];
    if *seen.server != ServerState::Down {
        steps.push(Step::Stop);
    }
    steps.push(Step::ClearData(ClearRequest {
        db: db.uid.to_string(),
        bytes: Some(0), // nothing takes their place
        external_dirs: Vec::new(),
        lacked_room: false,
    }));
    steps.push(Step::SaveDb(LocalDb::default()));
    Some(ReconcilePlan {
        steps,
        next: NextAction::PlanAgain,
    })
}
