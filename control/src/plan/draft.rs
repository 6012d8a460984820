//! A plan in the making: the document being changed, and what there is to say about it.

use std::time::Duration;

use crate::clock::Boottime;
use crate::model::{Cluster, ClusterData, Db, DbUid, Keeper, KeeperUid, ProxySection};
use crate::plan::note::Note;
use crate::plan::pause::Election;

/// What has to be true of the store, besides what every write of a leader needs (fencing F-7), for a plan to be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// This keeper's info is still the one that was read: a master that has said anything since is looked at again
    /// (beyond ).
    KeeperInfo {
        /// The last part of the key.
        key: String,
        /// The revision of its last put; none: the key does not exist.
        revision: Option<i64>,
    },
}

/// When to look again although nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wakes {
    pub(crate) next: Option<Boottime>,
}

impl Wakes {
    /// Asks for a round just after a time that has not passed yet; limits are passed when strictly more has elapsed.
    pub(crate) fn after(&mut self, at: Boottime, now: Boottime) {
        if at >= now {
            let at = at + Duration::from_millis(1);
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }
}

/// The plan in the making.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    /// The document being changed.
    pub(crate) next: ClusterData,
    /// What there is to say.
    pub(crate) notes: Vec<Note>,
    /// When to look again.
    pub(crate) wakes: Wakes,
    /// What the write depends on.
    pub(crate) conditions: Vec<Condition>,
    /// The election that this plan makes.
    pub(crate) elected: Option<Election>,
}

impl Draft {
    pub(crate) fn from(data: &ClusterData) -> Self {
        Self {
            next: data.clone(),
            notes: Vec::new(),
            wakes: Wakes::default(),
            conditions: Vec::new(),
            elected: None,
        }
    }

    pub(crate) fn say(&mut self, note: Note) {
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

    pub(crate) fn proxy_mut(&mut self) -> &mut ProxySection {
        self.next.proxy.get_or_insert_default()
    }

    pub(crate) fn db_mut(&mut self, uid: &DbUid) -> Option<&mut Db> {
        self.next.dbs_mut().get_mut(uid)
    }

    /// Takes a db out, saying why.
    pub(crate) fn remove_db(&mut self, uid: &DbUid, note: impl FnOnce(DbUid, KeeperUid) -> Note) {
        if let Some(db) = self.next.dbs_mut().remove(uid) {
            self.say(note(uid.clone(), db.spec.keeper_uid));
        }
    }

    /// Keepers that are healthy and have no db, by uid.
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
