//! An election: it is needed and in time, the elected db is eligible and the best, and nothing else changes (INV-7 to
//! INV-12, INV-31, INV-32, F-10, X-1.5).

use crate::check::requested::is_requested;
use crate::check::switchover::is_switchover;
use crate::check::transition::{Transition, announced, known_set, master, phase, state_of, wanted_set};
use crate::check::violations::Violations;
use crate::condition::Condition;
use model::{Db, DbUid, Phase, Stopped};

/// The two dbs of an election, with derived health.
#[derive(Clone, Copy)]
struct Change<'a> {
    old_uid: &'a DbUid,
    old: &'a Db,
    new_uid: &'a DbUid,
    new: &'a Db,
}

/// Checks the election that a plan contains, if it does.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    let (old_uid, new_uid) = (&master(transition.derived), &master(transition.next));
    if old_uid == new_uid || phase(transition.before) != Some(&Phase::Normal) {
        return;
    }
    let dbs = transition.derived.dbs();
    let (Some(old), Some(new)) = (dbs.get(old_uid), dbs.get(new_uid)) else {
        violations.require(false, "INV-8", || {
            format!("{new_uid} is elected for {old_uid}, and one of them does not exist")
        });
        return;
    };
    let change = Change {
        old_uid,
        old,
        new_uid,
        new,
    };
    check_need(transition, change, violations);
    check_eligibility(transition, change, violations);
    check_condition(transition, change, violations);
    check_timing(transition, change, violations);
    check_nothing_else(transition, change, violations);
}

/// Returns whether a switchover elects the new master, which then has all that the old one wrote (extensions X-2).
fn by_switchover(transition: &Transition<'_>, change: Change<'_>) -> bool {
    is_switchover(transition, (change.old_uid, change.old), (change.new_uid, change.new))
}

/// Returns how the old master was stopped, if its keeper left then (extensions ).
fn stopped_to_leave<'a>(transition: &'a Transition<'_>, change: Change<'_>) -> Option<&'a Stopped> {
    let info = &transition.info_of(change.old)?.last.info;
    info.stopped.as_ref().filter(|_| info.leaving)
}

/// Returns whether the old master was stopped cleanly by a leaving keeper (extensions ).
fn has_left(transition: &Transition<'_>, change: Change<'_>) -> bool {
    stopped_to_leave(transition, change).is_some_and(|stopped| stopped.clean)
}

/// Returns whether a standby was in sync with the old master, as the document that was read has it (synchronous SY-1).
fn was_in_sync(change: Change<'_>, uid: &DbUid) -> bool {
    known_set(change.old).contains(uid) && wanted_set(change.old).contains(uid)
}

/// Returns whether a standby has received everything that the old master wrote before a clean stop (synchronous SY-2).
fn has_received_all(transition: &Transition<'_>, change: Change<'_>, db: &Db) -> bool {
    stopped_to_leave(transition, change).is_some_and(|stopped| {
        let reached = stopped.lsn.is_some_and(|lsn| db.status.xlog_pos >= lsn);
        stopped.clean && reached && stopped.timeline_id == db.status.timeline_id && db.is_standby_type()
    })
}

/// Checks that the old master does not serve (INV-7).
fn check_need(transition: &Transition<'_>, change: Change<'_>, violations: &mut Violations) {
    let Change { old_uid, old, .. } = change;
    let overdue = transition.is_overdue(old_uid, old, transition.spec.convergence_timeout);
    // A standby that was in sync has all that was acknowledged, however a leaving keeper stopped the master
    // (synchronous SY-12).
    let left = stopped_to_leave(transition, change);
    let left = left.is_some_and(|stopped| stopped.clean || old.spec.synchronous_replication);
    let needed = !old.status.healthy || overdue || left || by_switchover(transition, change);
    violations.require(needed, "INV-7", || format!("{old_uid} is replaced although it serves"));
}

