//! Elects another master if the current one is not usable (sentinel 7.2 to 7.4, extensions;
//! synchronous SY-1, SY-2, SY-9, SY-10, SY-12, SY-20). What happens to the other dbs is left to `standbys`.

mod choose;
mod eligible;
mod install;
pub(crate) mod ordered;
mod requested;
pub(crate) mod usable;

use std::time::Duration;

use crate::condition::{Condition, RequestFate};
use crate::draft::Draft;
use crate::elect::choose::choose;
use crate::elect::eligible::{Candidate, ReplacedMaster};
use crate::elect::install::install;
use crate::elect::usable::MasterState;
use crate::in_sync;
use crate::note::{DbList, Note, ProxyList};
use crate::proxies;
use crate::view::PlanView;
use base::clock::Boottime;
use model::{Db, DbUid};

/// How long an election waits for a standby to receive everything that a cleanly stopped master wrote, when another one
/// that was in sync could be elected (synchronous SY-12).
const COMPLETE_STANDBY_WAIT: Duration = Duration::from_secs(1);

/// Elects another master if that is needed and possible. Returns whether it did.
pub(crate) fn elect(draft: &mut Draft, view: &PlanView<'_>, master: &DbUid, db: &Db) -> bool {
    let assessment = usable::assess(view, master, db);
    draft.notes.extend(assessment.notes);
    draft.deadlines.wake_after(assessment.deadline, view.now);
    let state = assessment.state;
    if state == MasterState::Usable {
        return false;
    }
    let proxies_closed = draft.are_proxies_closed();
    if proxies_closed && !view.proxies.may_still_forward.is_empty() {
        note_waiting_for_proxies(draft, view);
        return false;
    }
    draft.note(Note::FindingMaster {});
    let replaced = ReplacedMaster { uid: master, db, state };
    let mut candidates = find_regular(draft, view, replaced);
    let fallbacks = find_fallbacks(draft, view, replaced, candidates.is_empty());
    // A former master lacks what clients write from now on, so none may write: the proxies close first, and a later
    // round elects it once no proxy may still forward (fencing F-6).
    if candidates.is_empty() && !fallbacks.is_empty() && !proxies_closed {
        close_for_fallback(draft, view, &fallbacks);
        return false;
    }
    if replaced.is_synchronous() {
        candidates = prefer_complete(candidates);
    }
    if let Some(until) = wait_for_complete(replaced, &candidates).filter(|until| view.now <= *until) {
        draft.deadlines.wake_after(until, view.now);
        return false;
    }
    // Only after a failure: a master that left cleanly lost nothing, and its standbys have all of its data.
    if proxies_closed && state.has_failed() {
        candidates.extend(fallbacks);
    }
    let Some(best) = choose(candidates) else {
        // After an orderly shutdown this is no error: failInterval decides (sentinel N-8, extensions ).
        return state.has_failed() && elect_as_requested(draft, view, replaced);
    };
    install(draft, view, replaced, &best);
    true
}

/// Elects the db that an operator asked for, if there is a request that can be carried out (synchronous SY-20). Returns
/// whether it did.
///
/// The old master may come back until no proxy may forward to it any more, so the proxies are closed first, and a later
/// round elects (fencing F-6).
fn elect_as_requested(draft: &mut Draft, view: &PlanView<'_>, replaced: ReplacedMaster<'_>) -> bool {
    if let Some((request, revision)) = view.failover {
        let keeper = request.to.clone();
        match requested::candidate(view, request, *revision, replaced) {
            Ok(candidate) if draft.are_proxies_closed() => {
                draft.note(Note::ElectingAsRequested {
                    keeper,
                    request: request.id.clone(),
                });
                install(draft, view, replaced, &candidate);
                return true;
            }
            Ok(Candidate { db, .. }) => {
                draft.note(Note::ClosingAsRequested { db, keeper });
                draft.require(Condition::FailoverRequest {
                    revision: *revision,
                    fate: RequestFate::Kept,
                });
                draft.require(view.info_unchanged(replaced.db));
                proxies::close(draft);
            }
            Err(reason) => draft.note(Note::FailoverRefused { keeper, reason }),
        }
    }
    note_none_in_sync(draft, view, replaced);
    draft.note(Note::NoEligibleMasters {});
    false
}

