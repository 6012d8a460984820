//! Which standbys the commits of the master wait for, and which of them are known to be in sync (sentinel 8, N-18;
//! synchronous SY-3, SY-5, SY-13, SY-15). What the master's report proves is left to `in_sync`, who is elected to
//! `elect`.

use std::collections::{BTreeMap, BTreeSet};

use crate::classify::{DbClass, Validity};
use crate::draft::Draft;
use crate::in_sync;
use crate::note::{DbList, Note};
use crate::view::{Assessment, PlanView};
use model::{CheckedClusterData, Db, DbUid, FAKE_STANDBY, Keeper, Spec};

/// What the sets are decided from.
struct SyncInput<'a> {
    view: &'a PlanView<'a>,
    master: &'a DbUid,
    db: &'a Db,
    assessments: &'a BTreeMap<DbUid, Assessment>,
    limits: Limits,
}

/// How many standbys commits wait for, and how the set changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    min: usize,
    max: usize,
    /// Whether members are replaced by way of a larger set (sentinel S-10).
    merge: bool,
}

/// Changes the sets of a healthy and converged master, or ends synchronous replication (sentinel N-18).
pub(crate) fn manage(
    draft: &mut Draft,
    view: &PlanView<'_>,
    master: &DbUid,
    db: &Db,
    assessments: &BTreeMap<DbUid, Assessment>,
) {
    if !view.spec_is_synchronous() {
        if let Some(next) = draft.db_mut(master) {
            next.spec.clear_synchronous();
            next.status.synchronous_standbys = None;
        }
        return;
    }
    // A former master that is left from before may lack what clients wrote; going back to it must be impossible from
    // the first synchronous generation on (synchronous SY-9).
    let former = draft
        .next
        .dbs()
        .iter()
        .any(|(uid, db)| uid != master && db.is_master_type());
    if former && !db.spec.synchronous_replication {
        return;
    }
    let sync = SyncInput {
        view,
        master,
        db,
        assessments,
        limits: limits(view.keeper_of(db), view.spec),
    };
    let (previous, known) = sync.settle_sets(draft);
    if known != previous {
        // The wanted set stays until its new members are in sync (sentinel S-3).
        if let Some(master) = draft.db_mut(master) {
            master.status.synchronous_standbys = Some(known.into_iter().collect());
        }
        return;
    }
    let next = sync.next_set(draft, &previous);
    let is_final = next == previous;
    if let Some(master) = draft.db_mut(master) {
        write_sets(master, next, known, sync.limits.min);
    }
    if is_final {
        sync.note_missing(draft);
    }
}

/// Writes the sets of a master. The known standbys that are not wanted any more leave in the same write (synchronous
/// SY-5); while there are fewer than `min`, commits wait for a standby that does not exist (sentinel S-11, S-12).
pub(crate) fn write_sets(db: &mut Db, wanted: BTreeSet<DbUid>, known: BTreeSet<DbUid>, min: usize) {
    let missing = wanted.len() < min;
    db.spec.synchronous_replication = true;
    db.spec.external_synchronous_standbys = Some(missing.then(|| FAKE_STANDBY.to_owned()).into_iter().collect());
    db.status.synchronous_standbys = Some(known.intersection(&wanted).cloned().collect());
    db.spec.synchronous_standbys = Some(wanted.into_iter().collect());
}

/// Returns the number of standbys that the commits of a master wait for at least.
pub(crate) fn minimum(view: &PlanView<'_>, master: &Db) -> usize {
    limits(view.keeper_of(master), view.spec).min
}

/// Returns how many standbys the commits of the master wait for in vain, as far as the cluster data show: members of the
/// wanted set that are not healthy standbys count as lost (sentinel S-13). 0 without synchronous replication.
pub fn missing_synchronous_standbys(checked: &CheckedClusterData) -> usize {
    let (data, spec) = (&checked.data, &checked.spec);
    let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
    master.map_or(0, |master| {
        let min = limits(data.keepers().get(&master.spec.keeper_uid), spec).min;
        let lost = data.lost_synchronous_standbys(master);
        count_missing(master, min, |uid| lost.contains(&uid))
    })
}

