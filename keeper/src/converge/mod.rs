//! Wanted db and observed instance → next steps, as plain functions of what was seen. Reading the store, running
//! programs and asking the server is left to the loop, which does the steps in their order.

mod claim;
mod configure;
mod initialise;
mod keep;
mod line;
mod orders;
mod role;
mod seen;
mod slots;
mod source;
mod step;
mod turn;
mod wanted;

pub use claim::{claimed, lost_to};
pub use keep::{Diverged, End, EndState, Fork, Source, judge_keep};
pub use line::{Change, Line};
pub use orders::{Be, Down, Orders, Reading, Target, TargetRole, Unchanged, Upstream, orders};
pub use seen::{Asked, Copy, CopyPause, Data, Facts, Known, Local, LocalDb, LocalRole, Seen, Server, Sets};
pub use slots::{SlotChange, is_foreign_slot, is_short_of_slots};
pub use source::{Recorded, WrongSource, judge_source};
pub use step::{Plan, RestartNeed, StartAs, Step, Then};
pub use turn::{Peer, Turn, fingerprint, restart_turn};
pub use wanted::{changed_fields, changed_parameters, is_only_configuration};

use control::model::DbInitMode;

use crate::places::Clear;

#[cfg(test)]
mod tests;

/// What the keeper does next, given what it sees (keeper 4).
///
/// The steps are done in order and the first one that fails ends the pass, unless it says that it may fail. A plan that
/// ends in [`Then::LookAgain`] changed what the rest depends on: look again and plan again, in the same pass.
pub fn plan(seen: &Seen<'_>) -> Plan {
    if let Some(plan) = remember_cluster(seen) {
        return plan;
    }
    let target = match &seen.orders.be {
        Be::Unchanged(why) => return Plan::hold(why.clone()),
        Be::Down(why) => return stay_down(seen, why),
        Be::Db(target) => target,
    };
    if let Some(plan) = discard_half_made(seen, target) {
        return plan;
    }
    if seen.local.db.uid != target.db || is_half_made(seen) {
        return initialise::initialise(seen, target);
    }
    role::converge_role(seen, target)
}

/// The cluster uid is saved before anything else is done in that cluster (keeper R7).
fn remember_cluster(seen: &Seen<'_>) -> Option<Plan> {
    let cluster = seen.orders.cluster.as_ref()?;
    (*cluster != seen.local.cluster).then(|| Plan {
        steps: vec![Step::SaveCluster(cluster.clone())],
        then: Then::LookAgain,
    })
}

/// No db, a boot uuid that nobody acknowledged, or an old master kept for its possible return: not running (keeper R9,
/// R10, I8, I20).
fn stay_down(seen: &Seen<'_>, why: &Down) -> Plan {
    let mut steps = vec![Step::Tell(Line::StaysDown(why.clone()))];
    if *seen.server != Server::Down {
        steps.push(Step::Stop);
    }
    if let Down::NotTheMaster { db, .. } = why {
        let ours = seen.local.db.uid == *db && seen.local.data != Data::Absent;
        if ours && seen.known.said_stopped.as_ref() != Some(db) {
            steps.push(Step::SayStopped(db.clone()));
        }
    }
    Plan {
        steps,
        then: Then::Done,
    }
}

/// Whether an initialisation was begun and did not complete, so that there is nothing to build on.
///
/// One whose data this very process completed is gone on with: the sentinel rewrites the document all the time, and a
/// pass that has to read it again must not throw a fresh copy away.
fn is_half_made(seen: &Seen<'_>) -> bool {
    let db = &seen.local.db;
    db.initializing && seen.known.complete.as_ref() != Some(&db.uid)
}

/// What is half made goes (keeper R12), but where a copy is to take its place not before the source answers (W10): it
/// may be all of an old master, tried as it was, whose new master has failed a moment later.
fn discard_half_made(seen: &Seen<'_>, target: &Target) -> Option<Plan> {
    if !is_half_made(seen) || target.spec.init_mode == DbInitMode::Resync {
        return None;
    }
    let db = &seen.local.db;
    let mut steps = vec![Step::Tell(Line::HalfMade { db: db.uid.clone() })];
    if *seen.server != Server::Down {
        steps.push(Step::Stop);
    }
    steps.push(Step::ClearData(Clear {
        db: db.uid.to_string(),
        bytes: Some(0), // nothing takes their place
        places: Vec::new(),
        lacked_room: false,
    }));
    steps.push(Step::SaveDb(LocalDb::default()));
    Some(Plan {
        steps,
        then: Then::LookAgain,
    })
}
