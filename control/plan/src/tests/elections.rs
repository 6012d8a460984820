//! When a master is replaced and when not, and which candidate is preferred (fencing F-10; extensions ).

use std::time::Duration;

use super::cluster::{NOW, Setup, WALL, base, check, db_uid, db2_elected, described};
use crate::election_backoff::ElectionRecord;
use crate::{Condition, Entropy, Memory, PlanInput, plan};
use model::{BootUuid, ClusterUid, KeeperUid, Lsn, Stopped};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const MILLI: Duration = Duration::from_millis(1);

/// The last election, that of db2, is too recent for another one.
const DELAYED: &str = "no election: delayed; db2 is not announced yet";

/// db2 was elected this long ago and is not announced; db1 and db3 are good standbys of it. db2 reports itself
/// unhealthy.
fn elected_and_unhealthy(ago: Duration) -> Setup {
    let mut setup = base(3);
    db2_elected(&mut setup);
    setup.db("db2").status.current_generation = 2;
    setup.unhealthy("db2");
    setup.memory.election = Some(ElectionRecord {
        master: db_uid("db2"),
        at: NOW.before(ago),
        consecutive: 0,
    });
    setup
}

// ---- fencing F-10

#[test]
fn no_election_while_proxies_may_still_forward_to_an_earlier_master() {
    let mut setup = elected_and_unhealthy(MINUTE);
    check(&mut setup.clone(), "elects db3");
    setup.proxy_seen("p1", 1);
    let plan = check(&mut setup, "no election before p1 closed; db2 is not announced yet");
    assert!(plan.wake_at.is_some(), "it looks again when the lease has ended");
    setup.memory = plan.memory;
    setup.infos_follow = true;
    setup.now = NOW + Duration::from_millis(15_251);
    check(&mut setup, "elects db3");
}

#[test]
fn an_acknowledgement_of_no_master_lets_the_next_election_happen() {
    let mut setup = elected_and_unhealthy(MINUTE);
    setup.proxy_seen("p1", 2);
    check(&mut setup, "elects db3");
}

#[test]
fn neither_an_orderly_shutdown_nor_a_dead_keeper_shortens_the_wait_for_proxies() {
    let mut left = base(3);
    db2_elected(&mut left);
    left.db("db2").status.current_generation = 2;
    left.at("db1", 1, 1_000).at("db2", 1, 1_000).at("db3", 1, 1_000);
    left.stopped("keeper2", 1, 1_000).leaving = true;
    check(&mut left.clone(), "elects db3");
    left.proxy_seen("p1", 1);
    check(
        &mut left,
        "db3 follows db2; no election before p1 closed; db2 is not announced yet",
    );

    let mut dead = elected_and_unhealthy(MINUTE);
    dead.silent("keeper2");
    dead.proxy_seen("p1", 1);
    check(
        &mut dead,
        "keeper2 is silent; no election before p1 closed; db2 is not announced yet",
    );
}

#[test]
fn the_first_election_does_not_wait_for_proxies() {
    let mut setup = base(2);
    setup.unhealthy("db1");
    setup.proxy_seen("p1", 1);
    check(&mut setup, "elects db2");
}

// ---- the delay after an election

#[test]
fn an_unhealthy_elected_master_has_its_convergence_time() {
    check(&mut elected_and_unhealthy(SECOND), DELAYED);
    let plan = check(&mut elected_and_unhealthy(30 * SECOND), DELAYED);
    assert_eq!(plan.wake_at, Some(NOW + MILLI));
    check(&mut elected_and_unhealthy(30 * SECOND + MILLI), "elects db3");
}

#[test]
fn the_delay_is_not_below_fail_interval() {
    let mut setup = elected_and_unhealthy(31 * SECOND);
    setup.spec().fail_interval = Some(model::GoDuration::from_secs(40));
    check(&mut setup, DELAYED);
}

#[test]
fn an_elected_master_that_does_not_converge_has_the_same_time() {
    let mut setup = elected_and_unhealthy(SECOND);
    setup.memory.db_errors.clear();
    setup.db("db2").status.healthy = true;
    setup.db("db2").status.current_generation = 1;
    check(&mut setup, DELAYED);
    setup.memory.election = None;
    check(&mut setup, "elects db3");
}

