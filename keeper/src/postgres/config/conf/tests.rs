use model::{ArchiveRecoverySettings, RecoveryTargetSettings};
use proptest::prelude::*;

use super::*;

fn map(pairs: &[(&str, &str)]) -> Parameters {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn made(user: &[(&str, &str)]) -> GeneratedParameters {
    parameters(&ParameterSources {
        init: None,
        user: &map(user),
        listen_addresses: "127.0.0.1",
        port: "5432",
        socket_dir: "/tmp",
        max_standbys: 20,
        slots: SlotNeeds::default(),
        additional_wal_senders: 5,
        use_pg_rewind: false,
        synchronous_standby_names: "",
    })
}

#[test]
fn the_keeper_s_own_parameters_are_always_there() {
    let wanted = map(&[
        ("hot_standby", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("max_replication_slots", "20"),
        ("max_wal_senders", "47"),
        ("port", "5432"),
        ("synchronous_standby_names", ""),
        ("unix_socket_directories", "/tmp"),
        ("wal_keep_size", "128"),
        ("wal_level", "replica"),
    ]);
    assert_eq!(made(&[]).parameters, wanted);
}

#[test]
fn a_user_cannot_set_the_keeper_s_parameters_and_may_set_the_rest() {
    // keeper 8.4
    let parameters = made(&[
        ("port", "1"),
        ("wal_level", "minimal"),
        ("wal_keep_size", "1"),
        ("wal_log_hints", "on"),
    ])
    .parameters;
    assert_eq!(parameters["port"], "5432");
    assert_eq!(parameters["wal_level"], "replica");
    assert_eq!(parameters["wal_keep_size"], "1");
    assert_eq!(parameters["wal_log_hints"], "on");
    assert_eq!(made(&[("wal_level", "logical")]).parameters["wal_level"], "logical");
}

#[test]
fn forbidden_parameters_are_omitted_with_reasons() {
    let made = made(&[
        ("Primary_Conninfo", "host=evil"),
        ("recovery_target", "immediate"),
        ("recovery_prefetch", "off"),
        ("data_directory", "/tmp/x"),
        ("bad name", "1"),
        ("", "1"),
        ("include_dir", "conf.d"),
        ("work_mem", "1\0"),
        ("Maintenance_Work_Mem", "1MB"),
        ("maintenance_work_mem", "2MB"),
    ]);
    let dropped: Vec<_> = made.dropped.keys().map(String::as_str).collect();
    assert_eq!(
        dropped,
        [
            "",
            "Primary_Conninfo",
            "bad name",
            "data_directory",
            "include_dir",
            "recovery_target",
            "work_mem"
        ]
    );
    assert!(
        made.parameters.contains_key("recovery_prefetch"),
        "no recovery setting, though it sounds like one"
    );
    assert_eq!(made.parameters["maintenance_work_mem"], "2MB", "the last one counts");
    assert!(
        !made.parameters.contains_key("Maintenance_Work_Mem"),
        "one name, one line"
    );
}

#[test]
fn the_user_s_parameters_win_over_those_of_the_initialisation() {
    let init = map(&[("max_connections", "100"), ("timezone", "Etc/UTC"), ("port", "9")]);
    let user = map(&[("max_connections", "150")]);
    let made = parameters(&ParameterSources {
        init: Some(&init),
        user: &user,
        listen_addresses: "*",
        port: "5432",
        socket_dir: "/tmp",
        max_standbys: u32::MAX,
        slots: SlotNeeds::default(),
        additional_wal_senders: u32::MAX,
        use_pg_rewind: true,
        synchronous_standby_names: "x",
    });
    assert_eq!(made.parameters["max_connections"], "150");
    assert_eq!(made.parameters["timezone"], "Etc/UTC");
    assert_eq!(made.parameters["port"], "5432");
    assert_eq!(
        made.parameters["max_wal_senders"], "12884901887",
        "not cut to fewer bits"
    );
    assert_eq!(made.parameters["wal_log_hints"], "on");
}

#[test]
fn there_is_a_slot_for_every_standby_and_every_other_user_and_never_fewer_than_there_are() {
    for (additional, foreign, existing, wanted) in [(0, 0, 0, 20), (25, 0, 0, 45), (3, 2, 22, 25), (0, 0, 64, 64)] {
        let needs = SlotNeeds {
            additional,
            foreign,
            existing,
        };
        assert_eq!(needs.sum(20), wanted, "{needs:?}");
    }
}

#[test]
fn published_parameters_exclude_those_that_the_keeper_manages() {
    let mut all = made(&[("work_mem", "8MB")]).parameters;
    all.insert("primary_conninfo".into(), "host=a".into());
    assert_eq!(published(&all), map(&[("wal_level", "replica"), ("work_mem", "8MB")]));
}

#[test]
fn a_standby_is_raised_to_its_control_file() {
    let minimums = StandbyMinimums {
        max_connections: 200,
        max_worker_processes: 8,
        max_wal_senders: 47,
        max_prepared_transactions: 10,
        max_locks_per_transaction: 64,
    };
    let mut parameters = map(&[("max_connections", "100"), ("max_wal_senders", "47")]);
    let raised = raise_to_minimums(&mut parameters, &minimums);
    let names: Vec<_> = raised.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(names, ["max_connections", "max_prepared_transactions"]);
    assert_eq!(parameters["max_connections"], "200");
    assert_eq!(parameters["max_prepared_transactions"], "10");
    assert!(
        raise_to_minimums(&mut parameters, &minimums).is_empty(),
        "raised once is raised"
    );
}

#[test]
fn minimums_matter_where_a_parameter_that_they_limit_changes() {
    let before = map(&[("max_connections", "150"), ("work_mem", "4MB")]);
    for same in [
        &[("max_connections", "150")][..],
        &[("max_connections", "150"), ("work_mem", "5MB")],
    ] {
        assert!(!changes_minimum_parameters(&before, &map(same)), "{same:?}");
    }
    for other in [
        &[("max_connections", "120")][..],
        &[("max_connections", "160")],
        &[("work_mem", "4MB")],
        &[("max_connections", "150"), ("max_prepared_transactions", "1")],
    ] {
        assert!(changes_minimum_parameters(&before, &map(other)), "{other:?}");
    }
}

#[test]
fn lines_are_sorted_with_recovery_settings_last() {
    let parameters = map(&[("z", "1"), ("a", "it's")]);
    let recovery = Recovery::follow(r"application_name=b password=a\ b\'c".into(), "stolon_b");
    let wanted = "a = 'it''s'\nz = '1'\n\
                  primary_conninfo = 'application_name=b password=a\\\\ b\\\\''c'\n\
                  primary_slot_name = 'stolon_b'\nrecovery_target_timeline = 'latest'\n";
    assert_eq!(render(&parameters, &recovery), wanted);
    assert_eq!(
        render(&parameters, &Recovery::default()),
        "a = 'it''s'\nz = '1'\nrecovery_target_timeline = 'latest'\n",
        "a promoted master reloads without a word on what only a start takes away"
    );
    let temporary = render_temporary(true, &parameters, &recovery);
    assert!(temporary.starts_with("include 'postgresql.conf'\n") && temporary.ends_with(wanted));
    assert_eq!(render_temporary(false, &parameters, &recovery), wanted);
}

/// What the server's scanner makes of a quoted body (guc-file.l, `DeescapeQuotedString`), octal left out.
fn read_back(body: &str) -> Option<String> {
    let mut value = String::new();
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' => return None,
            '\'' => match rest.next() {
                Some('\'') => value.push('\''),
                _ => return None,
            },
            '\\' => match rest.next()? {
                'n' => value.push('\n'),
                'b' => value.push('\u{8}'),
                'f' => value.push('\u{c}'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                other => value.push(other),
            },
            _ => value.push(c),
        }
    }
    Some(value)
}

#[test]
fn a_backup_is_recovered_to_its_target_and_promoted() {
    let pitr = |command: &str, target: Option<RecoveryTargetSettings>| PitrConfig {
        data_restore_command: "restore".into(),
        archive_recovery_settings: Some(ArchiveRecoverySettings {
            restore_command: command.into(),
        }),
        recovery_target_settings: target,
    };
    let settings = |pitr: &PitrConfig| {
        let recovery = Recovery::of_backup(pitr);
        assert_eq!(recovery.mode, RecoveryMode::Backup);
        let pairs = recovery.settings.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        settings(&pitr("cp /a/%f %p", None)),
        "recovery_target_timeline=latest restore_command=cp /a/%f %p"
    );
    // PostgreSQL refuses a recovery without a command; without an archive the WAL of the backup is replayed.
    assert_eq!(
        settings(&PitrConfig::default()),
        "recovery_target_timeline=latest restore_command=false"
    );
    assert_eq!(settings(&pitr("", None)), settings(&PitrConfig::default()));
    let target = RecoveryTargetSettings {
        recovery_target_time: "2026-01-01 00:00:00+00".into(),
        recovery_target_timeline: "2".into(),
        ..RecoveryTargetSettings::default()
    };
    assert_eq!(
        settings(&pitr("x", Some(target))),
        "recovery_target_action=promote recovery_target_time=2026-01-01 00:00:00+00 recovery_target_timeline=2 \
         restore_command=x"
    );
}

/// The commands of the server that was backed up may remove WAL from the archive, and a second recovery target is refused.
#[test]
fn recovery_settings_in_files_that_a_backup_includes_have_no_effect() {
    let pitr = PitrConfig {
        recovery_target_settings: Some(RecoveryTargetSettings {
            recovery_target_lsn: "0/3000000".into(),
            ..RecoveryTargetSettings::default()
        }),
        ..PitrConfig::default()
    };
    let recovery = Recovery::of_backup(&pitr);
    let text = render_temporary(true, &Parameters::new(), &recovery);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "include 'postgresql.conf'");
    assert_eq!(
        lines[1..],
        [
            "archive_cleanup_command = ''",
            "primary_conninfo = ''",
            "primary_slot_name = ''",
            "recovery_end_command = ''",
            "recovery_min_apply_delay = '0'",
            "recovery_target = ''",
            "recovery_target_inclusive = 'on'",
            "recovery_target_name = ''",
            "recovery_target_time = ''",
            "recovery_target_xid = ''",
            "recovery_target_action = 'promote'",
            "recovery_target_lsn = '0/3000000'",
            "recovery_target_timeline = 'latest'",
            "restore_command = 'false'",
        ]
    );
    // A standby of another cluster has no archive unless one is given.
    let standby = Recovery::external(&StandbySettings::default(), None);
    let text = render_temporary(true, &Parameters::new(), &standby);
    assert!(text.contains("restore_command = ''\n"), "{text}");
    let first_start = render_temporary(true, &Parameters::new(), &Recovery::default());
    assert!(!first_start.contains("archive_cleanup_command"), "{first_start}");
}

