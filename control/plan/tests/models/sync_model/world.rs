//! One state of the model: the store, the keepers with their servers, the plans not written yet, and its packed form.
//! What can happen next is left to the other modules.

use super::log::Log;
use super::rules::{Config, Faults, Start};

pub(super) const KEEPERS: usize = 3;

/// A set of dbs, by the index of their keepers, a bit each, with [`FAKE`] and [`DEAD`].
pub(super) type Set = u8;

pub(super) const DBS: Set = 7;
/// The fake name, which no standby has.
pub(super) const FAKE: Set = 8;
/// Dbs that were removed: their keepers have got others.
pub(super) const DEAD: Set = 16;

pub(super) const fn only(index: usize) -> Set {
    1 << index
}

pub(super) const fn has(set: Set, index: usize) -> bool {
    set >> index & 1 == 1
}

/// The cluster data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doc {
    pub(super) master: u8,
    /// The db that standbys follow.
    pub(super) followed: u8,
    /// Whether the proxy section names the master.
    pub(super) published: bool,
    /// The master-type dbs; every other one is a standby.
    pub(super) masters: Set,
    /// W, with the fake name where it is used.
    pub(super) wanted: Set,
    /// K of each db, which matters for that of the master only.
    pub(super) known: [Set; KEEPERS],
}

impl Doc {
    pub(super) fn master(&self) -> usize {
        self.master.into()
    }

    /// K of the master.
    pub(super) fn known(&self) -> Set {
        self.known[self.master()]
    }
}

/// A sentinel's decision that is not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) doc: Doc,
    /// Dbs that are removed, whose keepers get new ones.
    pub(super) removed: Set,
    /// The keepers on whose infos it is conditional.
    pub(super) depends_on: Set,
    /// It ends the switchover, and is conditional on its key.
    pub(super) ends_switchover: bool,
    /// An operator accepts that the elected db lacks acknowledged commits (SY-20).
    pub(super) accepts_loss: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Up,
    Paused,
    /// After SIGTERM.
    Leaving,
    Down,
    /// Its host is lost.
    Lost,
}

/// The progress of a keeper that makes its db master, or applies its spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Progress {
    Idle,
    /// It has read the cluster data.
    Read,
    /// The names are written to a standby that is to be promoted.
    Named,
    /// It has a permit.
    Permitted,
    /// The names are written to a running master.
    Reloaded,
}

/// What a keeper has published about its db.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    /// The server runs as master.
    pub(super) is_serving: bool,
    /// It is of the present generation.
    pub(super) is_current: bool,
    /// R.
    pub(super) in_sync: Set,
    pub(super) leaving: bool,
    pub(super) stopping: bool,
    pub(super) stopped: Stopped,
    /// Where it stopped, or for a keeper of Go stolon what it has.
    pub(super) log: Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stopped {
    No,
    Unclean,
    Clean,
}

impl Info {
    pub(super) const NONE: Self = Self {
        is_serving: false,
        is_current: false,
        in_sync: 0,
        leaving: false,
        stopping: false,
        stopped: Stopped::No,
        log: Log::EMPTY,
    };

    pub(super) fn is_ending(&self) -> bool {
        self.leaving || self.stopping || self.stopped != Stopped::No
    }
}

/// A keeper and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keeper {
    pub(super) phase: Phase,
    pub(super) progress: Progress,
    /// The names in the cluster data that it has read.
    pub(super) read_names: Set,
    /// What it has read of its db is still so.
    pub(super) read_is_current: bool,
    /// The cluster data have not changed at all since.
    pub(super) read_is_newest: bool,
    /// It has recorded the present generation.
    pub(super) recorded: bool,
    pub(super) mark: Option<u8>,
    /// It has accepted a switchover's order.
    pub(super) stopping: bool,
    /// Its data are those of a db that was removed.
    pub(super) is_stale: bool,
    pub(super) info: Info,
    // The server.
    pub(super) runs: bool,
    /// Its data are a master's, not a standby's.
    pub(super) is_master: bool,
    pub(super) stopped_clean: bool,
    /// Only the keeper gets in.
    pub(super) gate_closed: bool,
    /// The names in its file.
    pub(super) asked: Set,
    /// The names that its processes use.
    pub(super) in_force: Set,
    /// Its clients see the log up to here.
    pub(super) visible: u8,
    pub(super) log: Log,
    /// The server that it streams from, as a standby.
    pub(super) follows: u8,
}

