//! The rows of sentinel 15.5 that are about asynchronous clusters, and what extensions 1 and 2 add to elections.
//!
//! Not here, because synchronous replication and standby clusters are not: X30 to X32, X35 to X54, X61.

use std::time::Duration;

use super::cluster::{HOUR, NOW, Setup, WALL, base, check, check_unchanged, db_uid, has_note, initializing, keeper_of};
use super::rows::{db2_elected, resync, uids};
use crate::memory::{PendingGeneration, Stall};
use crate::{Condition, Plan, Urgency};
use model::{DbInitMode, DbUid, Lsn, Phase, Role, TimelineHistory, Timestamp};

const SECOND: Duration = Duration::from_secs(1);

fn switch(timeline: u64, at: u64) -> Vec<TimelineHistory> {
    vec![TimelineHistory {
        timeline_id: timeline,
        switch_point: Lsn(at),
        reason: String::new(),
    }]
}

#[track_caller]
fn elected(setup: &mut Setup) -> Option<DbUid> {
    let plan = setup.plan().unwrap();
    let master = plan.next.master_uid().cloned().unwrap();
    (setup.data.master_uid() != Some(&master)).then_some(master)
}

fn condition(key: &str) -> Condition {
    Condition::KeeperInfo {
        key: key.to_owned(),
        revision: Some(7),
    }
}

/// A failed db1 and two good standbys.
fn failed_with_two() -> Setup {
    let mut setup = base(3);
    setup
        .unhealthy("db1")
        .at("db1", 1, 1_000)
        .at("db2", 1, 900)
        .at("db3", 1, 500);
    setup
}

/// Row X1 (sentinel 15.5).
#[test]
fn the_most_advanced_standby_is_elected() {
    assert_eq!(elected(&mut failed_with_two()), Some(db_uid("db2")));
    let mut setup = failed_with_two();
    setup.at("db3", 1, 901);
    assert_eq!(elected(&mut setup), Some(db_uid("db3")));
}

/// Row X2 (sentinel 15.5).
#[test]
fn a_standby_may_be_exactly_as_far_behind_as_the_spec_says() {
    for (behind, wins) in [(1_232_896, true), (1_232_897, false)] {
        let mut setup = base(2);
        setup
            .unhealthy("db1")
            .at("db1", 1, 5_000_000)
            .at("db2", 1, 5_000_000 - behind);
        assert_eq!(elected(&mut setup).is_some(), wins, "{behind}");
    }
}

/// Row X3 (sentinel 15.5).
#[test]
fn a_standby_ahead_of_the_recorded_position_is_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").at("db1", 1, 1_000).at("db2", 1, 2_000);
    assert_eq!(elected(&mut setup), Some(db_uid("db2")));
}

/// Row X4 (sentinel 15.5).
#[test]
fn a_standby_that_is_still_converging_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").db("db2").generation = 2;
    setup.memory.pending.insert(
        db_uid("db2"),
        PendingGeneration {
            generation: 2,
            since: NOW.before(SECOND),
        },
    );
    assert_eq!(elected(&mut setup), None);
}

/// Row X5 (sentinel 15.5).
#[test]
fn a_standby_whose_keeper_has_failed_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").silent("keeper2").unhealthy("db2");
    let plan = setup.plan().unwrap();
    assert!(has_note(&plan, "no eligible masters"));
}

/// Row X6 (sentinel 15.5).
#[test]
fn a_standby_on_a_lower_timeline_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").at("db1", 2, 1_000).at("db2", 1, 390);
    setup.db("db1").status.timelines_history = switch(1, 400);
    check_unchanged(setup);
}