#[test]
fn an_elected_master_whose_keeper_failed_is_replaced_without_delay() {
    let mut dead = elected_and_unhealthy(SECOND);
    dead.silent("keeper2");
    check(&mut dead, "elects db3; keeper2 is silent");

    let mut by_hand = elected_and_unhealthy(SECOND);
    let keeper = by_hand.data.keepers_mut().get_mut("keeper2").unwrap();
    keeper.status.force_fail = true;
    check(
        &mut by_hand,
        "keeper2 unhealthy; elects db3; keeper2: forceFail unset; then keeper2 healthy",
    );

    let mut leaving = elected_and_unhealthy(SECOND);
    leaving.info("keeper2").leaving = true;
    check(&mut leaving, "elects db3");

    let mut left = elected_and_unhealthy(SECOND);
    left.memory.db_errors.clear();
    left.db("db2").status.healthy = true;
    left.at("db1", 1, 9).at("db2", 1, 9).at("db3", 1, 9);
    left.stopped("keeper2", 1, 9).leaving = true;
    check(&mut left, "elects db3");
}

#[test]
fn a_master_that_served_is_replaced_at_once_but_not_repeatedly() {
    let mut setup = elected_and_unhealthy(SECOND);
    setup.memory.reported_healthy = Some(db_uid("db2"));
    check(&mut setup, "elects db3");
    for (doubtful, expected) in [(1, "elects db3"), (2, DELAYED), (9, DELAYED)] {
        setup.memory.election.as_mut().unwrap().consecutive = doubtful;
        check(&mut setup, expected);
    }
    setup.memory.election.as_mut().unwrap().at = NOW.before(10 * MINUTE + MILLI);
    check(&mut setup, "elects db3");
}

/// The times of elections in half an hour, with five rounds a second, in a cluster whose two instances report unhealthy
/// whenever they are master, and whose keepers keep them stopped and ready whenever they are not.
fn repeated_elections() -> Vec<Duration> {
    let mut setup = base(2);
    setup.db("db2").spec.role = model::Role::Master;
    setup.db("db2").spec.follow_config = None;
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.at("db1", 1, 1_000).at("db2", 1, 1_000);
    setup.info("keeper1");
    let mut elections = Vec::new();
    for round in 0..9_000_u32 {
        setup.now = NOW + Duration::from_millis(200) * round;
        let master = setup.data.master_uid().cloned().unwrap();
        for (keeper, db) in [("keeper1", "db1"), ("keeper2", "db2")] {
            let generation = setup.db(db).generation;
            let info = &mut setup.seen.keepers.get_mut(keeper).unwrap().info;
            info.info_uid = round.to_string().as_str().into();
            let state = info.postgres_state.as_mut().unwrap();
            (state.healthy, state.generation) = (false, generation);
            info.stopped = (master != db_uid(db)).then_some(Stopped {
                clean: true,
                lsn: Some(Lsn(1_000)),
                timeline_id: 1,
            });
        }
        let plan = setup.plan().unwrap();
        if plan.next.master_uid() != Some(&master) {
            elections.push(setup.now.since(NOW));
        }
        setup.data = plan.next.clone();
        setup.memory = plan.memory;
    }
    elections
}

#[test]
fn elections_that_do_not_help_become_rare() {
    let elections = repeated_elections();
    assert!(elections.len() >= 3, "no instance is locked out: {elections:?}");
    assert!(elections.len() <= 8, "{elections:?}");
    let gaps: Vec<Duration> = elections.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= 30 * SECOND), "{gaps:?}");
    assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]), "{gaps:?}");
}

#[test]
fn a_new_leader_grants_the_convergence_time_to_a_master_that_was_elected_before() {
    let mut setup = elected_and_unhealthy(MINUTE);
    setup.leadership = 2;
    check(
        &mut setup,
        "no election: delayed; db2 is not announced yet; then db2 healthy, db3 follows db2",
    );
    setup.silent("keeper2");
    check(&mut setup, "elects db3; then keeper2 healthy, db2 healthy");
}

#[test]
fn an_election_that_may_have_been_written_counts() {
    let mut setup = base(2);
    setup.unhealthy("db1");
    let plan = check(&mut setup, "elects db2");
    let memory = setup.memory.clone().keeping_election_of(&plan.memory);
    assert_eq!(memory.election.map(|election| election.master), Some(db_uid("db2")));
}

// ---- order of candidates

#[test]
fn a_standby_reported_unhealthy_is_chosen_after_every_healthy_one() {
    let mut setup = base(4);
    setup.unhealthy("db1");
    setup
        .at("db1", 1, 900)
        .at("db2", 1, 900)
        .at("db3", 1, 800)
        .at("db4", 1, 700);
    check(&mut setup, "elects db2");
    // within failInterval it still counts as healthy
    setup.info("keeper2").postgres_state.as_mut().unwrap().healthy = false;
    check(&mut setup, "elects db3");
    setup.info("keeper3").postgres_state.as_mut().unwrap().healthy = false;
    check(&mut setup, "elects db4");
    setup.info("keeper4").postgres_state.as_mut().unwrap().healthy = false;
    check(&mut setup, "elects db2");
}

