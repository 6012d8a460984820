//! Breadth-first search over all states, the way to a violation, and the states from which nothing leads to a master
//! that commits.

use super::rules::{Config, Faults, Make};
use super::servers::{Violation, members};
use super::world::{DBS, KEEPERS, Phase, WORDS, World};

/// A step, and the keeper that it is about.
pub(super) type Event = (&'static str, usize);

/// The states after the next step.
pub(super) struct Next {
    found: Vec<(Event, World)>,
}

impl Next {
    pub(super) fn add(&mut self, what: &'static str, index: usize, world: World) {
        self.found.push(((what, index), world));
    }
}

impl World {
    /// Fills in all states after the next step.
    fn next(&self, config: &Config, next: &mut Next) {
        next.found.clear();
        for index in 0..KEEPERS {
            self.keeper_steps(index, config, next);
            self.server_steps(index, config, next);
            self.recoveries(index, next);
            if self.left != Faults::default() {
                self.faults(index, config, next);
            }
        }
        self.proxy_steps(next);
        self.sentinel_steps(Make::Ours, config, next);
        if config.reference_sentinel {
            self.sentinel_steps(Make::GoStolon, config, next);
        }
        self.switchover_steps(config, next);
        self.late_info(config, next);
    }
}

/// The shortest way to a violation.
pub(super) struct Trace {
    pub(super) violation: Violation,
    pub(super) events: Vec<Event>,
}

impl Trace {
    pub(super) fn text(&self) -> String {
        let lines = self.events.iter().map(|(what, keeper)| format!("\n  {keeper} {what}"));
        format!("{:?}:{}", self.violation, lines.collect::<String>())
    }
}

pub(super) enum Outcome {
    Holds(Box<Reached>),
    Violated(Trace, usize),
    /// More states than allowed.
    Unfinished(usize),
}

/// All reachable states, in the order in which they were found.
pub(super) struct Reached {
    config: Config,
    start: World,
    /// The packed states, each in as many words as the run needs.
    words: Vec<u64>,
    width: usize,
    /// The state from which each one was found first.
    parents: Vec<u32>,
    /// Open addressing: indices plus one, 0 where free.
    slots: Vec<u32>,
}

fn hash(state: &[u64]) -> u64 {
    let mixed = state.iter().fold(0_u64, |hash, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ mixed >> 29
}

impl Reached {
    fn new(config: Config) -> Self {
        let start = World::start(&config);
        let mut reached = Self {
            config,
            start,
            words: Vec::new(),
            width: World::words(&config),
            parents: Vec::new(),
            slots: vec![0; 1 << 16],
        };
        reached.insert(&start, 0);
        reached
    }

    pub(super) fn count(&self) -> usize {
        self.parents.len()
    }

    fn packed(&self, index: usize) -> &[u64] {
        &self.words[index * self.width..][..self.width]
    }

    fn world(&self, index: usize) -> World {
        let mut words = [0; WORDS];
        words[..self.width].copy_from_slice(self.packed(index));
        World::unpack(words, &self.start, &self.config)
    }

    /// The slot of a state, or the free one where it belongs.
    fn slot(&self, state: &[u64]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(state) as usize & mask;
        while self.slots[slot] != 0 && self.packed(self.slots[slot] as usize - 1) != state {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn index(&self, world: &World) -> Option<usize> {
        let state = world.pack(&self.config);
        (self.slots[self.slot(&state[..self.width])] as usize).checked_sub(1)
    }

    fn insert(&mut self, world: &World, parent: u32) {
        let state = world.pack(&self.config);
        let state = &state[..self.width];
        let slot = self.slot(state);
        if self.slots[slot] != 0 {
            return;
        }
        self.words.extend_from_slice(state);
        self.parents.push(parent);
        self.slots[slot] = u32::try_from(self.count()).expect("fewer states than memory");
        if self.count() * 4 > self.slots.len() * 3 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let size = 2 * self.slots.len();
        self.slots = Vec::new(); // freed before the larger one is allocated
        self.slots = vec![0; size];
        for index in 0..self.count() {
            let mut slot = hash(self.packed(index)) as usize & (size - 1);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            self.slots[slot] = index as u32 + 1;
        }
    }

    fn trace(&self, at: usize, last: Event, violation: Violation) -> Trace {
        let mut path = vec![at];
        while path[path.len() - 1] != 0 {
            path.push(self.parents[path[path.len() - 1]] as usize);
        }
        path.reverse();
        let mut next = Next { found: Vec::new() };
        let mut events = Vec::new();
        for pair in path.windows(2) {
            self.world(pair[0]).next(&self.config, &mut next);
            let step = next.found.iter().find(|(_, world)| {
                let mut world = *world;
                world.settle(&self.config);
                self.index(&world) == Some(pair[1])
            });
            events.push(step.map_or(("", 0), |(event, _)| *event));
        }
        events.push(last);
        Trace { violation, events }
    }
}

/// Explores every reachable state, up to a number of them.
pub(super) fn explore(config: Config, most: usize) -> Outcome {
    let mut reached = Reached::new(config);
    let mut next = Next { found: Vec::new() };
    let mut at = 0;
    while at < reached.count() {
        reached.world(at).next(&config, &mut next);
        for (event, world) in &mut next.found {
            if let Some(violation) = world.settle(&config) {
                let trace = reached.trace(at, *event, violation);
                return Outcome::Violated(trace, reached.count());
            }
            reached.insert(world, at as u32);
        }
        if reached.count() > most {
            return Outcome::Unfinished(reached.count());
        }
        at += 1;
    }
    Outcome::Holds(Box::new(reached))
}

/// The states from which, without further faults, nothing leads to a published master that commits.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// The only complete copies are lost: the operator decides (SY-20).
    pub(super) for_operator: usize,
    pub(super) others: usize,
    pub(super) example: Option<Vec<Event>>,
}

impl World {
    /// A published master that commits at once, or, where fewer hosts are left than that needs, is only published.
    fn is_settled(&self, config: &Config) -> bool {
        let index = self.doc.master();
        let master = self.master();
        let is_there = self.doc.published && self.route == Some(self.doc.master) && master.is_serving();
        let hosts = self.keepers.iter().filter(|keeper| keeper.phase != Phase::Lost).count();
        if hosts <= config.min as usize {
            return is_there;
        }
        let waits_for = master.in_force;
        let agreed = master.asked == waits_for && waits_for == self.doc.wanted;
        let all_stream = members(waits_for).all(|standby| self.streams(standby, index));
        is_there && !master.gate_closed && agreed && waits_for & !DBS == 0 && all_stream
    }

    /// Whether the hosts that are left have no db that is known to have everything, once what is decided is written.
    fn is_for_operator(&self) -> bool {
        let doc = self.plans.iter().flatten().next().map_or(self.doc, |plan| plan.doc);
        let is_left = |index: &usize| self.keepers[*index].phase != Phase::Lost;
        let old_masters = if doc.published { 0 } else { doc.masters };
        let complete = doc.known() & doc.wanted & DBS | old_masters | 1 << doc.master;
        !members(complete).any(|index| is_left(&index))
    }

    /// Whether an operator can still choose a standby (SY-20), once what is decided is written.
    fn operator_can_choose(&self) -> bool {
        let removed = self.plans.iter().flatten().fold(0, |set, plan| set | plan.removed);
        let is_choice = |index: usize| {
            let keeper = &self.keepers[index];
            keeper.phase != Phase::Lost && !keeper.is_stale && !keeper.is_master
        };
        self.left.overrides > 0 && members(DBS & !self.doc.masters & !removed).any(is_choice)
    }
}

/// Finds the stuck states of a run that holds.
pub(super) fn stuck(reached: &Reached) -> Stuck {
    let config = reached.config;
    let without_faults = |index: usize| {
        let mut world = reached.world(index);
        let left = world.left;
        // what an operator may do is no fault
        world.left = Faults {
            overrides: left.overrides,
            ..Faults::default()
        };
        (world, left)
    };
    let mut is_good = vec![false; reached.count()];
    for (index, good) in is_good.iter_mut().enumerate() {
        *good = without_faults(index).0.is_settled(&config);
    }
    let mut next = Next { found: Vec::new() };
    loop {
        let mut changed = false;
        for index in (0..is_good.len()).rev() {
            if is_good[index] {
                continue;
            }
            let (world, left) = without_faults(index);
            world.next(&config, &mut next);
            is_good[index] = next.found.iter_mut().any(|(_, after)| {
                after.left = Faults {
                    overrides: after.left.overrides,
                    ..left
                };
                after.settle(&config);
                reached.index(after).is_some_and(|after| is_good[after])
            });
            changed |= is_good[index];
        }
        if !changed {
            break;
        }
    }
    let mut stuck = Stuck::default();
    for index in (0..is_good.len()).filter(|index| !is_good[*index]) {
        let world = reached.world(index);
        if world.is_for_operator() && !world.operator_can_choose() {
            stuck.for_operator += 1;
        } else {
            stuck.others += 1;
            let way = || reached.trace(index, ("is stuck", 0), Violation::S0).events;
            stuck.example.get_or_insert_with(way);
        }
    }
    stuck
}