/// Returns how many standbys a master waits for in vain: the lost members of its wanted set, and, while it waits for a
/// standby that does not exist, as many as the set lacks of `min` (sentinel S-13).
fn count_missing(master: &Db, min: usize, is_lost: impl Fn(&DbUid) -> bool) -> usize {
    if !master.spec.synchronous_replication {
        return 0;
    }
    let wanted = in_sync::wanted(master);
    let lost = wanted.iter().filter(|uid| is_lost(uid)).count();
    let placeholders = master.spec.external_synchronous_standbys.iter().flatten().count();
    match placeholders {
        0 => lost,
        // The minimum may have been lowered since the set was written.
        _ => lost + min.saturating_sub(wanted.len()).max(placeholders),
    }
}

/// Returns the limits of the set, from the keeper of the master. PostgreSQL 9.5 and earlier waits for one standby only, so
/// one is replaced at once (sentinel S-1).
fn limits(keeper: Option<&Keeper>, spec: &Spec) -> Limits {
    let version = keeper.map(|keeper| keeper.status.postgres_binary_version);
    if version.is_some_and(|version| version.major == 9 && version.minor <= 5) {
        return Limits {
            min: 1,
            max: 1,
            merge: false,
        };
    }
    Limits {
        min: usize::from(spec.min_synchronous_standbys),
        max: usize::from(spec.max_synchronous_standbys),
        merge: true,
    }
}

