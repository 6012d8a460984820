//! The sentinel's judgement: what the cluster should become, and why. A pure function of what was read, what is
//! remembered, and the time; reading, writing and remembering are left to the loop.
//!
//! Deliberately absent: synchronous replication (sentinel 8, N-18, N-9.5), standby clusters (N-26 to N-31) and the init
//! modes `existing` and `pitr`. A document that asks for them, or holds dbs that have them, is refused as a whole and
//! left as it is. Switchover (beyond X-2) will be another answer of `elect`.

mod check;
mod classify;
mod draft;
mod elect;
mod health;
mod initialise;
mod memory;
mod note;
mod observe;
mod pause;
mod propagate;
mod proxies;
mod situation;
mod standbys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::clock::Boottime;
use crate::model::{
    Checked, ClusterData, Db, DbInitMode, DbUid, FollowType, NotSupported, Phase, Timestamp, not_supported,
};
use crate::plan::check::{Planned, check};
use crate::plan::draft::Draft;
use crate::plan::situation::Situation;

pub use check::Fault;
pub use draft::Condition;
pub use memory::Memory;
pub use note::{Names, Note};
pub use observe::{
    Arrival, KeeperSighting, LIVENESS_PERIOD, LIVENESS_TTL, Observations, Observed, ProxySighting, Sightings, Standing,
};

/// Everything that a plan is made from, read together.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The cluster data, checked.
    pub data: &'a Checked,
    /// What was read with it.
    pub seen: &'a Observations,
    /// What the last successful round left.
    pub memory: &'a Memory,
    /// Which of this sentinel's leaderships this is; another one than remembered makes a first run (sentinel L-10.8).
    pub leadership: u64,
    /// When the reading had succeeded.
    pub now: Boottime,
    /// The same on the wall clock.
    pub wall: Timestamp,
}

/// Chance and fresh names, which come from outside.
pub struct Fresh<'a> {
    /// Gives another uid at every call.
    pub uid: &'a mut dyn FnMut() -> String,
    /// Any number, for a choice among equals.
    pub chance: u64,
}

impl Fresh<'_> {
    /// A uid that no db has: a db uid is never used again (sentinel 1.1).
    fn db_uid(&mut self, taken: &BTreeMap<DbUid, Db>) -> DbUid {
        loop {
            let uid = DbUid::from((self.uid)());
            if !taken.contains_key(&uid) {
                return uid;
            }
        }
    }

    /// An index below `count`, which is not zero.
    fn pick(&self, count: usize) -> usize {
        usize::try_from(self.chance % count as u64).expect("a remainder is below its divisor")
    }
}

/// How much a plan is in a hurry (sentinel E-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It decides something: at once.
    Now,
    /// Only times and positions differ: once per sleepInterval, which also shows that a leader lives (sentinel L-12).
    Refresh,
}

/// What the cluster should become, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The document to write.
    pub next: ClusterData,
    /// What to remember once the round has succeeded (sentinel W-4).
    pub memory: Memory,
    /// What it did, what it did not, and why.
    pub notes: Vec<Note>,
    /// When to look again although nothing has happened.
    pub wake_at: Option<Boottime>,
    /// What the write depends on, besides leadership and the revision read.
    pub conditions: Vec<Condition>,
    /// How much it is in a hurry.
    pub write: Write,
}

/// Why there is no plan: nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The document asks for what this version does not do.
    #[error(transparent)]
    NotSupported(NotSupported),
    /// sentinel I-1
    #[error("cannot choose initial master: no keepers registered")]
    NoKeepers,
    /// sentinel N-3
    #[error("master db {db} not available: repair or initialise the cluster data")]
    MissingMaster {
        /// The db that `status.master` names.
        db: DbUid,
    },
    /// sentinel I-8
    #[error("unknown cluster phase {phase:?}")]
    UnknownPhase {
        /// As stored.
        phase: String,
    },
    /// The plan broke an invariant: a mistake of this program, which must not reach the store.
    #[error("the plan breaks invariants: {}", list(.0))]
    Faulty(Vec<Fault>),
}

fn list(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
    faults.join("; ")
}

