//! An exhaustive model of fencing (fencing 2 and 3): failovers between the instances at two addresses, with one or two
//! proxies. Every order of the steps of all processes is explored, with any delay between two of them and with requests
//! that arrive late. The sentinel may elect again before it has announced the master that it elected last, so that an
//! address to which proxies still forward can become that of another master, not announced yet.
//!
//! The claims: once a master is announced, no proxy forwards a byte that it read from an earlier one afterwards
//! (fencing 1); and no proxy forwards a byte that it read from a master that is not announced (fencing F-10). Not
//! modelled: clock drift, and the etcd leases of the infos (`info_model`).

use std::collections::{HashMap, VecDeque};

/// Which rules are in force.
#[derive(Debug, Clone, Copy)]
struct Rules {
    gate: Gate,
    lease_from: LeaseFrom,
    check_in: CheckIn,
    copies: Copies,
    wait: Wait,
    elections: Elections,
    reads: Reads,
}

/// Whether a proxy repeats its announcement while the response is missing, and how it treats the responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    /// It does not.
    None,
    /// A response counts from the sending of its own copy, and only while the same would be announced.
    OwnSending,
    /// A response counts from the sending of the last copy.
    LastSending,
    /// A response counts although another announcement has been sent since.
    NeverDiscarded,
}

/// When the sentinel may elect while "no master" stands (fencing F-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elections {
    /// Once it could publish, too.
    AfterTheWait,
    /// At any time.
    AnyTime,
}

/// When a proxy checks whether it may forward bytes (fencing F-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Between reading bytes and writing them.
    AfterTaking,
    /// Before it reads them.
    BeforeTaking,
    /// Never: a separate timer closes the route when the lease has ended.
    TimerOnly,
}

/// What a lease is counted from (fencing F-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseFrom {
    /// Before the request that brings it was sent.
    Sending,
    /// When its response is processed.
    Answer,
}

/// How a proxy announces itself (fencing F-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckIn {
    /// Only against the revision that it read.
    Conditional,
    /// Unconditionally.
    Blind,
    /// Conditional, but a closed route is announced before forwarding has stopped.
    AnnouncedFirst,
}

/// What ends the sentinel's wait for a proxy that has not acknowledged (fencing F-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// A lease has passed since "no master" was written.
    Lease,
    /// It was silent for two leases, as in Go stolon.
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

/// What a proxy's read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Linearizable,
    MayBeStale,
}

/// All rules of fencing 3, on a store that may even return stale reads.
const ALL_RULES: Rules = Rules {
    gate: Gate::AfterTaking,
    lease_from: LeaseFrom::Sending,
    check_in: CheckIn::Conditional,
    copies: Copies::None,
    wait: Wait::Lease,
    elections: Elections::AfterTheWait,
    reads: Reads::MayBeStale,
};

/// The same with repeated announcements.
const OVERLAPPING: Rules = Rules {
    copies: Copies::OwnSending,
    ..ALL_RULES
};

/// A version of the cluster data, which is its revision. The first announces the first master.
type Version = u8;

/// One write of the sentinel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// Elects another master, which is not announced: proxies must not forward.
    Elect,
    /// Announces the current master.
    Publish,
}

/// All writes of the sentinel so far, which define every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct History {
    writes: u8,
    /// One bit for each write, the first one lowest: whether it was an election.
    elections: u8,
}

/// The number of a master since the start. Masters alternate between two addresses.
type Reign = u8;

impl History {
    fn version(self) -> Version {
        self.writes
    }

    /// The master of a version.
    fn reign(self, version: Version) -> Reign {
        let until = (1_u8 << version) - 1;
        u8::try_from((self.elections & until).count_ones()).unwrap()
    }

    /// Returns the master that a version announces.
    fn published(self, version: Version) -> Option<Reign> {
        let closed = version > 0 && self.elections >> (version - 1) & 1 == 1;
        (!closed).then(|| self.reign(version))
    }

