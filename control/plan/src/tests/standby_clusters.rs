//! Standby clusters (sentinel 7.8): the first db follows a primary outside of the cluster, the others follow it.

use super::cluster::{Setup, base, db_uid, initializing};
use model::{
    ArchiveRecoverySettings, DbInitMode, FollowConfig, FollowType, InitMode, Phase, PitrConfig, Role, StandbyConfig,
    StandbySettings,
};

fn upstream(conninfo: &str) -> StandbyConfig {
    StandbyConfig {
        standby_settings: Some(StandbySettings {
            primary_conninfo: conninfo.into(),
            primary_slot_name: "slot".into(),
            ..StandbySettings::default()
        }),
        archive_recovery_settings: Some(ArchiveRecoverySettings {
            restore_command: "fetch".into(),
        }),
    }
}

fn external(conninfo: &str) -> FollowConfig {
    FollowConfig {
        kind: FollowType::External,
        standby_settings: upstream(conninfo).standby_settings,
        archive_recovery_settings: upstream(conninfo).archive_recovery_settings,
        ..FollowConfig::default()
    }
}

/// A steady standby cluster with this number of dbs; db1 is the first one.
pub(super) fn standby_cluster(dbs: u32) -> Setup {
    let mut setup = base(dbs);
    make_standby(&mut setup);
    let spec = &mut setup.db("db1").spec;
    spec.role = Role::Standby;
    spec.follow_config = Some(external("host=a"));
    setup
}

fn make_standby(setup: &mut Setup) {
    let spec = setup.spec();
    spec.init_mode = Some(InitMode::Pitr);
    spec.pitr_config = Some(PitrConfig {
        data_restore_command: "restore".into(),
        ..PitrConfig::default()
    });
    spec.role = Some(Role::Standby);
    spec.standby_config = Some(upstream("host=a"));
}

/// Row X36 (sentinel 15.5).
#[test]
fn the_first_db_is_restored_as_a_standby_of_the_other_cluster() {
    let mut setup = initializing();
    make_standby(&mut setup);
    setup.keeper("keeper1");
    let plan = setup.round();
    let spec = &plan.next.dbs()[&db_uid("db1")].spec;
    assert_eq!((&spec.init_mode, &spec.role), (&DbInitMode::Pitr, &Role::Standby));
    assert_eq!(spec.follow_config, Some(external("host=a")));
    assert!(spec.pitr_config.is_some());

    let db = setup.db("db1");
    (db.status.current_generation, db.status.healthy) = (1, true);
    let plan = setup.round();
    assert_eq!(plan.next.cluster.clone().unwrap().status.phase, Phase::Normal);
    let spec = &plan.next.dbs()[&db_uid("db1")].spec;
    assert_eq!((&spec.init_mode, &spec.role), (&DbInitMode::None, &Role::Standby));
}

/// Row X30 (sentinel 15.5).
#[test]
fn a_steady_standby_cluster_stays_and_follows_changed_settings() {
    let mut setup = standby_cluster(2);
    setup.spec().synchronous_replication = Some(false);
    setup.round();
    let plan = setup.round();
    let head = &plan.next.dbs()[&db_uid("db1")];
    assert_eq!(
        (&head.spec.role, head.generation),
        (&Role::Standby, setup.data.dbs()[&db_uid("db1")].generation)
    );
    assert!(!head.spec.synchronous_replication && head.spec.synchronous_standbys.is_none());
    let other = &plan.next.dbs()[&db_uid("db2")];
    assert_eq!(other.spec.follow_config, Some(FollowConfig::internal(db_uid("db1"))));

    setup.spec().standby_config = Some(upstream("host=b"));
    let before = setup.data.dbs()[&db_uid("db1")].generation;
    let plan = setup.round();
    let head = &plan.next.dbs()[&db_uid("db1")];
    assert_eq!(head.spec.follow_config, Some(external("host=b")));
    assert_eq!(head.generation, before + 1);
}

/// Row X31 (sentinel 15.5).
#[test]
fn the_elected_db_of_a_standby_cluster_follows_the_other_cluster() {
    let mut setup = standby_cluster(2);
    setup.unhealthy("db1");
    let plan = setup.round();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    let elected = &plan.next.dbs()[&db_uid("db2")].spec;
    assert_eq!(elected.role, Role::Standby);
    assert_eq!(elected.follow_config, Some(external("host=a")));
    let former = &plan.next.dbs()[&db_uid("db1")].spec;
    assert_eq!(former.role, Role::Standby);
    assert_eq!(
        former.follow_config,
        Some(external("host=a")),
        "only its followers change"
    );
}

/// Row X32 (sentinel 15.5).
#[test]
fn a_standby_cluster_is_promoted_by_its_role() {
    let mut setup = standby_cluster(2);
    setup.spec().role = Some(Role::Master);
    let plan = setup.round();
    let master = &plan.next.dbs()[&db_uid("db1")].spec;
    assert_eq!((&master.role, &master.follow_config), (&Role::Master, &None));
    let other = &plan.next.dbs()[&db_uid("db2")].spec;
    assert_eq!(other.follow_config, Some(FollowConfig::internal(db_uid("db1"))));
}

/// Sentinel N-31: Go stolon's sentinel crashes.
#[test]
fn a_former_first_db_without_a_standby_config_follows_nothing() {
    let mut setup = standby_cluster(3);
    let spec = &mut setup.db("db2").spec;
    spec.follow_config = Some(external("host=a"));
    setup.silent("keeper2");
    setup.spec().role = Some(Role::Master);
    setup.spec().standby_config = None;
    let plan = setup.plan().unwrap();
    let former = &plan.next.dbs()[&db_uid("db2")].spec;
    assert_eq!(former.follow_config, Some(FollowConfig::external(None)));
}

/// Synchronous SY-8: clients that read from the first db must not write to it before its commits wait for standbys.
#[test]
fn the_promotion_of_a_synchronous_standby_cluster_closes_the_proxies() {
    for synchronous in [true, false] {
        let mut setup = standby_cluster(2);
        setup.spec().synchronous_replication = Some(synchronous);
        let before = setup.round();
        assert_eq!(before.next.proxy.unwrap().spec.master_db_uid, db_uid("db1"));
        setup.spec().role = Some(Role::Master);
        let plan = setup.round();
        assert_eq!(plan.next.dbs()[&db_uid("db1")].spec.role, Role::Master);
        let proxy = plan.next.proxy.unwrap();
        assert_eq!(proxy.spec.master_db_uid.is_empty(), synchronous);
    }
}
