//! The dbs besides the master, while it serves: which are removed, which are made, whom they follow (sentinel 7.1, 7.5,
//! 7.6). Who is master is left to `elect`.

use std::collections::BTreeMap;

use crate::model::{Db, DbInitMode, DbSpec, DbStatus, DbUid, FollowConfig, FollowType, KeeperUid, Role};
use crate::plan::Fresh;
use crate::plan::classify::{Class, Convergence, Validity, is_standby_type, missing_wal};
use crate::plan::draft::Draft;
use crate::plan::note::Note;
use crate::plan::situation::{Situation, Verdict};

/// sentinel N-1: keepers without a db that have been dead for long.
pub(crate) fn forget_dead_keepers(draft: &mut Draft, situation: &Situation) {
    let dead = |(uid, keeper): &(&KeeperUid, &crate::model::Keeper)| {
        let silent = situation.wall.since(keeper.status.last_healthy_time);
        silent > situation.spec.dead_keeper_removal_interval && situation.data.db_of_keeper(uid).is_none()
    };
    let dead: Vec<_> = situation
        .data
        .keepers()
        .iter()
        .filter(dead)
        .map(|(uid, _)| uid.clone())
        .collect();
    for keeper in dead {
        draft.next.keepers_mut().remove(&keeper);
        draft.say(Note::RemovingDeadKeeper { keeper });
    }
}

/// sentinel N-13: promoting a standby cluster takes effect here, too.
pub(crate) fn keep_master(draft: &mut Draft, master: &DbUid) {
    if let Some(db) = draft.db_mut(master) {
        db.spec.role = Role::Master;
        db.spec.follow_config = None;
    }
}

/// The steps that need a master that is healthy and converged (sentinel N-14 to N-24).
pub(crate) fn arrange(draft: &mut Draft, situation: &Situation, master: &DbUid, db: &Db, fresh: &mut Fresh<'_>) {
    let verdicts = situation.verdicts(master, &mut draft.wakes);
    // sentinel N-14: nothing irrevocable on the word of a master in doubt
    let trusted = situation.reported_well(master, db);
    if trusted {
        remove_old_masters(draft, situation, master);
        remove_unusable(draft, situation, db, &verdicts);
    }
    settle_good(draft, &verdicts);
    no_synchronous_replication(draft, master);
    set_number(draft, situation, master, &verdicts, trusted, fresh);
    follow(draft, master);
}

/// sentinel N-14
fn remove_old_masters(draft: &mut Draft, situation: &Situation, master: &DbUid) {
    let proven_since = situation
        .memory
        .proven
        .as_ref()
        .filter(|(db, _)| db == master)
        .map(|(_, since)| *since);
    for (uid, db) in situation.old_masters(master) {
        let lives = situation
            .report_of(db)
            .is_some_and(|report| report.lives && !report.info.leaving);
        let proven_at = proven_since.map(|since| since + situation.spec.fail_interval);
        if lives || proven_at.is_some_and(|at| at < situation.now) {
            draft.remove_db(uid, |db, keeper| Note::RemovingOldMaster { db, keeper });
        } else {
            draft.say(Note::KeepingOldMaster {
                db: uid.clone(),
                keeper: db.spec.keeper_uid.clone(),
            });
            if let Some(at) = proven_at {
                draft.wakes.after(at, situation.now);
            }
        }
    }
}

/// sentinel N-15, N-16
fn remove_unusable(draft: &mut Draft, situation: &Situation, master: &Db, verdicts: &BTreeMap<DbUid, Verdict>) {
    for (uid, db) in situation.standbys() {
        // Its keeper gets another db, which is made from the master.
        if situation.report_of(db).is_some_and(|report| report.says_lost(uid)) {
            draft.remove_db(uid, |db, keeper| Note::RemovingLost { db, keeper });
            continue;
        }
        if let Some(Validity::Invalid(why)) = verdicts.get(uid).map(|verdict| &verdict.validity) {
            draft.say(Note::clone(why));
            draft.remove_db(uid, |db, keeper| Note::RemovingInvalid { db, keeper });
            continue;
        }
        if let Some(why) = missing_wal(uid, db, &master.status, situation.memory) {
            let gone = matches!(why, Note::CannotSync { .. });
            draft.say(why);
            if gone {
                draft.remove_db(uid, |db, keeper| Note::RemovingUnsyncable { db, keeper });
            }
        }
    }
}

/// sentinel N-17
fn settle_good(draft: &mut Draft, verdicts: &BTreeMap<DbUid, Verdict>) {
    for (uid, _) in verdicts.iter().filter(|(_, verdict)| verdict.is_good()) {
        if let Some(db) = draft.db_mut(uid).filter(|db| is_standby_type(db)) {
            db.spec.init_mode = DbInitMode::None;
        }
    }
}

