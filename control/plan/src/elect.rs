//! Whether the master is still usable, and which db replaces it (sentinel 7.2 to 7.4, extensions ).
//! What happens to the other dbs is left to `standbys`.

use crate::classify::{Convergence, Validity, convergence, history_entry, validity};
use crate::draft::{Condition, Draft};
use crate::election_backoff::{ElectionRecord, ReplaceReason};
use crate::note::{Note, ProxyList};
use crate::proxies;
use crate::view::{PlanView, ReportQuality};
use model::{Db, DbUid, Lsn, Role};

/// Maximum bytes of WAL that a master may have written after its promotion to be given up for its predecessor, however
/// large maxStandbyLag is (sentinel C-12).
const DISCARDED_BYTES_MAX: i128 = 64 << 10;

/// The state of the master, as far as an election depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MasterState {
    Usable,
    /// It stopped cleanly at this position, and its keeper left (extensions ).
    Left {
        lsn: Lsn,
        timeline: u64,
    },
    Failed,
}

/// A db that could be elected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    db: DbUid,
    at: Lsn,
    quality: ReportQuality,
    kind: CandidateKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CandidateKind {
    /// A standby, or another db of master type that runs and is good.
    Regular,
    /// A former master that is kept. The proxies have to be closed first, and its info must not change (sentinel C-12,
    /// extensions ).
    Fallback(Condition),
}

/// Elects another master if that is needed and possible. Returns whether it did.
pub(crate) fn elect(draft: &mut Draft, view: &PlanView, master: &DbUid, db: &Db) -> bool {
    let state = assess_master(draft, view, master, db);
    if state == MasterState::Usable {
        return false;
    }
    let proxies_closed = draft.proxy_mut().spec.master_db_uid.is_empty();
    if proxies_closed && wait_for_proxies(draft, view) {
        return false;
    }
    draft.note(Note::FindingMaster {});
    let mut regular = candidates(draft, view, master, db, state);
    let fallbacks = fallback_masters(view, master, db, regular.is_empty());
    if regular.is_empty() && !fallbacks.is_empty() && !proxies_closed {
        close_for_fallback(draft, view, &fallbacks);
        return false;
    }
    // Only after a failure: a master that left cleanly lost nothing, and its standbys have all of its data.
    if proxies_closed && state == MasterState::Failed {
        regular.extend(fallbacks);
    }
    let Some(best) = choose(regular) else {
        match state {
            MasterState::Failed => draft.note(Note::NoEligibleMasters {}),
            MasterState::Left { .. } | MasterState::Usable => {}
        }
        return false;
    };
    if let CandidateKind::Fallback(condition) = &best.kind {
        draft.require(condition.clone());
    }
    // If the old master's keeper has published anything since, the plan is made again (extensions ).
    draft.require(view.info_unchanged(db));
    install(draft, master, &best);
    let reason = match state {
        MasterState::Failed if !view.is_keeper_gone(db) => ReplaceReason::MasterUnhealthy,
        _ => ReplaceReason::KeeperGone,
    };
    let last = view.memory.election.as_ref();
    draft.elected = Some(ElectionRecord::after(last, &best.db, reason, view.now));
    true
}

/// Returns whether proxies may still forward to an earlier master; then no election takes place (fencing F-10).
///
/// A proxy whose lease dates from an earlier time as master of the same address would forward writes to a master that
/// is not announced. Such writes do not count as acknowledged (extensions) and could be lost.
fn wait_for_proxies(draft: &mut Draft, view: &PlanView) -> bool {
    let may_still_forward = &view.proxies.may_still_forward;
    if may_still_forward.is_empty() {
        return false;
    }
    let generation = draft.proxy_mut().generation;
    draft.note(Note::ElectionWaitsForProxies {
        proxies: ProxyList(may_still_forward.clone()),
        generation,
    });
    true
}

