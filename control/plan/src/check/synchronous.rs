//! Synchronous replication: when the sets of a master change, and to what (INV-13 to INV-19, INV-33, INV-34), and which
//! former masters may be left beside it (synchronous SY-8). Who is elected is left to `election`.

use std::collections::BTreeSet;

use crate::check::transition::{
    ClusterMatch, Transition, announced, cluster_match, known_set, master, phase, wanted_set,
};
use crate::check::violations::Violations;
use model::{Db, DbInitMode, DbUid, Phase};

/// The name of a standby that does not exist (sentinel S-11).
const FAKE: &str = "stolonfakestandby";

/// The master before and after a plan that keeps it.
#[derive(Clone, Copy)]
struct Kept<'a> {
    uid: &'a DbUid,
    was: &'a Db,
    is: &'a Db,
}

/// Checks the synchronous sets of all dbs.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    if phase(transition.before) != Some(&Phase::Normal) {
        return;
    }
    let (old, new) = (&master(transition.derived), &master(transition.next));
    check_others(transition, new, violations);
    let (Some(was), Some(is)) = (transition.derived.dbs().get(old), transition.next.dbs().get(new)) else {
        return;
    };
    let former = transition.next.dbs().iter();
    let former: Vec<&DbUid> = former
        .filter(|(uid, db)| *uid != new && db.is_master_type())
        .map(|(uid, _)| uid)
        .collect();
    if old != new {
        check_elected(transition, is, violations);
        check_left_by_election(transition, old, was, &former, violations);
        return;
    }
    let kept = Kept { uid: old, was, is };
    let steady = was.status.healthy && was.status.current_generation == was.generation;
    if !steady {
        violations.require(settings(was) == settings(is), "INV-19", || {
            format!("the sets of {old} change although it is not healthy and converged")
        });
        return;
    }
    check_left_by_master(transition, kept, &former, violations);
    check_mode(transition, kept, violations);
    check_known(transition, kept, violations);
    if is.spec.synchronous_replication {
        check_wanted(transition, kept, violations);
        check_size(transition, kept, violations);
    }
}

/// The synchronous settings of a db: flag, wanted set, external names, known set.
type Settings<'a> = (
    bool,
    &'a Option<Vec<DbUid>>,
    &'a Option<Vec<String>>,
    &'a Option<Vec<DbUid>>,
);

fn settings(db: &Db) -> Settings<'_> {
    let spec = &db.spec;
    (
        spec.synchronous_replication,
        &spec.synchronous_standbys,
        &spec.external_synchronous_standbys,
        &db.status.synchronous_standbys,
    )
}

/// Checks that nothing but the master changes its sets, other than a standby that loses them (INV-19).
fn check_others(transition: &Transition<'_>, new_master: &DbUid, violations: &mut Violations) {
    let others = transition.next.dbs().iter().filter(|(uid, _)| *uid != new_master);
    for (uid, db) in others {
        let same = transition
            .derived
            .dbs()
            .get(uid)
            .is_some_and(|was| settings(was) == settings(db));
        let (flag, wanted, external, _) = settings(db);
        let none = !flag && wanted.is_none() && external.is_none() && db.is_standby_type();
        violations.require(same || none, "INV-19", || {
            format!("the sets of {uid}, which is not the master, change")
        });
    }
}

/// Checks the sets of an elected db (INV-18; synchronous SY-6).
fn check_elected(transition: &Transition<'_>, is: &Db, violations: &mut Violations) {
    let sync = is.spec.synchronous_replication;
    violations.require(sync == transition.spec_is_synchronous(), "SY-6", || {
        "the commits of the elected db do not wait as the spec says".to_owned()
    });
    violations.require(known_set(is).is_empty(), "SY-6", || {
        "standbys of the elected db count as in sync already".to_owned()
    });
    if sync {
        check_names(transition, is, "INV-18", violations);
    }
}

/// Checks that commits wait for at least the minimum of standbys, of which those that are missing are replaced by a
/// name that no standby has.
fn check_names(transition: &Transition<'_>, is: &Db, rule: &'static str, violations: &mut Violations) {
    let (_, min, _) = limits(transition, is);
    let expected: &[&str] = if wanted_set(is).len() < min { &[FAKE] } else { &[] };
    let external = is.spec.external_synchronous_standbys.iter().flatten();
    violations.require(external.eq(expected.iter().copied()), rule, || {
        format!("commits wait for {:?} and {:?}", wanted_set(is), settings(is).2)
    });
}

