//! A simulated cluster controlled by the planner: keepers, proxies and a store that behave like the real ones, and fail
//! on demand. `world` has all processes but the sentinel, `checks` the invariants.

mod checks;
mod keeper;
mod orders;
mod proxy;
mod sentinel;
mod world;

use std::time::Duration;

use base::clock::Boottime;
use model::{ClusterData, ClusterSpec, ClusterUid, GoDuration, Timestamp};

use self::keeper::{SimKeeper, keeper_uid};
use self::proxy::SimProxy;
use self::sentinel::SimSentinel;
use self::world::World;
use super::cluster::{NOW, spec};
use crate::Plan;

/// The time step of the simulation.
pub(super) const TICK: Duration = Duration::from_millis(100);
pub(super) const SLEEP: Duration = Duration::from_secs(1);
pub(super) const FAIL: Duration = Duration::from_secs(4);
pub(super) const PROXY_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// Longest time between two publications of a keeper's info.
const PUBLISH: Duration = Duration::from_secs(1);
/// How long a keeper's info stays in the store.
const INFO_LEASE: Duration = SLEEP.saturating_mul(20);

/// An event in the simulation.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Nothing, for this many ticks.
    Wait(u32),
    /// A keeper and its instance are killed.
    KillKeeper(usize),
    /// The master's keeper and its instance are killed.
    KillMaster,
    /// The first keeper with a standby in sync and its instance are killed.
    KillInSync,
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
    /// The operator turns synchronous replication on, with these limits of standbys.
    Synchronous(u16, u16),
    /// The operator turns it off.
    Asynchronous,
    /// `stolonctl failover` to this keeper.
    Failover(usize),
    /// `stolonctl switchover` to this keeper, or to any if there is no such keeper.
    Switchover(usize),
    /// A standby goes on streaming and receives nothing.
    Lag(usize),
    /// It receives again.
    CatchUp(usize),
}

/// A change of the master.
#[derive(Debug, Clone, Copy)]
pub(super) struct MasterChange {
    pub(super) at: Boottime,
    /// Whether the previous master served clients.
    pub(super) former_served: bool,
}

/// The cluster and its sentinel.
#[derive(Debug, Clone)]
pub(super) struct Simulation {
    world: World,
    sentinel: SimSentinel,
}

impl Simulation {
    /// Returns a new cluster with this many keepers and proxies. The keepers in `old` are those of Go stolon.
    pub(super) fn new(keepers: usize, old: &[usize], proxies: usize) -> Self {
        let mut stored = spec();
        stored.sleep_interval = Some(GoDuration::from(SLEEP));
        stored.fail_interval = Some(GoDuration::from(FAIL));
        stored.proxy_check_interval = Some(GoDuration::from_secs(1));
        stored.proxy_timeout = Some(GoDuration::from(PROXY_TIMEOUT));
        let data = ClusterData::initial(ClusterUid::from("sim"), Timestamp::from_unix_nanos(0), stored);
        let keeper = |index| SimKeeper::new(index, !old.contains(&index));
        let keepers = (0..keepers).map(keeper).collect();
        let proxies = (0..proxies).map(SimProxy::new).collect();
        Self {
            world: World::new(data, keepers, proxies, NOW),
            sentinel: SimSentinel::new(NOW),
        }
    }

    pub(super) fn apply(&mut self, event: &Event) {
        let (master, in_sync) = (self.master(), self.in_sync().first().copied());
        let Self { world, sentinel } = self;
        let count = world.keepers.len();
        match *event {
            Event::Wait(ticks) => self.ticks(ticks),
            Event::KillKeeper(index) => world.keepers[index % count].kill(),
            Event::KillMaster => master.into_iter().for_each(|index| world.keepers[index].kill()),
            Event::KillInSync => in_sync.into_iter().for_each(|index| world.keepers[index].kill()),
            Event::StartKeeper(index) => world.keepers[index % count].start(),
            Event::StopKeeper(index) => world.stop_keeper(index % count),
            Event::FailInstance(index) => {
                let keeper = &mut world.keepers[index % count];
                (keeper.failing, keeper.running) = (true, false);
            }
            Event::RepairInstance(index) => world.keepers[index % count].failing = false,
            Event::Write(bytes) => {
                if let Some(master) = world.master_keeper() {
                    world.keepers[master].write(bytes);
                }
            }
            Event::ResumeProxy(index) => world
                .proxies
                .get_mut(index)
                .into_iter()
                .for_each(|proxy| proxy.runs = true),
            Event::PauseProxy(index) => world
                .proxies
                .get_mut(index)
                .into_iter()
                .for_each(|proxy| proxy.runs = false),
            Event::NewLeader => sentinel.replace(),
            Event::StoreOutage(ticks) => {
                world.store_up_at = world.now + TICK * ticks;
                self.ticks(ticks + 1);
            }
            Event::SlowReads(ticks) => sentinel.reads_take = ticks,
            Event::SlowWrites(ticks) => sentinel.writes_take = ticks,
            Event::LostAnswers(count) => sentinel.lost_answers += count,
            Event::KeepersUnreachable(ticks) => {
                world.keepers_reachable_at = world.now + TICK * ticks;
                self.ticks(ticks);
            }
            Event::Conflicts(count) => sentinel.conflicts += count,
            Event::FailKeeper(index) => {
                if let Some(keeper) = world.data.keepers_mut().get_mut(&keeper_uid(index % count)) {
                    keeper.status.force_fail = true;
                }
            }
            Event::RemoveKeeper(index) => world.remove_keeper(&keeper_uid(index % count)),
            Event::Synchronous(min, max) => {
                let spec = self.spec_mut();
                spec.synchronous_replication = Some(true);
                spec.min_synchronous_standbys = Some(min.min(max));
                spec.max_synchronous_standbys = Some(max);
            }
            Event::Asynchronous => self.spec_mut().synchronous_replication = Some(false),
            Event::Lag(index) => world.keepers[index % count].lags = true,
            Event::CatchUp(index) => world.keepers[index % count].lags = false,
            Event::Switchover(index) => world.request_switchover((index < count).then(|| keeper_uid(index))),
            Event::Failover(index) => world.request_failover(keeper_uid(index % count)),
            Event::Standbys(wanted) => self.spec_mut().max_standbys_per_sender = Some(wanted.clamp(1, 4)),
        }
    }

