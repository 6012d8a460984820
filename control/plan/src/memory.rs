//! What a leading sentinel remembers between rounds (sentinel L-13). The whole value is replaced once a round has
//! succeeded. The history of what was read, which every sentinel keeps, is in `history`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::election_backoff::{ElectionRecord, ReplaceReason};
use crate::history::History;
use crate::observation::Observations;
use base::clock::Boottime;
use model::{
    CheckedClusterData, ClusterData, Db, DbUid, KeeperUid, Lsn, Phase, PostgresState, SwitchoverReport, SwitchoverState,
};

/// The memory of one leadership. A new leadership starts with an empty one, except for the history (sentinel L-15).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// The history of what was read, including the time when another sentinel led.
    pub history: History,
    /// Number of the leadership that the rest belongs to; none before the first (sentinel L-10.8).
    pub leadership: Option<u64>,
    /// Keepers in the cluster data that have never published, with the time since which that is known.
    pub(crate) never_published: BTreeMap<KeeperUid, Boottime>,
    /// Since when each db has been in error (sentinel H-12).
    pub(crate) db_errors: BTreeMap<DbUid, Boottime>,
    /// Consecutive reports of each db with the same position (sentinel H-13).
    pub(crate) stalls: BTreeMap<DbUid, Stall>,
    /// For each db that is not converged, since when its current generation is requested (sentinel C-1).
    pub(crate) pending: BTreeMap<DbUid, PendingGeneration>,
    /// The generation of a proxy section without master, and since when this sentinel has read it (fencing F-6).
    pub(crate) proxies_closed: Option<(i64, Boottime)>,
    /// The master, and since when it has continuously been healthy and converged (sentinel N-14).
    pub(crate) healthy_since: Option<(DbUid, Boottime)>,
    /// The master, if this sentinel has found it healthy and converged at least once (sentinel W-10).
    pub(crate) reported_healthy: Option<DbUid>,
    /// The last election; it delays the next one.
    pub(crate) election: Option<ElectionRecord>,
    /// The first position that the master reported with its present generation (synchronous SY-3).
    pub(crate) first_position: Option<FirstPosition>,
    /// The last switchover, and how far it is.
    pub(crate) switchover: Option<SwitchoverProgress>,
    /// Keepers that had an order, with the last time at which it was read: until then a stopped master was no failure
    /// (extensions ).
    pub(crate) ordered: BTreeMap<KeeperUid, Boottime>,
}

/// How far a switchover is, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwitchoverProgress {
    pub(crate) report: SwitchoverReport,
    pub(crate) since: Boottime,
    /// The master that it replaces.
    pub(crate) master: DbUid,
}

/// The first position that a db reported as master with a generation. What it acknowledged under the
/// `synchronous_standby_names` of earlier generations lies before that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FirstPosition {
    pub(crate) db: DbUid,
    pub(crate) generation: i64,
    pub(crate) timeline: u64,
    pub(crate) position: Lsn,
}

impl FirstPosition {
    pub(crate) fn of(db: &DbUid, state: &PostgresState) -> Self {
        Self {
            db: db.clone(),
            generation: state.generation,
            timeline: state.timeline_id,
            position: state.xlog_pos,
        }
    }

    /// Returns whether both are about the same db, generation and timeline.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        (&self.db, self.generation, self.timeline) == (&other.db, other.generation, other.timeline)
    }
}

/// Consecutive reports of a db with the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stall {
    pub(crate) position: Lsn,
    pub(crate) reports: u32,
}

impl Stall {
    /// Returns the state after one more report. Counts reports, not rounds (sentinel H-13, E-4).
    pub(crate) fn after(self, position: Lsn) -> Self {
        let reports = if position == self.position { self.reports + 1 } else { 0 };
        Self { position, reports }
    }
}

/// A requested generation that is not applied yet, and since when it is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingGeneration {
    pub(crate) generation: i64,
    pub(crate) since: Boottime,
}

impl Memory {
    /// Returns the memory after one more read. A sentinel that does not lead only does this.
    #[must_use]
    pub fn after_read(&self, observations: &Observations, data: &CheckedClusterData, now: Boottime) -> Self {
        let history = self.history.after(observations, &data.cluster().uid, &data.spec, now);
        let outage = history.outage;
        let mut memory = Self {
            history,
            ..self.clone()
        };
        memory.shift_timers(outage);
        memory
    }

