//! Which keepers and dbs are healthy, and what they last reported (sentinel 3). What follows from it is left to the
//! other files.

use std::collections::BTreeMap;

use crate::clock::Boottime;
use crate::model::{
    ClusterData, DbStatus, DbUid, Keeper, KeeperInfo, KeeperSpec, KeeperStatus, KeeperUid, Phase, PostgresState, Spec,
    Timestamp,
};
use crate::plan::draft::Draft;
use crate::plan::memory::{Memory, Stall};
use crate::plan::note::Note;
use crate::plan::observe::{Arrival, KeeperSighting};

/// What is known of a keeper from its last info, fresh or not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// The last info.
    pub(crate) info: KeeperInfo,
    /// The last part of its key.
    pub(crate) key: String,
    /// The revision of its last put.
    pub(crate) revision: i64,
    /// It counts as the keeper's present state (sentinel H-3).
    pub(crate) fresh: bool,
    /// It is fresh, and the keeper's liveness key is there if it keeps one.
    pub(crate) lives: bool,
    /// The key is there, whatever its age.
    pub(crate) listed: bool,
}

impl Report {
    /// The state of one db, if the info is about that one.
    pub(crate) fn of(&self, db: &DbUid) -> Option<&PostgresState> {
        self.info.postgres_state.as_ref().filter(|state| state.uid == *db)
    }

    /// Whether the keeper or its instance is on its way down, or down.
    pub(crate) fn going(&self) -> bool {
        self.info.leaving || !self.info.stopping.is_empty() || self.info.stopped.is_some()
    }

    /// Whether the keeper just now says that this db is well and runs.
    pub(crate) fn says_well(&self, db: &DbUid) -> bool {
        self.fresh && !self.going() && self.of(db).is_some_and(|state| state.healthy)
    }

    /// Whether the keeper says just now that it does not have the data of this db.
    pub(crate) fn says_lost(&self, db: &DbUid) -> bool {
        self.lives && !self.going() && self.info.data_lost == *db
    }
}

/// The reports by keeper.
pub(crate) type Reports = BTreeMap<KeeperUid, Report>;

/// Collects what keepers last said.
pub(crate) fn reports(memory: &Memory, spec: &Spec, now: Boottime) -> Reports {
    let report = |(uid, sighting): (&KeeperUid, &KeeperSighting)| {
        let fresh = memory
            .sightings
            .standing(uid, spec, now)
            .is_some_and(|standing| standing.fresh);
        let report = Report {
            info: sighting.seen.info.clone(),
            key: sighting.seen.key.clone(),
            revision: sighting.seen.revision,
            fresh,
            lives: memory.sightings.lives(uid, spec, now),
            listed: sighting.listed,
        };
        (uid.clone(), report)
    };
    memory.sightings.keepers.iter().map(report).collect()
}

/// Brings keepers and dbs of the draft up to date with what was reported (sentinel 3.2, 3.3). Not at a first run, where
/// the persisted statuses stand (H-2).
pub(crate) fn derive(draft: &mut Draft, memory: &mut Memory, spec: &Spec, now: Boottime, wall: Timestamp) {
    register(draft, memory, spec, now, wall);
    let failed_by_hand = judge_keepers(draft, memory, spec, now, wall);
    judge_dbs(draft, memory, spec, now);
    // sentinel H-15
    let data = &mut draft.next;
    let healthy: Vec<KeeperUid> = data
        .keepers()
        .iter()
        .filter(|(_, k)| k.status.healthy)
        .map(|(u, _)| u.clone())
        .collect();
    for (uid, db) in data.dbs_mut() {
        let error = memory.db_errors.get(uid);
        let own = error.is_none_or(|since| now.since(*since) <= spec.fail_interval);
        let keeper = healthy.contains(&db.spec.keeper_uid) && !failed_by_hand.contains(&db.spec.keeper_uid);
        db.status.healthy = own && keeper;
        if let Some(since) = error {
            draft.wakes.after(*since + spec.fail_interval, now);
        }
    }
}