/// Returns the state of the master. A suspected master whose keeper is running counts as usable while another check or
/// the election backoff delays its replacement.
fn assess_master(draft: &mut Draft, view: &PlanView, master: &DbUid, db: &Db) -> MasterState {
    let state = master_state(draft, view, master, db);
    if state != MasterState::Failed || view.is_keeper_gone(db) {
        return state;
    }
    let keeper = db.spec.keeper_uid.clone();
    if view.first_run && view.seems_healthy(master, db) {
        draft.note(Note::MasterSeemsWell {
            db: master.clone(),
            keeper,
        });
        return MasterState::Usable;
    }
    let served = view.memory.once_healthy.as_ref() == Some(master);
    let last = view
        .memory
        .election
        .as_ref()
        .filter(|election| election.master == *master);
    let pause = last.map(|last| (last.consecutive, last.backoff_end(view.spec, served)));
    match pause {
        Some((elections, end)) if view.now <= end => {
            draft.deadlines.after(end, view.now);
            draft.note(Note::ElectionPaused {
                db: master.clone(),
                keeper,
                elections,
            });
            MasterState::Usable
        }
        _ => MasterState::Failed,
    }
}

/// Returns the state of the master without regard to delays (sentinel N-4, extensions ).
fn master_state(draft: &mut Draft, view: &PlanView, master: &DbUid, db: &Db) -> MasterState {
    let keeper = db.spec.keeper_uid.clone();
    let limit = view.spec.convergence_timeout;
    let progress = convergence(master, db, limit, view.memory, view.now, &mut draft.deadlines);
    let mut state = MasterState::Usable;
    if !db.status.healthy {
        draft.note(Note::MasterFailed {
            db: master.clone(),
            keeper: keeper.clone(),
        });
        state = MasterState::Failed;
    }
    if progress == Convergence::Failed {
        // A master that this sentinel has found serving is being reconfigured, not promoted, so it is only slow
        // (sentinel W-10).
        let serves = db.status.healthy && view.memory.once_healthy.as_ref() == Some(master);
        if serves {
            draft.note(Note::MasterSlow {
                db: master.clone(),
                keeper: keeper.clone(),
            });
        } else {
            draft.note(Note::MasterNotConverged {
                db: master.clone(),
                keeper: keeper.clone(),
            });
            state = MasterState::Failed;
        }
    }
    if let Some((lsn, timeline)) = clean_stop(view, master, db) {
        draft.note(Note::MasterLeft {
            db: master.clone(),
            keeper,
            lsn,
        });
        if state == MasterState::Usable {
            state = MasterState::Left { lsn, timeline };
        }
    }
    state
}

/// Returns position and timeline at which the master stopped, if its keeper left in an orderly shutdown with the boot
/// UUID that the cluster data holds. Another process of the keeper may have run it otherwise (extensions ).
fn clean_stop(view: &PlanView, master: &DbUid, db: &Db) -> Option<(Lsn, u64)> {
    let info = &view.report_of(db).filter(|report| report.key_exists)?.info;
    let boot = &view.before.keepers().get(&db.spec.keeper_uid)?.status.boot_uuid;
    let stopped = info.stopped.as_ref().filter(|stopped| stopped.clean)?;
    let of_master = info.postgres_state.as_ref().is_none_or(|state| state.uid == *master);
    let is_orderly = info.leaving && info.boot_uuid == *boot && of_master;
    is_orderly.then_some((stopped.lsn?, stopped.timeline_id))
}

/// Returns the regular candidates (sentinel C-10, C-12).
fn candidates(
    draft: &mut Draft,
    view: &PlanView,
    master: &DbUid,
    master_db: &Db,
    state: MasterState,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    // Before the failed master was announced, a former master is considered only as a fallback (extensions ).
    let published = view.is_announced(master);
    let others = view
        .data
        .dbs()
        .iter()
        .filter(|(uid, db)| *uid != master && (published || db.follows_inside()));
    for (uid, db) in others {
        let assessment = view.assess(uid, db, master_db, &mut draft.deadlines);
        if !assessment.is_good() || db.status.timeline_id != master_db.status.timeline_id {
            continue;
        }
        let (at, keeper) = (db.status.xlog_pos, db.spec.keeper_uid.clone());
        let report = view.report_of(db);
        if report.is_some_and(|report| report.is_leaving_or_stopped()) {
            draft.note(Note::CandidateLeaving {
                db: uid.clone(),
                keeper,
            });
            continue;
        }
        // A standby ahead of the recorded position passes, and so does one exactly as far behind as allowed (sentinel
        // C-10).
        if at.bytes_behind(master_db.status.xlog_pos) > i128::from(view.spec.max_standby_lag) {
            draft.note(Note::TooFarBehind {
                db: uid.clone(),
                at,
                master: master_db.status.xlog_pos,
            });
            continue;
        }
        let may_be_master = view
            .keeper_of(db)
            .is_none_or(|keeper| keeper.status.can_be_master != Some(false));
        if db.follows_inside() && !may_be_master {
            draft.note(Note::MayNotBeMaster {
                db: uid.clone(),
                keeper,
            });
            continue;
        }
        // After a clean stop a standby must have received everything that the master wrote (extensions ).
        if let MasterState::Left { lsn, timeline } = state
            && (at < lsn || db.status.timeline_id != timeline || !db.follows_inside())
        {
            draft.note(Note::MissingWal {
                db: uid.clone(),
                at,
                lsn,
            });
            continue;
        }
        found.push(Candidate {
            db: uid.clone(),
            at,
            quality: view.report_quality(uid, db),
            kind: CandidateKind::Regular,
        });
    }
    found
}

