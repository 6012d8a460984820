//! The steps of keepers: how a db is made master, how its spec is applied, how a standby is made, what is published.
//! Their faults are left to `faults`.

use super::log::Log;
use super::rules::{Change, Config};
use super::search::Next;
use super::world::{DBS, DEAD, Info, Keeper, Phase, Progress, Stopped, Switchover, World, has, only};

impl World {
    /// Everything that a keeper can do next.
    pub(super) fn keeper_steps(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        match keeper.phase {
            Phase::Up => {
                self.master_steps(index, config, next);
                self.idle_steps(index, config, next);
                self.gate_step(index, config, next);
            }
            Phase::Leaving => self.leaving_steps(index, next),
            Phase::Paused | Phase::Down | Phase::Lost => return,
        }
        let info = self.info_of(index, config);
        if has(self.doc.masters, index) && info != keeper.info {
            next.add("publishes", index, self.with_info(index, info, config));
        }
    }

    /// What a keeper would publish now.
    pub(super) fn info_of(&self, index: usize, config: &Config) -> Info {
        let keeper = &self.keepers[index];
        let is_serving = keeper.is_serving();
        let leaving = keeper.phase == Phase::Leaving;
        let is_kept_down = has(self.doc.masters, index) && index != self.doc.master();
        let stopped = if keeper.runs || !(leaving || keeper.stopping || is_kept_down) {
            Stopped::No
        } else if keeper.stopped_clean {
            Stopped::Clean
        } else {
            Stopped::Unclean
        };
        let shows_log = stopped == Stopped::Clean || (is_serving && config.is_reference(index));
        Info {
            is_serving,
            is_current: keeper.recorded,
            in_sync: if is_serving {
                self.reported_in_sync(index, config)
            } else {
                0
            },
            leaving,
            stopping: keeper.stopping,
            stopped,
            log: if shows_log { keeper.log } else { Log::EMPTY },
        }
    }

    /// Returns the state with another info. Decisions that are conditional on the one before are dropped (extensions ).
    pub(super) fn with_info(&self, index: usize, info: Info, config: &Config) -> Self {
        let mut world = *self;
        world.keepers[index].info = info;
        if !config.has(Change::UnconditionalElections) {
            for plan in &mut world.plans {
                *plan = plan.filter(|plan| !has(plan.depends_on, index));
            }
        }
        world
    }

    /// Whether a db that is the master needs nothing more from its keeper.
    fn is_converged(&self, index: usize, config: &Config) -> bool {
        let keeper = &self.keepers[index];
        let marked = keeper.mark.is_some() || config.is_reference(index);
        keeper.is_serving() && keeper.recorded && keeper.asked == self.doc.wanted && marked
    }

    /// Steps of a keeper that is between two reconciliations, which need no knowledge of their own.
    fn idle_steps(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        if keeper.progress != Progress::Idle {
            return;
        }
        let change = |what, change: &dyn Fn(&mut Keeper), next: &mut Next| {
            let mut world = *self;
            change(&mut world.keepers[index]);
            next.add(what, index, world);
        };
        if index == self.doc.master() {
            self.idle_master_steps(index, config, next);
        } else if has(self.doc.masters, index) {
            if keeper.runs && !config.keeper_has(index, Change::OldMasterRuns) {
                change("stops its old master", &|keeper| keeper.end_server(true), next);
            }
        } else if keeper.is_stale || keeper.is_master {
            if keeper.runs {
                change(
                    "stops the server of a removed db",
                    &|keeper| keeper.end_server(true),
                    next,
                );
            } else if self.keepers[usize::from(self.doc.followed)].is_serving() {
                next.add("makes its new standby", index, self.with_new_standby(index, config));
            }
        } else if !keeper.runs || keeper.follows != self.doc.followed {
            let names = Self::standby_names(index, config);
            let followed = self.doc.followed;
            let starts = |keeper: &mut Keeper| {
                if !keeper.runs {
                    (keeper.runs, keeper.asked, keeper.in_force) = (true, names, names);
                }
                keeper.follows = followed;
            };
            change("has its standby follow the master", &starts, next);
        }
    }

