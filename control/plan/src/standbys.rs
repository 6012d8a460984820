//! The dbs other than the master: which are removed, which are added, and their upstream (sentinel 7.1, 7.5, 7.6). The
//! choice of the master is left to `elect`.

use std::collections::{BTreeMap, BTreeSet};

use crate::classify::{Convergence, DbClass, Validity, why_it_cannot_catch_up};
use crate::draft::Draft;
use crate::entropy::Entropy;
use crate::in_sync;
use crate::note::Note;
use crate::proxies;
use crate::synchronous;
use crate::view::{Assessment, PlanView};
use base::clock::Boottime;
use model::{Db, DbInitMode, DbSpec, DbStatus, DbUid, FollowConfig, FollowType, KeeperUid, Role};

/// Removes keepers without a db that have not been healthy for deadKeeperRemovalInterval (sentinel N-1).
pub(crate) fn remove_dead_keepers(draft: &mut Draft, view: &PlanView) {
    let dead = |(uid, keeper): &(&KeeperUid, &model::Keeper)| {
        let silent = view.wall.since(keeper.status.last_healthy_time);
        silent > view.spec.dead_keeper_removal_interval && view.data.db_of_keeper(uid).is_none()
    };
    let dead: Vec<_> = view
        .data
        .keepers()
        .iter()
        .filter(dead)
        .map(|(uid, _)| uid.clone())
        .collect();
    for keeper in dead {
        draft.next.keepers_mut().remove(&keeper);
        draft.note(Note::RemovingDeadKeeper { keeper });
    }
}

/// Sets the role of the master, which also promotes a standby cluster (sentinel N-13). The first db of a standby cluster
/// keeps the role that it has.
pub(crate) fn set_master_role(draft: &mut Draft, view: &PlanView, master: &DbUid) {
    if view.spec.role == Role::Standby {
        return;
    }
    let mut is_promoted = false;
    if let Some(db) = draft.db_mut(master) {
        is_promoted = db.spec.role != Role::Master;
        db.spec.role = Role::Master;
        db.spec.follow_config = None;
    }
    // Its commits do not wait for standbys yet, and clients may be connected already: none may write before they do
    // (synchronous SY-8).
    if is_promoted && view.spec_is_synchronous() {
        proxies::close(draft);
    }
}

/// Makes the decisions that need a healthy and converged master (sentinel N-14 to N-24).
pub(crate) fn manage_standbys(draft: &mut Draft, view: &PlanView, master: &DbUid, db: &Db, entropy: &mut Entropy<'_>) {
    let assessments = view.assess_others(master);
    for assessment in assessments.values() {
        draft.deadlines.wake_after(assessment.deadline, view.now);
    }
    // Nothing irrevocable while the last report of the master is stale or unhealthy (sentinel N-14).
    let is_master_reported_healthy = view.is_reported_healthy(master, db);
    if is_master_reported_healthy {
        remove_former_masters(draft, view, master, db);
        remove_unusable(draft, view, db, &assessments);
    }
    end_resync_of_good(draft, &assessments);
    synchronous::manage(draft, view, master, db, &assessments);
    adjust_standby_count(draft, view, master, &assessments, is_master_reported_healthy, entropy);
    follow_master(draft, master);
}

/// Sets the followers of the db that was master at the start of the round: the dbs that follow the current master
/// (sentinel N-25).
pub(crate) fn set_followers(draft: &mut Draft, old_master: &DbUid, master: &DbUid) {
    let follows = |db: &Db| {
        let follow = db.spec.follow_config.as_ref();
        follow.is_some_and(|follow| follow.kind == FollowType::Internal && follow.db_uid == *master)
    };
    let others = draft.next.dbs().iter().filter(|(uid, _)| *uid != old_master);
    let followers = others
        .filter(|(_, db)| follows(db))
        .map(|(uid, _)| uid.clone())
        .collect();
    if let Some(db) = draft.db_mut(old_master) {
        db.spec.followers = Some(followers);
    }
}