/// Checks that the new master may be elected (INV-8, INV-9), and that no better db was passed over (INV-11).
fn check_eligibility(transition: &Transition<'_>, change: Change<'_>, violations: &mut Violations) {
    let Change {
        old_uid,
        old,
        new_uid,
        new,
    } = change;
    let requested = is_requested(transition, old_uid, old, new_uid, new);
    let same_timeline = new.status.timeline_id == old.status.timeline_id;
    let may_be_master = transition.may_be_master(new) || new.is_master_type();
    let regular = transition.is_good(new, old) && same_timeline && may_be_master;
    let fallback = is_fallback(transition, new);
    violations.require(regular || fallback || requested, "INV-8", || {
        format!("{new_uid} is elected and not eligible")
    });
    let lag = new.status.xlog_pos.bytes_behind(old.status.xlog_pos);
    let near = lag <= i128::from(transition.spec.max_standby_lag);
    let sync = old.spec.synchronous_replication;
    violations.require(near || fallback || sync || requested, "INV-9", || {
        format!("{new_uid} is elected and {lag} bytes behind")
    });
    let unannounced = announced(transition.before) != *change.old_uid;
    let complete = was_in_sync(change, new_uid)
        || has_received_all(transition, change, new)
        || by_switchover(transition, change)
        || (fallback && unannounced);
    violations.require(complete || !sync || requested, "INV-10", || {
        format!("{new_uid} is elected and not known to have every commit that was acknowledged")
    });
    if !fallback {
        check_no_better(transition, change, requested, violations);
    }
}

/// Returns whether a db is a former master that may be elected again. Its info must not change before the write, and no
/// proxy may be forwarding, because what clients write meanwhile would be lost.
fn is_fallback(transition: &Transition<'_>, new: &Db) -> bool {
    let on_condition = transition.info_of(new).is_some_and(|known| {
        let condition = Condition::KeeperInfo {
            key: known.last.key.clone(),
            revision: Some(known.last.revision),
        };
        transition.is_running(known) && !known.last.info.leaving && transition.conditions.contains(&condition)
    });
    new.is_master_type() && on_condition && transition.forwarding_proxies().is_empty()
}

/// Checks that no better candidate was passed over, and by an operator's request none at all (INV-11).
fn check_no_better(transition: &Transition<'_>, change: Change<'_>, requested: bool, violations: &mut Violations) {
    let Change {
        old_uid,
        old,
        new_uid,
        new,
    } = change;
    let switched = by_switchover(transition, change);
    let left = has_left(transition, change) || switched;
    let named = transition.switchover.and_then(|(request, _)| request.to.as_ref());
    // First by whether the keeper has it healthy, then by whether that is current.
    let rank = |uid: &DbUid, db: &Db| {
        let known = transition.info_of(db);
        let unhealthy = known.is_some_and(|known| state_of(known, uid).is_some_and(|state| !state.healthy));
        let current = known.is_some_and(|known| transition.is_current(known));
        (!unhealthy, !unhealthy && current)
    };
    let others = transition.derived.dbs().iter().filter(|(uid, _)| *uid != old_uid);
    for (uid, db) in others.filter(|(_, db)| db.is_standby_type()) {
        let is_ending = transition.info_of(db).is_some_and(|known| {
            let info = &known.last.info;
            info.leaving || !info.stopping.is_empty() || info.stopped.is_some()
        });
        let is_candidate = transition.is_good(db, old)
            && transition.may_be_master(db)
            && !is_ending
            && db.status.timeline_id == old.status.timeline_id
            && !(switched && named.is_some_and(|keeper| *keeper != db.spec.keeper_uid));
        let (own, other) = (rank(uid, db), rank(new_uid, new));
        let (at, of_elected) = (db.status.xlog_pos, new.status.xlog_pos);
        // A db with a better report is still no candidate when it lacks too much (C-10), or anything at all after a
        // clean stop.
        let lag = at.bytes_behind(old.status.xlog_pos);
        let sync = old.spec.synchronous_replication;
        let near = lag <= i128::from(transition.spec.max_standby_lag);
        let eligible = if sync { was_in_sync(change, uid) } else { near };
        let complete = eligible && (!left || at >= of_elected);
        let better = complete && (own > other || (own == other && at > of_elected));
        let passed_over = if requested { eligible && uid != new_uid } else { better };
        violations.require(!(is_candidate && passed_over), "INV-11", || {
            format!("{uid} is more advanced or better reported than the one elected")
        });
    }
}

