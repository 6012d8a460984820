//! A finished plan with what it was made from, and the facts that the invariants are about: each is computed here from
//! the data once more, by none of the functions that the decisions use. What has to hold is left to the other files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::condition::Condition;
use crate::history::{Arrival, KeeperHistory, ProxyHistory};
use crate::memory::Memory;
use crate::observation::ObservedOrder;
use base::clock::Boottime;
use model::{
    ClusterData, Db, DbStatus, DbUid, FailoverRequest, KeeperUid, Lsn, Phase, PostgresState, ProxyUid, Role, Spec,
    SwitchoverRequest, Timestamp,
};

/// Consecutive reports without progress after which a standby may be removed (sentinel 1.4).
const STALLED_REPORTS: u32 = 10;

/// A plan with its input.
pub(crate) struct Transition<'a> {
    /// The cluster data as read.
    pub(crate) before: &'a ClusterData,
    /// The same with derived health.
    pub(crate) derived: &'a ClusterData,
    /// The cluster data to write.
    pub(crate) next: &'a ClusterData,
    /// The conditions of the write.
    pub(crate) conditions: &'a [Condition],
    /// The operator's request for a failover that was read with the data, and its revision.
    pub(crate) failover: Option<&'a (FailoverRequest, i64)>,
    /// The operator's request for a switchover that was read with the data, and its revision.
    pub(crate) switchover: Option<&'a (SwitchoverRequest, i64)>,
    /// The orders that were read with the data.
    pub(crate) orders: &'a BTreeMap<KeeperUid, ObservedOrder>,
    /// The effective spec.
    pub(crate) spec: &'a Spec,
    /// The memory that the decisions used.
    pub(crate) memory: &'a Memory,
    /// The persisted statuses were used (sentinel H-2).
    pub(crate) first_run: bool,
    pub(crate) now: Boottime,
    pub(crate) wall: Timestamp,
}

/// Whether the data of a db are of a master's database cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterMatch {
    /// Nothing is known of its data yet.
    Unknown,
    Same,
    Other,
}

/// Returns the phase of a document.
pub(super) fn phase(data: &ClusterData) -> Option<&Phase> {
    data.cluster.as_ref().map(|cluster| &cluster.status.phase)
}

/// Returns the master that a document names; empty if none.
pub(super) fn master(data: &ClusterData) -> DbUid {
    data.master_uid().cloned().unwrap_or_default()
}

/// Returns the db that a document announces to the proxies; empty if none.
pub(super) fn announced(data: &ClusterData) -> DbUid {
    data.proxy
        .as_ref()
        .map_or_else(DbUid::default, |proxy| proxy.spec.master_db_uid.clone())
}

/// Returns the standbys that the commits of a master wait for.
pub(super) fn wanted_set(master: &Db) -> BTreeSet<DbUid> {
    let wanted = master.spec.synchronous_standbys.clone();
    wanted.unwrap_or_default().into_iter().collect()
}

/// Returns the standbys that are known to be in sync with a master.
pub(super) fn known_set(master: &Db) -> BTreeSet<DbUid> {
    let known = master.status.synchronous_standbys.clone();
    known.unwrap_or_default().into_iter().collect()
}

