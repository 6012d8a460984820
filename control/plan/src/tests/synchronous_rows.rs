//! The rows of sentinel 15.2 and 15.5 about synchronous replication, as one table.

use std::time::Duration;

use super::cluster::{Setup, base, check, synchronous, uids};
use model::PostgresBinaryVersion;

/// A row: its number, the cluster, and what is planned for it.
type Row = (&'static str, fn() -> Setup, &'static str);

/// The spec requests synchronous replication, and no db has it yet.
fn requested(dbs: u32) -> Setup {
    let mut setup = base(dbs);
    setup.spec().synchronous_replication = Some(true);
    setup
}

/// Changes a setup.
fn with(mut setup: Setup, change: impl FnOnce(&mut Setup)) -> Setup {
    change(&mut setup);
    setup
}

fn limits(setup: &mut Setup, min: u16, max: u16) {
    setup.spec().min_synchronous_standbys = Some(min);
    setup.spec().max_synchronous_standbys = Some(max);
}

/// The master reports these standbys as in sync, with the mark.
fn reports(setup: &mut Setup, in_sync: &[&str]) {
    let state = setup.state("keeper1");
    (state.synchronous_standbys, state.sync_marked) = (uids(in_sync), true);
}

/// `stolonctl removekeeper` has removed a keeper and its db.
fn removed(setup: &mut Setup, number: &str) {
    setup.data.dbs_mut().remove(&*format!("db{number}"));
    setup.data.keepers_mut().remove(&*format!("keeper{number}"));
}

/// A replacement is under way: db2 has failed, commits wait for db3 too (after R19).
fn replacing(db3_known: bool) -> Setup {
    let known: &[&str] = if db3_known { &["db2", "db3"] } else { &["db2"] };
    let mut setup = synchronous(3, &["db2", "db3"], known);
    setup.unhealthy("db2").db("db1").generation = 2;
    setup.db("db1").status.current_generation = 2;
    setup
}

