//! What must be true of every plan (sentinel 17), asked before each write: a plan that breaks one of these is not
//! written, whatever the reasoning was that led to it.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::{ClusterData, Db, DbUid, FollowConfig, KeeperUid, Phase};
use crate::plan::classify::{Class, Convergence, Validity, convergence, is_master_type, is_standby_type};
use crate::plan::draft::{Condition, Wakes};
use crate::plan::memory::converged;
use crate::plan::situation::Situation;

/// An invariant that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its number in sentinel 17.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A plan with what it was made from.
pub(crate) struct Planned<'a> {
    /// The document read (`o` of sentinel 17).
    pub(crate) before: &'a ClusterData,
    /// The same after health derivation (`h`), and what was known.
    pub(crate) situation: &'a Situation<'a>,
    /// The document to be written (`n`).
    pub(crate) next: &'a ClusterData,
    /// What the write depends on.
    pub(crate) conditions: &'a [Condition],
}

/// The invariants that a plan breaks; none, if the rest of this house is right.
pub(crate) fn check(planned: &Planned<'_>) -> Vec<Fault> {
    let mut faults = Faults::default();
    documents(planned, &mut faults);
    proxy_section(planned, &mut faults);
    election(planned, &mut faults);
    dbs(planned, &mut faults);
    keepers(planned, &mut faults);
    faults.0
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    /// Notes a fault unless the claim holds.
    fn claim(&mut self, holds: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Fault { rule, what: what() });
        }
    }
}

fn phase(data: &ClusterData) -> Option<&Phase> {
    data.cluster.as_ref().map(|cluster| &cluster.status.phase)
}

fn master(data: &ClusterData) -> DbUid {
    data.master_uid().cloned().unwrap_or_default()
}

/// INV-2, INV-30
fn documents(planned: &Planned<'_>, faults: &mut Faults) {
    let (before, next) = (planned.before, planned.next);
    if phase(next) == Some(&Phase::Normal) {
        let there = next.dbs().contains_key(&master(next));
        faults.claim(there, "INV-2", || {
            format!("master db {:?} is not among the dbs", master(next).as_str())
        });
    }
    // What was broken already is not this plan's doing, and must not keep it from fixing the rest.
    for broken in strays(next).difference(&strays(before)) {
        faults.claim(false, "INV-2", || broken.clone());
    }
    let (Some(old), Some(new)) = (&before.cluster, &next.cluster) else {
        faults.claim(false, "INV-30", || "the cluster is gone".to_owned());
        return;
    };
    faults.claim(old.uid == new.uid, "INV-30", || "the cluster uid changes".to_owned());
    let handed_over = old.status.phase == Phase::Initializing && new.status.phase == Phase::Normal;
    faults.claim(handed_over || old.spec == new.spec, "INV-30", || {
        "the cluster spec changes".to_owned()
    });
    let forward = handed_over || old.status.phase == new.status.phase;
    faults.claim(forward, "INV-30", || {
        format!("phase {} follows {}", new.status.phase, old.status.phase)
    });
}

/// Dbs without a keeper, and keepers with several dbs.
fn strays(data: &ClusterData) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut seen: BTreeSet<&KeeperUid> = BTreeSet::new();
    for (uid, db) in data.dbs() {
        let keeper = &db.spec.keeper_uid;
        if !data.keepers().contains_key(keeper) {
            found.insert(format!("db {uid} is on the unknown keeper {keeper}"));
        }
        if !seen.insert(keeper) {
            found.insert(format!("db {uid} shares the keeper {keeper}"));
        }
    }
    found
}

/// INV-3 to INV-6, INV-22
fn proxy_section(planned: &Planned<'_>, faults: &mut Faults) {
    let old = planned.before.proxy.clone().unwrap_or_default();
    let new = planned.next.proxy.clone().unwrap_or_default();
    let (was, is) = (&old.spec.master_db_uid, &new.spec.master_db_uid);
    if phase(planned.next) == Some(&Phase::Normal) {
        let right = is.is_empty() || *is == master(planned.next);
        faults.claim(right, "INV-3", || {
            format!("proxies are sent to {is}, which is not the master")
        });
    }
    let through_none = was.is_empty() || is.is_empty() || was == is;
    faults.claim(through_none, "INV-4", || {
        format!("proxies go from {was} straight to {is}")
    });
    let view = &planned.situation.proxies;
    if was.is_empty() && !is.is_empty() {
        faults.claim(view.in_the_way.is_empty(), "INV-5", || {
            format!("{:?} may still forward", view.in_the_way)
        });
    }
    if old.spec.enabled_proxies != new.spec.enabled_proxies {
        let right = !is.is_empty() && new.spec.enabled_proxies == view.active;
        faults.claim(right, "INV-6", || {
            "the enabled proxies are not the active ones".to_owned()
        });
    }
    let step = i64::from(old.spec != new.spec);
    let counted = new.generation == old.generation.wrapping_add(step);
    faults.claim(counted, "INV-22", || {
        format!("proxy generation {} follows {}", new.generation, old.generation)
    });
}

