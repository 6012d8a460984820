//! Classifies dbs: convergence, class, and validity against the master (sentinel 4). What follows is left to `elect`
//! and `standbys`.

use std::time::Duration;

use crate::memory::Memory;
use crate::note::Note;
use base::clock::Boottime;
use model::{Db, DbInitMode, DbStatus, DbUid, Lsn, Spec};

/// Consecutive reports of a standby without progress after which missing WAL counts (sentinel 1.4).
const STALLED_REPORTS: u32 = 10;
/// Size of a WAL segment. Go stolon's keepers do not report another size (sentinel 1.4).
const SEGMENT_BYTES: u64 = 16 << 20;

/// How far a keeper is with the requested generation (sentinel C-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Convergence {
    /// It is applied.
    Converged,
    /// It is not applied, and its time has not ended.
    Converging,
    /// It was not applied in time.
    Failed,
}

/// Whether a db can be relied upon (sentinel C-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DbClass {
    /// It and its keeper are healthy, and it is converged.
    Good,
    /// Its keeper is healthy, and it has time left to converge.
    Converging,
    /// It or its keeper is unhealthy, or it did not converge in time.
    Failed,
}

/// Whether a db can belong to the current master's cluster (sentinel C-6).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Validity {
    /// No generation has been applied yet, so nothing is known of its data.
    Unknown,
    Valid,
    Invalid(Box<Note>),
}

/// Returns how far a db is with its current generation, which may take `limit`, and when that time ends; zero means no
/// limit (sentinel C-2, C-3).
pub(crate) fn convergence(
    uid: &DbUid,
    db: &Db,
    limit: Duration,
    memory: &Memory,
    now: Boottime,
) -> (Convergence, Option<Boottime>) {
    if db.is_converged() {
        return (Convergence::Converged, None);
    }
    if limit.is_zero() {
        return (Convergence::Converging, None);
    }
    // A generation that no one is known to have requested earlier counts as requested now (sentinel W-3).
    let pending = memory
        .pending
        .get(uid)
        .filter(|pending| pending.generation == db.generation);
    let since = pending.map_or(now, |pending| pending.since);
    if now.since(since) > limit {
        return (Convergence::Failed, None);
    }
    (Convergence::Converging, Some(since + limit))
}

/// Returns how long a db may take to converge, for its class (sentinel C-4, W-9).
pub(crate) fn class_limit(db: &Db, spec: &Spec) -> Duration {
    let copying = db.generation == 1 || db.status.current_generation == 0;
    if db.spec.init_mode == DbInitMode::Resync && copying {
        spec.sync_timeout
    } else {
        spec.convergence_timeout
    }
}

/// Returns the class of a db (sentinel C-5).
pub(crate) fn class(db: &Db, keeper_healthy: bool, convergence: Convergence) -> DbClass {
    match convergence {
        _ if !keeper_healthy => DbClass::Failed,
        Convergence::Failed => DbClass::Failed,
        Convergence::Converging => DbClass::Converging,
        Convergence::Converged if db.status.healthy => DbClass::Good,
        Convergence::Converged => DbClass::Failed,
    }
}

/// Returns whether a db can belong to the cluster of `master` (sentinel C-6).
pub(crate) fn validity(uid: &DbUid, db: &Db, master: &DbStatus) -> Validity {
    if db.status.current_generation == 0 {
        return Validity::Unknown;
    }
    if !db.status.system_id.is_empty() && db.status.system_id != master.system_id {
        return Validity::Invalid(Box::new(Note::OtherSystem {
            db: uid.clone(),
            keeper: db.spec.keeper_uid.clone(),
            own: db.status.system_id.clone(),
            master: master.system_id.clone(),
        }));
    }
    match other_branch(master, &db.status) {
        Some(note) => Validity::Invalid(Box::new(note)),
        None => Validity::Valid,
    }
}

/// Returns why a db is not on the master's timeline branch; none when it is (sentinel C-7).
fn other_branch(master: &DbStatus, db: &DbStatus) -> Option<Note> {
    let (followed, own) = (master.timeline_id, db.timeline_id);
    if followed < own {
        return Some(Note::TimelineAhead { followed, own });
    }
    if followed == own {
        if own <= 1 {
            return None;
        }
        let (of_master, of_db) = (master.history_entry(own - 1)?, db.history_entry(own - 1)?);
        let (followed_at, at) = (of_master.switch_point, of_db.switch_point);
        return (followed_at != at).then_some(Note::ForkedElsewhere {
            followed,
            own,
            followed_at,
            at,
        });
    }
    let (followed_at, at) = (master.history_entry(own)?.switch_point, db.xlog_pos);
    (followed_at < at).then_some(Note::ForkedBefore {
        followed,
        own,
        followed_at,
        at,
    })
}

/// Returns why a standby cannot catch up: the master no longer has the WAL that it needs (sentinel C-9).
pub(crate) fn why_it_cannot_catch_up(uid: &DbUid, db: &Db, master: &DbStatus, memory: &Memory) -> Option<Note> {
    let stalled = memory
        .stalls
        .get(uid)
        .is_some_and(|stall| stall.reports > STALLED_REPORTS);
    let is_running_standby = db.is_standby_type() && db.generation != 1 && db.status.healthy;
    let oldest = master.older_wal_file.as_str();
    // A standby without a position has never reported as healthy: it may be starting.
    let at = db.status.xlog_pos;
    if !stalled || !is_running_standby || oldest.is_empty() || at == master.xlog_pos || at == Lsn::default() {
        return None;
    }
    let well_formed = oldest.len() == 24 && oldest.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if !well_formed {
        return Some(Note::BadWalName {
            oldest: oldest.to_owned(),
        });
    }
    let position = db.status.xlog_pos.0;
    let required = format!("{:08X}{:08X}", position >> 32, (position & 0xffff_ffff) / SEGMENT_BYTES);
    (required.as_str() < &oldest[8..]).then(|| Note::CannotSync {
        db: uid.clone(),
        keeper: db.spec.keeper_uid.clone(),
        required,
        oldest: oldest[8..].to_owned(),
    })
}
