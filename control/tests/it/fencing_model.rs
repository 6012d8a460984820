//! An exhaustive model of fencing (fencing 2 and 3): one failover from the old master, `A`, over "no master" to the
//! new one, seen by one or two proxies. Every order of every process's steps is tried, with any pause between two
//! of them and with requests that arrive late.
//!
//! The claim (fencing 1): once the new master is published, no proxy hands on a byte that it took from the old one
//! after that. Left out: clocks that differ, a proxy that carries for the new master (it carries nothing of `A`).

use std::collections::{HashMap, VecDeque};

/// Which rules are in force.
#[derive(Debug, Clone, Copy)]
struct Rules {
    gate: Gate,
    lease_from: LeaseFrom,
    check_in: CheckIn,
    wait: Wait,
    reads: Reads,
}

/// When a proxy looks whether it may hand on bytes (fencing F-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Between taking bytes and giving them.
    AfterTaking,
    /// Before it takes them.
    BeforeTaking,
    /// Never: a timer of its own closes the route when the lease has ended.
    TimerOnly,
}

/// What a lease is counted from (fencing F-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseFrom {
    /// Before the request that brings it was sent.
    Sending,
    /// When its answer was looked at.
    Answer,
}

/// How a proxy announces itself (fencing F-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckIn {
    /// Only against the revision that it read.
    Conditional,
    /// Whatever has happened since.
    Blind,
    /// Conditional, but a closed route is announced before forwarding has stopped.
    AnnouncedFirst,
}

/// What ends the sentinel's wait for a proxy that has not acknowledged (fencing F-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// A lease has passed since "no master" was written.
    Lease,
    /// It was seen silent for two leases, as in the reference.
    Silence,
    /// Also: a lease has passed since its last info, read together with "no master".
    LeaseOfInfo,
    /// The same, with infos that may have been read before "no master" was written.
    LeaseOfEarlierInfo,
}

impl Wait {
    /// Ticks of silence that the sentinel takes for the end of a proxy's lease.
    fn silence(self, lease: u8) -> Option<u8> {
        match self {
            Self::Lease => None,
            Self::Silence => Some(2 * lease),
            Self::LeaseOfInfo | Self::LeaseOfEarlierInfo => Some(lease),
        }
    }
}

/// What a read of a proxy may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Linearizable,
    MayBeStale,
}

/// All of fencing 3, on a store that may even answer stale reads.
const ALL_RULES: Rules = Rules {
    gate: Gate::AfterTaking,
    lease_from: LeaseFrom::Sending,
    check_in: CheckIn::Conditional,
    wait: Wait::Lease,
    reads: Reads::MayBeStale,
};

/// Whom the cluster data let proxies carry to; there are three versions, and the version is the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Data {
    Old,
    Nobody,
    New,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World<const PROXIES: usize> {
    data: Data,
    /// Ticks since "no master" was written, no further than a lease.
    since_none: u8,
    proxies: [Proxy; PROXIES],
}

/// One proxy, its info in the store, and what the sentinel saw of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Proxy {
    /// Forwards to the old master.
    open: bool,
    /// Ticks that its lease still lasts.
    lease: u8,
    /// Has looked at the gate, and will take and give bytes next ([`Gate::BeforeTaking`]).
    looked: bool,
    step: Step,
    /// A request that was given up by its proxy and may still arrive.
    late: Option<Data>,
    /// The stored info names the generation of "no master" or a later one.
    acknowledged: bool,
    /// Ticks since the stored info was last written, no further than what the sentinel takes for silence.
    silent: u8,
    /// What the sentinel saw when it last read the infos.
    seen_acknowledged: bool,
    seen_silent: bool,
}

/// How far a proxy's check-in has come; `age` is the ticks since its lease began, no further than a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    Idle,
    /// The read was sent.
    Reading {
        age: u8,
    },
    /// The answer is there and not looked at.
    Read {
        data: Data,
        age: u8,
    },
    /// The announcement was sent.
    Announcing {
        data: Data,
        age: u8,
    },
    /// It was carried out, or refused; the proxy does not know yet.
    Answered {
        data: Data,
        done: bool,
        age: u8,
    },
}

