//! Init mode `existing`: what is done, in which order, and what is refused.

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