/// In the order of the document.
const ROWS: &[Row] = &[
    ("R14", || requested(2), "db1 waits for db2; in sync with db1: nobody"),
    (
        "R15",
        || {
            with(requested(2), |s| {
                s.unhealthy("db1");
            })
        },
        "elects db2; db2 waits for stolonfakestandby; in sync with db2: nobody",
    ),
    (
        "R17",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                s.unhealthy("db1");
            })
        },
        "elects db2; db2 waits for db1; in sync with db2: nobody",
    ),
    (
        "R18",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                s.unhealthy("db2");
            })
        },
        "1 missing",
    ),
    (
        "R19",
        || {
            with(synchronous(3, &["db2"], &["db2"]), |s| {
                s.unhealthy("db2");
            })
        },
        "db1 waits for db2,db3",
    ),
    (
        "R20",
        || {
            with(replacing(false), |s| {
                s.db("db1").status.current_generation = 1;
                s.unhealthy("db1");
            })
        },
        "only db2 was in sync; no eligible master",
    ),
    ("R21", || replacing(false), "until db2,db3 are in sync"),
    (
        "R22",
        || {
            with(replacing(false), |s| {
                s.unhealthy("db3");
            })
        },
        "db1 waits for db2; 1 missing",
    ),
    ("R23", || replacing(true), "db1 waits for db3; in sync with db1: db3"),
    (
        "R24",
        || {
            with(replacing(true), |s| {
                s.db("db1").spec.synchronous_standbys = uids(&["db3"]);
                s.unhealthy("db1");
            })
        },
        "elects db3; db3 waits for db1; in sync with db3: nobody",
    ),
    (
        "R25",
        || {
            with(replacing(true), |s| {
                s.unhealthy("db1");
            })
        },
        "elects db3; db3 waits for db1,db2; in sync with db3: nobody",
    ),
    (
        "R26",
        || {
            with(synchronous(2, &[], &[]), |s| {
                s.keeper_status("keeper2").can_be_synchronous_replica = Some(false)
            })
        },
        "1 missing",
    ),
    (
        "R27",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                s.keeper_status("keeper2").can_be_master = Some(false);
                s.unhealthy("db1");
            })
        },
        "only db2 was in sync; no eligible master",
    ),
    (
        "R28",
        || {
            with(requested(2), |s| {
                limits(s, 0, 1);
                s.unhealthy("db1");
            })
        },
        "elects db2; db2 waits for nobody; in sync with db2: nobody",
    ),
    (
        "R29",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                limits(s, 0, 1);
                s.unhealthy("db1");
            })
        },
        "elects db2; db2 waits for db1; in sync with db2: nobody",
    ),
    (
        "R30",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                limits(s, 0, 1);
                s.unhealthy("db2");
            })
        },
        "db1 waits for nobody; in sync with db1: nobody",
    ),
    (
        "R31",
        || {
            with(synchronous(2, &[], &[]), |s| {
                limits(s, 0, 1);
                s.keeper_status("keeper2").can_be_synchronous_replica = Some(false);
            })
        },
        "db1 waits for nobody",
    ),
    (
        "X37",
        || {
            with(synchronous(3, &["db2", "db3"], &["db2", "db3"]), |s| {
                s.at("db1", 1, 9).at("db2", 1, 8).at("db3", 1, 9);
            })
        },
        "db1 waits for db3; in sync with db1: db3",
    ),
    (
        "X38",
        || {
            with(synchronous(2, &[], &[]), |s| {
                s.unhealthy("db2");
            })
        },
        "1 missing",
    ),
    ("X38", || synchronous(2, &[], &[]), "db1 waits for db2"),
    (
        "X39",
        || {
            with(synchronous(3, &["db2"], &["db2"]), |s| {
                removed(s, "2");
            })
        },
        "db1 waits for db3; in sync with db1: nobody",
    ),
    (
        "X40",
        || {
            with(synchronous(4, &["db2", "db3"], &[]), |s| {
                removed(s, "2");
                reports(s, &["db3"]);
            })
        },
        "db1 waits for db3; in sync with db1: db3",
    ),
    (
        "X41",
        || {
            with(synchronous(3, &["db2"], &["db2"]), |s| {
                s.unhealthy("db2");
                s.info("keeper1").postgres_binary_version = PostgresBinaryVersion { major: 9, minor: 5 };
            })
        },
        "db1 waits for db3; in sync with db1: nobody; keeper1: postgresBinaryVersion.Maj 9, postgresBinaryVersion.Min 5",
    ),
    (
        "X42",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                s.spec().synchronous_replication = Some(false)
            })
        },
        "db1 waits no more",
    ),
    (
        "X43",
        || {
            with(synchronous(3, &[], &[]), |s| {
                limits(s, 2, 2);
                s.unhealthy("db3");
            })
        },
        "db1 waits for db2,stolonfakestandby",
    ),
    (
        "X43",
        || {
            with(synchronous(3, &["db2", "db3"], &["db2", "db3"]), |s| {
                limits(s, 2, 2);
                s.unhealthy("db3");
            })
        },
        "1 missing",
    ),
    (
        "X44",
        || with(synchronous(2, &[], &[]), |s| limits(s, 3, 3)),
        "db1 waits for db2,stolonfakestandby",
    ),
    (
        "X45",
        || {
            with(synchronous(2, &[], &[]), |s| {
                s.at("db1", 1, 50_000_000).at("db2", 1, 1);
            })
        },
        "db1 waits for db2",
    ),
    (
        "X45",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                s.unhealthy("db1").at("db1", 1, 50_000_000).at("db2", 1, 1);
            })
        },
        "elects db2; db2 waits for db1; in sync with db2: nobody",
    ),
    (
        "X46",
        || {
            with(synchronous(2, &["db2"], &[]), |s| {
                s.unhealthy("db1");
            })
        },
        "nobody is in sync; no eligible master",
    ),
    (
        "X47",
        || {
            with(synchronous(2, &[], &[]), |s| {
                limits(s, 0, 1);
                s.db("db1").spec.external_synchronous_standbys = Some(Vec::new());
                s.unhealthy("db1");
            })
        },
        "nobody is in sync; no eligible master",
    ),
    (
        "X48",
        || {
            with(synchronous(3, &["db2"], &["db2"]), |s| {
                s.unhealthy("db2").converging("db1", 2, Duration::from_secs(1));
            })
        },
        "nothing",
    ),
    (
        "X49",
        || {
            with(synchronous(3, &["db2", "db3"], &["db2", "db3"]), |s| {
                limits(s, 1, 2);
                let asked = Duration::from_secs(1);
                s.converging("db2", 2, asked).converging("db3", 2, asked);
            })
        },
        "nothing",
    ),
    (
        "X50",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                limits(s, 0, 1);
                s.converging("db2", 2, Duration::from_secs(1));
            })
        },
        "nothing",
    ),
    (
        "X51",
        || {
            with(synchronous(3, &["db2", "db3"], &["db2"]), |s| {
                s.converging("db3", 2, Duration::from_secs(1));
            })
        },
        "until db2,db3 are in sync",
    ),
    (
        "X52",
        || synchronous(3, &["db2"], &["db2", "db3"]),
        "in sync with db1: db2",
    ),
    (
        "X53",
        || {
            with(requested(2), |s| {
                s.unhealthy("db1").at("db1", 1, 50_000_000).at("db2", 1, 1);
            })
        },
        "no eligible master",
    ),
    (
        "X54",
        || {
            with(synchronous(2, &["db2"], &["db2"]), |s| {
                s.spec().synchronous_replication = Some(false);
                s.unhealthy("db1").at("db1", 1, 50_000_000).at("db2", 1, 1);
            })
        },
        "elects db2",
    ),
];

/// Rows R14 to R31, X37 to X54 (sentinel 15.2, 15.5).
#[test]
fn the_sets_follow_the_decision_table() {
    for (row, setup, expected) in ROWS {
        let outcome = std::panic::catch_unwind(|| check(&mut setup(), expected));
        assert!(outcome.is_ok(), "row {row}");
    }
}