/// INV-7 to INV-12
fn election(planned: &Planned<'_>, faults: &mut Faults) {
    let situation = planned.situation;
    let (old_uid, new_uid) = (master(&situation.data), master(planned.next));
    if old_uid == new_uid || phase(planned.before) != Some(&Phase::Normal) {
        return;
    }
    let dbs = situation.data.dbs();
    let (Some(old), Some(new)) = (dbs.get(&old_uid), dbs.get(&new_uid)) else {
        faults.claim(false, "INV-8", || {
            format!("{new_uid} is elected for {old_uid}, and one of them does not exist")
        });
        return;
    };
    let mut wakes = Wakes::default();
    let limit = situation.spec.convergence_timeout;
    let progress = convergence(&old_uid, old, limit, situation.memory, situation.now, &mut wakes);
    let report = situation.report_of(old);
    let left = report
        .is_some_and(|report| report.info.leaving && report.info.stopped.as_ref().is_some_and(|stopped| stopped.clean));
    let needed = !old.status.healthy || progress == Convergence::Failed || left;
    faults.claim(needed, "INV-7", || format!("{old_uid} is replaced although it serves"));

    let verdict = situation.verdict(&new_uid, new, old, &mut wakes);
    let may = situation
        .keeper_of(new)
        .is_none_or(|keeper| keeper.status.can_be_master != Some(false));
    let same_timeline = new.status.timeline_id == old.status.timeline_id;
    let lag = new.status.xlog_pos.behind(old.status.xlog_pos);
    let near = lag <= i128::from(situation.spec.max_standby_lag);
    let ordinary = verdict.is_good() && same_timeline && (may || is_master_type(new));
    let retained = is_master_type(new)
        && situation.report_of(new).is_some_and(|report| {
            let condition = Condition::KeeperInfo {
                key: report.key.clone(),
                revision: Some(report.revision),
            };
            report.lives && !report.info.leaving && planned.conditions.contains(&condition)
        })
        && situation.proxies.in_the_way.is_empty();
    faults.claim(ordinary || retained, "INV-8", || {
        format!("{new_uid} is elected and not eligible")
    });
    faults.claim(near || retained, "INV-9", || {
        format!("{new_uid} is elected and {lag} bytes behind")
    });
    if !retained {
        best_of_all(situation, &old_uid, old, new, left, faults);
    }
    let own_key = report.filter(|report| report.listed).map(|report| &report.key);
    let watched = planned.conditions.iter().any(|condition| match condition {
        Condition::KeeperInfo { key, revision } => {
            let read = situation.memory.sightings.keeper_keys.get(key);
            own_key.map_or(old.spec.keeper_uid.as_str(), String::as_str) == key && *revision == read.copied()
        }
    });
    faults.claim(watched, "X-1.5", || {
        format!("{new_uid} is elected whatever {old_uid} says meanwhile")
    });
    timing(planned, &old_uid, old, faults);
    nothing_else(planned, &old_uid, &new_uid, faults);
}

/// F-10, INV-31, INV-32
fn timing(planned: &Planned<'_>, old_uid: &DbUid, old: &Db, faults: &mut Faults) {
    let situation = planned.situation;
    let section = planned.before.proxy.clone().unwrap_or_default();
    let in_the_way = &situation.proxies.in_the_way;
    let closed = !section.spec.master_db_uid.is_empty() || in_the_way.is_empty();
    faults.claim(closed, "F-10", || {
        format!("another master is elected although {in_the_way:?} may still forward")
    });
    let report = situation.report_of(old);
    let keeper = situation.data.keepers().get(&old.spec.keeper_uid);
    let there = keeper.is_some_and(|keeper| keeper.status.healthy) && report.is_none_or(|report| !report.info.leaving);
    if !there {
        return;
    }
    let well = report.is_some_and(|report| report.says_well(old_uid));
    faults.claim(!(situation.first_run && well), "INV-32", || {
        format!("{old_uid} is replaced at a first look, and reports well")
    });
    if let Some(last) = situation
        .memory
        .election
        .as_ref()
        .filter(|last| last.master == *old_uid)
    {
        let served = situation.memory.served.as_ref() == Some(old_uid);
        let since = situation.now.since(last.at);
        let early = !served && (since <= situation.spec.convergence_timeout || since <= situation.spec.fail_interval);
        faults.claim(!early, "INV-31", || {
            format!("{old_uid} is replaced {since:?} after it was elected")
        });
    }
}

