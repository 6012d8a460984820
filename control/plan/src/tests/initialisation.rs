//! Init modes `existing` and `pitr` (sentinel I-2 to I-7). Init mode `new` is in `rows` and `derived`.

use std::time::Duration;

use super::cluster::{Setup, db_uid, initializing};
use crate::PlanError;
use model::{DbInitMode, ExistingConfig, GoDuration, InitMode, Phase, PitrConfig, Role};

/// A cluster that is initialised from the data of this keeper.
fn existing(keeper: &str) -> Setup {
    let mut setup = initializing();
    let spec = setup.spec();
    spec.init_mode = Some(InitMode::Existing);
    spec.existing_config = Some(ExistingConfig {
        keeper_uid: keeper.into(),
    });
    setup
}

/// The keeper of db1 has applied its generation and is healthy.
fn applied(setup: &mut Setup) {
    let db = setup.db("db1");
    db.status.current_generation = 1;
    db.status.healthy = true;
}

/// Row X35 (sentinel 15.5).
#[test]
fn existing_data_are_adopted_on_the_keeper_that_the_spec_names() {
    let mut setup = existing("keeper2");
    setup.keeper("keeper1");
    let missing = setup.plan().unwrap_err();
    assert_eq!(
        missing,
        PlanError::ExistingKeeperMissing {
            keeper: "keeper2".into()
        }
    );
    assert!(
        missing.to_string().contains(r#"keeper "keeper2" state not available"#),
        "{missing}"
    );

    // Its health does not matter: no other keeper has the data.
    setup.keeper("keeper2");
    setup.keeper_status("keeper2").healthy = false;
    let plan = setup.plan().unwrap();
    let db = &plan.next.dbs()[&db_uid("db1")];
    assert_eq!(db.spec.keeper_uid.as_str(), "keeper2");
    assert_eq!(
        (&db.spec.init_mode, &db.spec.role),
        (&DbInitMode::Existing, &Role::Master)
    );
    assert!(db.spec.include_previous_config);
    assert_eq!(db.generation, 1);
}

/// Row X36 (sentinel 15.5).
#[test]
fn a_backup_is_restored_on_any_keeper_without_a_time_limit() {
    let mut setup = initializing();
    let spec = setup.spec();
    spec.init_mode = Some(InitMode::Pitr);
    spec.init_timeout = Some(GoDuration::from_secs(1));
    let pitr = PitrConfig {
        data_restore_command: "restore %d".into(),
        ..PitrConfig::default()
    };
    spec.pitr_config = Some(pitr.clone());
    setup.keeper("keeper1");
    let plan = setup.round();
    let db = &plan.next.dbs()[&db_uid("db1")];
    assert_eq!((&db.spec.init_mode, &db.spec.role), (&DbInitMode::Pitr, &Role::Master));
    assert_eq!(db.spec.pitr_config, Some(pitr));
    setup.now = setup.now + Duration::from_secs(3600);
    assert_eq!(setup.round().next.master_uid(), Some(&db_uid("db1")));
    applied(&mut setup);
    let plan = setup.round();
    assert_eq!(plan.next.cluster.unwrap().status.phase, Phase::Normal);
    assert_eq!(plan.next.dbs.unwrap()[&db_uid("db1")].spec.init_mode, DbInitMode::None);
}

#[test]
fn without_merge_the_previous_configuration_is_left_out() {
    let mut setup = existing("keeper1");
    setup.spec().merge_pg_parameters = Some(false);
    setup.keeper("keeper1");
    let plan = setup.round();
    assert!(!plan.next.dbs()[&db_uid("db1")].spec.include_previous_config);
}

/// Sentinel I-4: the parameters of the existing instance become those of the cluster.
#[test]
fn an_adopted_db_ends_the_initialisation_with_its_parameters() {
    let mut setup = existing("keeper1");
    setup.keeper("keeper1");
    setup.round();
    applied(&mut setup);
    setup.db("db1").status.pg_parameters = [("archive_mode".to_owned(), "on".to_owned())].into();
    let plan = setup.round();
    let cluster = plan.next.cluster.clone().unwrap();
    assert_eq!(cluster.status.phase, Phase::Normal);
    assert_eq!(cluster.spec.unwrap().pg_parameters["archive_mode"], "on");
    let db = &plan.next.dbs()[&db_uid("db1")];
    assert_eq!(db.spec.init_mode, DbInitMode::None);
    assert!(!db.spec.include_previous_config);
    assert_eq!(db.spec.pg_parameters["archive_mode"], "on");
}

/// Sentinel I-6. Another keeper does not have the data, so that giving the db up could only lose them.
#[test]
fn a_db_with_existing_data_is_never_given_up() {
    let mut setup = existing("keeper1");
    setup.spec().init_timeout = Some(GoDuration::from_secs(1));
    setup.spec().convergence_timeout = Some(GoDuration::from_secs(1));
    setup.keeper("keeper1");
    setup.keeper("keeper2");
    setup.round();
    for _ in 0..3 {
        setup.now = setup.now + Duration::from_secs(3600);
        let plan = setup.round();
        assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
        assert_eq!(plan.next.dbs()[&db_uid("db1")].spec.keeper_uid.as_str(), "keeper1");
    }
}