/// Returns whether members are replaced by way of a larger set, and the least and largest size (sentinel S-1).
fn limits(transition: &Transition<'_>, master: &Db) -> (bool, usize, usize) {
    let keeper = transition.derived.keepers().get(&master.spec.keeper_uid);
    let version = keeper.map_or((0, 0), |keeper| {
        let version = keeper.status.postgres_binary_version;
        (version.major, version.minor)
    });
    if ((9, 0)..(9, 6)).contains(&version) {
        return (false, 1, 1);
    }
    let spec = transition.spec;
    let size = |count: u16| usize::from(count);
    (
        true,
        size(spec.min_synchronous_standbys),
        size(spec.max_synchronous_standbys),
    )
}

/// Checks that an election leaves no former master that may lack what clients wrote (synchronous SY-8).
fn check_left_by_election(
    transition: &Transition<'_>,
    old: &DbUid,
    was: &Db,
    former: &[&DbUid],
    violations: &mut Violations,
) {
    let was_written = announced(transition.before) == *old || !was.spec.synchronous_replication;
    let outdated = former.iter().any(|uid| *uid != old);
    violations.require(
        !(transition.spec_is_synchronous() && was_written && outdated),
        "SY-8",
        || format!("an election leaves the former masters {former:?}"),
    );
}

/// Checks that no former master is left once a synchronous master is announced, or begins to be one (synchronous SY-8).
fn check_left_by_master(transition: &Transition<'_>, kept: Kept<'_>, former: &[&DbUid], violations: &mut Violations) {
    let begins = kept.is.spec.synchronous_replication && !kept.was.spec.synchronous_replication;
    let serves = announced(transition.next) == *kept.uid && transition.is_reported_healthy(kept.uid, kept.was);
    let must_be_gone = transition.spec_is_synchronous() && (begins || serves);
    violations.require(!must_be_gone || former.is_empty(), "SY-8", || {
        format!("the former masters {former:?} are left")
    });
}

/// Checks that synchronous replication begins and ends only as the spec says (INV-19).
fn check_mode(transition: &Transition<'_>, kept: Kept<'_>, violations: &mut Violations) {
    let (was, is) = (
        kept.was.spec.synchronous_replication,
        kept.is.spec.synchronous_replication,
    );
    violations.require(was == is || is == transition.spec_is_synchronous(), "INV-19", || {
        format!("synchronous replication of {} goes from {was} to {is}", kept.uid)
    });
    let (_, wanted, external, known) = settings(kept.is);
    let none = wanted.is_none() && external.is_none() && known.is_none();
    violations.require(is || none || settings(kept.was) == settings(kept.is), "INV-19", || {
        format!("{} has standbys that no commit waits for", kept.uid)
    });
}

/// Checks which standbys become known to be in sync (INV-13, INV-14).
fn check_known(transition: &Transition<'_>, kept: Kept<'_>, violations: &mut Violations) {
    let Kept { uid, was, is } = kept;
    let proven = |member: &&DbUid| transition.proves_in_sync(uid, was, member);
    let (known_before, known) = (known_set(was), known_set(is));
    let unproven: Vec<&DbUid> = known.difference(&known_before).filter(|new| !proven(new)).collect();
    violations.require(unproven.is_empty(), "INV-13", || {
        format!("{unproven:?} count as in sync without a proof")
    });
    let electable = |db: &Db| -> BTreeSet<DbUid> { known_set(db).intersection(&wanted_set(db)).cloned().collect() };
    let (electable_before, electable) = (electable(was), electable(is));
    let unproven = electable.difference(&electable_before).find(|new| !proven(new));
    violations.require(unproven.is_none(), "INV-14", || {
        format!("{unproven:?} becomes electable without a proof")
    });
    violations.require(known.is_subset(&wanted_set(is)), "INV-14", || {
        format!("{known:?} are known in sync, and {:?} wanted", wanted_set(is))
    });
}

