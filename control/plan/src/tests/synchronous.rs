//! Synchronous replication (synchronous SY-1 to SY-18): proofs, elections, leaving keepers and former masters. The table of
//! sentinel 15 is in `synchronous_rows`.

use std::time::Duration;

use super::cluster::{NOW, Setup, check, db_uid, db2_elected, initializing, synchronous, uids};
use crate::memory::FirstPosition;
use model::{Db, Lsn, Role};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Commits wait for db2, which is not known to be in sync; the master reports it without a mark, at position 1000 of
/// timeline 1; db2 is at `at`.
fn reported(at: u64) -> Setup {
    let mut setup = synchronous(2, &["db2"], &[]);
    setup.at("db1", 1, 1_000).at("db2", 1, at);
    setup.state("keeper1").synchronous_standbys = uids(&["db2"]);
    setup
}

const WAITS: &str = "until db2 are in sync";
const PROVEN: &str = "in sync with db1: db2";

// ---- synchronous SY-3: when a standby counts as in sync

#[test]
fn a_marked_report_proves_its_standbys_to_be_in_sync() {
    let mut setup = reported(1);
    check(&mut setup, WAITS);
    setup.state("keeper1").sync_marked = true;
    check(&mut setup, PROVEN);
}

#[test]
fn without_a_mark_the_standby_itself_has_to_have_reported_the_masters_position() {
    check(&mut reported(999), WAITS);
    check(&mut reported(1_000), PROVEN);
    // on the same timeline
    let mut other = reported(2_000);
    other.state("keeper2").timeline_id = 2;
    other.db("db2").status.timeline_id = 2;
    assert!(other.plan().unwrap().next.dbs()["db1"].status.synchronous_standbys == uids(&[]));
    // in a report that is fresh and healthy
    let mut unhealthy = reported(1_000);
    unhealthy.state("keeper2").healthy = false;
    check(&mut unhealthy, WAITS);
    let mut silent = reported(1_000);
    silent.seen.keepers.remove("keeper2");
    assert!(silent.plan().unwrap().next.dbs()["db1"].status.synchronous_standbys == uids(&[]));
}

#[test]
fn an_earlier_report_of_the_same_generation_is_enough() {
    let first = |generation, timeline| FirstPosition {
        db: db_uid("db1"),
        generation,
        timeline,
        position: Lsn(900),
    };
    for (seen, expected) in [
        (first(1, 1), PROVEN),
        // about other names, or another branch
        (first(0, 1), WAITS),
        (first(1, 2), WAITS),
    ] {
        let mut setup = reported(900);
        setup.memory.first_position = Some(seen);
        check(&mut setup, expected);
    }
}

#[test]
fn the_first_position_of_a_generation_is_remembered() {
    let mut setup = reported(900);
    setup.round();
    setup.infos_follow = false;
    for (keeper, at) in [("keeper1", 5_000), ("keeper2", 1_000)] {
        setup.state(keeper).xlog_pos = Lsn(at);
        setup.info(keeper).info_uid = "second".into();
    }
    check(&mut setup.clone(), PROVEN);
    // with the next generation it counts anew
    setup.db("db1").generation = 2;
    setup.db("db1").status.current_generation = 2;
    setup.state("keeper1").generation = 2;
    check(&mut setup, WAITS);
}

#[test]
fn a_report_proves_nothing_about_another_generation_or_from_a_master_that_is_not_reported_well() {
    let marked = |change: fn(&mut Setup)| {
        let mut setup = reported(1_000);
        setup.state("keeper1").sync_marked = true;
        change(&mut setup);
        let plan = setup.plan().unwrap();
        plan.next.dbs()["db1"].status.synchronous_standbys.clone()
    };
    assert_eq!(marked(|_| {}), uids(&["db2"]));
    let none = uids(&[]);
    assert_eq!(
        marked(|of_before| {
            of_before.db("db1").generation = 2;
            of_before.db("db1").status.current_generation = 2;
        }),
        none
    );
    assert_eq!(marked(|unhealthy| unhealthy.state("keeper1").healthy = false), none);
    assert_eq!(marked(|leaving| leaving.info("keeper1").leaving = true), none);
    assert_eq!(marked(|silent| drop(silent.seen.keepers.remove("keeper1"))), none);
    assert_eq!(
        marked(|unknown| unknown.state("keeper1").synchronous_standbys = None),
        none
    );
    assert_eq!(
        marked(|other| other.state("keeper1").synchronous_standbys = uids(&["db3"])),
        none
    );
}

