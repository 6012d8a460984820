//! Role convergence (keeper 4.2): the data are those of the db, now the instance has to run in its role.

use crate::converge::configure::{configure, refresh_slots};
use crate::converge::initialise::{first_start, with_upstream};
use crate::converge::{
    Asked, Data, Facts, Line, LocalRole, Plan, Seen, Server, Sets, StartAs, Step, Target, TargetRole, Then, Unchanged,
    Upstream,
};

pub(crate) fn converge_role(seen: &Seen<'_>, target: &Target) -> Plan {
    match &target.role {
        TargetRole::Master => be_master(seen, target),
        TargetRole::Standby(upstream) => be_standby(seen, target, upstream),
        TargetRole::Lost => Plan::hold(Unchanged::FollowedDbMissing),
        TargetRole::Other(role) => Plan::hold(Unchanged::UnknownRole(role.clone())),
    }
}

/// Master path (keeper M1 to M5). Every start and every promotion asks for a permit first (beyond ).
fn be_master(seen: &Seen<'_>, target: &Target) -> Plan {
    let Data::Present(local) = seen.local.data else {
        return Plan::hold(Unchanged::NothingUsable);
    };
    let mut steps = vec![Step::Tell(Line::RoleMaster)];
    let then = match seen.server {
        Server::Down => {
            // Also a standby starts without recovery settings here, and is then promoted: it gets a new timeline and
            // never loses its signal file to become a master (keeper M3, I2).
            let sets = for_start(seen, target, seen.sets.cloned().unwrap_or_default());
            steps.extend([Step::Permit, Step::Start(StartAs::Master, sets), Step::WaitReady]);
            Then::LookAgain
        }
        Server::Up(Asked::NotYet) => Then::AskServer,
        Server::Up(Asked::Silent) => {
            steps.push(Step::WaitReady);
            Then::LookAgain
        }
        Server::Up(Asked::Answered(_) | Asked::Refused) if local == LocalRole::Standby => {
            steps.extend([Step::Permit, Step::Promote]);
            Then::LookAgain
        }
        Server::Up(Asked::Answered(facts)) => {
            steps.push(Step::Tell(Line::AlreadyMaster));
            refresh_slots(target, facts, &mut steps);
            configure(seen, target, None, Some(facts), &mut steps);
            Then::Done
        }
        // Slots and pending restarts wait until somebody lets the superuser in again; the files do not.
        Server::Up(Asked::Refused) => {
            steps.push(Step::Tell(Line::AlreadyMaster));
            configure(seen, target, None, None, &mut steps);
            Then::Done
        }
    };
    Plan { steps, then }
}

/// Standby path (keeper S1 to S5).
fn be_standby(seen: &Seen<'_>, target: &Target, upstream: &Upstream) -> Plan {
    match seen.local.data {
        Data::Absent => return Plan::hold(Unchanged::NothingUsable),
        // Refused, and left running as it is (keeper R18, I3).
        Data::Present(LocalRole::Master) => return Plan::hold(Unchanged::MasterIsNoStandby),
        Data::Present(LocalRole::Standby) => {}
    }
    let mut steps = vec![Step::Tell(Line::RoleStandby {
        followed: upstream.db.clone(),
    })];
    let then = match seen.server {
        Server::Down => {
            steps.push(Step::Start(
                StartAs::Standby,
                for_start(seen, target, with_upstream(seen, upstream)),
            ));
            Then::LookAgain
        }
        Server::Up(Asked::NotYet) => Then::AskServer,
        Server::Up(asked) => {
            steps.push(Step::Tell(Line::AlreadyStandby));
            let facts = answered(asked);
            if let Some(facts) = facts {
                refresh_slots(target, facts, &mut steps);
            }
            configure(seen, target, Some(upstream), facts, &mut steps);
            Then::Done
        }
    };
    Plan { steps, then }
}

fn for_start(seen: &Seen<'_>, target: &Target, sets: Sets) -> Sets {
    let just_made = seen.local.db.initializing && seen.known.complete.as_ref() == Some(&target.db);
    if just_made { first_start(sets) } else { sets }
}

fn answered(asked: &Asked) -> Option<&Facts> {
    match asked {
        Asked::Answered(facts) => Some(facts),
        Asked::NotYet | Asked::Silent | Asked::Refused => None,
    }
}
