//! Role convergence (keeper 4.2): the data are those of the db, now the instance has to run in its role.

use crate::reconcile::configure::{configure, refresh_slots};
use crate::reconcile::initialise::{first_start_config, with_upstream};
use crate::reconcile::{
    DataRole, DataState, HoldReason, LogMessage, NextAction, Observed, ReconcilePlan, ServerConfig, ServerFacts,
    ServerProbe, ServerState, StartAs, Step, TargetDb, TargetRole, Upstream,
};

pub(crate) fn reconcile_role(seen: &Observed<'_>, target: &TargetDb) -> ReconcilePlan {
    match &target.role {
        TargetRole::Master => reconcile_master(seen, target),
        TargetRole::Standby(upstream) => reconcile_standby(seen, target, upstream),
        TargetRole::NoUpstream => ReconcilePlan::hold(HoldReason::FollowedDbMissing),
        TargetRole::Other(role) => ReconcilePlan::hold(HoldReason::UnknownRole(role.clone())),
    }
}

/// Master path (keeper M1 to M5). Every start and every promotion asks for a permit first (beyond ).
fn reconcile_master(seen: &Observed<'_>, target: &TargetDb) -> ReconcilePlan {
    let DataState::Present(local) = seen.local.data else {
        return ReconcilePlan::hold(HoldReason::NoUsableData);
    };
    let mut steps = vec![Step::Log(LogMessage::RoleMaster)];
    let then = match seen.server {
        ServerState::Down => {
            // Also a standby starts without recovery settings here, and is then promoted: it gets a new timeline and
            // never loses its signal file to become a master (keeper M3, I2).
            let sets = start_config(seen, target, seen.config.cloned().unwrap_or_default());
            steps.extend([Step::Permit, Step::Start(StartAs::Master, sets), Step::WaitReady]);
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::NotProbed) => NextAction::ProbeServer,
        ServerState::Up(ServerProbe::NoAnswer) => {
            steps.push(Step::WaitReady);
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::Answered(_) | ServerProbe::Refused) if local == DataRole::Standby => {
            steps.extend([Step::Permit, Step::Promote]);
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::Answered(facts)) => {
            steps.push(Step::Log(LogMessage::AlreadyMaster));
            refresh_slots(target, facts, &mut steps);
            configure(seen, target, None, Some(facts), &mut steps);
            NextAction::Done
        }
        // Slots and pending restarts wait until somebody lets the superuser in again; the files do not.
        ServerState::Up(ServerProbe::Refused) => {
            steps.push(Step::Log(LogMessage::AlreadyMaster));
            configure(seen, target, None, None, &mut steps);
            NextAction::Done
        }
    };
    ReconcilePlan { steps, next: then }
}

/// Standby path (keeper S1 to S5).
fn reconcile_standby(seen: &Observed<'_>, target: &TargetDb, upstream: &Upstream) -> ReconcilePlan {
    match seen.local.data {
        DataState::Absent => return ReconcilePlan::hold(HoldReason::NoUsableData),
        // Refused, and left running as it is (keeper R18, I3).
        DataState::Present(DataRole::Master) => return ReconcilePlan::hold(HoldReason::MasterCannotFollow),
        DataState::Present(DataRole::Standby) => {}
    }
    let mut steps = vec![Step::Log(LogMessage::RoleStandby {
        followed: upstream.db.clone(),
    })];
    let then = match seen.server {
        ServerState::Down => {
            steps.push(Step::Start(
                StartAs::Standby,
                start_config(seen, target, with_upstream(seen, upstream)),
            ));
            NextAction::PlanAgain
        }
        ServerState::Up(ServerProbe::NotProbed) => NextAction::ProbeServer,
        ServerState::Up(asked) => {
            steps.push(Step::Log(LogMessage::AlreadyStandby));
            let facts = answered_facts(asked);
            if let Some(facts) = facts {
                refresh_slots(target, facts, &mut steps);
            }
            configure(seen, target, Some(upstream), facts, &mut steps);
            NextAction::Done
        }
    };
    ReconcilePlan { steps, next: then }
}

fn start_config(seen: &Observed<'_>, target: &TargetDb, sets: ServerConfig) -> ServerConfig {
    let just_made = seen.local.db.initializing && seen.process.completed.as_ref() == Some(&target.db);
    if just_made { first_start_config(sets) } else { sets }
}

fn answered_facts(asked: &ServerProbe) -> Option<&ServerFacts> {
    match asked {
        ServerProbe::Answered(facts) => Some(facts),
        ServerProbe::NotProbed | ServerProbe::NoAnswer | ServerProbe::Refused => None,
    }
}
