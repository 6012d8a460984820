//! Properties of every plan, whatever happened before, and how soon a cluster serves again (sentinel 17).

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::simulation::{Event, FAIL, MINUTE, PROXY_TIMEOUT, SLEEP, Simulation, TICK};
use crate::Urgency;
use model::GoDuration;

fn event(keepers: usize) -> impl Strategy<Value = Event> {
    let keeper = 0..keepers;
    prop_oneof![
        4 => (1u32..60).prop_map(Event::Wait),
        2 => keeper.clone().prop_map(Event::KillKeeper),
        3 => keeper.clone().prop_map(Event::StartKeeper),
        1 => keeper.clone().prop_map(Event::StopKeeper),
        1 => keeper.clone().prop_map(Event::FailInstance),
        2 => keeper.clone().prop_map(Event::RepairInstance),
        3 => (1u32..2_000_000).prop_map(Event::Write),
        1 => (0usize..2).prop_map(Event::ResumeProxy),
        1 => (0usize..2).prop_map(Event::PauseProxy),
        1 => Just(Event::NewLeader),
        1 => (1u32..100).prop_map(Event::StoreOutage),
        1 => (0u32..40).prop_map(Event::SlowReads),
        1 => (0u32..40).prop_map(Event::SlowWrites),
        1 => (1u32..4).prop_map(Event::LostAnswers),
        1 => (1u32..4).prop_map(Event::Conflicts),
        1 => keeper.clone().prop_map(Event::FailKeeper),
        1 => keeper.prop_map(Event::RemoveKeeper),
        1 => (1u16..4).prop_map(Event::Standbys),
        2 => (0u16..3, 1u16..3).prop_map(|(min, max)| Event::Synchronous(min, max)),
        1 => Just(Event::Asynchronous),
        2 => Just(Event::KillMaster),
        1 => Just(Event::KillInSync),
        2 => (0..keepers).prop_map(Event::Failover),
        3 => (0..=keepers).prop_map(Event::Switchover),
        2 => (0..keepers).prop_map(Event::Lag),
        2 => (0..keepers).prop_map(Event::CatchUp),
    ]
}

/// Each case simulates minutes of a cluster's life: few, unless `PROPTEST_CASES` is set.
fn few_cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if asked { usual.cases } else { 16 },
        ..usual
    }
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn no_plan_breaks_an_invariant_and_a_repaired_cluster_reaches_a_steady_state(
        old in vec(0usize..4, 0..3),
        events in vec(event(4), 1..40),
    ) {
        let mut simulation = Simulation::new(4, &old, 2);
        for event in &events {
            simulation.apply(event);
            prop_assert!(simulation.broken().is_empty(), "{:?} after {event:?}", simulation.broken());
        }
        // everything is repaired
        simulation.apply(&Event::SlowReads(0));
        simulation.apply(&Event::SlowWrites(0));
        for index in 0..4 {
            simulation.apply(&Event::StartKeeper(index));
            simulation.apply(&Event::RepairInstance(index));
            simulation.apply(&Event::CatchUp(index));
        }
        (0..2).for_each(|index| simulation.apply(&Event::ResumeProxy(index)));
        let served = simulation.until(2 * MINUTE, Simulation::serves);
        prop_assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
        prop_assert!(served.is_some(), "it does not serve again: {:#?}", simulation.last());
        simulation.apply(&Event::Wait(300));
        prop_assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
        for _ in 0..100 {
            simulation.tick();
            let plan = simulation.last().unwrap();
            prop_assert_eq!(plan.urgency, Urgency::Periodic, "{:#?}", plan);
        }
    }
}

/// Three keepers and two proxies in steady state.
fn steady_cluster() -> Simulation {
    let mut simulation = Simulation::new(3, &[], 2);
    simulation.until_steady();
    simulation.apply(&Event::Wait(100));
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
    simulation
}

