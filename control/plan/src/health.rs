//! Derives which keepers and dbs are healthy from their last reports, and registers new keepers (sentinel 3). The
//! reports are left to `report`, what follows from health to the other deciding modules.

use crate::draft::Draft;
use crate::history::Arrival;
use crate::memory::{FirstPosition, Memory, Stall};
use crate::note::Note;
use crate::report::{KeeperReport, KeeperReports};
use crate::switchover_view::SwitchoverView;
use crate::view::PlanView;
use base::clock::Boottime;
use model::{
    ClusterData, Db, DbStatus, DbUid, Keeper, KeeperSpec, KeeperStatus, KeeperUid, Phase, PostgresState, Spec,
    Timestamp,
};

/// What health is derived from besides the cluster data and the memory.
#[derive(Clone, Copy)]
pub(crate) struct HealthInput<'a> {
    pub(crate) reports: &'a KeeperReports,
    pub(crate) switchover: SwitchoverView<'a>,
    pub(crate) spec: &'a Spec,
    pub(crate) now: Boottime,
    pub(crate) wall: Timestamp,
}

/// Updates the statuses of keepers and dbs in the draft from their reports (sentinel 3.2, 3.3), and the timers in
/// memory. Not called in a first run, where the persisted statuses are used (H-2).
pub(crate) fn update_health(draft: &mut Draft, memory: &mut Memory, input: HealthInput<'_>) {
    register_keepers(draft, input);
    let failed_by_hand = update_keepers(draft, memory, input);
    update_dbs(draft, memory, input);
    // A db is healthy unless it was in error for failInterval or its keeper is unhealthy (sentinel H-15).
    let (now, limit) = (input.now, input.spec.fail_interval);
    let healthy_keepers: Vec<KeeperUid> = draft
        .next
        .keepers()
        .iter()
        .filter(|(_, keeper)| keeper.status.healthy)
        .map(|(uid, _)| uid.clone())
        .collect();
    for (uid, db) in draft.next.dbs_mut() {
        let error = memory.db_errors.get(uid);
        let db_ok = error.is_none_or(|since| now.since(*since) <= limit);
        let keeper_ok = healthy_keepers.contains(&db.spec.keeper_uid) && !failed_by_hand.contains(&db.spec.keeper_uid);
        db.status.healthy = db_ok && keeper_ok;
        draft.deadlines.wake_after(error.map(|since| *since + limit), now);
    }
}

/// Adds new keepers to the cluster data (sentinel H-6).
fn register_keepers(draft: &mut Draft, input: HealthInput<'_>) {
    // A cluster without keepers cannot have removed any, so running keepers may register at once, without a new info
    // (H-5).
    let has_no_keepers = draft.next.keepers().is_empty() && phase(&draft.next) == Some(&Phase::Initializing);
    for (uid, report) in input.reports {
        let info = &report.info;
        let is_running = report.is_keeper_running || (!info.liveness_key && report.key_exists);
        // Only a new info registers: a keeper that was removed must not come back by its old one, also not by one that
        // started no round when it was put.
        let may_register = report.arrival == Arrival::New || (has_no_keepers && is_running);
        let is_known = draft.next.keepers().contains_key(uid);
        if !may_register || info.is_leaving_or_stopped() || !report.key_exists || is_known {
            continue;
        }
        let status = KeeperStatus {
            healthy: true,
            last_healthy_time: input.wall,
            boot_uuid: info.boot_uuid.clone(),
            postgres_binary_version: info.postgres_binary_version,
            can_be_master: info.can_be_master,
            can_be_synchronous_replica: info.can_be_synchronous_replica,
            ..KeeperStatus::default()
        };
        let keeper = Keeper {
            uid: uid.clone(),
            generation: 1,
            change_time: input.wall,
            spec: KeeperSpec::default(),
            status,
        };
        draft.next.keepers_mut().insert(uid.clone(), keeper);
        draft.note(Note::KeeperRegistered { keeper: uid.clone() });
    }
}

