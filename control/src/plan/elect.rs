//! Whether the master is still usable, and who takes over (sentinel 7.2 to 7.4, beyond ). What becomes
//! of everybody else is left to `standbys`.

use crate::model::{Db, DbUid, Lsn, Role};
use crate::plan::classify::{Convergence, Validity, convergence, is_standby_type, switch_of, validity};
use crate::plan::draft::{Condition, Draft};
use crate::plan::memory::converged;
use crate::plan::note::{Names, Note};
use crate::plan::pause::{Election, Loss};
use crate::plan::proxies;
use crate::plan::situation::{Situation, Trust};

/// The most WAL that a master may have written after its promotion for it to be given up for its predecessor, however
/// large maxStandbyLag is (sentinel C-12).
const FORGOTTEN_BYTES_MAX: i128 = 64 << 10;

/// What the master is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usable {
    Yes,
    /// It stopped cleanly here, on this timeline, and its keeper left (beyond ).
    Left {
        lsn: Lsn,
        timeline: u64,
    },
    No,
}

/// Who could take over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    db: DbUid,
    at: Lsn,
    trust: Trust,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A standby, or a former head that runs and is good.
    Ordinary,
    /// A former master that is kept, for which the proxies have to be closed first and whose info must stand still
    /// (sentinel C-12, beyond ).
    Retained(Condition),
}

/// Elects another master if that is needed and possible; whether it did.
pub(crate) fn elect(draft: &mut Draft, situation: &Situation, master: &DbUid, db: &Db) -> bool {
    let usable = judge(draft, situation, master, db);
    if usable == Usable::Yes {
        return false;
    }
    let proxies_closed = draft.proxy_mut().spec.master_db_uid.is_empty();
    if proxies_closed && wait_for_proxies(draft, situation) {
        return false;
    }
    draft.say(Note::FindingMaster {});
    let mut ordinary = candidates(draft, situation, master, db, usable);
    let retained = retained(situation, master, db, ordinary.is_empty());
    if ordinary.is_empty() && !retained.is_empty() && !proxies_closed {
        go_back_later(draft, situation, &retained);
        return false;
    }
    if proxies_closed && usable == Usable::No {
        ordinary.extend(retained);
    }
    let Some(best) = best(ordinary) else {
        match usable {
            Usable::No => draft.say(Note::NoEligibleMasters {}),
            Usable::Left { .. } | Usable::Yes => {}
        }
        return false;
    };
    if let Kind::Retained(condition) = &best.kind {
        draft.require(condition.clone());
    }
    // beyond: a master whose keeper has published anything since is looked at again
    draft.require(situation.info_unchanged(db));
    replace(draft, master, &best);
    let loss = match usable {
        Usable::No if !situation.is_gone(db) => Loss::Doubtful,
        _ => Loss::Gone,
    };
    let last = situation.memory.election.as_ref();
    draft.elected = Some(Election::after(last, &best.db, loss, situation.now));
    true
}

/// Whether proxies may still be forwarding to an earlier master; then nobody is elected (fencing F-10).
///
/// A proxy that still holds a lease from an earlier reign of the same address would carry writes to a master that was
/// not published, and whose writes count for nothing (beyond ).
fn wait_for_proxies(draft: &mut Draft, situation: &Situation) -> bool {
    let in_the_way = &situation.proxies.in_the_way;
    if in_the_way.is_empty() {
        return false;
    }
    let generation = draft.proxy_mut().generation;
    draft.say(Note::ElectionWaitsForProxies {
        proxies: Names(in_the_way.clone()),
        generation,
    });
    true
}

/// What the master is good for, once it is settled that a doubt about it counts.
fn judge(draft: &mut Draft, situation: &Situation, master: &DbUid, db: &Db) -> Usable {
    let usable = examine(draft, situation, master, db);
    if usable != Usable::No || situation.is_gone(db) {
        return usable;
    }
    let keeper = db.spec.keeper_uid.clone();
    if situation.first_run && situation.seems_well(master, db) {
        draft.say(Note::MasterSeemsWell {
            db: master.clone(),
            keeper,
        });
        return Usable::Yes;
    }
    let served = situation.memory.served.as_ref() == Some(master);
    let last = situation
        .memory
        .election
        .as_ref()
        .filter(|election| election.master == *master);
    let pause = last.map(|last| (last.doubtful, last.pause_ends(situation.spec, served)));
    match pause {
        Some((elections, end)) if situation.now <= end => {
            draft.wakes.after(end, situation.now);
            draft.say(Note::ElectionPaused {
                db: master.clone(),
                keeper,
                elections,
            });
            Usable::Yes
        }
        _ => Usable::No,
    }
}

