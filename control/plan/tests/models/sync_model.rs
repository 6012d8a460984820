//! An exhaustive model of synchronous replication (synchronous 1 and 2): keepers that are killed, suspended, shut down
//! and started again, servers that are killed, hosts that are lost, standbys that receive WAL at any time or never,
//! names that come into force late, proxies that close late, and sentinels that read, decide and write with any delay in
//! between. Every order of the steps of all processes is explored, within small bounds.
//!
//! The claims are the negations of `servers::Violation`, and that without further faults something leads from every
//! state to a published master that commits. What clients read counts as acknowledged.
//!
//! Not modelled: time (a keeper that is silent may be considered failed at any moment; its permit has expired by then,
//! extensions X-1.3), what proxies do to keep their lease (`fencing_model`; here a route opens only to the published
//! master), the boot uuids of keepers (the permit is enough), infos of keepers of ours that arrive late (`shutdown_model`),
//! equal numbers of timelines, the checkpointer's part in SY-4 and SY-7, the waits of SY-12 and SY-13.
//!
//! An info of a standby is not stored: the sentinel reads the standby's present state instead. What a standby has received
//! only grows while its db is the same, so an older info can only keep the sentinel from something. For the same reason
//! commits are released as soon as they can be.
//!
//! `make models-sync` explores all rows of synchronous 3, in larger bounds.

mod elections;
mod faults;
mod keepers;
mod log;
mod rules;
mod search;
mod sentinels;
mod servers;
mod sets;
mod table;
mod world;

use rules::{Change, Config, Start};
use search::{Outcome, explore, stuck};
use servers::Violation;
use table::{faults, rows};

/// States that a search may reach in these tests.
const MOST: usize = 3_000_000;

fn with_faults(text: &str) -> Config {
    Config::faults(faults(text))
}

/// Every reachable state keeps the claims. Returns their number.
fn holds(config: Config) -> usize {
    match explore(config, MOST) {
        Outcome::Holds(reached) => {
            eprintln!("holds in all of {} states", reached.count());
            reached.count()
        }
        Outcome::Violated(trace, _) => panic!("{}", trace.text()),
        Outcome::Unfinished(count) => panic!("more than {count} states"),
    }
}

/// And a published master that commits is reached again without further faults, unless the complete copies are lost.
fn holds_and_settles(config: Config) {
    let (others, for_operator) = stuck_states(config);
    assert_eq!(others, 0);
    eprintln!("{for_operator} states are left to the operator");
}

/// The number of states from which the cluster does not settle, and of those among the rest that are for the operator.
fn stuck_states(config: Config) -> (usize, usize) {
    match explore(config, MOST) {
        Outcome::Holds(reached) => {
            let stuck = stuck(&reached);
            for (what, keeper) in stuck.example.iter().flatten() {
                eprintln!("  {keeper} {what}");
            }
            (stuck.others, stuck.for_operator)
        }
        Outcome::Violated(trace, _) => panic!("{}", trace.text()),
        Outcome::Unfinished(count) => panic!("more than {count} states"),
    }
}

/// With rules replaced, a claim is violated. Returns the shortest way to that.
fn is_violated(config: Config, changes: &[Change], expected: Violation) -> String {
    let config = changes.iter().fold(config, |config, change| config.with(*change));
    match explore(config, MOST) {
        Outcome::Holds(reached) => panic!("{changes:?}: holds in all of {} states", reached.count()),
        Outcome::Violated(trace, _) => {
            let text = trace.text();
            eprintln!("{changes:?} {text}");
            assert_eq!(trace.violation, expected, "{text}");
            text
        }
        Outcome::Unfinished(count) => panic!("{changes:?}: more than {count} states"),
    }
}

#[test]
fn with_all_rules_a_crash_and_a_pause_lose_nothing() {
    holds(with_faults("cr + pause"));
}

#[test]
fn with_all_rules_two_keepers_lose_nothing_and_settle() {
    for text in ["cr + pause", "sw + cr", "pause + term"] {
        let config = Config {
            keepers: 2,
            ..with_faults(text)
        };
        holds_and_settles(config);
    }
}

#[test]
fn elected_standbys_that_take_wal_from_others_lose_nothing_and_settle() {
    // SY-21
    let catching_up = |config| Config {
        catches_up: true,
        ..config
    };
    // more states: the step is taken
    assert!(holds(catching_up(with_faults("cr"))) > holds(with_faults("cr")));
    for text in ["cr", "kill", "term"] {
        holds_and_settles(catching_up(with_faults(text)));
    }
}

