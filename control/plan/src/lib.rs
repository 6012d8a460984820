//! The sentinel's decisions: what the cluster data should become, and why. A pure function of what was read, what is
//! remembered and the time. Reading and writing are left to the loop, and so is when the notes of a plan are logged.
//!
//! Cluster data that ask for what `model::support` lists as not supported are refused as a whole and left unchanged.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod classify;
mod condition;
mod draft;
mod elect;
mod election_backoff;
mod entropy;
mod failover_refusal;
mod health;
mod history;
mod in_sync;
mod initialise;
mod memory;
mod note;
mod observation;
mod outage;
mod plan_error;
mod propagate;
mod proxies;
mod proxy_view;
mod report;
mod routine;
mod standbys;
mod switchover;
mod switchover_reason;
mod switchover_view;
mod synchronous;
#[cfg(test)]
mod tests;
mod view;

use crate::check::check;
use crate::check::transition::Transition;
use crate::draft::Draft;
use crate::health::HealthInput;
use crate::switchover::SwitchoverRound;
use crate::switchover_view::SwitchoverView;
use crate::view::PlanView;
use base::clock::Boottime;
use model::{CheckedClusterData, ClusterData, Db, DbUid, KeeperUid, Phase, SwitchoverReport, Timestamp, Undecidable};

pub use condition::{Condition, OrderFate, RequestFate};
pub use entropy::Entropy;
pub use failover_refusal::FailoverRefusal;
pub use history::{Arrival, History, KeeperHistory, ProxyHistory};
pub use memory::Memory;
pub use note::{DbList, Note, ProxyList};
pub use observation::{Observations, Observed, ObservedOrder};
pub use plan_error::{PlanError, Violation};
pub use routine::RoutineInfos;
pub use switchover_reason::{SWITCHOVER_FAIL_INTERVAL_MIN, SwitchoverReason, Unfit};
pub use switchover_view::order_ttl;
pub use synchronous::missing_synchronous_standbys;

/// The input of a plan: the cluster data, the infos read with it, the memory and the time.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The cluster data.
    pub data: &'a CheckedClusterData,
    /// The infos and liveness keys read in the same transaction.
    pub observations: &'a Observations,
    /// The memory of the last successful round.
    pub memory: &'a Memory,
    /// Number of this leadership. If it differs from the one in memory, this is a first run (sentinel L-10.8).
    pub leadership: u64,
    /// When the read completed.
    pub now: Boottime,
    /// The same time on the wall clock.
    pub wall: Timestamp,
}

/// How soon a plan has to be written (sentinel E-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// It contains a decision: write it now.
    Immediate,
    /// Only times and positions differ: write it once per refresh interval (sentinel E-9), which also shows that a leader is
    /// running (sentinel L-12).
    Periodic,
}

/// The cluster data to write, with the reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The cluster data to write.
    pub next: ClusterData,
    /// The memory once the round has succeeded (sentinel W-4).
    pub memory: Memory,
    /// What was decided, what was not, and why.
    pub notes: Vec<Note>,
    /// When to plan again even if nothing changes.
    pub wake_at: Option<Boottime>,
    /// Conditions of the write besides leadership and the revision read.
    pub conditions: Vec<Condition>,
    /// How soon it has to be written.
    pub urgency: Urgency,
    /// How far the last switchover is that this leader has carried out; it is published in the sentinel's info.
    pub switchover: Option<SwitchoverReport>,
    /// An order under the lease of this leader stays: the lease has to be renewed (extensions ).
    pub keeps_order: bool,
    /// There was a request for a switchover, or an order.
    in_switchover: bool,
}