/// Updates the statuses of keepers (sentinel H-7 to H-11). Returns the keepers that `failkeeper` marks as failed in
/// this round.
fn update_keepers(draft: &mut Draft, memory: &mut Memory, input: HealthInput<'_>) -> Vec<KeeperUid> {
    let (now, fail_interval) = (input.now, input.spec.fail_interval);
    let mut failed_by_hand = Vec::new();
    let in_switchover = input.switchover.keepers(&draft.next);
    let Memory {
        never_published,
        ordered,
        ..
    } = memory;
    let keepers = draft.next.keepers_mut();
    never_published.retain(|uid, _| keepers.contains_key(uid));
    for (uid, keeper) in keepers {
        let status = &mut keeper.status;
        let report = input.reports.get(uid);
        let silent_since = match report {
            Some(report) => {
                never_published.remove(uid);
                draft.deadlines.wake_after(report.freshness.fresh_until, now);
                report.freshness.silent_since
            }
            None => Some(*never_published.entry(uid.clone()).or_insert(now)),
        };
        let silent_since = silent_since.map(|since| since.max(ordered.get(uid).copied().unwrap_or_default()));
        if let Some(report) = report.filter(|report| report.is_fresh()) {
            status.can_be_master = report.info.can_be_master;
            status.can_be_synchronous_replica = report.info.can_be_synchronous_replica;
            status.boot_uuid = report.info.boot_uuid.clone();
            status.postgres_binary_version = report.info.postgres_binary_version;
        }
        draft
            .deadlines
            .wake_after(silent_since.map(|since| since + fail_interval), now);
        // A silent keeper stays healthy until failInterval has passed (sentinel H-9).
        status.healthy = silent_since.is_none_or(|since| now.since(since) <= fail_interval);
        // `stolonctl failkeeper` fails it for one round (sentinel H-10), after the end of a switchover that it takes part in
        // (extensions ).
        if status.force_fail && !in_switchover.contains(uid) {
            status.force_fail = false;
            status.healthy = false;
            failed_by_hand.push(uid.clone());
        }
        // A keeper without a recorded time counts from now; it must not be removed at once (sentinel H-11).
        if status.healthy || status.last_healthy_time.is_zero() {
            status.last_healthy_time = input.wall;
        }
    }
    failed_by_hand
}

/// Updates the statuses of dbs (sentinel H-12 to H-14).
fn update_dbs(draft: &mut Draft, memory: &mut Memory, input: HealthInput<'_>) {
    let Draft { next, notes, .. } = draft;
    for (uid, db) in next.dbs_mut() {
        let report = input.reports.get(&db.spec.keeper_uid);
        let never_published = memory.never_published.get(&db.spec.keeper_uid).copied();
        let (error_since, why) = db_error(uid, db, report, never_published, input.now);
        notes.extend(why);
        if let Some((report, state)) = report.and_then(|report| Some((report, usable_state(report)?)))
            && state.uid == *uid
        {
            // Reports are counted, not rounds: a repeated read of one report proves no stall (sentinel H-13).
            if report.arrival.is_new() {
                let stall = memory.stalls.entry(uid.clone()).or_insert(Stall {
                    position: db.status.xlog_pos,
                    reports: 0,
                });
                *stall = stall.after(state.xlog_pos);
            }
            copy_reported_state(&mut db.status, state);
        }
        match error_since {
            // The first error counts: a later one does not restart failInterval. While its keeper has an order there is none.
            Some(since) => {
                let error = memory.db_errors.entry(uid.clone()).or_insert(since);
                let ordered = memory.ordered.get(&db.spec.keeper_uid).copied();
                *error = (*error).max(ordered.unwrap_or_default());
            }
            None => {
                memory.db_errors.remove(uid);
            }
        }
    }
}

