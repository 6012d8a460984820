//! What keepers, their instances, proxies and clients do, and what befalls them.

use super::wal::PROMOTION;
use super::world::{Info, Keeper, Late, Life, Next, Why, World, Wrong};
use super::{Rule, Rules};

impl<const KEEPERS: usize> World<KEEPERS> {
    pub(super) fn faults(&self, index: usize, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        if keeper.life == Life::Gone {
            let mut world = *self;
            let again = &mut world.keepers[index];
            again.stop(); // one that was left running
            again.life = Life::Up;
            again.boot += 1;
            next.push((("starts again", index), world));
        }
        if matches!(keeper.life, Life::Leaving | Life::Pausing) {
            let mut world = *self;
            if keeper.runs {
                world.keepers[index].stop();
                next.push((("stops its postgres", index), world));
            } else {
                world.keepers[index].life = Life::Gone;
                next.push((("ends", index), world));
            }
        }
        if self.left.faults == 0 {
            return;
        }
        let mut fault = |what, change: fn(&mut Keeper)| {
            let mut world = *self;
            world.left.faults -= 1;
            let keeper = &mut world.keepers[index];
            change(keeper);
            keeper.may_start &= keeper.life == Life::Up;
            keeper.says_stopped &= keeper.life == Life::Up;
            next.push(((what, index), world));
        };
        if keeper.life == Life::Up {
            fault("gets SIGTERM", |keeper| keeper.life = Life::Leaving);
            fault("gets SIGINT", |keeper| keeper.life = Life::Pausing);
        }
        if keeper.life != Life::Gone {
            fault("is killed, its postgres runs on", |keeper| keeper.life = Life::Gone);
        }
        if keeper.runs {
            fault("loses its postgres", |keeper| {
                keeper.runs = false;
                keeper.is_clean = false;
            });
            fault("is killed with its postgres", |keeper| {
                keeper.life = Life::Gone;
                keeper.runs = false;
                keeper.is_clean = false;
            });
        }
    }

    /// What a keeper puts into the store, and what happens to that there.
    pub(super) fn requests(&self, index: usize, rules: Rules, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        let on_none = self.infos[index].is_none();
        let mut info = keeper.info();
        if on_none && rules.has(Rule::StoppedOnAnInfo) {
            info.stopped = None; // the next one says it
        }
        if keeper.life != Life::Gone && self.infos[index] != Some(info) {
            next.push((("publishes", index), self.with_info(index, Some(info), rules)));
            if self.left.lates > 0 && keeper.late.is_none() {
                let mut world = *self;
                world.left.lates -= 1;
                world.keepers[index].late = Some(Late { info, on_none });
                next.push((("gives a publication up", index), world));
            }
        }
        if let Some(late) = keeper.late {
            let mut world = *self;
            world.keepers[index].late = None;
            let in_time = !rules.has(Rule::ConditionalPuts) || late.on_none == self.infos[index].is_none();
            if in_time {
                world = world.with_info(index, Some(late.info), rules);
            }
            next.push((("is late: its request arrives", index), world));
        }
        if self.left.expiries > 0 && self.infos[index].is_some() {
            let mut world = self.with_info(index, None, rules);
            world.left.expiries -= 1;
            next.push((("loses its info", index), world));
        }
    }

    /// The same with another info; what was decided or sent on the one before is void.
    pub(super) fn with_info(&self, index: usize, info: Option<Info>, rules: Rules) -> Self {
        let mut world = *self;
        world.infos[index] = info;
        let late = &mut world.keepers[index].late;
        if rules.has(Rule::ConditionalPuts) && late.is_some_and(|late| !late.on_none) {
            *late = None;
        }
        for plan in &mut world.plans {
            if rules.has(Rule::ConditionalElections) && plan.is_some_and(|plan| plan.depends_on & 1 << index != 0) {
                *plan = None;
            }
        }
        world
    }