/// INV-11
fn best_of_all(situation: &Situation<'_>, old_uid: &DbUid, old: &Db, elected: &Db, left: bool, faults: &mut Faults) {
    let rank = |uid: &DbUid, db: &Db| {
        let report = situation.report_of(db);
        let unhealthy = report.is_some_and(|report| report.of(uid).is_some_and(|state| !state.healthy));
        (!unhealthy, !unhealthy && report.is_some_and(|report| report.fresh))
    };
    for (uid, db) in situation.standbys().filter(|(uid, _)| *uid != old_uid) {
        let verdict = situation.verdict(uid, db, old, &mut Wakes::default());
        let may = situation
            .keeper_of(db)
            .is_none_or(|keeper| keeper.status.can_be_master != Some(false));
        let going = situation.report_of(db).is_some_and(|report| report.going());
        let rival = verdict.is_good() && may && !going && db.status.timeline_id == old.status.timeline_id;
        let (own, other) = (rank(uid, db), rank(&elected.uid, elected));
        let (at, of_elected) = (db.status.xlog_pos, elected.status.xlog_pos);
        // One that is better reported is still no candidate when it lacks too much (C-10), or anything at all.
        let lag = at.behind(old.status.xlog_pos);
        let complete = lag <= i128::from(situation.spec.max_standby_lag) && (!left || at >= of_elected);
        let better = (own > other && complete) || (own == other && at > of_elected);
        faults.claim(!(rival && better), "INV-11", || {
            format!("{uid} is more advanced or better reported than the one elected")
        });
    }
}

/// INV-12
fn nothing_else(planned: &Planned<'_>, old: &DbUid, new: &DbUid, faults: &mut Faults) {
    let proxy = planned.next.proxy.clone().unwrap_or_default();
    faults.claim(proxy.spec.master_db_uid.is_empty(), "INV-12", || {
        "proxies are not closed by the election".to_owned()
    });
    let before = planned.situation.data.dbs();
    let same_dbs = before.keys().eq(planned.next.dbs().keys());
    faults.claim(same_dbs, "INV-12", || "dbs come or go with an election".to_owned());
    let shape = |db: &Db| {
        (
            db.spec.role.clone(),
            db.spec.follow_config.clone(),
            db.spec.followers.clone(),
            db.spec.init_mode.clone(),
        )
    };
    for (uid, db) in planned.next.dbs().iter().filter(|(uid, _)| *uid != old && *uid != new) {
        let same = before.get(uid).is_some_and(|was| shape(was) == shape(db));
        faults.claim(same, "INV-12", || {
            format!("{uid} changes with an election that is not about it")
        });
    }
}

