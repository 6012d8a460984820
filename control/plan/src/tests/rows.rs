//! The rows of sentinel 15.2 about asynchronous clusters, each as in Go stolon's own unit tests.
//!
//! Not here, because synchronous replication is not: R14 to R31.

use super::cluster::{Setup, base, check, check_unchanged, db_uid, initializing, keeper_of};
use crate::PlanError;
use model::{Db, DbInitMode, DbSpec, DbStatus, DbUid, FollowConfig, GoDuration, KeeperUid, Role, Timestamp};

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

fn first_db(keeper: &str) -> Db {
    let spec = DbSpec {
        keeper_uid: KeeperUid::from(keeper),
        init_mode: DbInitMode::New,
        role: Role::Master,
        followers: Some(Vec::new()),
        include_previous_config: true,
        request_timeout: GoDuration::from_secs(20),
        max_standbys: 40,
        additional_wal_senders: 10,
        use_pgrewind: true,
        pg_parameters: [("a", "1"), ("b", "2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..DbSpec::default()
    };
    Db {
        uid: db_uid("db1"),
        generation: 1,
        spec,
        ..Db::default()
    }
}

pub(super) fn resync(uid: &str, keeper: KeeperUid, master: &str) -> Db {
    let spec = DbSpec {
        keeper_uid: keeper,
        init_mode: DbInitMode::Resync,
        role: Role::Standby,
        followers: Some(Vec::new()),
        follow_config: Some(FollowConfig::internal(db_uid(master))),
        request_timeout: GoDuration::from_secs(10),
        max_standbys: 20,
        additional_wal_senders: 5,
        ..DbSpec::default()
    };
    Db {
        uid: db_uid(uid),
        generation: 1,
        spec,
        status: DbStatus::default(),
        ..Db::default()
    }
}

pub(super) fn uids(names: &[&str]) -> Option<Vec<DbUid>> {
    Some(names.iter().copied().map(DbUid::from).collect())
}

/// The base after an election of db2 (R5).
pub(super) fn db2_elected(wanted: &mut Setup) {
    wanted.cluster().status.master = db_uid("db2");
    wanted.db("db1").spec.followers = uids(&[]);
    wanted.db("db1").generation += 1;
    wanted.db("db2").spec.role = Role::Master;
    wanted.db("db2").spec.follow_config = None;
    wanted.db("db2").generation += 1;
    wanted.proxy().generation += 1;
    wanted.proxy().spec.master_db_uid = db_uid("");
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
        "cannot choose initial master: no keepers registered"
    );
}

/// Row R1 (sentinel 15.2).
#[test]
fn the_first_keeper_initialises() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.keeper("keeper1");
    check(setup, |wanted| {
        wanted.data.dbs_mut().insert(db_uid("db1"), first_db("keeper1"));
        wanted.cluster().status.master = db_uid("db1");
    });
}

/// Row R2 (sentinel 15.2).
#[test]
fn of_two_keepers_a_random_one_initialises() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.spec().additional_wal_senders = None;
    setup.keeper("keeper1");
    setup.keeper("keeper2");
    check(setup, |wanted| {
        let mut db = first_db("keeper1");
        db.spec.additional_wal_senders = 5;
        wanted.data.dbs_mut().insert(db_uid("db1"), db);
        wanted.cluster().status.master = db_uid("db1");
    });
}

/// Row R3 (sentinel 15.2).
#[test]
fn an_initialisation_that_takes_too_long_is_restarted() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.keeper("keeper1");
    setup.keeper("keeper2");
    setup.data.dbs_mut().insert(db_uid("db1"), first_db("keeper1"));
    setup.cluster().status.master = db_uid("db1");
    check(setup, |wanted| {
        wanted.data.dbs_mut().clear();
        wanted.cluster().status.master = db_uid("");
    });
}

/// Row R4 (sentinel 15.2).
#[test]
fn a_cluster_in_steady_state_is_left_unchanged() {
    check_unchanged(base(2));
}

