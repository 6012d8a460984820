//! Switchovers (extensions X-2): their requests and orders, the steps of leading sentinels, and those of the keeper that
//! has the order. A request or an order may end at any time: by its lease, by the command that withdraws it, or because
//! the leader gives the switchover up. Elections after a failure are left to `sentinels`.

use super::state::{Data, ElectionReason, FailedBy, KeeperPhase, ModelState, Next, Plan, Violation};
use super::{Rule, Rules};

/// What the store has of a switchover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Switchover<const KEEPERS: usize> {
    /// The request exists.
    pub(super) is_requested: bool,
    /// The orders of the keepers.
    pub(super) orders: [Order; KEEPERS],
    /// A db was elected since the request. Not part of the store, only for the claims.
    pub(super) has_elected: bool,
}

/// The order of a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Order {
    Absent,
    Checkpoint,
    Stop,
}

/// The put of an order that may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LateOrder {
    keeper: usize,
    order: Order,
}

impl<const KEEPERS: usize> Switchover<KEEPERS> {
    pub(super) const ABSENT: Self = Self {
        is_requested: false,
        orders: [Order::Absent; KEEPERS],
        has_elected: false,
    };

    /// Returns whether there is a request or an order.
    pub(super) fn is_live(&self) -> bool {
        self.is_requested || self.orders.iter().any(|order| *order != Order::Absent)
    }

    pub(super) fn has_order(&self, keeper: usize) -> bool {
        self.orders[keeper] != Order::Absent
    }

    fn with_order(mut self, keeper: usize, order: Order) -> Self {
        self.orders[keeper] = order;
        self
    }

    fn without_request(self) -> Self {
        Self {
            is_requested: false,
            has_elected: false,
            ..self
        }
    }
}

impl<const KEEPERS: usize> ModelState<KEEPERS> {
    /// Returns the state with another request or other orders. What depends on them as they were is dropped.
    fn with_switchover(&self, switchover: Switchover<KEEPERS>, rules: Rules) -> Self {
        let before = self.switchover;
        let mut state = *self;
        state.switchover = switchover;
        let request_changed = before.is_requested != switchover.is_requested;
        let depends = |plan: &Plan<KEEPERS>| {
            let order_changed = before.orders != switchover.orders;
            let is_refused =
                request_changed && rules.has(Rule::SwitchOnRequest) || order_changed && rules.has(Rule::SwitchOnOrder);
            plan.reason == Some(ElectionReason::Switchover) && is_refused
        };
        for plan in &mut state.plans {
            *plan = plan.filter(|plan| !depends(plan));
        }
        state.late_order = self.late_order.filter(|late| {
            let order_changed = before.orders[late.keeper] != switchover.orders[late.keeper];
            let is_refused =
                request_changed && rules.has(Rule::OrderOnRequest) || order_changed && rules.has(Rule::OrderOnOrder);
            !is_refused
        });
        if !rules.has(Rule::AcceptNeedsOrder) {
            for (keeper, order) in state.keepers.iter_mut().zip(switchover.orders) {
                keeper.has_read_order |= order == Order::Stop && keeper.phase == KeeperPhase::Up;
            }
        }
        state
    }

    /// Records an election in place of the db of keeper `from`. That of a switchover deletes its request and its order.
    pub(super) fn record_election(&mut self, from: usize, reason: ElectionReason, rules: Rules) {
        let mut after = self.switchover;
        after.has_elected |= after.is_requested;
        if reason == ElectionReason::Switchover {
            if !self.switchover.is_requested {
                self.violation = Some(Violation::SwitchedWithoutRequest);
            }
            if self.switchover.has_elected {
                self.violation = Some(Violation::SwitchedTwice);
            }
            if rules.has(Rule::SwitchDeletesRequest) {
                after = after.without_request();
            }
            if rules.has(Rule::SwitchDeletesOrder) {
                after = after.with_order(from, Order::Absent);
            }
        }
        *self = self.with_switchover(after, rules);
    }

