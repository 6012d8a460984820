use super::*;

fn settings(parameters: &[(&str, &str)], hba: &[&str]) -> Settings {
    let text = |text: &str| text.to_owned();
    Settings {
        parameters: parameters
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        hba: Some(hba.iter().map(|line| text(line)).collect()),
    }
}

fn attempt<'a>(wanted: &'a Settings, tried: &'a Settings, base: &'a Settings, output: &'a [String]) -> FailedStart<'a> {
    let hba_file = tried.hba.as_deref().unwrap_or_default();
    FailedStart {
        is_base_proven: true,
        last_hba: &base.hba,
        wanted,
        tried,
        base,
        hba_file,
        output,
    }
}

fn lines(output: &[&str]) -> Vec<String> {
    output.iter().map(|line| (*line).to_owned()).collect()
}

const MD5: &str = "host all all all md5";

#[test]
fn a_refused_parameter_keeps_its_last_value_and_the_others_change() {
    let wanted = settings(
        &[
            ("max_connections", "abc"),
            ("wal_keep_segments", "8"),
            ("work_mem", "8MB"),
        ],
        &[MD5],
    );
    let last = settings(&[("max_connections", "150"), ("work_mem", "4MB")], &[MD5]);
    let named = BTreeMap::from(["max_connections", "wal_keep_segments"].map(|name| (name.to_owned(), "no".to_owned())));
    let mut refusals = Refusals::default();
    refusals.refuse_parameters(&named, &wanted, Some(&last));
    let usable = refusals.usable(&wanted, Some(&last));
    assert_eq!(
        usable.settings,
        settings(&[("max_connections", "150"), ("work_mem", "8MB")], &[MD5])
    );
    assert_eq!(usable.refused.len(), 2);
    assert!(
        usable.refused[0].contains("value \"150\" is used"),
        "{:?}",
        usable.refused
    );
    assert!(usable.refused[1].contains("it is left out"), "{:?}", usable.refused);

    let fixed = settings(&[("max_connections", "200"), ("work_mem", "8MB")], &[MD5]);
    refusals.forget_unwanted(&fixed);
    assert_eq!(refusals, Refusals::default());
}

#[test]
fn a_failed_start_reverts_all_new_settings_to_the_last_ones() {
    let base = settings(&[("work_mem", "4MB"), ("port", "1"), ("gone", "1")], &[MD5]);
    let wanted = settings(
        &[("work_mem", "8MB"), ("shared_preload_libraries", "x"), ("port", "2")],
        &[MD5],
    );
    let mut refusals = Refusals::default();
    let output = lines(&["2026-11-29 GMT [7] FATAL:  it does not go"]);
    assert_eq!(
        refusals.diagnose_start(&attempt(&wanted, &wanted, &base, &output)),
        StartDiagnosis::Configuration
    );
    let usable = refusals.usable(&wanted, Some(&base));
    assert_eq!(
        usable.settings,
        settings(&[("work_mem", "4MB"), ("gone", "1"), ("port", "2")], &[MD5]),
        "the address is today's"
    );
    assert!(usable.refused[0].ends_with(": it does not go"), "{usable:?}");
    assert!(refusals.has_reverted());

    // The server starts: settings that need no start are applied by a reload, the rest stays reverted.
    refusals.retry(&BTreeSet::from(["shared_preload_libraries".to_owned()]));
    let usable = refusals.usable(&wanted, Some(&base));
    assert_eq!(usable.settings, settings(&[("work_mem", "8MB"), ("port", "2")], &[MD5]));
    assert_eq!(refusals.reverted_parameters(), ["shared_preload_libraries"]);
    refusals.forget_unwanted(&settings(&[("shared_preload_libraries", "y")], &[MD5]));
    assert!(!refusals.has_reverted(), "another value is another try");
}