/// Returns how long until another keeper's db is elected, and until it serves.
fn fails_over(simulation: &mut Simulation) -> (Duration, Duration) {
    let before = simulation.master();
    let elected = simulation
        .until(MINUTE, |simulation| simulation.master() != before)
        .unwrap();
    let served = simulation.until(MINUTE, Simulation::serves).unwrap();
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
    (elected, elected + served)
}

#[test]
fn a_killed_master_is_replaced_fail_interval_later() {
    // extensions: with liveness keys no sleepInterval is added
    let mut simulation = steady_cluster();
    simulation.apply(&Event::KillKeeper(simulation.master().unwrap()));
    let (elected, served) = fails_over(&mut simulation);
    assert!(elected >= FAIL && elected <= FAIL + 3 * TICK, "{elected:?}");
    assert!(served <= elected + 10 * TICK, "{served:?} after {elected:?}");
}

#[test]
fn a_killed_master_of_go_stolon_is_replaced_after_sleep_interval_and_fail_interval() {
    let mut simulation = Simulation::new(3, &[0, 1, 2], 1);
    simulation.until_steady();
    simulation.apply(&Event::Wait(100));
    simulation.apply(&Event::KillKeeper(simulation.master().unwrap()));
    let (elected, _) = fails_over(&mut simulation);
    assert!(elected >= FAIL && elected <= SLEEP + FAIL + 2 * TICK, "{elected:?}");
}

#[test]
fn a_master_that_shuts_down_in_order_is_replaced_at_once() {
    let mut simulation = steady_cluster();
    simulation.apply(&Event::StopKeeper(simulation.master().unwrap()));
    let (elected, served) = fails_over(&mut simulation);
    assert!(elected <= 3 * TICK && served <= 15 * TICK, "{elected:?}, {served:?}");
}

/// A settled cluster whose commits wait for one standby of three.
fn synchronous_cluster() -> Simulation {
    let mut simulation = steady_cluster();
    simulation.apply(&Event::Synchronous(1, 1));
    simulation.apply(&Event::Wait(100));
    simulation
}

#[test]
fn a_killed_synchronous_master_loses_nothing_that_was_acknowledged() {
    let mut simulation = synchronous_cluster();
    let old = simulation.master().unwrap();
    // whoever is not in sync lags
    let in_sync = simulation.in_sync();
    assert_eq!(in_sync.len(), 1);
    for index in (0..3).filter(|index| !in_sync.contains(index) && *index != old) {
        simulation.apply(&Event::Lag(index));
    }
    simulation.apply(&Event::Write(1_000));
    simulation.apply(&Event::Wait(10));
    simulation.apply(&Event::KillKeeper(old));
    let (elected, _) = fails_over(&mut simulation);
    assert!(elected >= FAIL && elected <= FAIL + 3 * TICK, "{elected:?}");
    assert_eq!(simulation.master(), in_sync.first().copied());
}

#[test]
fn a_failed_synchronous_standby_is_replaced_and_the_old_one_is_never_elected() {
    let mut simulation = synchronous_cluster();
    let old = simulation.master().unwrap();
    let first = simulation.in_sync()[0];
    simulation.apply(&Event::KillKeeper(first));
    simulation
        .until(MINUTE, |simulation| {
            let in_sync = simulation.in_sync();
            in_sync.len() == 1 && in_sync[0] != first
        })
        .unwrap();
    simulation.apply(&Event::Write(1_000));
    simulation.apply(&Event::Wait(5));
    simulation.apply(&Event::KillKeeper(old));
    simulation.apply(&Event::StartKeeper(first));
    let (_, _) = fails_over(&mut simulation);
    assert_ne!(simulation.master(), Some(first));
}

#[test]
fn no_standby_that_lacks_an_acknowledged_commit_is_elected_when_both_hosts_that_have_it_fail() {
    let mut simulation = synchronous_cluster();
    let old = simulation.master().unwrap();
    let in_sync = simulation.in_sync();
    for index in (0..3).filter(|index| !in_sync.contains(index) && *index != old) {
        simulation.apply(&Event::Lag(index));
    }
    simulation.apply(&Event::Write(1_000));
    simulation.apply(&Event::Wait(10));
    simulation.apply(&Event::KillInSync);
    simulation.apply(&Event::KillMaster);
    simulation.apply(&Event::Wait(300));
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
    assert_eq!(simulation.master(), Some(old));
    // the one that was in sync is enough
    simulation.apply(&Event::StartKeeper(in_sync[0]));
    fails_over(&mut simulation);
    assert_eq!(simulation.master(), Some(in_sync[0]));
}

