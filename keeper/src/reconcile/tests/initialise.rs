//! Init modes `existing` and `pitr`: what is done, in which order, and what is refused.

use super::*;

/// Data that may be adopted.
fn adoptable() -> ExistingData {
    ExistingData {
        major: Some(15),
        programs_major: 15,
        control: Ok(ExistingControl {
            system_id: "7".into(),
            is_of_standby: false,
        }),
        unfinished_restore: None,
    }
}

/// A new cluster asks this keeper for its existing data, which no keeper has used before.
fn existing() -> FakeKeeper {
    let fake = fake().replaced_by_a2(DbInitMode::Existing).local_db("", false);
    let mut fake = fake.own_db(|db| {
        db.spec.include_previous_config = true;
        db.spec.followers = Some(Vec::new());
        db.status = DbStatus::default();
    });
    fake.existing = Some(adoptable());
    fake.facts.slots.clear();
    fake.local.unclaimed = Some("/data/postgres/base".into());
    fake.stopped()
}

const SERVE: &str = "permit; start Master; wait; record A2 1; done";

#[test]
fn existing_data_are_adopted_with_their_configuration() {
    check(
        existing(),
        &format!("keep files; start temporarily; wait; read previous parameters; stop; adopt 'A2'; {SERVE}"),
    );
}

#[test]
fn without_merge_no_temporary_server_is_needed() {
    let fake = existing().own_db(|db| db.spec.include_previous_config = false);
    check(fake, &format!("keep files; adopt 'A2'; {SERVE}"));
}

#[test]
fn a_running_instance_of_this_keeper_is_stopped_before_its_data_are_adopted() {
    let mut fake = existing().local_db("A", false);
    fake.running = true;
    assert!(fake.round().starts_with("stop; keep files; start temporarily; "));
}

/// Keeper W37: the previous parameters are not lost when the first attempt fails.
#[test]
fn a_failed_attempt_is_made_again_from_the_beginning() {
    let mut fake = existing().failing("read previous");
    assert!(fake.round().ends_with("failed at read previous parameters"));
    assert_eq!(fake.local.db.uid.as_str(), "", "nothing is saved yet");
    fake.failing_steps.clear();
    check(
        fake,
        &format!("stop; keep files; start temporarily; wait; read previous parameters; stop; adopt 'A2'; {SERVE}"),
    );
}

#[test]
fn what_may_not_be_adopted_is_left_as_it_is() {
    let changed = |change: fn(&mut ExistingData)| {
        let mut fake = existing();
        change(fake.existing.as_mut().expect("there"));
        fake
    };
    let standby = |existing: &mut ExistingData| {
        if let Ok(control) = &mut existing.control {
            control.is_of_standby = true;
        }
    };
    let mut with_signal = existing();
    with_signal.local.data = DataState::Present(DataRole::Standby);
    let other_system = existing().own_db(|db| db.status.system_id = "8".into());
    let cases = [
        (
            changed(|existing| existing.major = Some(14)),
            "OtherMajor { data: Some(14), programs: 15 }",
        ),
        (
            changed(|existing| existing.major = None),
            "OtherMajor { data: None, programs: 15 }",
        ),
        (
            changed(|existing| existing.control = Err("damaged".into())),
            "Unreadable(\"damaged\")",
        ),
        (
            changed(|existing| existing.unfinished_restore = Some("backup_label")),
            "UnfinishedRestore(\"backup_label\")",
        ),
        (changed(standby), "Standby"),
        (with_signal, "Standby"),
        (other_system, "OtherSystem { recorded: \"8\", found: \"7\" }"),
        (existing().no_data(), "NoDatabase"),
        (existing().local_db("A", true), "Incomplete"),
    ];
    for (mut fake, why) in cases {
        for running in [false, true] {
            fake.running = running && fake.local.data != DataState::Absent;
            let was_running = fake.running;
            assert_eq!(fake.round(), format!("hold CannotAdopt({why})"));
            assert_eq!(fake.running, was_running, "{why}");
        }
    }
}

/// Nothing is done to a server that no keeper has started, whatever the cluster data ask for.
#[test]
fn a_foreign_server_is_neither_stopped_nor_used() {
    for fake in [
        existing(),
        existing().own_db(|db| db.spec.init_mode = DbInitMode::New),
        existing().own_db(|db| db.spec.keeper_uid = "k9".into()),
    ] {
        let mut fake = fake;
        fake.running = true;
        fake.local.foreign_server = Some(4711);
        assert_eq!(fake.round(), "hold ForeignServer { pid: 4711 }");
        assert!(fake.running);
    }
}

/// A new cluster asks this keeper to restore a backup.
fn pitr() -> FakeKeeper {
    let fake = fake().replaced_by_a2(DbInitMode::Pitr).local_db("", false).no_data();
    let mut fake = fake.own_db(|db| {
        db.spec.pitr_config = Some(PitrConfig {
            data_restore_command: "restore %d".into(),
            ..PitrConfig::default()
        });
        db.spec.include_previous_config = true;
        db.spec.followers = Some(Vec::new());
    });
    fake.facts.slots.clear();
    fake
}

const RESTORE: &str = "save 'A2' initializing; clear; restore";
const RECOVER: &str =
    "start recovery; recover; read parameters; stop; permit; start Master; wait; reload; record A2 1; done";