/// Checks that the write depends on the info of the old master's keeper.
fn check_condition(transition: &Transition<'_>, change: Change<'_>, violations: &mut Violations) {
    let Change {
        old_uid, old, new_uid, ..
    } = change;
    let known = transition.info_of(old).filter(|known| known.key_exists);
    // An info that cannot be decoded, or is of another cluster, is found by the keeper's uid.
    let own_key = known.map_or(old.spec.keeper_uid.as_str(), |known| known.last.key.as_str());
    let has_condition = transition.conditions.iter().any(|condition| match condition {
        Condition::KeeperInfo { key, revision } => {
            let read = transition.memory.history.keeper_keys.get(key);
            own_key == key && *revision == read.copied()
        }
        _ => false,
    });
    violations.require(has_condition, "X-1.5", || {
        format!("{new_uid} is elected without a condition on the info of {old_uid}'s keeper")
    });
}

/// Checks the time of an election: no proxy may still forward, and the last one had its time (F-10, INV-31, INV-32).
fn check_timing(transition: &Transition<'_>, change: Change<'_>, violations: &mut Violations) {
    let Change { old_uid, old, .. } = change;
    let forwarding = transition.forwarding_proxies();
    violations.require(forwarding.is_empty(), "F-10", || {
        format!("another master is elected although {forwarding:?} may still forward")
    });
    let known = transition.info_of(old);
    let keeper = transition.derived.keepers().get(&old.spec.keeper_uid);
    let is_keeper_present =
        keeper.is_some_and(|keeper| keeper.status.healthy) && known.is_none_or(|known| !known.last.info.leaving);
    if !is_keeper_present {
        return;
    }
    let reports_healthy = transition.first_run && transition.is_reported_healthy(old_uid, old);
    violations.require(!reports_healthy, "INV-32", || {
        format!("{old_uid} is replaced in a first run although it reports healthy")
    });
    let (spec, memory) = (transition.spec, transition.memory);
    if let Some(last) = memory.election.as_ref().filter(|last| last.master == *old_uid) {
        let was_reported_healthy = memory.reported_healthy.as_ref() == Some(old_uid);
        let since = transition.now.since(last.at);
        let early = !was_reported_healthy && (since <= spec.convergence_timeout || since <= spec.fail_interval);
        // A switchover asks for it: the master was stopped because of that, not because it did not become healthy.
        violations.require(!early || by_switchover(transition, change), "INV-31", || {
            format!("{old_uid} is replaced {since:?} after it was elected")
        });
    }
}

/// Checks that an election changes nothing else (INV-12).
fn check_nothing_else(transition: &Transition<'_>, change: Change<'_>, violations: &mut Violations) {
    let proxy = transition.next.proxy.clone().unwrap_or_default();
    violations.require(proxy.spec.master_db_uid.is_empty(), "INV-12", || {
        "proxies are not closed by the election".to_owned()
    });
    let before = transition.derived.dbs();
    // Former masters may go, so that none is left that lacks what clients wrote (synchronous SY-8).
    let stays = |(uid, db): &(&DbUid, &Db)| {
        let outdated = transition.spec_is_synchronous() && db.is_master_type() && *uid != change.old_uid;
        !outdated || transition.next.dbs().contains_key(*uid)
    };
    let expected = before.iter().filter(stays).map(|(uid, _)| uid);
    violations.require(expected.eq(transition.next.dbs().keys()), "INV-12", || {
        "an election adds or removes dbs".to_owned()
    });
    let shape = |db: &Db| {
        (
            db.spec.role.clone(),
            db.spec.follow_config.clone(),
            db.spec.followers.clone(),
            db.spec.init_mode.clone(),
        )
    };
    let others = transition.next.dbs().iter();
    for (uid, db) in others.filter(|(uid, _)| *uid != change.old_uid && *uid != change.new_uid) {
        let same = before.get(uid).is_some_and(|was| shape(was) == shape(db));
        violations.require(same, "INV-12", || format!("an election changes another db: {uid}"));
    }
}
