//! The steps of keepers, instances, proxies and clients, and their faults.

use super::state::{ElectionReason, Info, Keeper, KeeperPhase, Late, ModelState, Next, Violation};
use super::wal::PROMOTION;
use super::{Rule, Rules};

impl<const KEEPERS: usize> ModelState<KEEPERS> {
    pub(super) fn faults(&self, index: usize, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        if keeper.phase == KeeperPhase::Down {
            let mut state = *self;
            let again = &mut state.keepers[index];
            again.stop(); // one that was left running
            again.phase = KeeperPhase::Up;
            again.boot += 1;
            next.push((("starts again", index), state));
        }
        if matches!(keeper.phase, KeeperPhase::Leaving | KeeperPhase::Pausing) {
            let mut state = *self;
            if keeper.runs {
                state.keepers[index].stop();
                next.push((("stops its postgres", index), state));
            } else {
                state.keepers[index].phase = KeeperPhase::Down;
                next.push((("ends", index), state));
            }
        }
        if self.left.faults == 0 {
            return;
        }
        let mut fault = |what, change: fn(&mut Keeper)| {
            let mut state = *self;
            state.left.faults -= 1;
            let keeper = &mut state.keepers[index];
            change(keeper);
            keeper.may_start &= keeper.phase == KeeperPhase::Up;
            keeper.reports_stopped &= keeper.phase == KeeperPhase::Up;
            keeper.stopping &= keeper.phase == KeeperPhase::Up;
            keeper.has_read_order &= keeper.phase == KeeperPhase::Up;
            next.push(((what, index), state));
        };
        if keeper.phase == KeeperPhase::Up {
            fault("gets SIGTERM", |keeper| keeper.phase = KeeperPhase::Leaving);
            fault("gets SIGINT", |keeper| keeper.phase = KeeperPhase::Pausing);
        }
        if keeper.phase != KeeperPhase::Down {
            fault("is killed, its postgres runs on", |keeper| {
                keeper.phase = KeeperPhase::Down
            });
        }
        if keeper.runs {
            fault("loses its postgres", |keeper| {
                keeper.runs = false;
                keeper.is_clean = false;
            });
            fault("is killed with its postgres", |keeper| {
                keeper.phase = KeeperPhase::Down;
                keeper.runs = false;
                keeper.is_clean = false;
            });
        }
    }

    /// A keeper's puts into the store, and their outcomes.
    pub(super) fn requests(&self, index: usize, rules: Rules, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        let on_none = self.infos[index].is_none();
        let mut info = keeper.info();
        if on_none && rules.has(Rule::StoppedNeedsAnInfo) {
            info.stopped = None; // the next info has it
        }
        if keeper.phase != KeeperPhase::Down && self.infos[index] != Some(info) {
            next.push((("publishes", index), self.with_info(index, Some(info), rules)));
            if self.left.late_requests > 0 && keeper.late.is_none() {
                let mut state = *self;
                state.left.late_requests -= 1;
                state.keepers[index].late = Some(Late { info, on_none });
                next.push((("gives a publication up", index), state));
            }
        }
        if let Some(late) = keeper.late {
            let mut state = *self;
            state.keepers[index].late = None;
            let in_time = !rules.has(Rule::ConditionalPuts) || late.on_none == self.infos[index].is_none();
            if in_time {
                state = state.with_info(index, Some(late.info), rules);
            }
            next.push((("is late: its request arrives", index), state));
        }
        if self.left.expiries > 0 && self.infos[index].is_some() {
            let mut state = self.with_info(index, None, rules);
            state.left.expiries -= 1;
            next.push((("loses its info", index), state));
        }
    }

    /// Returns the state with another info. Decisions and requests that were conditional on the previous one are
    /// dropped.
    pub(super) fn with_info(&self, index: usize, info: Option<Info>, rules: Rules) -> Self {
        let mut state = *self;
        state.infos[index] = info;
        let late = &mut state.keepers[index].late;
        if rules.has(Rule::ConditionalPuts) && late.is_some_and(|late| !late.on_none) {
            *late = None;
        }
        for plan in &mut state.plans {
            if rules.has(Rule::ConditionalElections) && plan.is_some_and(|plan| plan.depends_on & 1 << index != 0) {
                *plan = None;
            }
        }
        state
    }

