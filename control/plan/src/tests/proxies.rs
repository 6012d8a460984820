//! Active proxies (sentinel 15.3) and those that may still forward (fencing F-5 to F-8).

use std::time::Duration;

use super::cluster::{Setup, base, check, db_uid};
use super::describe::describe;
use crate::Plan;
use base::clock::Boottime;
use model::ProxyUid;

const SECOND: Duration = Duration::from_secs(1);

/// A healthy master; the proxies were closed in generation 5.
fn closed() -> Setup {
    let mut setup = base(1);
    setup.proxy().generation = 5;
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.info("keeper1");
    setup
}

/// Plans at a time with a fresh report of the master, without writing the result; describes what the plan does.
fn plan_at(setup: &mut Setup, now: Boottime) -> (String, Plan) {
    setup.now = now;
    setup.info("keeper1").info_uid = now.as_nanos().to_string().as_str().into();
    let plan = setup.plan().unwrap();
    setup.memory = plan.memory.clone();
    let (does, _) = describe(&setup.data, &plan);
    (does.join("; "), plan)
}

/// Checks what is done first and when, with a round every second and whenever the plan requests one.
#[track_caller]
fn check_first(setup: &mut Setup, expected: &str) {
    let began = setup.now;
    let mut now = began;
    while now.since(began) < 200 * SECOND {
        let (does, plan) = plan_at(setup, now);
        if !does.is_empty() {
            assert_eq!(format!("after {:?}: {does}", now.since(began)), expected);
            return;
        }
        now = plan.wake_at.map_or(now + SECOND, |wake| wake.min(now + SECOND));
    }
    panic!("it never opens");
}

#[test]
fn without_proxies_and_with_acknowledgements_the_master_is_announced_at_once() {
    check_first(&mut closed(), "after 0ns: announces db1 to no proxy");
    let mut setup = closed();
    setup.proxy_seen("p1", 5);
    check_first(&mut setup, "after 0ns: announces db1 to p1");
}

#[test]
fn a_silent_fenced_proxy_is_waited_for_one_lease() {
    // fencing F-6: 15 s × 1.01 + 100 ms; enabled as before, should it come back
    let mut setup = closed();
    setup.proxy_seen("p1", 4);
    check_first(&mut setup, "after 15.251s: announces db1 to p1");
}

/// Fencing F-6, sentinel E-2: its lease began before the info was put, which was at the latest when the watch event arrived.
#[test]
fn the_lease_of_a_proxy_counts_from_the_arrival_of_its_info() {
    let mut setup = closed();
    setup.proxy_seen("p1", 4);
    setup.seen.proxies.get_mut(&ProxyUid::from("p1")).unwrap().age = 10 * SECOND;
    check_first(&mut setup, "after 5.251s: announces db1 to p1");
}

#[test]
fn a_proxy_of_go_stolon_is_waited_for_two_timeouts() {
    // fencing F-6, F-8
    let mut setup = closed();
    setup.proxy_seen("p1", 4).fenced = false;
    check_first(&mut setup, "after 30.001s: announces db1 to no proxy");
}

#[test]
fn a_master_announced_and_closed_between_two_reads_restarts_the_wait() {
    // fencing F-6: the proxy may have opened to it
    let mut setup = closed();
    setup.proxy_seen("p1", 4).fenced = false;
    let now = setup.now;
    plan_at(&mut setup, now);
    setup.proxy().generation = 7;
    plan_at(&mut setup, now + 29 * SECOND);
    check_first(&mut setup, "after 30.001s: announces db1 to no proxy");
}

#[test]
fn the_greater_of_published_and_configured_timeout_counts() {
    // fencing F-6
    let mut setup = closed();
    setup.proxy_seen("p1", 4).proxy_timeout = 1_000_000_000;
    check_first(&mut setup, "after 15.251s: announces db1 to no proxy");
    let mut setup = closed();
    setup.proxy_seen("p1", 4).proxy_timeout = 60_000_000_000;
    check_first(&mut setup, "after 60.701s: announces db1 to p1");
}

