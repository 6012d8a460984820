//! The store, the keepers and the proxies: everything but the sentinel.

use std::collections::BTreeMap;
use std::time::Duration;

use base::clock::Boottime;
use model::{ClusterData, DbUid, FailoverRequest, KeeperUid, SwitchoverRequest, Timestamp};

use super::keeper::{SimKeeper, keeper_uid};
use super::orders::Orders;
use super::proxy::SimProxy;
use super::{MasterChange, TICK};
use crate::{Observations, Observed};

/// The lease of an operator's request.
const FAILOVER_LEASE: Duration = Duration::from_secs(30);

/// The lease of a request for a switchover.
const SWITCHOVER_LEASE: Duration = Duration::from_secs(15);

/// The store, the keepers and the proxies.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) data: ClusterData,
    pub(super) now: Boottime,
    pub(super) keepers: Vec<SimKeeper>,
    pub(super) proxies: Vec<SimProxy>,
    pub(super) store_up_at: Boottime,
    pub(super) keepers_reachable_at: Boottime,
    /// Every change of the master, but for the first one.
    pub(super) elections: Vec<MasterChange>,
    /// Whether the present master has served clients.
    pub(super) served: bool,
    /// An operator's request for a failover, its revision, and when it expires.
    failover: Option<(FailoverRequest, i64, Boottime)>,
    /// An operator's request for a switchover, its revision, and when it expires.
    switchover: Option<(SwitchoverRequest, i64, Boottime)>,
    pub(super) orders: Orders,
    /// For each keeper and timeline, what clients of a synchronous master had acknowledged through a proxy.
    acknowledged: BTreeMap<(usize, u64), u64>,
    revision: i64,
}

impl World {
    pub(super) fn new(data: ClusterData, keepers: Vec<SimKeeper>, proxies: Vec<SimProxy>, now: Boottime) -> Self {
        Self {
            data,
            now,
            keepers,
            proxies,
            store_up_at: now,
            keepers_reachable_at: now,
            elections: Vec::new(),
            served: false,
            failover: None,
            switchover: None,
            orders: Orders::default(),
            acknowledged: BTreeMap::new(),
            revision: 1,
        }
    }

    /// Every keeper and every proxy that runs acts once.
    pub(super) fn run(&mut self) {
        let reachable = self.now > self.keepers_reachable_at;
        for index in 0..self.keepers.len() {
            if reachable && self.keepers[index].runs {
                self.run_keeper(index);
            }
        }
        let section = self.data.proxy.clone().unwrap_or_default();
        for proxy in self.proxies.iter_mut().filter(|proxy| proxy.runs) {
            // every tick, because a watch wakes the proxy
            self.revision += 1;
            proxy.check_in(&section, self.revision, self.now);
        }
    }

    fn run_keeper(&mut self, index: usize) {
        let keeper = &self.keepers[index];
        let (uid, before) = (keeper.uid(), keeper.info());
        let acknowledged = self.data.keepers().get(&uid);
        let is_acknowledged = acknowledged.is_some_and(|stored| stored.status.boot_uuid == keeper.boot_uid());
        let db = self.data.db_of_keeper(&uid).map(|(_, db)| db.clone());
        match db.filter(|_| is_acknowledged) {
            Some(db) => {
                let is_master = self.data.master_uid() == Some(&db.uid);
                let copied = self.master_keeper().map(|master| self.keepers[master].clone());
                let copied = copied.filter(|master| master.running);
                let is_closed = self.data.proxied_master().is_none();
                let order = self.orders.of(&uid, is_closed, self.now);
                let keeper = &mut self.keepers[index];
                keeper.converge(&db, is_master, copied.as_ref(), order.as_ref());
                if keeper.is_running_standby() {
                    self.send_wal(index);
                }
            }
            None => self.keepers[index].running = false,
        }
        self.keepers[index].in_sync = self.reported_in_sync(index);
        self.keepers[index].checkpoint_received = self.received_by_standbys(index);
        if self.keepers[index].check_in(&before, self.now) {
            self.publish_keeper(index);
        }
    }

    /// Returns the standbys that are connected to a master, and whether they have received its last ordered checkpoint.
    fn received_by_standbys(&self, index: usize) -> BTreeMap<DbUid, bool> {
        let master = &self.keepers[index];
        let connected = self.keepers.iter().filter(|keeper| keeper.streams_from(master));
        let received = |keeper: &SimKeeper| Some((keeper.db()?.clone(), keeper.at >= master.checkpoint_at));
        connected.filter_map(received).collect()
    }