#[test]
fn a_standby_of_another_cluster_gets_the_settings_that_are_given() {
    let standby = StandbySettings {
        primary_conninfo: "host=a password=it's".into(),
        recovery_min_apply_delay: "5min".into(),
        ..StandbySettings::default()
    };
    let recovery = Recovery::external(&standby, None);
    assert_eq!(
        render(&Parameters::new(), &recovery),
        "primary_conninfo = 'host=a password=it''s'\nrecovery_min_apply_delay = '5min'\n\
         recovery_target_timeline = 'latest'\n"
    );
    let archive = ArchiveRecoverySettings {
        restore_command: "cp /a/%f %p".into(),
    };
    let recovery = Recovery::external(&StandbySettings::default(), Some(&archive));
    assert_eq!(
        render(&Parameters::new(), &recovery),
        "recovery_target_timeline = 'latest'\nrestore_command = 'cp /a/%f %p'\n"
    );
    assert_eq!(recovery.mode, RecoveryMode::Standby);
}

#[test]
fn recovery_settings_that_a_backup_came_with_are_commented_out() {
    let content = b"# a comment \xff\nrestore_command = 'x'\n  Recovery_Target_Time='y'\nwork_mem=4MB\n\
                    primary_conninfo 'host=old'\nrecovery_init_sync_method = fsync\n";
    let expected = b"# a comment \xff\n#restore_command = 'x'\n#  Recovery_Target_Time='y'\nwork_mem=4MB\n\
                     #primary_conninfo 'host=old'\nrecovery_init_sync_method = fsync\n";
    assert_eq!(without_recovery_settings(content), expected);
    assert_eq!(without_recovery_settings(b""), b"");
}

proptest! {
    #[test]
    fn no_value_breaks_the_file(value in "[a\\\\'\n \u{1f600}=]{0,12}") {
        prop_assert!(read_back(&quote_ordinary(&value)).is_some());
        prop_assert_eq!(read_back(&quote_exact(&value)), Some(value));
    }

    #[test]
    fn ordinary_values_without_backslashes_arrive_as_they_are(value in "[a'\n \u{1f600}=]{0,12}") {
        prop_assert_eq!(read_back(&quote_ordinary(&value)), Some(value));
    }
}