/// Returns the state in a report, if it may be used.
///
/// Rounds that change only times and positions are not written, so the recorded state may be older than the last report:
/// the report is used even once it is stale. An info found at the start is used only while it is fresh.
fn usable_state(report: &KeeperReport) -> Option<&PostgresState> {
    let is_usable = report.is_fresh() || report.arrival != Arrival::FoundAtStart;
    report.info.postgres_state.as_ref().filter(|_| is_usable)
}

/// Returns since when a db is in error, and why (sentinel H-12). `never_published` is since when its keeper is known to
/// have published nothing.
fn db_error(
    uid: &DbUid,
    db: &Db,
    report: Option<&KeeperReport>,
    never_published: Option<Boottime>,
    now: Boottime,
) -> (Option<Boottime>, Option<Note>) {
    let (uid, keeper) = (uid.clone(), db.spec.keeper_uid.clone());
    let Some(report) = report.filter(|report| report.is_fresh()) else {
        let never = never_published.unwrap_or(now);
        let since = report.map_or(never, |report| report.freshness.silent_since.unwrap_or(now));
        // An info found at the start may still become fresh: its silence begins in the future.
        let why = (since <= now).then_some(Note::NoKeeperInfo { db: uid, keeper });
        return (Some(since), why);
    };
    match &report.info.postgres_state {
        None => (Some(report.since), Some(Note::NoDbState { db: uid, keeper })),
        Some(state) if state.uid != uid => {
            let received = state.uid.clone();
            let why = Note::UnexpectedDb {
                received,
                db: uid,
                keeper,
            };
            (Some(report.since), Some(why))
        }
        // A leaving keeper's db is in error even while its shutdown is still running (extensions ).
        Some(_) if report.info.leaving => (Some(report.leaving_since), None),
        Some(state) => ((!state.healthy).then_some(report.since), None),
    }
}

/// Copies a reported state to a db's status; an unhealthy instance reports only its address and generation (sentinel
/// H-14).
fn copy_reported_state(status: &mut DbStatus, state: &PostgresState) {
    status.listen_address.clone_from(&state.listen_address);
    status.port.clone_from(&state.port);
    status.current_generation = state.generation;
    if !state.healthy {
        return;
    }
    status.system_id.clone_from(&state.system_id);
    status.timeline_id = state.timeline_id;
    status.xlog_pos = state.xlog_pos;
    status.timelines_history.clone_from(&state.timelines_history);
    status.pg_parameters.clone_from(&state.pg_parameters);
    status.older_wal_file.clone_from(&state.older_wal_file);
}

fn phase(data: &ClusterData) -> Option<&Phase> {
    data.cluster.as_ref().map(|cluster| &cluster.status.phase)
}

/// Records the health of the master in `memory` (sentinel N-14, W-10). The view keeps the memory from before that.
pub(crate) fn record_master_health(view: &PlanView<'_>, memory: &mut Memory) {
    let Some((uid, db)) = view.master() else {
        memory.healthy_since = None;
        return;
    };
    record_first_position(view, memory, uid, db);
    // Any interruption restarts the time after which former masters are removed (sentinel N-14).
    if !(db.status.healthy && db.is_converged()) {
        memory.healthy_since = None;
    } else if memory.healthy_since.as_ref().is_none_or(|(known, _)| known != uid) {
        memory.healthy_since = Some((uid.clone(), view.now));
    }
    if view.is_reported_healthy(uid, db) {
        memory.reported_healthy = Some(uid.clone());
    }
}

/// Records the first position that the master reports with a generation (synchronous SY-3).
fn record_first_position(view: &PlanView<'_>, memory: &mut Memory, uid: &DbUid, db: &Db) {
    let report = view.report_of(db).filter(|report| report.reports_healthy(uid));
    let Some(state) = report.and_then(|report| report.state_of(uid)) else {
        return;
    };
    let first = FirstPosition::of(uid, state);
    let known = memory.first_position.take().filter(|known| known.is_of(&first));
    memory.first_position = Some(known.filter(|known| known.position <= first.position).unwrap_or(first));
}