#[test]
fn suspects_are_tried_again_when_one_of_them_changes() {
    let base = settings(&[], &[MD5]);
    let wanted = settings(&[("shared_buffers", "900GB"), ("max_connections", "5")], &[MD5]);
    let mut refusals = Refusals::default();
    let output = lines(&["FATAL:  could not map anonymous shared memory: Cannot allocate memory"]);
    refusals.diagnose_start(&attempt(&wanted, &wanted, &base, &output));
    refusals.retry(&BTreeSet::from([
        "shared_buffers".to_owned(),
        "max_connections".to_owned(),
    ]));
    let usable = refusals.usable(&wanted, Some(&base));
    assert_eq!(usable.settings, base);
    assert!(
        usable.refused[0].contains("not all of them need be the cause"),
        "{usable:?}"
    );
    refusals.forget_unwanted(&wanted);
    assert!(refusals.has_reverted(), "the same set is not tried again");

    let mended = settings(&[("max_connections", "5")], &[MD5]);
    refusals.forget_unwanted(&mended);
    assert_eq!(refusals.usable(&mended, Some(&base)).settings, mended);

    // A parameter that the server named stays reverted when another one changes.
    let output = lines(&["FATAL:  could not access file \"liba\": No such file or directory"]);
    let both = settings(
        &[("shared_preload_libraries", "liba"), ("max_connections", "5")],
        &[MD5],
    );
    refusals.diagnose_start(&attempt(&both, &both, &base, &output));
    refusals.forget_unwanted(&settings(&[("shared_preload_libraries", "liba")], &[MD5]));
    assert_eq!(refusals.reverted_parameters(), ["shared_preload_libraries"]);
}

#[test]
fn a_server_that_does_not_start_with_the_last_settings_either_has_another_cause() {
    let base = settings(&[("work_mem", "4MB")], &[MD5]);
    let wanted = settings(&[("work_mem", "8MB")], &[MD5]);
    let mut refusals = Refusals::default();
    let output = lines(&["PANIC:  could not locate a valid checkpoint record"]);
    assert_eq!(
        refusals.diagnose_start(&attempt(&wanted, &wanted, &base, &output)),
        StartDiagnosis::Configuration
    );
    let tried = refusals.usable(&wanted, Some(&base)).settings;
    assert_eq!(
        refusals.diagnose_start(&attempt(&wanted, &tried, &base, &output)),
        StartDiagnosis::Unknown
    );
    assert_eq!(refusals, Refusals::default(), "nothing was proven");
}

#[test]
fn only_lines_and_parameters_that_the_server_names_are_reverted() {
    let bad = "host all all 10.0.0.300/32 md5";
    let base = settings(&[("work_mem", "4MB"), ("a", "1")], &[MD5]);
    let wanted = settings(&[("work_mem", "8MB"), ("a", "2")], &[MD5, bad]);
    let mut refusals = Refusals::default();
    let output = lines(&[
        "2026 [1] LOG:  invalid IP address \"10.0.0.300\": Name or service not known",
        "2026 [1] CONTEXT:  line 2 of configuration file \"/data/postgres/pg_hba.conf\"",
        "2026 [1] FATAL:  could not load /data/postgres/pg_hba.conf",
    ]);
    assert_eq!(
        refusals.diagnose_start(&attempt(&wanted, &wanted, &base, &output)),
        StartDiagnosis::Configuration
    );
    let usable = refusals.usable(&wanted, Some(&base));
    assert_eq!(usable.settings, settings(&[("work_mem", "8MB"), ("a", "2")], &[MD5]));
    assert!(
        usable.refused[0].contains("10.0.0.300\": Name or service"),
        "{usable:?}"
    );

    let output = lines(&["2026 [1] FATAL:  invalid value for parameter \"work_mem\": \"8MB\""]);
    let tried = usable.settings;
    assert_eq!(
        refusals.diagnose_start(&attempt(&wanted, &tried, &base, &output)),
        StartDiagnosis::Configuration
    );
    let usable = refusals.usable(&wanted, Some(&base));
    assert_eq!(usable.settings, settings(&[("work_mem", "4MB"), ("a", "2")], &[MD5]));
}

#[test]
fn the_cause_of_a_failed_start_is_found_in_the_last_output() {
    let base = settings(&[("max_connections", "100")], &[MD5]);
    let wanted = settings(
        &[
            ("max_connections", "500"),
            ("shared_buffers", "4TB"),
            ("shared_preload_libraries", "a, ./modules/none.so"),
            ("wal_buffers", "1MB"),
        ],
        &[MD5, "host all all 10.0.0.0/8 md5"],
    );
    for (output, blamed) in [
        (
            "FATAL:  could not access file \"none.so\": No such file or directory",
            "shared_preload_libraries",
        ),
        ("HINT:  …, perhaps by reducing shared_buffers.", "shared_buffers"),
        (
            "DETAIL:  reserved connections (3) must be less than max_connections (2)",
            "max_connections",
        ),
    ] {
        let mut refusals = Refusals::default();
        let output = lines(&["LOG:  wal_buffers is no reason", output]);
        assert_eq!(
            refusals.diagnose_start(&attempt(&wanted, &wanted, &base, &output)),
            StartDiagnosis::Configuration
        );
        assert_eq!(refusals.reverted_parameters(), [blamed]);
        let usable = refusals.usable(&wanted, Some(&base)).settings;
        assert_eq!(usable.hba, wanted.hba);
        assert_eq!(
            usable.parameters.get("wal_buffers"),
            wanted.parameters.get("wal_buffers")
        );
        assert!(refusals.has_reverted());
    }
}

