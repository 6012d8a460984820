//! Role reconciliation (keeper 4.2): the data belong to the db; the instance now has to run in its role.

use model::DbUid;

use crate::reconcile::configure::{configure, master_config, master_start_config, refresh_slots};
use crate::reconcile::initialise::{first_start_config, standby_config};
use crate::reconcile::order::withdraw_acceptance;
use crate::reconcile::promotion::prepare_promotion;
use crate::reconcile::{
    DataRole, DataState, HoldReason, LogMessage, NextAction, ObservedState, ReconcilePlan, ServerConfig, ServerFacts,
    ServerProbe, ServerState, StartAs, Step, TargetDb, TargetRole, Upstream,
};

/// Returns the steps that make the instance run in the role of its db.
pub(crate) fn reconcile_role(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    match &target.role {
        TargetRole::Master => reconcile_master(observed, target),
        TargetRole::Standby(upstream) => reconcile_standby(observed, target, upstream),
        TargetRole::NoUpstream => ReconcilePlan::hold(HoldReason::FollowedDbMissing),
        TargetRole::UndefinedUpstream(why) => ReconcilePlan::hold(HoldReason::InvalidSpec(why.clone())),
        TargetRole::Other(role) => ReconcilePlan::hold(HoldReason::UnknownRole(role.clone())),
    }
}

/// Returns the steps of a master (keeper M1 to M5). Every start and every promotion requests a permit first (extensions
///
fn reconcile_master(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let DataState::Present(local) = observed.local.data else {
        return ReconcilePlan::hold(HoldReason::NoUsableData);
    };
    let mut steps = vec![Step::Log(LogMessage::RoleMaster)];
    let next = match observed.server {
        ServerState::Down => {
            // A standby, too, starts without recovery settings here and is promoted afterwards. Promotion gives it a
            // new timeline; its signal file is never just removed to make it a master (keeper M3, I2).
            let config = start_config(observed, target, master_start_config(observed, target));
            steps.extend([Step::Permit, Step::Start(StartAs::Master, config), Step::WaitReady]);
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::NotProbed) => NextAction::ProbeServer,
        // It is starting or hanging: a promotion or a reload now would only fail.
        ServerState::Up(ServerProbe::NoAnswer) => {
            steps.push(Step::WaitReady);
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::Answered(_) | ServerProbe::Refused) if local == DataRole::Standby => {
            let config = master_config(observed, target);
            prepare_promotion(observed, target, &config, &mut steps);
            steps.extend([Step::Permit, Step::Promote(config)]);
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::Answered(facts)) => {
            steps.push(Step::Log(LogMessage::AlreadyMaster));
            withdraw_acceptance(observed, &mut steps);
            refresh_slots(target, facts, &mut steps);
            configure(observed, target, None, Some(facts), &mut steps);
            NextAction::Done
        }
        // Slots and pending restarts need a superuser login. Files can be updated without one.
        ServerState::Up(ServerProbe::Refused) => {
            steps.push(Step::Log(LogMessage::AlreadyMaster));
            withdraw_acceptance(observed, &mut steps);
            configure(observed, target, None, None, &mut steps);
            NextAction::Done
        }
    };
    ReconcilePlan { steps, next }
}

/// Returns the steps of a standby (keeper S1 to S5).
fn reconcile_standby(observed: &ObservedState<'_>, target: &TargetDb, upstream: &Upstream) -> ReconcilePlan {
    match observed.local.data {
        DataState::Absent => return ReconcilePlan::hold(HoldReason::NoUsableData),
        // A running master is never turned into a standby in place (keeper R18, I3).
        DataState::Present(DataRole::Master) => return ReconcilePlan::hold(HoldReason::MasterCannotFollow),
        DataState::Present(DataRole::Standby) => {}
    }
    let mut steps = vec![Step::Log(LogMessage::RoleStandby {
        followed: followed_db(upstream),
    })];
    let next = match observed.server {
        ServerState::Down => {
            steps.push(Step::Start(
                StartAs::Standby,
                start_config(observed, target, standby_config(observed, upstream.clone())),
            ));
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::NotProbed) => NextAction::ProbeServer,
        ServerState::Up(probe) => {
            steps.push(Step::Log(LogMessage::AlreadyStandby));
            // A standby in recovery may refuse or not answer queries for long; its configuration is kept current all
            // the same, so that a moved upstream reaches it.
            let facts = answered_facts(probe);
            if let Some(facts) = facts {
                refresh_slots(target, facts, &mut steps);
            }
            configure(observed, target, Some(upstream), facts, &mut steps);
            NextAction::Done
        }
    };
    ReconcilePlan { steps, next }
}

/// Returns the db that is followed; none outside of this cluster.
fn followed_db(upstream: &Upstream) -> Option<DbUid> {
    match upstream {
        Upstream::Member(upstream) => Some(upstream.db.clone()),
        Upstream::External(_) => None,
    }
}

fn start_config(observed: &ObservedState<'_>, target: &TargetDb, config: ServerConfig) -> ServerConfig {
    let is_new = observed.local.db.initializing && observed.process.completed.as_ref() == Some(&target.db);
    if is_new { first_start_config(config) } else { config }
}

fn answered_facts(probe: &ServerProbe) -> Option<&ServerFacts> {
    match probe {
        ServerProbe::Answered(facts) => Some(facts),
        ServerProbe::NotProbed | ServerProbe::NoAnswer | ServerProbe::Refused => None,
    }
}
