//! What a db is good for: convergence, status class, validity against the master (sentinel 4). Who is elected or removed
//! for it is left to `elect` and `standbys`.

use std::time::Duration;

use crate::clock::Boottime;
use crate::model::{Db, DbInitMode, DbStatus, DbUid, FollowType, Lsn, Role, Spec, TimelineHistory};
use crate::plan::draft::Wakes;
use crate::plan::memory::{Memory, converged};
use crate::plan::note::Note;

/// How far a keeper has come with the generation that it is asked for (sentinel C-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Convergence {
    Converged,
    Converging,
    Failed,
}

/// What a db is good for (sentinel C-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Good,
    Converging,
    Failed,
}

/// Whether a db can belong to the present master's cluster (sentinel C-6).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Validity {
    /// It has not been seen complete yet.
    Unknown,
    Valid,
    Invalid(Box<Note>),
}

/// Whether a db heads a cluster rather than follows inside of it (sentinel 1.1).
pub(crate) fn is_master_type(db: &Db) -> bool {
    match db.spec.role {
        Role::Master => true,
        Role::Standby => follows(db, &FollowType::External),
        Role::Undefined | Role::Other(_) => false,
    }
}

/// Whether a db follows another one of this cluster (sentinel 1.1).
pub(crate) fn is_standby_type(db: &Db) -> bool {
    db.spec.role == Role::Standby && follows(db, &FollowType::Internal)
}

fn follows(db: &Db, kind: &FollowType) -> bool {
    db.spec
        .follow_config
        .as_ref()
        .is_some_and(|follow| follow.kind == *kind)
}

/// sentinel C-2, C-3; a zero limit means none.
pub(crate) fn convergence(
    uid: &DbUid,
    db: &Db,
    limit: Duration,
    memory: &Memory,
    now: Boottime,
    wakes: &mut Wakes,
) -> Convergence {
    if converged(db) {
        return Convergence::Converged;
    }
    if limit.is_zero() {
        return Convergence::Converging;
    }
    let asked = memory.asked.get(uid).filter(|asked| asked.generation == db.generation);
    let since = asked.map_or(now, |asked| asked.since);
    if now.since(since) > limit {
        return Convergence::Failed;
    }
    wakes.after(since + limit, now);
    Convergence::Converging
}

/// How long a db may take, when its class is asked (sentinel C-4, W-9).
pub(crate) fn class_limit(db: &Db, spec: &Spec) -> Duration {
    let copying = db.generation == 1 || db.status.current_generation == 0;
    if db.spec.init_mode == DbInitMode::Resync && copying {
        spec.sync_timeout
    } else {
        spec.convergence_timeout
    }
}

/// sentinel C-5
pub(crate) fn class(db: &Db, keeper_healthy: bool, convergence: Convergence) -> Class {
    match convergence {
        _ if !keeper_healthy => Class::Failed,
        Convergence::Failed => Class::Failed,
        Convergence::Converging => Class::Converging,
        Convergence::Converged if db.status.healthy => Class::Good,
        Convergence::Converged => Class::Failed,
    }
}

/// sentinel C-6
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

/// Why a db has left the master's branch of timelines, if it has (sentinel C-7).
fn other_branch(master: &DbStatus, db: &DbStatus) -> Option<Note> {
    let (followed, own) = (master.timeline_id, db.timeline_id);
    if followed < own {
        return Some(Note::TimelineAhead { followed, own });
    }
    if followed == own {
        if own <= 1 {
            return None;
        }
        let (of_master, of_db) = (switch_of(master, own - 1)?, switch_of(db, own - 1)?);
        let (followed_at, at) = (of_master.switch_point, of_db.switch_point);
        return (followed_at != at).then_some(Note::ForkedElsewhere {
            followed,
            own,
            followed_at,
            at,
        });
    }
    let (followed_at, at) = (switch_of(master, own)?.switch_point, db.xlog_pos);
    (followed_at < at).then_some(Note::ForkedBefore {
        followed,
        own,
        followed_at,
        at,
    })
}

/// Where a timeline was left, as far as a history tells.
pub(crate) fn switch_of(status: &DbStatus, timeline: u64) -> Option<&TimelineHistory> {
    status
        .timelines_history
        .iter()
        .find(|entry| entry.timeline_id == timeline)
}

/// A standby's reports in a row without progress past which missing WAL counts (sentinel 1.4).
const STALLED_REPORTS: u32 = 10;
/// Bytes of a WAL segment; another size is not told by keepers of the reference (sentinel 1.4).
const SEGMENT_BYTES: u64 = 16 << 20;

/// Why a standby will never catch up, if it will not: the master no longer has the WAL that it needs (sentinel C-9).
pub(crate) fn missing_wal(uid: &DbUid, db: &Db, master: &DbStatus, memory: &Memory) -> Option<Note> {
    let stalled = memory
        .stalls
        .get(uid)
        .is_some_and(|stall| stall.reports > STALLED_REPORTS);
    let looked_at = is_standby_type(db) && db.generation != 1 && db.status.healthy;
    let oldest = master.older_wal_file.as_str();
    // Without a position it has never reported well: it may be starting.
    let at = db.status.xlog_pos;
    if !stalled || !looked_at || oldest.is_empty() || at == master.xlog_pos || at == Lsn::default() {
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
