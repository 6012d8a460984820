//! What the world is made of: the store, the keepers with their data, the plans under way; where it begins; and what must
//! never happen in it. What happens is left to `keepers` and `sentinels`.

use super::wal::{Log, PROMOTION};
use super::{Bounds, Rule, Rules};

/// What is read and written as `clusterdata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Data<const KEEPERS: usize> {
    pub(super) master: usize,
    /// Whom the proxy section names.
    pub(super) proxied: Option<usize>,
    /// It lets a proxy in.
    pub(super) enabled: bool,
    pub(super) dbs: [Db; KEEPERS],
}

/// A keeper's db.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Db {
    /// Its uid: a new one whenever the db is made anew.
    pub(super) uid: u8,
    /// Its role is master.
    pub(super) is_head: bool,
    /// The boot uuid of its keeper that was acknowledged.
    pub(super) boot: u8,
    /// What was last recorded of its WAL; none: it was never seen complete.
    pub(super) record: Option<Log>,
}

/// A keeper's info.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Info {
    pub(super) boot: u8,
    /// Which db it is about.
    pub(super) uid: u8,
    pub(super) leaving: bool,
    pub(super) stopped: Option<Stopped>,
    /// The instance is well.
    pub(super) runs: Option<Runs>,
}

/// How an instance was stopped: clean, with its end and timeline, or not.
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
    /// The keeper or its instance is on its way down, or down.
    pub(super) fn is_going(&self) -> bool {
        self.leaving || self.stopped.is_some()
    }
}

/// A keeper, its instance and its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    pub(super) life: Life,
    pub(super) boot: u8,
    /// The instance runs; as master, or standby, as its data are.
    pub(super) runs: bool,
    pub(super) is_master: bool,
    /// It was stopped in order.
    pub(super) is_clean: bool,
    pub(super) log: Log,
    pub(super) uid: u8,
    /// It holds a permit, or, where none is needed, has read that it is the master.
    pub(super) may_start: bool,
    /// It says that the old master which it keeps down is stopped.
    pub(super) says_stopped: bool,
    pub(super) late: Option<Late>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Gone,
    Up,
    /// After SIGTERM.
    Leaving,
    /// After SIGINT.
    Pausing,
}

/// A put that its keeper has given up, which may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Late {
    pub(super) info: Info,
    /// It was sent on the condition that there is no info; otherwise, that its keeper's last one is still there.
    pub(super) on_none: bool,
}

impl Keeper {
    pub(super) fn is_serving(&self) -> bool {
        self.runs && self.is_master
    }

    /// What it publishes.
    pub(super) fn info(&self) -> Info {
        let ended = !self.runs && matches!(self.life, Life::Leaving | Life::Pausing);
        let stopped = Stopped {
            clean_at: self.is_clean.then_some((self.log.end(), self.log.timeline())),
        };
        Info {
            boot: self.boot,
            uid: self.uid,
            leaving: self.life == Life::Leaving,
            stopped: (ended || self.says_stopped).then_some(stopped),
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

/// What was decided and not yet written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan<const KEEPERS: usize> {
    pub(super) next: Data<KEEPERS>,
    /// Why another master is elected, if one is.
    pub(super) why: Option<Why>,
    /// The keepers on whose infos it depends, a bit each.
    pub(super) depends_on: u8,
}

/// Why the present master was elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Why {
    /// It was it from the start.
    First,
    /// The last one said goodbye (extensions ).
    Goodbye,
    /// The last one failed.
    Failed(How),
    /// The last one failed before it was published, and this one was master before (extensions ).
    Unpublished(How),
    /// The last one failed soon after its promotion, and this one was master before (sentinel C-12).
    JustPromoted(How),
}

/// How a failed master came to be known as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// Its keeper has said nothing for failInterval.
    Silent,
    /// Its keeper said for failInterval that it is not well, or not master yet. It may hold a permit.
    Spoken,
}