    /// Advances time by a tenth of a second: every process acts once, the sentinel last.
    pub(super) fn tick(&mut self) {
        let Self { world, sentinel } = self;
        world.advance_clock();
        if world.store_is_down() {
            return;
        }
        world.run();
        world.record_acknowledged();
        sentinel.run(world);
        sentinel.broken.extend(world.lost());
        world.served |= world.serves();
    }

    fn ticks(&mut self, count: u32) {
        (0..count).for_each(|_| self.tick());
    }

    /// Advances time until the condition holds. Returns how long it took; none if it did not within `limit`.
    pub(super) fn until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now();
        while !condition(self) {
            if self.now().since(began) > limit {
                return None;
            }
            self.tick();
        }
        Some(self.now().since(began))
    }

    /// Advances time until the cluster serves and all keepers' dbs are healthy and converged.
    #[track_caller]
    pub(super) fn until_steady(&mut self) {
        let keepers = self.world.keepers.len();
        let settled = self.until(MINUTE, |simulation| {
            simulation.serves() && simulation.good_dbs() == keepers
        });
        assert!(settled.is_some(), "{:#?}", self.last());
    }

    pub(super) fn now(&self) -> Boottime {
        self.world.now
    }

    /// Returns the stored cluster data.
    pub(super) fn data(&self) -> &ClusterData {
        &self.world.data
    }

    /// Returns the stored spec.
    pub(super) fn spec_mut(&mut self) -> &mut ClusterSpec {
        let cluster = self.world.data.cluster.as_mut().unwrap();
        cluster.spec.as_mut().unwrap()
    }

    /// Returns whether there is a running master and every running proxy forwards to it.
    pub(super) fn serves(&self) -> bool {
        self.world.serves()
    }

    /// Returns the index of the keeper whose db is master.
    pub(super) fn master(&self) -> Option<usize> {
        self.world.master_keeper()
    }

    /// Returns the indices of the keepers whose dbs are known to be in sync with the master.
    pub(super) fn in_sync(&self) -> Vec<usize> {
        let data = &self.world.data;
        let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
        let known = master.and_then(|master| master.status.synchronous_standbys.clone());
        let known = known.unwrap_or_default();
        let keepers = self.world.keepers.iter().enumerate();
        keepers
            .filter(|(_, keeper)| known.iter().any(|uid| keeper.has_db(uid.as_str())))
            .map(|(index, _)| index)
            .collect()
    }

    /// Returns whether there is a request for a switchover, or an order.
    pub(super) fn has_switchover(&self) -> bool {
        let world = &self.world;
        world.switchover_request().is_some() || !world.orders.observed(0, world.now).is_empty()
    }

    /// Returns whether the instance of the master is stopped on an order.
    pub(super) fn is_master_stopped(&self) -> bool {
        let master = self.master().map(|index| &self.world.keepers[index]);
        master.is_some_and(|keeper| keeper.runs && !keeper.running && keeper.info().stopped.is_some())
    }

    /// Returns the number of healthy and converged dbs.
    pub(super) fn good_dbs(&self) -> usize {
        let dbs = self.world.data.dbs().values();
        dbs.filter(|db| db.status.healthy && db.status.current_generation == db.generation)
            .count()
    }

    /// Returns every change of the master, but for the first one.
    pub(super) fn elections(&self) -> &[MasterChange] {
        &self.world.elections
    }

    /// Returns the last plan that had not to be written, or has been.
    pub(super) fn last(&self) -> Option<&Plan> {
        self.sentinel.last.as_ref()
    }

    /// Returns every invariant of several writes that was broken.
    pub(super) fn broken(&self) -> &[String] {
        &self.sentinel.broken
    }
}
