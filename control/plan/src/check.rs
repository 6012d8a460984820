//! The invariants of every plan (sentinel 17), checked before each write. A plan that breaks one is a bug and is not
//! written.

use std::collections::BTreeSet;
use std::fmt;

use crate::classify::{Convergence, DbClass, Validity, convergence};
use crate::draft::{Condition, Deadlines};
use crate::view::PlanView;
use model::{ClusterData, Db, DbUid, FollowConfig, KeeperUid, Phase};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in sentinel 17.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A plan with its input.
pub(crate) struct Transition<'a> {
    /// The cluster data as read (`o` of sentinel 17).
    pub(crate) before: &'a ClusterData,
    /// The view on the cluster data with derived health (`h`).
    pub(crate) view: &'a PlanView<'a>,
    /// The cluster data to write (`n`).
    pub(crate) next: &'a ClusterData,
    /// The conditions of the write.
    pub(crate) conditions: &'a [Condition],
}

/// Returns the invariants that a plan breaks.
pub(crate) fn check(transition: &Transition<'_>) -> Vec<Violation> {
    let mut violations = Violations::default();
    documents(transition, &mut violations);
    proxy_section(transition, &mut violations);
    election(transition, &mut violations);
    dbs(transition, &mut violations);
    keepers(transition, &mut violations);
    violations.0
}

#[derive(Default)]
struct Violations(Vec<Violation>);

impl Violations {
    /// Adds a violation unless the condition holds.
    fn require(&mut self, holds: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { rule, what: what() });
        }
    }
}

fn phase(data: &ClusterData) -> Option<&Phase> {
    data.cluster.as_ref().map(|cluster| &cluster.status.phase)
}

fn master(data: &ClusterData) -> DbUid {
    data.master_uid().cloned().unwrap_or_default()
}

/// Checks the document as a whole: the master exists, and uid, spec and phase are kept (INV-2, INV-30).
fn documents(transition: &Transition<'_>, violations: &mut Violations) {
    let (before, next) = (transition.before, transition.next);
    if phase(next) == Some(&Phase::Normal) {
        let there = next.dbs().contains_key(&master(next));
        violations.require(there, "INV-2", || {
            format!("master db {:?} is not among the dbs", master(next).as_str())
        });
    }
    // Faults that existed before are not caused by this plan, and must not block it.
    for broken in misplaced_dbs(next).difference(&misplaced_dbs(before)) {
        violations.require(false, "INV-2", || broken.clone());
    }
    let (Some(old), Some(new)) = (&before.cluster, &next.cluster) else {
        violations.require(false, "INV-30", || "the cluster is gone".to_owned());
        return;
    };
    violations.require(old.uid == new.uid, "INV-30", || "the cluster uid changes".to_owned());
    let handed_over = old.status.phase == Phase::Initializing && new.status.phase == Phase::Normal;
    violations.require(handed_over || old.spec == new.spec, "INV-30", || {
        "the cluster spec changes".to_owned()
    });
    let forward = handed_over || old.status.phase == new.status.phase;
    violations.require(forward, "INV-30", || {
        format!("phase {} follows {}", new.status.phase, old.status.phase)
    });
}