    /// A keeper's steps on its instance.
    pub(super) fn reconcile_steps(&self, index: usize, rules: Rules, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        if keeper.phase != KeeperPhase::Up {
            return;
        }
        if keeper.may_start {
            next.push((("starts as master", index), self.after_start(index)));
        }
        let db = self.data.dbs[index];
        if db.boot != keeper.boot {
            return; // keeper R10
        }
        let is_master = db.is_master_type && (self.data.master == index || !rules.has(Rule::OldMasterStaysStopped));
        let same = keeper.uid == db.uid;
        if same && db.is_master_type {
            self.order_steps(index, rules, next);
        }
        let is_ordered = self.switchover.has_order(index) && rules.has(Rule::PermitNeedsNoOrder);
        if is_master && same && !keeper.is_serving() && !keeper.may_start && !is_ordered {
            let mut state = *self;
            state.keepers[index].may_start = true;
            state.keepers[index].reports_stopped = false;
            state.keepers[index].stopping = false;
            state.keepers[index].has_read_order = false;
            if rules.has(Rule::Permit) {
                let info = state.keepers[index].info();
                state = state.with_info(index, Some(info), rules);
                next.push((("gets a permit", index), state));
            } else {
                next.push((("reads that it is the master", index), state));
            }
        }
        if db.is_master_type && !is_master && same && (keeper.runs || !keeper.reports_stopped) {
            let mut state = *self;
            let old = &mut state.keepers[index];
            old.stop();
            old.reports_stopped = true;
            old.stopping = false;
            old.may_start = false;
            next.push((("keeps its old master down", index), state));
        }
        if !db.is_master_type && same && !keeper.runs && !keeper.is_master {
            let mut state = *self;
            state.keepers[index].runs = true;
            next.push((("starts its standby", index), state));
        }
        let source = self.keepers[self.data.master];
        if !db.is_master_type && !same && source.is_serving() && source.uid == self.data.dbs[self.data.master].uid {
            let mut state = *self;
            state.keepers[index] = Keeper {
                runs: true,
                is_master: false,
                is_clean: false,
                log: source.log,
                uid: db.uid,
                may_start: false,
                reports_stopped: false,
                stopping: false,
                has_read_order: false,
                ..keeper
            };
            state.published = self.published.filter(|published| *published != index);
            next.push((("makes its new standby", index), state));
        }
    }

    pub(super) fn after_start(&self, index: usize) -> Self {
        let mut state = *self;
        let keeper = &mut state.keepers[index];
        if !keeper.is_master {
            keeper.log = keeper.log.push(PROMOTION + u32::try_from(index).unwrap());
        }
        keeper.runs = true;
        keeper.is_master = true;
        keeper.is_clean = false;
        (keeper.may_start, keeper.has_leftover_permit) = (false, false);
        if self.data.master != index && !self.keepers[index].has_leftover_permit {
            state.violation = Some(Violation::StartedWithoutBeingMaster);
        }
        state
    }

    pub(super) fn replication(&self, index: usize, next: &mut Next<KEEPERS>) {
        let standby = self.keepers[index];
        if !standby.runs || standby.is_master {
            return;
        }
        for master in self.keepers.iter().filter(|keeper| keeper.is_serving()) {
            if standby.log.is_prefix_of(master.log) && standby.log != master.log {
                let mut state = *self;
                state.keepers[index].log = master.log.first(standby.log.end() + 1);
                next.push((("receives an entry", index), state));
            }
        }
    }

    /// The steps of proxies and clients.
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
            let state = Self {
                route: Some(to),
                ..*self
            };
            next.push((("is opened by the proxies", to), state));
        }
    }

    pub(super) fn after_write(&self, to: usize) -> Self {
        let mut state = *self;
        state.left.writes -= 1;
        state.written += 1;
        let log = &mut state.keepers[to].log;
        *log = log.push(state.written.into());
        state.acknowledged |= 1 << state.written;
        if to == self.data.master {
            state.acknowledged_by_current |= 1 << state.written;
        } else if !self.loss_allowed || matches!(self.reason, ElectionReason::JustPromoted(_)) {
            state.violation = Some(Violation::AcknowledgedAfterElection);
        }
        state
    }
}