#[test]
fn a_former_master_is_never_in_sync_with_its_successor() {
    let mut setup = reported(1_000);
    let db2 = &mut setup.db("db2").spec;
    (db2.role, db2.follow_config) = (Role::Master, None);
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy_seen("p1", 0);
    setup.state("keeper1").sync_marked = true;
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.dbs()["db1"].status.synchronous_standbys, uids(&[]));
    assert_eq!(plan.next.dbs()["db1"].spec.synchronous_standbys, uids(&[]));
}

// ---- after an election (synchronous SY-6; sentinel S-15)

/// db2 has been elected in place of db1, has promoted, and is not announced yet; p1 may still forward.
fn elected(dbs: u32) -> Setup {
    let mut setup = synchronous(dbs, &["db2"], &["db2"]);
    db2_elected(&mut setup);
    setup.db("db1").status.current_generation = 2;
    let db2 = setup.db("db2");
    db2.spec.synchronous_replication = true;
    db2.spec.synchronous_standbys = uids(&["db1"]);
    db2.spec.external_synchronous_standbys = uids(&[]).map(|_| Vec::new());
    db2.status.synchronous_standbys = uids(&[]);
    db2.status.current_generation = 2;
    for number in 1..=dbs {
        setup.at(&format!("db{number}"), 1, 1_000);
    }
    for number in 2..=dbs {
        let uid = format!("db{number}");
        setup.at(&uid, 2, 1_100);
        setup.left_timeline_1(&uid, 1_000);
    }
    setup.proxy_seen("p1", 1);
    setup
}

/// SY-6: an elected db outside the set does not bring the former master into it.
#[test]
fn an_elected_db_waits_for_the_minimum_of_its_own_server() {
    let left_with_one = |major| {
        let mut setup = synchronous(3, &["db3"], &["db3"]);
        setup.spec().min_synchronous_standbys = Some(2);
        setup.spec().max_synchronous_standbys = Some(2);
        setup.at("db1", 1, 9).at("db2", 1, 9).at("db3", 1, 8);
        setup.keeper_status("keeper2").postgres_binary_version.major = major;
        setup.info("keeper2").postgres_binary_version.major = major;
        setup.stopped("keeper1", 1, 9).leaving = true;
        setup
    };
    let expected = |names| format!("elects db2; db2 waits for db3{names}; in sync with db2: nobody");
    check(&mut left_with_one(15), &expected(",stolonfakestandby"));
    // it waits for one at most (S-1)
    check(&mut left_with_one(9), &expected(""));
}

/// p1 has acknowledged that there is no master.
fn closed(mut setup: Setup) -> Setup {
    let generation = setup.proxy().generation;
    setup.proxy_seen("p1", generation);
    setup
}

const P1_FORWARDS: &str = "p1 may still forward; db1 is kept for now";

/// Row X61 (sentinel 15.5).
#[test]
fn the_elected_master_waits_for_a_good_standby_instead_of_the_former_master() {
    check(
        &mut elected(3),
        &format!("db3 follows db2; db2 waits for db3; {P1_FORWARDS}"),
    );
    check(
        &mut elected(2),
        &format!("db2 waits for stolonfakestandby; {P1_FORWARDS}; 1 missing"),
    );
    // when the former master's db is gone
    let mut gone = closed(elected(3));
    gone.data.dbs_mut().remove("db1");
    gone.data.keepers_mut().remove("keeper1");
    check(&mut gone, "db3 follows db2; db2 waits for db3; announces db2 to p1");
}

// ---- synchronous SY-8: publication

#[test]
fn the_write_that_announces_a_synchronous_master_removes_every_former_one() {
    // while p1 may forward, db1 is what one could go back to
    check(
        &mut elected(3),
        &format!("db3 follows db2; db2 waits for db3; {P1_FORWARDS}"),
    );
    let gone = "removes db1 (old master)";
    let added = "adds db4 on keeper1, a copy of db2; db3 follows db2; db2 waits for db3; announces db2 to p1";
    check(&mut closed(elected(3)), &format!("{gone}; {added}"));
    // whether or not its keeper lives
    let mut silent = closed(elected(3));
    silent.silent("keeper1").unhealthy("db1");
    check(
        &mut silent,
        &format!("{gone}; db3 follows db2; db2 waits for db3; announces db2 to p1; keeper1 is silent"),
    );
}

