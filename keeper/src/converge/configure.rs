//! Configuration convergence (keeper 4.3): slots, parameters, hba lines, restarts that are due, and the record of it.

use crate::converge::slots::slot_changes;
use crate::converge::{
    Facts, Line, LocalDb, RestartNeed, Seen, Sets, StartAs, Step, Target, Turn, Upstream, changed_parameters,
};

/// Slots as the orders want them (keeper M5, S5).
pub(crate) fn refresh_slots(target: &Target, facts: &Facts, steps: &mut Vec<Step>) {
    steps.extend(slot_changes(target, &facts.slots).into_iter().map(Step::Slot));
}

/// One reload carries parameters, hba lines and whom to follow (keeper R19 to R23); then what waits for a restart
/// (R24), and at the end the generation (R25).
pub(crate) fn configure(
    seen: &Seen<'_>,
    target: &Target,
    upstream: Option<&Upstream>,
    facts: Option<&Facts>,
    steps: &mut Vec<Step>,
) {
    let wanted = Sets {
        upstream: upstream.cloned(),
        ..seen.sets.cloned().unwrap_or_default()
    };
    let current = seen.known.current.as_ref();
    tell_changes(current, &wanted, steps);
    let restart = facts.is_some_and(|facts| is_restart_due(target, facts, upstream, steps));
    let reload = current.is_none_or(|current| differs(current, &wanted));
    if restart {
        steps.extend(upstream.is_none().then_some(Step::Permit));
        steps.push(Step::Restart(start_as(upstream), wanted));
    } else if reload {
        steps.push(Step::Reload(wanted));
    }
    if let Some(facts) = facts {
        steps.push(Step::NoteRestart(match (restart || reload, facts.restart_pending) {
            (true, _) => RestartNeed::NotAsked,
            (false, true) if facts.restart_can_wait => RestartNeed::CanWait,
            (false, true) => RestartNeed::Pending,
            (false, false) => RestartNeed::Nothing,
        }));
    }
    let done = LocalDb {
        uid: target.db.clone(),
        generation: target.generation,
        initializing: false,
    };
    if done != seen.local.db {
        steps.push(Step::Record(done)); // only when something changed: keeper W33
    }
}

/// Whether the server has to read its files again. A master has no use for whom it followed before its promotion.
fn differs(current: &Sets, wanted: &Sets) -> bool {
    let same_upstream = wanted.upstream.is_none() || current.upstream == wanted.upstream;
    !(same_upstream && current.parameters == wanted.parameters && current.hba == wanted.hba)
}

fn tell_changes(current: Option<&Sets>, wanted: &Sets, steps: &mut Vec<Step>) {
    let unknown = Sets::default();
    let before = current.unwrap_or(&unknown);
    if let Some(to) = wanted
        .upstream
        .as_ref()
        .filter(|to| before.upstream.as_ref() != Some(to))
    {
        steps.push(Step::Tell(Line::UpstreamChanged { to: to.clone() }));
    }
    // With nothing to compare with, a line for each parameter would say nothing.
    if current.is_some() {
        let changes = changed_parameters(&before.parameters, &wanted.parameters);
        steps.extend(
            changes
                .into_iter()
                .map(|change| Step::Tell(Line::ParameterChanged(change))),
        );
    }
    steps.push(Step::Tell(match before.parameters == wanted.parameters {
        true => Line::ParametersUnchanged,
        false => Line::ParametersChanged,
    }));
    steps.push(Step::Tell(match before.hba == wanted.hba {
        true => Line::HbaUnchanged,
        false => Line::HbaChanged,
    }));
}

/// A restart for parameters, when the cluster wants such restarts and it is our turn; a standby whose replay stands still for want of one
/// gets it in any case (keeper R24, 8.7).
fn is_restart_due(target: &Target, facts: &Facts, upstream: Option<&Upstream>, steps: &mut Vec<Step>) -> bool {
    if !facts.restart_pending || facts.restart_can_wait {
        return false;
    }
    let stuck = upstream.is_some() && facts.replay_paused;
    if stuck {
        steps.push(Step::Tell(Line::ReplayPaused));
        return true;
    }
    if !target.automatic_restart {
        return false;
    }
    steps.push(Step::Tell(match &facts.turn {
        Turn::Never | Turn::Stuck(_) => return false, // reported as a problem
        Turn::Now => Line::RestartDue,
        Turn::After(keeper) => Line::RestartAfter { keeper: keeper.clone() },
    }));
    facts.turn == Turn::Now
}

fn start_as(upstream: Option<&Upstream>) -> StartAs {
    match upstream {
        Some(_) => StartAs::Standby,
        None => StartAs::Master,
    }
}
