//! Active proxies (sentinel 15.3) and those that may still forward (fencing F-5 to F-8).

use std::time::Duration;

use super::cluster::{Setup, base, db_uid};
use crate::Plan;
use base::clock::Boottime;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A healthy master; the proxies were closed in generation 5.
fn closed() -> Setup {
    let mut setup = base(1);
    setup.proxy().generation = 5;
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.info("keeper1");
    setup
}

/// Plans at a time with a fresh report of the master, without writing the result.
fn plan_at(setup: &mut Setup, now: Boottime) -> Plan {
    setup.now = now;
    let info = &mut setup.seen.keepers.get_mut("keeper1").unwrap().info;
    info.info_uid = now.as_nanos().to_string().as_str().into();
    let plan = setup.plan().unwrap();
    setup.memory = plan.memory.clone();
    plan
}

fn plan_again(setup: &mut Setup) -> Plan {
    let now = setup.now;
    plan_at(setup, now)
}

fn open(plan: &Plan) -> bool {
    !plan.next.proxy.as_ref().unwrap().spec.master_db_uid.is_empty()
}

/// Returns when the master is announced, with a round every second and whenever the plan requests one.
fn opens_after(setup: &mut Setup) -> Duration {
    let began = setup.now;
    let mut now = began;
    loop {
        let plan = plan_at(setup, now);
        if open(&plan) {
            return now.since(began);
        }
        now = plan.wake_at.map_or(now + SECOND, |wake| wake.min(now + SECOND));
        assert!(now.since(began) < 200 * SECOND, "it never opens");
    }
}

#[test]
fn without_proxies_and_with_acknowledgements_the_master_is_announced_at_once() {
    assert_eq!(opens_after(&mut closed()), Duration::ZERO);
    let mut setup = closed();
    setup.proxy_seen("p1", 5);
    assert_eq!(opens_after(&mut setup), Duration::ZERO);
}

#[test]
fn a_silent_fenced_proxy_is_waited_for_one_lease() {
    // fencing F-6: 15 s × 1.01 + 100 ms
    let mut setup = closed();
    setup.proxy_seen("p1", 4);
    let waited = opens_after(&mut setup);
    assert_eq!(waited, Duration::from_millis(15_250) + MILLI);
    let proxy = plan_again(&mut setup).next.proxy.unwrap();
    assert_eq!(
        proxy.spec.enabled_proxies,
        ["p1".into()],
        "enabled as before, should it come back"
    );
}

#[test]
fn a_proxy_of_go_stolon_is_waited_for_two_timeouts() {
    // fencing F-6, F-8
    let mut setup = closed();
    setup.proxy_seen("p1", 4).fenced = false;
    assert_eq!(opens_after(&mut setup), 30 * SECOND + MILLI);
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
    assert_eq!(opens_after(&mut setup), 30 * SECOND + MILLI);
}

#[test]
fn the_greater_of_published_and_configured_timeout_counts() {
    // fencing F-6
    let mut setup = closed();
    setup.proxy_seen("p1", 4).proxy_timeout = 1_000_000_000;
    assert_eq!(opens_after(&mut setup), Duration::from_millis(15_250) + MILLI);
    let mut setup = closed();
    setup.proxy_seen("p1", 4).proxy_timeout = 60_000_000_000;
    assert_eq!(opens_after(&mut setup), Duration::from_millis(60_700) + MILLI);
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
    assert_eq!(opens_after(&mut setup), Duration::from_millis(59_700) + MILLI);
}

#[test]
fn an_undecodable_info_may_be_a_proxy_that_forwards() {
    // store S-12, fencing F-6
    let mut setup = closed();
    setup.seen.undecodable_proxies.insert("p1".into());
    assert_eq!(opens_after(&mut setup), 30 * SECOND + MILLI);
    let proxy = plan_again(&mut setup).next.proxy.unwrap();
    assert!(proxy.spec.enabled_proxies.is_empty());
}

#[test]
fn a_stopped_proxy_is_not_waited_for_and_not_enabled() {
    // extensions
    let mut setup = closed();
    setup.proxy_seen("p1", 4).stopped = true;
    let plan = plan_again(&mut setup);
    assert!(open(&plan) && plan.next.proxy.unwrap().spec.enabled_proxies.is_empty());
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
    assert_eq!(opens_after(&mut setup), Duration::ZERO);
}

/// Rows A1 to A5 (sentinel 15.3).
#[test]
fn active_proxies() {
    let active = |setup: &mut Setup, now: Boottime| {
        let plan = plan_at(setup, now);
        let enabled = plan.next.proxy.unwrap().spec.enabled_proxies;
        enabled.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut setup = base(1);
    setup.info("keeper1");
    let began = setup.now;
    assert!(active(&mut setup, began).is_empty(), "A1");
    setup.proxy_seen("p1", 1);
    setup.proxy_seen("p2", 1);
    assert_eq!(
        active(&mut setup, began + SECOND),
        ["p1", "p2"],
        "A2: unknown ones are active"
    );
    for second in 2..=30 {
        if second == 20 {
            setup.proxy_seen("p2", 2);
        }
        assert_eq!(active(&mut setup, began + second * SECOND), ["p1", "p2"], "A3");
    }
    assert_eq!(
        active(&mut setup, began + 31 * SECOND),
        ["p1", "p2"],
        "exactly two timeouts"
    );
    assert_eq!(active(&mut setup, began + 32 * SECOND), ["p2"], "A4");
    setup.seen.proxies.remove("p1");
    assert_eq!(active(&mut setup, began + 33 * SECOND), ["p2"], "A5");
    setup.proxy_seen("p1", 1);
    assert_eq!(
        active(&mut setup, began + 34 * SECOND),
        ["p1", "p2"],
        "A5: forgotten, so unknown"
    );
}

#[test]
fn a_store_outage_excludes_no_proxy() {
    // sentinel E-3
    let mut setup = base(1);
    setup.info("keeper1");
    setup.proxy_seen("p1", 1);
    setup.proxy().spec.enabled_proxies = vec!["p1".into()];
    let began = setup.now;
    plan_at(&mut setup, began);
    let plan = plan_at(&mut setup, began + 300 * SECOND);
    assert_eq!(plan.next.proxy.unwrap().generation, 1);
}

#[test]
fn proxies_with_another_master_in_the_document_are_closed_first() {
    // fencing F-5
    let mut setup = base(2);
    setup.proxy().spec.master_db_uid = db_uid("db2");
    let plan = setup.plan().unwrap();
    let proxy = plan.next.proxy.unwrap();
    assert!(proxy.spec.master_db_uid.is_empty() && proxy.generation == 2);
}