/// Returns the cluster data to write, from what was read and remembered.
///
/// # Errors
/// Nothing may or can be decided. Then nothing is written, and only what was read is remembered.
pub fn plan(input: &PlanInput<'_>, entropy: &mut Entropy<'_>) -> Result<Plan, PlanError> {
    input.data.check_decidable()?;
    let PlanInput {
        data: CheckedClusterData { data, spec },
        now,
        wall,
        ..
    } = *input;
    let (mut memory, first_run) = memory_for_round(input);
    let switchover = SwitchoverView::of(input.observations);
    memory.record_orders(input.observations, data, spec.fail_interval, now);
    let reports = report::collect(&memory.history, spec, now);
    let mut draft = Draft::from(data);
    // At a first run the memory is empty, so every timer would start now. The persisted statuses stand (sentinel H-2).
    if !first_run {
        let reports = &reports;
        let health = HealthInput {
            reports,
            switchover,
            spec,
            now,
            wall,
        };
        health::update_health(&mut draft, &mut memory, health);
    }
    memory.record_proxies_closed(data, now);
    let proxies = proxy_view::assess(data, &memory, spec, now);
    draft.deadlines.wake_after(proxies.deadline, now);
    // The decisions use the memory from before `record_master_health`: what it records counts in the next round.
    let memory_for_decisions = memory.clone();
    let view = PlanView {
        before: data,
        data: draft.next.clone(),
        spec,
        reports,
        proxies,
        failover: input.observations.failover.as_ref(),
        switchover,
        memory: &memory_for_decisions,
        first_run,
        now,
        wall,
    };
    health::record_master_health(&view, &mut memory);
    decide(&mut draft, &view, entropy)?;
    memory.switchover = switchover::follow_up(&mut draft, &view);
    propagate::raise_generations(data, &mut draft.next);
    check_invariants(&draft, &view)?;
    Ok(finish(draft, memory, &view))
}

impl Plan {
    /// Returns whether this leader carries out a switchover, from its first step to the announcement of the new master.
    pub fn leads_switchover(&self) -> bool {
        self.switchover.as_ref().is_some_and(|report| !report.state.is_end())
    }

    /// Returns the infos that may be published again without another round: none after a decision, or while something is
    /// noted, which may depend on positions, or a db is in error (sentinel E-1): reads that are further apart would count less
    /// of an outage's time for its failInterval (E-3). None during a switchover, either, whose steps depend on positions.
    pub fn routine_infos(&self) -> RoutineInfos {
        let in_switchover = self.in_switchover || self.leads_switchover();
        let is_settled = self.notes.is_empty() && self.memory.db_errors.is_empty() && !in_switchover;
        match self.urgency {
            Urgency::Periodic if is_settled => RoutineInfos::of(&self.next, &self.memory),
            Urgency::Periodic | Urgency::Immediate => RoutineInfos::default(),
        }
    }
}

/// Returns the memory after a round whose plan could not be made or written: it holds what was read, and what was new
/// is still treated as new in the next round (sentinel W-4). The first run of a leadership is over even then (L-10.8).
pub fn memory_after_failed_round(input: &PlanInput<'_>) -> Memory {
    memory_for_round(input).0.deferring_arrivals()
}

/// Returns the memory to decide with, and whether this is a first run (sentinel L-13, L-15).
fn memory_for_round(input: &PlanInput<'_>) -> (Memory, bool) {
    let read = input.memory.after_read(input.observations, input.data, input.now);
    let known = input.memory.leadership == Some(input.leadership);
    if known && input.memory.history.is_for(&input.data.cluster().uid) {
        return (read, false);
    }
    let mut memory = Memory::for_leadership(input.leadership, read.history);
    // The time for a generation that is already requested begins with this leadership (sentinel C-1).
    memory.record_pending(input.data.data.dbs(), input.now);
    // A master that is not announced because of a switchover was not elected just now.
    if !SwitchoverView::of(input.observations).is_live(&input.data.data) {
        memory.adopt_unfinished_election(&input.data.data, input.now);
    }
    (memory, true)
}

/// Makes the decisions. Their order matters (sentinel 6, 7, 10).
fn decide(draft: &mut Draft, view: &PlanView<'_>, entropy: &mut Entropy<'_>) -> Result<(), PlanError> {
    match &draft.cluster().status.phase {
        Phase::Initializing => {
            switchover::refuse_without_master(draft, view);
            initialise::initialise(draft, view, entropy)?;
        }
        Phase::Normal => plan_normal(draft, view, entropy)?,
        Phase::Other(phase) => return Err(Undecidable::UnknownPhase { phase: phase.clone() }.into()),
    }
    // Initialisation that ends in this plan may have changed the parameters (sentinel G-1).
    let parameters = draft
        .cluster()
        .spec
        .as_ref()
        .map(|spec| spec.pg_parameters.clone())
        .unwrap_or_default();
    let spec = model::Spec {
        pg_parameters: parameters,
        ..view.spec.clone()
    };
    propagate::propagate(draft, &spec);
    Ok(())
}