#[test]
fn with_all_rules_sets_of_other_sizes_lose_nothing_and_settle() {
    for (min, max) in [(0, 1), (1, 2), (2, 2)] {
        holds_and_settles(with_faults("cr").size(min, max));
        holds(with_faults("2 pauses").size(min, max));
    }
    let switched_on = Config {
        start: Start::SwitchedOn,
        ..with_faults("cr")
    };
    holds_and_settles(switched_on);
}

#[test]
fn a_lost_host_leaves_to_the_operator_only_what_no_other_host_is_known_to_have() {
    for text in ["host + pause", "host + sw", "host + term"] {
        holds_and_settles(with_faults(text));
    }
}

#[test]
fn only_standbys_known_to_be_in_sync_are_elected_after_a_failure() {
    // SY-1
    let config = with_faults("cr + pause");
    is_violated(config, &[Change::ElectAnyone], Violation::S1);
    is_violated(config, &[Change::ElectWanted], Violation::S1);
}

#[test]
fn the_known_set_counts_only_together_with_the_wanted_set() {
    // SY-1, SY-5
    let config = with_faults("2 pauses").size(1, 2);
    is_violated(config, &[Change::ElectKnown, Change::KnownNotCut], Violation::S1);
}

#[test]
fn a_planned_election_needs_a_clean_stop_and_its_position() {
    // SY-2
    is_violated(with_faults("sw + slow"), &[Change::PlannedWithoutLsn], Violation::S1);
    is_violated(
        with_faults("kill + term"),
        &[Change::PlannedWithoutClean],
        Violation::S1,
    );
}

#[test]
fn a_standby_that_is_shown_as_in_sync_may_lack_what_was_acknowledged() {
    // SY-3
    is_violated(with_faults("cr + pause"), &[Change::UnmarkedReports], Violation::S1);
    // and a report of an earlier generation may be about other names
    let config = with_faults("2 pauses").size(1, 2);
    is_violated(config, &[Change::OtherGeneration], Violation::S1);
}

#[test]
fn a_mark_taken_before_the_names_are_in_force_is_too_low() {
    // SY-4
    is_violated(with_faults("cr + pause"), &[Change::MarkBeforeInForce], Violation::S1);
}

#[test]
fn an_elected_master_starts_with_as_many_names_as_the_minimum() {
    // SY-6
    let config = with_faults("cr + pause");
    is_violated(config, &[Change::EmptyListAfterElection], Violation::S0);
    is_violated(config, &[Change::NoFakeName], Violation::S0);
    // the fake name is also needed beside a set that is only too small
    let config = with_faults("cr + pause").size(2, 2);
    is_violated(config, &[Change::FakeOnlyWhenEmpty], Violation::S0);
}

#[test]
fn an_old_master_may_be_elected_again_before_another_one_is_published() {
    // SY-9
    let config = with_faults("host + pause");
    let (stuck, _) = stuck_states(config.with(Change::NeverGoBack));
    assert!(stuck > 0);
    let as_before = config.with(Change::GoBackOnSameTimeline).with(Change::KeepOldMasters);
    let (stuck, _) = stuck_states(as_before);
    assert!(stuck > 0);
}

#[test]
fn an_election_while_proxies_still_forward_loses_what_they_read_from_an_unpublished_master() {
    // SY-10
    let changes = [Change::ElectWhileForwarding, Change::GoBackWhileForwarding];
    let way = is_violated(with_faults("2 pauses"), &changes, Violation::S1);
    assert!(way.contains("shall be elected again"), "{way}");
}

#[test]
fn a_started_master_shows_what_waited_for_its_standbys() {
    // SY-11
    let config = with_faults("cr + pause");
    is_violated(config, &[Change::NoGate], Violation::S1);
    is_violated(config, &[Change::GateWithoutMark], Violation::S1);
    is_violated(with_faults("cr + kill"), &[Change::ServerRestartsItself], Violation::S1);
}

#[test]
fn a_keeper_that_starts_without_a_permit_is_elected_away_while_it_commits() {
    // extensions X-1.3: its stored info still has the stop of its last process
    is_violated(with_faults("term"), &[Change::NoPermit], Violation::S1);
}

