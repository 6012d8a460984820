//! The rows of sentinel 15.2 about asynchronous clusters, each as in Go stolon's own unit tests. The others are in
//! `synchronous_rows`.

use super::cluster::{Setup, base, check, db2_elected, initializing, uids};
use crate::PlanError;
use model::GoDuration;

/// The spec of rows R0 to R2 without synchronous replication, which phase initializing does not use.
fn rich_spec(setup: &mut Setup) {
    let spec = setup.spec();
    spec.request_timeout = Some(GoDuration::from_secs(20));
    spec.max_standbys = Some(40);
    spec.additional_wal_senders = Some(10);
    spec.use_pgrewind = Some(true);
    spec.merge_pg_parameters = Some(true);
    spec.pg_parameters = [("a", "1"), ("b", "2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
}

/// Row R0 (sentinel 15.2).
#[test]
fn no_keeper_no_master() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    let refusal = setup.plan().unwrap_err();
    assert_eq!(refusal, PlanError::NoKeepers);
    assert_eq!(
        refusal.to_string(),
        "cannot choose initial master: no keepers registered: start a keeper"
    );
}

/// What a db gets of the rich spec.
const RICH: &str = "db1: additionalWalSenders 10, maxStandbys 40, pgParameters.a 1, \
                    pgParameters.b 2, requestTimeout 20s, usePgrewind true";

/// Row R1 (sentinel 15.2).
#[test]
fn the_first_keeper_initialises() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.keeper("keeper1");
    check(
        &mut setup,
        &format!("initialises db1 on keeper1; {RICH}; keeper1 has no db yet"),
    );
}

/// Row R2 (sentinel 15.2).
#[test]
fn of_two_keepers_a_random_one_initialises() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.spec().additional_wal_senders = None;
    setup.keeper("keeper1");
    setup.keeper("keeper2");
    let rich = RICH.replace("additionalWalSenders 10, ", "");
    check(
        &mut setup,
        &format!("initialises db1 on keeper1; {rich}; keeper1 has no db yet"),
    );
}

/// Row R3 (sentinel 15.2).
#[test]
fn an_initialisation_that_takes_too_long_is_restarted() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.keeper("keeper1");
    setup.round();
    setup.keeper("keeper2");
    // requested since long ago
    setup.memory = initializing().memory;
    check(
        &mut setup,
        &format!("gives up db1; then initialises db1 on keeper1, {RICH}"),
    );
}

/// Row R4 (sentinel 15.2).
#[test]
fn a_cluster_in_steady_state_is_left_unchanged() {
    check(&mut base(2), "nothing");
}

/// Row R5 (sentinel 15.2).
#[test]
fn a_failed_master_is_replaced() {
    check(base(2).unhealthy("db1"), "elects db2");
}

/// db2 has been elected and is healthy; db1 is the old master.
fn after_election() -> Setup {
    let mut setup = base(2);
    setup.unhealthy("db1");
    db2_elected(&mut setup);
    setup.db("db1").generation = 1;
    setup.db("db1").spec.followers = uids(&["db2"]);
    setup.db("db2").status.current_generation = 2;
    setup.proxy().generation = 1;
    setup
}

/// Row R6 (sentinel 15.2).
#[test]
fn the_new_master_is_announced_and_the_old_one_gets_a_new_db() {
    check(
        &mut after_election(),
        "removes db1 (old master); adds db3 on keeper1, a copy of db2; announces db2 to no proxy",
    );
}

/// Row R7 (sentinel 15.2).
#[test]
fn a_standby_that_was_never_complete_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").db("db2").status.current_generation = 0;
    check(&mut setup, "no eligible master");
}

/// Row R8 (sentinel 15.2).
#[test]
fn a_master_that_does_not_converge_is_replaced() {
    let mut setup = base(2);
    setup.db("db1").status.current_generation = 0;
    check(&mut setup, "elects db2");
}

/// Row R9 (sentinel 15.2).
#[test]
fn no_standby_is_created_above_max_standbys_per_sender() {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    check(&mut setup, "nothing");
}

/// The only standby has failed to converge, and a spare keeper exists.
fn with_failed_standby() -> Setup {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    setup.db("db2").status.current_generation = 0;
    setup
}

/// Row R10 (sentinel 15.2).
#[test]
fn a_failed_standby_is_kept_while_its_replacement_is_copied() {
    check(&mut with_failed_standby(), "adds db3 on keeper3, a copy of db1");
}

/// Row R11 (sentinel 15.2).
#[test]
fn a_failed_standby_is_removed_once_its_replacement_is_good() {
    let mut setup = with_failed_standby();
    setup.round();
    for uid in ["db1", "db3"] {
        let db = setup.db(uid);
        (db.status.healthy, db.status.current_generation) = (true, db.generation);
    }
    check(&mut setup, "removes db2 (not good); db3 is copied");
}

/// Row R12 (sentinel 15.2).
#[test]
fn one_standby_is_enough_when_one_is_configured() {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    check(&mut setup, "nothing");
}

/// Row R13 (sentinel 15.2).
#[test]
fn a_keeper_long_dead_and_without_db_is_removed() {
    let mut setup = base(1);
    setup.db("db1").spec.followers = uids(&["db2"]);
    setup.dead("keeper2");
    check(&mut setup, "removes keeper2");
}

/// Row R14 (sentinel 15.2).
#[test]
fn a_changed_spec_reaches_every_db() {
    let mut setup = base(2);
    rich_spec(&mut setup);
    check(&mut setup, &format!("{RICH}; {}", RICH.replace("db1", "db2")));
}