#[test]
fn every_failed_start_reverts_something_new_until_nothing_is_left() {
    let base = settings(&[], &[]);
    let wanted = settings(&[("a", "1"), ("b", "2")], &[MD5, "host all all all trust"]);
    for output in [
        lines(&[]),
        lines(&["line 2 of configuration file \"pg_hba.conf\"", "parameter \"a\""]),
    ] {
        let mut refusals = Refusals::default();
        let mut starts = 0;
        loop {
            let tried = refusals.usable(&wanted, Some(&base)).settings;
            starts += 1;
            if refusals.diagnose_start(&attempt(&wanted, &tried, &base, &output)) == StartDiagnosis::Unknown {
                break;
            }
            assert!(starts < 6, "{refusals:?}");
        }
    }
}

#[test]
fn a_failed_start_never_reverts_lines_that_a_reload_accepted() {
    const LOCKED_OUT: &str = "host all contractor all reject";
    let base = settings(&[], &[MD5]);
    let wanted = settings(&[], &[LOCKED_OUT, MD5]);
    let newer = settings(&[], &[LOCKED_OUT]);
    let full = lines(&["FATAL:  could not write lock file: No space left on device"]);
    for (tried, output, instead) in [
        (&wanted, &full, None),
        (&wanted, &lines(&[]), None),
        (&newer, &full, None),
        // The reason is in the logging collector's file; the last accepted settings are proven.
        (&newer, &lines(&["LOG:  redirecting log output"]), Some(&wanted)),
        (
            &newer,
            &lines(&["FATAL:  could not load /d/pg_hba.conf"]),
            Some(&wanted),
        ),
    ] {
        let mut refusals = Refusals::default();
        let attempt = FailedStart {
            last_hba: &wanted.hba,
            ..attempt(tried, tried, &base, output)
        };
        let diagnosis = refusals.diagnose_start(&attempt);
        assert_eq!(
            diagnosis == StartDiagnosis::Configuration,
            instead.is_some(),
            "{output:?}"
        );
        let usable = refusals.usable(tried, Some(&wanted)).settings.hba;
        assert_eq!(usable, instead.unwrap_or(tried).hba, "{output:?}");
        refusals.retry_hba();
        assert_eq!(refusals, Refusals::default());
    }
}

#[test]
fn a_refused_generated_line_stays_refused_while_it_is_generated() {
    const OWN: &str = "host all su fe80::1%eth0 md5";
    let wanted = settings(&[], &[MD5]);
    let output = lines(&[
        "LOG:  invalid IP mask \"md5\": Name or service not known",
        "CONTEXT:  line 1 of configuration file \"/d/pg_hba.conf\"",
        "FATAL:  could not load /d/pg_hba.conf",
    ]);
    let mut refusals = Refusals::default();
    let made = lines(&[OWN, MD5]);
    let attempt = FailedStart {
        hba_file: &made,
        ..attempt(&wanted, &wanted, &wanted, &output)
    };
    assert_eq!(refusals.diagnose_start(&attempt), StartDiagnosis::Configuration);
    assert_eq!(
        refusals.diagnose_start(&attempt),
        StartDiagnosis::Unknown,
        "it is known already"
    );
    refusals.forget_unwanted(&wanted);
    refusals.forget_own_lines(&made);
    assert!(refusals.refuses_line(OWN) && !refusals.refuses_line(MD5));
    let usable = refusals.usable(&wanted, None);
    assert_eq!(usable.settings, wanted);
    assert!(usable.refused[0].contains("invalid IP mask"), "{usable:?}");
    refusals.forget_own_lines(&lines(&[MD5]));
    assert_eq!(refusals, Refusals::default());
}

