//! An election at an operator's request, recomputed from the request: it gives up what the other rules keep (synchronous
//! SY-20), so all that it must still hold to is here. What holds for every election is left to `election`.

use crate::check::transition::{Transition, announced, master, state_of};
use crate::check::violations::Violations;
use crate::condition::{Condition, RequestFate};
use model::{Db, DbUid};

/// Checks that a request is deleted only by the election that it asks for (synchronous SY-20).
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    let deletes = transition.conditions.iter().any(|condition| {
        let fate = match condition {
            Condition::FailoverRequest { fate, .. } => *fate,
            _ => RequestFate::Kept,
        };
        fate == RequestFate::Deleted
    });
    let (old, new) = (master(transition.derived), master(transition.next));
    let is_done = transition.failover.is_some_and(|(request, _)| {
        let elected = transition.derived.dbs().get(&new);
        old == request.master && elected.is_some_and(|db| db.spec.keeper_uid == request.to) && old != new
    });
    violations.require(!deletes || is_done, "SY-20", || {
        "a failover request is deleted that has not been carried out".to_owned()
    });
}

/// Returns whether an operator asked for exactly this election, and nothing but what was acknowledged is given up.
pub(super) fn is_requested(transition: &Transition<'_>, old_uid: &DbUid, old: &Db, uid: &DbUid, db: &Db) -> bool {
    let Some((request, revision)) = transition.failover else {
        return false;
    };
    let asks_for_this = request.accept_data_loss && request.master == *old_uid && request.to == db.spec.keeper_uid;
    let deletes = transition.conditions.contains(&Condition::FailoverRequest {
        revision: *revision,
        fate: RequestFate::Deleted,
    });
    let overdue = transition.is_overdue(old_uid, old, transition.spec.convergence_timeout);
    let has_failed = !old.status.healthy || overdue;
    // No proxy may still forward to the old master, and none was sent to it when this was read.
    let is_closed = announced(transition.before).is_empty() && transition.forwarding_proxies().is_empty();
    asks_for_this && deletes && has_failed && is_closed && serves_as_standby(transition, uid, db) && {
        let keeps_timelines = transition.derived.dbs().values().all(|other| {
            let comparable = other.status.system_id == db.status.system_id;
            !comparable || other.status.timeline_id <= db.status.timeline_id
        });
        db.status.system_id == old.status.system_id && keeps_timelines
    }
}

/// Returns whether a standby with complete data is healthy by its keeper's own present report, which must not change
/// before the write.
fn serves_as_standby(transition: &Transition<'_>, uid: &DbUid, db: &Db) -> bool {
    let keeper = transition.derived.keepers().get(&db.spec.keeper_uid);
    let is_up = db.status.healthy && keeper.is_some_and(|keeper| keeper.status.healthy && !keeper.status.force_fail);
    let is_complete = db.status.current_generation > 0;
    let is_unchanged = transition.info_of(db).is_some_and(|known| {
        let condition = Condition::KeeperInfo {
            key: known.last.key.clone(),
            revision: Some(known.last.revision),
        };
        let own = state_of(known, uid).is_some_and(|state| state.healthy && state.generation > 0);
        own && transition.is_running(known) && transition.conditions.contains(&condition)
    });
    db.is_standby_type()
        && is_up
        && is_complete
        && is_unchanged
        && transition.is_reported_healthy(uid, db)
        && transition.may_be_master(db)
}
