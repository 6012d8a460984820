//! The plan under construction: the changed cluster data and the notes. Only functions that decide get it mutably; what
//! they decide is left to them.

use std::time::Duration;

use crate::condition::Condition;
use crate::election_backoff::ElectionRecord;
use crate::note::Note;
use base::clock::Boottime;
use model::{Cluster, ClusterData, Db, DbUid, Keeper, KeeperUid, ProxySection, SwitchoverReport};

/// The earliest time at which something has to be planned again even if nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deadlines {
    pub(crate) next: Option<Boottime>,
}

impl Deadlines {
    /// Requests a round just after `at`, unless `at` is none or has passed. A timer expires once more than its limit
    /// has elapsed, so one millisecond is added.
    pub(crate) fn wake_after(&mut self, at: impl Into<Option<Boottime>>, now: Boottime) {
        if let Some(at) = at.into().filter(|at| *at >= now) {
            let at = at + Duration::from_millis(1);
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }
}

/// The plan under construction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    /// The cluster data being changed.
    pub(crate) next: ClusterData,
    /// What was decided, and why.
    pub(crate) notes: Vec<Note>,
    /// When to plan again.
    pub(crate) deadlines: Deadlines,
    /// Conditions of the write.
    pub(crate) conditions: Vec<Condition>,
    /// The election made in this plan.
    pub(crate) elected: Option<ElectionRecord>,
    /// How far a switchover is.
    pub(crate) switchover: Option<SwitchoverReport>,
}

impl Draft {
    pub(crate) fn from(data: &ClusterData) -> Self {
        Self {
            next: data.clone(),
            notes: Vec::new(),
            deadlines: Deadlines::default(),
            conditions: Vec::new(),
            elected: None,
            switchover: None,
        }
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.next
            .cluster
            .as_ref()
            .expect("planning starts from checked data, which have a cluster")
    }

    pub(crate) fn cluster_mut(&mut self) -> &mut Cluster {
        self.next
            .cluster
            .as_mut()
            .expect("planning starts from checked data, which have a cluster")
    }

    /// Returns the proxy section, if there is one.
    pub(crate) fn proxy(&self) -> Option<&ProxySection> {
        self.next.proxy.as_ref()
    }

    /// Returns whether the proxy section names no master.
    pub(crate) fn are_proxies_closed(&self) -> bool {
        self.proxy().is_none_or(|proxy| proxy.spec.master_db_uid.is_empty())
    }

    /// Returns the proxy section, which this creates when there is none.
    pub(crate) fn proxy_mut(&mut self) -> &mut ProxySection {
        self.next.proxy.get_or_insert_default()
    }

    pub(crate) fn db_mut(&mut self, uid: &DbUid) -> Option<&mut Db> {
        self.next.dbs_mut().get_mut(uid)
    }

    /// Removes a db and adds the note.
    pub(crate) fn remove_db(&mut self, uid: &DbUid, note: impl FnOnce(DbUid, KeeperUid) -> Note) {
        if let Some(db) = self.next.dbs_mut().remove(uid) {
            self.note(note(uid.clone(), db.spec.keeper_uid));
        }
    }

    /// Returns healthy keepers without a db, sorted by uid.
    pub(crate) fn free_keepers(&self) -> Vec<KeeperUid> {
        let free =
            |(uid, keeper): &(&KeeperUid, &Keeper)| keeper.status.healthy && self.next.db_of_keeper(uid).is_none();
        self.next
            .keepers()
            .iter()
            .filter(free)
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    pub(crate) fn require(&mut self, condition: Condition) {
        if !self.conditions.contains(&condition) {
            self.conditions.push(condition);
        }
    }
}
