//! Servers, replication, the proxy and its clients, and the claims on what clients see.

use super::log::Log;
use super::rules::{Change, Config};
use super::search::Next;
use super::world::{DBS, DEAD, FAKE, Info, KEEPERS, Keeper, Phase, Progress, Set, World, has};

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// A commit is acknowledged through the proxy before enough standbys have flushed it.
    S0,
    /// The published master lacks what was acknowledged or read through the proxy.
    S1,
    /// The old master acknowledges, after the publication of a new one, what that one lacks.
    S2,
    /// A member of E is not among the names that the running master waits for.
    Names,
}

/// The dbs of a set, by index.
pub(super) fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..KEEPERS).filter(move |index| has(set, *index))
}

impl World {
    /// The names with which a standby runs (SY-7).
    pub(super) fn standby_names(index: usize, config: &Config) -> Set {
        if config.keeper_has(index, Change::NamesAfterPromotion) {
            0
        } else {
            FAKE
        }
    }

    /// Whether a standby receives WAL from a master.
    pub(super) fn streams(&self, standby: usize, master: usize) -> bool {
        let (to, from) = (&self.keepers[standby], &self.keepers[master]);
        let connected = to.is_standby() && !to.is_stale && usize::from(to.follows) == master && from.is_serving();
        connected && to.log.is_prefix_of(from.log)
    }

    /// Returns the standbys that a master's server shows as in sync, and that have flushed its log up to `end`.
    pub(super) fn shown_in_sync(&self, master: usize, end: u8) -> Set {
        let shown = members(self.keepers[master].asked)
            .filter(|standby| self.streams(*standby, master) && self.keepers[*standby].log.end() >= end);
        shown.fold(0, |set, standby| set | 1 << standby)
    }

    /// R: the standbys that a keeper reports as in sync (SY-3).
    pub(super) fn reported_in_sync(&self, master: usize, config: &Config) -> Set {
        if config.keeper_has(master, Change::UnmarkedReports) {
            return self.shown_in_sync(master, 0);
        }
        let mark = self.keepers[master].mark;
        mark.map_or(0, |mark| self.shown_in_sync(master, mark))
    }

    /// Whether all of W are reported in sync after a start, so that clients may enter (SY-11).
    pub(super) fn gate_may_open(&self, master: usize, config: &Config) -> bool {
        let keeper = &self.keepers[master];
        let wanted = keeper.asked & (DBS | DEAD);
        let reported = if config.keeper_has(master, Change::GateWithoutMark) {
            self.shown_in_sync(master, 0)
        } else if let Some(mark) = keeper.mark {
            self.shown_in_sync(master, mark)
        } else {
            return false;
        };
        wanted & !reported == 0
    }

    /// Returns the end of what a master's processes have released: what all names in force have flushed.
    fn released(&self, master: usize) -> u8 {
        let keeper = &self.keepers[master];
        if keeper.in_force & (FAKE | DEAD) != 0 {
            return 0;
        }
        let flushed = members(keeper.in_force).map(|standby| {
            let streams = self.streams(standby, master);
            if streams { self.keepers[standby].log.end() } else { 0 }
        });
        flushed.min().unwrap_or(keeper.log.end())
    }

    /// Whether clients reach a server through the proxy.
    fn is_reached(&self, index: usize) -> bool {
        self.route.map(usize::from) == Some(index) && self.keepers[index].runs && !self.keepers[index].gate_closed
    }