    /// A copy, or what the old data and the master's have in common. Its WAL may be older than the master's in any case.
    fn with_new_standby(&self, index: usize, config: &Config) -> Self {
        let mut world = *self;
        let names = Self::standby_names(index, config);
        let keeper = &mut world.keepers[index];
        keeper.log = keeper.log.common(self.keepers[usize::from(self.doc.followed)].log);
        (keeper.is_stale, keeper.is_master, keeper.runs) = (false, false, true);
        (keeper.asked, keeper.in_force, keeper.visible) = (names, names, 0);
        keeper.follows = self.doc.followed;
        world
    }

    fn idle_master_steps(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        let ordered = self.switchover == Switchover::Ordered;
        if ordered && !self.doc.published && !keeper.stopping && !config.is_reference(index) {
            // extensions: conditional on the order and on the newest cluster data
            let mut world = *self;
            world.keepers[index].stopping = true;
            let info = world.info_of(index, config);
            next.add("accepts the order to stop", index, world.with_info(index, info, config));
        }
        if keeper.stopping && keeper.runs {
            let mut world = *self;
            world.keepers[index].end_server(true);
            next.add("stops its server in order", index, world);
        } else if !(self.is_converged(index, config) || keeper.stopping && ordered) {
            let mut world = *self;
            let keeper = &mut world.keepers[index];
            keeper.progress = Progress::Read;
            keeper.read_names = self.doc.wanted;
            (keeper.read_is_current, keeper.read_is_newest) = (true, true);
            next.add("reads that its db is the master", index, world);
        }
    }

    /// Steps of a keeper that has read that its db is the master. They do not look at the cluster data again, but for
    /// the permit.
    fn master_steps(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        let mut world = *self;
        let after = &mut world.keepers[index];
        let late_names = config.keeper_has(index, Change::NamesAfterPromotion);
        match keeper.progress {
            Progress::Idle => return,
            Progress::Read if keeper.is_serving() => {
                self.reload(index, config, after);
                next.add("writes the names and reloads", index, world);
            }
            Progress::Read if keeper.runs && !late_names => {
                (after.asked, after.progress) = (keeper.read_names, Progress::Named);
                next.add("writes the names of a standby and reloads", index, world);
            }
            Progress::Read => self.permit(index, config, next),
            Progress::Named => {
                if keeper.asked == keeper.in_force {
                    self.permit(index, config, next);
                }
                self.catch_up(index, config, next);
            }
            Progress::Permitted if keeper.is_standby() => {
                self.catch_up(index, config, next);
                if self.promotions < Log::PROMOTIONS && keeper.log.end() < Log::LONGEST {
                    next.add("promotes its standby", index, self.after_promotion(index, late_names));
                }
            }
            Progress::Permitted => {
                start_server(after, late_names, config.keeper_has(index, Change::NoGate));
                next.add("starts its server", index, world);
            }
            Progress::Reloaded if keeper.asked == keeper.in_force => {
                after.mark = Some(keeper.log.end());
                if !config.has(Change::RecordBeforeInForce) {
                    after.recorded = keeper.read_is_current;
                }
                after.progress = Progress::Idle;
                after.forget_read();
                next.add("sees the names in force and sets the mark", index, world);
            }
            Progress::Reloaded => {}
        }
        if !keeper.read_is_newest {
            let mut world = *self;
            let after = &mut world.keepers[index];
            after.progress = Progress::Idle;
            after.forget_read();
            next.add("starts over with newer data", index, world);
        }
    }

    /// The names of a running master change.
    fn reload(&self, index: usize, config: &Config, keeper: &mut Keeper) {
        keeper.asked = keeper.read_names;
        keeper.mark = None;
        keeper.progress = Progress::Reloaded;
        if config.has(Change::RecordBeforeInForce) {
            keeper.recorded = keeper.read_is_current;
        }
        if config.keeper_has(index, Change::MarkBeforeInForce) {
            if config.is_reference(index) && config.prompt_reloads {
                keeper.in_force = keeper.asked;
            }
            keeper.mark = (!config.is_reference(index)).then_some(keeper.log.end());
            keeper.recorded = keeper.read_is_current;
            keeper.progress = Progress::Idle;
            keeper.forget_read();
        }
    }

