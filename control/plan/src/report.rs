//! The last report of every keeper, and how far it can be relied upon: which keepers report, run or leave. Computed
//! once a round, before any decision. What follows for health is left to `health`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Arrival, History, KeeperHistory};
use base::clock::Boottime;
use model::{DbUid, KeeperInfo, KeeperUid, LIVENESS_PERIOD, LIVENESS_TTL, PostgresState, Spec};

/// The last report of a keeper, fresh or not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeeperReport {
    /// The last info.
    pub(crate) info: KeeperInfo,
    /// The last part of its key.
    pub(crate) key: String,
    /// The revision of its last put.
    pub(crate) revision: i64,
    /// Whether it is new.
    pub(crate) arrival: Arrival,
    /// When it was put, at the latest.
    pub(crate) since: Boottime,
    /// Whether it counts as the keeper's current state.
    pub(crate) freshness: Freshness,
    /// It is fresh, and the keeper's liveness key exists if it renews one.
    pub(crate) is_keeper_running: bool,
    /// The key exists, whatever its age.
    pub(crate) key_exists: bool,
    /// Since when its db is in error, if the keeper is leaving.
    pub(crate) leaving_since: Boottime,
}

/// Whether a keeper is reporting, as far as its info and liveness key show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// Its last info counts as its current state (sentinel H-3).
    pub(crate) fresh: bool,
    /// Since when it has not reported; none while it reports. May be in the future for an info found at the start.
    pub(crate) silent_since: Option<Boottime>,
    /// When `fresh` ends without further reports.
    pub(crate) fresh_until: Option<Boottime>,
}

/// The reports by keeper. A keeper that has never published for this cluster, as far as this sentinel has read, has
/// none.
pub(crate) type KeeperReports = BTreeMap<KeeperUid, KeeperReport>;

impl KeeperReport {
    /// Returns whether the report counts as the keeper's current state.
    pub(crate) fn is_fresh(&self) -> bool {
        self.freshness.fresh
    }

    /// Returns the state of a db, if the report is about that db.
    pub(crate) fn state_of(&self, db: &DbUid) -> Option<&PostgresState> {
        self.info.postgres_state.as_ref().filter(|state| state.uid == *db)
    }

    /// Returns whether the keeper currently reports this db running and healthy.
    pub(crate) fn reports_healthy(&self, db: &DbUid) -> bool {
        self.is_fresh() && !self.info.is_leaving_or_stopped() && self.state_of(db).is_some_and(|state| state.healthy)
    }

    /// Returns whether the keeper currently reports that it does not have the data of this db.
    pub(crate) fn reports_data_lost(&self, db: &DbUid) -> bool {
        self.is_keeper_running && !self.info.is_leaving_or_stopped() && self.info.data_lost == *db
    }
}

/// Returns the last reports of all keepers.
pub(crate) fn collect(history: &History, spec: &Spec, now: Boottime) -> KeeperReports {
    let readable_since = history.readable_since();
    let report = |(uid, known): (&KeeperUid, &KeeperHistory)| {
        let freshness = freshness(known, readable_since, spec, now);
        let report = KeeperReport {
            info: known.last.info.clone(),
            key: known.last.key.clone(),
            revision: known.last.revision,
            arrival: known.arrival,
            since: known.since,
            freshness,
            is_keeper_running: freshness.fresh && (!known.last.info.liveness_key || known.alive.is_some()),
            key_exists: known.key_exists,
            leaving_since: leaving_since(known, readable_since),
        };
        (uid.clone(), report)
    };
    history.keepers.iter().map(report).collect()
}

/// Returns whether a keeper is reporting.
fn freshness(known: &KeeperHistory, readable_since: Boottime, spec: &Spec, now: Boottime) -> Freshness {
    let info = &known.last.info;
    let stale_at = known.since + fresh_for(spec);
    let silent = |since| Freshness {
        fresh: false,
        silent_since: Some(since),
        fresh_until: None,
    };
    let fresh = |until| Freshness {
        fresh: known.key_exists,
        silent_since: None,
        fresh_until: until,
    };
    // When an info found at the first read was put is not known well enough for it to count as current.
    let is_recent = known.key_exists && known.arrival != Arrival::FoundAtStart && now <= stale_at;
    if info.liveness_key {
        // A keeper whose liveness key exists is reporting, however old its info is (extensions ).
        if known.alive.as_ref() == Some(&info.boot_uuid) {
            return fresh(None);
        }
        // If the key is of another process of this keeper, that process has not published its info yet: the old info is
        // then assessed by its age, below.
        if known.alive.is_none() {
            let lost_at = known.liveness_lost_at.filter(|at| *at >= known.since);
            if lost_at.is_none() && is_recent {
                return fresh(Some(stale_at));
            }
            // The last renewal was at least a TTL before the key was lost, but time in which the store could not be
            // read does not count (sentinel E-3).
            return silent(lost_at.map_or(known.since, |at| {
                let last_renewal = at.before(LIVENESS_TTL).max(readable_since);
                last_renewal.max(known.since)
            }));
        }
    }
    // Without a liveness key the age of the info decides (sentinel H-3, E-3).
    if is_recent {
        fresh(Some(stale_at))
    } else {
        silent(stale_at)
    }
}

/// Returns since when the db of a leaving keeper is in error: its publication, less one renewal interval. The timers of a
/// killed keeper run from its last renewal, which is no earlier, so an orderly shutdown never delays the failover.
fn leaving_since(known: &KeeperHistory, readable_since: Boottime) -> Boottime {
    let last_renewal = known.since.before(LIVENESS_PERIOD);
    last_renewal.max(readable_since).min(known.since)
}

/// Returns how long an info counts as current: sleepInterval, which may be zero (data-model 5).
fn fresh_for(spec: &Spec) -> Duration {
    spec.sleep_interval.max(Duration::from_millis(500))
}
