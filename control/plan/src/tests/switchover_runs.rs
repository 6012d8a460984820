//! Whole switchovers in the simulated cluster: how soon the new master serves, and what faults leave (extensions X-2).

use std::cell::Cell;
use std::time::Duration;

use super::simulation::{Event, MINUTE, Simulation, TICK};

const SECOND: Duration = Duration::from_secs(1);

/// Three keepers and two proxies in steady state, with synchronous replication or without.
fn steady(is_synchronous: bool) -> Simulation {
    let mut simulation = Simulation::new(3, &[], 2);
    if is_synchronous {
        simulation.apply(&Event::Synchronous(1, 1));
    }
    simulation.until_steady();
    simulation.apply(&Event::Wait(100));
    simulation
}

fn holds(simulation: &Simulation) {
    assert!(simulation.broken().is_empty(), "{:?}", simulation.broken());
}

/// Waits until the switchover is over and some master serves.
#[track_caller]
fn settle(simulation: &mut Simulation) {
    let is_over = |simulation: &Simulation| !simulation.has_switchover() && simulation.serves();
    let settled = simulation.until(MINUTE, is_over);
    assert!(settled.is_some(), "{:#?}", simulation.last());
    holds(simulation);
}

/// Returns a switchover whose master has stopped, and the keepers of the old and the new one. The new one has received the
/// checkpoint, and lacks what was written after it.
fn switchover_with_lagging_target(is_synchronous: bool) -> (Simulation, usize, usize) {
    let mut simulation = steady(is_synchronous);
    let old = simulation.master().unwrap();
    let target = (old + 1) % 3;
    // A paused proxy holds it up between the checkpoint and the stop.
    simulation.apply(&Event::PauseProxy(0));
    simulation.apply(&Event::Switchover(target));
    simulation
        .until(MINUTE, |simulation| !simulation.serves() && simulation.has_switchover())
        .unwrap();
    simulation.apply(&Event::Lag(target));
    simulation.apply(&Event::Write(10_000));
    simulation.apply(&Event::ResumeProxy(0));
    simulation.until(MINUTE, Simulation::is_master_stopped).unwrap();
    (simulation, old, target)
}

/// Clients do not notice a switchover that waits for a standby.
#[test]
fn a_target_that_lacks_the_checkpoint_is_waited_for_while_the_master_serves() {
    let mut simulation = steady(false);
    let old = simulation.master().unwrap();
    let target = (old + 1) % 3;
    simulation.apply(&Event::Lag(target));
    simulation.apply(&Event::Write(10_000));
    simulation.apply(&Event::Switchover(target));
    let served = Cell::new(true);
    let over = simulation.until(MINUTE, |simulation| {
        served.set(served.get() && simulation.serves());
        !simulation.has_switchover()
    });
    assert!(over.is_some() && served.get());
    settle(&mut simulation);
    assert_eq!((simulation.master(), simulation.elections().len()), (Some(old), 0));
}

#[test]
fn a_switchover_replaces_the_master_within_a_second_and_loses_nothing() {
    for is_synchronous in [false, true] {
        let mut simulation = steady(is_synchronous);
        let old = simulation.master().unwrap();
        let to = (old + 1) % 3;
        simulation.apply(&Event::Write(10_000));
        simulation.apply(&Event::Switchover(to));
        let switched = simulation.until(MINUTE, |simulation| {
            simulation.master() == Some(to) && simulation.serves()
        });
        assert!(switched.is_some_and(|took| took <= SECOND + 5 * TICK), "{switched:?}");
        settle(&mut simulation);
        assert_eq!(simulation.elections().len(), 1);
        // and back, once the old master follows the new one
        simulation
            .until(MINUTE, |simulation| simulation.good_dbs() == 3)
            .unwrap();
        simulation.apply(&Event::Switchover(old));
        settle(&mut simulation);
        assert_eq!(simulation.master(), Some(old), "{:#?}", simulation.last());
    }
}

/// The old master is stopped, and then something fails: it serves again, and nobody else is elected.
#[test]
fn a_switchover_that_fails_after_the_stop_leaves_the_old_master() {
    let faults: [fn(&mut Simulation, usize); 3] = [
        |simulation, target| simulation.apply(&Event::KillKeeper(target)),
        |simulation, target| simulation.apply(&Event::FailInstance(target)),
        |simulation, target| simulation.apply(&Event::StopKeeper(target)),
    ];
    for (is_synchronous, fault) in [false, true].into_iter().flat_map(|is| faults.map(|fault| (is, fault))) {
        let (mut simulation, old, target) = switchover_with_lagging_target(is_synchronous);
        fault(&mut simulation, target);
        settle(&mut simulation);
        assert_eq!(simulation.master(), Some(old));
        assert!(simulation.elections().is_empty());
    }
}

/// The keeper of the old master is killed after its order. It comes back as the master.
#[test]
fn an_old_master_that_is_killed_before_it_was_stopped_comes_back() {
    let mut simulation = steady(false);
    let old = simulation.master().unwrap();
    simulation.apply(&Event::PauseProxy(0));
    simulation.apply(&Event::Switchover(3));
    simulation
        .until(MINUTE, |simulation| !simulation.serves() && simulation.has_switchover())
        .unwrap();
    simulation.apply(&Event::KillKeeper(old));
    simulation.apply(&Event::StartKeeper(old));
    simulation.apply(&Event::ResumeProxy(0));
    settle(&mut simulation);
    assert_eq!(
        simulation.elections().len(),
        usize::from(simulation.master() != Some(old))
    );
}

#[test]
fn another_leader_completes_or_ends_a_switchover_at_any_time() {
    for is_synchronous in [false, true] {
        for ticks in 0..16 {
            let mut simulation = steady(is_synchronous);
            let old = simulation.master().unwrap();
            simulation.apply(&Event::Write(10_000));
            simulation.apply(&Event::SlowWrites(2));
            simulation.apply(&Event::Switchover((old + 1) % 3));
            simulation.apply(&Event::Wait(ticks));
            simulation.apply(&Event::NewLeader);
            settle(&mut simulation);
            let expected = usize::from(simulation.master() != Some(old));
            assert_eq!(simulation.elections().len(), expected, "{ticks}");
        }
    }
}

/// No order outlives the request, and no master that is well is kept stopped.
#[test]
fn a_switchover_ends_with_its_request() {
    let (mut simulation, old, _) = switchover_with_lagging_target(false);
    let over = simulation.until(20 * SECOND, |simulation| !simulation.has_switchover());
    assert!(over.is_some_and(|took| took <= 16 * SECOND), "{over:?}");
    settle(&mut simulation);
    assert_eq!((simulation.master(), simulation.elections().len()), (Some(old), 0));
}
