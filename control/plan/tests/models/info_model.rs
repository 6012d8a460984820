//! An exhaustive model of a proxy's info and its etcd leases (fencing F-6, sentinel P-1): the sentinel does not wait
//! for a proxy whose info is gone, so the info must exist for as long as the proxy may forward.
//!
//! A proxy repeats its announcement while a response is missing. Copies arrive in any order, at any time or never, and
//! so do the responses. The etcd lease may be renewed, or replaced by a new one, at any moment. Not modelled: the
//! cluster data, which `fencing_model` covers; here every announcement matches it.

use std::collections::{BTreeSet, VecDeque};

/// Ticks that an announcement is valid.
const CHECK_IN: u8 = 3;
/// TTL of an etcd lease in ticks: twice as long, and one for the rounding of etcd.
const TTL: u8 = 2 * CHECK_IN + 1;
/// Maximum number of announcements in flight; a proxy has one more at most.
const UNDER_WAY: usize = 3;
/// Maximum number of successive leases.
const LEASES: u8 = 2;

/// When a proxy moves its info to another lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// At any time; the store refuses a put under an older lease than the info has.
    Ordered,
    /// At any time, unconditionally.
    AnyTime,
    /// Unconditionally, once the proxy counts no copy in flight: it abandons copies.
    NoneAwaited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rules {
    change: Change,
    /// Whether a copy is sent only under a lease that outlives the validity of the copy.
    outlives: bool,
}

const ALL_RULES: Rules = Rules {
    change: Change::Ordered,
    outlives: true,
};

/// One copy that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    lease: u8,
    /// Ticks that its response would still be valid.
    good: u8,
    /// Whether it was executed, once it has arrived.
    done: Option<bool>,
    /// Its response is ignored.
    given_up: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    /// Ticks that the proxy may still forward.
    forwards: u8,
    /// The lease in use.
    lease: u8,
    /// Remaining ticks of each lease; zero: expired, or not yet granted.
    left: [u8; LEASES as usize],
    /// The ticks that the proxy counts on for the lease in use.
    known: u8,
    /// The renewal in flight, and the ticks it would give.
    renewal: Option<u8>,
    /// The lease of the info, while the info exists.
    info: Option<u8>,
    sent: Vec<Sent>,
}

impl World {
    fn start() -> Self {
        let mut left = [0; LEASES as usize];
        left[0] = TTL;
        Self {
            forwards: 0,
            lease: 0,
            left,
            known: TTL,
            renewal: None,
            info: None,
            sent: Vec::new(),
        }
    }

    /// Returns whether the proxy forwards although the sentinel considers it gone.
    fn is_violated(&self) -> bool {
        self.forwards > 0 && self.info.is_none()
    }

    fn next(&self, rules: Rules) -> Vec<(String, Self)> {
        let mut next = vec![("a tick passes".to_owned(), self.after_a_tick())];
        next.extend(self.after_sending(rules));
        next.extend(self.after_the_lease(rules));
        for index in 0..self.sent.len() {
            next.extend(self.after_a_copy(index, rules));
        }
        for (_, world) in &mut next {
            // A copy that has arrived and whose response is ignored has no further effect.
            world.sent.retain(|sent| !(sent.given_up && sent.done.is_some()));
            // Nor does one whose lease has expired: it is refused, and its response opens nothing.
            let left = world.left;
            world
                .sent
                .retain(|sent| sent.done.is_some() || left[usize::from(sent.lease)] > 0);
            world.sent.sort_unstable();
        }
        next
    }

    fn after_a_tick(&self) -> Self {
        let mut world = self.clone();
        world.forwards = world.forwards.saturating_sub(1);
        world.known = world.known.saturating_sub(1);
        world.renewal = world.renewal.map(|gives| gives.saturating_sub(1));
        for left in &mut world.left {
            *left = left.saturating_sub(1);
        }
        world.info = world.info.filter(|lease| world.left[usize::from(*lease)] > 0);
        for sent in &mut world.sent {
            sent.good = sent.good.saturating_sub(1);
        }
        world
    }

    fn after_sending(&self, rules: Rules) -> Option<(String, Self)> {
        let outlives = self.known > CHECK_IN || !rules.outlives;
        if self.sent.len() >= UNDER_WAY || !outlives || self.known == 0 {
            return None;
        }
        let mut world = self.clone();
        world.sent.push(Sent {
            lease: self.lease,
            good: CHECK_IN,
            done: None,
            given_up: false,
        });
        Some((format!("announces itself under lease {}", self.lease), world))
    }

