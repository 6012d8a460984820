//! Who is elected and who is not: the rows of sentinel 15.5 about asynchronous clusters, and orderly shutdowns
//! (extensions ).

use std::time::Duration;

use super::cluster::{Setup, base, check, db_uid, db2_elected, synchronous};
use crate::{Note, Urgency};
use model::Lsn;

const SECOND: Duration = Duration::from_secs(1);

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
    check(&mut failed_with_two(), "elects db2");
    check(failed_with_two().at("db3", 1, 901), "elects db3");
}

/// Row X2 (sentinel 15.5).
#[test]
fn a_standby_may_be_exactly_as_far_behind_as_the_spec_says() {
    for (behind, expected) in [(1_232_896, "elects db2"), (1_232_897, "no eligible master")] {
        let mut setup = base(2);
        setup.unhealthy("db1").at("db1", 1, 5_000_000);
        check(setup.at("db2", 1, 5_000_000 - behind), expected);
    }
}

/// Row X3 (sentinel 15.5).
#[test]
fn a_standby_ahead_of_the_recorded_position_is_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").at("db1", 1, 1_000).at("db2", 1, 2_000);
    check(&mut setup, "elects db2");
}

/// Row X4 (sentinel 15.5).
#[test]
fn a_standby_that_is_still_converging_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").converging("db2", 2, SECOND);
    check(&mut setup, "no eligible master");
}

/// Row X5 (sentinel 15.5).
#[test]
fn a_standby_whose_keeper_has_failed_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").silent("keeper2").unhealthy("db2");
    check(&mut setup, "keeper2 is silent; no eligible master");
}

/// Row X6 (sentinel 15.5).
#[test]
fn a_standby_on_a_lower_timeline_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").at("db1", 2, 1_000).at("db2", 1, 390);
    setup.left_timeline_1("db1", 400);
    check(&mut setup, "no eligible master");
}

/// Row X27 (sentinel 15.5).
#[test]
fn a_first_run_uses_the_statuses_that_the_previous_leader_wrote() {
    let mut setup = base(2);
    setup.unhealthy("db1").leadership = 2;
    check(&mut setup, "elects db2; then db1 healthy");
}

/// db1's keeper has shut down in order, at 1000.
fn after_orderly_shutdown() -> Setup {
    let mut setup = base(3);
    setup.at("db1", 1, 990).at("db2", 1, 1_000).at("db3", 1, 999);
    setup.stopped("keeper1", 1, 1_000).leaving = true;
    setup
}

#[test]
fn a_master_that_left_cleanly_is_replaced_at_once_by_a_standby_with_all_its_wal() {
    // extensions
    let plan = check(
        &mut after_orderly_shutdown(),
        "elects db2; db3 lacks WAL; only while keeper1 is at 7",
    );
    assert_eq!(plan.urgency, Urgency::Immediate);
}

#[test]
fn an_orderly_shutdown_counts_only_when_clean_complete_and_of_this_boot() {
    // extensions
    #[track_caller]
    fn after(change: fn(&mut Setup), expected: &str) {
        let mut setup = after_orderly_shutdown();
        change(&mut setup);
        check(&mut setup, expected);
    }
    after(
        |behind| behind.state("keeper2").xlog_pos = Lsn(999),
        "db2 lacks WAL; db3 lacks WAL",
    );
    after(
        |unclean| unclean.info("keeper1").stopped.as_mut().unwrap().clean = false,
        "nothing",
    );
    // stopped by SIGINT: failInterval runs
    after(|staying| staying.info("keeper1").leaving = false, "nothing");
    after(
        |elsewhere| elsewhere.info("keeper1").stopped.as_mut().unwrap().timeline_id = 2,
        "db2 lacks WAL; db3 lacks WAL",
    );
    // that one never ran the master; once its boot is recorded, its report counts
    after(
        |another_life| another_life.info("keeper1").boot_uuid = "another".into(),
        "keeper1: bootUUID another; then elects db2",
    );
    after(
        |another_db| another_db.state("keeper1").uid = db_uid("db9"),
        "keeper1 reports db9",
    );
}