#[test]
fn a_backup_is_restored_recovered_and_started_with_a_permit() {
    check(pitr(), &format!("{RESTORE}; {RECOVER}"));
    let mut without_merge = pitr().own_db(|db| db.spec.include_previous_config = false);
    assert!(!without_merge.round().contains("read parameters"));
}

#[test]
fn a_failed_restore_is_removed_and_made_again_after_a_delay() {
    let mut fake = pitr().failing("restore");
    assert_eq!(fake.round(), format!("{RESTORE}; failed at restore"));
    // The fake restores even if the step fails; what the executor removes then is absent.
    (fake.local.data, fake.known.restored) = (DataState::Absent, None);
    fake.failing_steps.clear();
    let delay = CopyDelay {
        failures: 1,
        delay: std::time::Duration::from_secs(5),
    };
    fake.known.copy_delay = Some(delay);
    assert!(fake.round().contains("hold RestoreFailed"));
    fake.known.copy_delay = None;
    check(fake, &format!("{RESTORE}; {RECOVER}"));
}

#[test]
fn a_backup_is_restored_only_by_a_command_and_not_for_a_standby_of_the_cluster() {
    let without_command = pitr().own_db(|db| db.spec.pitr_config = Some(PitrConfig::default()));
    check(without_command, "hold InvalidSpec(NoRestoreCommand)");
    let standby = pitr().own_db(|db| {
        db.spec.role = Role::Standby;
        db.spec.follow_config = Some(FollowConfig::internal("B".into()));
    });
    check(
        standby,
        "hold InvalidSpec(WrongRole { init_mode: \"pitr\", role: \"a standby of another db\" })",
    );
}

/// Rule: keeper 12.13.5. What could not be examined is not restored again.
#[test]
fn a_backup_that_could_not_be_examined_is_kept_and_examined_again() {
    let mut fake = pitr().local_db("A2", true);
    fake.known.unexamined = Some("A2".into());
    check(fake.clone(), &format!("restore; {RECOVER}"));
    fake.known.unexamined = Some("A".into());
    check(fake, &format!("clear; save ''; {RESTORE}; {RECOVER}"));
}

/// A backup may take hours to restore, and the server continues a recovery where it was.
#[test]
fn a_failed_recovery_is_continued_on_the_restored_data() {
    let mut fake = pitr().failing("recover");
    assert!(fake.round().ends_with("start recovery; recover; failed at recover"));
    fake.failing_steps.clear();
    assert_eq!(fake.clone().round(), format!("stop; {RECOVER}"), "its server runs");
    check(fake.stopped(), RECOVER);
}

/// Another process does not know whether the restore was complete.
#[test]
fn restored_data_of_another_process_are_never_started() {
    for data in [DataRole::Master, DataRole::Standby] {
        let mut fake = pitr().local_db("A2", true);
        fake.local.data = DataState::Present(data);
        check(fake, &format!("clear; save ''; {RESTORE}; {RECOVER}"));
    }
}

#[test]
fn another_db_s_data_are_set_aside_before_a_backup_is_restored() {
    let mut fake = pitr().local_db("A", false);
    fake.local.data = DataState::Present(DataRole::Master);
    fake.running = true;
    assert!(fake.round().starts_with("save 'A2' initializing; stop; clear; restore"));
    let mut unclaimed = pitr();
    unclaimed.local.unclaimed = Some("/data/postgres/base".into());
    assert_eq!(unclaimed.round(), "hold Obstacle(\"/data/postgres/base\", Unclaimed)");
}

fn external() -> FollowConfig {
    let upstream = StandbyConfig {
        standby_settings: Some(StandbySettings {
            primary_conninfo: "host=elsewhere".into(),
            ..StandbySettings::default()
        }),
        ..StandbyConfig::default()
    };
    FollowConfig::external(Some(&upstream))
}

const FOLLOWING: &str = " following \"host=elsewhere\" outside";

#[test]
fn the_first_db_of_a_standby_cluster_is_restored_and_never_becomes_a_master() {
    let mut fake = pitr().own_db(|db| {
        db.spec.role = Role::Standby;
        db.spec.follow_config = Some(external());
    });
    assert_eq!(
        fake.round(),
        format!(
            "{RESTORE}; start recovery; recover; read parameters; stop; start Standby{FOLLOWING}; reload{FOLLOWING}; \
             record A2 1; done"
        )
    );
    assert_eq!(fake.local.data, DataState::Present(DataRole::Standby));
}

#[test]
fn the_first_db_of_a_standby_cluster_follows_changed_settings_and_is_promoted() {
    let mut fake = fake().own_db(|db| {
        db.spec.role = Role::Standby;
        db.spec.follow_config = Some(external());
    });
    fake.local.data = DataState::Present(DataRole::Standby);
    check(fake.clone(), &format!("reload{FOLLOWING}; done"));
    check(fake.clone().stopped(), &format!("start Standby{FOLLOWING}; done"));
    assert_eq!(fake.facts.slots, names(&["stolon_B"]), "its follower has a slot");
    let promoted = fake.own_db(|db| {
        db.generation = 4;
        db.spec.role = Role::Master;
        db.spec.follow_config = None;
    });
    check(promoted, "permit; promote; record A 4; done");
}

#[test]
fn a_master_never_becomes_the_first_db_of_a_standby_cluster_in_place() {
    let fake = fake().own_db(|db| {
        db.spec.role = Role::Standby;
        db.spec.follow_config = Some(external());
    });
    check(fake.clone(), "hold MasterCannotFollow");
    check(fake.stopped(), "hold MasterCannotFollow");
}