impl Proxy {
    const FRESH: Self = Self {
        open: false,
        lease: 0,
        looked: false,
        step: Step::Idle,
        late: None,
        acknowledged: false,
        silent: 0,
        seen_acknowledged: false,
        seen_silent: false,
    };

    /// Whether the rules let it hand on a byte of the old master's that it has just taken.
    fn would_give(&self, rules: Rules) -> bool {
        match rules.gate {
            Gate::AfterTaking => self.open && self.lease > 0,
            Gate::BeforeTaking => self.looked,
            Gate::TimerOnly => self.open,
        }
    }
}

impl<const PROXIES: usize> World<PROXIES> {
    const START: Self = Self {
        data: Data::Old,
        since_none: 0,
        proxies: [Proxy::FRESH; PROXIES],
    };

    fn is_violated(&self, rules: Rules) -> bool {
        self.data == Data::New && self.proxies.iter().any(|proxy| proxy.would_give(rules))
    }

    /// Everything that can happen next.
    fn next(&self, rules: Rules, lease: u8) -> Vec<(String, Self)> {
        let mut next = vec![("a tick passes".to_owned(), self.after_a_tick(rules, lease))];
        if let Some((what, world)) = self.after_the_sentinel(rules, lease) {
            next.push((what.to_owned(), world));
        }
        let mut infos_read = self.clone();
        for proxy in &mut infos_read.proxies {
            proxy.seen_acknowledged = proxy.acknowledged;
            let in_time = rules.wait != Wait::LeaseOfInfo || self.data != Data::Old;
            let silence = rules.wait.silence(lease);
            proxy.seen_silent = in_time && silence.is_some_and(|silence| proxy.silent >= silence);
        }
        next.push(("the sentinel reads the infos".to_owned(), infos_read));
        for index in 0..PROXIES {
            for (what, proxy) in self.after_a_step_of(self.proxies[index], rules, lease) {
                let mut world = self.clone();
                world.proxies[index] = proxy;
                next.push((format!("proxy {index}: {what}"), world));
            }
        }
        for (_, world) in &mut next {
            world.proxies.sort_unstable(); // which proxy is which does not matter
        }
        next
    }

    fn after_a_tick(&self, rules: Rules, lease: u8) -> Self {
        let mut world = self.clone();
        if self.data == Data::Nobody {
            world.since_none = (self.since_none + 1).min(lease);
        }
        for proxy in &mut world.proxies {
            proxy.lease = proxy.lease.saturating_sub(1);
            if let Some(silence) = rules.wait.silence(lease) {
                proxy.silent = (proxy.silent + 1).min(silence);
            }
            match &mut proxy.step {
                Step::Idle => {}
                Step::Reading { age }
                | Step::Read { age, .. }
                | Step::Announcing { age, .. }
                | Step::Answered { age, .. } => *age = (*age + 1).min(lease),
            }
        }
        world
    }

    /// The sentinel writes the next version, when it may.
    fn after_the_sentinel(&self, rules: Rules, lease: u8) -> Option<(&'static str, Self)> {
        match self.data {
            Data::Old => Some((
                "the sentinel writes no master",
                Self {
                    data: Data::Nobody,
                    ..self.clone()
                },
            )),
            Data::Nobody => {
                let is_waited_for = |proxy: &Proxy| match rules.wait {
                    Wait::Lease => !proxy.seen_acknowledged && self.since_none < lease,
                    Wait::Silence => !proxy.seen_acknowledged && !proxy.seen_silent,
                    Wait::LeaseOfInfo | Wait::LeaseOfEarlierInfo => {
                        !proxy.seen_acknowledged && !proxy.seen_silent && self.since_none < lease
                    }
                };
                let all_closed = !self.proxies.iter().any(is_waited_for);
                // how long ago "no master" was written matters no more
                let published = Self {
                    data: Data::New,
                    since_none: 0,
                    ..self.clone()
                };
                all_closed.then_some(("the sentinel publishes the new master", published))
            }
            Data::New => None,
        }
    }