impl SyncInput<'_> {
    /// Returns the wanted and the known set after the last report of the master; only when they are equal the wanted set
    /// may change further. Without the members that are lost before they were in sync the wanted set is the known one
    /// (sentinel S-2, S-3).
    fn settle_sets(&self, draft: &mut Draft) -> (BTreeSet<DbUid>, BTreeSet<DbUid>) {
        let wanted = in_sync::wanted(self.db);
        let mut known = in_sync::electable(self.db);
        if known == wanted {
            return (wanted, known);
        }
        let proven = in_sync::proven(self.view, self.master, self.db);
        known.extend(proven.into_iter().filter(|uid| is_standby(draft, uid)));
        let mut pending = wanted.difference(&known);
        let lost = pending.find_map(|uid| Some((uid, self.lost(draft, uid)?)));
        if let Some((uid, lost)) = lost {
            draft.note(lost.pending_note(self.master, uid));
            draft.note(Note::SyncSetReduced {
                master: self.master.clone(),
                known: list(&known),
                wanted: list(&wanted),
            });
            return (known.clone(), known);
        }
        if known != wanted {
            draft.note(Note::SyncSetPending {
                master: self.master.clone(),
                known: list(&known),
                wanted: list(&wanted),
            });
        }
        (wanted, known)
    }

    /// Returns the next wanted set, from the previous one, whose members are all in sync (sentinel 8.2).
    fn next_set(&self, draft: &mut Draft, previous: &BTreeSet<DbUid>) -> BTreeSet<DbUid> {
        let mut next = self.remaining(draft, previous);
        self.add_good(draft, &mut next);
        let present = self.ordered(previous.iter().filter(|uid| is_standby(draft, uid)));
        // They are in the electable set, and may come back (sentinel S-8).
        for uid in &present {
            if next.len() < self.limits.min && next.insert(uid.clone()) {
                draft.note(Note::KeepingSyncStandby {
                    master: self.master.clone(),
                    db: uid.clone(),
                    required: self.limits.min,
                });
            }
        }
        // A member is replaced only once the new one is in sync: until then an election has the old one (sentinel
        // S-10).
        let grows = next.iter().any(|uid| !previous.contains(uid));
        if grows && self.limits.merge {
            next.extend(present);
        }
        if next != *previous {
            draft.note(Note::SyncSetChanged {
                master: self.master.clone(),
                previous: list(previous),
                next: list(&next),
            });
        }
        next
    }

    /// Returns the members that stay: no more than the maximum, and none that is lost (sentinel S-4 to S-6).
    fn remaining(&self, draft: &mut Draft, previous: &BTreeSet<DbUid>) -> BTreeSet<DbUid> {
        let mut remaining = Vec::new();
        for uid in self.ordered(previous.iter()) {
            match self.lost(draft, &uid) {
                Some(lost) => draft.note(lost.member_note(self.master, &uid)),
                None => remaining.push(uid),
            }
        }
        // The most advanced ones stay.
        for uid in remaining.iter().skip(self.limits.max) {
            draft.note(Note::SyncStandbyInExcess {
                master: self.master.clone(),
                db: uid.clone(),
            });
        }
        remaining.truncate(self.limits.max);
        remaining.into_iter().collect()
    }

    /// Adds good standbys on the master's timeline up to the maximum; the lag does not matter (sentinel S-7).
    fn add_good(&self, draft: &mut Draft, set: &mut BTreeSet<DbUid>) {
        let is_good = |uid: &&DbUid| {
            let db = self.view.data.dbs().get(*uid);
            let on_timeline = db.is_some_and(|db| db.status.timeline_id == self.db.status.timeline_id);
            let report = db.and_then(|db| self.view.report_of(db));
            let stays = report.is_none_or(|report| !report.info.is_leaving_or_stopped());
            self.assessments[*uid].is_good() && on_timeline && stays && is_standby(draft, uid)
        };
        for uid in self.ordered(self.assessments.keys().filter(is_good)) {
            if set.len() >= self.limits.max {
                return;
            }
            if set.contains(&uid) {
                continue;
            }
            let keeper = self.view.data.dbs().get(&uid).and_then(|db| self.view.keeper_of(db));
            if let Some(keeper) = keeper.filter(|keeper| keeper.status.can_be_synchronous_replica == Some(false)) {
                draft.note(Note::MayNotBeSynchronous {
                    db: uid,
                    keeper: keeper.uid.clone(),
                });
                continue;
            }
            draft.note(Note::AddingSyncStandby {
                master: self.master.clone(),
                db: uid.clone(),
            });
            set.insert(uid);
        }
    }

    /// Returns why a member of the set is lost; none while it is good or converging: one that applies another
    /// generation goes on streaming (synchronous SY-5).
    fn lost(&self, draft: &Draft, uid: &DbUid) -> Option<Lost> {
        let Some(db) = draft.next.dbs().get(uid) else {
            return Some(Lost::Removed);
        };
        // A former master follows no other db.
        if !db.is_standby_type() {
            return Some(Lost::Unusable);
        }
        let assessment = self.assessments.get(uid);
        let failed = assessment.is_none_or(|assessment| {
            assessment.class == DbClass::Failed || matches!(assessment.validity, Validity::Invalid(_))
        });
        // Its keeper stops it as soon as commits do not wait for it (synchronous SY-13).
        let leaving = self.view.report_of(db).is_some_and(|report| report.info.leaving);
        (failed || leaving).then_some(Lost::Unusable)
    }

    /// Returns dbs in the order of preference: the most advanced first, by uid among equals.
    fn ordered<'u>(&self, uids: impl Iterator<Item = &'u DbUid>) -> Vec<DbUid> {
        let position = |uid: &DbUid| self.view.data.dbs().get(uid).map(|db| db.status.xlog_pos);
        let mut ordered: Vec<DbUid> = uids.cloned().collect();
        ordered.sort_by(|a, b| position(b).cmp(&position(a)).then_with(|| a.cmp(b)));
        ordered
    }

    /// Notes that commits wait because standbys of the set that was written are missing (synchronous SY-18).
    fn note_missing(&self, draft: &mut Draft) {
        let Some(master) = draft.next.dbs().get(self.master) else {
            return;
        };
        let missing = count_missing(master, self.limits.min, |uid| self.lost(draft, uid).is_some());
        if missing > 0 {
            let wanted = list(&in_sync::wanted(master));
            draft.note(Note::SyncStandbysMissing {
                master: self.master.clone(),
                wanted,
                missing,
            });
        }
    }
}

/// Why a member of the set is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Its db is gone.
    Removed,
    /// It has failed, is invalid, or its keeper is leaving.
    Unusable,
}

impl Lost {
    /// Returns the note on a member that was not in sync yet.
    fn pending_note(self, master: &DbUid, uid: &DbUid) -> Note {
        let (master, db) = (master.clone(), uid.clone());
        match self {
            Self::Removed => Note::PendingSyncRemoved { master, db },
            Self::Unusable => Note::PendingSyncNotGood { master, db },
        }
    }

    /// Returns the note on a member that was in sync.
    fn member_note(self, master: &DbUid, uid: &DbUid) -> Note {
        let (master, db) = (master.clone(), uid.clone());
        match self {
            Self::Removed => Note::SyncStandbyRemoved { master, db },
            Self::Unusable => Note::SyncStandbyFailed { master, db },
        }
    }
}

/// Returns whether a db is a standby that stays in this plan.
fn is_standby(draft: &Draft, uid: &DbUid) -> bool {
    draft.next.dbs().get(uid).is_some_and(Db::is_standby_type)
}

fn list(set: &BTreeSet<DbUid>) -> DbList {
    DbList(set.iter().cloned().collect())
}
