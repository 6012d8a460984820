//! Derives which keepers and dbs are healthy from their last reports (sentinel 3). Decisions are left to the other
//! modules.

use std::collections::BTreeMap;

use crate::draft::Draft;
use crate::history::{Arrival, KeeperHistory};
use crate::memory::{Memory, Stall};
use crate::note::Note;
use base::clock::Boottime;
use model::{
    ClusterData, DbStatus, DbUid, Keeper, KeeperInfo, KeeperSpec, KeeperStatus, KeeperUid, Phase, PostgresState, Spec,
    Timestamp,
};

/// The last report of a keeper, fresh or not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeeperReport {
    /// The last info.
    pub(crate) info: KeeperInfo,
    /// The last part of its key.
    pub(crate) key: String,
    /// The revision of its last put.
    pub(crate) revision: i64,
    /// It counts as the keeper's current state (sentinel H-3).
    pub(crate) fresh: bool,
    /// It is fresh, and the keeper's liveness key exists if it renews one.
    pub(crate) live: bool,
    /// The key exists, whatever its age.
    pub(crate) key_exists: bool,
}

impl KeeperReport {
    /// Returns the state of a db, if the report is about that db.
    pub(crate) fn state_of(&self, db: &DbUid) -> Option<&PostgresState> {
        self.info.postgres_state.as_ref().filter(|state| state.uid == *db)
    }

    /// Returns whether the keeper or its instance is shutting down or stopped.
    pub(crate) fn is_leaving_or_stopped(&self) -> bool {
        self.info.is_leaving_or_stopped()
    }

    /// Returns whether the keeper currently reports this db running and healthy.
    pub(crate) fn reports_healthy(&self, db: &DbUid) -> bool {
        self.fresh && !self.is_leaving_or_stopped() && self.state_of(db).is_some_and(|state| state.healthy)
    }

    /// Returns whether the keeper currently reports that it does not have the data of this db.
    pub(crate) fn reports_data_lost(&self, db: &DbUid) -> bool {
        self.live && !self.is_leaving_or_stopped() && self.info.data_lost == *db
    }
}

/// The reports by keeper.
pub(crate) type KeeperReports = BTreeMap<KeeperUid, KeeperReport>;

/// Returns the last reports of all keepers.
pub(crate) fn collect_reports(memory: &Memory, spec: &Spec, now: Boottime) -> KeeperReports {
    let report = |(uid, known): (&KeeperUid, &KeeperHistory)| {
        let fresh = memory
            .history
            .freshness(uid, spec, now)
            .is_some_and(|freshness| freshness.fresh);
        let report = KeeperReport {
            info: known.last.info.clone(),
            key: known.last.key.clone(),
            revision: known.last.revision,
            fresh,
            live: memory.history.is_live(uid, spec, now),
            key_exists: known.key_exists,
        };
        (uid.clone(), report)
    };
    memory.history.keepers.iter().map(report).collect()
}

/// Updates the statuses of keepers and dbs in the draft from their reports (sentinel 3.2, 3.3). Not called in a first
/// run, where the persisted statuses are used (H-2).
pub(crate) fn update_health(draft: &mut Draft, memory: &mut Memory, spec: &Spec, now: Boottime, wall: Timestamp) {
    register_keepers(draft, memory, spec, now, wall);
    let failed_by_hand = update_keepers(draft, memory, spec, now, wall);
    update_dbs(draft, memory, spec, now);
    // A db is healthy unless it was in error for failInterval or its keeper is unhealthy (sentinel H-15).
    let data = &mut draft.next;
    let healthy: Vec<KeeperUid> = data
        .keepers()
        .iter()
        .filter(|(_, k)| k.status.healthy)
        .map(|(u, _)| u.clone())
        .collect();
    for (uid, db) in data.dbs_mut() {
        let error = memory.db_errors.get(uid);
        let db_ok = error.is_none_or(|since| now.since(*since) <= spec.fail_interval);
        let keeper_ok = healthy.contains(&db.spec.keeper_uid) && !failed_by_hand.contains(&db.spec.keeper_uid);
        db.status.healthy = db_ok && keeper_ok;
        if let Some(since) = error {
            draft.deadlines.after(*since + spec.fail_interval, now);
        }
    }
}

/// Adds new keepers to the cluster data (sentinel H-6).
fn register_keepers(draft: &mut Draft, memory: &Memory, spec: &Spec, now: Boottime, wall: Timestamp) {
    // A cluster without keepers cannot have removed any, so running keepers may register at once, without a new info
    // (H-5).
    let nobody_yet = draft.next.keepers().is_empty() && phase(&draft.next) == Some(&Phase::Initializing);
    for (uid, known) in &memory.history.keepers {
        let info = &known.last.info;
        let live = memory.history.is_live(uid, spec, now) || (!info.liveness_key && known.key_exists);
        let may_register = known.arrival == Arrival::New || (nobody_yet && live);
        if !may_register || info.is_leaving_or_stopped() || !known.key_exists || draft.next.keepers().contains_key(uid)
        {
            continue;
        }
        let status = KeeperStatus {
            healthy: true,
            last_healthy_time: wall,
            boot_uuid: info.boot_uuid.clone(),
            postgres_binary_version: info.postgres_binary_version,
            can_be_master: info.can_be_master,
            can_be_synchronous_replica: info.can_be_synchronous_replica,
            ..KeeperStatus::default()
        };
        let keeper = Keeper {
            uid: uid.clone(),
            generation: 1,
            change_time: wall,
            spec: KeeperSpec::default(),
            status,
        };
        draft.next.keepers_mut().insert(uid.clone(), keeper);
        draft.note(Note::KeeperRegistered { keeper: uid.clone() });
    }
}