impl Keeper {
    /// One whose host is lost.
    pub(super) const LOST: Self = Self {
        phase: Phase::Lost,
        progress: Progress::Idle,
        read_names: 0,
        read_is_current: false,
        read_is_newest: false,
        recorded: false,
        mark: None,
        stopping: false,
        is_stale: true,
        info: Info::NONE,
        runs: false,
        is_master: false,
        stopped_clean: false,
        gate_closed: false,
        asked: 0,
        in_force: 0,
        visible: 0,
        log: Log::EMPTY,
        follows: 0,
    };

    pub(super) fn is_serving(&self) -> bool {
        self.runs && self.is_master
    }

    pub(super) fn is_standby(&self) -> bool {
        self.runs && !self.is_master
    }

    /// Ends the server.
    pub(super) fn end_server(&mut self, clean: bool) {
        self.stopped_clean = self.runs && clean;
        self.runs = false;
        self.gate_closed = false;
        (self.asked, self.in_force, self.visible, self.follows) = (0, 0, 0, 0);
        self.mark = None;
        self.progress = Progress::Idle;
        self.forget_read();
    }

    pub(super) fn forget_read(&mut self) {
        (self.read_names, self.read_is_current, self.read_is_newest) = (0, false, false);
    }
}

/// A switchover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Switchover {
    No,
    /// Its key exists.
    Asked,
    /// And the order to the master's keeper.
    Ordered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct World {
    pub(super) doc: Doc,
    /// Of a sentinel of ours, and of one of Go stolon.
    pub(super) plans: [Option<Plan>; 2],
    pub(super) keepers: [Keeper; KEEPERS],
    /// The server that the proxy forwards to.
    pub(super) route: Option<u8>,
    pub(super) switchover: Switchover,
    /// An info that may still arrive, and its keeper.
    pub(super) late: Option<(u8, Info)>,
    pub(super) left: Faults,
    pub(super) written: u8,
    pub(super) promotions: u8,
    /// The writes that were acknowledged, or read, through the proxy.
    pub(super) acknowledged: u8,
}

impl World {
    /// Keeper 0 is the master, the others follow it; all are healthy.
    pub(super) fn start(config: &Config) -> Self {
        let dbs = (1 << config.keepers) - 1;
        let wanted = match config.start {
            Start::Settled => dbs & ((1 << (config.max + 1)) - 1) & !1,
            Start::SwitchedOn => FAKE,
        };
        let known = wanted & DBS;
        let keeper = |index: usize| {
            let is_master = index == 0;
            let names = if is_master {
                wanted
            } else {
                World::standby_names(index, config)
            };
            if !has(dbs, index) {
                return Keeper::LOST;
            }
            Keeper {
                phase: Phase::Up,
                recorded: is_master,
                mark: is_master.then_some(0),
                is_stale: false,
                info: Info {
                    is_serving: is_master,
                    is_current: is_master,
                    in_sync: if is_master { known } else { 0 },
                    ..Info::NONE
                },
                runs: true,
                is_master,
                asked: names,
                in_force: names,
                ..Keeper::LOST
            }
        };
        Self {
            doc: Doc {
                master: 0,
                followed: 0,
                published: true,
                masters: only(0),
                wanted,
                known: [known, 0, 0],
            },
            plans: [None; 2],
            keepers: std::array::from_fn(keeper),
            route: Some(0),
            switchover: Switchover::No,
            late: None,
            left: config.faults,
            written: 0,
            promotions: 0,
            acknowledged: 0,
        }
    }

    pub(super) fn master(&self) -> &Keeper {
        &self.keepers[self.doc.master()]
    }
}

/// 64-bit words of a packed state at most.
pub(super) const WORDS: usize = 7;

/// A packed state; words that a run does not need are 0.
pub(super) type Packed = [u64; WORDS];

