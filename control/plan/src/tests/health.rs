//! Freshness and health over time (sentinel 3 with E-3 to E-6, extensions ).

use std::time::Duration;

use super::cluster::{Setup, WALL, base, db_uid, has_note, initializing};
use crate::{Plan, Urgency};
use base::clock::Boottime;
use model::{BootUuid, KeeperUid, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Plans at a time, with the infos as they are stored, and keeps the result.
fn at(setup: &mut Setup, now: Boottime) -> Plan {
    setup.infos_follow = false;
    setup.now = now;
    setup.round()
}

/// A cluster in steady state in which a round has just read a new info of every keeper.
fn watched(dbs: u32) -> (Setup, Boottime) {
    let mut setup = base(dbs);
    let now = setup.now;
    setup.round();
    (setup, now)
}

fn publish(setup: &mut Setup, keeper: &str) {
    let info = &mut setup.seen.keepers.get_mut(keeper).unwrap().info;
    info.info_uid = format!("{}+", info.info_uid).as_str().into();
}

fn healthy(plan: &Plan, keeper: &str) -> bool {
    plan.next.keepers()[&KeeperUid::from(keeper)].status.healthy
}

/// Runs rounds at most 5 s apart, as the loop does, up to a time; keeper2 goes on publishing.
fn pass(setup: &mut Setup, from: Boottime, until: Boottime) -> Plan {
    let mut now = from;
    loop {
        now = (now + SECOND).min(until);
        publish(setup, "keeper2");
        let plan = at(setup, now);
        if now == until {
            return plan;
        }
    }
}

#[test]
fn a_silent_keeper_fails_once_sleep_interval_and_fail_interval_have_passed() {
    // sentinel E-3, X58, X59
    let (mut setup, seen) = watched(2);
    let plan = pass(&mut setup, seen, seen + 25 * SECOND);
    assert!(healthy(&plan, "keeper1"));
    assert!(has_note(&plan, "no keeper info available"));
    assert_eq!(
        plan.wake_at,
        Some(seen + 25 * SECOND + MILLI),
        "it looks again just when the time is over"
    );
    let plan = at(&mut setup, plan.wake_at.unwrap());
    assert!(!healthy(&plan, "keeper1"));
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    assert_eq!(plan.urgency, Urgency::Immediate);
    publish(&mut setup, "keeper1");
    let plan = at(&mut setup, seen + 26 * SECOND);
    assert!(healthy(&plan, "keeper1"), "a new info makes it healthy at once");
}

#[test]
fn a_fresh_keeper_has_no_missing_info_note() {
    let (mut setup, seen) = watched(2);
    let plan = at(&mut setup, seen + 5 * SECOND);
    assert!(!has_note(&plan, "no keeper info available"));
    assert_eq!(plan.wake_at, Some(seen + 5 * SECOND + MILLI));
}

#[test]
fn time_without_the_store_does_not_count() {
    // sentinel E-3
    let (mut setup, seen) = watched(2);
    let plan = at(&mut setup, seen + 120 * SECOND);
    assert!(healthy(&plan, "keeper1") && healthy(&plan, "keeper2"));
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
    let plan = pass(&mut setup, seen + 120 * SECOND, seen + 146 * SECOND);
    assert!(!healthy(&plan, "keeper1"), "what follows counts again");

    // the same silence of keeper1 while the store answers
    let (mut setup, seen) = watched(2);
    let plan = pass(&mut setup, seen, seen + 120 * SECOND);
    assert!(!healthy(&plan, "keeper1") && healthy(&plan, "keeper2"));
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
}

/// keeper1's last info arrived half a second after the last read, as a watch reported; then no read until `now`.
fn info_just_before_an_outage(setup: &mut Setup, seen: Boottime, now: Boottime) {
    publish(setup, "keeper1");
    setup.seen.keepers.get_mut("keeper1").unwrap().age = now.since(seen + MILLI * 500);
}

#[test]
fn time_without_the_store_does_not_count_for_an_info_that_arrived_just_before_it() {
    // sentinel E-3: a keeper without a liveness key
    let end = 120 * SECOND;
    let (mut setup, seen) = watched(2);
    info_just_before_an_outage(&mut setup, seen, seen + end);
    let plan = at(&mut setup, seen + end);
    assert!(healthy(&plan, "keeper1"));
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
    let plan = pass(&mut setup, seen + end, seen + end + 26 * SECOND);
    assert!(!healthy(&plan, "keeper1"), "what follows counts again");

    // one whose last info reported PostgreSQL unhealthy
    let (mut setup, seen) = watched(2);
    setup.info("keeper1").postgres_state.as_mut().unwrap().healthy = false;
    info_just_before_an_outage(&mut setup, seen, seen + end);
    let plan = at(&mut setup, seen + end);
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));

    // the same while the store answers
    let (mut setup, seen) = watched(2);
    let mut now = seen;
    setup.info("keeper1").postgres_state.as_mut().unwrap().healthy = false;
    publish(&mut setup, "keeper1");
    for _ in 0..22 {
        now = now + SECOND;
        publish(&mut setup, "keeper2");
        at(&mut setup, now);
    }
    assert_ne!(setup.data.master_uid(), Some(&db_uid("db1")));
}