impl Transition<'_> {
    /// Returns whether the spec asks for synchronous replication (sentinel C-11).
    pub(super) fn spec_is_synchronous(&self) -> bool {
        self.spec.role == Role::Master && self.spec.synchronous_replication
    }

    /// Returns whether the last report of a master, about the generation in the data, proves that a wanted standby is
    /// in sync: it is marked, or the standby has itself reported the position that the master had when it first
    /// reported that generation (synchronous SY-3).
    pub(super) fn proves_in_sync(&self, uid: &DbUid, master: &Db, member: &DbUid) -> bool {
        let reported = |uid: &DbUid, db: &Db| -> Option<PostgresState> {
            let known = self.info_of(db).filter(|_| self.is_reported_healthy(uid, db))?;
            state_of(known, uid).cloned()
        };
        let standby = self.derived.dbs().get(member).filter(|db| db.is_standby_type());
        let (Some(state), Some(standby)) = (reported(uid, master), standby) else {
            return false;
        };
        let listed = state
            .synchronous_standbys
            .iter()
            .flatten()
            .any(|listed| listed == member);
        if !listed || state.generation != master.generation || !wanted_set(master).contains(member) {
            return false;
        }
        let first = self.memory.first_position.as_ref().filter(|first| {
            first.db == *uid && first.generation == master.generation && first.timeline == state.timeline_id
        });
        let passed = first.map_or(state.xlog_pos, |first| first.position.min(state.xlog_pos));
        let caught_up = |own: PostgresState| own.timeline_id == state.timeline_id && own.xlog_pos >= passed;
        state.sync_marked || reported(member, standby).is_some_and(caught_up)
    }

    /// Returns the last info of a db's keeper with its history.
    pub(super) fn info_of(&self, db: &Db) -> Option<&KeeperHistory> {
        self.memory.history.keepers.get(&db.spec.keeper_uid)
    }

    /// Returns whether an info describes the present: its keeper renews the liveness key, or published it within
    /// sleepInterval without having lost the key since (sentinel H-3, extensions ).
    pub(super) fn is_current(&self, known: &KeeperHistory) -> bool {
        let info = &known.last.info;
        let keeps_key = info.liveness_key && known.alive.as_ref() == Some(&info.boot_uuid);
        let lost_key =
            info.liveness_key && known.alive.is_none() && known.liveness_lost_at.is_some_and(|at| at >= known.since);
        let age_max = self.spec.sleep_interval.max(Duration::from_millis(500));
        // When an info found at the first read was put is unknown.
        let is_recent = known.arrival != Arrival::FoundAtStart && self.now <= known.since + age_max;
        known.key_exists && (keeps_key || (is_recent && !lost_key))
    }

    /// Returns whether the keeper that published an info is running.
    pub(super) fn is_running(&self, known: &KeeperHistory) -> bool {
        self.is_current(known) && (known.alive.is_some() || !known.last.info.liveness_key)
    }

    /// Returns whether a current info of its keeper has a db running and healthy, and not being stopped.
    pub(crate) fn is_reported_healthy(&self, uid: &DbUid, db: &Db) -> bool {
        self.info_of(db).is_some_and(|known| {
            let info = &known.last.info;
            let is_ending = info.leaving || !info.stopping.is_empty() || info.stopped.is_some();
            let healthy = state_of(known, uid).is_some_and(|state| state.healthy);
            self.is_current(known) && !is_ending && healthy
        })
    }

    /// Returns whether a db had longer than `limit` for its generation; zero means no limit (sentinel C-1 to C-3).
    pub(super) fn is_overdue(&self, uid: &DbUid, db: &Db, limit: Duration) -> bool {
        let pending = self.memory.pending.get(uid);
        let of_generation = pending.filter(|pending| pending.generation == db.generation);
        let applied = db.status.current_generation == db.generation;
        !applied && !limit.is_zero() && of_generation.is_some_and(|pending| self.now.since(pending.since) > limit)
    }

    /// Returns whether keeper and db are healthy, the db has applied its spec and belongs to the cluster of `master`.
    pub(super) fn is_good(&self, db: &Db, master: &Db) -> bool {
        let keeper = self.derived.keepers().get(&db.spec.keeper_uid);
        let healthy = db.status.healthy && keeper.is_some_and(|keeper| keeper.status.healthy);
        let applied = db.status.current_generation == db.generation;
        healthy && applied && cluster_match(&db.status, &master.status) == ClusterMatch::Same
    }

    /// Returns whether its keeper may be elected, as far as is known.
    pub(super) fn may_be_master(&self, db: &Db) -> bool {
        let keeper = self.derived.keepers().get(&db.spec.keeper_uid);
        keeper.is_none_or(|keeper| keeper.status.can_be_master != Some(false))
    }

    /// Returns whether a standby has reported the same position too often.
    pub(super) fn is_stalled(&self, uid: &DbUid) -> bool {
        let stall = self.memory.stalls.get(uid);
        stall.is_some_and(|stall| stall.reports > STALLED_REPORTS)
    }

    /// Returns the proxies that may be enabled: their last info is not older than twice the timeout in it (sentinel
    /// P-2).
    pub(super) fn active_proxies(&self) -> Vec<&ProxyUid> {
        let is_active = |proxy: &ProxyHistory| {
            let info = proxy.info.as_ref().filter(|info| !proxy.undecodable && !info.stopped);
            info.is_some_and(|info| self.now <= proxy.since + timeout(info.proxy_timeout).saturating_mul(2))
        };
        let proxies = self.memory.history.proxies.iter();
        proxies
            .filter(|(_, proxy)| is_active(proxy))
            .map(|(uid, _)| uid)
            .collect()
    }

    /// Returns the proxies that may still forward to a former master (fencing F-6); none while a master is announced.
    pub(super) fn forwarding_proxies(&self) -> Vec<&ProxyUid> {
        let section = self.before.proxy.as_ref();
        if section.is_some_and(|section| !section.spec.master_db_uid.is_empty()) {
            return Vec::new();
        }
        let generation = section.map_or(0, |section| section.generation);
        // Without a record of it, "no master" is read for the first time now.
        let closed_since = self.memory.proxies_closed.map_or(self.now, |(_, since)| since);
        let may_forward = |proxy: &ProxyHistory| {
            let info = proxy.info.as_ref().filter(|_| !proxy.undecodable);
            let has_closed = info.is_some_and(|info| info.stopped || info.generation == generation);
            !has_closed && self.now <= lease_end(proxy, closed_since, self.spec)
        };
        let proxies = self.memory.history.proxies.iter();
        proxies
            .filter(|(_, proxy)| may_forward(proxy))
            .map(|(uid, _)| uid)
            .collect()
    }
}