#[test]
fn an_operator_may_elect_a_standby_that_lacks_data_once_both_hosts_that_have_everything_are_lost() {
    // synchronous SY-20
    let mut simulation = synchronous_cluster();
    let old = simulation.master().unwrap();
    let in_sync = simulation.in_sync();
    let older = (0..3).find(|index| !in_sync.contains(index) && *index != old).unwrap();
    simulation.apply(&Event::Lag(older));
    simulation.apply(&Event::Write(1_000));
    simulation.apply(&Event::Wait(10));
    simulation.apply(&Event::KillInSync);
    simulation.apply(&Event::KillMaster);
    simulation.apply(&Event::Wait(100));
    assert_eq!(simulation.master(), Some(old));
    simulation.apply(&Event::PauseProxy(0));
    simulation.apply(&Event::Failover(older));
    let elected = simulation.until(MINUTE, |simulation| simulation.master() == Some(older));
    assert!(elected.is_some(), "{:#?}", simulation.last());
    let served = simulation.until(MINUTE, Simulation::serves);
    assert!(served.is_some(), "{:#?}", simulation.last());
    // those that have more come back as its standbys
    simulation.apply(&Event::StartKeeper(old));
    simulation.apply(&Event::StartKeeper(in_sync[0]));
    let whole = simulation.until(MINUTE, |simulation| simulation.good_dbs() == 3);
    assert!(whole.is_some(), "{:#?}", simulation.last());
    assert_eq!(simulation.master(), Some(older));
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

#[test]
fn a_synchronous_master_without_a_standby_in_sync_is_waited_for() {
    let mut simulation = synchronous_cluster();
    let old = simulation.master().unwrap();
    // all standbys fail, so the one in sync stays the only one that may be elected
    for index in (0..3).filter(|index| *index != old) {
        simulation.apply(&Event::KillKeeper(index));
    }
    simulation.apply(&Event::Write(1_000));
    simulation.apply(&Event::KillKeeper(old));
    simulation.apply(&Event::Wait(300));
    assert_eq!(simulation.master(), Some(old));
    simulation.apply(&Event::StartKeeper(old));
    assert!(simulation.until(MINUTE, Simulation::serves).is_some());
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

#[test]
fn a_new_leader_does_not_restart_fail_interval() {
    // sentinel E-6
    let mut simulation = steady_cluster();
    simulation.apply(&Event::KillKeeper(simulation.master().unwrap()));
    simulation.apply(&Event::Wait(20));
    simulation.apply(&Event::NewLeader);
    let (elected, _) = fails_over(&mut simulation);
    let since_kill = elected + 20 * TICK;
    assert!(since_kill >= FAIL && since_kill <= FAIL + 3 * SLEEP, "{since_kill:?}");
}

#[test]
fn a_paused_proxy_delays_the_announcement_by_one_lease() {
    // fencing F-6
    let mut simulation = steady_cluster();
    simulation.apply(&Event::PauseProxy(0));
    simulation.apply(&Event::Wait(1));
    simulation.apply(&Event::StopKeeper(simulation.master().unwrap()));
    let (elected, served) = fails_over(&mut simulation);
    let waited = served - elected;
    assert!(
        waited <= PROXY_TIMEOUT.mul_f64(1.01) + Duration::from_millis(100) + 3 * TICK,
        "{waited:?}"
    );
}

#[test]
fn a_store_outage_causes_no_failover() {
    // sentinel E-3
    let mut simulation = steady_cluster();
    let master = simulation.master();
    simulation.apply(&Event::StoreOutage(600));
    simulation.apply(&Event::Wait(100));
    assert_eq!(simulation.master(), master);
    assert_eq!(simulation.good_dbs(), 3);
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());

    // the same silence of the keepers while the store answers
    let mut simulation = steady_cluster();
    simulation.apply(&Event::KeepersUnreachable(600));
    assert_eq!(simulation.good_dbs(), 0);
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

#[test]
fn a_master_killed_during_a_store_outage_is_replaced_after_it() {
    // sentinel E-3: the outage does not count, what follows does
    let mut simulation = steady_cluster();
    simulation.apply(&Event::KillKeeper(simulation.master().unwrap()));
    simulation.apply(&Event::StoreOutage(600));
    let (elected, _) = fails_over(&mut simulation);
    assert!(elected > TICK && elected <= FAIL + 3 * SLEEP, "{elected:?}");
}

#[test]
fn a_killed_master_is_replaced_however_long_reads_take() {
    // sentinel E-3: a slow store still answers
    for (ticks, reading) in [11u32, 30, 49].map(|ticks| (ticks, TICK * ticks)) {
        let mut simulation = steady_cluster();
        simulation.apply(&Event::SlowReads(ticks));
        // the first slow read may have been an outage
        simulation.apply(&Event::Wait(200));
        simulation.apply(&Event::KillKeeper(simulation.master().unwrap()));
        let before = simulation.master();
        let elected = simulation.until(MINUTE, |simulation| simulation.master() != before);
        // one read that was in flight, one that finds the key gone, and one that finds the time over
        let limit = FAIL + 3 * (reading + SLEEP);
        assert!(
            elected.is_some_and(|elected| elected >= FAIL && elected <= limit),
            "{elected:?} {reading:?}"
        );
        assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
    }
}

#[test]
fn a_killed_master_is_replaced_however_late_plans_are_written() {
    for (ticks, request) in [11u32, 30, 49].map(|ticks| (ticks, TICK * ticks)) {
        let mut simulation = steady_cluster();
        simulation.apply(&Event::SlowReads(ticks));
        simulation.apply(&Event::SlowWrites(ticks));
        simulation.apply(&Event::Wait(300));
        simulation.apply(&Event::KillKeeper(simulation.master().unwrap()));
        let before = simulation.master();
        let elected = simulation.until(MINUTE, |simulation| simulation.master() != before);
        // as with slow reads, and a write after each of them
        let limit = FAIL + 3 * (2 * request + SLEEP);
        assert!(
            elected.is_some_and(|elected| elected >= FAIL && elected <= limit),
            "{elected:?} {request:?}"
        );
        assert!(simulation.until(MINUTE, Simulation::serves).is_some(), "{request:?}");
        assert_eq!(simulation.elections().len(), 1);
        assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
    }
}

#[test]
fn an_election_whose_response_is_lost_is_made_once() {
    for writes_take in [0, 11, 30] {
        let mut simulation = steady_cluster();
        simulation.apply(&Event::SlowWrites(writes_take));
        simulation.apply(&Event::Wait(100));
        let old = simulation.master().unwrap();
        simulation.apply(&Event::KillKeeper(old));
        let expected = simulation.now() + (FAIL - 5 * TICK);
        simulation
            .until(MINUTE, |simulation| simulation.now() >= expected)
            .unwrap();
        // the election's among them, and those that close and open the proxies
        simulation.apply(&Event::LostAnswers(4));
        let served = simulation.until(MINUTE, |simulation| {
            simulation.master() != Some(old) && simulation.serves()
        });
        assert!(served.is_some(), "{writes_take}: {:#?}", simulation.last());
        simulation.apply(&Event::Wait(600));
        assert_eq!(simulation.elections().len(), 1, "{writes_take}");
        assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
    }
}

#[test]
fn a_store_that_becomes_slow_causes_no_failover() {
    let mut simulation = steady_cluster();
    let master = simulation.master();
    for ticks in [40, 0, 30, 5, 49] {
        simulation.apply(&Event::SlowReads(ticks));
        simulation.apply(&Event::SlowWrites(49 - ticks));
        simulation.apply(&Event::Wait(200));
    }
    assert_eq!(simulation.master(), master);
    assert!(simulation.elections().is_empty());
    assert_eq!(simulation.good_dbs(), 3);
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

#[test]
fn a_returned_old_master_becomes_a_standby() {
    let mut simulation = steady_cluster();
    let old = simulation.master().unwrap();
    simulation.apply(&Event::KillKeeper(old));
    fails_over(&mut simulation);
    simulation.apply(&Event::StartKeeper(old));
    simulation
        .until(MINUTE, |simulation| simulation.good_dbs() == 3)
        .unwrap();
    assert_ne!(simulation.master(), Some(old));
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

#[test]
fn an_elected_master_killed_before_it_serves_is_replaced_by_the_old_one() {
    // extensions
    let mut simulation = Simulation::new(2, &[], 1);
    simulation.until_steady();
    simulation.apply(&Event::Wait(100));
    let old = simulation.master().unwrap();
    simulation.apply(&Event::StopKeeper(old));
    simulation
        .until(MINUTE, |simulation| simulation.master() != Some(old))
        .unwrap();
    simulation.apply(&Event::KillKeeper(1 - old));
    simulation.apply(&Event::StartKeeper(old));
    let back = simulation.until(MINUTE, |simulation| {
        simulation.master() == Some(old) && simulation.serves()
    });
    assert!(back.is_some(), "{:#?}", simulation.last());
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

/// Returns a number below `below`, from a linear congruential generator: every run is the same.
fn random(state: &mut u64, below: u32) -> u32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    u32::try_from((*state >> 33) % u64::from(below)).unwrap()
}

/// Four minutes in which the two instances are unhealthy in turns, for a few seconds each, on a store that may be slow
/// and may lose this many answers to writes in each turn.
fn alternating_failures(seed: u64, lost: u32) -> Simulation {
    let mut random_state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut simulation = Simulation::new(2, &[], 1);
    simulation.spec_mut().convergence_timeout = Some(GoDuration::from(CONVERGENCE));
    simulation.until_steady();
    // not so slow that the master's keeper always publishes between a read and the election based on it
    let slow = random(&mut random_state, 3) * 2;
    simulation.apply(&Event::SlowReads(slow));
    simulation.apply(&Event::SlowWrites(slow));
    let (from, longest) = (10 + random(&mut random_state, 60), 10 + random(&mut random_state, 100));
    let end = simulation.now() + 4 * MINUTE;
    let mut failing = usize::try_from(random(&mut random_state, 2)).unwrap();
    while simulation.now() < end {
        simulation.apply(&Event::RepairInstance(1 - failing));
        simulation.apply(&Event::FailInstance(failing));
        simulation.apply(&Event::LostAnswers(lost));
        simulation.apply(&Event::Wait(from + random(&mut random_state, longest)));
        failing = 1 - failing;
    }
    simulation
}

const CONVERGENCE: Duration = Duration::from_secs(6);

#[test]
fn elections_between_instances_unhealthy_in_turns_become_rarer() {
    let mut most = 0;
    for seed in 0..30 {
        let lost = if seed % 2 == 0 { 0 } else { 3 };
        let simulation = alternating_failures(seed, lost);
        assert!(simulation.broken().is_empty(), "{seed}: {:?}", simulation.broken());
        let elections = simulation.elections();
        most = most.max(elections.len());
        for (number, pair) in (1..).zip(elections.windows(2)) {
            // a plan is made before it is written
            let gap = pair[1].at.since(pair[0].at) + Duration::from_secs(2);
            let pause = match number {
                1 if pair[1].former_served => Duration::ZERO,
                1 => CONVERGENCE,
                more => CONVERGENCE * 2_u32.pow(more - 1),
            };
            assert!(
                gap >= pause,
                "seed {seed}, election {number}: {gap:?} of {pause:?}, {elections:?}"
            );
        }
    }
    assert!(most >= 4, "hardly an election: {most}");
}