/// Reads fields from the words of a packed state, or writes them.
struct Packer<const READS: bool> {
    words: Packed,
    at: u32,
}

impl<const READS: bool> Packer<READS> {
    #[inline(always)]
    fn number(&mut self, field: &mut u16, width: u32) {
        let (word, shift) = ((self.at / 64) as usize, self.at % 64);
        self.at += width;
        let is_split = shift + width > 64;
        if READS {
            let mut found = self.words[word] >> shift;
            if is_split {
                found |= self.words[word + 1] << (64 - shift);
            }
            *field = (found & ((1 << width) - 1)) as u16;
        } else {
            debug_assert!(u32::from(*field) < 1 << width);
            self.words[word] |= u64::from(*field) << shift;
            if is_split {
                self.words[word + 1] |= u64::from(*field) >> (64 - shift);
            }
        }
    }

    #[inline(always)]
    fn small(&mut self, field: &mut u8, width: u32) {
        let mut number = u16::from(*field);
        self.number(&mut number, width);
        *field = number as u8;
    }

    #[inline(always)]
    fn flag(&mut self, field: &mut bool) {
        let mut number = u16::from(*field);
        self.number(&mut number, 1);
        *field = number == 1;
    }

    /// A value that may be absent, behind a flag.
    fn option<T>(&mut self, field: &mut Option<T>, empty: impl Fn() -> T, fields: impl Fn(&mut T, &mut Self)) {
        let mut is_there = field.is_some();
        self.flag(&mut is_there);
        if is_there {
            fields(field.get_or_insert_with(empty), self);
        } else {
            *field = None;
        }
    }

    fn set(&mut self, field: &mut Set) {
        self.small(field, 5);
    }

    #[inline(always)]
    fn one_of<T: Copy + PartialEq>(&mut self, field: &mut T, all: &[T], width: u32) {
        let mut index = all.iter().position(|one| one == field).unwrap_or_default() as u8;
        self.small(&mut index, width);
        *field = all[usize::from(index)];
    }
}

impl World {
    pub(super) fn pack(&self, config: &Config) -> Packed {
        let mut packer = Packer::<false> {
            words: [0; WORDS],
            at: 0,
        };
        let mut world = *self;
        world.fields(config, &mut packer);
        packer.words
    }

    /// Unpacks a state. `start` is any state of the same run.
    pub(super) fn unpack(words: Packed, start: &Self, config: &Config) -> Self {
        let mut packer = Packer::<true> { words, at: 0 };
        let mut world = *start;
        world.fields(config, &mut packer);
        world
    }

    /// The words that a packed state of a run needs at most.
    pub(super) fn words(config: &Config) -> usize {
        let mut world = Self::start(config);
        world.doc.known = [FAKE; KEEPERS];
        let plan = world.plan(world.doc, 0, 0);
        world.plans = [Some(plan), config.reference_sentinel.then_some(plan)];
        let info = Info {
            log: Log::EMPTY.write(1),
            ..Info::NONE
        };
        world.late = (config.faults.late > 0).then_some((0, info));
        for keeper in &mut world.keepers {
            keeper.info = info;
        }
        let mut packer = Packer::<false> {
            words: [0; WORDS],
            at: 0,
        };
        world.fields(config, &mut packer);
        packer.at.div_ceil(64) as usize
    }