/// Takes in keepers that are new here (sentinel H-6).
fn register(draft: &mut Draft, memory: &Memory, spec: &Spec, now: Boottime, wall: Timestamp) {
    // Nobody can have been removed from a cluster that has no keeper yet: whoever is there may come in at once (H-5).
    let nobody_yet = draft.next.keepers().is_empty() && phase(&draft.next) == Some(&Phase::Initializing);
    for (uid, sighting) in &memory.sightings.keepers {
        let info = &sighting.seen.info;
        let lives = memory.sightings.lives(uid, spec, now) || (!info.liveness_key && sighting.listed);
        let welcome = sighting.arrival == Arrival::New || (nobody_yet && lives);
        let going = info.leaving || info.stopped.is_some() || !info.stopping.is_empty();
        if !welcome || going || !sighting.listed || draft.next.keepers().contains_key(uid) {
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
        draft.say(Note::KeeperRegistered { keeper: uid.clone() });
    }
}

/// sentinel H-7 to H-11; gives the keepers that `failkeeper` fails in this round.
fn judge_keepers(
    draft: &mut Draft,
    memory: &mut Memory,
    spec: &Spec,
    now: Boottime,
    wall: Timestamp,
) -> Vec<KeeperUid> {
    let mut failed_by_hand = Vec::new();
    let known = draft.next.keepers_mut();
    memory.missing.retain(|uid, _| known.contains_key(uid));
    for (uid, keeper) in known {
        let status = &mut keeper.status;
        let standing = memory.sightings.standing(uid, spec, now);
        let silent_since = match standing {
            Some(standing) => {
                memory.missing.remove(uid);
                if let Some(until) = standing.fresh_until {
                    draft.wakes.after(until, now);
                }
                standing.silent_since
            }
            None => Some(*memory.missing.entry(uid.clone()).or_insert(now)),
        };
        if let Some(sighting) = memory
            .sightings
            .keepers
            .get(uid)
            .filter(|_| standing.is_some_and(|s| s.fresh))
        {
            let info = &sighting.seen.info;
            status.can_be_master = info.can_be_master;
            status.can_be_synchronous_replica = info.can_be_synchronous_replica;
            status.boot_uuid = info.boot_uuid.clone();
            status.postgres_binary_version = info.postgres_binary_version;
        }
        if let Some(since) = silent_since {
            draft.wakes.after(since + spec.fail_interval, now);
        }
        // sentinel H-9
        status.healthy = silent_since.is_none_or(|since| now.since(since) <= spec.fail_interval);
        // sentinel H-10
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

/// sentinel H-12 to H-14
fn judge_dbs(draft: &mut Draft, memory: &mut Memory, spec: &Spec, now: Boottime) {
    let Draft { next, notes, .. } = draft;
    for (uid, db) in next.dbs_mut() {
        let (db_uid, keeper) = (uid.clone(), db.spec.keeper_uid.clone());
        let standing = memory.sightings.standing(&keeper, spec, now);
        let sighting = memory.sightings.keepers.get(&keeper);
        let fresh = standing.is_some_and(|standing| standing.fresh);
        // What was seen before it went stale would have been written by then if every round wrote (L-12): take it over
        // in any case. An info found at a first run is only as good as it is fresh.
        let usable = sighting.filter(|sighting| fresh || sighting.arrival != Arrival::Found);
        let state = usable.and_then(|sighting| sighting.seen.info.postgres_state.as_ref());
        let published_at = sighting.map_or(now, |sighting| sighting.since);
        let error = match state {
            _ if !fresh => {
                let never = memory.missing.get(&keeper).copied().unwrap_or(now);
                let since = standing.map_or(never, |standing| standing.silent_since.unwrap_or(now));
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
            // However long its shutdown takes (beyond ).
            Some(_) if sighting.is_some_and(|sighting| sighting.seen.info.leaving) => {
                sighting.map(|sighting| memory.sightings.leaving_since(sighting))
            }
            Some(state) => (!state.healthy).then_some(published_at),
        };
        if let Some(state) = state.filter(|state| state.uid == *uid) {
            if sighting.is_some_and(|sighting| sighting.arrival == Arrival::New) {
                let stall = memory.stalls.entry(uid.clone()).or_insert(Stall {
                    position: db.status.xlog_pos,
                    reports: 0,
                });
                *stall = stall.after(state.xlog_pos);
            }
            take_over(&mut db.status, state);
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

/// sentinel H-14
fn take_over(status: &mut DbStatus, state: &PostgresState) {
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