/// Row R5 (sentinel 15.2).
#[test]
fn a_failed_master_is_replaced() {
    let mut setup = base(2);
    setup.unhealthy("db1");
    check(setup, db2_elected);
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
    check(after_election(), |wanted| {
        wanted.data.dbs_mut().remove("db1");
        wanted
            .data
            .dbs_mut()
            .insert(db_uid("db3"), resync("db3", keeper_of("db1"), "db2"));
        wanted.db("db2").generation = 3;
        wanted.db("db2").spec.followers = uids(&["db3"]);
        wanted.proxy().generation = 2;
        wanted.proxy().spec.master_db_uid = db_uid("db2");
    });
}

/// Row R7 (sentinel 15.2).
#[test]
fn a_standby_that_was_never_complete_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").db("db2").status.current_generation = 0;
    check_unchanged(setup);
}

/// Row R8 (sentinel 15.2).
#[test]
fn a_master_that_does_not_converge_is_replaced() {
    let mut setup = base(2);
    setup.db("db1").status.current_generation = 0;
    check(setup, db2_elected);
}

/// Row R9 (sentinel 15.2).
#[test]
fn no_standby_is_created_above_max_standbys_per_sender() {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    check_unchanged(setup);
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
    check(with_failed_standby(), |wanted| {
        wanted
            .data
            .dbs_mut()
            .insert(db_uid("db3"), resync("db3", keeper_of("db3"), "db1"));
        wanted.db("db1").generation = 2;
        wanted.db("db1").spec.followers = uids(&["db2", "db3"]);
    });
}

/// Row R11 (sentinel 15.2).
#[test]
fn a_failed_standby_is_removed_once_its_replacement_is_good() {
    let mut setup = with_failed_standby();
    let mut db3 = resync("db3", keeper_of("db3"), "db1");
    db3.status = DbStatus {
        healthy: true,
        current_generation: 1,
        ..DbStatus::default()
    };
    db3.spec.init_mode = DbInitMode::None;
    setup.data.dbs_mut().insert(db_uid("db3"), db3);
    setup.db("db1").generation = 2;
    setup.db("db1").status.current_generation = 2;
    setup.db("db1").spec.followers = uids(&["db2", "db3"]);
    check(setup, |wanted| {
        wanted.data.dbs_mut().remove("db2");
        wanted.db("db1").generation = 3;
        wanted.db("db1").spec.followers = uids(&["db3"]);
    });
}

/// Row R12 (sentinel 15.2).
#[test]
fn one_standby_is_enough_when_one_is_configured() {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    check_unchanged(setup);
}

/// Row R13 (sentinel 15.2).
#[test]
fn a_keeper_long_dead_and_without_db_is_removed() {
    let mut setup = base(1);
    setup.db("db1").spec.followers = uids(&["db2"]);
    setup.silent("keeper2");
    let long_ago = super::cluster::WALL.as_unix_nanos() - 100 * 3_600 * 1_000_000_000;
    setup.keeper("keeper2").status.last_healthy_time = Timestamp::from_unix_nanos(long_ago);
    check(setup, |wanted| {
        wanted.data.keepers_mut().remove("keeper2");
        wanted.db("db1").generation = 2;
        wanted.db("db1").spec.followers = uids(&[]);
    });
}

/// Row R14 (sentinel 15.2).
#[test]
fn a_changed_spec_reaches_every_db() {
    // R14 without its synchronous part: sentinel G-1
    let mut setup = base(2);
    rich_spec(&mut setup);
    check(setup, |wanted| {
        for uid in ["db1", "db2"] {
            let rich = first_db("any").spec;
            let db = wanted.db(uid);
            db.generation = 2;
            db.spec.request_timeout = rich.request_timeout;
            db.spec.max_standbys = rich.max_standbys;
            db.spec.additional_wal_senders = rich.additional_wal_senders;
            db.spec.use_pgrewind = true;
            db.spec.pg_parameters = rich.pg_parameters;
        }
    });
}

#[test]
fn synchronous_replication_is_rejected_and_never_turned_off() {
    let mut setup = base(2);
    setup.spec().synchronous_replication = Some(true);
    assert!(matches!(setup.plan(), Err(PlanError::NotSupported(_))));
    let mut setup = base(2);
    setup.db("db1").spec.synchronous_replication = true;
    setup.db("db1").spec.synchronous_standbys = uids(&["db2"]);
    assert!(matches!(setup.plan(), Err(PlanError::NotSupported(_))));
}
