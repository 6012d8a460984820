//! The former master while a new one is promoted, is found healthy, or fails: rows of sentinel 15.5 about asynchronous
//! clusters, and extensions.

use std::time::Duration;

use super::cluster::{NOW, Setup, base, check, db_uid, db2_elected, uids};
use model::Role;

const SECOND: Duration = Duration::from_secs(1);

/// db2 has been elected and is being promoted; db1, the old master, is healthy again.
fn promoting(asked: Duration) -> Setup {
    let mut setup = base(3);
    db2_elected(&mut setup);
    setup.db("db1").generation = 1;
    setup.converging("db2", 2, asked);
    setup
}

/// db1 needs no promotion.
const DB1_IS_BACK: &str =
    "elects db1; then removes db2 (old master), adds db4 on keeper2, a copy of db1, announces db1 to no proxy";

/// Row X16 (sentinel 15.5).
#[test]
fn nothing_else_happens_while_the_new_master_is_promoted() {
    check(&mut promoting(SECOND), "db2 is not announced yet");
}

/// Row X17 (sentinel 15.5).
#[test]
fn a_master_that_is_not_promoted_in_time_is_replaced() {
    // of equals the first
    check(&mut promoting(31 * SECOND), DB1_IS_BACK);
    check(promoting(31 * SECOND).at("db3", 0, 1), "elects db3");
}

/// Row X18 (sentinel 15.5).
#[test]
fn an_old_master_may_be_elected_although_its_keeper_cannot_be_master() {
    let mut setup = promoting(31 * SECOND);
    setup.keeper_status("keeper1").can_be_master = Some(false);
    check(&mut setup, DB1_IS_BACK);
}

/// Timeline 2 began at 400; db2 is its master and has served for this long; db1, the old master, is kept.
fn failed_over(served: Duration) -> Setup {
    let mut setup = base(3);
    db2_elected(&mut setup);
    setup.at("db1", 1, 450).at("db2", 2, 500).at("db3", 2, 500);
    for uid in ["db2", "db3"] {
        setup.left_timeline_1(uid, 400);
        setup.db(uid).generation = 2;
        setup.db(uid).status.current_generation = 2;
    }
    setup.db("db2").spec.followers = uids(&["db3"]);
    setup.db("db3").spec.follow_config.as_mut().unwrap().db_uid = db_uid("db2");
    setup.proxy().spec.master_db_uid = db_uid("db2");
    setup.proxy().generation = 3;
    setup.memory.healthy_since = Some((db_uid("db2"), NOW.before(served)));
    setup
}

/// Row X62 (sentinel 15.5).
#[test]
fn the_old_master_is_kept_until_the_new_one_was_healthy_for_long_or_the_old_keeper_is_running() {
    let silent = |served| {
        let mut setup = failed_over(served);
        setup.silent("keeper1").unhealthy("db1");
        setup
    };
    let plan = check(&mut silent(SECOND), "keeper1 is silent; db1 is kept for now");
    assert!(
        plan.wake_at.is_some_and(|at| at <= NOW + 20 * SECOND),
        "it looks again when failInterval is over"
    );
    check(&mut silent(21 * SECOND), "removes db1 (old master); keeper1 is silent");

    let mut leaving = failed_over(SECOND);
    leaving.info("keeper1").leaving = true;
    check(&mut leaving, "db1 is kept for now");
    let replaced = "removes db1 (old master); adds db4 on keeper1, a copy of db2";
    let mut stopped = failed_over(SECOND);
    stopped.stopped("keeper1", 1, 450);
    check(&mut stopped, replaced);
    check(&mut failed_over(SECOND), replaced);
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
    check(&mut setup, "db2 healthy");
}

/// Row X63 (sentinel 15.5).
#[test]
fn a_new_master_that_did_little_more_than_promote_is_replaced_by_the_old_one_once_proxies_are_closed() {
    // first the proxies are closed
    let mut setup = unhealthy_new_master(100);
    setup.proxy_seen("p1", 3);
    check(
        &mut setup.clone(),
        "closes the proxies; to go back to db1; db2 is not announced yet",
    );
    // then none may still forward
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy().generation = 4;
    check(&mut setup, "no election before p1 closed; db2 is not announced yet");
    setup.proxy_seen("p1", 4);
    let plan = check(
        &mut setup,
        "elects db1; only while keeper1 is at 7; only while keeper2 is at 7",
    );
    assert_eq!(
        plan.next.dbs()["db1"].generation,
        2,
        "as after the failover: its spec has not changed"
    );
}

/// Row X63 (sentinel 15.5).
#[test]
fn a_master_that_has_written_more_is_waited_for() {
    let waits = "no eligible master; db2 is not announced yet";
    for (ahead, lag_max, expected) in [
        (65_536, None, "elects db1"),
        (65_537, None, waits),
        (2_000, Some(1_000), waits),
    ] {
        let mut setup = unhealthy_new_master(ahead);
        setup.spec().max_standby_lag = lag_max;
        setup.proxy().spec.master_db_uid = db_uid("");
        check(&mut setup, expected);
    }
}

/// Row X65 (sentinel 15.5).
#[test]
fn a_former_master_on_the_timeline_of_one_that_may_have_been_announced_must_not_lag() {
    // db3 was elected before db2, and has received a part of db2's timeline
    let failed = |ahead: u64| {
        let mut setup = failed_over(SECOND);
        setup.db("db3").spec.role = Role::Master;
        setup.db("db3").spec.follow_config = None;
        setup.db("db2").spec.followers = uids(&[]);
        setup.at("db2", 2, 400 + ahead).at("db3", 2, 460).unhealthy("db2");
        setup.stopped("keeper1", 1, 450);
        setup.stopped("keeper3", 2, 460);
        setup
    };
    check(
        &mut failed(100),
        "closes the proxies; to go back to db1; db2 is not announced yet; then elects db3",
    );
    // from now on the cluster data do not show that db2 was announced
    for (ahead, converged, expected) in [
        (100, true, "elects db3"),
        // db2 has reported a later position since
        (2 << 20, true, "no eligible master; db2 is not announced yet"),
        // the cluster data do not show that db2 may have been announced
        (2 << 20, false, "elects db3"),
    ] {
        let mut setup = failed(ahead);
        setup.proxy().spec.master_db_uid = db_uid("");
        if !converged {
            setup.db("db2").generation += 1;
        }
        check(&mut setup, expected);
    }
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
    // not before F-6 of fencing is over
    check(
        &mut may_still_forward,
        "no election before p1 closed; db2 is not announced yet",
    );
    let mut leaving = setup.clone();
    leaving.info("keeper1").leaving = true;
    check(&mut leaving, "no eligible master; db2 is not announced yet");
    check(
        &mut setup,
        "elects db1; only while keeper1 is at 7; only while keeper2 is at 7",
    );
}

#[test]
fn an_announced_master_is_not_replaced_by_the_old_one_when_its_last_proxy_disappears() {
    // extensions
    let mut setup = base(2);
    setup.db("db2").spec.role = Role::Master;
    setup.at("db1", 1, 1_000).at("db2", 1, 500).unhealthy("db1");
    setup.stopped("keeper2", 1, 500);
    // nor is it prepared
    check(&mut setup.clone(), "no eligible master");
    setup.proxy().spec.master_db_uid = db_uid("");
    check(&mut setup, "elects db2");
}