#[test]
fn a_former_master_beside_an_announced_one_is_removed_in_the_next_steady_round() {
    // written by a sentinel of Go stolon
    let mut setup = elected(3);
    setup.silent("keeper1").unhealthy("db1");
    setup.proxy().spec.master_db_uid = db_uid("db2");
    setup.proxy().spec.enabled_proxies = vec!["p1".into()];
    check(
        &mut setup.clone(),
        "removes db1 (old master); db3 follows db2; db2 waits for db3; keeper1 is silent",
    );
    // nothing irrevocable while the announced one is reported unhealthy
    setup.state("keeper2").healthy = false;
    let plan = setup.plan().unwrap();
    assert!(plan.next.dbs().contains_key("db1"));
}

#[test]
fn the_first_clients_of_a_synchronous_master_find_it_waiting() {
    let mut setup = synchronous(2, &["db2"], &["db2"]);
    setup.proxy().spec.master_db_uid = db_uid("");
    check(&mut setup.clone(), "announces db1 to no proxy");
    setup.db("db1").spec.clear_synchronous();
    setup.db("db1").status.synchronous_standbys = None;
    check(
        &mut setup,
        "db1 waits for db2; in sync with db1: nobody; db1 is not announced yet",
    );
}

#[test]
fn a_cluster_that_is_initialised_is_not_announced_before_commits_wait() {
    let mut setup = initializing();
    setup.spec().synchronous_replication = Some(true);
    setup.keeper("keeper1");
    setup.round();
    let status = &mut setup.db("db1").status;
    (status.healthy, status.current_generation) = (true, 1);
    let plan = setup.round();
    assert!(plan.next.proxy.unwrap().spec.master_db_uid.is_empty());
    setup.db("db1").status.current_generation = 2;
    check(
        &mut setup,
        "db1 waits for stolonfakestandby; in sync with db1: nobody; db1 is not announced yet; 1 missing",
    );
}

#[test]
fn no_former_master_is_left_when_synchronous_replication_begins() {
    // db1 is kept since its keeper is silent
    let asynchronous = || {
        let mut setup = elected(3);
        for uid in ["db1", "db2"] {
            setup.db(uid).spec.clear_synchronous();
            setup.db(uid).status.synchronous_standbys = None;
        }
        setup.silent("keeper1").unhealthy("db1");
        setup
    };
    check(
        &mut asynchronous(),
        "removes db1 (old master); db3 follows db2; db2 waits for db3; in sync with db2: nobody; \
         keeper1 is silent; db2 is not announced yet",
    );
    // while the master is reported unhealthy neither happens
    let mut reported_unhealthy = asynchronous();
    reported_unhealthy.state("keeper2").healthy = false;
    let plan = reported_unhealthy.plan().unwrap();
    assert!(plan.next.dbs().contains_key("db1"));
    assert!(!plan.next.dbs()["db2"].spec.synchronous_replication);
}

// ---- synchronous SY-9: going back

/// db2 fails before it is announced; db1's keeper lives and keeps db1 stopped, uncleanly, at timeline 1.
fn failed_before_announced(dbs: u32) -> Setup {
    let mut setup = closed(elected(dbs));
    setup.unhealthy("db2").unhealthy("db1");
    let info = setup.stopped("keeper1", 1, 0);
    let stopped = info.stopped.as_mut().unwrap();
    (stopped.clean, stopped.lsn) = (false, None);
    setup
}

#[test]
fn a_former_master_on_any_timeline_replaces_one_that_failed_before_it_was_announced() {
    // db1 waited for db2 already
    let back = "elects db1; in sync with db1: nobody; \
                only while keeper1 is at 7; only while keeper2 is at 7";
    check(&mut failed_before_announced(2), back);
    let mut other_timeline = failed_before_announced(2);
    other_timeline.info("keeper1").stopped.as_mut().unwrap().timeline_id = 9;
    check(&mut other_timeline, back);
}

#[test]
fn a_former_master_is_not_gone_back_to_when_clients_may_have_written_since() {
    let nobody = "nobody is in sync; no eligible master";
    let mut announced = failed_before_announced(3);
    announced.proxy().spec.master_db_uid = db_uid("db2");
    announced.proxy().spec.enabled_proxies = vec!["p1".into()];
    check(&mut announced, nobody);
    let kept_closed = format!("{nobody}; db2 is not announced yet");
    let mut leaving = failed_before_announced(3);
    leaving.info("keeper1").leaving = true;
    check(&mut leaving, &kept_closed);
    let mut silent = closed(elected(3));
    silent.unhealthy("db2").unhealthy("db1").silent("keeper1");
    check(&mut silent, &format!("keeper1 is silent; {kept_closed}"));
    let mut running = failed_before_announced(3);
    running.info("keeper1").stopped = None;
    check(&mut running, &kept_closed);
    let mut never_complete = failed_before_announced(3);
    never_complete.db("db1").status.current_generation = 0;
    never_complete.state("keeper1").generation = 0;
    check(&mut never_complete, &kept_closed);
}