    /// Whether the master's keeper reports it running as master.
    fn is_reported_running(&self, data_read: &Data<KEEPERS>) -> bool {
        self.infos[data_read.master].is_some_and(|info| {
            let runs = info.runs.is_some_and(|runs| runs.as_master);
            runs && info.uid == data_read.dbs[data_read.master].uid
        })
    }

    /// And that it is not being stopped.
    pub(super) fn is_reported_well(&self, data_read: &Data<KEEPERS>) -> bool {
        let info = self.infos[data_read.master];
        self.is_reported_running(data_read) && !info.is_some_and(|info| info.is_leaving_or_stopped())
    }

    pub(super) fn may_be_announced(&self, data_read: &Data<KEEPERS>, rules: Rules) -> bool {
        let info = self.infos[data_read.master];
        let is_ending = info.is_some_and(|info| info.leaving || info.stopped.is_some());
        let runs = self.is_reported_running(data_read) && !is_ending;
        let is_stopping = info.is_some_and(|info| info.stopping);
        (runs || !rules.has(Rule::AnnounceOnlyRunning)) && !(is_stopping && rules.has(Rule::AnnounceNotStopping))
    }

    /// Requests and orders come and go, and the proxies are closed between them.
    pub(super) fn switchover_steps(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let master = data_read.master;
        let now = self.switchover;
        for keeper in (0..KEEPERS).filter(|keeper| now.has_order(*keeper)) {
            // Its lease has ended; or it belongs to nothing, and is deleted.
            let without = now.with_order(keeper, Order::Absent);
            next.push((("has no order any more", keeper), self.with_switchover(without, rules)));
        }
        if now.is_requested {
            let withdrawn = self.with_switchover(now.without_request(), rules);
            next.push((("is kept, the request is withdrawn", master), withdrawn));
            let given_up = self.with_switchover(Switchover::ABSENT, rules);
            next.push((("is kept, the switchover is given up", master), given_up));
            self.next_step(data_read, rules, next);
        } else if self.left.switchovers > 0 && self.may_begin(data_read, rules) {
            let requested = Switchover {
                is_requested: true,
                ..now
            };
            let mut state = self.with_switchover(requested, rules);
            state.left.switchovers -= 1;
            next.push((("shall be replaced by a switchover", master), state));
        }
        if let Some(late) = self.late_order {
            let mut state = self.with_switchover(now.with_order(late.keeper, late.order), rules);
            state.late_order = None;
            next.push((("gets an order that is late", late.keeper), state));
        }
        self.order_time(data_read, rules, next);
    }

    /// Checks the master of step 0.
    fn may_begin(&self, data_read: &Data<KEEPERS>, rules: Rules) -> bool {
        let mut others = (0..KEEPERS).filter(|index| *index != data_read.master);
        let is_alone = others.all(|index| !data_read.dbs[index].is_master_type);
        let is_announced = data_read.proxied == Some(data_read.master);
        is_announced && (is_alone || !rules.has(Rule::NoFormerMaster)) && self.is_reported_well(data_read)
    }

    /// The steps 1 to 3 of the leader.
    fn next_step(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let master = data_read.master;
        let is_open = data_read.proxied.is_some();
        let runs = self.is_reported_running(data_read);
        let is_stopping = self.infos[master].is_some_and(|info| info.stopping && !info.leaving);
        let may_stop = self.route.is_none() || !rules.has(Rule::OrderOnceClosed);
        match self.switchover.orders[master] {
            Order::Absent if is_open && self.may_begin(data_read, rules) => {
                self.put_order(master, Order::Checkpoint, rules, next);
            }
            Order::Checkpoint if is_open && runs => {
                let closed = Data {
                    proxied: None,
                    ..*data_read
                };
                next.push((("is no longer published", master), self.with_data(closed, rules)));
            }
            Order::Absent if !is_open && is_stopping && may_stop => self.put_order(master, Order::Stop, rules, next),
            Order::Checkpoint if !is_open && runs && may_stop => self.put_order(master, Order::Stop, rules, next),
            Order::Absent | Order::Checkpoint | Order::Stop => {}
        }
    }