/// Returns former masters that are kept and could be used again (sentinel C-12, extensions ).
fn fallback_masters(view: &PlanView, master: &DbUid, master_db: &Db, no_regular_candidate: bool) -> Vec<Candidate> {
    let published = view.is_announced(master);
    let candidate = |(uid, db): (&DbUid, &Db)| {
        let report = view
            .report_of(db)
            .filter(|report| report.live && !report.info.leaving)?;
        let stopped = report.info.stopped.as_ref();
        let is_running =
            report.state_of(uid).is_some_and(|state| state.healthy) && db.status.healthy && db.is_converged();
        if !is_running && stopped.is_none() {
            return None;
        }
        let (own, master_timeline) = (db.status.timeline_id, master_db.status.timeline_id);
        // The recorded position is about its own timeline; an instance that stopped on another one has different data
        // (extensions ).
        if stopped.is_some_and(|stopped| stopped.timeline_id != own) {
            return None;
        }
        // the elected master failed before clients could write to it (extensions)
        let before_publication = !published && own == master_timeline;
        // only the WAL of the promotion itself is discarded, and little more (sentinel C-12)
        let discarded = history_entry(&master_db.status, own)
            .map(|switch| switch.switch_point.bytes_behind(master_db.status.xlog_pos));
        let allowed = DISCARDED_BYTES_MAX.min(i128::from(view.spec.max_standby_lag));
        let just_promoted =
            no_regular_candidate && own < master_timeline && discarded.is_some_and(|bytes| bytes <= allowed);
        let complete = db.status.current_generation > 0;
        let same_system = db.status.system_id.is_empty() || db.status.system_id == master_db.status.system_id;
        let same_branch = just_promoted || matches!(validity(uid, db, &master_db.status), Validity::Valid);
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
            quality: ReportQuality::Fresh,
            kind: CandidateKind::Fallback(condition),
        })
    };
    view.old_masters(master).filter_map(candidate).collect()
}

/// Closes the proxies, so that a former master can be elected once no proxy may still forward (fencing F-6).
fn close_for_fallback(draft: &mut Draft, view: &PlanView, fallbacks: &[Candidate]) {
    for candidate in fallbacks {
        let keeper = view.data.dbs().get(&candidate.db).map(|db| db.spec.keeper_uid.clone());
        draft.note(Note::ClosingForOldMaster {
            db: candidate.db.clone(),
            keeper: keeper.unwrap_or_default(),
        });
    }
    proxies::close(draft);
}

/// Returns the most advanced candidate, by uid among equals (sentinel C-13). A candidate with a stale report, or one
/// that its own keeper reports unhealthy, is chosen only when there is no better one.
fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(|a, b| {
        a.quality
            .cmp(&b.quality)
            .then_with(|| b.at.cmp(&a.at))
            .then_with(|| a.db.cmp(&b.db))
    })
}

/// Makes `best` the master and closes the proxies (sentinel N-9).
fn install(draft: &mut Draft, master: &DbUid, best: &Candidate) {
    if let Some(old) = draft.db_mut(master) {
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
    proxies::close(draft);
    draft.note(Note::Electing {
        db: best.db.clone(),
        keeper: keeper.unwrap_or_default(),
        from: master.clone(),
        at: best.at,
    });
}