    /// Passes over all fields.
    fn fields<const READS: bool>(&mut self, config: &Config, packer: &mut Packer<READS>) {
        for keeper in &mut self.keepers {
            keeper.fields(packer);
        }
        self.doc.fields(packer);
        for plan in &mut self.plans {
            let doc = self.doc;
            packer.option(plan, || World::empty_plan(doc), Plan::fields);
        }
        packer.option(
            &mut self.late,
            || (0, Info::NONE),
            |(keeper, info), packer| {
                packer.small(keeper, 2);
                info.fields(packer);
            },
        );
        let mut route = self.route.unwrap_or(3);
        packer.small(&mut route, 2);
        self.route = (route < 3).then_some(route);
        let all = [Switchover::No, Switchover::Asked, Switchover::Ordered];
        packer.one_of(&mut self.switchover, &all, 2);
        let (left, most) = (&mut self.left, &config.faults);
        for (field, most) in [
            (&mut left.crashes, most.crashes),
            (&mut left.kills, most.kills),
            (&mut left.pauses, most.pauses),
            (&mut left.terms, most.terms),
            (&mut left.hosts_lost, most.hosts_lost),
            (&mut left.switchovers, most.switchovers),
            (&mut left.slow, most.slow),
            (&mut left.late, most.late),
            (&mut left.overrides, most.overrides),
        ] {
            packer.small(field, 8 - most.leading_zeros());
        }
        packer.small(&mut self.written, 2);
        packer.small(&mut self.promotions, 3);
        packer.small(&mut self.acknowledged, 2);
    }

    fn empty_plan(doc: Doc) -> Plan {
        Plan {
            doc,
            removed: 0,
            depends_on: 0,
            ends_switchover: false,
            accepts_loss: false,
        }
    }
}

impl Plan {
    fn fields<const READS: bool>(&mut self, packer: &mut Packer<READS>) {
        self.doc.fields(packer);
        packer.small(&mut self.removed, 3);
        packer.small(&mut self.depends_on, 3);
        packer.flag(&mut self.ends_switchover);
        packer.flag(&mut self.accepts_loss);
    }
}

impl Doc {
    fn fields<const READS: bool>(&mut self, packer: &mut Packer<READS>) {
        packer.small(&mut self.master, 2);
        packer.small(&mut self.followed, 2);
        packer.flag(&mut self.published);
        packer.small(&mut self.masters, 3);
        packer.set(&mut self.wanted);
        let master = self.master();
        packer.set(&mut self.known[master]);
        let mut others = (0..KEEPERS).any(|index| index != master && self.known[index] != 0);
        packer.flag(&mut others);
        for index in (0..KEEPERS).filter(|index| *index != master) {
            if others {
                packer.set(&mut self.known[index]);
            } else {
                self.known[index] = 0;
            }
        }
    }
}

impl Info {
    fn fields<const READS: bool>(&mut self, packer: &mut Packer<READS>) {
        packer.flag(&mut self.is_serving);
        packer.flag(&mut self.is_current);
        packer.small(&mut self.in_sync, 3);
        packer.flag(&mut self.leaving);
        packer.flag(&mut self.stopping);
        let all = [Stopped::No, Stopped::Unclean, Stopped::Clean];
        packer.one_of(&mut self.stopped, &all, 2);
        let mut has_log = self.log != Log::EMPTY;
        packer.flag(&mut has_log);
        if has_log {
            packer.number(&mut self.log.0, 16);
        } else {
            self.log = Log::EMPTY;
        }
    }
}

impl Keeper {
    fn fields<const READS: bool>(&mut self, packer: &mut Packer<READS>) {
        let all = [Phase::Up, Phase::Paused, Phase::Leaving, Phase::Down, Phase::Lost];
        packer.one_of(&mut self.phase, &all, 3);
        let all = [
            Progress::Idle,
            Progress::Read,
            Progress::Named,
            Progress::Permitted,
            Progress::Reloaded,
        ];
        packer.one_of(&mut self.progress, &all, 3);
        packer.set(&mut self.read_names);
        packer.flag(&mut self.read_is_current);
        packer.flag(&mut self.read_is_newest);
        packer.flag(&mut self.recorded);
        let mut mark = self.mark.map_or(7, |mark| mark);
        packer.small(&mut mark, 3);
        self.mark = (mark < 7).then_some(mark);
        packer.flag(&mut self.stopping);
        packer.flag(&mut self.is_stale);
        packer.number(&mut self.log.0, 16);
        packer.flag(&mut self.runs);
        packer.flag(&mut self.is_master);
        packer.flag(&mut self.stopped_clean);
        packer.flag(&mut self.gate_closed);
        packer.set(&mut self.asked);
        packer.set(&mut self.in_force);
        packer.small(&mut self.visible, 3);
        packer.small(&mut self.follows, 2);
        self.info.fields(packer);
    }
}
