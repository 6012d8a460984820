//! What one proxy can do next. The sentinel and the clock are left to `world`.

use super::history::{History, Reign, Version};
use super::rules::{CheckIn, Copies, Gate, LeaseFrom, Reads, Rules};
use super::world::Bounds;

/// One proxy, its info in the store, and what the sentinel read of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Proxy {
    /// Forwards to the address of this master.
    pub(super) open: Option<Reign>,
    /// Remaining ticks of its lease.
    pub(super) lease: u8,
    /// Has passed the gate, and will read and write bytes next ([`Gate::BeforeTaking`]).
    pub(super) looked: bool,
    pub(super) step: Step,
    /// An announcement sent before that of `step` that may still be answered. One is enough to find what many do.
    pub(super) earlier: Option<Announcement>,
    /// A request that timed out for its proxy and may still arrive.
    pub(super) late: Option<Version>,
    /// The stored info names the generation of "no master" or a later one.
    pub(super) acknowledged: bool,
    /// Ticks since the stored info was last written, up to the length of silence that the sentinel uses.
    pub(super) silent: u8,
    /// The sentinel's last read of the info.
    pub(super) seen_acknowledged: bool,
    pub(super) seen_silent: bool,
}

/// The progress of a proxy's check-in; `age` is the ticks since its lease began, at most a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Step {
    Idle,
    /// The read was sent.
    Reading {
        age: u8,
    },
    /// The response has arrived and is not processed.
    Read {
        data: Version,
        age: u8,
    },
    /// The announcement was sent.
    Announcing {
        data: Version,
        age: u8,
    },
    /// It was executed or refused; the response has not arrived.
    Answered {
        data: Version,
        done: bool,
        age: u8,
    },
}

/// An announcement in flight; `done` once it was executed or refused and the response has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Announcement {
    pub(super) data: Version,
    pub(super) done: Option<bool>,
    pub(super) age: u8,
}

impl Proxy {
    pub(super) const FRESH: Self = Self {
        open: None,
        lease: 0,
        looked: false,
        step: Step::Idle,
        earlier: None,
        late: None,
        acknowledged: false,
        silent: 0,
        seen_acknowledged: false,
        seen_silent: false,
    };

    /// Returns the master from which the rules let it forward a byte that it has just read.
    pub(super) fn would_give(&self, rules: Rules) -> Option<Reign> {
        self.open.filter(|_| match rules.gate {
            Gate::AfterTaking => self.lease > 0,
            Gate::BeforeTaking => self.looked,
            Gate::TimerOnly => true,
        })
    }

    /// Everything that it can do next, and what it has sent can cause.
    pub(super) fn next(self, stored: History, rules: Rules, bounds: Bounds) -> Vec<(&'static str, Self)> {
        let mut next = self.forwarding_steps(rules);
        if let Some(late) = self.late {
            next.push((
                "a late request arrives",
                Self { late: None, ..self }.announced(late, stored, rules).0,
            ));
        }
        next.extend(self.after_copies(stored, rules, bounds));
        next.extend(self.check_in_steps(stored, rules, bounds));
        next
    }

    /// What may happen between it and its clients.
    fn forwarding_steps(self, rules: Rules) -> Vec<(&'static str, Self)> {
        let mut next = Vec::new();
        if self.open.is_some() && self.lease == 0 {
            next.push(("closes, its lease has ended", Self { open: None, ..self }));
        }
        if rules.gate == Gate::BeforeTaking {
            if self.open.is_some() && self.lease > 0 && !self.looked {
                next.push(("checks the gate", Self { looked: true, ..self }));
            }
            if self.looked {
                next.push(("takes and gives", Self { looked: false, ..self }));
            }
        }
        next
    }

