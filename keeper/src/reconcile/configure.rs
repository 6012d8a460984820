//! Configuration reconciliation (keeper 4.3): slots, parameters, hba lines, due restarts, and saving the applied
//! generation.

use crate::reconcile::slots::slot_changes;
use crate::reconcile::synchronous::with_logins_blocked;
use crate::reconcile::{
    ClientLogins, LocalDb, LogMessage, ObservedState, RestartNeed, RestartTurn, ServerConfig, ServerFacts, StartAs,
    Step, TargetDb, Upstream, changed_parameters, client_logins,
};

/// Creates and drops slots as desired (keeper M5, S5).
pub(crate) fn refresh_slots(target: &TargetDb, facts: &ServerFacts, steps: &mut Vec<Step>) {
    steps.extend(
        slot_changes(target, &facts.slots, &facts.invalidated_slots)
            .into_iter()
            .map(Step::Slot),
    );
}

/// Applies parameters, hba lines and the followed instance with one reload (keeper R19 to R23), then restarts for
/// parameters pending restart (R24), and finally saves the generation (R25).
pub(crate) fn configure(
    observed: &ObservedState<'_>,
    target: &TargetDb,
    upstream: Option<&Upstream>,
    facts: Option<&ServerFacts>,
    steps: &mut Vec<Step>,
) {
    let wanted = match upstream {
        Some(upstream) => ServerConfig {
            upstream: Some(upstream.clone()),
            ..observed.config.cloned().unwrap_or_default()
        },
        None => master_config(observed, target),
    };
    let current = observed.process.current.as_ref();
    log_client_logins(observed, target, steps);
    log_changes(current, &wanted, steps);
    // A restart reads all files, so it replaces the reload.
    let (restart, message) = facts.map_or((false, None), |facts| decide_restart(target, facts, upstream));
    steps.extend(message.map(Step::Log));
    // Until the reload is confirmed, the facts may be older than it: nothing would seem to wait for a restart.
    let is_unconfirmed = facts.is_some() && observed.process.reload_unconfirmed;
    let reload = is_unconfirmed || current.is_none_or(|current| needs_reload(current, &wanted));
    if restart {
        // A restart as master, too, requests a permit first (extensions ).
        steps.extend(upstream.is_none().then_some(Step::Permit));
        let config = match upstream {
            Some(_) => wanted,
            None => master_start_config(observed, target),
        };
        steps.push(Step::Restart(start_as(upstream), config));
    } else if reload {
        steps.push(Step::Reload(wanted));
    }
    if let Some(facts) = facts {
        steps.push(Step::ReportRestart(match (restart || reload, facts.restart_pending) {
            (true, _) => RestartNeed::NotProbed,
            (false, true) if facts.restart_can_wait => RestartNeed::CanWait,
            (false, true) => RestartNeed::Pending,
            (false, false) => RestartNeed::Nothing,
        }));
    }
    // Saved in every case, also when the reload fails: a failed reload is retried because `current` stays outdated.
    let applied = LocalDb {
        uid: target.db.clone(),
        generation: target.generation,
        initializing: false,
    };
    if applied != observed.local.db {
        steps.push(Step::SaveApplied(applied)); // Unchanged state is not written again (keeper W33).
    }
}

/// Returns the configuration of a running master. Client logins stay blocked until the standbys are in sync (keeper R21);
/// when the names become empty, one reload changes both (keeper R23).
pub(crate) fn master_config(observed: &ObservedState<'_>, target: &TargetDb) -> ServerConfig {
    let config = observed.config.cloned().unwrap_or_default();
    match client_logins(target, observed.process, observed.server) {
        ClientLogins::Allowed => config,
        ClientLogins::Blocked { .. } => with_logins_blocked(config, observed.own_hba),
    }
}

/// Returns the configuration with which a master is started. With standbys to wait for, client logins are blocked at
/// first (synchronous SY-11).
pub(crate) fn master_start_config(observed: &ObservedState<'_>, target: &TargetDb) -> ServerConfig {
    let config = observed.config.cloned().unwrap_or_default();
    match target.wanted_standbys().is_empty() {
        true => config,
        false => with_logins_blocked(config, observed.own_hba),
    }
}

fn log_client_logins(observed: &ObservedState<'_>, target: &TargetDb, steps: &mut Vec<Step>) {
    if !observed.process.logins_blocked {
        return;
    }
    steps.push(Step::Log(
        match client_logins(target, observed.process, observed.server) {
            ClientLogins::Allowed => LogMessage::LoginsAllowed {
                waits: !target.wanted_standbys().is_empty(),
            },
            ClientLogins::Blocked { missing } => LogMessage::LoginsBlocked { missing },
        },
    ));
}

/// Returns whether the server has to reload its files. The followed instance does not matter to a master.
fn needs_reload(current: &ServerConfig, wanted: &ServerConfig) -> bool {
    let same_upstream = wanted.upstream.is_none() || current.upstream == wanted.upstream;
    let same_files = current.parameters == wanted.parameters && current.hba == wanted.hba;
    !(same_upstream && same_files && current.blocks_client_logins == wanted.blocks_client_logins)
}

fn log_changes(current: Option<&ServerConfig>, wanted: &ServerConfig, steps: &mut Vec<Step>) {
    let unknown = ServerConfig::default();
    let before = current.unwrap_or(&unknown);
    if let Some(to) = wanted
        .upstream
        .as_ref()
        .filter(|to| before.upstream.as_ref() != Some(to))
    {
        steps.push(Step::Log(LogMessage::UpstreamChanged { to: to.clone() }));
    }
    // Without an earlier configuration every parameter would be logged as changed.
    if current.is_some() {
        let changes = changed_parameters(&before.parameters, &wanted.parameters);
        steps.extend(
            changes
                .into_iter()
                .map(|change| Step::Log(LogMessage::ParameterChanged(change))),
        );
    }
    steps.push(Step::Log(match before.parameters == wanted.parameters {
        true => LogMessage::ParametersUnchanged,
        false => LogMessage::ParametersChanged,
    }));
    steps.push(Step::Log(match before.hba == wanted.hba {
        true => LogMessage::HbaUnchanged,
        false => LogMessage::HbaChanged,
    }));
}

/// Returns whether to restart for parameters, and the log message about it. The cluster spec must allow it, and it must be
/// this instance's turn; a standby whose replay is paused until a restart is restarted in any case (keeper R24, 8.7).
fn decide_restart(target: &TargetDb, facts: &ServerFacts, upstream: Option<&Upstream>) -> (bool, Option<LogMessage>) {
    if !facts.restart_pending || facts.restart_can_wait {
        return (false, None);
    }
    let is_replay_blocked = upstream.is_some() && facts.replay_paused;
    if is_replay_blocked {
        return (true, Some(LogMessage::ReplayPaused));
    }
    if !target.automatic_restart {
        return (false, None);
    }
    match &facts.turn {
        // The first two are reported as problems, the last one was logged where it was read.
        RestartTurn::StandbysRefused | RestartTurn::Stuck(_) | RestartTurn::OthersUnknown => (false, None),
        // The end of this round publishes that it is pending.
        RestartTurn::Announce => (false, None),
        RestartTurn::Now => (true, Some(LogMessage::RestartDue)),
        RestartTurn::After(keeper) => (false, Some(LogMessage::RestartAfter { keeper: keeper.clone() })),
    }
}

fn start_as(upstream: Option<&Upstream>) -> StartAs {
    match upstream {
        Some(_) => StartAs::Standby,
        None => StartAs::Master,
    }
}