    /// What a keeper does with its instance.
    pub(super) fn passes(&self, index: usize, rules: Rules, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        if keeper.life != Life::Up {
            return;
        }
        if keeper.may_start {
            next.push((("starts as master", index), self.after_start(index)));
        }
        let db = self.data.dbs[index];
        if db.boot != keeper.boot {
            return; // keeper R10
        }
        let is_master = db.is_head && (self.data.master == index || !rules.has(Rule::OldMasterStaysDown));
        let same = keeper.uid == db.uid;
        if is_master && same && !keeper.is_serving() && !keeper.may_start {
            let mut world = *self;
            world.keepers[index].may_start = true;
            world.keepers[index].says_stopped = false;
            if rules.has(Rule::Permit) {
                let info = world.keepers[index].info();
                world = world.with_info(index, Some(info), rules);
                next.push((("gets a permit", index), world));
            } else {
                next.push((("reads that it is the master", index), world));
            }
        }
        if db.is_head && !is_master && same && (keeper.runs || !keeper.says_stopped) {
            let mut world = *self;
            let old = &mut world.keepers[index];
            old.stop();
            old.says_stopped = true;
            old.may_start = false;
            next.push((("keeps its old master down", index), world));
        }
        if !db.is_head && same && !keeper.runs && !keeper.is_master {
            let mut world = *self;
            world.keepers[index].runs = true;
            next.push((("starts its standby", index), world));
        }
        let source = self.keepers[self.data.master];
        if !db.is_head && !same && source.is_serving() && source.uid == self.data.dbs[self.data.master].uid {
            let mut world = *self;
            world.keepers[index] = Keeper {
                runs: true,
                is_master: false,
                is_clean: false,
                log: source.log,
                uid: db.uid,
                may_start: false,
                says_stopped: false,
                ..keeper
            };
            world.published = self.published.filter(|published| *published != index);
            next.push((("makes its new standby", index), world));
        }
    }

    pub(super) fn after_start(&self, index: usize) -> Self {
        let mut world = *self;
        let keeper = &mut world.keepers[index];
        if !keeper.is_master {
            keeper.log = keeper.log.push(PROMOTION + u32::try_from(index).unwrap());
        }
        keeper.runs = true;
        keeper.is_master = true;
        keeper.is_clean = false;
        keeper.may_start = false;
        if self.data.master != index && !self.why.leaves_a_permit() {
            world.wrong = Some(Wrong::StartedOutOfTurn);
        }
        world
    }

    pub(super) fn replication(&self, index: usize, next: &mut Next<KEEPERS>) {
        let standby = self.keepers[index];
        if !standby.runs || standby.is_master {
            return;
        }
        for master in self.keepers.iter().filter(|keeper| keeper.is_serving()) {
            if standby.log.is_prefix_of(master.log) && standby.log != master.log {
                let mut world = *self;
                world.keepers[index].log = master.log.until(standby.log.end() + 1);
                next.push((("receives an entry", index), world));
            }
        }
    }

    /// Proxies and who comes through them.
    pub(super) fn clients(&self, next: &mut Next<KEEPERS>) {
        if let Some(to) = self.route {
            next.push((("is closed by the proxies", to), Self { route: None, ..*self }));
            if self.keepers[to].is_serving() && self.left.writes > 0 {
                next.push((("acknowledges a write", to), self.after_write(to)));
            }
        }
        if let Some(to) = self
            .data
            .proxied
            .filter(|to| self.data.enabled && self.route != Some(*to))
        {
            let world = Self {
                route: Some(to),
                ..*self
            };
            next.push((("is opened by the proxies", to), world));
        }
    }

    pub(super) fn after_write(&self, to: usize) -> Self {
        let mut world = *self;
        world.left.writes -= 1;
        world.written += 1;
        let log = &mut world.keepers[to].log;
        *log = log.push(world.written.into());
        world.acknowledged |= 1 << world.written;
        if to == self.data.master {
            world.acknowledged_here |= 1 << world.written;
        } else if !self.may_lose || matches!(self.why, Why::JustPromoted(_)) {
            world.wrong = Some(Wrong::AcknowledgedAfterElection);
        }
        world
    }
}