    /// Returns the version since which there is no announced master.
    fn closed_since(self) -> Option<Version> {
        let published = (0..=self.writes).rfind(|version| self.published(*version).is_some())?;
        (published < self.writes).then_some(published + 1)
    }

    fn after(self, write: Write) -> Self {
        let elected = u8::from(write == Write::Elect);
        Self {
            writes: self.writes + 1,
            elections: self.elections | elected << self.writes,
        }
    }
}

/// Whether two masters are at the same address.
fn same_address(one: Reign, other: Reign) -> bool {
    one % 2 == other % 2
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World<const PROXIES: usize> {
    data: History,
    /// Ticks since "no master" was written, no further than a lease.
    since_none: u8,
    proxies: [Proxy; PROXIES],
}

/// One proxy, its info in the store, and what the sentinel read of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Proxy {
    /// Forwards to the address of this master.
    open: Option<Reign>,
    /// Remaining ticks of its lease.
    lease: u8,
    /// Has passed the gate, and will read and write bytes next ([`Gate::BeforeTaking`]).
    looked: bool,
    step: Step,
    /// An announcement sent before that of `step` that may still be answered. One is enough to find what many do.
    earlier: Option<Announcement>,
    /// A request that timed out for its proxy and may still arrive.
    late: Option<Version>,
    /// The stored info names the generation of "no master" or a later one.
    acknowledged: bool,
    /// Ticks since the stored info was last written, up to the length of silence that the sentinel uses.
    silent: u8,
    /// The sentinel's last read of the info.
    seen_acknowledged: bool,
    seen_silent: bool,
}

/// The progress of a proxy's check-in; `age` is the ticks since its lease began, at most a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
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
    /// It was executed or rejected; the response has not arrived.
    Answered {
        data: Version,
        done: bool,
        age: u8,
    },
}

/// An announcement in flight; `done` once it was executed or rejected and the response has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Announcement {
    data: Version,
    done: Option<bool>,
    age: u8,
}

impl Proxy {
    const FRESH: Self = Self {
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
    fn would_give(&self, rules: Rules) -> Option<Reign> {
        self.open.filter(|_| match rules.gate {
            Gate::AfterTaking => self.lease > 0,
            Gate::BeforeTaking => self.looked,
            Gate::TimerOnly => true,
        })
    }
}

impl<const PROXIES: usize> World<PROXIES> {
    fn start() -> Self {
        Self {
            data: History::default(),
            since_none: 0,
            proxies: [Proxy::FRESH; PROXIES],
        }
    }

    fn is_violated(&self, rules: Rules) -> bool {
        let mut given = self.proxies.iter().filter_map(|proxy| proxy.would_give(rules));
        given.any(|reign| self.is_too_late(reign) || self.is_too_early(reign))
    }

    /// Returns whether a later master is announced.
    fn is_too_late(&self, reign: Reign) -> bool {
        self.data
            .published(self.data.version())
            .is_some_and(|published| published != reign)
    }

    /// Returns whether a master elected since then and not announced is, or may still be, at the same address.
    fn is_too_early(&self, reign: Reign) -> bool {
        let Some(since) = self.data.closed_since() else {
            return false;
        };
        let mut unpublished = (since..=self.data.version()).map(|version| self.data.reign(version));
        unpublished.any(|elected| same_address(elected, reign))
    }