    /// Returns the memory with the election in `planned`, the memory of a plan whose write had no definite result: the
    /// election may have taken place, and with it that of a switchover.
    #[must_use]
    pub fn keeping_election_of(mut self, planned: &Self) -> Self {
        self.election.clone_from(&planned.election);
        let switchover = planned.switchover.as_ref();
        if let Some(elected) = switchover.filter(|progress| progress.report.state == SwitchoverState::Promoting) {
            self.switchover = Some(elected.clone());
        }
        self
    }

    /// Returns the memory after a round without decisions: what was new stays new.
    #[must_use]
    pub(crate) fn deferring_arrivals(mut self) -> Self {
        self.history = self.history.deferring_arrivals();
        self
    }

    /// Returns the memory of a new leadership: empty but for the history.
    pub(crate) fn for_leadership(leadership: u64, history: History) -> Self {
        Self {
            history,
            leadership: Some(leadership),
            ..Self::default()
        }
    }

    /// Shifts every timer by a time in which the store could not be read (sentinel E-3). Proxies close by their own
    /// lease, store or not, so the timer of closed proxies is not shifted.
    fn shift_timers(&mut self, outage: Duration) {
        let timers = self.never_published.values_mut().chain(self.db_errors.values_mut());
        let timers = timers.chain(self.pending.values_mut().map(|pending| &mut pending.since));
        let timers = timers.chain(self.healthy_since.as_mut().map(|(_, since)| since));
        let timers = timers.chain(self.election.as_mut().map(|election| &mut election.at));
        let timers = timers.chain(self.switchover.as_mut().map(|progress| &mut progress.since));
        let timers = timers.chain(self.ordered.values_mut());
        for timer in timers {
            *timer = *timer + outage;
        }
    }

    /// Records since when the proxy section names no master. A leader counts from its own first successful read of
    /// that, which also follows its own write (fencing F-6). A changed generation means that another writer announced a
    /// master in between.
    pub(crate) fn record_proxies_closed(&mut self, data: &ClusterData, now: Boottime) {
        let section = data.proxy.as_ref();
        let generation = section.map_or(0, |section| section.generation);
        let is_closed = section.is_none_or(|section| section.spec.master_db_uid.is_empty());
        let same = self.proxies_closed.filter(|(known, _)| *known == generation);
        self.proxies_closed = is_closed.then(|| same.unwrap_or((generation, now)));
    }

    /// Records which keepers have an order now, and forgets those whose order ended failInterval ago: an error counts by
    /// then. A generation that was requested of a db with an order counts as requested at the end of the order: the
    /// stopped instance cannot apply it (extensions ).
    pub(crate) fn record_orders(
        &mut self,
        observations: &Observations,
        data: &ClusterData,
        limit: Duration,
        now: Boottime,
    ) {
        self.ordered.retain(|_, at| now.since(*at) <= limit);
        self.ordered
            .extend(observations.orders.keys().map(|keeper| (keeper.clone(), now)));
        for (uid, pending) in &mut self.pending {
            let keeper = data.dbs().get(uid).map(|db| &db.spec.keeper_uid);
            let ordered = keeper.and_then(|keeper| self.ordered.get(keeper)).copied();
            pending.since = pending.since.max(ordered.unwrap_or_default());
        }
    }

    /// Records an election that a previous leader made and did not finish. Its master gets the full convergence time
    /// from now on.
    pub(crate) fn adopt_unfinished_election(&mut self, data: &ClusterData, now: Boottime) {
        let is_normal = data
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.status.phase == Phase::Normal);
        let is_announced = data
            .proxy
            .as_ref()
            .is_some_and(|proxy| !proxy.spec.master_db_uid.is_empty());
        self.election = data
            .master_uid()
            .filter(|_| is_normal && !is_announced)
            .map(|master| ElectionRecord::after(None, master, ReplaceReason::KeeperGone, now));
    }

    /// Records the requested generations of a document, and drops timers of dbs that are gone (sentinel C-1).
    pub(crate) fn record_pending(&mut self, dbs: &BTreeMap<DbUid, Db>, now: Boottime) {
        self.pending.retain(|uid, pending| {
            dbs.get(uid)
                .is_some_and(|db| !db.is_converged() && db.generation == pending.generation)
        });
        for (uid, db) in dbs.iter().filter(|(_, db)| !db.is_converged()) {
            self.pending.entry(uid.clone()).or_insert(PendingGeneration {
                generation: db.generation,
                since: now,
            });
        }
        self.db_errors.retain(|uid, _| dbs.contains_key(uid));
        self.stalls.retain(|uid, _| dbs.contains_key(uid));
    }
}
