//! A simulated cluster controlled by the planner: keepers, proxies and a store that behave like the real ones, and fail
//! on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cluster::{NOW, spec};
use crate::{Condition, Entropy, Memory, Observations, Observed, Plan, PlanError, PlanInput, Urgency};
use crate::{memory_after_failed_round, plan};
use base::clock::Boottime;
use model::{
    BootUuid, CheckedClusterData, ClusterData, ClusterUid, DbUid, GoDuration, KeeperInfo, KeeperUid, LIVENESS_TTL, Lsn,
    PostgresState, ProxyInfo, ProxyUid, Role, Stopped, TimelineHistory, Timestamp,
};

/// The time step of the simulation.
pub(super) const TICK: Duration = Duration::from_millis(100);
const PUBLISH: Duration = Duration::from_secs(1);

/// An event in the simulation.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Nothing, for this many ticks.
    Wait(u32),
    /// A keeper and its instance are killed.
    KillKeeper(usize),
    /// A keeper starts again; its instance is stopped.
    StartKeeper(usize),
    /// A keeper shuts down in order.
    StopKeeper(usize),
    /// An instance fails, and its keeper cannot start it.
    FailInstance(usize),
    /// It can be started again.
    RepairInstance(usize),
    /// The master writes this many bytes.
    Write(u32),
    /// A proxy starts, or continues after a pause.
    ResumeProxy(usize),
    /// A proxy is paused.
    PauseProxy(usize),
    /// Another sentinel becomes leader.
    NewLeader,
    /// The store is unreachable for this many ticks.
    StoreOutage(u32),
    /// From now on the sentinel's reads take this many ticks; its writes are based on what it read.
    SlowReads(u32),
    /// From now on the sentinel's writes arrive after half of this many ticks, and the responses after all of them.
    SlowWrites(u32),
    /// The responses to this many of the sentinel's next writes are lost; the writes are executed.
    LostAnswers(u32),
    /// The store responds, but no keeper reaches it for this many ticks.
    KeepersUnreachable(u32),
    /// The next writes of the sentinel fail, this many.
    Conflicts(u32),
    /// `stolonctl failkeeper`
    FailKeeper(usize),
    /// `stolonctl removekeeper`, refused for the master's.
    RemoveKeeper(usize),
    /// The operator sets the number of standbys.
    Standbys(u16),
}

/// One keeper and its instance.
#[derive(Debug, Clone)]
struct SimKeeper {
    /// It renews a liveness key and stops old masters; a keeper of Go stolon does not.
    own: bool,
    runs: bool,
    failing: bool,
    boot: u32,
    published: Option<(Boottime, KeeperInfo)>,
    alive_at: Option<Boottime>,
    /// The db whose data it has, and the generation applied.
    data: Option<(DbUid, i64)>,
    copying: u32,
    stopped: Option<Stopped>,
    leaving: bool,
    primary: bool,
    running: bool,
    timeline: u64,
    at: u64,
    history: Vec<TimelineHistory>,
}

/// One fenced proxy.
#[derive(Debug, Clone)]
struct SimProxy {
    runs: bool,
    info: Option<ProxyInfo>,
    /// The db it forwards to, and until when.
    route: Option<(DbUid, Boottime)>,
}

/// The cluster and its sentinel.
#[derive(Debug, Clone)]
pub(super) struct Simulation {
    pub(super) data: ClusterData,
    pub(super) now: Boottime,
    keepers: Vec<SimKeeper>,
    proxies: Vec<SimProxy>,
    memory: Memory,
    leadership: u64,
    store_up_at: Boottime,
    keepers_reachable_at: Boottime,
    reads_take: u32,
    reading: Option<PendingRead>,
    writes_take: u32,
    writing: Option<PendingWrite>,
    lost_answers: u32,
    /// Duration of the last write, until the next read.
    own_requests: Duration,
    /// Every change of the master, but for the first one, and whether the one before served in between.
    pub(super) elections: Vec<MasterChange>,
    served: bool,
    read_again_at: Boottime,
    revision: i64,
    revisions: BTreeMap<KeeperUid, i64>,
    uids: u32,
    refresh_at: Boottime,
    conflicts: u32,
    pub(super) last: Option<Plan>,
    /// Every invariant of several writes that was broken.
    pub(super) broken: Vec<String>,
}

