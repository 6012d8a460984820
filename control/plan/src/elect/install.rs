//! What an election changes in the plan: the two dbs, the proxy section and the conditions of the write (sentinel N-9).
//! The other dbs are left to later rounds.

use crate::draft::Draft;
use crate::elect::eligible::{Candidate, CandidateKind, ReplacedMaster};
use crate::elect::usable::MasterState;
use crate::election_backoff::{ElectionRecord, ReplaceReason};
use crate::note::Note;
use crate::proxies;
use crate::view::PlanView;
use model::{DbUid, Role};

/// Makes `best` the master, on the conditions under which it was chosen, and records the election.
pub(crate) fn install(draft: &mut Draft, view: &PlanView<'_>, replaced: ReplacedMaster<'_>, best: &Candidate) {
    if let CandidateKind::Fallback(condition) = &best.kind {
        draft.require(condition.clone());
    }
    // If the replaced master's keeper has published anything since, the plan is made again (extensions ).
    draft.require(view.info_unchanged(replaced.db));
    make_master(draft, replaced.uid, best);
    let reason = match replaced.state {
        MasterState::Failed if !view.is_keeper_gone(replaced.db) => ReplaceReason::MasterUnhealthy,
        _ => ReplaceReason::KeeperGone,
    };
    let last = view.memory.election.as_ref();
    draft.elected = Some(ElectionRecord::after(last, &best.db, reason, view.now));
}

/// Makes `best` the master and closes the proxies (sentinel N-9).
fn make_master(draft: &mut Draft, replaced: &DbUid, best: &Candidate) {
    if let Some(old) = draft.db_mut(replaced) {
        old.spec.followers = Some(Vec::new());
    }
    let mut keeper = None;
    if let Some(new) = draft.db_mut(&best.db) {
        new.spec.role = Role::Master;
        new.spec.follow_config = None;
        new.spec.clear_synchronous();
        keeper = Some(new.spec.keeper_uid.clone());
    }
    draft.cluster_mut().status.master = best.db.clone();
    // Never from one master directly to the next: a later round announces the new one, once all proxies have closed
    // (fencing F-5).
    proxies::close(draft);
    draft.note(Note::Electing {
        db: best.db.clone(),
        keeper: keeper.unwrap_or_default(),
        from: replaced.clone(),
        at: best.at,
    });
}
