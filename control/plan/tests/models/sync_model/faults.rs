//! Faults, what follows from them, and operators' requests.

use super::rules::{Change, Config, Faults};
use super::search::Next;
use super::world::{Keeper, Phase, Progress, Switchover, World, has};

impl World {
    /// What ends without a fault: keepers start again or go on.
    pub(super) fn recoveries(&self, index: usize, next: &mut Next) {
        let mut world = *self;
        let keeper = &mut world.keepers[index];
        match keeper.phase {
            Phase::Down => {
                keeper.phase = Phase::Up;
                next.add("starts again", index, world);
            }
            Phase::Paused => {
                keeper.phase = Phase::Up;
                next.add("goes on", index, world);
            }
            Phase::Up | Phase::Leaving | Phase::Lost => {}
        }
    }

    /// The faults of a keeper and its server.
    pub(super) fn faults(&self, index: usize, config: &Config, next: &mut Next) {
        let keeper = &self.keepers[index];
        let is_alive = matches!(keeper.phase, Phase::Up | Phase::Paused | Phase::Leaving);
        let left = &self.left;
        let mut fault = |what, count: fn(&mut Faults) -> &mut u8, change: &dyn Fn(&mut Keeper)| {
            let mut world = *self;
            *count(&mut world.left) -= 1;
            change(&mut world.keepers[index]);
            next.add(what, index, world);
        };
        if left.crashes > 0 && is_alive {
            fault("is killed, its server runs on", |left| &mut left.crashes, &kill_keeper);
            if keeper.runs {
                fault("is killed with its server", |left| &mut left.crashes, &|keeper| {
                    kill_keeper(keeper);
                    keeper.end_server(false);
                });
            }
        }
        if left.kills > 0 && keeper.runs {
            let again = config.keeper_has(index, Change::ServerRestartsItself) && keeper.is_master;
            fault("has its server killed", |left| &mut left.kills, &|keeper| {
                if again {
                    keeper.visible = keeper.log.end();
                } else {
                    keeper.end_server(false);
                }
            });
        }
        if left.pauses > 0 && keeper.phase == Phase::Up {
            fault("is suspended", |left| &mut left.pauses, &|keeper| {
                keeper.phase = Phase::Paused;
            });
        }
        if left.terms > 0 && keeper.phase == Phase::Up {
            fault("gets SIGTERM", |left| &mut left.terms, &|keeper| {
                kill_keeper(keeper);
                keeper.phase = Phase::Leaving;
            });
        }
        if left.hosts_lost > 0 && keeper.phase != Phase::Lost {
            fault("is lost with its host", |left| &mut left.hosts_lost, &|keeper| {
                kill_keeper(keeper);
                keeper.end_server(false);
                keeper.phase = Phase::Lost;
            });
        }
        let is_ready = left.late > 0 && self.late.is_none() && has(self.doc.masters, index);
        if is_ready && config.is_reference(index) && keeper.phase == Phase::Up {
            let mut world = *self;
            world.left.late -= 1;
            world.late = Some((index as u8, self.info_of(index, config)));
            next.add("gives a publication up, which is under way", index, world);
        }
    }

    /// A late info arrives. Keepers of Go stolon put theirs unconditionally.
    pub(super) fn late_info(&self, config: &Config, next: &mut Next) {
        if let Some((index, info)) = self.late {
            let index = usize::from(index);
            let mut world = self.with_info(index, info, config);
            world.late = None;
            next.add("has published late", index, world);
        }
    }

    /// A switchover's key and order come and go (extensions X-2).
    pub(super) fn switchover_steps(&self, config: &Config, next: &mut Next) {
        let master = self.doc.master();
        let mut with = |what, switchover| {
            let mut world = *self;
            world.switchover = switchover;
            if switchover == Switchover::No {
                for plan in &mut world.plans {
                    *plan = plan.filter(|plan| !plan.ends_switchover);
                }
            }
            next.add(what, master, world);
        };
        match self.switchover {
            Switchover::No => {
                let alone = self.doc.masters.count_ones() == 1 || config.has(Change::SwitchoverWithOldMasters);
                let info = &self.master().info;
                let is_well = info.is_serving && info.is_current && !info.is_ending();
                if self.left.switchovers > 0 && self.doc.published && alone && is_well {
                    let mut world = *self;
                    world.left.switchovers -= 1;
                    world.switchover = Switchover::Asked;
                    next.add("shall be replaced by a switchover", master, world);
                }
            }
            Switchover::Asked => {
                with("is kept: the switchover is given up", Switchover::No);
                if self.doc.published {
                    let mut doc = self.doc;
                    doc.published = false;
                    let world = self.with_doc(doc, 0);
                    next.add("is no longer announced, for a switchover", master, world);
                } else if self.route.is_none() {
                    with("is ordered to stop", Switchover::Ordered);
                }
            }
            Switchover::Ordered => {
                with("is kept: the switchover is given up, with its order", Switchover::No);
                with("is no longer ordered to stop", Switchover::Asked);
            }
        }
    }
}

/// The keeper loses what it has in memory.
fn kill_keeper(keeper: &mut Keeper) {
    keeper.phase = Phase::Down;
    keeper.progress = Progress::Idle;
    keeper.forget_read();
    keeper.mark = None;
    keeper.stopping = false;
}