#[test]
fn the_time_of_own_writes_to_a_slow_store_counts() {
    // sleepInterval 1 s, responses after 3 s: a write and a read in each round
    let fails_after = |busy: Duration| {
        let (mut setup, seen) = watched(2);
        setup
            .data
            .cluster
            .as_mut()
            .unwrap()
            .spec
            .as_mut()
            .unwrap()
            .sleep_interval = Some(SECOND.into());
        let mut now = seen;
        (0..40).find(|_| {
            now = now + 7 * SECOND;
            (setup.seen.latency, setup.seen.own_requests) = (3 * SECOND, busy);
            publish(&mut setup, "keeper2");
            !healthy(&at(&mut setup, now), "keeper1")
        })
    };
    assert!(fails_after(3 * SECOND).is_some_and(|rounds| rounds <= 6));
    assert_eq!(fails_after(Duration::ZERO), None, "readings should have come meanwhile");
}

#[test]
fn slow_reads_do_not_make_infos_younger() {
    // as slow as the previous ones: the info counts from its arrival
    let (mut setup, seen) = watched(2);
    let mut now = seen;
    for _ in 0..3 {
        now = now + 5 * SECOND;
        setup.seen.latency = 3 * SECOND;
        publish(&mut setup, "keeper1");
        publish(&mut setup, "keeper2");
        at(&mut setup, now);
    }
    publish(&mut setup, "keeper1");
    setup.seen.keepers.get_mut("keeper1").unwrap().age = 3 * SECOND;
    at(&mut setup, now + 5 * SECOND);
    let since = setup.memory.history.keepers[&KeeperUid::from("keeper1")].since;
    assert_eq!(since, now + 2 * SECOND);
}

#[test]
fn a_keeper_with_a_liveness_key_is_reporting_whatever_the_age_of_its_info() {
    // extensions
    let (mut setup, seen) = watched(2);
    with_liveness_key(&mut setup);
    let plan = pass(&mut setup, seen, seen + 60 * SECOND);
    assert!(healthy(&plan, "keeper1"));
    assert!(!has_note(&plan, "no keeper info available"));
}

/// keeper1 renews a liveness key from here on.
fn with_liveness_key(setup: &mut Setup) {
    let info = &mut setup.seen.keepers.get_mut("keeper1").unwrap().info;
    info.liveness_key = true;
    info.boot_uuid = BootUuid::from("boot");
    setup
        .seen
        .liveness_keys
        .insert("keeper1".into(), BootUuid::from("boot"));
    publish(setup, "keeper1");
}

#[test]
fn a_keeper_whose_liveness_key_has_gone_fails_fail_interval_after_its_last_renewal() {
    // extensions
    let (mut setup, seen) = watched(2);
    with_liveness_key(&mut setup);
    pass(&mut setup, seen, seen + 60 * SECOND);
    setup.seen.liveness_keys.clear();
    let gone = seen + 61 * SECOND;
    let plan = at(&mut setup, gone);
    assert!(healthy(&plan, "keeper1") && has_note(&plan, "no keeper info available"));
    let over = gone + 17 * SECOND;
    let plan = pass(&mut setup, gone, over);
    assert!(healthy(&plan, "keeper1"));
    let plan = pass(&mut setup, over, over + MILLI);
    assert!(!healthy(&plan, "keeper1"));
}