/// Removes former masters once they are no longer needed as fallback (sentinel N-14; synchronous SY-8).
fn remove_former_masters(draft: &mut Draft, view: &PlanView, master: &DbUid, master_db: &Db) {
    for (uid, db) in view.former_masters(master) {
        let (removable, at) = if view.spec_is_synchronous() {
            // Once the master is announced, a former one may lack what clients write from then on, so it must never be
            // gone back to: it leaves in the write that announces the master (synchronous SY-8), at the latest in the
            // one that makes commits wait.
            let announced = draft.proxy().is_some_and(|proxy| proxy.spec.master_db_uid == *master);
            (announced || !master_db.spec.synchronous_replication, None)
        } else {
            is_former_removable(view, master, db)
        };
        if removable {
            draft.remove_db(uid, |db, keeper| Note::RemovingFormerMaster { db, keeper });
        } else {
            draft.note(Note::KeepingFormerMaster {
                db: uid.clone(),
                keeper: db.spec.keeper_uid.clone(),
            });
            draft.deadlines.wake_after(at, view.now);
        }
    }
}

/// Returns whether a former master may be removed under asynchronous replication, and when that changes without another
/// report: its keeper is running, or the new master has been healthy for failInterval (sentinel N-14).
fn is_former_removable(view: &PlanView, master: &DbUid, db: &Db) -> (bool, Option<Boottime>) {
    let healthy_since = view.memory.healthy_since.as_ref().filter(|(uid, _)| uid == master);
    // A running keeper can be assigned a new db in the same write. On one that is not running no db can be created
    // anyway, so its data are kept for a while, in case the new master fails too.
    let is_running = view
        .report_of(db)
        .is_some_and(|report| report.is_keeper_running && !report.info.leaving);
    let at = healthy_since.map(|(_, since)| *since + view.spec.fail_interval);
    (is_running || at.is_some_and(|at| at < view.now), at)
}

/// Removes standbys that cannot follow the master (sentinel N-15, N-16).
fn remove_unusable(draft: &mut Draft, view: &PlanView, master: &Db, assessments: &BTreeMap<DbUid, Assessment>) {
    for (uid, db) in view.standbys() {
        // Its keeper gets a new db, copied from the master.
        if view.report_of(db).is_some_and(|report| report.reports_data_lost(uid)) {
            draft.remove_db(uid, |db, keeper| Note::RemovingLost { db, keeper });
            continue;
        }
        if let Some(Validity::Invalid(why)) = assessments.get(uid).map(|assessment| &assessment.validity) {
            draft.note(Note::clone(why));
            draft.remove_db(uid, |db, keeper| Note::RemovingInvalid { db, keeper });
            continue;
        }
        if let Some(why) = why_it_cannot_catch_up(uid, db, &master.status, view.memory) {
            // A malformed WAL name proves nothing about the standby; it is only logged.
            let is_proven = matches!(why, Note::CannotSync { .. });
            draft.note(why);
            if is_proven {
                draft.remove_db(uid, |db, keeper| Note::RemovingUnsyncable { db, keeper });
            }
        }
    }
}

/// Ends the init mode of standbys that are good (sentinel N-17).
fn end_resync_of_good(draft: &mut Draft, assessments: &BTreeMap<DbUid, Assessment>) {
    for (uid, _) in assessments.iter().filter(|(_, assessment)| assessment.is_good()) {
        if let Some(db) = draft.db_mut(uid).filter(|db| db.is_standby_type()) {
            db.spec.init_mode = DbInitMode::None;
        }
    }
}

/// Removes standbys in excess, or adds missing ones (sentinel N-19 to N-23).
fn adjust_standby_count(
    draft: &mut Draft,
    view: &PlanView,
    master: &DbUid,
    assessments: &BTreeMap<DbUid, Assessment>,
    is_master_reported_healthy: bool,
    entropy: &mut Entropy<'_>,
) {
    let target = usize::from(view.spec.max_standbys_per_sender);
    // Those that were just removed do not count.
    let is_remaining = |uid: &DbUid| draft.next.dbs().get(uid).is_some_and(Db::is_standby_type);
    let standbys: Vec<(&DbUid, &Assessment)> = assessments.iter().filter(|(uid, _)| is_remaining(uid)).collect();
    let good = standbys.iter().filter(|(_, assessment)| assessment.is_good()).count();
    if good < target {
        let expected = standbys
            .iter()
            .filter(|(_, assessment)| is_expected_good(assessment))
            .count();
        add_standbys(draft, view, master, target.saturating_sub(good + expected), entropy);
    } else if is_master_reported_healthy {
        let wanted = draft.next.dbs().get(master).map(in_sync::wanted).unwrap_or_default();
        remove_surplus(draft, view, &standbys, target, &wanted);
    }
}

