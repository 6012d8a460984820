//! Sentinels: what they read, decide and write. Which standbys are synchronous is left to `sets`, who may be elected to
//! `elections`.

use super::rules::{Change, Config, Make};
use super::search::Next;
use super::servers::members;
use super::sets::{Round, next_sets};
use super::world::{DBS, DEAD, Doc, FAKE, KEEPERS, Phase, Plan, Set, Switchover, World, has, only};

/// How a standby counts in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Good,
    Failed,
    /// It is not good, and may come back: nothing is done about it.
    Pending,
}

impl World {
    /// The next step of a leading sentinel: it reads and decides, or writes what it has decided.
    pub(super) fn sentinel_steps(&self, make: Make, config: &Config, next: &mut Next) {
        let slot = usize::from(make == Make::GoStolon);
        if let Some(plan) = self.plans[slot] {
            next.add(self.name_of(&plan), plan.doc.master(), self.written(&plan));
            return;
        }
        self.elections(make, config, next);
        self.steady_rounds(make, config, next);
    }

    fn name_of(&self, plan: &Plan) -> &'static str {
        if plan.doc.master != self.doc.master {
            "is elected"
        } else if plan.doc.published != self.doc.published {
            "is published"
        } else {
            "has its sets or standbys changed"
        }
    }

    fn written(&self, plan: &Plan) -> Self {
        let mut world = self.with_doc(plan.doc, plan.removed);
        if plan.ends_switchover {
            world.switchover = Switchover::No;
        }
        if plan.accepts_loss {
            // what the elected db lacks is given up
            world.acknowledged &= world.master().log.writes();
        }
        world
    }

    /// Returns the state after a write of the cluster data. Decisions on an earlier revision are refused (fencing F-7).
    pub(super) fn with_doc(&self, doc: Doc, removed: Set) -> Self {
        let mut world = *self;
        world.plans = [None; 2];
        let is_elected = doc.master != self.doc.master;
        let has_other_spec = is_elected || doc.wanted != self.doc.wanted;
        world.doc = doc;
        for keeper in &mut world.keepers {
            keeper.read_is_newest = false;
        }
        if has_other_spec {
            let keeper = &mut world.keepers[doc.master()];
            (keeper.read_is_current, keeper.recorded) = (false, false);
            keeper.info.is_current = false;
        }
        for index in members(removed) {
            world = world.with_removed(index);
        }
        world
    }

    /// Adds the state with a decision, unless it changes nothing.
    pub(super) fn decide(&self, what: &'static str, make: Make, plan: Plan, next: &mut Next) {
        if plan.doc == self.doc && plan.removed == 0 {
            return;
        }
        let mut world = *self;
        world.plans[usize::from(make == Make::GoStolon)] = Some(plan);
        next.add(what, plan.doc.master(), world);
    }

    /// Whether the master's info shows it healthy and converged.
    fn is_master_well(&self, config: &Config) -> bool {
        let info = &self.master().info;
        info.is_serving && !info.is_ending() && (info.is_current || config.has(Change::OtherGeneration))
    }

    fn steady_rounds(&self, make: Make, config: &Config, next: &mut Next) {
        let master = self.doc.master();
        let is_free = self.route.is_none() || config.has(Change::PublishWhileForwarding);
        let is_kept_back = self.switchover != Switchover::No && !config.has(Change::PublishDuringSwitchover);
        let may_publish = !self.doc.published && is_free && !is_kept_back;
        let early = config.has(Change::PublishUnconverged) || make == Make::GoStolon;
        if may_publish && early && !self.master().info.is_ending() {
            let mut doc = self.doc;
            doc.published = true;
            self.decide("shall be published", make, self.plan(doc, 0, only(master)), next);
        }
        if !self.is_master_well(config) {
            return;
        }
        let mut doc = self.doc;
        doc.published |= may_publish && !early;
        doc.followed = self.doc.master;
        // SY-8; Go stolon's removes them in every such round
        let others = self.doc.masters & !only(master);
        let removable = match (make, config.has(Change::KeepOldMasters)) {
            (Make::Ours, false) if doc.published => vec![others],
            (Make::Ours, false) => vec![0],
            (Make::Ours, true) => vec![0, others & self.living()],
            (Make::GoStolon, _) => vec![others],
        };
        for removed in removable {
            self.rounds_with_sets(make, doc, removed | self.invalid_standbys(), config, next);
        }
    }

    /// Keepers that are up.
    fn living(&self) -> Set {
        members(DBS)
            .filter(|index| self.keepers[*index].phase == Phase::Up)
            .fold(0, |set, index| set | only(index))
    }

    /// Standbys whose data are not those of the master (sentinel N-15).
    fn invalid_standbys(&self) -> Set {
        let is_invalid = |index: &usize| {
            let keeper = &self.keepers[*index];
            !keeper.is_stale && !keeper.log.is_prefix_of(self.master().log)
        };
        let standbys = members(DBS & !self.doc.masters);
        standbys.filter(is_invalid).fold(0, |set, index| set | only(index))
    }

    pub(super) fn plan(&self, doc: Doc, removed: Set, depends_on: Set) -> Plan {
        Plan {
            doc,
            removed,
            depends_on,
            ends_switchover: false,
            accepts_loss: false,
        }
    }

    /// One round for each way in which standbys may be seen.
    fn rounds_with_sets(&self, make: Make, mut doc: Doc, removed: Set, config: &Config, next: &mut Next) {
        let master = self.doc.master();
        doc.masters &= !removed;
        for set in doc.known.iter_mut().chain([&mut doc.wanted]) {
            if *set & removed != 0 {
                *set = *set & !removed | DEAD;
            }
        }
        let standbys = DBS & !doc.masters & !removed;
        let mut views = vec![(0, 0, false)];
        for index in members(standbys) {
            let ways = self.ways_to_see(index, make);
            let branches = views.iter().flat_map(|(good, failed, slow)| {
                ways.iter().filter_map(move |(seen, is_slow)| match seen {
                    _ if *slow && *is_slow => None,
                    Seen::Good => Some((good | only(index), *failed, slow | is_slow)),
                    Seen::Failed => Some((*good, failed | only(index), slow | is_slow)),
                    Seen::Pending => Some((*good, *failed, slow | is_slow)),
                })
            });
            views = branches.collect();
        }
        for (good, failed, slow) in views {
            let round = Round {
                good,
                failed: failed | (DBS & !standbys) | DEAD,
                standbys,
                reported: self.reported_to_sentinel(make, config),
            };
            for (wanted, known) in next_sets(doc.wanted, doc.known(), &round, config) {
                let mut doc = doc;
                doc.wanted = wanted;
                doc.known[master] = known;
                let mut world = *self;
                world.left.slow -= u8::from(slow);
                let depends_on = if doc.published == self.doc.published {
                    0
                } else {
                    only(master)
                };
                let plan = self.plan(doc, removed, depends_on);
                let what = if slow {
                    "is decided on, a slow standby failed"
                } else {
                    "is decided on"
                };
                if plan.doc != self.doc || plan.removed != 0 {
                    world.decide(what, make, plan, next);
                }
            }
        }
    }

    /// R as the sentinel uses it (SY-3).
    fn reported_to_sentinel(&self, make: Make, config: &Config) -> Set {
        let master = self.doc.master();
        let info = &self.keepers[master].info;
        if !config.is_reference(master) || make == Make::GoStolon || config.has(Change::UnmarkedReports) {
            return info.in_sync;
        }
        let reached = members(info.in_sync).filter(|index| {
            let log = self.keepers[*index].log;
            log.timeline() == info.log.timeline() && log.end() >= info.log.end()
        });
        reached.fold(0, |set, index| set | only(index))
    }

    /// Returns how a standby may be seen, and whether that takes a fault.
    fn ways_to_see(&self, index: usize, make: Make) -> Vec<(Seen, bool)> {
        let keeper = &self.keepers[index];
        match keeper.phase {
            Phase::Leaving if make == Make::Ours => vec![(Seen::Failed, false)],
            Phase::Up if keeper.is_stale && make == Make::GoStolon => vec![(Seen::Failed, false)], // W-8
            Phase::Up if keeper.is_stale => vec![(Seen::Pending, false)],
            Phase::Up if keeper.is_standby() => {
                let mut ways = vec![(Seen::Good, false)];
                if self.left.slow > 0 {
                    ways.push((Seen::Failed, true));
                }
                ways
            }
            // until failInterval is over it is neither good for something new nor failed
            _ => vec![(Seen::Pending, false), (Seen::Failed, false)],
        }
    }

    /// The names of the sets that an elected db starts with (SY-6, sentinel N-9.5).
    pub(super) fn names_after_election(&self, to: usize, config: &Config) -> Set {
        if config.has(Change::EmptyListAfterElection) {
            return 0;
        }
        let was_wanted = self.doc.wanted & (DBS | DEAD);
        let wanted = if has(was_wanted, to) {
            was_wanted & !only(to) | only(self.doc.master())
        } else {
            was_wanted
        };
        // as in every later round, and not only when nobody is left: a db outside W may be elected, and W be too small
        let enough = if config.has(Change::FakeOnlyWhenEmpty) {
            config.min.min(1)
        } else {
            config.min
        };
        let is_missing = wanted.count_ones() < enough && !config.has(Change::NoFakeName);
        if is_missing { wanted | FAKE } else { wanted }
    }
}

const _: () = assert!(KEEPERS == 3, "sets have one bit for each keeper");
