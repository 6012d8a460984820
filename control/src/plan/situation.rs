//! The snapshot that decisions look at: the cluster data after health derivation, the reports behind them, and what each
//! db is good for. It is only read; what changes is the draft.

use std::collections::BTreeMap;

use crate::clock::Boottime;
use crate::model::{ClusterData, Db, DbUid, Keeper, Spec, Timestamp};
use crate::plan::classify::{
    Class, Convergence, Validity, class, class_limit, convergence, is_master_type, is_standby_type, validity,
};
use crate::plan::draft::{Condition, Wakes};
use crate::plan::health::{Report, Reports};
use crate::plan::memory::{Memory, converged};
use crate::plan::proxies::ProxyView;

/// Everything that a decision may look at.
#[derive(Debug, Clone)]
pub(crate) struct Situation<'a> {
    /// The document as read (`o` of sentinel 17).
    pub(crate) before: &'a ClusterData,
    /// The document after health derivation (`h` of sentinel 17).
    pub(crate) data: ClusterData,
    /// Its spec, in force.
    pub(crate) spec: &'a Spec,
    /// What keepers last said.
    pub(crate) reports: Reports,
    /// How proxies stand.
    pub(crate) proxies: ProxyView,
    /// The memory, health included.
    pub(crate) memory: &'a Memory,
    /// Statuses stand as persisted (sentinel H-2).
    pub(crate) first_run: bool,
    pub(crate) now: Boottime,
    pub(crate) wall: Timestamp,
}

/// What a db is good for, against a master.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) class: Class,
    pub(crate) validity: Validity,
    pub(crate) convergence: Convergence,
}

/// What the last report of a candidate is worth, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// Fresh, and it does not say that the db is unhealthy.
    Fresh,
    /// Old: the position may be another one by now (design D-6).
    Stale,
    /// Its own keeper says that it is unhealthy.
    CalledUnhealthy,
}

impl Verdict {
    /// Good and of this cluster.
    pub(crate) fn is_good(&self) -> bool {
        self.class == Class::Good && self.validity == Validity::Valid
    }
}

impl Situation<'_> {
    /// The master db that the document names, if it also holds it.
    pub(crate) fn master(&self) -> Option<(&DbUid, &Db)> {
        self.data.dbs().get_key_value(self.data.master_uid()?)
    }

    pub(crate) fn keeper_of(&self, db: &Db) -> Option<&Keeper> {
        self.data.keepers().get(&db.spec.keeper_uid)
    }

    /// What the keeper of a db last said.
    pub(crate) fn report_of(&self, db: &Db) -> Option<&Report> {
        self.reports.get(&db.spec.keeper_uid)
    }

    /// What a db is good for, as a follower or successor of `master`.
    pub(crate) fn verdict(&self, uid: &DbUid, db: &Db, master: &Db, wakes: &mut Wakes) -> Verdict {
        let keeper_healthy = self.keeper_of(db).is_some_and(|keeper| keeper.status.healthy);
        let convergence = convergence(uid, db, class_limit(db, self.spec), self.memory, self.now, wakes);
        Verdict {
            class: class(db, keeper_healthy, convergence),
            validity: validity(uid, db, &master.status),
            convergence,
        }
    }

    /// The verdicts on all dbs but the master.
    pub(crate) fn verdicts(&self, master: &DbUid, wakes: &mut Wakes) -> BTreeMap<DbUid, Verdict> {
        let Some(head) = self.data.dbs().get(master) else {
            return BTreeMap::new();
        };
        let others = self.data.dbs().iter().filter(|(uid, _)| *uid != master);
        others
            .map(|(uid, db)| (uid.clone(), self.verdict(uid, db, head, wakes)))
            .collect()
    }

    /// Whether a db's last report is fresh and says that it is well and applied what it was asked for.
    pub(crate) fn reported_well(&self, uid: &DbUid, db: &Db) -> bool {
        db.status.healthy && converged(db) && self.report_of(db).is_some_and(|report| report.says_well(uid))
    }

    /// How far the last report of a candidate can be trusted: one that its own keeper calls unhealthy comes last.
    pub(crate) fn trust(&self, uid: &DbUid, db: &Db) -> Trust {
        match self.report_of(db) {
            Some(report) if report.of(uid).is_some_and(|state| !state.healthy) => Trust::CalledUnhealthy,
            Some(report) if report.fresh => Trust::Fresh,
            _ => Trust::Stale,
        }
    }

    /// Whether the master's keeper, as far as a first look tells, is there and calls it healthy.
    pub(crate) fn seems_well(&self, uid: &DbUid, db: &Db) -> bool {
        self.report_of(db).is_some_and(|report| {
            // Without a liveness key nothing tells the age of an info that was found.
            let present = report.fresh || (report.listed && !report.info.liveness_key);
            present && !report.going() && report.of(uid).is_some_and(|state| state.healthy)
        })
    }

    /// That the info of a db's keeper is still what was read, be it garbage, of another cluster, or absent (beyond ).
    pub(crate) fn info_unchanged(&self, db: &Db) -> Condition {
        let report = self.report_of(db).filter(|report| report.listed);
        let key = report.map_or_else(|| db.spec.keeper_uid.to_string(), |report| report.key.clone());
        let revision = self.memory.sightings.keeper_keys.get(&key).copied();
        Condition::KeeperInfo { key, revision }
    }

    /// Whether the keeper of a master counts as failed, by silence or by hand, or is leaving.
    pub(crate) fn is_gone(&self, db: &Db) -> bool {
        let failed = self.keeper_of(db).is_none_or(|keeper| !keeper.status.healthy);
        failed || self.report_of(db).is_some_and(|report| report.info.leaving)
    }

    /// Whether clients may have written to this db since it was elected: the proxy section names it (beyond ). That
    /// no proxy is enabled just now does not tell that none was.
    pub(crate) fn is_published(&self, uid: &DbUid) -> bool {
        let proxy = self.data.proxy.as_ref();
        proxy.is_some_and(|proxy| proxy.spec.master_db_uid == *uid)
    }

    /// Dbs that follow inside of the cluster.
    pub(crate) fn standbys(&self) -> impl Iterator<Item = (&DbUid, &Db)> {
        self.data.dbs().iter().filter(|(_, db)| is_standby_type(db))
    }

    /// Old masters not yet removed, and heads of another time.
    pub(crate) fn old_masters<'s>(&'s self, master: &'s DbUid) -> impl Iterator<Item = (&'s DbUid, &'s Db)> {
        self.data
            .dbs()
            .iter()
            .filter(move |(uid, db)| *uid != master && is_master_type(db))
    }
}