/// What the cluster should become, from what was read and remembered.
///
/// # Errors
/// When nothing may or can be decided; then nothing is written, and only the readings are remembered.
pub fn plan(input: &Input<'_>, fresh: &mut Fresh<'_>) -> Result<Plan, Refusal> {
    refuse_unsupported(input.data)?;
    let Input {
        data: Checked { data, spec },
        now,
        wall,
        ..
    } = *input;
    let (mut memory, first_run) = remember(input);
    let mut draft = Draft::from(data);
    if !first_run {
        health::derive(&mut draft, &mut memory, spec, now, wall);
    }
    let proxies = proxies::judge(data, &mut memory, spec, now, &mut draft.wakes);
    let reports = health::reports(&memory, spec, now);
    let basis = memory.clone();
    let situation = Situation {
        before: data,
        data: draft.next.clone(),
        spec,
        reports,
        proxies,
        memory: &basis,
        first_run,
        now,
        wall,
    };
    memory.note_master(&situation);
    decide(&mut draft, &situation, fresh)?;
    propagate::raise_generations(data, &mut draft.next);
    let planned = Planned {
        before: data,
        situation: &situation,
        next: &draft.next,
        conditions: &draft.conditions,
    };
    let faults = check(&planned);
    if !faults.is_empty() {
        return Err(Refusal::Faulty(faults));
    }
    memory.note_asked(draft.next.dbs(), now);
    if let Some(elected) = draft.elected.take() {
        memory.election = Some(elected);
    }
    let write = if propagate::decisions(data) == propagate::decisions(&draft.next) {
        Write::Refresh
    } else {
        Write::Now
    };
    propagate::set_change_times(data, &mut draft.next, wall);
    if first_run {
        // Nothing was derived: what follows from the infos read is for the next round, which need not wait.
        draft.wakes.after(now, now);
    }
    let Draft {
        next,
        notes,
        wakes,
        conditions,
        elected: _,
    } = draft;
    Ok(Plan {
        next,
        memory,
        notes,
        wake_at: wakes.next,
        conditions,
        write,
    })
}

/// What to remember of a round whose plan could not be made or written: the reading, and that what was new in it is still
/// to be acted upon (sentinel W-4). The first run of a leadership is over even then (L-10.8).
pub fn unwritten(input: &Input<'_>) -> Memory {
    remember(input).0.unplanned()
}

/// The memory to decide with, and whether it is that of a first run (sentinel L-13, L-15).
fn remember(input: &Input<'_>) -> (Memory, bool) {
    let read = input.memory.after_reading(input.seen, input.data, input.now);
    let known = input.memory.leadership == Some(input.leadership);
    if known && input.memory.sightings.is_of(&input.data.cluster().uid) {
        return (read, false);
    }
    let mut memory = Memory::of_leadership(input.leadership, read.sightings);
    // sentinel C-1
    memory.note_asked(input.data.data.dbs(), input.now);
    memory.note_unfinished(&input.data.data, input.now);
    (memory, true)
}

/// The decisions, in the order that is policy (sentinel 6, 7, 10).
fn decide(draft: &mut Draft, situation: &Situation<'_>, fresh: &mut Fresh<'_>) -> Result<(), Refusal> {
    match &draft.cluster().status.phase {
        Phase::Initializing => initialise::initialise(draft, situation, fresh)?,
        Phase::Normal => govern(draft, situation, fresh)?,
        other @ Phase::Other(_) => {
            return Err(Refusal::UnknownPhase {
                phase: other.to_string(),
            });
        }
    }
    // The end of the initialisation may have changed the parameters (sentinel G-1).
    let parameters = draft
        .cluster()
        .spec
        .as_ref()
        .map(|spec| spec.pg_parameters.clone())
        .unwrap_or_default();
    let spec = crate::model::Spec {
        pg_parameters: parameters,
        ..situation.spec.clone()
    };
    propagate::propagate(draft, &spec);
    Ok(())
}

/// Phase normal (sentinel 7).
fn govern(draft: &mut Draft, situation: &Situation<'_>, fresh: &mut Fresh<'_>) -> Result<(), Refusal> {
    let Some((master, db)) = situation.master() else {
        return Err(Refusal::MissingMaster {
            db: situation.data.master_uid().cloned().unwrap_or_default(),
        });
    };
    standbys::forget_dead_keepers(draft, situation);
    if !elect::elect(draft, situation, master, db) {
        let ready = situation.reported_well(master, db);
        proxies::announce(draft, &situation.proxies, master, ready);
        standbys::keep_master(draft, master);
        if db.status.healthy && memory::converged(db) {
            standbys::arrange(draft, situation, master, db, fresh);
        }
    }
    let wanted = draft.cluster().status.master.clone();
    standbys::list_followers(draft, master, &wanted);
    Ok(())
}

/// Refuses a document that asks for what is deliberately absent here: half of it would be lost otherwise.
fn refuse_unsupported(checked: &Checked) -> Result<(), Refusal> {
    not_supported(&checked.spec).map_err(Refusal::NotSupported)?;
    let absent = |what| Err(Refusal::NotSupported(NotSupported(what)));
    for db in checked.data.dbs().values() {
        let spec = &db.spec;
        let waits = spec.synchronous_replication
            || spec
                .synchronous_standbys
                .as_ref()
                .is_some_and(|names| !names.is_empty())
            || spec
                .external_synchronous_standbys
                .as_ref()
                .is_some_and(|names| !names.is_empty());
        if waits {
            return absent("a db with synchronousReplication");
        }
        if spec
            .follow_config
            .as_ref()
            .is_some_and(|follow| follow.kind == FollowType::External)
        {
            return absent("a db that follows another cluster");
        }
        match spec.init_mode {
            DbInitMode::Existing => return absent("a db with initMode existing"),
            DbInitMode::Pitr => return absent("a db with initMode pitr"),
            _ => {}
        }
    }
    Ok(())
}