/// INV-20, INV-21, INV-23 to INV-25, INV-29
fn dbs(planned: &Planned<'_>, faults: &mut Faults) {
    let (situation, next) = (planned.situation, planned.next);
    let derived = situation.data.dbs();
    let (old_master, new_master) = (master(&situation.data), master(next));
    let normal = phase(planned.before) == Some(&Phase::Normal);
    let head = derived.get(&old_master).filter(|_| normal);
    let steady = head.filter(|head| old_master == new_master && head.status.healthy && converged(head));
    for (uid, db) in derived
        .iter()
        .filter(|(uid, _)| normal && !next.dbs().contains_key(*uid))
    {
        faults.claim(*uid != old_master, "INV-20", || {
            format!("the master db {uid} is removed")
        });
        let allowed = steady.is_some_and(|head| may_go(situation, uid, db, &old_master, head));
        faults.claim(allowed, "INV-20", || format!("{uid} is removed without a reason"));
    }
    for (uid, db) in next.dbs() {
        let Some(was) = derived.get(uid) else {
            let blank = db.generation == 1 && db.status.current_generation == 0 && !db.status.healthy;
            faults.claim(blank, "INV-21", || {
                format!("the new db {uid} does not begin at the beginning")
            });
            continue;
        };
        let counted = db.generation == was.generation.wrapping_add(i64::from(db.spec != was.spec));
        faults.claim(counted, "INV-21", || {
            format!("{uid} has generation {} after {}", db.generation, was.generation)
        });
        if is_standby_type(was) && is_master_type(db) {
            faults.claim(*uid == new_master, "INV-23", || {
                format!("{uid} becomes a head and is not elected")
            });
        }
        let backwards = is_master_type(was) && is_standby_type(db);
        faults.claim(!backwards, "INV-23", || format!("the head {uid} becomes a standby"));
    }
    if steady.is_some() {
        for (uid, db) in next
            .dbs()
            .iter()
            .filter(|(uid, db)| **uid != new_master && is_standby_type(db))
        {
            let follows = db.spec.follow_config == Some(FollowConfig::internal(new_master.clone()));
            let plain = db.spec.followers == Some(Vec::new()) && db.spec.synchronous_standbys.is_none();
            faults.claim(follows && plain, "INV-24", || {
                format!("{uid} does not follow the master plainly")
            });
        }
    }
    if normal {
        let follow = FollowConfig::internal(new_master.clone());
        let following = next
            .dbs()
            .iter()
            .filter(|(_, db)| db.spec.follow_config.as_ref() == Some(&follow));
        let expected: Vec<&DbUid> = following
            .map(|(uid, _)| uid)
            .filter(|uid| **uid != old_master)
            .collect();
        let listed = next.dbs().get(&old_master).and_then(|db| db.spec.followers.as_ref());
        let right = listed.is_some_and(|listed| listed.iter().eq(expected.iter().copied()));
        let fits = if old_master == new_master {
            right
        } else {
            listed.is_none_or(Vec::is_empty) || right
        };
        faults.claim(fits, "INV-25", || {
            format!("followers of {old_master} are {listed:?}, should be {expected:?}")
        });
    }
}

/// Whether a db may be removed (INV-20).
fn may_go(situation: &Situation<'_>, uid: &DbUid, db: &Db, master: &DbUid, head: &Db) -> bool {
    let mut wakes = Wakes::default();
    if !situation.reported_well(master, head) {
        return false;
    }
    if is_master_type(db) {
        return true;
    }
    let lost = situation.report_of(db).is_some_and(|report| {
        let stays = report.lives && !report.info.leaving && report.info.stopped.is_none();
        stays && report.info.data_lost == *uid
    });
    if lost {
        return true;
    }
    let good = situation
        .standbys()
        .filter(|(uid, db)| situation.verdict(uid, db, head, &mut wakes).is_good())
        .count();
    let wanted = usize::from(situation.spec.max_standbys_per_sender);
    let verdict = situation.verdict(uid, db, head, &mut Wakes::default());
    match (&verdict.validity, verdict.class) {
        (Validity::Invalid(_), _) => true,
        (Validity::Valid, Class::Good) => {
            good > wanted || situation.memory.stalls.get(uid).is_some_and(|stall| stall.reports > 10)
        }
        _ => good >= wanted || situation.memory.stalls.get(uid).is_some_and(|stall| stall.reports > 10),
    }
}

/// INV-26, INV-27
fn keepers(planned: &Planned<'_>, faults: &mut Faults) {
    let situation = planned.situation;
    for (uid, keeper) in situation.data.keepers() {
        if planned.next.keepers().contains_key(uid) {
            continue;
        }
        let dead = situation.wall.since(keeper.status.last_healthy_time) > situation.spec.dead_keeper_removal_interval;
        let free = planned.next.db_of_keeper(uid).is_none();
        faults.claim(dead && free, "INV-26", || {
            format!("the keeper {uid} is removed and is not dead and free")
        });
    }
    for (uid, keeper) in planned
        .before
        .keepers()
        .iter()
        .filter(|(_, keeper)| keeper.status.force_fail)
    {
        let Some(after) = planned.next.keepers().get(uid) else {
            continue;
        };
        let kept = after.status == keeper.status;
        let acted = !after.status.force_fail && !after.status.healthy;
        let right = if planned.situation.first_run { kept } else { acted };
        faults.claim(right, "INV-27", || {
            format!("the failing of keeper {uid} by hand is lost")
        });
    }
}