    fn after_a_step_of(&self, proxy: Proxy, rules: Rules, lease: u8) -> Vec<(&'static str, Proxy)> {
        let mut next = Vec::new();
        if proxy.open && proxy.lease == 0 {
            next.push(("closes, its lease has ended", Proxy { open: false, ..proxy }));
        }
        if rules.gate == Gate::BeforeTaking {
            if proxy.open && proxy.lease > 0 && !proxy.looked {
                next.push(("looks at the gate", Proxy { looked: true, ..proxy }));
            }
            if proxy.looked {
                next.push(("takes and gives", Proxy { looked: false, ..proxy }));
            }
        }
        if let Some(late) = proxy.late {
            next.push((
                "a late request arrives",
                self.announced(Proxy { late: None, ..proxy }, late, rules).0,
            ));
        }
        let at = |step| Proxy { step, ..proxy };
        match proxy.step {
            Step::Idle => next.push(("asks for the data", at(Step::Reading { age: 0 }))),
            Step::Reading { age } => {
                for data in [Data::Old, Data::Nobody, Data::New] {
                    let stale = rules.reads == Reads::MayBeStale && data < self.data;
                    if data == self.data || stale {
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
                // a conditional announcement brings the lease itself, a blind one leaves that to the read
                let age = if rules.check_in == CheckIn::Blind { age } else { 0 };
                let closes = data != Data::Old && rules.check_in != CheckIn::AnnouncedFirst;
                let open = proxy.open && !closes;
                next.push((
                    "announces itself",
                    Proxy {
                        open,
                        step: Step::Announcing { data, age },
                        ..proxy
                    },
                ));
            }
            Step::Announcing { data, age } => {
                let (mut announced, done) = self.announced(proxy, data, rules);
                announced.step = Step::Answered { data, done, age };
                next.push(("its announcement arrives", announced));
                // one such request at a time is enough to find what many do
                next.push((
                    "gives the request up",
                    Proxy {
                        late: Some(data),
                        step: Step::Idle,
                        ..proxy
                    },
                ));
            }
            Step::Answered { data, done, age } => {
                let idle = at(Step::Idle);
                if data != Data::Old {
                    next.push(("learns that it was announced closed", Proxy { open: false, ..idle }));
                } else if done {
                    let left = match rules.lease_from {
                        LeaseFrom::Sending => lease - age,
                        LeaseFrom::Answer => lease,
                    };
                    next.push((
                        "opens until its lease ends",
                        Proxy {
                            open: true,
                            lease: left,
                            ..idle
                        },
                    ));
                } else {
                    next.push(("learns that the data has changed", idle));
                }
                next.push(("misses the answer", idle));
            }
        }
        next
    }

    /// What an announcement does to the stored info, and whether it was carried out.
    fn announced(&self, proxy: Proxy, data: Data, rules: Rules) -> (Proxy, bool) {
        if rules.check_in != CheckIn::Blind && data != self.data {
            return (proxy, false);
        }
        let acknowledged = data != Data::Old;
        (
            Proxy {
                acknowledged,
                silent: 0,
                ..proxy
            },
            true,
        )
    }
}

/// Looks at every world that can be reached; the number of them, or the shortest way to one that breaks the claim.
fn explore<const PROXIES: usize>(rules: Rules, lease: u8) -> Result<usize, Vec<String>> {
    let mut reached = HashMap::from([(World::<PROXIES>::START, None)]);
    let mut to_do = VecDeque::from([World::<PROXIES>::START]);
    while let Some(world) = to_do.pop_front() {
        if world.is_violated(rules) {
            let mut way = Vec::new();
            let mut at = &world;
            while let Some(Some((what, before))) = reached.get(at) {
                way.push(String::clone(what));
                at = before;
            }
            way.reverse();
            return Err(way);
        }
        for (what, after) in world.next(rules, lease) {
            if !reached.contains_key(&after) {
                reached.insert(after.clone(), Some((what, world.clone())));
                to_do.push_back(after);
            }
        }
    }
    Ok(reached.len())
}

fn holds<const PROXIES: usize>(rules: Rules, lease: u8) {
    match explore::<PROXIES>(rules, lease) {
        Ok(worlds) => eprintln!("{rules:?} with {PROXIES} proxies holds in all of {worlds} worlds"),
        Err(way) => panic!("{rules:?} is violated:\n  {}", way.join("\n  ")),
    }
}

/// The shortest way to the violation.
fn is_violated(rules: Rules) -> String {
    match explore::<1>(rules, 3) {
        Ok(worlds) => panic!("{rules:?} holds in all of {worlds} worlds"),
        Err(way) => {
            let way = way.join("\n  ");
            eprintln!("{rules:?} is violated:\n  {way}");
            way
        }
    }
}

#[test]
fn with_all_rules_one_proxy_never_gives_what_it_took_after_the_publication() {
    holds::<1>(ALL_RULES, 3);
}

#[test]
fn with_all_rules_two_proxies_never_give_what_they_took_after_the_publication() {
    holds::<2>(ALL_RULES, 2);
}

#[test]
fn without_the_conditional_check_in_a_stale_read_opens_too_late() {
    // F-1
    let way = is_violated(Rules {
        check_in: CheckIn::Blind,
        ..ALL_RULES
    });
    assert!(way.contains("reads a stale value"), "{way}");
}

#[test]
fn a_closed_route_must_not_be_announced_before_forwarding_has_stopped() {
    // F-1, step 2
    is_violated(Rules {
        check_in: CheckIn::AnnouncedFirst,
        ..ALL_RULES
    });
}

#[test]
fn a_lease_counted_from_the_answer_outlives_the_sentinel_s_wait() {
    // F-2
    is_violated(Rules {
        lease_from: LeaseFrom::Answer,
        ..ALL_RULES
    });
}

#[test]
fn without_the_gate_after_taking_a_paused_proxy_gives_too_late() {
    // F-3
    is_violated(Rules {
        gate: Gate::TimerOnly,
        ..ALL_RULES
    });
    is_violated(Rules {
        gate: Gate::BeforeTaking,
        ..ALL_RULES
    });
}

#[test]
fn a_proxy_that_was_silent_may_have_opened_just_before_no_master_was_written() {
    // F-6
    is_violated(Rules {
        wait: Wait::Silence,
        ..ALL_RULES
    });
}

#[test]
fn the_lease_of_a_proxy_may_be_counted_from_its_last_info_when_that_is_read_with_no_master() {
    // F-6, with F-1: an info put after "no master" was written acknowledges it, so an older one tells how long the
    // lease can last. The same infos read before "no master" tell nothing.
    let of_info = Rules {
        wait: Wait::LeaseOfInfo,
        ..ALL_RULES
    };
    holds::<1>(of_info, 3);
    holds::<2>(of_info, 2);
    is_violated(Rules {
        wait: Wait::LeaseOfEarlierInfo,
        ..ALL_RULES
    });
    is_violated(Rules {
        check_in: CheckIn::Blind,
        ..of_info
    });
}

#[test]
fn the_rules_came_one_by_one() {
    // fencing 2, from the rules of the reference to ours, in the order of its table
    let reference = Rules {
        gate: Gate::TimerOnly,
        lease_from: LeaseFrom::Answer,
        check_in: CheckIn::Blind,
        wait: Wait::Silence,
        reads: Reads::Linearizable,
    };
    is_violated(reference);
    let checked_at_every_forward = Rules {
        gate: Gate::AfterTaking,
        ..reference
    };
    is_violated(checked_at_every_forward);
    let lease_from_the_read = Rules {
        lease_from: LeaseFrom::Sending,
        ..checked_at_every_forward
    };
    is_violated(lease_from_the_read);
    let waits_a_lease = Rules {
        wait: Wait::Lease,
        ..lease_from_the_read
    };
    holds::<1>(waits_a_lease, 3);
    is_violated(Rules {
        gate: Gate::TimerOnly,
        ..waits_a_lease
    });
    let stale_reads = Rules {
        reads: Reads::MayBeStale,
        ..waits_a_lease
    };
    is_violated(stale_reads);
    holds::<1>(
        Rules {
            check_in: CheckIn::Conditional,
            ..stale_reads
        },
        3,
    );
}