/// Returns the candidates that have received everything, if there are any, otherwise all: an old master rejoins one of
/// those without a rewind (synchronous SY-12).
fn prefer_complete(candidates: Vec<Candidate>) -> Vec<Candidate> {
    if !candidates.iter().any(|candidate| candidate.is_complete) {
        return candidates;
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.is_complete)
        .collect()
}

/// Returns until when an election waits for a standby to receive everything that a synchronous master wrote before its
/// clean stop, if standbys that were in sync could be elected without that (synchronous SY-12).
fn wait_for_complete(replaced: ReplacedMaster<'_>, candidates: &[Candidate]) -> Option<Boottime> {
    let MasterState::Left { end: Some(_), since } = replaced.state else {
        return None;
    };
    let has_complete = candidates.iter().any(|candidate| candidate.is_complete);
    let waits = replaced.is_synchronous() && !candidates.is_empty() && !has_complete;
    waits.then_some(since + COMPLETE_STANDBY_WAIT)
}

/// Notes that no standby is known to have every commit that was acknowledged (sentinel N-5).
fn note_none_in_sync(draft: &mut Draft, view: &PlanView<'_>, replaced: ReplacedMaster<'_>) {
    if !replaced.is_synchronous() || view.standbys().next().is_none() {
        return;
    }
    let list = |set: std::collections::BTreeSet<DbUid>| DbList(set.into_iter().collect());
    let (known, wanted) = (list(in_sync::known(replaced.db)), list(in_sync::wanted(replaced.db)));
    let common = in_sync::electable(replaced.db);
    draft.note(if common.is_empty() {
        Note::NoCommonStandby {
            reported: known,
            spec: wanted,
        }
    } else {
        Note::NoStandbyInSync {
            reported: known,
            spec: wanted,
            common: list(common),
        }
    });
}

/// Notes that an election waits for proxies that may still forward to an earlier master (fencing F-10).
///
/// A proxy whose lease dates from an earlier time as master of the same address would forward writes to a master that
/// is not announced. Such writes do not count as acknowledged (extensions) and could be lost.
fn note_waiting_for_proxies(draft: &mut Draft, view: &PlanView<'_>) {
    let generation = draft.proxy().map_or(0, |proxy| proxy.generation);
    draft.note(Note::ElectionWaitsForProxies {
        proxies: ProxyList(view.proxies.may_still_forward.clone()),
        generation,
    });
}

/// Returns the regular candidates, and notes why other dbs are none. Where a former master is only not eligible, the note
/// is left to `find_fallbacks`, which knows the reason.
fn find_regular(draft: &mut Draft, view: &PlanView<'_>, replaced: ReplacedMaster<'_>) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (uid, db) in view.data.dbs().iter().filter(|(uid, _)| *uid != replaced.uid) {
        let (answer, deadline) = eligible::regular(view, uid, db, replaced);
        draft.deadlines.wake_after(deadline, view.now);
        match answer {
            Ok(candidate) => found.push(candidate),
            Err(why) => match why.note(uid, db) {
                Note::NotEligible { .. } if db.is_master_type() => {}
                note => draft.note(note),
            },
        }
    }
    found
}

/// Returns the former masters that are kept and could be used again, and notes why others could not.
fn find_fallbacks(
    draft: &mut Draft,
    view: &PlanView<'_>,
    replaced: ReplacedMaster<'_>,
    no_regular_candidate: bool,
) -> Vec<Candidate> {
    // With synchronous replication a standby that may be elected makes going back needless, and then no standby has to
    // be made again (synchronous SY-9).
    if replaced.is_synchronous() && !no_regular_candidate {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (uid, db) in view.former_masters(replaced.uid) {
        match eligible::fallback(view, uid, db, replaced, no_regular_candidate) {
            Ok(candidate) => found.push(candidate),
            Err(why) => draft.note(why.note(uid, db)),
        }
    }
    found
}

/// Closes the proxies, so that a former master can be elected once no proxy may still forward (fencing F-6).
fn close_for_fallback(draft: &mut Draft, view: &PlanView<'_>, fallbacks: &[Candidate]) {
    for candidate in fallbacks {
        let keeper = view.data.dbs().get(&candidate.db).map(|db| db.spec.keeper_uid.clone());
        draft.note(Note::ClosingForFormerMaster {
            db: candidate.db.clone(),
            keeper: keeper.unwrap_or_default(),
        });
    }
    proxies::close(draft);
}