#[test]
fn a_standby_in_sync_with_the_failed_master_is_preferred_to_going_back() {
    let mut setup = failed_before_announced(3);
    setup.db("db2").spec.synchronous_standbys = uids(&["db3"]);
    setup.db("db2").status.synchronous_standbys = uids(&["db3"]);
    check(&mut setup, "elects db3; db3 waits for db2; in sync with db3: nobody");
}

/// synchronous SY-10.
#[test]
fn nobody_is_elected_while_a_proxy_may_forward_to_an_earlier_master() {
    let mut setup = failed_before_announced(3);
    setup.proxy_seen("p1", 1);
    check(&mut setup, "no election before p1 closed; db2 is not announced yet");
}

#[test]
fn an_election_leaves_no_former_master_that_lacks_what_clients_wrote() {
    // db1 was left beside the announced db2, as by a sentinel of Go stolon
    let mut setup = elected(3);
    setup.proxy().spec.master_db_uid = db_uid("db2");
    setup.proxy().spec.enabled_proxies = vec!["p1".into()];
    setup.db("db2").spec.synchronous_standbys = uids(&["db3"]);
    setup.db("db2").status.synchronous_standbys = uids(&["db3"]);
    setup.unhealthy("db2");
    let plan = check(
        &mut setup,
        "elects db3; removes db1 (old master); db3 waits for db2; in sync with db3: nobody",
    );
    assert_eq!(
        plan.next.dbs().keys().map(model::DbUid::as_str).collect::<Vec<_>>(),
        ["db2", "db3"]
    );
    // and when it failed before it was announced, db1 stays
    let mut unannounced = closed(elected(3));
    unannounced.db("db2").spec.synchronous_standbys = uids(&["db3"]);
    unannounced.db("db2").status.synchronous_standbys = uids(&["db3"]);
    unannounced.unhealthy("db2");
    check(
        &mut unannounced,
        "elects db3; db3 waits for db2; in sync with db3: nobody",
    );
}

// ---- synchronous SY-2, SY-12: the master's keeper leaves

/// db1's keeper has stopped it at position 1000 and leaves; db2, at `at`, was in sync; db3, at 1000, was not.
fn left(at: u64, clean: bool) -> Setup {
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.at("db1", 1, 990).at("db2", 1, at).at("db3", 1, 1_000);
    let info = setup.stopped("keeper1", 1, 1_000);
    info.leaving = true;
    if !clean {
        let stopped = info.stopped.as_mut().unwrap();
        (stopped.clean, stopped.lsn) = (false, None);
    }
    setup
}

const DB2_TAKES_OVER: &str = "elects db2; db2 waits for db1; in sync with db2: nobody";
const DB3_TAKES_OVER: &str = "elects db3; db3 waits for db2; in sync with db3: nobody";

#[test]
fn after_a_clean_stop_a_standby_with_everything_is_elected_in_sync_or_not() {
    check(&mut left(1_000, true), DB2_TAKES_OVER);
    check(&mut left(999, true), DB3_TAKES_OVER);
    // minimum 0: nobody is known to be in sync
    let mut nobody = left(1_000, true);
    nobody.spec().min_synchronous_standbys = Some(0);
    nobody.db("db1").spec.synchronous_standbys = uids(&[]);
    nobody.db("db1").status.synchronous_standbys = uids(&[]);
    check(
        &mut nobody,
        "elects db2; db2 waits for nobody; in sync with db2: nobody",
    );
}

#[test]
fn after_a_clean_stop_a_standby_in_sync_has_a_second_to_receive_the_rest() {
    let mut setup = left(999, true);
    setup.state("keeper3").xlog_pos = Lsn(998);
    let plan = check(&mut setup.clone(), "db3 lacks WAL");
    assert_eq!(plan.wake_at, Some(NOW + SECOND + MILLI));
    setup.round();
    setup.now = NOW + SECOND;
    check(&mut setup, "db3 lacks WAL");
    setup.now = NOW + SECOND + MILLI;
    check(&mut setup, &format!("{DB2_TAKES_OVER}; db3 lacks WAL"));
}