impl Why {
    /// Whether a keeper whose db was just replaced may still hold a permit that was asked for before.
    pub(super) fn leaves_a_permit(self) -> bool {
        matches!(
            self,
            Self::Failed(How::Spoken) | Self::Unpublished(How::Spoken) | Self::JustPromoted(How::Spoken)
        )
    }
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    /// A proxy carries to one and the data name another.
    CarriedToAnother,
    /// An instance starts as master, or is promoted, and is not the master.
    StartedOutOfTurn,
    /// Another was elected although the master had been permitted to start since it was judged.
    ElectedBlindly,
    /// An election after a goodbye, or one that goes back, loses what was acknowledged.
    LostByElection,
    /// After such an election the old master acknowledges more.
    AcknowledgedAfterElection,
    /// A master is published without what was acknowledged, and no failed master explains it.
    LostByPublication,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct World<const KEEPERS: usize> {
    pub(super) data: Data<KEEPERS>,
    pub(super) infos: [Option<Info>; KEEPERS],
    pub(super) keepers: [Keeper; KEEPERS],
    /// Two without the leader guard, else one.
    pub(super) plans: [Option<Plan<KEEPERS>>; 2],
    /// To whom the proxies carry.
    pub(super) route: Option<usize>,
    pub(super) left: Bounds,
    // What the store does not know, for the claims only.
    pub(super) written: u8,
    /// Writes that were acknowledged and are not lost with good reason.
    pub(super) acknowledged: u8,
    /// Those that the present master acknowledged since it was elected.
    pub(super) acknowledged_here: u8,
    /// It was published since it was elected.
    pub(super) published_here: bool,
    pub(super) why: Why,
    /// Who was last published, while its data are still those.
    pub(super) published: Option<usize>,
    /// Since the last publication a failed master was replaced: what only it has may be lost.
    pub(super) may_lose: bool,
    pub(super) wrong: Option<Wrong>,
}

/// What happened, and to which keeper.
pub(super) type Event = (&'static str, usize);
pub(super) type Next<const KEEPERS: usize> = Vec<(Event, World<KEEPERS>)>;

impl<const KEEPERS: usize> World<KEEPERS> {
    /// Keeper 0 is the master, the others follow, all is well.
    pub(super) fn start(bounds: Bounds) -> Self {
        let keeper = |index: usize| Keeper {
            life: Life::Up,
            boot: 0,
            runs: true,
            is_master: index == 0,
            is_clean: false,
            log: Log::EMPTY,
            uid: 0,
            may_start: false,
            says_stopped: false,
            late: None,
        };
        let keepers = std::array::from_fn(keeper);
        let db = |index| Db {
            uid: 0,
            is_head: index == 0,
            boot: 0,
            record: Some(Log::EMPTY),
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
            left: bounds,
            written: 0,
            acknowledged: 0,
            acknowledged_here: 0,
            published_here: true,
            why: Why::First,
            published: Some(0),
            may_lose: false,
            wrong: None,
        }
    }

    /// Keeper 1 was elected over keeper 0, and failed before it could do anything; keeper 0 is the master again, published.
    pub(super) fn gone_back(bounds: Bounds) -> Self {
        let mut world = Self::start(bounds);
        world.data.dbs[1].is_head = true;
        let keeper = &mut world.keepers[1];
        keeper.life = Life::Gone;
        keeper.runs = false;
        world
    }

    /// Keeper 1 was elected over keeper 0, which is gone, and published; keeper 2 has more of the old timeline than it.
    pub(super) fn left_behind(bounds: Bounds) -> Self {
        let mut world = Self::start(bounds);
        world.keepers[0].life = Life::Gone;
        world.keepers[0].runs = false;
        for entry in [6, 7] {
            for keeper in [0, 2] {
                world.keepers[keeper].log = world.keepers[keeper].log.push(entry);
            }
        }
        world.keepers[1] = Keeper {
            is_master: true,
            log: Log::EMPTY.push(PROMOTION + 1),
            ..world.keepers[1]
        };
        world.infos = world.keepers.map(|keeper| Some(keeper.info()));
        world.data.master = 1;
        world.data.proxied = Some(1);
        world.data.dbs[1].is_head = true;
        for (db, keeper) in world.data.dbs.iter_mut().zip(world.keepers) {
            db.record = Some(keeper.log);
        }
        world.route = Some(1);
        world.published = Some(1);
        world
    }

    /// The data are others: with the guard, what depended on those before comes to nothing.
    pub(super) fn wrote(&self, data: Data<KEEPERS>, rules: Rules) -> Self {
        let mut world = *self;
        world.data = data;
        if rules.has(Rule::LeaderGuard) {
            world.plans = [None; 2];
        }
        let Some(to) = data.proxied else { return world };
        if self.route.is_some_and(|route| route != to) {
            world.wrong = Some(Wrong::CarriedToAnother);
        }
        if self.data.proxied != Some(to) {
            world.note_publication(to);
        }
        world
    }

    /// From now on clients write to this one.
    fn note_publication(&mut self, to: usize) {
        let kept = self.acknowledged & self.keepers[to].log.writes();
        if kept != self.acknowledged && !self.may_lose {
            self.wrong = Some(Wrong::LostByPublication);
        }
        self.acknowledged = kept;
        self.published = Some(to);
        self.published_here = true;
        self.may_lose = false;
    }

    /// Another master was elected.
    pub(super) fn elected(&self, data: Data<KEEPERS>, why: Why, rules: Rules) -> Self {
        let (from, to) = (self.data.master, data.master);
        let missing = |writes: u8| writes & !self.keepers[to].log.writes() != 0;
        let recorded = data.dbs[from].record.map_or(0, Log::writes);
        let lost = match why {
            Why::First | Why::Failed(_) => false,
            Why::Goodbye => missing(self.acknowledged) && !self.may_lose,
            Why::Unpublished(_) => self.published_here && missing(self.acknowledged_here),
            Why::JustPromoted(_) => missing(self.acknowledged_here & recorded),
        };
        let mut world = self.wrote(data, rules);
        if self.keepers[from].may_start && rules.has(Rule::Permit) && !why.leaves_a_permit() {
            world.wrong = Some(Wrong::ElectedBlindly);
        }
        if lost {
            world.wrong = Some(Wrong::LostByElection);
        }
        if matches!(why, Why::Unpublished(_)) && !self.published_here {
            world.acknowledged &= !self.acknowledged_here; // through a route of an earlier time
        }
        world.why = why;
        world.acknowledged_here = 0;
        world.published_here = false;
        world.may_lose = match why {
            Why::First | Why::Goodbye => self.may_lose,
            Why::Failed(_) | Why::JustPromoted(_) => true,
            Why::Unpublished(_) => self.published != Some(to),
        };
        world
    }
}