    /// Returns the standbys that a master reports as in sync. A keeper of ours compares them with its mark; PostgreSQL
    /// itself shows a standby as in sync as soon as it streams (synchronous PG1, SY-3).
    fn reported_in_sync(&self, index: usize) -> Vec<DbUid> {
        let master = &self.keepers[index];
        let names = master.names.iter().flatten();
        let of_name = names.filter_map(|name| self.keepers.iter().find(|keeper| keeper.has_db(name)));
        of_name
            .filter(|standby| standby.streams_from(master) && (!master.own || standby.at >= master.mark))
            .filter_map(|standby| standby.db().cloned())
            .collect()
    }

    /// Records what clients have had acknowledged: the WAL of a synchronous master that a proxy may forward to, as far as
    /// each of its names has received it. What was acknowledged before synchronous replication is not claimed (synchronous S1).
    pub(super) fn record_acknowledged(&mut self) {
        let cluster = self.data.cluster.as_ref().expect("the world has a cluster");
        if cluster.spec.as_ref().and_then(|spec| spec.synchronous_replication) != Some(true) {
            self.acknowledged.clear();
            return;
        }
        for (index, master) in self.keepers.iter().enumerate() {
            let routed = |proxy: &SimProxy| proxy.may_forward_to(self.now).is_some_and(|db| Some(db) == master.db());
            let Some(names) = master.names.as_ref().filter(|_| master.is_running_master()) else {
                continue;
            };
            let received = |name: &String| {
                let standby = self.keepers.iter().find(|keeper| keeper.has_db(name));
                standby
                    .filter(|standby| standby.streams_from(master))
                    .map(|standby| standby.at)
            };
            let flushed = names
                .iter()
                .map(received)
                .try_fold(master.at, |least, at| Some(least.min(at?)));
            if let Some(flushed) = flushed.filter(|_| self.proxies.iter().any(routed)) {
                let known = self.acknowledged.entry((index, master.timeline)).or_default();
                *known = flushed.max(*known);
            }
        }
    }

    /// Returns what was acknowledged and the announced master lacks (synchronous S1).
    pub(super) fn lost(&self) -> Option<String> {
        let (uid, db) = self.data.proxied_master()?;
        let master = self.keeper(&db.spec.keeper_uid)?;
        if !master.is_running_master() || master.db() != Some(uid) {
            return None;
        }
        let lost = self
            .acknowledged
            .iter()
            .find(|((_, timeline), at)| !master.contains(*timeline, **at));
        lost.map(|((keeper, timeline), at)| {
            format!(
                "{uid} is announced and lacks {at} of timeline {timeline}, which k{keeper} acknowledged: {master:?}"
            )
        })
    }

    /// Ends a keeper in order: stops its instance, publishes that if the store is there, and leaves.
    pub(super) fn stop_keeper(&mut self, index: usize) {
        if !self.keepers[index].runs {
            return;
        }
        self.keepers[index].stop_to_leave();
        if !self.store_is_down() {
            self.send_wal(index);
            self.publish_keeper(index);
        }
        self.keepers[index].leave();
    }

    /// All standbys receive their masters' WAL, this keeper's last.
    fn send_wal(&mut self, last: usize) {
        for index in (0..self.keepers.len()).filter(|other| *other != last).chain([last]) {
            let Some((_, db)) = self.data.db_of_keeper(&keeper_uid(index)) else {
                continue;
            };
            let followed = db.spec.follow_config.as_ref().map(|follow| follow.db_uid.clone());
            let followed = followed.and_then(|uid| self.data.dbs().get(&uid));
            let source = followed.and_then(|followed| self.keeper(&followed.spec.keeper_uid));
            if let Some(source) = source.cloned() {
                self.keepers[index].follow(&source);
            }
        }
    }

    fn publish_keeper(&mut self, index: usize) {
        self.revision += 1;
        self.keepers[index].publish(self.revision, self.now);
    }

    /// Removes a keeper from the cluster data, as `stolonctl` does: not the master's.
    pub(super) fn remove_keeper(&mut self, uid: &KeeperUid) {
        let db = self.data.db_of_keeper(uid).map(|(uid, _)| uid.clone());
        if db.is_some() && db.as_ref() == self.data.master_uid() {
            return;
        }
        self.data.keepers_mut().remove(uid);
        if let Some(db) = db {
            self.data.dbs_mut().remove(&db);
        }
    }

    /// An operator asks for a failover to a keeper, unless there is no master, or a request already.
    pub(super) fn request_failover(&mut self, to: KeeperUid) {
        let Some(master) = self.data.master_uid().cloned() else {
            return;
        };
        if self.failover_request().is_none() {
            self.revision += 1;
            let request = FailoverRequest {
                id: self.revision.to_string(),
                to,
                master,
                accept_data_loss: true,
                requested_at: Timestamp::default(),
            };
            self.failover = Some((request, self.revision, self.now + FAILOVER_LEASE));
        }
    }

