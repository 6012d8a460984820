//! The state of the model: the store, the keepers with their data, the plans not written yet; the initial states; and
//! the violations. Steps are in `keepers`, `sentinels` and `switchovers`.

use super::switchovers::{LateOrder, Switchover};
use super::wal::{Log, PROMOTION};
use super::{Bounds, Rule, Rules};

/// The cluster data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Data<const KEEPERS: usize> {
    pub(super) master: usize,
    /// The db in the proxy section.
    pub(super) proxied: Option<usize>,
    /// Whether a proxy is enabled.
    pub(super) enabled: bool,
    pub(super) dbs: [Db; KEEPERS],
}

/// A keeper's db.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Db {
    /// Its uid, another one whenever the db is created anew. It wraps around: with three keepers and two masters at once,
    /// a standby may receive from the wrong one, and be made again, any number of times.
    pub(super) uid: u8,
    /// Its role is master.
    pub(super) is_master_type: bool,
    /// The recorded boot uuid of its keeper.
    pub(super) boot: u8,
    /// The last recorded WAL; none: no generation was ever applied.
    pub(super) record: Option<Log>,
    /// Since it was elected, its keeper has reported it running as master. It stays when a former master is elected again
    /// (sentinel N-11).
    pub(super) has_converged: bool,
}

/// A keeper's info.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Info {
    pub(super) boot: u8,
    /// The db that it is about.
    pub(super) uid: u8,
    pub(super) leaving: bool,
    /// It has accepted the order of a switchover.
    pub(super) stopping: bool,
    pub(super) stopped: Option<Stopped>,
    /// The state of a healthy instance.
    pub(super) runs: Option<Runs>,
}

/// How an instance was stopped: cleanly, with its end and timeline, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stopped {
    pub(super) clean_at: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Runs {
    pub(super) as_master: bool,
    pub(super) log: Log,
}

impl Info {
    /// Returns whether the keeper or its instance is shutting down or stopped.
    pub(super) fn is_leaving_or_stopped(&self) -> bool {
        self.leaving || self.stopping || self.stopped.is_some()
    }
}

/// A keeper, its instance and its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    pub(super) phase: KeeperPhase,
    pub(super) boot: u8,
    /// The instance runs, as master or standby according to its data.
    pub(super) runs: bool,
    pub(super) is_master: bool,
    /// It was stopped cleanly.
    pub(super) is_clean: bool,
    pub(super) log: Log,
    pub(super) uid: u8,
    /// It has a permit, or, where none is needed, has read that it is the master.
    pub(super) may_start: bool,
    /// Another db was elected in its place meanwhile, for a reason that leaves the permit. Only for the claims.
    pub(super) has_leftover_permit: bool,
    /// It reports that the old master is stopped.
    pub(super) reports_stopped: bool,
    /// It has accepted the order of a switchover.
    pub(super) stopping: bool,
    /// It has read an order to stop that may be gone. The acceptance is tried again when the cluster data have changed, so
    /// they may be newer than this. Recorded only without [`Rule::AcceptNeedsOrder`].
    pub(super) has_read_order: bool,
    pub(super) late: Option<Late>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum KeeperPhase {
    Down,
    Up,
    /// After SIGTERM.
    Leaving,
    /// After SIGINT.
    Pausing,
}

/// A put that timed out for its keeper and may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Late {
    pub(super) info: Info,
    /// It was sent on the condition that there is no info; otherwise, that its keeper's last info is unchanged.
    pub(super) on_none: bool,
}

impl Keeper {
    pub(super) fn is_serving(&self) -> bool {
        self.runs && self.is_master
    }

    /// Returns the info that it publishes.
    pub(super) fn info(&self) -> Info {
        let ended = !self.runs && matches!(self.phase, KeeperPhase::Leaving | KeeperPhase::Pausing);
        let stopped = Stopped {
            clean_at: self.is_clean.then_some((self.log.end(), self.log.timeline())),
        };
        Info {
            boot: self.boot,
            uid: self.uid,
            leaving: self.phase == KeeperPhase::Leaving,
            stopping: self.stopping,
            stopped: (ended || self.reports_stopped || self.stopping && !self.runs).then_some(stopped),
            runs: self.runs.then_some(Runs {
                as_master: self.is_master,
                log: self.log,
            }),
        }
    }

    pub(super) fn stop(&mut self) {
        self.is_clean |= self.runs;
        self.runs = false;
    }
}

/// A decision that is not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan<const KEEPERS: usize> {
    pub(super) next: Data<KEEPERS>,
    /// The reason of the election, if there is one.
    pub(super) reason: Option<ElectionReason>,
    /// The keepers on whose infos it is conditional, a bit each.
    pub(super) depends_on: u8,
}