/// Returns descriptions of dbs without a keeper, and of keepers with several dbs.
fn misplaced_dbs(data: &ClusterData) -> BTreeSet<String> {
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

/// Checks the proxy section (INV-3 to INV-6, INV-22).
fn proxy_section(transition: &Transition<'_>, violations: &mut Violations) {
    let old = transition.before.proxy.clone().unwrap_or_default();
    let new = transition.next.proxy.clone().unwrap_or_default();
    let (was, is) = (&old.spec.master_db_uid, &new.spec.master_db_uid);
    if phase(transition.next) == Some(&Phase::Normal) {
        let right = is.is_empty() || *is == master(transition.next);
        violations.require(right, "INV-3", || {
            format!("proxies are sent to {is}, which is not the master")
        });
    }
    let through_none = was.is_empty() || is.is_empty() || was == is;
    violations.require(through_none, "INV-4", || {
        format!("proxies go from {was} straight to {is}")
    });
    let proxies = &transition.view.proxies;
    if was.is_empty() && !is.is_empty() {
        violations.require(proxies.may_still_forward.is_empty(), "INV-5", || {
            format!("{:?} may still forward", proxies.may_still_forward)
        });
    }
    if old.spec.enabled_proxies != new.spec.enabled_proxies {
        let right = !is.is_empty() && new.spec.enabled_proxies == proxies.active;
        violations.require(right, "INV-6", || {
            "the enabled proxies are not the active ones".to_owned()
        });
    }
    let step = i64::from(old.spec != new.spec);
    let counted = new.generation == old.generation.wrapping_add(step);
    violations.require(counted, "INV-22", || {
        format!("proxy generation {} follows {}", new.generation, old.generation)
    });
}

/// Checks an election: it is needed, and the elected db is eligible (INV-7 to INV-12).
fn election(transition: &Transition<'_>, violations: &mut Violations) {
    let view = transition.view;
    let (old_uid, new_uid) = (master(&view.data), master(transition.next));
    if old_uid == new_uid || phase(transition.before) != Some(&Phase::Normal) {
        return;
    }
    let dbs = view.data.dbs();
    let (Some(old), Some(new)) = (dbs.get(&old_uid), dbs.get(&new_uid)) else {
        violations.require(false, "INV-8", || {
            format!("{new_uid} is elected for {old_uid}, and one of them does not exist")
        });
        return;
    };
    let mut deadlines = Deadlines::default();
    let limit = view.spec.convergence_timeout;
    let progress = convergence(&old_uid, old, limit, view.memory, view.now, &mut deadlines);
    let report = view.report_of(old);
    let left = report
        .is_some_and(|report| report.info.leaving && report.info.stopped.as_ref().is_some_and(|stopped| stopped.clean));
    let needed = !old.status.healthy || progress == Convergence::Failed || left;
    violations.require(needed, "INV-7", || format!("{old_uid} is replaced although it serves"));

    let assessment = view.assess(&new_uid, new, old, &mut deadlines);
    let may_be_master = view
        .keeper_of(new)
        .is_none_or(|keeper| keeper.status.can_be_master != Some(false));
    let same_timeline = new.status.timeline_id == old.status.timeline_id;
    let lag = new.status.xlog_pos.bytes_behind(old.status.xlog_pos);
    let near = lag <= i128::from(view.spec.max_standby_lag);
    let regular = assessment.is_good() && same_timeline && (may_be_master || new.heads_cluster());
    let fallback = new.heads_cluster()
        && view.report_of(new).is_some_and(|report| {
            let condition = Condition::KeeperInfo {
                key: report.key.clone(),
                revision: Some(report.revision),
            };
            report.live && !report.info.leaving && transition.conditions.contains(&condition)
        })
        && view.proxies.may_still_forward.is_empty();
    violations.require(regular || fallback, "INV-8", || {
        format!("{new_uid} is elected and not eligible")
    });
    violations.require(near || fallback, "INV-9", || {
        format!("{new_uid} is elected and {lag} bytes behind")
    });
    if !fallback {
        best_of_all(view, &old_uid, old, new, left, violations);
    }
    let own_key = report.filter(|report| report.key_exists).map(|report| &report.key);
    let has_condition = transition.conditions.iter().any(|condition| match condition {
        Condition::KeeperInfo { key, revision } => {
            let read = view.memory.history.keeper_keys.get(key);
            own_key.map_or(old.spec.keeper_uid.as_str(), String::as_str) == key && *revision == read.copied()
        }
    });
    violations.require(has_condition, "X-1.5", || {
        format!("{new_uid} is elected without a condition on the info of {old_uid}'s keeper")
    });
    timing(transition, &old_uid, old, violations);
    nothing_else(transition, &old_uid, &new_uid, violations);
}

/// Checks the time of an election: no proxy may still forward, and the last one had its time (F-10, INV-31, INV-32).
fn timing(transition: &Transition<'_>, old_uid: &DbUid, old: &Db, violations: &mut Violations) {
    let view = transition.view;
    let section = transition.before.proxy.clone().unwrap_or_default();
    let may_still_forward = &view.proxies.may_still_forward;
    let closed = !section.spec.master_db_uid.is_empty() || may_still_forward.is_empty();
    violations.require(closed, "F-10", || {
        format!("another master is elected although {may_still_forward:?} may still forward")
    });
    let report = view.report_of(old);
    let keeper = view.data.keepers().get(&old.spec.keeper_uid);
    let there = keeper.is_some_and(|keeper| keeper.status.healthy) && report.is_none_or(|report| !report.info.leaving);
    if !there {
        return;
    }
    let reports_healthy = report.is_some_and(|report| report.reports_healthy(old_uid));
    violations.require(!(view.first_run && reports_healthy), "INV-32", || {
        format!("{old_uid} is replaced in a first run although it reports healthy")
    });
    if let Some(last) = view.memory.election.as_ref().filter(|last| last.master == *old_uid) {
        let served = view.memory.once_healthy.as_ref() == Some(old_uid);
        let since = view.now.since(last.at);
        let early = !served && (since <= view.spec.convergence_timeout || since <= view.spec.fail_interval);
        violations.require(!early, "INV-31", || {
            format!("{old_uid} is replaced {since:?} after it was elected")
        });
    }
}

/// Checks that no better candidate was passed over (INV-11).
fn best_of_all(view: &PlanView<'_>, old_uid: &DbUid, old: &Db, elected: &Db, left: bool, violations: &mut Violations) {
    let rank = |uid: &DbUid, db: &Db| {
        let report = view.report_of(db);
        let unhealthy = report.is_some_and(|report| report.state_of(uid).is_some_and(|state| !state.healthy));
        (!unhealthy, !unhealthy && report.is_some_and(|report| report.fresh))
    };
    for (uid, db) in view.standbys().filter(|(uid, _)| *uid != old_uid) {
        let assessment = view.assess(uid, db, old, &mut Deadlines::default());
        let may_be_master = view
            .keeper_of(db)
            .is_none_or(|keeper| keeper.status.can_be_master != Some(false));
        let is_leaving = view.report_of(db).is_some_and(|report| report.is_leaving_or_stopped());
        let is_candidate =
            assessment.is_good() && may_be_master && !is_leaving && db.status.timeline_id == old.status.timeline_id;
        let (own, other) = (rank(uid, db), rank(&elected.uid, elected));
        let (at, of_elected) = (db.status.xlog_pos, elected.status.xlog_pos);
        // A db with a better report is still no candidate when it lacks too much (C-10), or anything at all after a
        // clean stop.
        let lag = at.bytes_behind(old.status.xlog_pos);
        let complete = lag <= i128::from(view.spec.max_standby_lag) && (!left || at >= of_elected);
        let better = (own > other && complete) || (own == other && at > of_elected);
        violations.require(!(is_candidate && better), "INV-11", || {
            format!("{uid} is more advanced or better reported than the one elected")
        });
    }
}

/// Checks that an election changes nothing else (INV-12).
fn nothing_else(transition: &Transition<'_>, old: &DbUid, new: &DbUid, violations: &mut Violations) {
    let proxy = transition.next.proxy.clone().unwrap_or_default();
    violations.require(proxy.spec.master_db_uid.is_empty(), "INV-12", || {
        "proxies are not closed by the election".to_owned()
    });
    let before = transition.view.data.dbs();
    let same_dbs = before.keys().eq(transition.next.dbs().keys());
    violations.require(same_dbs, "INV-12", || "dbs come or go with an election".to_owned());
    let shape = |db: &Db| {
        (
            db.spec.role.clone(),
            db.spec.follow_config.clone(),
            db.spec.followers.clone(),
            db.spec.init_mode.clone(),
        )
    };
    for (uid, db) in transition
        .next
        .dbs()
        .iter()
        .filter(|(uid, _)| *uid != old && *uid != new)
    {
        let same = before.get(uid).is_some_and(|was| shape(was) == shape(db));
        violations.require(same, "INV-12", || {
            format!("{uid} changes with an election that is not about it")
        });
    }
}

/// Checks which dbs are added, removed and changed (INV-20, INV-21, INV-23 to INV-25, INV-29).
fn dbs(transition: &Transition<'_>, violations: &mut Violations) {
    let (view, next) = (transition.view, transition.next);
    let derived = view.data.dbs();
    let (old_master, new_master) = (master(&view.data), master(next));
    let normal = phase(transition.before) == Some(&Phase::Normal);
    let master_db = derived.get(&old_master).filter(|_| normal);
    let steady =
        master_db.filter(|master_db| old_master == new_master && master_db.status.healthy && master_db.is_converged());
    for (uid, db) in derived
        .iter()
        .filter(|(uid, _)| normal && !next.dbs().contains_key(*uid))
    {
        violations.require(*uid != old_master, "INV-20", || {
            format!("the master db {uid} is removed")
        });
        let allowed = steady.is_some_and(|master_db| may_be_removed(view, uid, db, &old_master, master_db));
        violations.require(allowed, "INV-20", || format!("{uid} is removed without a reason"));
    }
    for (uid, db) in next.dbs() {
        let Some(was) = derived.get(uid) else {
            let blank = db.generation == 1 && db.status.current_generation == 0 && !db.status.healthy;
            violations.require(blank, "INV-21", || {
                format!("the new db {uid} does not begin at the beginning")
            });
            continue;
        };
        let counted = db.generation == was.generation.wrapping_add(i64::from(db.spec != was.spec));
        violations.require(counted, "INV-21", || {
            format!("{uid} has generation {} after {}", db.generation, was.generation)
        });
        if was.follows_inside() && db.heads_cluster() {
            violations.require(*uid == new_master, "INV-23", || {
                format!("{uid} becomes a master and is not elected")
            });
        }
        let backwards = was.heads_cluster() && db.follows_inside();
        violations.require(!backwards, "INV-23", || format!("the master {uid} becomes a standby"));
    }
    if steady.is_some() {
        for (uid, db) in next
            .dbs()
            .iter()
            .filter(|(uid, db)| **uid != new_master && db.follows_inside())
        {
            let follows = db.spec.follow_config == Some(FollowConfig::internal(new_master.clone()));
            let plain = db.spec.followers == Some(Vec::new()) && db.spec.synchronous_standbys.is_none();
            violations.require(follows && plain, "INV-24", || {
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
        violations.require(fits, "INV-25", || {
            format!("followers of {old_master} are {listed:?}, should be {expected:?}")
        });
    }
}

/// Returns whether a db may be removed (INV-20).
fn may_be_removed(view: &PlanView<'_>, uid: &DbUid, db: &Db, master: &DbUid, master_db: &Db) -> bool {
    let mut deadlines = Deadlines::default();
    if !view.is_reported_healthy(master, master_db) {
        return false;
    }
    if db.heads_cluster() {
        return true;
    }
    let data_lost = view.report_of(db).is_some_and(|report| {
        let stays = report.live && !report.info.leaving && report.info.stopped.is_none();
        stays && report.info.data_lost == *uid
    });
    if data_lost {
        return true;
    }
    let good = view
        .standbys()
        .filter(|(uid, db)| view.assess(uid, db, master_db, &mut deadlines).is_good())
        .count();
    let wanted = usize::from(view.spec.max_standbys_per_sender);
    let assessment = view.assess(uid, db, master_db, &mut Deadlines::default());
    match (&assessment.validity, assessment.class) {
        (Validity::Invalid(_), _) => true,
        (Validity::Valid, DbClass::Good) => {
            good > wanted || view.memory.stalls.get(uid).is_some_and(|stall| stall.reports > 10)
        }
        _ => good >= wanted || view.memory.stalls.get(uid).is_some_and(|stall| stall.reports > 10),
    }
}

/// Checks keepers that are removed or marked as failed (INV-26, INV-27).
fn keepers(transition: &Transition<'_>, violations: &mut Violations) {
    let view = transition.view;
    for (uid, keeper) in view.data.keepers() {
        if transition.next.keepers().contains_key(uid) {
            continue;
        }
        let dead = view.wall.since(keeper.status.last_healthy_time) > view.spec.dead_keeper_removal_interval;
        let free = transition.next.db_of_keeper(uid).is_none();
        violations.require(dead && free, "INV-26", || {
            format!("the keeper {uid} is removed and is not dead and free")
        });
    }
    for (uid, keeper) in transition
        .before
        .keepers()
        .iter()
        .filter(|(_, keeper)| keeper.status.force_fail)
    {
        let Some(after) = transition.next.keepers().get(uid) else {
            continue;
        };
        let kept = after.status == keeper.status;
        let acted = !after.status.force_fail && !after.status.healthy;
        let right = if transition.view.first_run { kept } else { acted };
        violations.require(right, "INV-27", || {
            format!("the failing of keeper {uid} by hand is lost")
        });
    }
}