/// Updates the statuses of keepers (sentinel H-7 to H-11). Returns the keepers that `failkeeper` marks as failed in
/// this round.
fn update_keepers(
    draft: &mut Draft,
    memory: &mut Memory,
    spec: &Spec,
    now: Boottime,
    wall: Timestamp,
) -> Vec<KeeperUid> {
    let mut failed_by_hand = Vec::new();
    let known = draft.next.keepers_mut();
    memory.never_published.retain(|uid, _| known.contains_key(uid));
    for (uid, keeper) in known {
        let status = &mut keeper.status;
        let freshness = memory.history.freshness(uid, spec, now);
        let silent_since = match freshness {
            Some(freshness) => {
                memory.never_published.remove(uid);
                if let Some(until) = freshness.fresh_until {
                    draft.deadlines.after(until, now);
                }
                freshness.silent_since
            }
            None => Some(*memory.never_published.entry(uid.clone()).or_insert(now)),
        };
        if let Some(known) = memory
            .history
            .keepers
            .get(uid)
            .filter(|_| freshness.is_some_and(|s| s.fresh))
        {
            let info = &known.last.info;
            status.can_be_master = info.can_be_master;
            status.can_be_synchronous_replica = info.can_be_synchronous_replica;
            status.boot_uuid = info.boot_uuid.clone();
            status.postgres_binary_version = info.postgres_binary_version;
        }
        if let Some(since) = silent_since {
            draft.deadlines.after(since + spec.fail_interval, now);
        }
        // A silent keeper stays healthy until failInterval has passed (sentinel H-9).
        status.healthy = silent_since.is_none_or(|since| now.since(since) <= spec.fail_interval);
        // `stolonctl failkeeper` fails it for one round (sentinel H-10).
        if status.force_fail {
            status.force_fail = false;
            status.healthy = false;
            failed_by_hand.push(uid.clone());
        }
        // sentinel H-11
        if status.healthy || status.last_healthy_time.is_zero() {
            status.last_healthy_time = wall;
        }
    }
    failed_by_hand
}

/// Updates the statuses of dbs (sentinel H-12 to H-14).
fn update_dbs(draft: &mut Draft, memory: &mut Memory, spec: &Spec, now: Boottime) {
    let Draft { next, notes, .. } = draft;
    for (uid, db) in next.dbs_mut() {
        let (db_uid, keeper) = (uid.clone(), db.spec.keeper_uid.clone());
        let freshness = memory.history.freshness(&keeper, spec, now);
        let known = memory.history.keepers.get(&keeper);
        let fresh = freshness.is_some_and(|freshness| freshness.fresh);
        // The last state before the report became stale would have been recorded if every round were written (L-12), so
        // it is used in any case. An info found at the start is used only while it is fresh.
        let usable = known.filter(|known| fresh || known.arrival != Arrival::FoundAtStart);
        let state = usable.and_then(|known| known.last.info.postgres_state.as_ref());
        let published_at = known.map_or(now, |known| known.since);
        let error = match state {
            _ if !fresh => {
                let never = memory.never_published.get(&keeper).copied().unwrap_or(now);
                let since = freshness.map_or(never, |freshness| freshness.silent_since.unwrap_or(now));
                if since <= now {
                    notes.push(Note::NoKeeperInfo { db: db_uid, keeper });
                }
                Some(since)
            }
            None => {
                notes.push(Note::NoDbState { db: db_uid, keeper });
                Some(published_at)
            }
            Some(state) if state.uid != *uid => {
                notes.push(Note::UnexpectedDb {
                    received: state.uid.clone(),
                    db: db_uid,
                    keeper,
                });
                Some(published_at)
            }
            // A leaving keeper's db counts as failed even while its shutdown is still running (extensions ).
            Some(_) if known.is_some_and(|known| known.last.info.leaving) => {
                known.map(|known| memory.history.leaving_since(known))
            }
            Some(state) => (!state.healthy).then_some(published_at),
        };
        if let Some(state) = state.filter(|state| state.uid == *uid) {
            if known.is_some_and(|known| known.arrival == Arrival::New) {
                let stall = memory.stalls.entry(uid.clone()).or_insert(Stall {
                    position: db.status.xlog_pos,
                    reports: 0,
                });
                *stall = stall.after(state.xlog_pos);
            }
            copy_reported_state(&mut db.status, state);
        }
        match error {
            Some(since) => {
                memory.db_errors.entry(uid.clone()).or_insert(since);
            }
            None => {
                memory.db_errors.remove(uid);
            }
        }
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
