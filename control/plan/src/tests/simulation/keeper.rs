//! One keeper and its instance. What it reads of the cluster is passed in by `world`.

use std::collections::BTreeMap;

use base::clock::Boottime;
use model::{
    BootUuid, ClusterUid, Db, DbUid, KeeperInfo, KeeperOrder, KeeperUid, LIVENESS_TTL, Lsn, OrderKind, PostgresState,
    Role, Stopped, TimelineHistory,
};

use super::PUBLISH;

/// Ticks that a copy of the master's data takes.
const COPY_TICKS: u32 = 5;

/// One keeper and its instance.
#[derive(Debug, Clone)]
pub(super) struct SimKeeper {
    index: usize,
    /// It renews a liveness key and stops old masters; a keeper of Go stolon does not.
    pub(super) own: bool,
    pub(super) runs: bool,
    /// Its instance cannot be started.
    pub(super) failing: bool,
    boot: u32,
    published: Option<Published>,
    alive_at: Option<Boottime>,
    /// The db whose data it has, and the generation applied.
    data: Option<(DbUid, i64)>,
    copying: u32,
    stopped: Option<Stopped>,
    /// Its instance was stopped in order, and has not run since.
    is_clean: bool,
    leaving: bool,
    /// The ids of the switchovers whose orders it has carried out.
    stopping: String,
    checkpointed: String,
    /// Where that checkpoint ended.
    pub(super) checkpoint_at: u64,
    /// The standbys that are connected, and whether they have received that checkpoint.
    pub(super) checkpoint_received: BTreeMap<DbUid, bool>,
    primary: bool,
    /// Whether its instance runs.
    pub(super) running: bool,
    pub(super) timeline: u64,
    pub(super) at: u64,
    history: Vec<TimelineHistory>,
    /// It streams and receives nothing.
    pub(super) lags: bool,
    /// The standbys that commits wait for; none: they do not wait.
    pub(super) names: Option<Vec<String>>,
    /// Where the WAL ended when the names were set.
    pub(super) mark: u64,
    /// The standbys that it reports as in sync.
    pub(super) in_sync: Vec<DbUid>,
}

/// A keeper's info in the store.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) at: Boottime,
    pub(super) revision: i64,
    pub(super) info: KeeperInfo,
}

/// An order that a keeper reads, and whether a master is announced.
#[derive(Debug, Clone)]
pub(super) struct SimOrder {
    pub(super) order: KeeperOrder,
    pub(super) is_closed: bool,
}

pub(super) fn keeper_uid(index: usize) -> KeeperUid {
    KeeperUid::from(format!("k{index}"))
}

impl SimKeeper {
    /// Returns a running keeper without data.
    pub(super) fn new(index: usize, own: bool) -> Self {
        Self {
            index,
            own,
            runs: true,
            failing: false,
            boot: 1,
            published: None,
            alive_at: None,
            data: None,
            copying: 0,
            stopped: None,
            is_clean: false,
            leaving: false,
            stopping: String::new(),
            checkpointed: String::new(),
            checkpoint_at: 0,
            checkpoint_received: BTreeMap::new(),
            primary: false,
            running: false,
            timeline: 0,
            at: 0,
            history: Vec::new(),
            lags: false,
            names: None,
            mark: 0,
            in_sync: Vec::new(),
        }
    }

    pub(super) fn uid(&self) -> KeeperUid {
        keeper_uid(self.index)
    }

    pub(super) fn boot_uid(&self) -> BootUuid {
        BootUuid::from(format!("{}-{}", self.index, self.boot))
    }

    /// Kills the keeper and its instance.
    pub(super) fn kill(&mut self) {
        (self.runs, self.running) = (false, false);
    }

    /// Starts the keeper, unless it runs. Its instance is stopped.
    pub(super) fn start(&mut self) {
        if !self.runs {
            self.runs = true;
            self.boot += 1;
            (self.leaving, self.stopped, self.copying) = (false, None, 0);
            (self.stopping, self.checkpointed) = (String::new(), String::new());
        }
    }

    /// Stops the instance at the keeper's orderly end.
    pub(super) fn stop_to_leave(&mut self) {
        self.leaving = self.own;
        if self.running && self.own {
            self.stopped = Some(self.clean_stop());
            self.is_clean = true;
        }
        self.running = false;
    }