#[test]
fn the_liveness_key_of_another_process_does_not_count_for_this_info() {
    let (mut setup, seen) = watched(2);
    with_liveness_key(&mut setup);
    pass(&mut setup, seen, seen + 10 * SECOND);
    setup
        .seen
        .liveness_keys
        .insert("keeper1".into(), BootUuid::from("next life"));
    let plan = pass(&mut setup, seen + 10 * SECOND, seen + 30 * SECOND);
    assert!(!healthy(&plan, "keeper1"), "its info is as old as it is");
}

#[test]
fn a_new_leader_counts_from_the_age_of_the_lease() {
    // sentinel E-6
    let mut setup = base(2);
    let now = setup.now;
    setup.info("keeper1");
    setup.memory = crate::Memory::default();
    setup.seen.keepers.get_mut("keeper1").unwrap().age = 15 * SECOND;
    first_run(&mut setup, now);
    let plan = pass(&mut setup, now, now + 10 * SECOND);
    assert!(
        healthy(&plan, "keeper1"),
        "sleepInterval and failInterval after its publication"
    );
    let plan = pass(&mut setup, now + 10 * SECOND, now + 10 * SECOND + MILLI);
    assert!(!healthy(&plan, "keeper1"));
}

/// A first run without anything remembered, unlike those of the other tests.
fn first_run(setup: &mut Setup, now: Boottime) {
    setup.infos_follow = false;
    setup.now = now;
    let checked = setup.checked();
    let input = crate::PlanInput {
        data: &checked,
        observations: &setup.seen,
        memory: &setup.memory,
        leadership: setup.leadership,
        now,
        wall: WALL,
    };
    let mut uid = || "unused".to_owned();
    let plan = crate::plan(
        &input,
        &mut crate::Entropy {
            uid: &mut uid,
            number: 0,
        },
    )
    .unwrap();
    setup.data = plan.next.clone();
    setup.memory = plan.memory;
}

#[test]
fn a_new_leader_that_finds_no_liveness_key_counts_without_sleep_interval() {
    // extensions
    let mut setup = base(2);
    let now = setup.now;
    setup.info("keeper1").liveness_key = true;
    setup.memory = crate::Memory::default();
    setup.seen.keepers.get_mut("keeper1").unwrap().age = 15 * SECOND;
    first_run(&mut setup, now);
    let plan = pass(&mut setup, now, now + 5 * SECOND + MILLI);
    assert!(!healthy(&plan, "keeper1"));
}

#[test]
fn reads_made_before_the_leadership_count() {
    // sentinel 18.3: reads during another sentinel's leadership count
    let (mut setup, seen) = watched(2);
    with_liveness_key(&mut setup);
    let checked = setup.checked();
    let mut memory = crate::Memory::default();
    for round in 0..4 {
        memory = memory.after_read(&setup.seen, &checked, seen + round * SECOND);
    }
    setup.seen.liveness_keys.clear();
    memory = memory.after_read(&setup.seen, &checked, seen + 4 * SECOND);
    setup.memory = memory;
    at(&mut setup, seen + 5 * SECOND);
    let plan = pass(&mut setup, seen + 5 * SECOND, seen + 21 * SECOND + MILLI);
    assert!(
        !healthy(&plan, "keeper1"),
        "failInterval after the last renewal, which was at 1 s"
    );
}

/// Row X55 (sentinel 15.5).
#[test]
fn infos_of_another_cluster_are_ignored() {
    // INV-28
    let mut setup = initializing();
    setup.keeper("keeper1");
    setup.info("keeper1").cluster_uid = "another".into();
    setup.data.keepers_mut().clear();
    assert_eq!(setup.plan().unwrap_err(), crate::PlanError::NoKeepers);
}

