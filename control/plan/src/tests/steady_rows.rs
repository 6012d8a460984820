//! Rows of sentinel 15.5 about proxies, keepers and the end of the initialisation.
//!
//! The other rows: X1 to X6 and X27 in `candidates`; X7 to X11, X19 to X21, X24 to X26 and X29 in `standbys`; X16 to X18,
//! X62 and X63 in `former_masters`; X22 and X61 in `synchronous`; X37 to X54 in `synchronous_rows`; X30 to X32 and X36 in
//! `standby_clusters`; X35 and X36 in `initialisation`; X55 to X59 in `health`.

use super::cluster::{Setup, base, check, db_uid, initializing};
use crate::Urgency;

/// Row X12 (sentinel 15.5).
#[test]
fn an_unusable_master_is_not_announced() {
    let mut setup = base(1);
    setup.unhealthy("db1").proxy().spec.master_db_uid = db_uid("");
    check(&mut setup, "no eligible master; db1 is not announced yet");
}

/// Row X13 (sentinel 15.5).
#[test]
fn the_master_is_announced_when_every_proxy_has_acknowledged() {
    let mut setup = base(1);
    setup.proxy().generation = 5;
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy_seen("p1", 4);
    check(&mut setup.clone(), "p1 may still forward");
    setup.proxy_seen("p1", 5);
    let plan = check(&mut setup, "announces db1 to p1");
    assert_eq!(plan.next.proxy.unwrap().generation, 6);
}

/// Row X14 (sentinel 15.5).
#[test]
fn the_enabled_proxies_are_the_active_ones() {
    let mut setup = base(1);
    setup.proxy().spec.enabled_proxies = vec!["p1".into(), "p2".into()];
    setup.proxy_seen("p2", 1);
    setup.proxy_seen("p3", 1);
    let plan = check(&mut setup, "enables p2,p3");
    assert_eq!(plan.next.proxy.unwrap().generation, 2);
}

/// Row X15 (sentinel 15.5).
#[test]
fn without_proxies_the_proxy_generation_stays() {
    let mut setup = base(1);
    for _ in 0..2 {
        check(&mut setup, "nothing");
        let plan = setup.round();
        assert_eq!(plan.next.proxy.unwrap().generation, 1);
    }
}

#[test]
fn a_leaving_master_is_not_announced() {
    // extensions
    let mut setup = base(1);
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.info("keeper1").leaving = true;
    check(&mut setup, "db1 is not announced yet");
}

/// A master whose data is lost is replaced by an election, like any failed one; it is never just removed.
#[test]
fn a_master_with_lost_data_is_failed_over() {
    let mut setup = base(2);
    setup.info("keeper1").data_lost = db_uid("db1");
    check(&mut setup, "nothing");
    let mut setup = base(2);
    setup.unhealthy("db1").info("keeper1").data_lost = db_uid("db1");
    check(&mut setup, "elects db2");
}

#[test]
fn a_master_that_served_is_not_replaced_for_slow_reconfiguration() {
    // sentinel W-10
    let mut setup = base(2);
    setup.memory.reported_healthy = Some(db_uid("db1"));
    setup.db("db1").generation = 2;
    check(&mut setup, "db1 is slow");
}

/// Row X23 (sentinel 15.5).
#[test]
fn only_dead_keepers_without_a_db_are_removed() {
    let mut setup = base(2);
    setup.unhealthy("db2").dead("keeper2").dead("keeper3");
    check(&mut setup, "removes keeper3; keeper2 is silent");
}

/// Row X28 (sentinel 15.5).
#[test]
fn failkeeper_takes_effect_for_one_round_but_not_in_a_first_run() {
    let mut setup = base(2);
    setup.keeper_status("keeper1").force_fail = true;
    let effect =
        "keeper1 unhealthy, db1 unhealthy, elects db2, keeper1: forceFail unset; then keeper1 healthy, db1 healthy";
    let mut first = setup.clone();
    first.leadership = 2;
    check(&mut first, &format!("nothing; then {effect}"));
    let plan = check(
        &mut setup.clone(),
        "keeper1 unhealthy; db1 unhealthy; elects db2; keeper1: forceFail unset; then keeper1 healthy, db1 healthy",
    );
    assert_eq!(plan.urgency, Urgency::Immediate);
    // in the next round the keeper is healthy again
    setup.round();
    setup.infos_follow = false;
    check(&mut setup, "keeper1 healthy; db1 healthy; db2 is not announced yet");
}

/// Row X64 (sentinel 15.5).
#[test]
fn a_removed_keeper_registers_again_only_with_a_new_info() {
    let mut setup = base(2);
    setup.round();
    setup.infos_follow = false;
    setup.data.keepers_mut().remove("keeper2");
    setup.data.dbs_mut().remove("db2");
    check(&mut setup, "db1 lists 0 standbys");
    setup.round();
    setup.seen.keepers.get_mut("keeper2").unwrap().info.info_uid = "another".into();
    check(&mut setup, "registers keeper2");
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
fn a_parameter_that_the_first_server_refused_stays_in_the_spec() {
    let mut setup = initialised(true, true);
    let user = [
        ("shared_preload_libraries", "none"),
        ("MAX_CONNECTIONS", "100"),
        ("port", "1"),
    ];
    setup.spec().pg_parameters = user.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    check(
        &mut setup,
        "db1 is initialised; announces db1 to no proxy; \
         cluster: pgParameters.MAX_CONNECTIONS unset, pgParameters.max_connections 100, pgParameters.port unset; \
         db1: pgParameters.max_connections 100, pgParameters.shared_preload_libraries none, \
         pgParameters.wal_keep_size unset",
    );
}

/// Row X33 (sentinel 15.5).
#[test]
fn initialisation_ends_and_the_master_is_announced_in_one_write() {
    // keepers do not report wal_keep_size: the user's value stays
    let merged = "; cluster: pgParameters.max_connections 100; db1: pgParameters.max_connections 100";
    for (merge, parameters) in [(true, merged), (false, "")] {
        let mut setup = initialised(merge, true);
        setup.proxy_seen("p1", 0);
        let plan = check(
            &mut setup,
            &format!("db1 is initialised; announces db1 to p1{parameters}"),
        );
        assert_eq!(plan.next.proxy.unwrap().generation, 1);
    }
}

/// Row X34 (sentinel 15.5).
#[test]
fn a_first_master_that_is_not_healthy_is_waited_for() {
    check(&mut initialised(true, false), "waits for db1");
}