#[test]
fn a_leaving_standby_is_no_candidate() {
    let mut setup = after_orderly_shutdown();
    setup.info("keeper2").leaving = true;
    check(&mut setup, "db3 lacks WAL");
}

/// Why dbs cannot be elected, but for the reasons that have a message of their own.
fn reasons(mut setup: Setup) -> String {
    let plan = setup.plan().unwrap();
    let reasons = plan.notes.iter().filter_map(|note| match note {
        Note::NotEligible { db, reason, .. } => Some(format!("{db}: {reason}")),
        _ => None,
    });
    reasons.collect::<Vec<_>>().join("; ")
}

#[test]
fn an_election_notes_why_each_standby_is_no_candidate() {
    let failed = |change: fn(&mut Setup)| {
        let mut setup = base(2);
        setup.unhealthy("db1").at("db1", 1, 1_000).at("db2", 1, 1_000);
        change(&mut setup);
        reasons(setup)
    };
    assert_eq!(failed(|_| {}), "");
    assert_eq!(
        failed(|setup| {
            setup.unhealthy("db2");
        }),
        "db2: it or its keeper is unhealthy, or it has not converged in time"
    );
    assert_eq!(
        failed(|setup| {
            setup.converging("db2", 2, SECOND);
        }),
        "db2: it has not converged yet"
    );
    assert_eq!(
        failed(|setup| {
            setup.converging("db2", 1, SECOND);
            setup.db("db2").status.current_generation = 0;
        }),
        "db2: its first copy is not complete"
    );
    assert_eq!(
        failed(|setup| {
            setup.at("db2", 2, 1_000);
        }),
        "db2: its data are of another cluster or another branch of it"
    );
    assert_eq!(
        failed(|setup| {
            setup.at("db1", 2, 1_000).at("db2", 1, 390);
            setup.left_timeline_1("db1", 400);
        }),
        "db2: it is on another timeline than the master"
    );
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.unhealthy("db1").unhealthy("db2");
    assert_eq!(
        reasons(setup),
        "db2: it or its keeper is unhealthy, or it has not converged in time; \
         db3: it is not known to have been in sync with the master"
    );
}

#[test]
fn an_election_notes_one_reason_why_a_former_master_is_no_candidate() {
    // db2 replaced db1, was announced, and has failed
    let failed = |change: fn(&mut Setup)| {
        let mut setup = base(2);
        db2_elected(&mut setup);
        setup.db("db1").generation = 1;
        setup.at("db1", 1, 450).at("db2", 2, 500_000).unhealthy("db2");
        setup.left_timeline_1("db2", 400);
        setup.proxy().spec.master_db_uid = db_uid("db2");
        change(&mut setup);
        reasons(setup)
    };
    assert_eq!(
        failed(|setup| {
            setup.silent("keeper1").unhealthy("db1");
        }),
        "db1: it is a former master, and its keeper is not running or is leaving"
    );
    assert_eq!(
        failed(|setup| setup.state("keeper1").healthy = false),
        "db1: it is a former master that neither runs nor was stopped by its keeper"
    );
    assert_eq!(
        failed(|setup| {
            setup.stopped("keeper1", 3, 450);
        }),
        "db1: it is a former master that stopped on another timeline than it reported before"
    );
    assert_eq!(
        failed(|_| {}),
        "db1: it is a former master with incomplete data, or data of another cluster or branch"
    );
    assert_eq!(
        failed(|setup| {
            setup.at("db1", 2, 450);
            setup.db("db1").status.timelines_history = setup.db("db2").status.timelines_history.clone();
            setup.at("db2", 3, 500_000);
            setup.db("db2").status.timelines_history.clear();
        }),
        "db1: it is a former master, and clients may have written to the failed one since"
    );
}