/// Rows X56, X57 (sentinel 15.5).
#[test]
fn a_keeper_found_in_a_first_run_is_registered_with_its_next_info() {
    let mut setup = base(1);
    let now = setup.now;
    setup.keeper("keeper2");
    setup.info("keeper2").boot_uuid = BootUuid::from("boot");
    setup.data.keepers_mut().remove("keeper2");
    setup.memory = crate::Memory::default();
    first_run(&mut setup, now);
    let plan = at(&mut setup, now + SECOND);
    assert!(!plan.next.keepers().contains_key("keeper2"));
    publish(&mut setup, "keeper2");
    let plan = at(&mut setup, now + 2 * SECOND);
    let status = &plan.next.keepers()["keeper2"].status;
    assert!(status.healthy);
    assert_eq!(status.boot_uuid, BootUuid::from("boot"));
    assert!(
        plan.next.db_of_keeper(&"keeper2".into()).is_some(),
        "and gets a db in the same round"
    );
}

#[test]
fn a_leaving_keeper_is_not_registered() {
    // sentinel H-6
    for leaving in [true, false] {
        let mut setup = base(1);
        setup.keeper("keeper2");
        let info = setup.info("keeper2");
        info.leaving = leaving;
        info.stopped = (!leaving).then(Default::default);
        setup.data.keepers_mut().remove("keeper2");
        assert!(!setup.plan().unwrap().next.keepers().contains_key("keeper2"));
    }
}

#[test]
fn the_boot_uuid_of_a_restarted_keeper_is_recorded_at_once() {
    // sentinel H-8, 19.6
    let (mut setup, now) = watched(2);
    setup.seen.keepers.get_mut("keeper1").unwrap().info.boot_uuid = BootUuid::from("again");
    publish(&mut setup, "keeper1");
    let plan = at(&mut setup, now + SECOND);
    assert_eq!(plan.next.keepers()["keeper1"].status.boot_uuid, BootUuid::from("again"));
    assert_eq!(plan.urgency, Urgency::Immediate);
}

#[test]
fn a_db_reported_under_another_uid_or_not_at_all_fails_although_its_keeper_is_running() {
    // sentinel H-12
    for state in [true, false] {
        let (mut setup, now) = watched(2);
        let info = &mut setup.seen.keepers.get_mut("keeper1").unwrap().info;
        match state {
            true => info.postgres_state.as_mut().unwrap().uid = db_uid("other"),
            false => info.postgres_state = None,
        }
        let mut plan = None;
        for round in 1..=22 {
            publish(&mut setup, "keeper1");
            publish(&mut setup, "keeper2");
            plan = Some(at(&mut setup, now + round * SECOND));
        }
        let plan = plan.unwrap();
        assert!(healthy(&plan, "keeper1") && !plan.next.dbs()["db1"].status.healthy);
        assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    }
}

#[test]
fn a_db_on_an_unknown_keeper_is_unhealthy() {
    // sentinel H-16
    let mut setup = base(2);
    setup.data.keepers_mut().remove("keeper2");
    setup.info("keeper1");
    let plan = setup.plan().unwrap();
    assert!(!plan.next.dbs()["db2"].status.healthy);
}

#[test]
fn positions_and_times_are_no_decisions_and_a_changed_address_is_one() {
    // sentinel E-9
    let (mut setup, now) = watched(2);
    let state = |setup: &mut Setup| {
        setup
            .seen
            .keepers
            .get_mut("keeper1")
            .unwrap()
            .info
            .postgres_state
            .clone()
            .unwrap()
    };
    let mut moved = state(&mut setup);
    moved.xlog_pos.0 += 1_000;
    setup.seen.keepers.get_mut("keeper1").unwrap().info.postgres_state = Some(moved.clone());
    publish(&mut setup, "keeper1");
    assert_eq!(at(&mut setup, now + SECOND).urgency, Urgency::Periodic);
    moved.port = "5433".to_owned();
    setup.seen.keepers.get_mut("keeper1").unwrap().info.postgres_state = Some(moved);
    publish(&mut setup, "keeper1");
    assert_eq!(at(&mut setup, now + 2 * SECOND).urgency, Urgency::Immediate);
}

#[test]
fn last_healthy_time_is_the_wall_clocks() {
    // sentinel H-11
    let (mut setup, _) = watched(1);
    assert_eq!(setup.data.keepers()["keeper1"].status.last_healthy_time, WALL);
    setup
        .data
        .keepers_mut()
        .get_mut("keeper1")
        .unwrap()
        .status
        .last_healthy_time = Timestamp::ZERO;
    setup.silent("keeper1");
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.keepers()["keeper1"].status.last_healthy_time, WALL);
}