    /// A standby that is to be promoted receives WAL that another standby of its timeline history has (SY-21), until its
    /// promotion. How much it receives is left open: the wait is limited.
    fn catch_up(&self, index: usize, config: &Config, next: &mut Next) {
        if !config.catches_up {
            return;
        }
        let log = self.keepers[index].log;
        for (other, from) in self.keepers.iter().enumerate() {
            if from.is_standby() && !from.is_stale && log != from.log && log.is_prefix_of(from.log) {
                let mut world = *self;
                let to = &mut world.keepers[index];
                (to.follows, to.log) = (other as u8, from.log.first(log.end() + 1));
                next.add("receives an entry from another standby", index, world);
            }
        }
    }

    /// A permit to start as master or to promote (extensions ).
    fn permit(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        let mut world = *self;
        world.keepers[index].progress = Progress::Permitted;
        world.keepers[index].stopping = false;
        if config.keeper_has(index, Change::NoPermit) {
            next.add("goes on without a permit", index, world);
        } else if keeper.read_is_newest && self.switchover != Switchover::Ordered {
            let info = Info {
                is_current: false,
                ..world.info_of(index, config)
            };
            next.add("gets a permit", index, world.with_info(index, info, config));
        }
    }

    fn after_promotion(&self, index: usize, late_names: bool) -> Self {
        let mut world = *self;
        let keeper = &mut world.keepers[index];
        keeper.log = keeper.log.promote(self.promotions);
        keeper.is_master = true;
        keeper.visible = keeper.log.end();
        keeper.follows = 0;
        keeper.mark = None;
        keeper.progress = if late_names { Progress::Read } else { Progress::Reloaded };
        world.promotions += 1;
        world
    }

    fn gate_step(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        if keeper.is_serving() && keeper.gate_closed && self.gate_may_open(index, config) {
            let mut world = *self;
            world.keepers[index].gate_closed = false;
            next.add("lets clients in", index, world);
        }
    }

    /// After SIGTERM: the server is stopped at any time, also while commits wait (SY-12, SY-13).
    fn leaving_steps(&self, index: usize, next: &mut Next) {
        let keeper = &self.keepers[index];
        let mut world = *self;
        if keeper.runs {
            world.keepers[index].end_server(true);
            next.add("stops its server", index, world);
        } else {
            world.keepers[index].phase = Phase::Down;
            next.add("ends", index, world);
        }
    }

    /// Returns the state after dbs were removed: their keepers have got others, and nobody has their names.
    pub(super) fn with_removed(&self, index: usize) -> Self {
        let mut world = *self;
        world.keepers[index].is_stale = true;
        world.keepers[index].info = Info::NONE;
        for keeper in &mut world.keepers {
            let replace = |set: u8| {
                if has(set, index) {
                    set & !only(index) | DEAD
                } else {
                    set
                }
            };
            keeper.read_names = replace(keeper.read_names);
            keeper.asked = replace(keeper.asked);
            keeper.in_force = replace(keeper.in_force);
            keeper.info.in_sync &= !only(index);
        }
        world
    }
}

/// Starts a server whose keeper has a permit: a master, or a standby that is promoted next.
fn start_server(keeper: &mut Keeper, late_names: bool, no_gate: bool) {
    keeper.runs = true;
    let names = if keeper.is_master || !late_names {
        keeper.read_names
    } else {
        0
    };
    (keeper.asked, keeper.in_force) = (names, names);
    if keeper.is_master {
        keeper.visible = keeper.log.end();
        keeper.gate_closed = names & (DBS | DEAD) != 0 && !no_gate;
        keeper.mark = None;
        keeper.progress = Progress::Reloaded;
    }
}
