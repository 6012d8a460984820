//! The rows of sentinel 15.2 that are about asynchronous clusters, each as the reference's own unit tests have it.
//!
//! Not here, because synchronous replication is not: R14 to R31.

use super::cluster::{Setup, base, check, check_unchanged, db_uid, initializing, keeper_of};
use crate::model::{Db, DbInitMode, DbSpec, DbStatus, DbUid, FollowConfig, GoDuration, KeeperUid, Role, Timestamp};
use crate::plan::Refusal;

/// The spec of rows R0 to R2 without synchronous replication, which phase initializing does not look at.
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

/// What an election of db2 makes of the base (R5).
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

#[test]
fn r0_no_keeper_no_master() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    let refusal = setup.plan().unwrap_err();
    assert_eq!(refusal, Refusal::NoKeepers);
    assert_eq!(
        refusal.to_string(),
        "cannot choose initial master: no keepers registered"
    );
}

#[test]
fn r1_the_first_keeper_initialises() {
    let mut setup = initializing();
    rich_spec(&mut setup);
    setup.keeper("keeper1");
    check(setup, |wanted| {
        wanted.data.dbs_mut().insert(db_uid("db1"), first_db("keeper1"));
        wanted.cluster().status.master = db_uid("db1");
    });
}

#[test]
fn r2_of_two_keepers_the_one_that_chance_names_initialises() {
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

#[test]
fn r3_an_initialisation_that_takes_too_long_starts_over() {
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

#[test]
fn r4_a_settled_cluster_stays_as_it_is() {
    check_unchanged(base(2));
}

#[test]
fn r5_a_failed_master_is_replaced() {
    let mut setup = base(2);
    setup.unhealthy("db1");
    check(setup, db2_elected);
}

/// db2 has been elected and is there; db1 is the old master.
fn after_r5() -> Setup {
    let mut setup = base(2);
    setup.unhealthy("db1");
    db2_elected(&mut setup);
    setup.db("db1").generation = 1;
    setup.db("db1").spec.followers = uids(&["db2"]);
    setup.db("db2").status.current_generation = 2;
    setup.proxy().generation = 1;
    setup
}

#[test]
fn r6_the_new_master_is_announced_and_the_old_one_gets_a_new_db() {
    check(after_r5(), |wanted| {
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

#[test]
fn r7_a_standby_that_was_never_complete_is_not_elected() {
    let mut setup = base(2);
    setup.unhealthy("db1").db("db2").status.current_generation = 0;
    check_unchanged(setup);
}

#[test]
fn r8_a_master_that_does_not_converge_is_replaced() {
    let mut setup = base(2);
    setup.db("db1").status.current_generation = 0;
    check(setup, db2_elected);
}

#[test]
fn r9_no_standby_is_made_beyond_the_number_wanted() {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    check_unchanged(setup);
}

/// The only standby wanted has failed to converge, and a spare keeper is there.
fn r10() -> Setup {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    setup.keeper("keeper3");
    setup.db("db2").status.current_generation = 0;
    setup
}

#[test]
fn r10_a_failed_standby_is_kept_while_its_replacement_is_made() {
    check(r10(), |wanted| {
        wanted
            .data
            .dbs_mut()
            .insert(db_uid("db3"), resync("db3", keeper_of("db3"), "db1"));
        wanted.db("db1").generation = 2;
        wanted.db("db1").spec.followers = uids(&["db2", "db3"]);
    });
}

#[test]
fn r11_a_failed_standby_goes_once_its_replacement_is_good() {
    let mut setup = r10();
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

#[test]
fn r12_one_standby_is_enough_when_one_is_wanted() {
    let mut setup = base(2);
    setup.spec().max_standbys_per_sender = Some(1);
    check_unchanged(setup);
}

#[test]
fn r13_a_keeper_long_dead_and_without_db_is_forgotten() {
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

#[test]
fn r14_a_changed_spec_reaches_every_db() {
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
fn synchronous_replication_is_refused_and_never_switched_off() {
    let mut setup = base(2);
    setup.spec().synchronous_replication = Some(true);
    assert!(matches!(setup.plan(), Err(Refusal::NotSupported(_))));
    let mut setup = base(2);
    setup.db("db1").spec.synchronous_replication = true;
    setup.db("db1").spec.synchronous_standbys = uids(&["db2"]);
    assert!(matches!(setup.plan(), Err(Refusal::NotSupported(_))));
}