/// Makes the decisions of phase normal (sentinel 7).
fn plan_normal(draft: &mut Draft, view: &PlanView<'_>, entropy: &mut Entropy<'_>) -> Result<(), PlanError> {
    let Some((master, db)) = view.master() else {
        let db = view.data.master_uid().cloned().unwrap_or_default();
        return Err(Undecidable::MissingMaster { db }.into());
    };
    standbys::remove_dead_keepers(draft, view);
    let switchover = switchover::advance(draft, view, master, db);
    let elected = match switchover {
        SwitchoverRound::Absent => elect::elect(draft, view, master, db),
        SwitchoverRound::Held => false,
        SwitchoverRound::Elected => true,
    };
    // An election changes nothing but the two dbs and closes the proxies (sentinel N-9); everything else waits for a
    // later round.
    if !elected {
        let is_held = switchover != SwitchoverRound::Absent;
        announce(draft, view, master, db, is_held);
        standbys::set_master_role(draft, view, master);
        // Everything else needs a master that standbys can be compared with and copied from.
        if db.status.healthy && db.is_converged() {
            standbys::manage_standbys(draft, view, master, db, entropy);
        }
    }
    let current = draft.cluster().status.master.clone();
    standbys::set_followers(draft, master, &current);
    Ok(())
}

/// Announces the master, unless a switchover holds that up (extensions ).
fn announce(draft: &mut Draft, view: &PlanView<'_>, master: &DbUid, db: &Db, is_held: bool) {
    let was_closed = draft.are_proxies_closed();
    if is_held && was_closed {
        return;
    }
    // The first clients of a synchronous master must not commit before it waits for standbys (synchronous SY-8).
    let waits = !view.spec_is_synchronous() || db.spec.synchronous_replication;
    let ready = waits && view.is_reported_healthy(master, db);
    proxies::announce(draft, &view.proxies, master, ready);
    let was_ordered = view.memory.ordered.contains_key(&db.spec.keeper_uid);
    if was_ordered && was_closed && !draft.are_proxies_closed() {
        // Its keeper may be stopping it (extensions ).
        draft.require(view.info_unchanged(db));
    }
}

/// Recomputes the invariants from the finished plan, so that a bug in a decision cannot reach the store.
fn check_invariants(draft: &Draft, view: &PlanView<'_>) -> Result<(), PlanError> {
    let violations = check(&Transition {
        before: view.before,
        derived: &view.data,
        next: &draft.next,
        conditions: &draft.conditions,
        failover: view.failover,
        switchover: view.switchover.request,
        orders: view.switchover.orders,
        spec: view.spec,
        memory: view.memory,
        first_run: view.first_run,
        now: view.now,
        wall: view.wall,
    });
    if violations.is_empty() {
        Ok(())
    } else {
        Err(PlanError::BrokenInvariants(violations))
    }
}

/// Completes a plan: its memory, times and urgency.
fn finish(draft: Draft, mut memory: Memory, view: &PlanView<'_>) -> Plan {
    let Draft {
        mut next,
        notes,
        mut deadlines,
        conditions,
        elected,
        switchover,
    } = draft;
    memory.record_pending(next.dbs(), view.now);
    memory.election = elected.or(memory.election);
    // Before the change times are set, which differ in every plan that changes anything.
    let is_routine = propagate::without_routine_changes(view.before) == propagate::without_routine_changes(&next);
    let urgency = if is_routine && !conditions.iter().any(Condition::changes_key) {
        Urgency::Periodic
    } else {
        Urgency::Immediate
    };
    propagate::set_change_times(view.before, &mut next, view.wall);
    if view.first_run {
        // Nothing was derived in a first run. Plan again without delay, so that the infos read take effect.
        deadlines.wake_after(view.now, view.now);
    }
    Plan {
        next,
        memory,
        notes,
        wake_at: deadlines.next,
        keeps_order: keeps_order(view, &conditions),
        in_switchover: view.switchover.is_live(view.before),
        conditions,
        urgency,
        switchover,
    }
}

/// Returns whether an order under the lease of this leader is left as it is.
fn keeps_order(view: &PlanView<'_>, conditions: &[Condition]) -> bool {
    let is_changed = |uid: &KeeperUid| {
        let about = |condition: &Condition| matches!(condition, Condition::Order { keeper, .. } if keeper == uid);
        conditions
            .iter()
            .any(|condition| about(condition) && condition.changes_key())
    };
    let mut orders = view.switchover.orders.iter();
    orders.any(|(uid, observed)| observed.is_own && !is_changed(uid))
}
