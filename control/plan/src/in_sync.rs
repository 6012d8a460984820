//! The sets of synchronous standbys of a master, and which of them its last report proves to be in sync (synchronous
//! SY-1, SY-3). How the sets change is left to `synchronous`, who is elected to `elect`.

use std::collections::BTreeSet;

use crate::memory::FirstPosition;
use crate::view::PlanView;
use model::{Db, DbUid, PostgresState};

/// Returns the wanted set of a db: the standbys that its commits wait for.
pub(crate) fn wanted(db: &Db) -> BTreeSet<DbUid> {
    db.spec.synchronous_standbys.iter().flatten().cloned().collect()
}

/// Returns the known set of a db: the standbys that were proven to be in sync.
pub(crate) fn known(db: &Db) -> BTreeSet<DbUid> {
    db.status.synchronous_standbys.iter().flatten().cloned().collect()
}

/// Returns the electable set of a db: the wanted standbys that were proven to be in sync. Every commit that was
/// acknowledged has been flushed by each of them (synchronous SY-1).
pub(crate) fn electable(db: &Db) -> BTreeSet<DbUid> {
    known(db).intersection(&wanted(db)).cloned().collect()
}

/// Returns the wanted standbys of the master that its last report proves to be in sync.
///
/// The report must be about the generation in the data: an earlier one is about an earlier `synchronous_standby_names`. That PostgreSQL shows a
/// standby as `sync` does not mean that it has flushed what was acknowledged under the earlier value. A keeper of ours
/// compares it with a mark; from other reports the leader takes only a standby that has itself reported a position at
/// or after the first one that the master reported with this generation (synchronous SY-3).
pub(crate) fn proven(view: &PlanView<'_>, master: &DbUid, db: &Db) -> BTreeSet<DbUid> {
    let report = view.report_of(db).filter(|report| report.reports_healthy(master));
    let state = report.and_then(|report| report.state_of(master));
    let Some(state) = state.filter(|state| state.generation == db.generation) else {
        return BTreeSet::new();
    };
    let wanted = wanted(db);
    let reported = state.synchronous_standbys.iter().flatten();
    let of_this_master = reported.filter(|uid| wanted.contains(*uid));
    of_this_master
        .filter(|uid| is_proven(view, uid, master, state))
        .cloned()
        .collect()
}

/// Returns whether a standby that the master reports as in sync has all that was acknowledged under earlier names.
fn is_proven(view: &PlanView<'_>, uid: &DbUid, master: &DbUid, state: &PostgresState) -> bool {
    // A former master that is still listed does not follow this one.
    let Some(db) = view.data.dbs().get(uid).filter(|db| db.is_standby_type()) else {
        return false;
    };
    if state.sync_marked {
        return true;
    }
    let first = FirstPosition::of(master, state);
    let earlier = view.memory.first_position.as_ref().filter(|seen| seen.is_of(&first));
    let bound = earlier.map_or(first.position, |seen| seen.position.min(first.position));
    let own = view.report_of(db).filter(|report| report.reports_healthy(uid));
    own.and_then(|report| report.state_of(uid))
        .is_some_and(|own| own.timeline_id == state.timeline_id && own.xlog_pos >= bound)
}