/// sentinel N-4, beyond
fn examine(draft: &mut Draft, situation: &Situation, master: &DbUid, db: &Db) -> Usable {
    let keeper = db.spec.keeper_uid.clone();
    let limit = situation.spec.convergence_timeout;
    let progress = convergence(master, db, limit, situation.memory, situation.now, &mut draft.wakes);
    let mut usable = Usable::Yes;
    if !db.status.healthy {
        draft.say(Note::MasterFailed {
            db: master.clone(),
            keeper: keeper.clone(),
        });
        usable = Usable::No;
    }
    if progress == Convergence::Failed {
        // sentinel W-10: one that this sentinel has seen serving is asked to reconfigure, not to promote.
        let serves = db.status.healthy && situation.memory.served.as_ref() == Some(master);
        if serves {
            draft.say(Note::MasterSlow {
                db: master.clone(),
                keeper: keeper.clone(),
            });
        } else {
            draft.say(Note::MasterNotConverged {
                db: master.clone(),
                keeper: keeper.clone(),
            });
            usable = Usable::No;
        }
    }
    if let Some((lsn, timeline)) = goodbye(situation, master, db) {
        draft.say(Note::MasterLeft {
            db: master.clone(),
            keeper,
            lsn,
        });
        if usable == Usable::Yes {
            usable = Usable::Left { lsn, timeline };
        }
    }
    usable
}

/// Where the master stopped, if its keeper has said goodbye in order, and in the life that this document has
/// acknowledged: no other may have run it (beyond ).
fn goodbye(situation: &Situation, master: &DbUid, db: &Db) -> Option<(Lsn, u64)> {
    let info = &situation.report_of(db).filter(|report| report.listed)?.info;
    let boot = &situation.before.keepers().get(&db.spec.keeper_uid)?.status.boot_uuid;
    let stopped = info.stopped.as_ref().filter(|stopped| stopped.clean)?;
    let of_master = info.postgres_state.as_ref().is_none_or(|state| state.uid == *master);
    let in_order = info.leaving && info.boot_uuid == *boot && of_master;
    in_order.then_some((stopped.lsn?, stopped.timeline_id))
}

/// The ordinary candidates (sentinel C-10, C-12).
fn candidates(draft: &mut Draft, situation: &Situation, master: &DbUid, head: &Db, usable: Usable) -> Vec<Candidate> {
    let mut found = Vec::new();
    // Before anybody could write to the failed master, a former one is gone back to only as of beyond says.
    let published = situation.is_published(master);
    let others = situation
        .data
        .dbs()
        .iter()
        .filter(|(uid, db)| *uid != master && (published || is_standby_type(db)));
    for (uid, db) in others {
        let verdict = situation.verdict(uid, db, head, &mut draft.wakes);
        if !verdict.is_good() || db.status.timeline_id != head.status.timeline_id {
            continue;
        }
        let (at, keeper) = (db.status.xlog_pos, db.spec.keeper_uid.clone());
        let report = situation.report_of(db);
        if report.is_some_and(|report| report.going()) {
            draft.say(Note::CandidateLeaving {
                db: uid.clone(),
                keeper,
            });
            continue;
        }
        // sentinel C-10: a standby ahead of the record passes, and so does one exactly as far behind as allowed
        if at.behind(head.status.xlog_pos) > i128::from(situation.spec.max_standby_lag) {
            draft.say(Note::TooFarBehind {
                db: uid.clone(),
                at,
                master: head.status.xlog_pos,
            });
            continue;
        }
        let may = situation
            .keeper_of(db)
            .is_none_or(|keeper| keeper.status.can_be_master != Some(false));
        if is_standby_type(db) && !may {
            draft.say(Note::MayNotBeMaster {
                db: uid.clone(),
                keeper,
            });
            continue;
        }
        // beyond: nothing that the master wrote before it stopped may be missing
        if let Usable::Left { lsn, timeline } = usable
            && (at < lsn || db.status.timeline_id != timeline || !is_standby_type(db))
        {
            draft.say(Note::MissingWal {
                db: uid.clone(),
                at,
                lsn,
            });
            continue;
        }
        found.push(Candidate {
            db: uid.clone(),
            at,
            trust: situation.trust(uid, db),
            kind: Kind::Ordinary,
        });
    }
    found
}