    fn put_order(&self, keeper: usize, order: Order, rules: Rules, next: &mut Next<KEEPERS>) {
        let put = self.with_switchover(self.switchover.with_order(keeper, order), rules);
        let what = match order {
            Order::Stop => "is ordered to stop",
            Order::Absent | Order::Checkpoint => "is ordered to make a checkpoint",
        };
        next.push(((what, keeper), put));
        if self.left.late_requests > 0 && self.late_order.is_none() {
            let mut state = *self;
            state.left.late_requests -= 1;
            state.late_order = Some(LateOrder { keeper, order });
            next.push((("may get an order later", keeper), state));
        }
    }

    /// The spec of the master changes; and time passes while its keeper has an order, so that it would count as failed.
    fn order_time(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let master = data_read.master;
        if self.left.spec_changes > 0 && !self.is_converging {
            let mut state = *self;
            state.left.spec_changes -= 1;
            state.is_converging = true;
            next.push((("gets another spec", master), state));
        }
        let is_error = !rules.has(Rule::OrderTimeIsNoError) && !self.is_reported_running(data_read);
        let is_late = !rules.has(Rule::OrderTimeIsNoDelay) && self.is_converging;
        if self.switchover.has_order(master) && !self.is_overdue && (is_error || is_late) {
            let state = Self {
                is_overdue: true,
                ..*self
            };
            next.push((("is in error for failInterval, or not converged", master), state));
        }
    }

    /// Elects because of the time that passed while the master's keeper had an order.
    pub(super) fn decide_on_order_time(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let has_failed = !self.is_reported_running(data_read) || self.is_converging;
        if self.is_overdue && has_failed {
            self.decide_on_failed(data_read, FailedBy::OrderTime, rules, next);
        }
    }

    /// The election of a switchover (step 5).
    pub(super) fn decide_on_order(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let master = data_read.master;
        let is_closed = data_read.proxied.is_none() && self.route.is_none();
        let is_ordered = self.switchover.is_requested && self.switchover.orders[master] == Order::Stop;
        if !is_ordered || !is_closed {
            return;
        }
        let info = self.infos[master].filter(|info| !info.leaving && info.boot == data_read.dbs[master].boot);
        let stopped = info.and_then(|info| info.stopped);
        let depends_on = if rules.has(Rule::SwitchOnInfo) { 1 << master } else { 0 };
        if let Some(stopped) = stopped.filter(|stopped| !rules.has(Rule::CleanStop) || stopped.clean_at.is_some()) {
            for to in self.candidates(data_read, rules, Some(stopped)) {
                self.elect(data_read, to, ElectionReason::Switchover, depends_on, rules, next);
            }
        }
    }

    /// The steps of a master's keeper on its order (extensions ).
    pub(super) fn order_steps(&self, index: usize, rules: Rules, next: &mut Next<KEEPERS>) {
        let keeper = self.keepers[index];
        let is_ordered = self.switchover.orders[index] == Order::Stop;
        let is_master = self.data.master == index;
        let is_closed = self.data.proxied.is_none();
        let may_accept = (is_ordered || keeper.has_read_order)
            && (is_master || !rules.has(Rule::AcceptNeedsMaster))
            && (is_closed || !rules.has(Rule::AcceptNeedsClosed));
        if may_accept && !keeper.stopping {
            let mut state = *self;
            let after = &mut state.keepers[index];
            (after.stopping, after.may_start, after.reports_stopped) = (true, false, false);
            after.has_read_order = false;
            let info = after.info();
            next.push((
                ("accepts the order to stop", index),
                state.with_info(index, Some(info), rules),
            ));
        }
        if keeper.stopping && keeper.runs {
            let mut state = *self;
            state.keepers[index].stop();
            if self.data.proxied == Some(index) || self.route == Some(index) {
                state.violation = Some(Violation::StoppedUnderClients);
            }
            next.push((("stops its postgres, as ordered", index), state));
        }
        if keeper.stopping && keeper.is_serving() && !is_ordered && is_master {
            let mut state = *self;
            state.keepers[index].stopping = false;
            next.push((("goes on, the order is gone", index), state));
        }
        if self.is_converging && is_master && keeper.is_serving() && !keeper.stopping {
            let state = Self {
                is_converging: false,
                ..*self
            };
            next.push((("has applied its spec", index), state));
        }
    }
}