#[test]
fn a_shutdown_that_is_not_clean_is_followed_only_by_members_in_sync() {
    // SY-12
    is_violated(
        with_faults("kill + term"),
        &[Change::UncleanShutdownAnyone],
        Violation::S1,
    );
}

#[test]
fn names_set_after_the_promotion_and_an_early_publication_acknowledge_without_standbys() {
    // SY-7, SY-8
    let changes = [Change::NamesAfterPromotion, Change::PublishUnconverged];
    is_violated(with_faults("cr + pause"), &changes, Violation::S0);
    // a sentinel of Go stolon publishes that early
    let config = Config {
        reference_sentinel: true,
        ..with_faults("cr")
    };
    is_violated(config, &[Change::NamesAfterPromotion], Violation::S0);
}

#[test]
fn keepers_of_go_stolon_need_a_sentinel_that_compares_positions() {
    // SY-3, SY-16
    let config = Config {
        reference_keepers: 7,
        with_reads: false,
        with_s0: false,
        ..with_faults("cr + pause")
    };
    is_violated(config, &[Change::UnmarkedReports], Violation::S1);
    // which helps only if the names that they report are in force
    let late = Config {
        prompt_reloads: false,
        ..config
    };
    is_violated(late, &[], Violation::S1);
    let both = Config {
        reference_sentinel: true,
        ..config
    };
    is_violated(both, &[], Violation::S1);
    // and their gate opens too early
    let with_reads = Config {
        with_reads: true,
        ..config
    };
    is_violated(with_reads, &[], Violation::S1);
}

#[test]
fn an_operator_can_choose_any_standby_once_no_proxy_forwards() {
    // SY-20: stuck only where no standby is left, or the choice is used up
    let (stuck, for_operator) = stuck_states(with_faults("2 host + override"));
    let (_, without) = stuck_states(with_faults("2 host"));
    assert!(stuck == 0 && for_operator < without, "{stuck} {for_operator} {without}");
    holds(with_faults("cr + override"));
    is_violated(
        with_faults("cr + pause + override"),
        &[Change::OverrideWhileForwarding],
        Violation::S1,
    );
}

/// Explores the rows of synchronous 3 and prints them as a table. The environment variable ROWS selects rows by their
/// numbers, separated by commas, and STATES bounds the number of states of each (a million of them takes 0.1 GB).
#[test]
#[ignore = "takes hours and gigabytes; to be run, with `make models-sync`, when a rule changes"]
fn all_rows_are_as_expected() {
    let chosen = std::env::var("ROWS").ok();
    let chosen: Option<Vec<&str>> = chosen.as_deref().map(|chosen| chosen.split(',').collect());
    let most = std::env::var("STATES")
        .ok()
        .map_or(100_000_000, |most| most.parse().unwrap());
    let (mut unexpected, mut unfinished) = (Vec::new(), Vec::new());
    eprintln!("| # | run | result | states |\n|---|---|---|---|");
    let is_chosen = |id: &str| chosen.as_ref().is_none_or(|chosen| chosen.contains(&id));
    for row in rows().into_iter().filter(|row| is_chosen(row.id)) {
        let (result, states, found) = match explore(row.config, most) {
            Outcome::Holds(reached) if row.with_stuck => {
                let stuck = stuck(&reached);
                let result = format!("holds, L {} (operator {})", stuck.others, stuck.for_operator);
                (result, reached.count(), Some((None, stuck.others > 0)))
            }
            Outcome::Holds(reached) => ("holds".to_owned(), reached.count(), Some((None, false))),
            Outcome::Violated(trace, states) => {
                let result = format!("{:?} in {} steps", trace.violation, trace.events.len());
                (result, states, Some((Some(trace.violation), false)))
            }
            Outcome::Unfinished(states) => ("not finished".to_owned(), states, None),
        };
        eprintln!("| {} | {} | {result} | {states} |", row.id, row.about);
        match found {
            None => unfinished.push(row.id),
            Some(found) if found != (row.expected, row.gets_stuck) => unexpected.push(row.id),
            Some(_) => {}
        }
    }
    assert!(unexpected.is_empty(), "not as expected: {unexpected:?}");
    assert!(
        unfinished.is_empty(),
        "not finished within {most} states: {unfinished:?}"
    );
}