/// Former masters that are kept and could be gone back to (sentinel C-12, beyond ).
fn retained(situation: &Situation, master: &DbUid, head: &Db, nobody_else: bool) -> Vec<Candidate> {
    let published = situation.is_published(master);
    let back = |(uid, db): (&DbUid, &Db)| {
        let report = situation
            .report_of(db)
            .filter(|report| report.lives && !report.info.leaving)?;
        let stopped = report.info.stopped.as_ref();
        let runs = report.of(uid).is_some_and(|state| state.healthy) && db.status.healthy && converged(db);
        if !runs && stopped.is_none() {
            return None;
        }
        let (own, of_head) = (db.status.timeline_id, head.status.timeline_id);
        // What stopped on another timeline than its record says is not what the record is about (beyond ).
        if stopped.is_some_and(|stopped| stopped.timeline_id != own) {
            return None;
        }
        // beyond: the elected one failed before anybody wrote to it
        let before_publication = !published && own == of_head;
        // sentinel C-12: little more than the promotion itself is given up
        let forgotten = switch_of(&head.status, own).map(|switch| switch.switch_point.behind(head.status.xlog_pos));
        let allowed = FORGOTTEN_BYTES_MAX.min(i128::from(situation.spec.max_standby_lag));
        let just_promoted = nobody_else && own < of_head && forgotten.is_some_and(|bytes| bytes <= allowed);
        let complete = db.status.current_generation > 0;
        let same_system = db.status.system_id.is_empty() || db.status.system_id == head.status.system_id;
        let same_branch = just_promoted || matches!(validity(uid, db, &head.status), Validity::Valid);
        if !complete || !same_system || !same_branch || !(before_publication || just_promoted) {
            return None;
        }
        let at = stopped
            .and_then(|stopped| stopped.lsn)
            .map_or(db.status.xlog_pos, |lsn| lsn.max(db.status.xlog_pos));
        let condition = Condition::KeeperInfo {
            key: report.key.clone(),
            revision: Some(report.revision),
        };
        Some(Candidate {
            db: uid.clone(),
            at,
            trust: Trust::Fresh,
            kind: Kind::Retained(condition),
        })
    };
    situation.old_masters(master).filter_map(back).collect()
}

/// Closes the proxies, so that a former master can be gone back to once none is in the way (fencing F-6).
fn go_back_later(draft: &mut Draft, situation: &Situation, retained: &[Candidate]) {
    for candidate in retained {
        let keeper = situation
            .data
            .dbs()
            .get(&candidate.db)
            .map(|db| db.spec.keeper_uid.clone());
        draft.say(Note::ClosingForOldMaster {
            db: candidate.db.clone(),
            keeper: keeper.unwrap_or_default(),
        });
    }
    proxies::close(draft);
}

/// The most advanced candidate, by uid among equals (sentinel C-13); one whose position is stale, or whose own keeper calls
/// it unhealthy, only when no better one is there (design D-6).
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(|a, b| {
        a.trust
            .cmp(&b.trust)
            .then_with(|| b.at.cmp(&a.at))
            .then_with(|| a.db.cmp(&b.db))
    })
}

/// sentinel N-9
fn replace(draft: &mut Draft, master: &DbUid, best: &Candidate) {
    if let Some(old) = draft.db_mut(master) {
        old.spec.followers = Some(Vec::new());
    }
    let mut keeper = None;
    if let Some(new) = draft.db_mut(&best.db) {
        new.spec.role = Role::Master;
        new.spec.follow_config = None;
        new.spec.synchronous_replication = false;
        new.spec.synchronous_standbys = None;
        new.spec.external_synchronous_standbys = None;
        keeper = Some(new.spec.keeper_uid.clone());
    }
    draft.cluster_mut().status.master = best.db.clone();
    proxies::close(draft);
    draft.say(Note::Electing {
        db: best.db.clone(),
        keeper: keeper.unwrap_or_default(),
        from: master.clone(),
        at: best.at,
    });
}