    /// Releases commits, as soon as that is possible, notes what clients see, and drops what does not matter any more.
    /// Nothing depends on a later release: it can only acknowledge less.
    pub(super) fn settle(&mut self, config: &Config) -> Option<Violation> {
        let mut too_few = false;
        let before = self.acknowledged;
        for index in 0..KEEPERS {
            if !self.keepers[index].is_serving() {
                continue;
            }
            let (seen, log) = (self.keepers[index].visible, self.keepers[index].log);
            let released = self.released(index);
            if released <= seen {
                continue;
            }
            self.keepers[index].visible = released;
            if self.is_reached(index) {
                let writes = log.first(released).writes() & !log.first(seen).writes();
                too_few |= writes & !self.acknowledged & !self.flushed_by(config.min, index) != 0;
                self.acknowledged |= writes;
            }
        }
        if let Some(to) = self
            .route
            .map(usize::from)
            .filter(|to| config.with_reads && self.is_reached(*to))
        {
            let server = &self.keepers[to];
            let seen = if server.is_master { server.visible } else { Log::LONGEST };
            self.acknowledged |= server.log.first(seen).writes();
        }
        self.drop_unused();
        let lost = self.acknowledged & !self.master().log.writes() != 0;
        let by_master = self.route.is_none_or(|to| to == self.doc.master);
        if too_few && config.with_s0 {
            Some(Violation::S0)
        } else if self.doc.published && lost && (by_master || before == self.acknowledged) {
            Some(Violation::S1)
        } else if self.doc.published && lost {
            Some(Violation::S2)
        } else if config.check_names && !self.names_are_waited_for() {
            Some(Violation::Names)
        } else {
            None
        }
    }

    /// The writes that at least `count` others than the master have flushed.
    fn flushed_by(&self, count: u32, master: usize) -> u8 {
        let mut enough = 0;
        for write in (0..Log::WRITES).map(|number| 1 << number) {
            let others = self.keepers.iter().enumerate().filter(|(index, _)| *index != master);
            let copies = others.filter(|(_, other)| other.log.writes() & write != 0).count();
            if copies >= count as usize {
                enough |= write;
            }
        }
        enough
    }

    fn names_are_waited_for(&self) -> bool {
        let master = self.master();
        let electable = self.doc.known() & self.doc.wanted & DBS;
        !master.is_serving() || electable & !master.in_force == 0
    }

    /// Clears what nothing depends on any more, so that states that differ only in that are the same.
    fn drop_unused(&mut self) {
        for index in 0..KEEPERS {
            let is_master = index == self.doc.master();
            let is_master_type = has(self.doc.masters, index);
            let keeper = &mut self.keepers[index];
            if keeper.phase == Phase::Lost {
                *keeper = Keeper {
                    log: if is_master { keeper.log } else { Log::EMPTY },
                    info: if is_master_type { keeper.info } else { Info::NONE },
                    ..Keeper::LOST
                };
                continue;
            }
            if keeper.is_standby() {
                keeper.visible = 0;
            }
            if !is_master_type && keeper.progress == Progress::Idle {
                (keeper.recorded, keeper.mark) = (false, None);
            }
            if !is_master_type {
                keeper.info = Info::NONE;
            }
            keeper.stopping &= is_master;
            keeper.stopped_clean &= !keeper.runs && is_master_type;
        }
    }

    /// The steps of servers, of the proxy and of its clients.
    pub(super) fn server_steps(&self, index: usize, config: &Config, next: &mut Next) {
        let server = &self.keepers[index];
        if server.runs && server.asked != server.in_force {
            let mut world = *self;
            world.keepers[index].in_force = server.asked;
            next.add("has its names in force", index, world);
        }
        let source = usize::from(server.follows);
        if server.is_standby() && self.streams(index, source) && server.log != self.keepers[source].log {
            let mut world = *self;
            let to = &mut world.keepers[index];
            to.log = self.keepers[source].log.first(server.log.end() + 1);
            next.add("receives an entry", index, world);
        }
        if self.is_reached(index) && server.is_master && self.written < config.writes {
            let mut world = *self;
            world.written += 1;
            world.keepers[index].log = server.log.write(world.written);
            next.add("executes a client's write", index, world);
        }
    }

    /// A route closes late, after the cluster data name no master or another one.
    pub(super) fn proxy_steps(&self, next: &mut Next) {
        let published = self.doc.published.then_some(self.doc.master);
        if let Some(to) = self.route.filter(|_| self.route != published) {
            next.add("is no longer forwarded to", to.into(), Self { route: None, ..*self });
        }
        if let Some(to) = published.filter(|_| self.route.is_none()) {
            let route = Some(to);
            next.add("is forwarded to", to.into(), Self { route, ..*self });
        }
    }
}
