//! What an election changes in the plan: the two dbs, the proxy section and the conditions of the write (sentinel N-9).
//! The other dbs are left to later rounds.

use std::collections::BTreeSet;

use crate::draft::Draft;
use crate::elect::eligible::{Candidate, CandidateKind, ReplacedMaster};
use crate::elect::usable::MasterState;
use crate::election_backoff::{ElectionRecord, ReplaceReason};
use crate::in_sync;
use crate::note::Note;
use crate::proxies;
use crate::synchronous;
use crate::view::PlanView;
use model::{DbUid, FollowConfig, Role};

/// Makes `best` the master, on the conditions under which it was chosen, and records the election.
pub(crate) fn install(draft: &mut Draft, view: &PlanView<'_>, replaced: ReplacedMaster<'_>, best: &Candidate) {
    match &best.kind {
        CandidateKind::Regular => {}
        CandidateKind::Fallback(info) => draft.require(info.clone()),
        CandidateKind::Requested { info, request } => {
            draft.require(info.clone());
            draft.require(request.clone());
        }
    }
    // If the replaced master's keeper has published anything since, the plan is made again (extensions ).
    draft.require(view.info_unchanged(replaced.db));
    make_master(draft, view, replaced, best);
    remove_outdated_former_masters(draft, view, replaced, &best.db);
    let reason = match replaced.state {
        MasterState::Failed { .. } if !view.is_keeper_gone(replaced.db) => ReplaceReason::MasterUnhealthy,
        _ => ReplaceReason::KeeperGone,
    };
    let last = view.memory.election.as_ref();
    draft.elected = Some(ElectionRecord::after(last, &best.db, reason, view.now));
}

/// Makes `best` the master and closes the proxies (sentinel N-9).
fn make_master(draft: &mut Draft, view: &PlanView<'_>, replaced: ReplacedMaster<'_>, best: &Candidate) {
    if let Some(old) = draft.db_mut(replaced.uid) {
        old.spec.followers = Some(Vec::new());
    }
    let mut keeper = None;
    let min = view
        .data
        .dbs()
        .get(&best.db)
        .map_or(0, |db| synchronous::minimum(view, db));
    if let Some(new) = draft.db_mut(&best.db) {
        if view.spec.role == Role::Standby {
            new.spec.role = Role::Standby;
            new.spec.follow_config = Some(FollowConfig::external(view.spec.standby_config.as_ref()));
        } else {
            new.spec.role = Role::Master;
            new.spec.follow_config = None;
        }
        if view.spec_is_synchronous() {
            let wanted = inherited_set(replaced, &best.db);
            synchronous::write_sets(new, wanted, BTreeSet::new(), min);
        } else {
            new.spec.clear_synchronous();
            new.status.synchronous_standbys = None;
        }
        keeper = Some(new.spec.keeper_uid.clone());
    }
    draft.cluster_mut().status.master = best.db.clone();
    // Never from one master directly to the next: a later round announces the new one, once all proxies have closed
    // (fencing F-5).
    proxies::close(draft);
    draft.note(Note::Electing {
        db: best.db.clone(),
        keeper: keeper.unwrap_or_default(),
        from: replaced.uid.clone(),
        at: best.at,
    });
}

/// Returns the standbys that commits of the elected db wait for: those of the replaced master, itself replaced by it
/// (sentinel N-9.5; synchronous SY-6). The replaced master never streams from the new one, so commits wait until the next
/// steady round.
fn inherited_set(replaced: ReplacedMaster<'_>, elected: &DbUid) -> BTreeSet<DbUid> {
    let mut wanted = in_sync::wanted(replaced.db);
    if wanted.remove(elected) {
        wanted.insert(replaced.uid.clone());
    }
    wanted
}

/// Removes former masters that may lack what clients wrote since they were replaced, so that a synchronous master that
/// fails before it is announced is never replaced by one of them (synchronous SY-8, SY-9): those that the announced
/// master left, and those from before its commits waited.
fn remove_outdated_former_masters(
    draft: &mut Draft,
    view: &PlanView<'_>,
    replaced: ReplacedMaster<'_>,
    elected: &DbUid,
) {
    let may_be_outdated = view.is_announced(replaced.uid) || !replaced.is_synchronous();
    if !view.spec_is_synchronous() || !may_be_outdated {
        return;
    }
    for (uid, _) in view.former_masters(replaced.uid).filter(|(uid, _)| *uid != elected) {
        draft.remove_db(uid, |db, keeper| Note::RemovingFormerMaster { db, keeper });
    }
}