/// sentinel N-18 without synchronous replication: section 8 will stand in its place when the spec asks for that.
fn no_synchronous_replication(draft: &mut Draft, master: &DbUid) {
    if let Some(db) = draft.db_mut(master) {
        db.spec.synchronous_replication = false;
        db.spec.synchronous_standbys = None;
        db.spec.external_synchronous_standbys = None;
        db.status.synchronous_standbys = None;
    }
}

/// sentinel N-19 to N-23
fn set_number(
    draft: &mut Draft,
    situation: &Situation,
    master: &DbUid,
    verdicts: &BTreeMap<DbUid, Verdict>,
    trusted: bool,
    fresh: &mut Fresh<'_>,
) {
    let wanted = usize::from(situation.spec.max_standbys_per_sender);
    let left = |uid: &DbUid| draft.next.dbs().get(uid).is_some_and(is_standby_type);
    let standbys: Vec<(&DbUid, &Verdict)> = verdicts.iter().filter(|(uid, _)| left(uid)).collect();
    let mut good: Vec<&DbUid> = standbys
        .iter()
        .filter(|(_, v)| v.is_good())
        .map(|(uid, _)| *uid)
        .collect();
    if good.len() >= wanted {
        if !trusted {
            return;
        }
        for (uid, _) in standbys.iter().filter(|(_, verdict)| !verdict.is_good()) {
            draft.remove_db(uid, |db, keeper| Note::RemovingNotGood { db, keeper });
        }
        // The least advanced go, by uid among equals.
        let at = |uid: &DbUid| {
            situation
                .data
                .dbs()
                .get(uid)
                .map(|db| db.status.xlog_pos)
                .unwrap_or_default()
        };
        good.sort_by(|a, b| at(a).cmp(&at(b)).then_with(|| b.cmp(a)));
        for uid in &good[..good.len() - wanted] {
            draft.remove_db(uid, |db, keeper| Note::RemovingExcess { db, keeper });
        }
        return;
    }
    // sentinel N-23: one whose first copy runs is of unknown validity and counts as converging. (Reference: it does not.)
    let coming = |verdict: &Verdict| match verdict.validity {
        Validity::Valid => verdict.class == Class::Converging,
        Validity::Unknown => verdict.class != Class::Failed && verdict.convergence != Convergence::Failed,
        Validity::Invalid(_) => false,
    };
    let on_the_way = standbys.iter().filter(|(_, verdict)| coming(verdict)).count();
    let missing = wanted.saturating_sub(good.len() + on_the_way);
    let usable = |keeper: &KeeperUid| {
        // sentinel N-20
        let report = situation.reports.get(keeper);
        report.is_none_or(|report| !report.info.leaving && (report.info.stopped.is_none() || report.lives))
    };
    let free: Vec<KeeperUid> = draft.free_keepers().into_iter().filter(usable).take(missing).collect();
    for keeper in free {
        let uid = fresh.db_uid(draft.next.dbs());
        draft
            .next
            .dbs_mut()
            .insert(uid.clone(), new_standby(uid.clone(), keeper.clone(), master));
        draft.say(Note::AddedStandby { db: uid, keeper });
    }
}

/// sentinel N-21
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

/// sentinel N-24: this is what points standbys at a new master.
fn follow(draft: &mut Draft, master: &DbUid) {
    for db in draft.next.dbs_mut().values_mut().filter(|db| is_standby_type(db)) {
        db.spec.role = Role::Standby;
        db.spec.followers = Some(Vec::new());
        db.spec.follow_config = Some(FollowConfig::internal(master.clone()));
        db.spec.synchronous_replication = false;
        db.spec.synchronous_standbys = None;
        db.spec.external_synchronous_standbys = None;
    }
}

/// sentinel N-25: the followers of the db that was master at the start of the round, as seen from the one that is it now.
pub(crate) fn list_followers(draft: &mut Draft, before: &DbUid, wanted: &DbUid) {
    let follows = |db: &Db| {
        let follow = db.spec.follow_config.as_ref();
        follow.is_some_and(|follow| follow.kind == FollowType::Internal && follow.db_uid == *wanted)
    };
    let others = draft.next.dbs().iter().filter(|(uid, _)| *uid != before);
    let followers = others
        .filter(|(_, db)| follows(db))
        .map(|(uid, _)| uid.clone())
        .collect();
    if let Some(db) = draft.db_mut(before) {
        db.spec.followers = Some(followers);
    }
}