    /// Renewals, and changes of the lease.
    fn after_the_lease(&self, rules: Rules) -> Vec<(String, Self)> {
        let mut next = Vec::new();
        let index = usize::from(self.lease);
        if self.renewal.is_none() && self.known < TTL {
            // it reaches the store at once or never; the response counts from its sending
            let mut world = self.clone();
            if world.left[index] > 0 {
                world.left[index] = TTL;
                world.renewal = Some(TTL);
                next.push(("renews the lease".to_owned(), world));
            }
        }
        if let Some(gives) = self.renewal {
            let renewed = Self {
                known: gives.max(self.known),
                renewal: None,
                ..self.clone()
            };
            next.push(("learns that the lease is renewed".to_owned(), renewed));
            let missed = Self {
                renewal: None,
                ..self.clone()
            };
            next.push(("misses the response to the renewal".to_owned(), missed));
        }
        let is_awaited = self.sent.iter().any(|sent| !sent.given_up);
        if self.lease + 1 < LEASES && !(rules.change == Change::NoneAwaited && is_awaited) {
            let mut world = self.clone();
            world.lease += 1;
            world.left[usize::from(world.lease)] = TTL;
            (world.known, world.renewal) = (TTL, None);
            for sent in &mut world.sent {
                sent.given_up = true;
            }
            next.push((format!("takes lease {}", world.lease), world));
        }
        next
    }

    /// The outcomes of one copy.
    fn after_a_copy(&self, index: usize, rules: Rules) -> Vec<(String, Self)> {
        let sent = self.sent[index];
        let mut next = Vec::new();
        let Some(done) = sent.done else {
            let is_older = self.info.is_some_and(|hangs_on| hangs_on > sent.lease);
            let done = !(is_older && rules.change == Change::Ordered);
            let mut world = self.clone();
            world.sent[index].done = Some(done);
            if done {
                world.info = Some(sent.lease);
            }
            next.push((format!("a copy under lease {} arrives", sent.lease), world));
            if !sent.given_up {
                let mut world = self.clone();
                world.sent[index].given_up = true;
                next.push(("gives a copy up".to_owned(), world));
            }
            return next;
        };
        let mut world = self.clone();
        world.sent.remove(index);
        next.push(("a response is lost".to_owned(), world.clone()));
        if done {
            world.forwards = world.forwards.max(sent.good);
            next.push((format!("forwards for {} ticks", sent.good), world));
        }
        next
    }
}

/// Returns the number of reachable states, or the shortest trace to a violation.
fn explore(rules: Rules) -> Result<usize, String> {
    let mut reached = BTreeSet::from([World::start()]);
    let mut to_do = VecDeque::from([(World::start(), String::new())]);
    while let Some((world, way)) = to_do.pop_front() {
        if world.is_violated() {
            return Err(way);
        }
        for (what, after) in world.next(rules) {
            if reached.insert(after.clone()) {
                // only short traces matter, and only in tests that look for one
                let way = if rules == ALL_RULES {
                    String::new()
                } else {
                    format!("{way}\n  {what}")
                };
                to_do.push_back((after, way));
            }
        }
    }
    Ok(reached.len())
}

#[test]
fn the_info_exists_for_as_long_as_the_proxy_may_forward() {
    match explore(ALL_RULES) {
        Ok(worlds) => eprintln!("{ALL_RULES:?} holds in all of {worlds} worlds"),
        Err(way) => panic!("{ALL_RULES:?} is violated: {way}"),
    }
}

#[test]
fn a_late_copy_must_not_move_the_info_to_a_former_lease() {
    for change in [Change::AnyTime, Change::NoneAwaited] {
        let rules = Rules { change, ..ALL_RULES };
        let way = explore(rules).expect_err("the former lease ends while the proxy forwards");
        eprintln!("{rules:?} is violated:{way}");
        assert!(way.contains("takes lease 1"), "{way}");
        assert!(way.contains("a copy under lease 0 arrives"), "{way}");
    }
}

#[test]
fn a_copy_under_a_lease_that_ends_too_soon_must_not_be_sent() {
    let rules = Rules {
        outlives: false,
        ..ALL_RULES
    };
    let way = explore(rules).expect_err("the lease ends while the proxy forwards");
    eprintln!("{rules:?} is violated:{way}");
}