    /// Returns the operator's request that is in the store now, and its revision.
    pub(super) fn failover_request(&self) -> Option<(FailoverRequest, i64)> {
        let (request, revision, _) = self.failover.as_ref().filter(|(_, _, end)| self.now < *end)?;
        Some((request.clone(), *revision))
    }

    /// An operator asks for a switchover, to a keeper or to any, unless there is a request already.
    pub(super) fn request_switchover(&mut self, to: Option<KeeperUid>) {
        if self.switchover_request().is_none() {
            self.revision += 1;
            let request = SwitchoverRequest {
                id: self.revision.to_string(),
                to,
                requested_at: Timestamp::default(),
            };
            self.switchover = Some((request, self.revision, self.now + SWITCHOVER_LEASE));
        }
    }

    /// Returns the request for a switchover that is in the store now, and its revision.
    pub(super) fn switchover_request(&self) -> Option<(SwitchoverRequest, i64)> {
        let (request, revision, _) = self.switchover.as_ref().filter(|(_, _, end)| self.now < *end)?;
        Some((request.clone(), *revision))
    }

    /// Deletes the request for a switchover.
    pub(super) fn end_switchover(&mut self) {
        self.switchover = None;
    }

    /// Returns a new revision of the store.
    pub(super) fn next_revision(&mut self) -> i64 {
        self.revision += 1;
        self.revision
    }

    /// Deletes the operator's request, which has been carried out. What the new master lacks is given up (synchronous
    /// SY-20).
    pub(super) fn complete_failover(&mut self) {
        self.failover = None;
        let elected = self.master_keeper().map(|index| self.keepers[index].clone());
        if let Some(elected) = elected {
            self.acknowledged
                .retain(|(_, timeline), at| elected.contains(*timeline, *at));
        }
    }

    /// Replaces the cluster data.
    pub(super) fn write(&mut self, next: ClusterData) {
        let former = self.data.master_uid().cloned();
        self.data = next;
        if former.is_some() && former.as_ref() != self.data.master_uid() {
            let (at, former_served) = (self.now, std::mem::take(&mut self.served));
            self.elections.push(MasterChange { at, former_served });
        }
    }

    /// Returns what a read of the store by this leader finds now.
    pub(super) fn observations(&self, leadership: u64) -> Observations {
        let mut seen = Observations {
            failover: self.failover_request(),
            switchover: self.switchover_request(),
            orders: self.orders.observed(leadership, self.now),
            ..Observations::default()
        };
        for keeper in &self.keepers {
            let uid = keeper.uid();
            if let Some(published) = keeper.published(self.now) {
                let observed = Observed {
                    key: uid.to_string(),
                    revision: published.revision,
                    age: self.now.since(published.at).saturating_sub(super::SLEEP),
                    info: published.info.clone(),
                };
                seen.keepers.insert(uid.clone(), observed);
            }
            if keeper.is_alive(self.now) {
                seen.liveness_keys.insert(uid, keeper.boot_uid());
            }
        }
        for info in self.proxies.iter().filter_map(|proxy| proxy.info.clone()) {
            let observed = Observed {
                key: info.uid.to_string(),
                revision: 1,
                age: Duration::ZERO,
                info,
            };
            seen.proxies.insert(observed.info.uid.clone(), observed);
        }
        seen
    }

    /// Returns the revision of a keeper's info in the store.
    pub(super) fn info_revision(&self, uid: &KeeperUid) -> Option<i64> {
        let published = self.keeper(uid)?.published(self.now)?;
        Some(published.revision)
    }

    pub(super) fn store_is_down(&self) -> bool {
        self.now < self.store_up_at
    }

    /// Advances the clock by a tick.
    pub(super) fn advance_clock(&mut self) {
        self.now = self.now + TICK;
    }

    /// Returns the index of the keeper whose db is master.
    pub(super) fn master_keeper(&self) -> Option<usize> {
        let master = self.data.dbs().get(self.data.master_uid()?)?;
        let keepers = &mut self.keepers.iter();
        keepers.position(|keeper| keeper.uid() == master.spec.keeper_uid)
    }

    /// Whether there is a running master and every running proxy forwards to it.
    pub(super) fn serves(&self) -> bool {
        let Some(master) = self.master_keeper().map(|index| &self.keepers[index]) else {
            return false;
        };
        let uid = self.data.master_uid();
        let mut running = self.proxies.iter().filter(|proxy| proxy.runs);
        master.runs && master.running && running.all(|proxy| proxy.route() == uid)
    }

    fn keeper(&self, uid: &KeeperUid) -> Option<&SimKeeper> {
        self.keepers.iter().find(|keeper| keeper.uid() == *uid)
    }
}