/// Returns whether a standby is expected to become good, so that no other one is added in its place. One during its
/// first copy is of unknown validity and counts as converging (sentinel N-23; Go stolon does not count it).
fn is_expected_good(assessment: &Assessment) -> bool {
    match assessment.validity {
        Validity::Valid => assessment.class == DbClass::Converging,
        Validity::Unknown => assessment.class != DbClass::Failed && assessment.convergence != Convergence::Failed,
        Validity::Invalid(_) => false,
    }
}

/// Removes the standbys that are not good, and the good ones above `target`, but none that commits wait for (sentinel
/// N-19, S-18).
fn remove_surplus(
    draft: &mut Draft,
    view: &PlanView,
    standbys: &[(&DbUid, &Assessment)],
    target: usize,
    wanted: &BTreeSet<DbUid>,
) {
    // Failed standbys are kept until enough good ones exist: they may become good again.
    let not_good = standbys.iter().filter(|(_, assessment)| !assessment.is_good());
    for (uid, _) in not_good.filter(|(uid, _)| !wanted.contains(*uid)) {
        draft.remove_db(uid, |db, keeper| Note::RemovingNotGood { db, keeper });
    }
    let good = standbys.iter().filter(|(_, assessment)| assessment.is_good());
    let mut good: Vec<&DbUid> = good.map(|(uid, _)| *uid).collect();
    // The least advanced are removed, by uid among equals.
    let position = |uid: &DbUid| view.data.dbs().get(uid).map(|db| db.status.xlog_pos);
    good.sort_by(|a, b| position(a).cmp(&position(b)).then_with(|| b.cmp(a)));
    let excess = good.len() - target;
    for uid in good.into_iter().filter(|uid| !wanted.contains(*uid)).take(excess) {
        draft.remove_db(uid, |db, keeper| Note::RemovingExcess { db, keeper });
    }
}

/// Adds up to `count` standbys on free keepers (sentinel N-20, N-21).
fn add_standbys(draft: &mut Draft, view: &PlanView, master: &DbUid, count: usize, entropy: &mut Entropy<'_>) {
    let is_usable = |keeper: &KeeperUid| {
        // A keeper that is leaving gets no new db; nor does one that stopped and is not running again (sentinel N-20).
        let report = view.reports.get(keeper);
        report.is_none_or(|report| !report.info.leaving && (report.info.stopped.is_none() || report.is_keeper_running))
    };
    // A keeper whose db was removed in this plan is free already.
    let free = draft.free_keepers().into_iter().filter(is_usable).take(count);
    for keeper in free.collect::<Vec<_>>() {
        let uid = entropy.db_uid(draft.next.dbs());
        let db = new_standby(uid.clone(), keeper.clone(), master);
        draft.next.dbs_mut().insert(uid.clone(), db);
        draft.note(Note::AddedStandby { db: uid, keeper });
    }
}

/// Returns a new standby db, to be copied from the master (sentinel N-21).
fn new_standby(uid: DbUid, keeper_uid: KeeperUid, master: &DbUid) -> Db {
    let spec = DbSpec {
        keeper_uid,
        init_mode: DbInitMode::Resync,
        role: Role::Standby,
        followers: Some(Vec::new()),
        follow_config: Some(FollowConfig::internal(master.clone())),
        ..DbSpec::default()
    };
    Db {
        uid,
        generation: 1,
        spec,
        status: DbStatus::default(),
        ..Db::default()
    }
}

/// Sets the upstream of every standby to the master, which also moves them to a new one (sentinel N-24).
fn follow_master(draft: &mut Draft, master: &DbUid) {
    for db in draft.next.dbs_mut().values_mut().filter(|db| db.is_standby_type()) {
        db.spec.role = Role::Standby;
        db.spec.followers = Some(Vec::new());
        db.spec.follow_config = Some(FollowConfig::internal(master.clone()));
        db.spec.clear_synchronous();
    }
}