#[test]
fn after_an_unclean_stop_a_standby_in_sync_is_elected_at_once() {
    check(&mut left(900, false), DB2_TAKES_OVER);
    // one that was not in sync proves nothing by its position
    let mut not_in_sync = left(900, false);
    not_in_sync.db("db1").status.synchronous_standbys = uids(&[]);
    check(&mut not_in_sync, WAITS);
    // stopped, and the keeper will be back: failInterval
    let mut staying = left(900, false);
    staying.info("keeper1").leaving = false;
    check(&mut staying, "nothing");
    // an asynchronous master: failInterval
    let mut asynchronous = left(1_000, false);
    asynchronous.spec().synchronous_replication = Some(false);
    asynchronous.db("db1").spec.clear_synchronous();
    asynchronous.db("db1").status.synchronous_standbys = None;
    check(&mut asynchronous, "nothing");
}

#[test]
fn a_master_that_left_cleanly_and_then_failed_may_be_replaced_by_a_standby_with_everything() {
    let mut setup = left(999, true);
    setup.unhealthy("db1");
    check(&mut setup, DB3_TAKES_OVER);
}

// ---- synchronous SY-13: a standby's keeper leaves

#[test]
fn a_standby_whose_keeper_leaves_is_replaced_at_once_and_is_no_candidate() {
    let leaving = |dbs: u32| {
        let mut setup = synchronous(dbs, &["db2"], &["db2"]);
        setup.info("keeper2").leaving = true;
        setup
    };
    check(&mut leaving(3), "db1 waits for db2,db3");
    check(&mut leaving(2), "1 missing");
    let mut last = leaving(2);
    last.spec().min_synchronous_standbys = Some(0);
    check(&mut last, "db1 waits for nobody; in sync with db1: nobody");
    let mut master_fails = synchronous(3, &["db2"], &["db2"]);
    master_fails.unhealthy("db1").info("keeper2").leaving = true;
    check(&mut master_fails, "only db2 was in sync; no eligible master");
    // a new member that leaves before it is in sync
    let mut pending = synchronous(3, &["db2", "db3"], &["db2"]);
    pending.info("keeper3").leaving = true;
    check(&mut pending, "db1 waits for db2");
}

// ---- limits

#[test]
fn a_replacement_leaves_only_when_the_new_member_is_in_sync() {
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.unhealthy("db2");
    let follow = |setup: &mut Setup| {
        let db = setup.db("db1");
        db.status.current_generation = db.generation;
    };
    setup.round();
    assert_eq!(setup.db("db1").spec.synchronous_standbys, uids(&["db2", "db3"]));
    follow(&mut setup);
    // db3 is not reported yet
    let waiting = setup.round();
    assert_eq!(
        waiting.next.dbs()["db1"].spec.synchronous_standbys,
        uids(&["db2", "db3"])
    );
    let state = setup.state("keeper1");
    (state.synchronous_standbys, state.sync_marked) = (uids(&["db3"]), true);
    setup.info("keeper1").info_uid = "new".into();
    check(&mut setup, "db1 waits for db3; in sync with db1: db3");
}

#[test]
fn the_number_of_standbys_never_costs_a_member_of_the_set() {
    // Row X22 (sentinel 15.5)
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.unhealthy("db2");
    check(&mut setup, "db1 waits for db2,db3");
    let mut good = synchronous(3, &["db2"], &["db2"]);
    good.spec().max_standbys_per_sender = Some(1);
    good.at("db1", 1, 1_000).at("db2", 1, 1).at("db3", 1, 1_000);
    check(&mut good, "removes db3 (excess)");
}

#[test]
fn a_smaller_minimum_ends_the_wait_for_a_standby_that_is_gone() {
    // synchronous SY-18: one of the two remedies
    let mut setup = synchronous(2, &["db2"], &["db2"]);
    setup.silent("keeper2").unhealthy("db2");
    check(&mut setup.clone(), "keeper2 is silent; 1 missing");
    setup.spec().min_synchronous_standbys = Some(0);
    check(
        &mut setup,
        "db1 waits for nobody; in sync with db1: nobody; keeper2 is silent",
    );
}

#[test]
fn the_set_of_an_unhealthy_or_converging_master_stays() {
    for change in [
        (|setup| {
            setup.unhealthy("db1");
        }) as fn(&mut Setup),
        |setup| {
            setup.converging("db1", 2, SECOND);
        },
    ] {
        let mut setup = synchronous(3, &["db2", "db3"], &["db2"]);
        setup.unhealthy("db2").unhealthy("db3");
        change(&mut setup);
        let sets = |db: &Db| {
            (
                db.spec.synchronous_standbys.clone(),
                db.spec.external_synchronous_standbys.clone(),
                db.status.synchronous_standbys.clone(),
            )
        };
        let before = sets(setup.db("db1"));
        assert_eq!(sets(&setup.plan().unwrap().next.dbs()["db1"]), before);
    }
}