    /// Carries out an order about its master (extensions ). `is_closed`: no master is announced.
    fn carry_out(&mut self, order: &KeeperOrder, is_closed: bool) {
        match order.order {
            OrderKind::Checkpoint if self.is_running_master() && self.checkpointed != order.switchover => {
                self.checkpointed.clone_from(&order.switchover);
                self.checkpoint_at = self.at;
            }
            OrderKind::Stop if is_closed => {
                self.is_clean |= self.running;
                self.running = false;
                self.stopping.clone_from(&order.switchover);
                self.stopped = Some(if self.is_clean {
                    self.clean_stop()
                } else {
                    Stopped::default()
                });
            }
            _ => {}
        }
    }

    /// Ends the keeper after [`stop_to_leave`](Self::stop_to_leave).
    pub(super) fn leave(&mut self) {
        self.runs = false;
        self.alive_at = None;
    }

    /// The instance writes this much WAL, if it runs.
    pub(super) fn write(&mut self, bytes: u32) {
        if self.running {
            self.at += u64::from(bytes);
        }
    }

    /// Applies a db's spec to the instance (keeper 4, with I20); `copied` is the instance that a new standby copies.
    pub(super) fn converge(&mut self, db: &Db, is_master: bool, copied: Option<&Self>, order: Option<&SimOrder>) {
        if self.data.as_ref().is_none_or(|(held, _)| *held != db.uid) && !self.obtain_data(db, copied) {
            return;
        }
        if self.failing {
            self.running = false;
            return;
        }
        if let Some(SimOrder { order, is_closed }) = order.filter(|_| self.own && is_master) {
            if order.db == db.uid {
                self.carry_out(order, *is_closed);
            }
            // no permit to start or to promote (extensions)
            if !self.is_running_master() {
                return;
            }
        }
        match db.spec.role {
            Role::Master if is_master || !self.own => {
                let spec = &db.spec;
                let wanted = spec.synchronous_standbys.iter().flatten().map(ToString::to_string);
                let external = spec.external_synchronous_standbys.iter().flatten().cloned();
                let names = spec.synchronous_replication.then(|| wanted.chain(external).collect());
                let begins = !self.primary || !self.running;
                if !self.primary {
                    self.promote();
                }
                // after every start, promotion and change (synchronous SY-4)
                if begins || self.names != names {
                    (self.names, self.mark) = (names, self.at);
                }
                self.start_instance();
            }
            // The master of before.
            Role::Master => {
                if self.running || self.stopped.is_none() {
                    self.stopped = Some(self.clean_stop());
                    self.is_clean = true;
                }
                self.running = false;
                return;
            }
            _ if self.primary => return,
            _ => self.start_instance(),
        }
        self.data = Some((db.uid.clone(), db.generation));
    }

    fn start_instance(&mut self) {
        self.running = true;
        self.is_clean = false;
        self.stopped = None;
        self.stopping.clear();
    }

    /// Initialises the db's data, or copies them. Returns whether they are there.
    fn obtain_data(&mut self, db: &Db, copied: Option<&Self>) -> bool {
        self.running = false;
        if db.spec.role == Role::Master {
            (self.timeline, self.at) = (1, 1_000);
            self.history = Vec::new();
            self.primary = true;
        } else {
            self.copying += 1;
            if self.copying < COPY_TICKS {
                self.data = None;
                return false;
            }
            self.copying = 0;
            let Some(copied) = copied else {
                return false;
            };
            (self.timeline, self.at) = (copied.timeline, copied.at);
            self.history.clone_from(&copied.history);
            self.primary = false;
        }
        self.data = Some((db.uid.clone(), 0));
        true
    }

    fn promote(&mut self) {
        self.history.push(TimelineHistory {
            timeline_id: self.timeline,
            switch_point: Lsn(self.at),
            reason: String::new(),
        });
        self.timeline += 1;
        self.at += 100;
        self.primary = true;
    }

    fn clean_stop(&self) -> Stopped {
        Stopped {
            clean: true,
            lsn: Some(Lsn(self.at)),
            timeline_id: self.timeline,
        }
    }

