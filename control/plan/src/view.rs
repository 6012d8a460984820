//! The read-only view that decisions are based on: the cluster data with derived health, the reports behind it, and
//! assessments of dbs. Changes go to the draft.

use std::collections::BTreeMap;

use crate::classify::{Convergence, DbClass, Validity, class, class_limit, convergence, validity};
use crate::condition::Condition;
use crate::memory::Memory;
use crate::proxy_view::ProxyView;
use crate::report::{KeeperReport, KeeperReports};
use crate::switchover_view::SwitchoverView;
use base::clock::Boottime;
use model::{ClusterData, Db, DbUid, FailoverRequest, Keeper, Role, Spec, Timestamp};

/// The input of all decisions of a round.
#[derive(Debug, Clone)]
pub(crate) struct PlanView<'a> {
    /// The cluster data as read.
    pub(crate) before: &'a ClusterData,
    /// The cluster data with derived health.
    pub(crate) data: ClusterData,
    /// The effective spec.
    pub(crate) spec: &'a Spec,
    /// The last reports of the keepers.
    pub(crate) reports: KeeperReports,
    /// The state of the proxies.
    pub(crate) proxies: ProxyView,
    /// An operator's request for a failover, and its revision.
    pub(crate) failover: Option<&'a (FailoverRequest, i64)>,
    /// A switchover that is requested, and the orders of keepers.
    pub(crate) switchover: SwitchoverView<'a>,
    /// The memory, with this round's health derivation.
    pub(crate) memory: &'a Memory,
    /// This is the first run of a leadership: statuses are used as persisted (sentinel H-2).
    pub(crate) first_run: bool,
    pub(crate) now: Boottime,
    pub(crate) wall: Timestamp,
}

/// The assessment of a db as follower or successor of a master.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assessment {
    pub(crate) class: DbClass,
    pub(crate) validity: Validity,
    pub(crate) convergence: Convergence,
    /// When its time to converge ends.
    pub(crate) deadline: Option<Boottime>,
}

impl Assessment {
    /// Returns whether the db is good and belongs to this cluster.
    pub(crate) fn is_good(&self) -> bool {
        self.class == DbClass::Good && self.validity == Validity::Valid
    }
}

impl PlanView<'_> {
    /// Returns the master db, if the cluster data holds it.
    pub(crate) fn master(&self) -> Option<(&DbUid, &Db)> {
        self.data.dbs().get_key_value(self.data.master_uid()?)
    }

    pub(crate) fn keeper_of(&self, db: &Db) -> Option<&Keeper> {
        self.data.keepers().get(&db.spec.keeper_uid)
    }

    /// Returns the last report of a db's keeper.
    pub(crate) fn report_of(&self, db: &Db) -> Option<&KeeperReport> {
        self.reports.get(&db.spec.keeper_uid)
    }

    /// Returns the assessment of a db as follower or successor of `master`.
    pub(crate) fn assess(&self, uid: &DbUid, db: &Db, master: &Db) -> Assessment {
        let keeper_healthy = self.keeper_of(db).is_some_and(|keeper| keeper.status.healthy);
        let limit = class_limit(db, self.spec);
        let (convergence, deadline) = convergence(uid, db, limit, self.memory, self.now);
        Assessment {
            class: class(db, keeper_healthy, convergence),
            validity: validity(uid, db, &master.status),
            convergence,
            deadline,
        }
    }

    /// Returns the assessments of all dbs but the master.
    pub(crate) fn assess_others(&self, master: &DbUid) -> BTreeMap<DbUid, Assessment> {
        let Some(master_db) = self.data.dbs().get(master) else {
            return BTreeMap::new();
        };
        let others = self.data.dbs().iter().filter(|(uid, _)| *uid != master);
        others
            .map(|(uid, db)| (uid.clone(), self.assess(uid, db, master_db)))
            .collect()
    }

    /// Returns whether synchronous replication is to be set up (sentinel C-11).
    pub(crate) fn spec_is_synchronous(&self) -> bool {
        self.spec.synchronous_replication && self.spec.role == Role::Master
    }

    /// Returns whether a db is healthy and converged and its last report is fresh and confirms that.
    pub(crate) fn is_reported_healthy(&self, uid: &DbUid, db: &Db) -> bool {
        db.status.healthy && db.is_converged() && self.report_of(db).is_some_and(|report| report.reports_healthy(uid))
    }

    /// Returns whether the first read indicates that the master's keeper is running and reports the db healthy.
    pub(crate) fn may_be_healthy(&self, uid: &DbUid, db: &Db) -> bool {
        self.report_of(db).is_some_and(|report| {
            // Without a liveness key the age of an info found at the start is unknown, so it counts as current.
            let may_be_current = report.is_fresh() || (report.key_exists && !report.info.liveness_key);
            may_be_current
                && !report.info.is_leaving_or_stopped()
                && report.state_of(uid).is_some_and(|state| state.healthy)
        })
    }

    /// Returns the condition that the info of a db's keeper is unchanged since it was read, even if it is undecodable,
    /// of another cluster, or absent (extensions ).
    pub(crate) fn info_unchanged(&self, db: &Db) -> Condition {
        let report = self.report_of(db).filter(|report| report.key_exists);
        let key = report.map_or_else(|| db.spec.keeper_uid.to_string(), |report| report.key.clone());
        let revision = self.memory.history.keeper_keys.get(&key).copied();
        Condition::KeeperInfo { key, revision }
    }

    /// Returns whether the keeper of a db counts as failed, by silence or by hand, or is leaving.
    pub(crate) fn is_keeper_gone(&self, db: &Db) -> bool {
        let failed = self.keeper_of(db).is_none_or(|keeper| !keeper.status.healthy);
        failed || self.report_of(db).is_some_and(|report| report.info.leaving)
    }

    /// Returns whether clients may have written to this db since it was elected: the proxy section names it (extensions
    /// An empty list of enabled proxies does not rule that out: they may have been enabled before.
    pub(crate) fn is_announced(&self, uid: &DbUid) -> bool {
        let proxy = self.data.proxy.as_ref();
        proxy.is_some_and(|proxy| proxy.spec.master_db_uid == *uid)
    }

    /// Returns the dbs that follow a db of this cluster.
    pub(crate) fn standbys(&self) -> impl Iterator<Item = (&DbUid, &Db)> {
        self.data.dbs().iter().filter(|(_, db)| db.is_standby_type())
    }

    /// Returns the former masters that are kept: dbs of master type that are not the master.
    pub(crate) fn former_masters<'s>(&'s self, master: &'s DbUid) -> impl Iterator<Item = (&'s DbUid, &'s Db)> {
        self.data
            .dbs()
            .iter()
            .filter(move |(uid, db)| *uid != master && db.is_master_type())
    }
}