/// Returns the state of a db in an info.
pub(super) fn state_of<'a>(known: &'a KeeperHistory, uid: &DbUid) -> Option<&'a PostgresState> {
    known
        .last
        .info
        .postgres_state
        .as_ref()
        .filter(|state| state.uid == *uid)
}

/// Returns until when a proxy may forward after "no master" was read at `closed_since`: a fenced one for the longest
/// timeout and a hundredth and 100 ms, from its last info if that is earlier; another one for twice the timeout.
fn lease_end(proxy: &ProxyHistory, closed_since: Boottime, spec: &Spec) -> Boottime {
    let published = proxy
        .info
        .as_ref()
        .map_or(Duration::ZERO, |info| timeout(info.proxy_timeout));
    let longest = published.max(spec.proxy_timeout);
    let is_fenced = !proxy.undecodable && proxy.info.as_ref().is_some_and(|info| info.fenced);
    let end = if is_fenced {
        let slack = (longest / 100).saturating_add(Duration::from_millis(100));
        closed_since.min(proxy.since) + longest.saturating_add(slack)
    } else {
        closed_since + longest.saturating_mul(2)
    };
    end.max(proxy.earlier_lease_end)
}

/// Returns a published timeout; a negative one counts as zero.
fn timeout(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.max(0).unsigned_abs())
}

/// Returns whether the data of a db are of the cluster of `master`: the same system identifier, and a timeline that the
/// master's history contains (sentinel C-6, C-7).
pub(super) fn cluster_match(db: &DbStatus, master: &DbStatus) -> ClusterMatch {
    if db.current_generation == 0 {
        return ClusterMatch::Unknown;
    }
    let switch = |status: &DbStatus, timeline: u64| -> Option<Lsn> {
        let entry = status
            .timelines_history
            .iter()
            .find(|entry| entry.timeline_id == timeline);
        entry.map(|entry| entry.switch_point)
    };
    let same_system = db.system_id.is_empty() || db.system_id == master.system_id;
    let own = db.timeline_id;
    let same_branch = if own == master.timeline_id {
        // Both came here from the same position, if both histories still have it. Nothing comes before the first
        // timeline.
        let from = own.checked_sub(1).filter(|before| *before > 0);
        from.is_none_or(|from| match (switch(db, from), switch(master, from)) {
            (Some(own), Some(of_master)) => own == of_master,
            _ => true,
        })
    } else {
        // The master has left this timeline, at or after the position of the db.
        own < master.timeline_id && switch(master, own).is_none_or(|left| db.xlog_pos <= left)
    };
    if same_system && same_branch {
        ClusterMatch::Same
    } else {
        ClusterMatch::Other
    }
}
