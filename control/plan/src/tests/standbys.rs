//! Which standbys are kept, removed and added: rows of sentinel 15.5 about asynchronous clusters.

use std::time::Duration;

use super::cluster::{HOUR, Setup, base, check, db_uid};
use model::DbInitMode;

const SECOND: Duration = Duration::from_secs(1);

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
    for (timeline, switched, own, at, own_switched, system, valid) in rows {
        let mut setup = base(2);
        setup.at("db1", timeline, 1_000).at("db2", own, at);
        for (uid, switched, system) in [("db1", switched, "s"), ("db2", own_switched, system)] {
            setup.db(uid).status.system_id = system.to_owned();
            if let Some(at) = switched {
                setup.left_timeline_1(uid, at);
            }
        }
        // its keeper gets a new db in the same round
        let replaced = "removes db2 (invalid); adds db3 on keeper2, a copy of db1";
        check(&mut setup, if valid { "nothing" } else { replaced });
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
    check(
        &mut lost("db2"),
        "removes db2 (lost); adds db3 on keeper2, a copy of db1",
    );
    check(&mut lost(""), "nothing");
    check(&mut lost("an earlier db"), "nothing");
    let mut going = lost("db2");
    going.info("keeper2").leaving = true;
    check(&mut going, "nothing");
    // nothing is removed while the master is unhealthy
    let mut unhealthy = base(2);
    unhealthy.unhealthy("db1").info("keeper2").data_lost = db_uid("db2");
    check(&mut unhealthy, "elects db2");
}

/// Rows X19, X20 (sentinel 15.5).
#[test]
fn converging_standbys_count() {
    // db2 and db3 converging while one is wanted, two keepers free
    let mut setup = base(3);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper4");
    setup.keeper("keeper5");
    setup.converging("db2", 2, SECOND).converging("db3", 2, SECOND);
    check(&mut setup, "nothing");
    // db2 is being copied for the first time
    check(&mut copying(1, 0, SECOND), "nothing");
}

/// db2, the only standby wanted, is a copy whose generation was requested this long ago; keeper3 is free.
fn copying(generation: i64, current: i64, asked: Duration) -> Setup {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    setup.db("db2").spec.init_mode = DbInitMode::Resync;
    setup.db("db2").status.current_generation = current;
    setup.converging("db2", generation, asked);
    setup
}

/// Row X26 (sentinel 15.5).
#[test]
fn the_first_copy_has_no_time_limit() {
    let replaced = "adds db3 on keeper3, a copy of db1";
    for (generation, current, expected) in [(1, 0, "nothing"), (2, 1, replaced), (2, 0, "nothing")] {
        check(&mut copying(generation, current, HOUR), expected);
    }
}

/// Row X21 (sentinel 15.5).
#[test]
fn excess_standbys_are_removed_failed_and_least_advanced_first() {
    let mut setup = base(4);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.at("db1", 1, 1_000).at("db2", 1, 900).at("db3", 1, 950);
    setup.at("db4", 1, 990).unhealthy("db4");
    check(&mut setup, "removes db2 (excess); removes db4 (not good)");
}

/// db2 has stopped before the oldest WAL of the master, for this many reports; this report is one more.
fn stalled(reports: u32) -> Setup {
    let mut setup = base(2);
    setup.at("db1", 1, 0x500_0000);
    setup.db("db1").status.older_wal_file = "000000010000000000000003".to_owned();
    setup.db("db2").generation = 2;
    setup.db("db2").status.current_generation = 2;
    setup.stalled("db2", 1, 0x200_0000, reports - 1);
    setup
}

/// Row X24 (sentinel 15.5).
#[test]
fn a_standby_whose_wal_is_gone_is_copied_again_once_it_has_made_no_progress_for_long() {
    check(&mut stalled(10), "nothing");
    check(
        &mut stalled(11),
        "removes db2 (WAL gone); adds db3 on keeper2, a copy of db1",
    );
}

/// Row X25 (sentinel 15.5).
#[test]
fn a_standby_that_can_still_catch_up_is_kept() {
    let inside = |setup: &mut Setup| setup.stalled("db2", 1, 0x300_0000, 20);
    let unhealthy = |setup: &mut Setup| {
        setup.unhealthy("db2");
    };
    let first = |setup: &mut Setup| {
        let db = setup.db("db2");
        (db.generation, db.status.current_generation) = (1, 1);
    };
    // one that is still starting, on a busy machine, has reported often and never a position
    let starting = |setup: &mut Setup| setup.stalled("db2", 0, 0, 20);
    let odd = |setup: &mut Setup| setup.db("db1").status.older_wal_file = "archive".to_owned();
    let changes: [fn(&mut Setup); 5] = [inside, unhealthy, first, starting, odd];
    for change in changes {
        let mut setup = stalled(11);
        change(&mut setup);
        check(&mut setup, "nothing");
    }
}

/// Row X29 (sentinel 15.5).
#[test]
fn only_the_master_gets_additional_slots() {
    let mut setup = base(2);
    setup.spec().additional_master_replication_slots = Some(vec!["s1".to_owned()]);
    setup.db("db2").spec.additional_replication_slots = Some(vec!["old".to_owned()]);
    check(
        &mut setup,
        "db1: additionalReplicationSlots [\"s1\"]; db2: additionalReplicationSlots null",
    );
}
