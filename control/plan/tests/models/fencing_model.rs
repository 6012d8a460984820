//! An exhaustive model of fencing (fencing 2 and 3): failovers between the instances at two addresses, with one or two
//! proxies. Every order of the steps of all processes is explored, with any delay between two of them and with requests
//! that arrive late. The sentinel may elect again before it has announced the master that it elected last, so that an
//! address to which proxies still forward can become that of another master, not announced yet.
//!
//! The claims: once a master is announced, no proxy forwards a byte that it read from an earlier one afterwards
//! (fencing 1); and no proxy forwards a byte that it read from a master that is not announced (fencing F-10). Not
//! modelled: clock drift, and the etcd leases of the infos (`info_model`).

mod history;
mod proxy;
mod rules;
mod world;

use std::collections::{HashMap, VecDeque};

use self::rules::{ALL_RULES, CheckIn, Copies, Elections, Gate, LeaseFrom, OVERLAPPING, Reads, Rules, Wait};
use self::world::{Bounds, World};

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