    /// Whether the instance receives WAL from a master.
    pub(super) fn is_running_standby(&self) -> bool {
        self.running && !self.primary
    }

    /// The db whose data it has.
    pub(super) fn db(&self) -> Option<&DbUid> {
        self.data.as_ref().map(|(uid, _)| uid)
    }

    /// Whether it has the data of the db of this name.
    pub(super) fn has_db(&self, name: &str) -> bool {
        self.db().is_some_and(|uid| uid.as_str() == name)
    }

    /// Whether its instance accepts writes.
    pub(super) fn is_running_master(&self) -> bool {
        self.running && self.primary
    }

    /// Whether it streams from this master, though perhaps without receiving anything.
    pub(super) fn streams_from(&self, source: &Self) -> bool {
        self.runs && self.is_running_standby() && source.is_running_master() && self.timeline == source.timeline
    }

    /// Whether its data contain a position of a timeline.
    pub(super) fn contains(&self, timeline: u64, at: u64) -> bool {
        let left = self.history.iter().find(|entry| entry.timeline_id == timeline);
        let end = left.map_or(self.at, |left| left.switch_point.0);
        (timeline == self.timeline || left.is_some()) && at <= end
    }

    /// Receives the WAL of this master, if it sends and the data are on its branch.
    pub(super) fn follow(&mut self, source: &Self) {
        let is_ending = source.leaving || (!source.stopping.is_empty() && source.is_clean);
        let stopping = source.stopped.is_some() && is_ending;
        if self.lags || !self.is_running_standby() || !(source.running || stopping) {
            return;
        }
        let left = source.history.iter().find(|entry| entry.timeline_id == self.timeline);
        let same = source.timeline == self.timeline;
        if (same || left.is_some_and(|left| left.switch_point.0 >= self.at)) && source.at >= self.at {
            (self.timeline, self.at) = (source.timeline, source.at);
            self.history.clone_from(&source.history);
        }
    }

    pub(super) fn info(&self) -> KeeperInfo {
        let data = self.data.clone().unwrap_or_default();
        let state = PostgresState {
            uid: data.0,
            generation: data.1,
            healthy: self.running,
            system_id: "7".to_owned(),
            timeline_id: self.timeline,
            xlog_pos: Lsn(self.at),
            synchronous_standbys: self.is_running_master().then(|| self.in_sync.clone()),
            sync_marked: self.own && self.is_running_master() && self.names.is_some(),
            timelines_history: self.history.iter().rev().take(2).rev().cloned().collect(),
            ..PostgresState::default()
        };
        KeeperInfo {
            info_uid: "".into(),
            uid: self.uid(),
            cluster_uid: ClusterUid::from("sim"),
            boot_uuid: self.boot_uid(),
            postgres_state: Some(state),
            liveness_key: self.own,
            leaving: self.leaving,
            stopping: self.stopping.clone(),
            checkpointed: self.checkpointed.clone(),
            checkpoint_received: self.checkpoint_received.clone(),
            orders: self.own,
            stopped: self.stopped.clone().filter(|_| self.own),
            ..KeeperInfo::default()
        }
    }

    /// Renews the liveness key. Returns whether the info is to be published: because it is old, or has changed from
    /// `before`.
    pub(super) fn check_in(&mut self, before: &KeeperInfo, now: Boottime) -> bool {
        self.alive_at = self.own.then_some(now);
        let published = self.published.as_ref();
        let stale = published.is_none_or(|published| now.since(published.at) >= PUBLISH);
        stale || (self.own && self.info() != *before)
    }

    /// Publishes the info, as this revision of the store.
    pub(super) fn publish(&mut self, revision: i64, now: Boottime) {
        let mut info = self.info();
        info.info_uid = revision.to_string().as_str().into();
        let at = now;
        self.published = Some(Published { at, revision, info });
    }

    /// Returns the info in the store, if its lease has not ended.
    pub(super) fn published(&self, now: Boottime) -> Option<&Published> {
        let published = self.published.as_ref();
        published.filter(|published| now.since(published.at) < super::INFO_LEASE)
    }

    /// Whether the liveness key exists.
    pub(super) fn is_alive(&self, now: Boottime) -> bool {
        self.alive_at.is_some_and(|at| now.since(at) < LIVENESS_TTL)
    }
}