/// Checks how the wanted set changes (INV-15, INV-16, INV-33, INV-34).
fn check_wanted(transition: &Transition<'_>, kept: Kept<'_>, violations: &mut Violations) {
    let Kept { uid, was, is } = kept;
    let (before, wanted) = (wanted_set(was), wanted_set(is));
    let (merge, _, max) = limits(transition, was);
    let is_lost = |member: &DbUid| is_lost(transition, was, member);
    for new in wanted.difference(&before) {
        violations.require(may_join(transition, was, new), "INV-33", || {
            format!("{new} joins the synchronous standbys and is not good")
        });
    }
    if before == wanted || !was.spec.synchronous_replication {
        return;
    }
    let known_before = known_set(was);
    let electable: Vec<&DbUid> = before.intersection(&known_before).collect();
    let next = transition.next.dbs();
    let is_there = |member: &DbUid| next.get(member).is_some_and(Db::is_standby_type);
    let replaced = electable
        .iter()
        .find(|member| is_there(member) && !wanted.contains(**member));
    let shrinks = wanted.is_subset(&before);
    violations.require(shrinks || !merge || replaced.is_none(), "INV-15", || {
        format!("{replaced:?} is replaced in one step")
    });
    // One that is removed in this plan is lost, whatever its report proves.
    let proven = |member: &DbUid| {
        let by_report = is_there(member) && transition.proves_in_sync(uid, was, member);
        known_before.contains(member) || by_report
    };
    let pending: Vec<&DbUid> = before.iter().filter(|member| !proven(member)).collect();
    let is_settled = pending.is_empty() || pending.iter().any(|member| is_lost(member));
    violations.require(is_settled, "INV-16", || {
        format!("the set changes although {pending:?} are not in sync yet")
    });
    let dropped = electable
        .iter()
        .find(|member| !wanted.contains(**member) && !is_lost(member) && wanted.len() < max);
    violations.require(dropped.is_none(), "INV-34", || {
        format!("{dropped:?} is dropped for no reason")
    });
}

/// Checks that names of standbys that are missing are replaced, unless the set waits for new members (INV-17).
fn check_size(transition: &Transition<'_>, kept: Kept<'_>, violations: &mut Violations) {
    let wanted = wanted_set(kept.is);
    let changed = wanted != wanted_set(kept.was) || !kept.was.spec.synchronous_replication;
    if changed || known_set(kept.is) == wanted {
        check_names(transition, kept.is, "INV-17", violations);
    }
}

/// Returns whether a standby may join the wanted set of a master.
fn may_join(transition: &Transition<'_>, master: &Db, member: &DbUid) -> bool {
    let Some(db) = transition.derived.dbs().get(member) else {
        return false;
    };
    let keeper = transition.derived.keepers().get(&db.spec.keeper_uid);
    let allowed = keeper.is_none_or(|keeper| keeper.status.can_be_synchronous_replica != Some(false));
    let stays = transition
        .info_of(db)
        .is_none_or(|known| !known.last.info.leaving && known.last.info.stopped.is_none());
    let on_timeline = db.status.timeline_id == master.status.timeline_id;
    transition.is_good(db, master) && db.is_standby_type() && on_timeline && allowed && stays
}

/// Returns whether commits need not wait for a member any more: it is gone, no standby, failed, of another cluster, or
/// its keeper leaves (sentinel S-5; synchronous SY-13).
fn is_lost(transition: &Transition<'_>, master: &Db, member: &DbUid) -> bool {
    let is_standby = transition.next.dbs().get(member).is_some_and(Db::is_standby_type);
    let Some(db) = transition.derived.dbs().get(member).filter(|_| is_standby) else {
        return true;
    };
    let keeper = transition.derived.keepers().get(&db.spec.keeper_uid);
    let applied = db.status.current_generation == db.generation;
    let copying = db.spec.init_mode == DbInitMode::Resync && (db.generation == 1 || db.status.current_generation == 0);
    let limit = if copying {
        transition.spec.sync_timeout
    } else {
        transition.spec.convergence_timeout
    };
    let failed = keeper.is_none_or(|keeper| !keeper.status.healthy)
        || (applied && !db.status.healthy)
        || transition.is_overdue(member, db, limit);
    let leaving = transition.info_of(db).is_some_and(|known| known.last.info.leaving);
    failed || leaving || cluster_match(&db.status, &master.status) == ClusterMatch::Other
}