/// Why the current master was elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ElectionReason {
    /// It was the initial master.
    First,
    /// The previous one shut down in order (extensions ).
    OrderlyShutdown,
    /// The previous one was stopped in order by a switchover (extensions X-2).
    Switchover,
    /// The previous one failed.
    Failed(FailedBy),
    /// The previous one failed before it was announced, and this one was master before (extensions ).
    Unpublished(FailedBy),
    /// The previous one failed soon after its promotion, and this one was master before (sentinel C-12).
    JustPromoted(FailedBy),
}

/// How the failure of a master was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FailedBy {
    /// Its keeper was silent for failInterval.
    Silence,
    /// Its keeper reported for failInterval that it is unhealthy, or not master yet, or for convergenceTimeout that it has
    /// not applied its spec. It may hold a permit.
    Reported,
    /// It was counted as failed for a time in which its keeper had an order.
    OrderTime,
}

impl ElectionReason {
    /// Returns whether a keeper whose db was just replaced may still hold a permit that was requested before.
    pub(super) fn leaves_a_permit(self) -> bool {
        matches!(
            self,
            Self::Failed(FailedBy::Reported)
                | Self::Unpublished(FailedBy::Reported)
                | Self::JustPromoted(FailedBy::Reported)
        )
    }
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Violation {
    /// A proxy forwards to one db and the data names another.
    ForwardedToAnother,
    /// An instance starts as master, or is promoted, and is not the master.
    StartedWithoutBeingMaster,
    /// Another db was elected although the master has been permitted to start since the decision.
    ElectedOnStaleInfo,
    /// An election after an orderly shutdown, or of a former master, loses acknowledged writes.
    LostByElection,
    /// After such an election the old master acknowledges more writes.
    AcknowledgedAfterElection,
    /// A master without acknowledged writes is announced, and no failed master explains it.
    LostByPublication,
    /// A master is stopped on an order while it is announced or a proxy forwards to it.
    StoppedUnderClients,
    /// A switchover elects a db after its request is gone.
    SwitchedWithoutRequest,
    /// A switchover elects a db although the master was replaced since its request.
    SwitchedTwice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ModelState<const KEEPERS: usize> {
    pub(super) data: Data<KEEPERS>,
    pub(super) infos: [Option<Info>; KEEPERS],
    pub(super) keepers: [Keeper; KEEPERS],
    /// Two without the leader guard, else one.
    pub(super) plans: [Option<Plan<KEEPERS>>; 2],
    /// The db that the proxies forward to.
    pub(super) route: Option<usize>,
    pub(super) switchover: Switchover<KEEPERS>,
    /// The put of an order that timed out for its leader and may still arrive.
    pub(super) late_order: Option<LateOrder>,
    /// The master has not applied its present spec.
    pub(super) is_converging: bool,
    /// A leader counts the master as failed, for a time in which its keeper had an order.
    pub(super) is_overdue: bool,
    pub(super) left: Bounds,
    // Not part of the store, only for the claims.
    pub(super) written: u8,
    /// Writes that were acknowledged and not lost for an allowed reason.
    pub(super) acknowledged: u8,
    /// Those that the current master acknowledged since its election.
    pub(super) acknowledged_by_current: u8,
    /// The current master was announced since its election.
    pub(super) current_was_published: bool,
    /// The current master has failed, and the proxies were closed to elect a former master in its place by sentinel C-12.
    pub(super) is_given_up: bool,
    pub(super) reason: ElectionReason,
    /// The db last announced, while its data is unchanged.
    pub(super) published: Option<usize>,
    /// Since the last announcement a failed master was replaced: what only it has may be lost.
    pub(super) loss_allowed: bool,
    pub(super) violation: Option<Violation>,
}

/// The event and its keeper.
pub(super) type Event = (&'static str, usize);
pub(super) type Next<const KEEPERS: usize> = Vec<(Event, ModelState<KEEPERS>)>;

impl<const KEEPERS: usize> ModelState<KEEPERS> {
    /// Keeper 0 is the master, the others follow it; all are healthy.
    pub(super) fn start(bounds: Bounds) -> Self {
        let keeper = |index: usize| Keeper {
            phase: KeeperPhase::Up,
            boot: 0,
            runs: true,
            is_master: index == 0,
            is_clean: false,
            log: Log::EMPTY,
            uid: 0,
            may_start: false,
            has_leftover_permit: false,
            reports_stopped: false,
            stopping: false,
            has_read_order: false,
            late: None,
        };
        let keepers = std::array::from_fn(keeper);
        let db = |index| Db {
            uid: 0,
            is_master_type: index == 0,
            boot: 0,
            record: Some(Log::EMPTY),
            has_converged: index == 0,
        };
        Self {
            data: Data {
                master: 0,
                proxied: Some(0),
                enabled: true,
                dbs: std::array::from_fn(db),
            },
            infos: keepers.map(|keeper| Some(keeper.info())),
            keepers,
            plans: [None; 2],
            route: Some(0),
            switchover: Switchover::ABSENT,
            late_order: None,
            is_converging: false,
            is_overdue: false,
            left: bounds,
            written: 0,
            acknowledged: 0,
            acknowledged_by_current: 0,
            current_was_published: true,
            is_given_up: false,
            reason: ElectionReason::First,
            published: Some(0),
            loss_allowed: false,
            violation: None,
        }
    }

    /// Keeper 1 was elected in place of keeper 0 and failed before it could do anything; keeper 0 is master again, and
    /// announced.
    pub(super) fn after_fallback(bounds: Bounds) -> Self {
        let mut state = Self::start(bounds);
        state.data.dbs[1].is_master_type = true;
        let keeper = &mut state.keepers[1];
        keeper.phase = KeeperPhase::Down;
        keeper.runs = false;
        state
    }

    /// Keeper 1 was elected in place of keeper 0, which is down, and announced; keeper 2 has more of the old timeline.
    pub(super) fn standby_of_old_timeline(bounds: Bounds) -> Self {
        let mut state = Self::start(bounds);
        state.keepers[0].phase = KeeperPhase::Down;
        state.keepers[0].runs = false;
        for entry in [6, 7] {
            for keeper in [0, 2] {
                state.keepers[keeper].log = state.keepers[keeper].log.push(entry);
            }
        }
        state.keepers[1] = Keeper {
            is_master: true,
            log: Log::EMPTY.push(PROMOTION + 1),
            ..state.keepers[1]
        };
        state.infos = state.keepers.map(|keeper| Some(keeper.info()));
        state.data.master = 1;
        state.data.proxied = Some(1);
        (state.data.dbs[1].is_master_type, state.data.dbs[1].has_converged) = (true, true);
        for (db, keeper) in state.data.dbs.iter_mut().zip(state.keepers) {
            db.record = Some(keeper.log);
        }
        state.route = Some(1);
        state.published = Some(1);
        state
    }

    /// Returns the state with other data. With the guard, plans based on the previous data are dropped.
    pub(super) fn with_data(&self, data: Data<KEEPERS>, rules: Rules) -> Self {
        let mut state = *self;
        state.data = data;
        if rules.has(Rule::LeaderGuard) {
            state.plans = [None; 2];
        }
        if rules.has(Rule::OrderOnData) {
            state.late_order = None;
        }
        let Some(to) = data.proxied else { return state };
        if self.route.is_some_and(|route| route != to) {
            state.violation = Some(Violation::ForwardedToAnother);
        }
        if self.data.proxied != Some(to) {
            state.note_publication(to);
        }
        state
    }

    /// Records that clients write to this db from now on.
    fn note_publication(&mut self, to: usize) {
        let kept = self.acknowledged & self.keepers[to].log.writes();
        if kept != self.acknowledged && !self.loss_allowed {
            self.violation = Some(Violation::LostByPublication);
        }
        self.acknowledged = kept;
        self.published = Some(to);
        self.current_was_published = true;
        self.is_given_up = false;
        self.loss_allowed = false;
    }

    /// Returns the state after an election.
    pub(super) fn elected(&self, data: Data<KEEPERS>, reason: ElectionReason, rules: Rules) -> Self {
        let (from, to) = (self.data.master, data.master);
        let missing = |writes: u8| writes & !self.keepers[to].log.writes() != 0;
        let recorded = data.dbs[from].record.map_or(0, Log::writes);
        let lost = match reason {
            ElectionReason::OrderlyShutdown
            | ElectionReason::Switchover
            | ElectionReason::Failed(FailedBy::OrderTime) => missing(self.acknowledged) && !self.loss_allowed,
            ElectionReason::First | ElectionReason::Failed(_) => false,
            ElectionReason::Unpublished(_) if self.is_given_up => missing(self.acknowledged_by_current & recorded),
            ElectionReason::Unpublished(_) => self.current_was_published && missing(self.acknowledged_by_current),
            ElectionReason::JustPromoted(_) => missing(self.acknowledged_by_current & recorded),
        };
        let mut state = self.with_data(data, rules);
        (state.is_converging, state.is_overdue) = (false, false);
        state.keepers[from].has_leftover_permit = self.keepers[from].may_start && reason.leaves_a_permit();
        state.keepers[to].has_leftover_permit = false;
        state.record_election(from, reason, rules);
        if self.keepers[from].may_start && rules.has(Rule::Permit) && !reason.leaves_a_permit() {
            state.violation = Some(Violation::ElectedOnStaleInfo);
        }
        if lost {
            state.violation = Some(Violation::LostByElection);
        }
        if matches!(reason, ElectionReason::Unpublished(_)) && !self.current_was_published {
            state.acknowledged &= !self.acknowledged_by_current; // through a route of an earlier time
        }
        state.reason = reason;
        state.acknowledged_by_current = 0;
        state.current_was_published = false;
        state.is_given_up = false;
        state.loss_allowed = match reason {
            ElectionReason::First | ElectionReason::OrderlyShutdown | ElectionReason::Switchover => self.loss_allowed,
            ElectionReason::Failed(_) | ElectionReason::JustPromoted(_) => true,
            ElectionReason::Unpublished(_) => self.published != Some(to),
        };
        state
    }
}
