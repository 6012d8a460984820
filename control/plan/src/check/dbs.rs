//! Which dbs are added, removed and changed outside of elections (INV-20, INV-21, INV-23 to INV-25).

use crate::check::transition::{ClusterMatch, Transition, cluster_match, master, phase, wanted_set};
use crate::check::violations::Violations;
use model::{Db, DbUid, FollowConfig, Phase};

/// Checks which dbs are added, removed and changed.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    let (old_master, new_master) = (&master(transition.derived), &master(transition.next));
    let is_normal = phase(transition.before) == Some(&Phase::Normal);
    let master_db = transition.derived.dbs().get(old_master).filter(|_| is_normal);
    // While the master is unhealthy or not converged, no db is removed but by an election.
    let is_steady = |db: &&Db| {
        let applied = db.status.current_generation == db.generation;
        old_master == new_master && db.status.healthy && applied
    };
    let steady_master = master_db.filter(is_steady);
    if is_normal && old_master == new_master {
        check_removed(transition, old_master, steady_master, violations);
    }
    for (uid, db) in transition.next.dbs() {
        match transition.derived.dbs().get(uid) {
            Some(was) => check_changed(uid, was, db, new_master, violations),
            None => check_added(uid, db, violations),
        }
    }
    if steady_master.is_some() {
        check_standbys(transition, new_master, violations);
    }
    if is_normal {
        check_followers(transition, old_master, new_master, violations);
    }
}

/// Checks that dbs are removed for a reason (INV-20).
fn check_removed(
    transition: &Transition<'_>,
    old_master: &DbUid,
    steady_master: Option<&Db>,
    violations: &mut Violations,
) {
    let next = transition.next.dbs();
    for (uid, db) in transition
        .derived
        .dbs()
        .iter()
        .filter(|(uid, _)| !next.contains_key(*uid))
    {
        violations.require(uid != old_master, "INV-20", || {
            format!("the master db {uid} is removed")
        });
        let allowed = steady_master.is_some_and(|master_db| may_be_removed(transition, uid, db, old_master, master_db));
        violations.require(allowed, "INV-20", || format!("{uid} is removed without a reason"));
    }
}

/// Returns whether a db may be removed (INV-20).
fn may_be_removed(transition: &Transition<'_>, uid: &DbUid, db: &Db, master: &DbUid, master_db: &Db) -> bool {
    // What is removed is gone for good, so the master must be known to serve.
    if !transition.is_reported_healthy(master, master_db) {
        return false;
    }
    if db.is_master_type() {
        return true;
    }
    let data_lost = transition.info_of(db).is_some_and(|known| {
        let info = &known.last.info;
        let stays = transition.is_running(known) && !info.leaving && info.stopped.is_none();
        stays && info.data_lost == *uid
    });
    if data_lost || transition.is_stalled(uid) {
        return true;
    }
    // Members of the synchronous set do not leave for the number of standbys (sentinel S-18).
    let next_master = transition.next.dbs().get(master);
    let is_wanted = next_master.is_some_and(|db| wanted_set(db).contains(uid));
    let standbys = transition.derived.dbs().iter().filter(|(_, db)| db.is_standby_type());
    let good = standbys.filter(|(_, db)| transition.is_good(db, master_db)).count();
    let wanted = usize::from(transition.spec.max_standbys_per_sender);
    let is_other = cluster_match(&db.status, &master_db.status) == ClusterMatch::Other;
    if transition.is_good(db, master_db) {
        good > wanted && !is_wanted
    } else {
        is_other || (good >= wanted && !is_wanted)
    }
}

/// Checks that a new db has its first generation, nothing of it applied, and is not healthy (INV-21).
fn check_added(uid: &DbUid, db: &Db, violations: &mut Violations) {
    let blank = db.generation == 1 && db.status.current_generation == 0 && !db.status.healthy;
    violations.require(blank, "INV-21", || {
        format!("the new db {uid} has another generation than 1, or a status")
    });
}

/// Checks generation and role of a db that stays (INV-21, INV-23).
fn check_changed(uid: &DbUid, was: &Db, db: &Db, new_master: &DbUid, violations: &mut Violations) {
    let counted = db.generation == was.generation.wrapping_add(i64::from(db.spec != was.spec));
    violations.require(counted, "INV-21", || {
        format!("{uid} has generation {} after {}", db.generation, was.generation)
    });
    if was.is_standby_type() && db.is_master_type() {
        violations.require(uid == new_master, "INV-23", || {
            format!("{uid} becomes a master and is not elected")
        });
    }
    // A former master is replaced by a new db, never turned into a standby: its data may have diverged.
    let backwards = was.is_master_type() && db.is_standby_type();
    violations.require(!backwards, "INV-23", || format!("the master {uid} becomes a standby"));
}

/// Checks that every standby follows the master (INV-24).
fn check_standbys(transition: &Transition<'_>, master: &DbUid, violations: &mut Violations) {
    let others = transition.next.dbs().iter().filter(|(uid, _)| *uid != master);
    for (uid, db) in others.filter(|(_, db)| db.is_standby_type()) {
        let follows = db.spec.follow_config == Some(FollowConfig::internal(master.clone()));
        let waits = db.spec.synchronous_replication || db.spec.synchronous_standbys.is_some();
        let plain = db.spec.followers == Some(Vec::new()) && !waits;
        violations.require(follows && plain, "INV-24", || {
            format!("the standby {uid} has followers, synchronous fields or another upstream than the master")
        });
    }
}

/// Checks the followers of the db that was master (INV-25).
fn check_followers(transition: &Transition<'_>, old_master: &DbUid, new_master: &DbUid, violations: &mut Violations) {
    let dbs = transition.next.dbs();
    let follow = FollowConfig::internal(new_master.clone());
    let following = dbs
        .iter()
        .filter(|(_, db)| db.spec.follow_config.as_ref() == Some(&follow));
    let expected: Vec<&DbUid> = following.map(|(uid, _)| uid).filter(|uid| *uid != old_master).collect();
    let listed = dbs.get(old_master).and_then(|db| db.spec.followers.as_ref());
    let right = listed.is_some_and(|listed| listed.iter().eq(expected.iter().copied()));
    let fits = if old_master == new_master {
        right
    } else {
        listed.is_none_or(Vec::is_empty) || right
    };
    violations.require(fits, "INV-25", || {
        format!("followers of {old_master} are {listed:?}, should be {expected:?}")
    });
}