/// A read of the sentinel in flight.
#[derive(Debug, Clone)]
struct PendingRead {
    sent: Boottime,
    answered_at: Boottime,
    data: ClusterData,
    seen: Observations,
}

/// A write of the sentinel in flight.
#[derive(Debug, Clone)]
struct PendingWrite {
    sent: Boottime,
    arrives_at: Boottime,
    answered_at: Boottime,
    read: ClusterData,
    plan: Plan,
    memory_after_failed_round: Memory,
    /// Whether its conditions held when it arrived.
    done: Option<bool>,
}

/// A change of the master.
#[derive(Debug, Clone, Copy)]
pub(super) struct MasterChange {
    pub(super) at: Boottime,
    /// Whether the previous master served clients.
    pub(super) former_served: bool,
}

pub(super) const SLEEP: Duration = Duration::from_secs(1);
pub(super) const FAIL: Duration = Duration::from_secs(4);
pub(super) const PROXY_TIMEOUT: Duration = Duration::from_secs(3);

fn keeper_uid(index: usize) -> KeeperUid {
    KeeperUid::from(format!("k{index}"))
}

impl Simulation {
    /// Returns a new cluster with this many keepers and proxies. The keepers in `old` are those of Go stolon.
    pub(super) fn new(keepers: usize, old: &[usize], proxies: usize) -> Self {
        let mut stored = spec();
        stored.sleep_interval = Some(GoDuration::from(SLEEP));
        stored.fail_interval = Some(GoDuration::from(FAIL));
        stored.proxy_check_interval = Some(GoDuration::from_secs(1));
        stored.proxy_timeout = Some(GoDuration::from(PROXY_TIMEOUT));
        let keeper = |index| SimKeeper {
            own: !old.contains(&index),
            runs: true,
            failing: false,
            boot: 1,
            published: None,
            alive_at: None,
            data: None,
            copying: 0,
            stopped: None,
            leaving: false,
            primary: false,
            running: false,
            timeline: 0,
            at: 0,
            history: Vec::new(),
        };
        Self {
            data: ClusterData::initial(ClusterUid::from("sim"), Timestamp::from_unix_nanos(0), stored),
            now: NOW,
            keepers: (0..keepers).map(keeper).collect(),
            proxies: vec![
                SimProxy {
                    runs: true,
                    info: None,
                    route: None
                };
                proxies
            ],
            memory: Memory::default(),
            leadership: 1,
            store_up_at: NOW,
            keepers_reachable_at: NOW,
            reads_take: 0,
            reading: None,
            writes_take: 0,
            writing: None,
            lost_answers: 0,
            own_requests: Duration::ZERO,
            elections: Vec::new(),
            served: false,
            read_again_at: NOW,
            revision: 1,
            revisions: BTreeMap::new(),
            uids: 0,
            refresh_at: NOW,
            conflicts: 0,
            last: None,
            broken: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, event: &Event) {
        let count = self.keepers.len();
        match *event {
            Event::Wait(ticks) => (0..ticks).for_each(|_| self.tick()),
            Event::KillKeeper(index) => {
                let keeper = &mut self.keepers[index % count];
                (keeper.runs, keeper.running) = (false, false);
            }
            Event::StartKeeper(index) => {
                let keeper = &mut self.keepers[index % count];
                if !keeper.runs {
                    keeper.runs = true;
                    keeper.boot += 1;
                    (keeper.leaving, keeper.stopped, keeper.copying) = (false, None, 0);
                }
            }
            Event::StopKeeper(index) => self.leave(index % count),
            Event::FailInstance(index) => {
                let keeper = &mut self.keepers[index % count];
                (keeper.failing, keeper.running) = (true, false);
            }
            Event::RepairInstance(index) => self.keepers[index % count].failing = false,
            Event::Write(bytes) => {
                if let Some(master) = self.master_keeper().filter(|index| self.keepers[*index].running) {
                    self.keepers[master].at += u64::from(bytes);
                }
            }
            Event::ResumeProxy(index) => {
                if let Some(proxy) = self.proxies.get_mut(index) {
                    proxy.runs = true;
                }
            }
            Event::PauseProxy(index) => {
                if let Some(proxy) = self.proxies.get_mut(index) {
                    proxy.runs = false;
                }
            }
            Event::NewLeader => {
                self.leadership += 1;
                self.memory = Memory::default();
                // rejected when it arrives later: the election key has changed
                self.writing = None;
            }
            Event::StoreOutage(ticks) => {
                self.store_up_at = self.now + TICK * ticks;
                (0..=ticks).for_each(|_| self.tick());
            }
            Event::SlowReads(ticks) => self.reads_take = ticks,
            Event::SlowWrites(ticks) => self.writes_take = ticks,
            Event::LostAnswers(count) => self.lost_answers += count,
            Event::KeepersUnreachable(ticks) => {
                self.keepers_reachable_at = self.now + TICK * ticks;
                (0..ticks).for_each(|_| self.tick());
            }
            Event::Conflicts(count) => self.conflicts += count,
            Event::FailKeeper(index) => {
                if let Some(keeper) = self.data.keepers_mut().get_mut(&keeper_uid(index % count)) {
                    keeper.status.force_fail = true;
                }
            }
            Event::RemoveKeeper(index) => self.remove_keeper(&keeper_uid(index % count)),
            Event::Standbys(wanted) => {
                let cluster = self.data.cluster.as_mut().unwrap();
                cluster.spec.as_mut().unwrap().max_standbys_per_sender = Some(wanted.clamp(1, 4));
            }
        }
    }

    fn leave(&mut self, index: usize) {
        let away = self.store_is_down();
        let keeper = &mut self.keepers[index];
        if !keeper.runs {
            return;
        }
        keeper.leaving = keeper.own;
        if keeper.running && keeper.own {
            let lsn = Some(Lsn(keeper.at));
            keeper.stopped = Some(Stopped {
                clean: true,
                lsn,
                timeline_id: keeper.timeline,
            });
        }
        keeper.running = false;
        if !away {
            self.follow_master(index);
            self.keeper_publishes(index);
        }
        let keeper = &mut self.keepers[index];
        keeper.runs = false;
        keeper.alive_at = None;
    }

    fn remove_keeper(&mut self, uid: &KeeperUid) {
        let db = self.data.db_of_keeper(uid).map(|(uid, _)| uid.clone());
        if db.is_some() && db.as_ref() == self.data.master_uid() {
            return;
        }
        self.data.keepers_mut().remove(uid);
        if let Some(db) = db {
            self.data.dbs_mut().remove(&db);
        }
    }

    fn store_is_down(&self) -> bool {
        self.now < self.store_up_at
    }

    fn master_keeper(&self) -> Option<usize> {
        let master = self.data.dbs().get(self.data.master_uid()?)?;
        (0..self.keepers.len()).find(|index| keeper_uid(*index) == master.spec.keeper_uid)
    }

    /// Advances time by a tenth of a second: every process acts once, the sentinel last.
    pub(super) fn tick(&mut self) {
        self.now = self.now + TICK;
        if self.store_is_down() {
            return;
        }
        let reachable = self.now > self.keepers_reachable_at;
        for index in 0..self.keepers.len() {
            if reachable && self.keepers[index].runs {
                self.run_keeper(index);
            }
        }
        for index in 0..self.proxies.len() {
            if self.proxies[index].runs {
                self.run_proxy(index);
            }
        }
        self.run_sentinel();
        self.served |= self.serves();
    }

    fn run_keeper(&mut self, index: usize) {
        let uid = keeper_uid(index);
        let before = self.info_of(index);
        let acknowledged = self
            .data
            .keepers()
            .get(&uid)
            .map(|keeper| keeper.status.boot_uuid.clone());
        let db = self.data.db_of_keeper(&uid).map(|(_, db)| db.clone());
        match db {
            Some(db) if acknowledged == Some(self.boot_of(index)) => self.converge(index, &db),
            _ => self.keepers[index].running = false,
        }
        let now = self.now;
        let keeper = &mut self.keepers[index];
        keeper.alive_at = keeper.own.then_some(now);
        let stale = keeper
            .published
            .as_ref()
            .is_none_or(|(at, _)| now.since(*at) >= PUBLISH);
        let mut after = self.info_of(index);
        after.info_uid = before.info_uid.clone();
        if stale || (after != before && self.keepers[index].own) {
            self.keeper_publishes(index);
        }
    }

    fn boot_of(&self, index: usize) -> BootUuid {
        BootUuid::from(format!("{}-{}", index, self.keepers[index].boot))
    }

    /// Applies a db's spec to a keeper's instance (keeper 4, with I20).
    fn converge(&mut self, index: usize, db: &model::Db) {
        let is_master = self.data.master_uid() == Some(&db.uid);
        let keeper = &mut self.keepers[index];
        if keeper.data.as_ref().is_none_or(|(held, _)| *held != db.uid) {
            keeper.running = false;
            if db.spec.role == Role::Master {
                *keeper = SimKeeper {
                    data: Some((db.uid.clone(), 0)),
                    timeline: 1,
                    at: 1_000,
                    history: Vec::new(),
                    primary: true,
                    ..keeper.clone()
                };
            } else {
                keeper.copying += 1;
                if keeper.copying < 5 {
                    keeper.data = keeper.data.take().filter(|_| false);
                    return;
                }
                keeper.copying = 0;
                let source = self.master_keeper().filter(|master| self.keepers[*master].running);
                let Some(source) = source.map(|master| self.keepers[master].clone()) else {
                    return;
                };
                let keeper = &mut self.keepers[index];
                keeper.data = Some((db.uid.clone(), 0));
                (keeper.timeline, keeper.at) = (source.timeline, source.at);
                keeper.history = source.history;
                keeper.primary = false;
            }
        }
        let keeper = &mut self.keepers[index];
        if keeper.failing {
            keeper.running = false;
            return;
        }
        let held = db.uid.clone();
        match db.spec.role {
            Role::Master if is_master || !keeper.own => {
                if !keeper.primary {
                    let left = TimelineHistory {
                        timeline_id: keeper.timeline,
                        switch_point: Lsn(keeper.at),
                        reason: String::new(),
                    };
                    keeper.history.push(left);
                    keeper.timeline += 1;
                    keeper.at += 100;
                    keeper.primary = true;
                }
                keeper.running = true;
                keeper.stopped = None;
            }
            Role::Master => {
                if keeper.running || keeper.stopped.is_none() {
                    let lsn = Some(Lsn(keeper.at));
                    keeper.stopped = Some(Stopped {
                        clean: true,
                        lsn,
                        timeline_id: keeper.timeline,
                    });
                }
                keeper.running = false;
                return;
            }
            _ if keeper.primary => return,
            _ => {
                keeper.running = true;
                keeper.stopped = None;
                self.follow_master(index);
            }
        }
        self.keepers[index].data = Some((held, db.generation));
    }

    /// A standby receives its master's WAL, if it is on the master's branch.
    fn follow_master(&mut self, index: usize) {
        for index in (0..self.keepers.len()).filter(|other| *other != index).chain([index]) {
            let uid = keeper_uid(index);
            let Some((_, db)) = self.data.db_of_keeper(&uid) else {
                continue;
            };
            let followed = db.spec.follow_config.as_ref().map(|follow| follow.db_uid.clone());
            let followed = followed.and_then(|uid| self.data.dbs().get(&uid));
            let source = followed.and_then(|followed| {
                (0..self.keepers.len()).find(|other| keeper_uid(*other) == followed.spec.keeper_uid)
            });
            let Some(source) = source.map(|source| self.keepers[source].clone()) else {
                continue;
            };
            let stopping = source.stopped.is_some() && source.leaving;
            let keeper = &mut self.keepers[index];
            if keeper.primary || !keeper.running || !(source.running || stopping) {
                continue;
            }
            let left = source.history.iter().find(|entry| entry.timeline_id == keeper.timeline);
            let same = source.timeline == keeper.timeline;
            if (same || left.is_some_and(|left| left.switch_point.0 >= keeper.at)) && source.at >= keeper.at {
                (keeper.timeline, keeper.at) = (source.timeline, source.at);
                keeper.history = source.history;
            }
        }
    }

    fn info_of(&self, index: usize) -> KeeperInfo {
        let keeper = &self.keepers[index];
        let state = PostgresState {
            uid: keeper.data.as_ref().map(|(uid, _)| uid.clone()).unwrap_or_default(),
            generation: keeper
                .data
                .as_ref()
                .map(|(_, generation)| *generation)
                .unwrap_or_default(),
            healthy: keeper.running,
            system_id: "7".to_owned(),
            timeline_id: keeper.timeline,
            xlog_pos: Lsn(keeper.at),
            timelines_history: keeper.history.iter().rev().take(2).rev().cloned().collect(),
            ..PostgresState::default()
        };
        KeeperInfo {
            info_uid: "".into(),
            uid: keeper_uid(index),
            cluster_uid: ClusterUid::from("sim"),
            boot_uuid: self.boot_of(index),
            postgres_state: Some(state),
            liveness_key: keeper.own,
            leaving: keeper.leaving,
            stopped: keeper.stopped.clone().filter(|_| keeper.own),
            ..KeeperInfo::default()
        }
    }

    fn keeper_publishes(&mut self, index: usize) {
        self.revision += 1;
        let mut info = self.info_of(index);
        info.info_uid = self.revision.to_string().as_str().into();
        self.revisions.insert(keeper_uid(index), self.revision);
        self.keepers[index].published = Some((self.now, info));
    }

    /// One check-in (fencing F-1, F-2), every tick, because a watch wakes the proxy.
    fn run_proxy(&mut self, index: usize) {
        let uid = ProxyUid::from(format!("p{index}"));
        let section = self.data.proxy.clone().unwrap_or_default();
        self.revision += 1;
        self.proxies[index].info = Some(ProxyInfo {
            info_uid: self.revision.to_string().as_str().into(),
            uid: uid.clone(),
            generation: section.generation,
            proxy_timeout: GoDuration::from(PROXY_TIMEOUT).as_nanos(),
            fenced: true,
            stopped: false,
        });
        let enabled = !section.spec.master_db_uid.is_empty() && section.spec.enabled_proxies.contains(&uid);
        self.proxies[index].route = enabled.then(|| (section.spec.master_db_uid, self.now + PROXY_TIMEOUT));
    }

    fn observations(&self) -> Observations {
        let mut seen = Observations::default();
        for (index, keeper) in self.keepers.iter().enumerate() {
            let uid = keeper_uid(index);
            if let Some((at, info)) = keeper
                .published
                .as_ref()
                .filter(|(at, _)| self.now.since(*at) < 20 * SLEEP)
            {
                let revision = self.revisions[&uid];
                let age = self.now.since(*at).saturating_sub(SLEEP);
                seen.keepers.insert(
                    uid.clone(),
                    Observed {
                        key: uid.to_string(),
                        revision,
                        age,
                        info: info.clone(),
                    },
                );
            }
            if keeper.alive_at.is_some_and(|at| self.now.since(at) < LIVENESS_TTL) {
                seen.liveness_keys.insert(uid, self.boot_of(index));
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

    /// Reads, and decides when the response arrives; the next read is sent after sleepInterval at most. While a write
    /// is in flight nothing else is sent.
    fn run_sentinel(&mut self) {
        self.advance_write();
        if self.writing.is_some() {
            return;
        }
        if self.reading.is_none() && (self.reads_take == 0 || self.now >= self.read_again_at) {
            self.reading = Some(PendingRead {
                sent: self.now,
                answered_at: self.now + TICK * self.reads_take,
                data: self.data.clone(),
                seen: self.observations(),
            });
        }
        let Some(PendingRead {
            sent, data, mut seen, ..
        }) = self.reading.take_if(|read| read.answered_at <= self.now)
        else {
            return;
        };
        seen.latency = self.now.since(sent);
        seen.own_requests = std::mem::take(&mut self.own_requests);
        self.decide(data, &seen);
        let wake = self.last.as_ref().and_then(|plan| plan.wake_at);
        self.read_again_at = wake.map_or(self.now + SLEEP, |wake| wake.min(self.now + SLEEP));
        self.advance_write();
    }

    /// Executes the write once it has arrived, and processes its response.
    fn advance_write(&mut self) {
        let Some(mut writing) = self.writing.take() else { return };
        if writing.done.is_none() && writing.arrives_at <= self.now {
            writing.done = Some(self.apply_write(&writing));
        }
        let Some(done) = writing.done.filter(|_| writing.answered_at <= self.now) else {
            self.writing = Some(writing);
            return;
        };
        self.own_requests = self.now.since(writing.sent);
        if self.lost_answers > 0 {
            self.lost_answers -= 1;
            self.memory = writing
                .memory_after_failed_round
                .keeping_election_of(&writing.plan.memory);
        } else if done {
            self.memory = writing.plan.memory.clone();
            self.refresh_at = self.now + SLEEP;
            self.last = Some(writing.plan);
        } else {
            self.memory = writing.memory_after_failed_round;
        }
    }

    /// Executes a write if its conditions hold. Returns whether they did.
    fn apply_write(&mut self, writing: &PendingWrite) -> bool {
        let holds = |condition: &Condition| {
            let Condition::KeeperInfo { key, revision } = condition;
            let uid = KeeperUid::from(key.as_str());
            self.info_exists(&uid).then(|| self.revisions[&uid]) == *revision
        };
        if self.conflicts > 0 {
            self.conflicts -= 1;
            return false;
        }
        if self.data != writing.read || !writing.plan.conditions.iter().all(holds) {
            return false;
        }
        self.check_write(&writing.plan);
        let former = self.data.master_uid().cloned();
        self.data = writing.plan.next.clone();
        if former.is_some() && former.as_ref() != self.data.master_uid() {
            let (at, former_served) = (self.now, std::mem::take(&mut self.served));
            self.elections.push(MasterChange { at, former_served });
        }
        true
    }

    /// Returns whether this keeper's info exists in the store.
    fn info_exists(&self, uid: &KeeperUid) -> bool {
        (0..self.keepers.len())
            .filter(|index| keeper_uid(*index) == *uid)
            .any(|index| {
                let published = self.keepers[index].published.as_ref();
                published.is_some_and(|(at, _)| self.now.since(*at) < 20 * SLEEP)
            })
    }

    fn decide(&mut self, data: ClusterData, seen: &Observations) {
        let checked: CheckedClusterData = data.clone().check().unwrap();
        let wall = Timestamp::from_unix_nanos(i128::from(self.now.as_nanos()));
        let input = PlanInput {
            data: &checked,
            observations: seen,
            memory: &self.memory,
            leadership: self.leadership,
            now: self.now,
            wall,
        };
        let mut number = self.uids;
        let mut uid = || {
            number += 1;
            format!("d{number}")
        };
        let outcome = plan(
            &input,
            &mut Entropy {
                uid: &mut uid,
                number: 0,
            },
        );
        let memory_after_failed_round = memory_after_failed_round(&input);
        self.uids = number;
        match outcome {
            Ok(plan) => {
                if plan.urgency == Urgency::Immediate || self.now >= self.refresh_at {
                    self.writing = Some(PendingWrite {
                        sent: self.now,
                        arrives_at: self.now + TICK * (self.writes_take / 2),
                        answered_at: self.now + TICK * self.writes_take,
                        read: data,
                        plan,
                        memory_after_failed_round,
                        done: None,
                    });
                } else {
                    self.memory = plan.memory.clone();
                    self.last = Some(plan);
                }
            }
            Err(PlanError::NoKeepers) => self.memory = memory_after_failed_round,
            Err(error) => self.broken.push(error.to_string()),
        }
    }

    /// Checks invariants over several writes, independently of the planner.
    fn check_write(&mut self, plan: &Plan) {
        let (old, new) = (
            self.data.proxy.clone().unwrap_or_default(),
            plan.next.proxy.clone().unwrap_or_default(),
        );
        let (was, is) = (old.spec.master_db_uid, new.spec.master_db_uid);
        if was.is_empty() && !is.is_empty() {
            for (index, proxy) in self.proxies.iter().enumerate() {
                if let Some((route, until)) = &proxy.route
                    && *route != is
                    && self.now <= *until
                {
                    let what = format!("{is} is announced while p{index} may forward to {route}");
                    self.broken.push(what);
                }
            }
        }
        let elected = self.data.master_uid() != plan.next.master_uid();
        let normal = self.data.cluster.as_ref().unwrap().status.phase == model::Phase::Normal;
        if elected && normal && was.is_empty() {
            let forwarding = |proxy: &&SimProxy| proxy.route.as_ref().is_some_and(|(_, until)| self.now <= *until);
            if let Some(proxy) = self.proxies.iter().find(forwarding) {
                self.broken.push(format!("an election while {proxy:?} may forward"));
            }
        }
        if elected && self.data.master_uid().is_some() && plan.next.master_uid().is_some() {
            let condition = |condition: &Condition| matches!(condition, Condition::KeeperInfo { .. });
            if !plan.conditions.iter().any(condition) {
                self.broken.push("an election on no condition".to_owned());
            }
        }
        let uids: BTreeSet<_> = plan.next.dbs().values().map(|db| &db.spec.keeper_uid).collect();
        if uids.len() != plan.next.dbs().len() {
            self.broken.push("two dbs on one keeper".to_owned());
        }
    }

    /// Advances time until the condition holds. Returns how long it took; none if it did not within `limit`.
    pub(super) fn until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        while !condition(self) {
            if self.now.since(began) > limit {
                return None;
            }
            self.tick();
        }
        Some(self.now.since(began))
    }

    /// Returns whether there is a running master and every running proxy forwards to it.
    pub(super) fn serves(&self) -> bool {
        let Some(master) = self.master_keeper().map(|index| &self.keepers[index]) else {
            return false;
        };
        let uid = self.data.master_uid();
        let mut running = self.proxies.iter().filter(|proxy| proxy.runs);
        master.runs && master.running && running.all(|proxy| proxy.route.as_ref().map(|(db, _)| db) == uid)
    }

    /// Returns the index of the keeper whose db is master.
    pub(super) fn master(&self) -> Option<usize> {
        self.master_keeper()
    }

    /// Returns the number of healthy and converged dbs.
    pub(super) fn good_dbs(&self) -> usize {
        let dbs = self.data.dbs().values();
        dbs.filter(|db| db.status.healthy && db.status.current_generation == db.generation)
            .count()
    }
}
