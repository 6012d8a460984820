//! What a leading sentinel remembers between its rounds (sentinel L-13). One value, replaced whole once a round has
//! succeeded; what every sentinel remembers of its readings is in `observe`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Boottime;
use crate::model::{Checked, ClusterData, Db, DbUid, KeeperUid, Lsn, Phase};
use crate::plan::Plan;
use crate::plan::observe::{Observations, Sightings};
use crate::plan::pause::{Election, Loss};
use crate::plan::situation::Situation;

/// The memory of one leadership; empty after a change of it (sentinel L-15), but for the sightings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// What was read so far, also while another sentinel was leading.
    pub sightings: Sightings,
    /// Which of our leaderships the rest belongs to; none before the first (sentinel L-10.8).
    pub leadership: Option<u64>,
    /// Keepers in the cluster data that have never published, and since when that is so.
    pub(crate) missing: BTreeMap<KeeperUid, Boottime>,
    /// Since when a db is in error (sentinel H-12, H-14).
    pub(crate) db_errors: BTreeMap<DbUid, Boottime>,
    /// Reports in a row with the same position (sentinel H-13).
    pub(crate) stalls: BTreeMap<DbUid, Stall>,
    /// Since when a db has been asked for its present generation (sentinel C-1).
    pub(crate) asked: BTreeMap<DbUid, Asked>,
    /// Since when this sentinel knows that proxies were told to close, and by which generation (fencing F-6).
    pub(crate) closed: Option<(i64, Boottime)>,
    /// Since when the master has been healthy and converged, as its reports say (sentinel N-14).
    pub(crate) proven: Option<(DbUid, Boottime)>,
    /// The master that this sentinel has once found healthy and converged (sentinel W-10).
    pub(crate) served: Option<DbUid>,
    /// The last election: another one may have to wait.
    pub(crate) election: Option<Election>,
}

/// How long a db's position has stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stall {
    pub(crate) position: Lsn,
    pub(crate) reports: u32,
}

impl Stall {
    /// Counts once for each report, not for each round (sentinel H-13, E-4).
    pub(crate) fn after(self, position: Lsn) -> Self {
        let reports = if position == self.position { self.reports + 1 } else { 0 };
        Self { position, reports }
    }
}

/// Since when a generation has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) generation: i64,
    pub(crate) since: Boottime,
}

impl Memory {
    /// What is remembered after one more reading, whatever follows from it: how a sentinel that does not lead goes on.
    #[must_use]
    pub fn after_reading(&self, seen: &Observations, data: &Checked, now: Boottime) -> Self {
        let sightings = self.sightings.after(seen, &data.cluster().uid, &data.spec, now);
        let gap = sightings.gap;
        let mut memory = Self {
            sightings,
            ..self.clone()
        };
        memory.postpone(gap);
        memory
    }

    /// The same when it is not known whether this plan was written: an election in it may have taken place.
    #[must_use]
    pub fn unanswered(mut self, plan: &Plan) -> Self {
        self.election.clone_from(&plan.memory.election);
        self
    }

    /// The same after a round from which nothing could follow.
    #[must_use]
    pub(crate) fn unplanned(mut self) -> Self {
        self.sightings = self.sightings.unplanned();
        self
    }

    /// The empty memory of a new leadership; readings made before it stay.
    pub(crate) fn of_leadership(leadership: u64, sightings: Sightings) -> Self {
        Self {
            sightings,
            leadership: Some(leadership),
            ..Self::default()
        }
    }

    /// Moves every timer by a time in which the store could not be read (sentinel E-3). Proxies close by themselves,
    /// store or not, so what they were told goes on counting.
    fn postpone(&mut self, gap: Duration) {
        let timers = self.missing.values_mut().chain(self.db_errors.values_mut());
        let timers = timers.chain(self.asked.values_mut().map(|asked| &mut asked.since));
        let timers = timers.chain(self.proven.as_mut().map(|(_, since)| since));
        let timers = timers.chain(self.election.as_mut().map(|election| &mut election.at));
        for timer in timers {
            *timer = *timer + gap;
        }
    }

    /// Takes over how the master does (sentinel N-14, W-10).
    pub(crate) fn note_master(&mut self, situation: &Situation<'_>) {
        let Some((uid, db)) = situation.master() else {
            self.proven = None;
            return;
        };
        if !(db.status.healthy && converged(db)) {
            self.proven = None;
        } else if self.proven.as_ref().is_none_or(|(proven, _)| proven != uid) {
            self.proven = Some((uid.clone(), situation.now));
        }
        if situation.reported_well(uid, db) {
            self.served = Some(uid.clone());
        }
    }

    /// Takes over an election that a predecessor made and did not finish: its master has its convergence time from now on.
    pub(crate) fn note_unfinished(&mut self, data: &ClusterData, now: Boottime) {
        let normal = data
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.status.phase == Phase::Normal);
        let published = data
            .proxy
            .as_ref()
            .is_some_and(|proxy| !proxy.spec.master_db_uid.is_empty());
        self.election = data
            .master_uid()
            .filter(|_| normal && !published)
            .map(|master| Election::after(None, master, Loss::Gone, now));
    }

    /// Takes over which generations are asked for from a document (sentinel C-1).
    pub(crate) fn note_asked(&mut self, dbs: &BTreeMap<DbUid, Db>, now: Boottime) {
        self.asked.retain(|uid, asked| {
            dbs.get(uid)
                .is_some_and(|db| !converged(db) && db.generation == asked.generation)
        });
        for (uid, db) in dbs.iter().filter(|(_, db)| !converged(db)) {
            self.asked.entry(uid.clone()).or_insert(Asked {
                generation: db.generation,
                since: now,
            });
        }
        self.db_errors.retain(|uid, _| dbs.contains_key(uid));
        self.stalls.retain(|uid, _| dbs.contains_key(uid));
    }
}

/// Whether the keeper has completely applied the spec that the document asks for (sentinel 1.1).
pub(crate) fn converged(db: &Db) -> bool {
    db.status.current_generation == db.generation
}