/// Rows X7, X8, X9, X10, X11 (sentinel 15.5).
#[test]
fn standbys_off_the_masters_branch_are_replaced() {
    // The master's timeline and switch of timeline 1; the standby's timeline, position, switch of timeline 1 and system.
    type Row = (u64, Option<u64>, u64, u64, Option<u64>, &'static str, bool);
    let rows: [Row; 9] = [
        (2, Some(400), 2, 500, Some(400), "s", true),
        (2, Some(400), 2, 500, Some(401), "s", false),
        (2, Some(400), 2, 500, None, "s", true),
        (2, None, 2, 500, Some(401), "s", true),
        (2, Some(400), 1, 400, None, "s", true),
        (2, Some(400), 1, 401, None, "s", false),
        (1, None, 2, 500, Some(400), "s", false),
        (1, None, 1, 500, None, "other", false),
        (1, None, 1, 500, None, "", true),
    ];
    for row in rows {
        let (timeline, switched, own, at, own_switched, system, valid) = row;
        let mut setup = base(2);
        setup.at("db1", timeline, 1_000).at("db2", own, at);
        setup.db("db1").status.system_id = "s".to_owned();
        setup.db("db1").status.timelines_history = switched.map(|at| switch(1, at)).unwrap_or_default();
        setup.db("db2").status.system_id = system.to_owned();
        setup.db("db2").status.timelines_history = own_switched.map(|at| switch(1, at)).unwrap_or_default();
        if valid {
            check_unchanged(setup);
        } else {
            // its keeper gets a new db in the same round
            let plan = check(setup, |wanted| {
                wanted.data.dbs_mut().remove("db2");
                wanted
                    .data
                    .dbs_mut()
                    .insert(db_uid("db3"), resync("db3", keeper_of("db2"), "db1"));
                wanted.db("db1").generation = 2;
                wanted.db("db1").spec.followers = uids(&["db3"]);
            });
            assert!(has_note(&plan, "removing invalid db"), "{row:?}");
        }
    }
}

/// A standby whose keeper reports that its data is lost gets a new db, but only when the master reports healthy, and
/// while the keeper is running and its report is about this db.
#[test]
fn a_standby_with_lost_data_is_replaced() {
    let lost = |db: &str| {
        let mut setup = base(2);
        setup.info("keeper2").data_lost = db_uid(db);
        setup
    };
    let plan = check(lost("db2"), |wanted| {
        wanted.data.dbs_mut().remove("db2");
        wanted
            .data
            .dbs_mut()
            .insert(db_uid("db3"), resync("db3", keeper_of("db2"), "db1"));
        wanted.db("db1").generation = 2;
        wanted.db("db1").spec.followers = uids(&["db3"]);
    });
    assert!(has_note(&plan, "removing db since its keeper has lost the data"));

    check_unchanged(lost(""));
    check_unchanged(lost("an earlier db"));
    let mut going = lost("db2");
    going.info("keeper2").leaving = true;
    check_unchanged(going);
    let mut in_doubt = base(2);
    in_doubt.unhealthy("db1").info("keeper2").data_lost = db_uid("db2");
    let plan = in_doubt.plan().unwrap();
    assert!(
        plan.next.dbs().contains_key("db2"),
        "nothing is removed while the master is in doubt"
    );
}

/// A master whose data is lost is replaced by an election, like any failed one; it is never just removed.
#[test]
fn a_master_with_lost_data_is_failed_over() {
    let mut setup = base(2);
    setup.info("keeper1").data_lost = db_uid("db1");
    check_unchanged(setup);
    let mut setup = base(2);
    setup.unhealthy("db1").info("keeper1").data_lost = db_uid("db1");
    assert_eq!(elected(&mut setup), Some(db_uid("db2")));
}

/// Row X12 (sentinel 15.5).
#[test]
fn an_unusable_master_is_not_announced() {
    let mut setup = base(1);
    setup.unhealthy("db1").proxy().spec.master_db_uid = db_uid("");
    check_unchanged(setup);
}

/// Row X13 (sentinel 15.5).
#[test]
fn the_master_is_announced_when_every_proxy_has_acknowledged() {
    let mut setup = base(1);
    setup.proxy().generation = 5;
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy_seen("p1", 4);
    let plan = check_unchanged(setup.clone());
    assert!(has_note(
        &plan,
        "waiting for proxies to be converged to the current generation"
    ));
    setup.proxy_seen("p1", 5);
    check(setup, |wanted| {
        wanted.proxy().generation = 6;
        wanted.proxy().spec.master_db_uid = db_uid("db1");
        wanted.proxy().spec.enabled_proxies = vec!["p1".into()];
    });
}

/// Row X14 (sentinel 15.5).
#[test]
fn the_enabled_proxies_are_the_active_ones() {
    let mut setup = base(1);
    setup.proxy().spec.enabled_proxies = vec!["p1".into(), "p2".into()];
    setup.proxy_seen("p2", 1);
    setup.proxy_seen("p3", 1);
    check(setup, |wanted| {
        wanted.proxy().generation = 2;
        wanted.proxy().spec.enabled_proxies = vec!["p2".into(), "p3".into()];
    });
}

/// Row X15 (sentinel 15.5).
#[test]
fn without_proxies_the_proxy_generation_stays() {
    let mut setup = base(1);
    for _ in 0..2 {
        let plan = setup.round();
        assert_eq!(plan.next.proxy.unwrap().generation, 1);
    }
}

/// db2 has been elected and is being promoted; db1, the old master, is healthy again.
fn promoting(asked: Duration) -> Setup {
    let mut setup = base(3);
    db2_elected(&mut setup);
    setup.db("db1").generation = 1;
    setup.db("db1").spec.followers = uids(&[]);
    setup.memory.pending.insert(
        db_uid("db2"),
        PendingGeneration {
            generation: 2,
            since: NOW.before(asked),
        },
    );
    setup
}

/// Row X16 (sentinel 15.5).
#[test]
fn nothing_else_happens_while_the_new_master_is_promoted() {
    check(promoting(SECOND), |wanted| wanted.db("db2").spec.followers = uids(&[]));
}

/// Row X17 (sentinel 15.5).
#[test]
fn a_master_that_is_not_promoted_in_time_is_replaced() {
    let mut setup = promoting(31 * SECOND);
    assert_eq!(elected(&mut setup), Some(db_uid("db1")), "of equals the first");
    let mut setup = promoting(31 * SECOND);
    setup.at("db3", 0, 1);
    assert_eq!(elected(&mut setup), Some(db_uid("db3")));
}

/// Row X18 (sentinel 15.5).
#[test]
fn an_old_master_may_be_elected_although_its_keeper_cannot_be_master() {
    let mut setup = promoting(31 * SECOND);
    setup.keeper("keeper1").status.can_be_master = Some(false);
    setup
        .data
        .keepers_mut()
        .get_mut("keeper1")
        .unwrap()
        .status
        .can_be_master = Some(false);
    assert_eq!(elected(&mut setup), Some(db_uid("db1")));
}

/// Rows X19, X20 (sentinel 15.5).
#[test]
fn converging_standbys_count() {
    // db2 and db3 converging while one is wanted, two keepers free
    let mut setup = base(3);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper4");
    setup.keeper("keeper5");
    for uid in ["db2", "db3"] {
        setup.db(uid).generation = 2;
        setup.memory.pending.insert(
            db_uid(uid),
            PendingGeneration {
                generation: 2,
                since: NOW.before(SECOND),
            },
        );
    }
    check_unchanged(setup);
    // db2 is being copied for the first time
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    setup.db("db2").spec.init_mode = DbInitMode::Resync;
    setup.db("db2").status.current_generation = 0;
    setup.memory.pending.insert(
        db_uid("db2"),
        PendingGeneration {
            generation: 1,
            since: NOW.before(SECOND),
        },
    );
    check_unchanged(setup);
}

/// Row X21 (sentinel 15.5).
#[test]
fn excess_standbys_are_removed_failed_and_least_advanced_first() {
    let mut setup = base(4);
    setup.spec().max_standbys_per_sender = Some(1);
    setup
        .at("db1", 1, 1_000)
        .at("db2", 1, 900)
        .at("db3", 1, 950)
        .at("db4", 1, 990)
        .unhealthy("db4");
    check(setup, |wanted| {
        wanted.data.dbs_mut().remove("db2");
        wanted.data.dbs_mut().remove("db4");
        wanted.db("db1").generation = 2;
        wanted.db("db1").spec.followers = uids(&["db3"]);
    });
}

/// Row X23 (sentinel 15.5).
#[test]
fn only_dead_keepers_without_a_db_are_removed() {
    let mut setup = base(2);
    setup.silent("keeper2").unhealthy("db2").silent("keeper3");
    let long_ago = Timestamp::from_unix_nanos(WALL.as_unix_nanos() - 49 * 3_600_000_000_000);
    setup.keeper("keeper2").status.last_healthy_time = long_ago;
    setup.keeper("keeper3").status.last_healthy_time = long_ago;
    for keeper in ["keeper2", "keeper3"] {
        setup
            .data
            .keepers_mut()
            .get_mut(keeper)
            .unwrap()
            .status
            .last_healthy_time = long_ago;
    }
    check(setup, |wanted| {
        wanted.data.keepers_mut().remove("keeper3");
    });
}

/// db2 has stopped before the oldest WAL of the master, for this many reports; this report is one more.
fn stalled(reports: u32) -> Setup {
    let mut setup = base(2);
    setup.at("db1", 1, 0x500_0000).at("db2", 1, 0x200_0000);
    setup.db("db1").status.older_wal_file = "000000010000000000000003".to_owned();
    setup.db("db2").generation = 2;
    setup.db("db2").status.current_generation = 2;
    setup.memory.stalls.insert(
        db_uid("db2"),
        Stall {
            position: Lsn(0x200_0000),
            reports: reports - 1,
        },
    );
    setup
}

/// Row X24 (sentinel 15.5).
#[test]
fn a_standby_whose_wal_is_gone_is_copied_again_once_it_has_made_no_progress_for_long() {
    check_unchanged(stalled(10));
    let plan = check(stalled(11), |wanted| {
        wanted.data.dbs_mut().remove("db2");
        wanted
            .data
            .dbs_mut()
            .insert(db_uid("db3"), resync("db3", keeper_of("db2"), "db1"));
        wanted.db("db1").generation = 2;
        wanted.db("db1").spec.followers = uids(&["db3"]);
    });
    assert!(has_note(
        &plan,
        "removing db that won't be able to sync due to missing wals on current master"
    ));
}

/// Row X25 (sentinel 15.5).
#[test]
fn a_standby_that_can_still_catch_up_is_kept() {
    let mut inside = stalled(11);
    inside.at("db2", 1, 0x300_0000);
    inside.memory.stalls.insert(
        db_uid("db2"),
        Stall {
            position: Lsn(0x300_0000),
            reports: 20,
        },
    );
    check_unchanged(inside);
    let mut unhealthy = stalled(11);
    unhealthy.unhealthy("db2");
    check_unchanged(unhealthy);
    let mut first = stalled(11);
    first.db("db2").generation = 1;
    first.db("db2").status.current_generation = 1;
    check_unchanged(first);
    // one that is still starting, on a busy machine, has reported often and never a position
    let mut starting = stalled(11);
    starting.at("db2", 0, 0);
    starting.memory.stalls.insert(
        db_uid("db2"),
        Stall {
            position: Lsn(0),
            reports: 20,
        },
    );
    check_unchanged(starting);
    let mut odd = stalled(11);
    odd.db("db1").status.older_wal_file = "archive".to_owned();
    check_unchanged(odd);
}

/// Row X26 (sentinel 15.5).
#[test]
fn the_first_copy_has_no_time_limit() {
    for (generation, current, copying) in [(1, 0, true), (2, 1, false), (2, 0, true)] {
        let mut setup = base(2);
        setup.spec().max_standbys_per_sender = Some(1);
        setup.keeper("keeper3");
        setup.db("db2").spec.init_mode = DbInitMode::Resync;
        setup.db("db2").generation = generation;
        setup.db("db2").status.current_generation = current;
        setup.memory.pending.insert(
            db_uid("db2"),
            PendingGeneration {
                generation,
                since: NOW.before(HOUR),
            },
        );
        let plan = setup.plan().unwrap();
        let replaced = plan.next.dbs().len() > 2;
        assert_eq!(replaced, !copying, "generation {generation}, reached {current}");
    }
}

/// Row X27 (sentinel 15.5).
#[test]
fn a_first_run_uses_the_statuses_that_the_previous_leader_wrote() {
    let mut setup = base(2);
    setup.unhealthy("db1").leadership = 2;
    assert_eq!(elected(&mut setup), Some(db_uid("db2")));
}

/// Row X28 (sentinel 15.5).
#[test]
fn failkeeper_takes_effect_for_one_round_but_not_in_a_first_run() {
    let mut setup = base(2);
    setup.keeper("keeper1");
    setup.data.keepers_mut().get_mut("keeper1").unwrap().status.force_fail = true;
    let mut first = setup.clone();
    first.leadership = 2;
    check_unchanged(first);
    let plan = check(setup.clone(), |wanted| {
        db2_elected(wanted);
        wanted.db("db1").status.healthy = false;
        let status = &mut wanted.data.keepers_mut().get_mut("keeper1").unwrap().status;
        (status.force_fail, status.healthy) = (false, false);
    });
    assert_eq!(plan.urgency, Urgency::Immediate);
    // in the next round the keeper is healthy again
    let plan = setup.round();
    assert!(!plan.next.keepers()["keeper1"].status.healthy);
    setup.infos_follow = false;
    let plan = setup.round();
    assert!(plan.next.keepers()["keeper1"].status.healthy);
}

/// Row X29 (sentinel 15.5).
#[test]
fn only_the_master_gets_additional_slots() {
    let mut setup = base(2);
    setup.spec().additional_master_replication_slots = Some(vec!["s1".to_owned()]);
    setup.db("db2").spec.additional_replication_slots = Some(vec!["old".to_owned()]);
    check(setup, |wanted| {
        wanted.db("db1").spec.additional_replication_slots = Some(vec!["s1".to_owned()]);
        wanted.db("db2").spec.additional_replication_slots = None;
        wanted.db("db1").generation = 2;
        wanted.db("db2").generation = 2;
    });
}

/// A cluster whose first db is initialised.
fn initialised(merge: bool, healthy: bool) -> Setup {
    let mut setup = initializing();
    setup.keeper("keeper1");
    setup.spec().merge_pg_parameters = Some(merge);
    setup.spec().pg_parameters = [("wal_keep_size".to_owned(), "1GB".to_owned())].into();
    let first = setup.round();
    assert_eq!(first.next.master_uid(), Some(&db_uid("db1")));
    let status = &mut setup.db("db1").status;
    (status.healthy, status.current_generation) = (healthy, 1);
    status.pg_parameters = [("max_connections".to_owned(), "100".to_owned())].into();
    if !healthy {
        setup.unhealthy("db1");
    }
    setup
}

#[test]
fn a_parameter_that_the_first_server_rejected_stays_in_the_spec() {
    let mut setup = initialised(true, true);
    let text = |text: &str| text.to_owned();
    let user = [
        ("shared_preload_libraries", "none"),
        ("MAX_CONNECTIONS", "100"),
        ("port", "1"),
    ];
    setup.spec().pg_parameters = user.map(|(name, value)| (text(name), text(value))).into();
    let next = setup.round().next;
    let spec = next.cluster.unwrap().spec.unwrap();
    let wanted = [("max_connections", "100"), ("shared_preload_libraries", "none")];
    assert_eq!(
        spec.pg_parameters,
        wanted.map(|(name, value)| (text(name), text(value))).into()
    );
}

/// Row X33 (sentinel 15.5).
#[test]
fn initialisation_ends_and_the_master_is_announced_in_one_write() {
    for merge in [true, false] {
        let mut setup = initialised(merge, true);
        setup.proxy_seen("p1", 0);
        check(setup, |wanted| {
            wanted.cluster().status.phase = Phase::Normal;
            // keepers do not report wal_keep_size: the user's value stays
            let mut parameters = wanted.spec().pg_parameters.clone();
            if merge {
                parameters.extend(wanted.db("db1").status.pg_parameters.clone());
            }
            wanted.spec().pg_parameters = parameters.clone();
            let db = wanted.db("db1");
            db.generation = 2;
            db.spec.init_mode = DbInitMode::None;
            db.spec.include_previous_config = false;
            db.spec.pg_parameters = parameters;
            wanted.proxy().generation = 1;
            wanted.proxy().spec.master_db_uid = db_uid("db1");
            wanted.proxy().spec.enabled_proxies = vec!["p1".into()];
        });
    }
}

/// Row X34 (sentinel 15.5).
#[test]
fn a_first_master_that_is_not_healthy_is_waited_for() {
    let plan = check_unchanged(initialised(true, false));
    assert!(has_note(&plan, "waiting for db"));
}

/// Timeline 2 began at 400; db2 is its master and has served for this long; db1, the old master, is kept.
fn failed_over(served: Duration) -> Setup {
    let mut setup = base(3);
    db2_elected(&mut setup);
    setup.at("db1", 1, 450).at("db2", 2, 500).at("db3", 2, 500);
    for uid in ["db2", "db3"] {
        setup.db(uid).status.timelines_history = switch(1, 400);
        setup.db(uid).generation = 2;
        setup.db(uid).status.current_generation = 2;
        setup.db(uid).spec.followers = uids(&[]);
    }
    setup.db("db2").spec.followers = uids(&["db3"]);
    setup.db("db3").spec.follow_config.as_mut().unwrap().db_uid = db_uid("db2");
    setup.proxy().spec.master_db_uid = db_uid("db2");
    setup.proxy().generation = 3;
    setup.memory.healthy_since = Some((db_uid("db2"), NOW.before(served)));
    setup
}

fn without_db1(wanted: &mut Setup, replaced: bool) {
    wanted.data.dbs_mut().remove("db1");
    if replaced {
        let mut db = resync("db4", keeper_of("db1"), "db2");
        db.spec.role = Role::Standby;
        wanted.data.dbs_mut().insert(db_uid("db4"), db);
        wanted.db("db2").generation += 1;
        wanted.db("db2").spec.followers = uids(&["db3", "db4"]);
    }
}

/// Row X62 (sentinel 15.5).
#[test]
fn the_old_master_is_kept_until_the_new_one_was_healthy_for_long_or_the_old_keeper_is_running() {
    let silent = |served| {
        let mut setup = failed_over(served);
        setup.silent("keeper1").unhealthy("db1");
        setup
    };
    let plan = check_unchanged(silent(SECOND));
    assert!(has_note(
        &plan,
        "keeping old master db until the new one has proven itself"
    ));
    assert!(
        plan.wake_at.is_some_and(|at| at <= NOW + 20 * SECOND),
        "it looks again when failInterval is over"
    );
    check(silent(21 * SECOND), |wanted| without_db1(wanted, false));

    let mut leaving = failed_over(SECOND);
    leaving.info("keeper1").leaving = true;
    check(leaving, |_| {});
    let mut stopped = failed_over(SECOND);
    stopped.stopped("keeper1", 1, 450);
    check(stopped, |wanted| without_db1(wanted, true));
    check(failed_over(SECOND), |wanted| without_db1(wanted, true));
}

/// db2 is unhealthy, no other db is eligible, and db1's keeper is running and keeps db1 stopped.
fn unhealthy_new_master(ahead: u64) -> Setup {
    let mut setup = failed_over(SECOND);
    setup.data.dbs_mut().remove("db3");
    setup.data.keepers_mut().remove("keeper3");
    setup.db("db2").spec.followers = uids(&[]);
    setup.at("db2", 2, 400 + ahead);
    setup.unhealthy("db2").stopped("keeper1", 1, 450);
    setup
}

/// Row X63 (sentinel 15.5).
#[test]
fn nothing_irrevocable_happens_while_the_new_master_is_unhealthy() {
    let mut setup = unhealthy_new_master(100);
    setup.memory.db_errors.insert(db_uid("db2"), NOW.before(SECOND));
    let plan = check(setup, |wanted| wanted.db("db2").status.healthy = true);
    assert!(!has_note(&plan, "removing old master db"));
}

/// Row X63 (sentinel 15.5).
#[test]
fn a_new_master_that_did_little_more_than_promote_is_replaced_by_the_old_one_once_proxies_are_closed() {
    // first the proxies are closed
    let mut setup = unhealthy_new_master(100);
    setup.proxy_seen("p1", 3);
    let plan = check(setup.clone(), |wanted| {
        wanted.proxy().generation = 4;
        wanted.proxy().spec.master_db_uid = db_uid("");
    });
    assert!(has_note(&plan, "closing proxies before going back to the old master"));
    // then none may still forward
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy().generation = 4;
    assert_eq!(elected(&mut setup), None);
    setup.proxy_seen("p1", 4);
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
    assert_eq!(
        plan.next.dbs()["db1"].generation,
        2,
        "as after the failover: its spec has not changed"
    );
    let conditions = [condition("keeper1"), condition("keeper2")];
    assert!(
        conditions.iter().all(|condition| plan.conditions.contains(condition)),
        "{:?}",
        plan.conditions
    );
}

/// Row X63 (sentinel 15.5).
#[test]
fn a_master_that_has_written_more_is_waited_for() {
    for (ahead, lag_max, back) in [(65_536, None, true), (65_537, None, false), (2_000, Some(1_000), false)] {
        let mut setup = unhealthy_new_master(ahead);
        setup.spec().max_standby_lag = lag_max;
        setup.proxy().spec.master_db_uid = db_uid("");
        assert_eq!(elected(&mut setup).is_some(), back, "{ahead}");
    }
}

/// Row X64 (sentinel 15.5).
#[test]
fn a_removed_keeper_registers_again_only_with_a_new_info() {
    let mut setup = base(2);
    setup.round();
    setup.infos_follow = false;
    setup.data.keepers_mut().remove("keeper2");
    setup.data.dbs_mut().remove("db2");
    let plan = setup.round();
    assert!(!plan.next.keepers().contains_key("keeper2"));
    let info = &mut setup.seen.keepers.get_mut("keeper2").unwrap().info;
    info.info_uid = "another".into();
    let plan = setup.round();
    assert!(plan.next.keepers().contains_key("keeper2"));
}

/// db1's keeper has shut down in order, at 1000.
fn after_orderly_shutdown() -> Setup {
    let mut setup = base(3);
    setup.at("db1", 1, 990).at("db2", 1, 1_000).at("db3", 1, 999);
    setup.stopped("keeper1", 1, 1_000).leaving = true;
    setup
}

fn elected_after_orderly_shutdown(setup: &mut Setup) -> (Option<DbUid>, Plan) {
    let plan = setup.plan().unwrap();
    let master = plan.next.master_uid().cloned().unwrap();
    ((master != db_uid("db1")).then_some(master), plan)
}

#[test]
fn a_master_that_left_cleanly_is_replaced_at_once_by_a_standby_with_all_its_wal() {
    // extensions
    let (elected, plan) = elected_after_orderly_shutdown(&mut after_orderly_shutdown());
    assert_eq!(elected, Some(db_uid("db2")));
    assert_eq!(plan.conditions, [condition("keeper1")]);
    assert_eq!(plan.urgency, Urgency::Immediate);
}

#[test]
fn an_orderly_shutdown_counts_only_when_clean_complete_and_of_this_boot() {
    // extensions
    let mut behind = after_orderly_shutdown();
    behind
        .seen
        .keepers
        .get_mut("keeper2")
        .unwrap()
        .info
        .postgres_state
        .as_mut()
        .unwrap()
        .xlog_pos = Lsn(999);
    assert_eq!(elected_after_orderly_shutdown(&mut behind).0, None);
    let mut unclean = after_orderly_shutdown();
    unclean.info("keeper1").stopped.as_mut().unwrap().clean = false;
    assert_eq!(elected_after_orderly_shutdown(&mut unclean).0, None);
    let mut staying = after_orderly_shutdown();
    staying.info("keeper1").leaving = false;
    assert_eq!(
        elected_after_orderly_shutdown(&mut staying).0,
        None,
        "stopped by SIGINT: failInterval runs"
    );
    let mut elsewhere = after_orderly_shutdown();
    elsewhere.info("keeper1").stopped.as_mut().unwrap().timeline_id = 2;
    assert_eq!(elected_after_orderly_shutdown(&mut elsewhere).0, None);
    let mut another_life = after_orderly_shutdown();
    another_life.info("keeper1").boot_uuid = "another".into();
    assert_eq!(
        elected_after_orderly_shutdown(&mut another_life).0,
        None,
        "that one never ran the master"
    );
    let mut another_db = after_orderly_shutdown();
    another_db.info("keeper1").postgres_state.as_mut().unwrap().uid = db_uid("db9");
    assert_eq!(elected_after_orderly_shutdown(&mut another_db).0, None);
}

#[test]
fn a_leaving_standby_is_no_candidate() {
    let mut setup = after_orderly_shutdown();
    setup.info("keeper2").leaving = true;
    assert_eq!(elected_after_orderly_shutdown(&mut setup).0, None);
}

#[test]
fn a_leaving_master_is_not_announced() {
    // extensions
    let mut setup = base(1);
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.info("keeper1").leaving = true;
    check_unchanged(setup);
}

#[test]
fn a_master_that_failed_before_it_was_announced_is_replaced_by_the_old_one_that_is_kept_stopped() {
    // extensions
    let mut setup = promoting(31 * SECOND);
    setup.data.dbs_mut().remove("db3");
    setup.data.keepers_mut().remove("keeper3");
    setup.at("db1", 1, 1_000).at("db2", 1, 1_000);
    setup.stopped("keeper1", 1, 1_000);
    let mut may_still_forward = setup.clone();
    may_still_forward.proxy_seen("p1", 1);
    assert_eq!(
        elected(&mut may_still_forward),
        None,
        "not before F-6 of fencing is over"
    );
    let mut leaving = setup.clone();
    leaving.info("keeper1").leaving = true;
    assert_eq!(elected(&mut leaving), None);
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
    assert!(plan.conditions.contains(&condition("keeper1")) && plan.conditions.contains(&condition("keeper2")));
}

#[test]
fn an_announced_master_is_not_replaced_by_the_old_one_when_its_last_proxy_disappears() {
    // extensions
    let mut setup = base(2);
    setup.db("db2").spec.role = Role::Master;
    setup.at("db1", 1, 1_000).at("db2", 1, 500).unhealthy("db1");
    setup.stopped("keeper2", 1, 500);
    let mut announced = setup.clone();
    let plan = announced.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
    let section = plan.next.proxy.unwrap();
    assert_eq!(section.spec.master_db_uid, db_uid("db1"), "nor is it prepared");
    setup.proxy().spec.master_db_uid = db_uid("");
    assert_eq!(elected(&mut setup), Some(db_uid("db2")));
}

#[test]
fn a_master_that_served_is_not_replaced_for_slow_reconfiguration() {
    // sentinel W-10
    let mut setup = base(2);
    setup.memory.once_healthy = Some(db_uid("db1"));
    setup.db("db1").generation = 2;
    let plan = check_unchanged(setup);
    assert!(has_note(&plan, "master db is slow to take over its new spec"));
}