    /// The next steps of its check-in.
    fn check_in_steps(self, stored: History, rules: Rules, bounds: Bounds) -> Vec<(&'static str, Self)> {
        let mut next = Vec::new();
        let at = |step| Self { step, ..self };
        match self.step {
            Step::Idle => next.push(("requests the data", at(Step::Reading { age: 0 }))),
            Step::Reading { age } => {
                for data in 0..=stored.version() {
                    let stale = data < stored.version();
                    if !stale || rules.reads == Reads::MayBeStale {
                        let what = if stale {
                            "reads a stale value"
                        } else {
                            "reads the value"
                        };
                        next.push((what, at(Step::Read { data, age })));
                    }
                }
            }
            Step::Read { data, age } => {
                // a conditional announcement starts the lease itself; an unconditional one uses the read's
                let age = if rules.check_in == CheckIn::Blind { age } else { 0 };
                let stays = rules.check_in == CheckIn::AnnouncedFirst || self.open == stored.published(data);
                let open = self.open.filter(|_| stays);
                let same = |earlier: &Announcement| earlier.data == data || rules.copies == Copies::NeverDiscarded;
                let discarded = self.earlier.filter(|earlier| !same(earlier));
                next.push((
                    "announces itself",
                    Self {
                        open,
                        step: Step::Announcing { data, age },
                        earlier: self.earlier.filter(same),
                        late: self
                            .late
                            .or(discarded.filter(|copy| copy.done.is_none()).map(|copy| copy.data)),
                        ..self
                    },
                ));
            }
            Step::Announcing { data, age } => {
                let (mut announced, done) = self.announced(data, stored, rules);
                announced.step = Step::Answered { data, done, age };
                next.push(("its announcement arrives", announced));
                // one such request at a time is enough to find what many do
                next.push((
                    "gives the request up",
                    Self {
                        late: Some(data),
                        earlier: None,
                        step: Step::Idle,
                        ..self
                    },
                ));
            }
            Step::Answered { data, done, age } => {
                let idle = at(Step::Idle);
                let answer = Announcement {
                    data,
                    done: Some(done),
                    age,
                };
                next.push(idle.answered(answer, stored, rules, bounds));
                next.push(("misses the response", idle));
            }
        }
        next
    }

    /// Processes the response to an announcement.
    fn answered(self, answer: Announcement, stored: History, rules: Rules, bounds: Bounds) -> (&'static str, Self) {
        // forwarding to the master that is announced last violates nothing any more
        let matters = stored.version() < bounds.writes;
        let published = stored.published(answer.data);
        if published.is_none() {
            return ("learns that it was announced closed", Self { open: None, ..self });
        }
        if answer.done != Some(true) || !(matters || answer.data < bounds.writes) {
            return ("learns that the data has changed", self);
        }
        let left = match rules.lease_from {
            LeaseFrom::Sending => bounds.lease - answer.age,
            LeaseFrom::Answer => bounds.lease,
        };
        // responses may arrive out of order, and none shortens the lease
        let lease = if self.open == published {
            left.max(self.lease)
        } else {
            left
        };
        let open = Self {
            open: published,
            lease,
            ..self
        };
        ("opens until its lease ends", open)
    }

    /// A repeated announcement, and the outcome of the earlier copy.
    fn after_copies(self, stored: History, rules: Rules, bounds: Bounds) -> Vec<(&'static str, Self)> {
        let mut next = Vec::new();
        let Some(earlier) = self.earlier else {
            let sent = match self.step {
                _ if rules.copies == Copies::None => None,
                Step::Announcing { data, age } => Some(Announcement { data, done: None, age }),
                Step::Answered { data, done, age } => Some(Announcement {
                    data,
                    done: Some(done),
                    age,
                }),
                Step::Idle | Step::Reading { .. } | Step::Read { .. } => None,
            };
            if let Some(sent) = sent {
                let step = Step::Announcing {
                    data: sent.data,
                    age: 0,
                };
                let again = Self {
                    step,
                    earlier: Some(sent),
                    ..self
                };
                next.push(("announces the same again", again));
            }
            return next;
        };
        let without = Self { earlier: None, ..self };
        let Some(done) = earlier.done else {
            let (mut announced, done) = self.announced(earlier.data, stored, rules);
            announced.earlier = Some(Announcement {
                done: Some(done),
                ..earlier
            });
            return vec![("an earlier copy arrives", announced)];
        };
        let (_, mut after) = without.answered(earlier, stored, rules, bounds);
        match (self.step, rules.copies) {
            (Step::Announcing { age, .. } | Step::Answered { age, .. }, Copies::LastSending) if done => {
                let newest = Announcement { age, ..earlier };
                (_, after) = without.answered(newest, stored, rules, bounds);
            }
            // the other copies are of no use any more
            (Step::Announcing { data, .. }, _) if !done && data == earlier.data => {
                (after.step, after.late) = (Step::Idle, self.late.or(Some(data)));
            }
            _ => {}
        }
        next.push(("an earlier copy is answered", after));
        next.push(("misses the response to an earlier copy", without));
        next
    }

    /// Returns the stored info after an announcement, and whether it was executed.
    fn announced(self, data: Version, stored: History, rules: Rules) -> (Self, bool) {
        if rules.check_in != CheckIn::Blind && data != stored.version() {
            return (self, false);
        }
        let acknowledged = stored.closed_since().is_some_and(|since| data >= since);
        (
            Self {
                acknowledged,
                silent: 0,
                ..self
            },
            true,
        )
    }
}