// ---- a leader's first run

/// The previous leader found db1 failed; a new leader reads for the first time.
fn found_failed() -> Setup {
    let mut setup = base(2);
    setup.info("keeper1");
    setup.db("db1").status.healthy = false;
    setup.leadership = 2;
    setup.memory = Memory::default();
    setup
}

/// Plans without a read before this one.
fn first_run(setup: &Setup) -> String {
    let checked = setup.checked();
    let input = PlanInput {
        data: &checked,
        observations: &setup.seen,
        memory: &setup.memory,
        leadership: setup.leadership,
        now: setup.now,
        wall: WALL,
    };
    let mut uid = || "unused".to_owned();
    let mut fresh = Entropy {
        uid: &mut uid,
        number: 0,
    };
    let plan = plan(&input, &mut fresh).unwrap();
    described(&setup.data, &plan, setup.now, "").join("; ")
}

#[test]
fn a_first_run_does_not_replace_a_master_that_is_reported_healthy() {
    let mut setup = found_failed();
    assert_eq!(
        first_run(&setup),
        "no election: db1 seems well",
        "without a liveness key, as Go stolon reports"
    );
    let info = setup.info("keeper1");
    (info.liveness_key, info.boot_uuid) = (true, BootUuid::from("b"));
    assert_eq!(first_run(&setup), "elects db2", "its liveness key is gone");
    setup.seen.liveness_keys.insert("keeper1".into(), BootUuid::from("b"));
    assert_eq!(first_run(&setup), "no election: db1 seems well");
}

#[test]
fn a_first_run_replaces_a_failed_master_that_is_not_reported_healthy() {
    let change = |change: fn(&mut Setup)| {
        let mut setup = found_failed();
        change(&mut setup);
        first_run(&setup)
    };
    assert_eq!(change(|setup| drop(setup.seen.keepers.remove("keeper1"))), "elects db2");
    let unhealthy = change(|setup| setup.info("keeper1").postgres_state.as_mut().unwrap().healthy = false);
    assert_eq!(unhealthy, "elects db2");
    assert_eq!(change(|setup| setup.info("keeper1").leaving = true), "elects db2");
    let another = change(|setup| setup.info("keeper1").postgres_state.as_mut().unwrap().uid = db_uid("db9"));
    assert_eq!(another, "elects db2");
    let keeper_failed = change(|setup| {
        let keeper = setup.data.keepers_mut().get_mut("keeper1").unwrap();
        keeper.status.healthy = false;
    });
    assert_eq!(keeper_failed, "elects db2");
}

// ---- infos that cannot be used

/// db1's keeper has been silent for long; `change` sets what its key holds.
fn silent_with(change: impl FnOnce(&mut Setup)) -> Vec<Condition> {
    let mut setup = base(3);
    setup.silent("keeper1").unhealthy("db1");
    setup.info("keeper2");
    change(&mut setup);
    check(&mut setup, "elects db2; keeper1 is silent").conditions
}

fn unchanged(revision: Option<i64>) -> Vec<Condition> {
    vec![Condition::KeeperInfo {
        key: "keeper1".to_owned(),
        revision,
    }]
}

#[test]
fn an_election_depends_on_the_key_of_the_masters_keeper_whatever_it_holds() {
    assert_eq!(silent_with(|_| {}), unchanged(None));
    // undecodable
    let garbage = silent_with(|setup| {
        setup.seen.keeper_keys.insert("keeper1".to_owned(), 44);
    });
    assert_eq!(garbage, unchanged(Some(44)));
    // an info of another cluster
    let another = silent_with(|setup| {
        let mut observed = setup.seen.keepers["keeper2"].clone();
        (observed.key, observed.revision) = ("keeper1".to_owned(), 45);
        observed.info.uid = "keeper1".into();
        observed.info.cluster_uid = ClusterUid::from("c0");
        setup.seen.keepers.insert("keeper1".into(), observed);
    });
    assert_eq!(another, unchanged(Some(45)));
}

#[test]
fn an_undecodable_info_of_a_standbys_keeper_only_makes_it_silent() {
    let mut setup = base(3);
    setup.unhealthy("db1");
    setup.info("keeper2");
    setup.seen.keepers.remove("keeper2");
    setup.seen.keeper_keys.insert("keeper2".to_owned(), 9);
    check(&mut setup, "elects db3; keeper2 is silent");
}

// ---- extensions