    /// Everything that can happen next.
    fn next(&self, rules: Rules, bounds: Bounds) -> Vec<(String, Self)> {
        let lease = bounds.lease;
        let mut next = vec![("a tick passes".to_owned(), self.after_a_tick(rules, lease))];
        if self.data.version() < bounds.writes {
            let writes = self.after_the_sentinel(rules, lease).into_iter();
            next.extend(writes.map(|(what, world)| (what.to_owned(), world)));
        }
        let mut infos_read = self.clone();
        for proxy in &mut infos_read.proxies {
            proxy.seen_acknowledged = proxy.acknowledged;
            let in_time = rules.wait != Wait::LeaseOfInfo || self.data.closed_since().is_some();
            let silence = rules.wait.silence(lease);
            proxy.seen_silent = in_time && silence.is_some_and(|silence| proxy.silent >= silence);
        }
        next.push(("the sentinel reads the infos".to_owned(), infos_read));
        for index in 0..PROXIES {
            for (what, proxy) in self.after_a_step_of(self.proxies[index], rules, bounds) {
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
        if self.data.closed_since().is_some() {
            world.since_none = (self.since_none + 1).min(lease);
        }
        for proxy in &mut world.proxies {
            proxy.lease = proxy.lease.saturating_sub(1);
            if let Some(silence) = rules.wait.silence(lease) {
                proxy.silent = (proxy.silent + 1).min(silence);
            }
            if let Some(earlier) = &mut proxy.earlier {
                earlier.age = (earlier.age + 1).min(lease);
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
    fn after_the_sentinel(&self, rules: Rules, lease: u8) -> Vec<(&'static str, Self)> {
        let after = |write| Self {
            data: self.data.after(write),
            ..self.clone()
        };
        if self.data.closed_since().is_none() {
            let mut closed = after(Write::Elect);
            for proxy in &mut closed.proxies {
                // another generation: earlier acknowledgements do not count
                (proxy.acknowledged, proxy.seen_acknowledged) = (false, false);
                proxy.seen_silent &= rules.wait != Wait::LeaseOfInfo;
            }
            return vec![("the sentinel elects and writes no master", closed)];
        }
        let is_waited_for = |proxy: &Proxy| match rules.wait {
            Wait::Lease => !proxy.seen_acknowledged && self.since_none < lease,
            Wait::Silence => !proxy.seen_acknowledged && !proxy.seen_silent,
            Wait::LeaseOfInfo | Wait::LeaseOfEarlierInfo => {
                !proxy.seen_acknowledged && !proxy.seen_silent && self.since_none < lease
            }
        };
        let all_closed = !self.proxies.iter().any(is_waited_for);
        let mut next = Vec::new();
        if all_closed {
            // the time since "no master" does not matter any more
            let published = Self {
                since_none: 0,
                ..after(Write::Publish)
            };
            next.push(("the sentinel publishes the master", published));
        }
        if all_closed || rules.elections == Elections::AnyTime {
            next.push(("the sentinel elects again", after(Write::Elect)));
        }
        next
    }

    fn after_a_step_of(&self, proxy: Proxy, rules: Rules, bounds: Bounds) -> Vec<(&'static str, Proxy)> {
        let mut next = Vec::new();
        if proxy.open.is_some() && proxy.lease == 0 {
            next.push(("closes, its lease has ended", Proxy { open: None, ..proxy }));
        }
        if rules.gate == Gate::BeforeTaking {
            if proxy.open.is_some() && proxy.lease > 0 && !proxy.looked {
                next.push(("checks the gate", Proxy { looked: true, ..proxy }));
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
        next.extend(self.after_copies(proxy, rules, bounds));
        let at = |step| Proxy { step, ..proxy };
        match proxy.step {
            Step::Idle => next.push(("requests the data", at(Step::Reading { age: 0 }))),
            Step::Reading { age } => {
                for data in 0..=self.data.version() {
                    let stale = data < self.data.version();
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
                let stays = rules.check_in == CheckIn::AnnouncedFirst || proxy.open == self.data.published(data);
                let open = proxy.open.filter(|_| stays);
                let same = |earlier: &Announcement| earlier.data == data || rules.copies == Copies::NeverDiscarded;
                let discarded = proxy.earlier.filter(|earlier| !same(earlier));
                next.push((
                    "announces itself",
                    Proxy {
                        open,
                        step: Step::Announcing { data, age },
                        earlier: proxy.earlier.filter(same),
                        late: proxy
                            .late
                            .or(discarded.filter(|copy| copy.done.is_none()).map(|copy| copy.data)),
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
                        earlier: None,
                        step: Step::Idle,
                        ..proxy
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
                next.push(self.answered(idle, answer, rules, bounds));
                next.push(("misses the response", idle));
            }
        }
        next
    }

    /// A proxy processes the response to an announcement.
    fn answered(&self, proxy: Proxy, answer: Announcement, rules: Rules, bounds: Bounds) -> (&'static str, Proxy) {
        // forwarding to the master that is announced last violates nothing any more
        let matters = self.data.version() < bounds.writes;
        let published = self.data.published(answer.data);
        if published.is_none() {
            return ("learns that it was announced closed", Proxy { open: None, ..proxy });
        }
        if answer.done != Some(true) || !(matters || answer.data < bounds.writes) {
            return ("learns that the data has changed", proxy);
        }
        let left = match rules.lease_from {
            LeaseFrom::Sending => bounds.lease - answer.age,
            LeaseFrom::Answer => bounds.lease,
        };
        // responses may arrive out of order, and none shortens the lease
        let lease = if proxy.open == published {
            left.max(proxy.lease)
        } else {
            left
        };
        let open = Proxy {
            open: published,
            lease,
            ..proxy
        };
        ("opens until its lease ends", open)
    }

    /// A repeated announcement, and the outcome of the earlier copy.
    fn after_copies(&self, proxy: Proxy, rules: Rules, bounds: Bounds) -> Vec<(&'static str, Proxy)> {
        let mut next = Vec::new();
        let Some(earlier) = proxy.earlier else {
            let sent = match proxy.step {
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
                let again = Proxy {
                    step,
                    earlier: Some(sent),
                    ..proxy
                };
                next.push(("announces the same again", again));
            }
            return next;
        };
        let without = Proxy { earlier: None, ..proxy };
        let Some(done) = earlier.done else {
            let (mut announced, done) = self.announced(proxy, earlier.data, rules);
            announced.earlier = Some(Announcement {
                done: Some(done),
                ..earlier
            });
            return vec![("an earlier copy arrives", announced)];
        };
        let (_, mut after) = self.answered(without, earlier, rules, bounds);
        match (proxy.step, rules.copies) {
            (Step::Announcing { age, .. } | Step::Answered { age, .. }, Copies::LastSending) if done => {
                let newest = Announcement { age, ..earlier };
                (_, after) = self.answered(without, newest, rules, bounds);
            }
            // the other copies are of no use any more
            (Step::Announcing { data, .. }, _) if !done && data == earlier.data => {
                (after.step, after.late) = (Step::Idle, proxy.late.or(Some(data)));
            }
            _ => {}
        }
        next.push(("an earlier copy is answered", after));
        next.push(("misses the response to an earlier copy", without));
        next
    }

    /// Returns the stored info after an announcement, and whether it was executed.
    fn announced(&self, proxy: Proxy, data: Version, rules: Rules) -> (Proxy, bool) {
        if rules.check_in != CheckIn::Blind && data != self.data.version() {
            return (proxy, false);
        }
        let acknowledged = self.data.closed_since().is_some_and(|since| data >= since);
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

/// The bounds of the model.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Ticks of a proxy's lease.
    lease: u8,
    /// Writes of the sentinel.
    writes: Version,
}

/// Enough for two elections without an announcement between, an announcement, and its consequences.
const ONE_PROXY: Bounds = Bounds { lease: 3, writes: 5 };
/// The same, with fewer states.
const SHORT_LEASE: Bounds = Bounds { lease: 2, writes: 4 };
/// One failover, for two proxies.
const TWO_PROXIES: Bounds = Bounds { lease: 2, writes: 2 };
/// Two elections and a publication, for two proxies.
const TWO_PROXIES_LONG: Bounds = Bounds { lease: 1, writes: 3 };

/// Explores every reachable state. Returns their number, or the shortest trace to a violation.
fn explore<const PROXIES: usize>(rules: Rules, bounds: Bounds) -> Result<usize, Vec<String>> {
    let mut reached = HashMap::from([(World::<PROXIES>::start(), None)]);
    let mut to_do = VecDeque::from([World::<PROXIES>::start()]);
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
        for (what, after) in world.next(rules, bounds) {
            if !reached.contains_key(&after) {
                reached.insert(after.clone(), Some((what, world.clone())));
                to_do.push_back(after);
            }
        }
    }
    Ok(reached.len())
}

fn holds<const PROXIES: usize>(rules: Rules, bounds: Bounds) {
    match explore::<PROXIES>(rules, bounds) {
        Ok(worlds) => eprintln!("{rules:?} with {PROXIES} proxies holds in all of {worlds} worlds"),
        Err(way) => panic!("{rules:?} is violated:\n  {}", way.join("\n  ")),
    }
}

/// Returns the shortest trace to a violation.
fn is_violated(rules: Rules) -> String {
    match explore::<1>(rules, ONE_PROXY) {
        Ok(worlds) => panic!("{rules:?} holds in all of {worlds} worlds"),
        Err(way) => {
            let way = way.join("\n  ");
            eprintln!("{rules:?} is violated:\n  {way}");
            way
        }
    }
}

#[test]
fn with_all_rules_one_proxy_never_forwards_what_it_read_after_the_announcement() {
    holds::<1>(ALL_RULES, ONE_PROXY);
}

#[test]
fn with_all_rules_two_proxies_never_forward_what_they_read_after_the_announcement() {
    holds::<2>(ALL_RULES, TWO_PROXIES);
    holds::<2>(ALL_RULES, TWO_PROXIES_LONG);
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
fn a_lease_counted_from_the_response_outlives_the_sentinels_wait() {
    // F-2
    is_violated(Rules {
        lease_from: LeaseFrom::Answer,
        ..ALL_RULES
    });
}

#[test]
fn without_the_check_after_reading_a_paused_proxy_forwards_too_late() {
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
    // F-6, with F-1: an info put after "no master" was written acknowledges it, so an older one shows how long the
    // lease can last. The same infos read before "no master" do not.
    let of_info = Rules {
        wait: Wait::LeaseOfInfo,
        ..ALL_RULES
    };
    holds::<1>(of_info, ONE_PROXY);
    holds::<2>(of_info, TWO_PROXIES);
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
fn two_elections_before_proxies_have_closed_let_a_proxy_forward_to_an_unannounced_master() {
    // F-10: the second one may bring back the address that the proxy still has a lease for
    let way = is_violated(Rules {
        elections: Elections::AnyTime,
        ..ALL_RULES
    });
    assert!(way.contains("elects again"), "{way}");
    assert!(!way.contains("publishes"), "the master is not published: {way}");
    // the shorter waits of F-6 do not help, and the first claim alone does not see it
    is_violated(Rules {
        elections: Elections::AnyTime,
        wait: Wait::LeaseOfInfo,
        ..ALL_RULES
    });
}

#[test]
fn announcements_may_overlap_when_each_response_counts_from_its_own_sending() {
    holds::<1>(OVERLAPPING, ONE_PROXY);
    holds::<1>(
        Rules {
            wait: Wait::LeaseOfInfo,
            ..OVERLAPPING
        },
        SHORT_LEASE,
    );
}

#[test]
fn a_response_counted_from_a_later_copy_outlives_the_sentinels_wait() {
    let way = is_violated(Rules {
        copies: Copies::LastSending,
        ..ALL_RULES
    });
    assert!(way.contains("announces the same again"), "{way}");
}

#[test]
fn a_response_to_a_replaced_announcement_opens_too_late() {
    let way = is_violated(Rules {
        copies: Copies::NeverDiscarded,
        ..ALL_RULES
    });
    assert!(way.contains("an earlier copy is answered"), "{way}");
}

#[test]
fn each_rule_of_fencing_2_is_needed() {
    // fencing 2, from the rules of Go stolon to all rules, in the order of its table
    let reference = Rules {
        gate: Gate::TimerOnly,
        lease_from: LeaseFrom::Answer,
        check_in: CheckIn::Blind,
        wait: Wait::Silence,
        elections: Elections::AfterTheWait,
        copies: Copies::None,
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
    holds::<1>(waits_a_lease, ONE_PROXY);
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
        ONE_PROXY,
    );
}