#[test]
fn a_longer_lease_published_before_a_shorter_one_still_counts() {
    let mut setup = closed();
    setup.proxy().spec.master_db_uid = db_uid("db1");
    setup.proxy_seen("p1", 4).proxy_timeout = 60_000_000_000;
    let began = setup.now;
    plan_at(&mut setup, began);
    let info = setup.proxy_seen("p1", 4);
    info.proxy_timeout = 15_000_000_000;
    info.info_uid = "next".into();
    plan_at(&mut setup, began + SECOND);
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.now = began + 2 * SECOND;
    check_first(&mut setup, "after 59.701s: announces db1 to no proxy");
}

#[test]
fn an_undecodable_info_may_be_a_proxy_that_forwards() {
    // store S-12, fencing F-6
    let mut setup = closed();
    setup.seen.undecodable_proxies.insert("p1".into());
    check_first(&mut setup, "after 30.001s: announces db1 to no proxy");
}

#[test]
fn a_stopped_proxy_is_not_waited_for_and_not_enabled() {
    // extensions
    let mut setup = closed();
    setup.proxy_seen("p1", 4).stopped = true;
    check_first(&mut setup, "after 0ns: announces db1 to no proxy");
}

#[test]
fn a_fenced_proxy_long_silent_before_the_election_is_not_waited_for() {
    let mut setup = closed();
    setup.proxy().spec.master_db_uid = db_uid("db1");
    setup.proxy_seen("p1", 4);
    let began = setup.now;
    for second in 0..=20 {
        plan_at(&mut setup, began + second * SECOND);
    }
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.now = began + 21 * SECOND;
    check_first(&mut setup, "after 0ns: announces db1 to p1");
}

/// Rows A1 to A5 (sentinel 15.3).
#[test]
fn active_proxies() {
    let mut setup = base(1);
    setup.info("keeper1");
    let began = setup.now;
    let active = |setup: &mut Setup, second: u32, expected: &str, row: &str| {
        let (does, _) = plan_at(setup, began + second * SECOND);
        assert_eq!(does, expected, "{row}");
    };
    active(&mut setup, 0, "", "A1");
    setup.proxy_seen("p1", 1);
    setup.proxy_seen("p2", 1);
    active(&mut setup, 1, "enables p1,p2", "A2: unknown ones are active");
    for second in 2..=30 {
        if second == 20 {
            setup.proxy_seen("p2", 2);
        }
        active(&mut setup, second, "enables p1,p2", "A3");
    }
    active(&mut setup, 31, "enables p1,p2", "exactly two timeouts");
    active(&mut setup, 32, "enables p2", "A4");
    setup.seen.proxies.remove("p1");
    active(&mut setup, 33, "enables p2", "A5");
    setup.proxy_seen("p1", 1);
    active(&mut setup, 34, "enables p1,p2", "A5: forgotten, so unknown");
}

#[test]
fn a_store_outage_excludes_no_proxy() {
    // sentinel E-3
    let mut setup = base(1);
    setup.proxy_seen("p1", 1);
    setup.proxy().spec.enabled_proxies = vec!["p1".into()];
    let began = setup.now;
    for after in [0, 300] {
        let (does, plan) = plan_at(&mut setup, began + after * SECOND);
        assert_eq!(does, "");
        assert_eq!(plan.next.proxy.unwrap().generation, 1);
    }
}

#[test]
fn proxies_with_another_master_in_the_document_are_closed_first() {
    // fencing F-5
    let mut setup = base(2);
    setup.proxy().spec.master_db_uid = db_uid("db2");
    let plan = check(&mut setup, "closes the proxies; then announces db1 to no proxy");
    assert_eq!(plan.next.proxy.unwrap().generation, 2);
}