#[test]
fn a_former_master_that_stopped_on_another_timeline_is_not_elected() {
    for (timeline, expected) in [
        (1, "elects db1"),
        (2, "no eligible master; db2 is not announced yet"),
        (0, "no eligible master; db2 is not announced yet"),
    ] {
        let mut setup = base(2);
        db2_elected(&mut setup);
        setup.db("db1").generation = 1;
        setup.at("db1", 1, 1_000).at("db2", 1, 1_000).unhealthy("db2");
        setup.stopped("keeper1", timeline, 1_000);
        check(&mut setup, expected);
    }
}

// ---- a keeper that leaves (extensions)

/// What a publication changes.
type Change = fn(&mut model::KeeperInfo);

/// Runs a round each second while keeper1 publishes these changes; its liveness key exists all the time.
fn leaves(publications: &[(u64, Change)]) -> Duration {
    let mut setup = base(3);
    let info = setup.info("keeper1");
    (info.liveness_key, info.boot_uuid) = (true, BootUuid::from("b"));
    setup.seen.liveness_keys.insert("keeper1".into(), BootUuid::from("b"));
    for second in 0..120_u64 {
        setup.now = NOW + SECOND * u32::try_from(second).unwrap();
        for keeper in ["keeper2", "keeper3"] {
            let info = &mut setup.seen.keepers.get_mut(keeper).unwrap().info;
            info.info_uid = second.to_string().as_str().into();
        }
        for (_, change) in publications.iter().filter(|(at, _)| *at == second) {
            let info = &mut setup.seen.keepers.get_mut("keeper1").unwrap().info;
            info.info_uid = second.to_string().as_str().into();
            change(info);
        }
        let plan = setup.plan().unwrap();
        if plan.next.master_uid() != setup.data.master_uid() {
            return setup.now.since(NOW);
        }
        setup.data = plan.next.clone();
        setup.memory = plan.memory;
    }
    panic!("the master is never replaced");
}

#[test]
fn a_leaving_master_counts_as_failing_from_the_renewal_before_it_published_so() {
    // at second 2 it leaves; its shutdown takes long
    let published = 2 * SECOND;
    let after_fail_interval = published - SECOND + 21 * SECOND;
    assert_eq!(leaves(&[(2, |info| info.leaving = true)]), after_fail_interval);
    let unhealthy: Change = |info| {
        info.leaving = true;
        info.postgres_state.as_mut().unwrap().healthy = false;
    };
    assert_eq!(leaves(&[(2, unhealthy)]), after_fail_interval);
    // later infos, even one with an unclean stop, do not restart the timers
    let again: Change = |_| {};
    let stopped: Change = |info| info.stopped = Some(Stopped::default());
    assert_eq!(
        leaves(&[(2, unhealthy), (9, again), (18, stopped)]),
        after_fail_interval
    );
}

/// Returns the time from `event` until keeper1's db is no longer master, in steps of 50 ms. The liveness key of keeper1
/// was last renewed `renewed` before it; the key of a killed keeper expires three seconds after that.
fn replaced_after(is_killed: bool, renewed: Duration) -> Duration {
    let mut setup = base(3);
    let info = setup.info("keeper1");
    (info.liveness_key, info.boot_uuid) = (true, BootUuid::from("b"));
    setup.seen.liveness_keys.insert("keeper1".into(), BootUuid::from("b"));
    let event = NOW + 5 * SECOND;
    for step in 0..1_200_u32 {
        setup.now = NOW + SECOND / 20 * step;
        for keeper in ["keeper2", "keeper3"] {
            let info = &mut setup.seen.keepers.get_mut(keeper).unwrap().info;
            info.info_uid = step.to_string().as_str().into();
        }
        if is_killed && setup.now >= event.before(renewed) + 3 * SECOND {
            setup.seen.liveness_keys.remove(&KeeperUid::from("keeper1"));
        }
        if !is_killed && setup.now == event {
            let info = &mut setup.seen.keepers.get_mut("keeper1").unwrap().info;
            (info.info_uid, info.leaving) = ("leaving".into(), true);
        }
        let plan = setup.plan().unwrap();
        if plan.next.master_uid() != setup.data.master_uid() {
            return setup.now.since(event);
        }
        setup.data = plan.next.clone();
        setup.memory = plan.memory;
    }
    panic!("the master is never replaced");
}

#[test]
fn a_master_with_a_long_shutdown_is_never_replaced_later_than_a_killed_one() {
    for renewed in [0, 50, 450, 950, 1000].map(Duration::from_millis) {
        let (killed, left) = (replaced_after(true, renewed), replaced_after(false, renewed));
        assert!(
            left <= killed,
            "last renewal {renewed:?} before: {left:?} after {killed:?}"
        );
        assert!(
            left + SECOND >= killed,
            "and no more than a period sooner: {left:?}, {killed:?}"
        );
    }
}