/// It would fail with every configuration, and nothing would try the new one again once the host is repaired.
#[test]
fn a_start_that_fails_because_of_the_host_reverts_nothing() {
    let base = settings(&[("max_connections", "100")], &[]);
    let wanted = settings(&[("max_connections", "500"), ("shared_buffers", "1GB")], &[]);
    for is_base_proven in [true, false] {
        let diagnose = |text: &str| {
            let output: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
            let mut refusals = Refusals::default();
            let attempt = FailedStart {
                is_base_proven,
                ..attempt(&wanted, &wanted, &base, &output)
            };
            for _ in 0..TRIES_MAX {
                refusals.diagnose_start(&attempt);
            }
            refusals.reverted_parameters()
        };
        for text in [
            "FATAL:  pre-existing shared memory block (key 10100771, ID 54) is still in use",
            "FATAL:  lock file \"postmaster.pid\" already exists",
            "FATAL:  could not create lock file \"/s/.s.PGSQL.5432.lock\": Permission denied",
            "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use\n\
             FATAL:  could not create any TCP/IP sockets",
            "FATAL:  could not write lock file \"postmaster.pid\": No space left on device",
            "PANIC:  could not write to file \"pg_wal/xlogtemp.12\": No space left on device",
            "FATAL:  could not open file \"base/1/2601\": Input/output error",
            "FATAL:  could not open file \"pg_logical/x\": Read-only file system",
            "FATAL:  could not write to file: Disk quota exceeded",
        ] {
            assert!(diagnose(text).is_empty(), "{text}");
        }
        for text in [
            "FATAL:  could not resize shared memory segment \"/PostgreSQL.1\" to 9 bytes: No space left on device",
            "FATAL:  could not map anonymous shared memory: Cannot allocate memory",
            // a directory that a parameter names
            "FATAL:  could not open log file \"/var/log/postgresql-1.log\": Read-only file system",
            "FATAL:  could not open log file \"/var/log/postgresql-1.log\": No space left on device",
            "FATAL:  could not load library \"/usr/lib/postgresql/15/lib/foo.so\": Input/output error",
            // what did not end the server
            "LOG:  could not bind IPv6 address \"::1\": Address already in use\n\
             FATAL:  could not map anonymous shared memory: Cannot allocate memory",
            "restore: cannot make a lock file: No space left on device\nFATAL:  out of memory",
            "WARNING:  could not create lock file\nFATAL:  out of memory",
        ] {
            assert_eq!(diagnose(text), ["max_connections", "shared_buffers"], "{text}");
        }
        let named = "FATAL:  max_connections is too high for this lock file";
        assert_eq!(diagnose(named), ["max_connections"]);
    }
}

#[test]
fn without_proven_settings_an_unnamed_failure_is_retried_first() {
    let base = settings(&[("max_connections", "100")], &[]);
    let wanted = settings(&[("max_connections", "500")], &[]);
    let of = |output| FailedStart {
        is_base_proven: false,
        ..attempt(&wanted, &wanted, &base, output)
    };
    let unnamed = lines(&["FATAL:  could not map anonymous shared memory: Cannot allocate memory"]);
    let mut refusals = Refusals::default();
    for expected in [
        StartDiagnosis::Unknown,
        StartDiagnosis::Unknown,
        StartDiagnosis::Configuration,
    ] {
        assert!(refusals.reverted_parameters().is_empty());
        assert_eq!(refusals.diagnose_start(&of(&unnamed)), expected);
    }
    assert_eq!(refusals.reverted_parameters(), ["max_connections"]);
    let mut refusals = Refusals::default();
    let named = lines(&["FATAL:  max_connections is too high"]);
    assert_eq!(
        refusals.diagnose_start(&of(&named)),
        StartDiagnosis::Configuration,
        "it is named"
    );
}

#[test]
fn a_refused_value_that_may_hold_a_password_is_not_reported() {
    let wanted = settings(&[("archive_command", "curl -u me:geheim x")], &[MD5]);
    let why = "invalid value for parameter \"archive_command\": \"curl -u me:geheim x\"".to_owned();
    let mut refusals = Refusals::default();
    refusals.refuse_parameters(&BTreeMap::from([("archive_command".to_owned(), why)]), &wanted, None);
    let texts = refusals.usable(&wanted, None).refused;
    assert!(
        texts[0].contains("archive_command") && !texts[0].contains("geheim"),
        "{texts:?}"
    );
}
