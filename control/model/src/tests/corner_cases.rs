//! The corner cases of data-model 12, by number.

use super::*;

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    from_slice(text.as_bytes())
}

fn spec(text: &str) -> ClusterSpec {
    read(text).unwrap()
}

fn rewritten<T: serde::Serialize + serde::de::DeserializeOwned>(text: &str) -> String {
    to_compact(&read::<T>(text).unwrap())
}

fn invalid(text: &str) -> String {
    spec(text).validate().unwrap_err().to_string()
}

fn patched(current: &str, patch: &str) -> Result<String, PatchError> {
    patch_spec(&spec(current), patch.as_bytes()).map(|spec| {
        let Json::Object(mut members) = Json::of(&spec) else {
            panic!("an object")
        };
        members.retain(|(name, value)| *value != Json::Null && name != "initMode");
        to_compact(&Json::Object(members))
    })
}

// data-model 12.2
#[test]
fn a_bare_document_is_written_with_its_missing_fields() {
    let written = rewritten::<ClusterData>(r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#);
    assert_eq!(
        written,
        r#"{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{"changeTime":"0001-01-01T00:00:00Z","spec":{"additionalWalSenders":null,"additionalMasterReplicationSlots":null,"initMode":"new","pgHBA":null,"automaticPgRestart":null},"status":{}},"keepers":null,"dbs":null,"proxy":null}"#
    );
}

// data-model 12.3
#[test]
fn a_bare_db_is_written_with_its_plain_zeros_and_null_lists() {
    assert_eq!(
        rewritten::<Db>(r#"{"uid":"d","spec":{}}"#),
        r#"{"uid":"d","changeTime":"0001-01-01T00:00:00Z","spec":{"requestTimeout":"0s","additionalWalSenders":0,"additionalReplicationSlots":null,"pgHBA":null,"followers":null,"synchronousStandbys":null,"externalSynchronousStandbys":null},"status":{"synchronousStandbys":null}}"#
    );
}

// data-model 12.4
#[test]
fn unset_and_empty_hba_lists_stay_distinct() {
    for (text, wanted) in [
        ("{}", None),
        (r#"{"pgHBA":null}"#, None),
        (r#"{"pgHBA":[]}"#, Some(vec![])),
    ] {
        assert_eq!(spec(text).pg_hba, wanted, "{text}");
        assert_eq!(
            read::<ClusterSpec>(&rewritten::<ClusterSpec>(text)).unwrap().pg_hba,
            wanted,
            "{text}"
        );
    }
    let shown = to_compact(&spec(r#"{"initMode":"new","pgHBA":[]}"#).display_json(SpecFields::Set));
    assert_eq!(shown, r#"{"initMode":"new","pgHBA":[]}"#); // cli 12
}

// data-model 12.5, 12.6
#[test]
fn field_names_match_in_any_case_and_the_last_spelling_counts() {
    let read = spec(r#"{"INITMODE":"new","SleepInterval":"7s"}"#);
    assert_eq!(
        (read.init_mode, read.sleep_interval),
        (Some(InitMode::New), Some(GoDuration::from_secs(7)))
    );
    let read = spec(r#"{"standbyConfig":{"standbySettings":{"primaryConnInfo":"host=a"}}}"#);
    let settings = read.standby_config.unwrap().standby_settings.unwrap();
    assert_eq!(settings.primary_conninfo, "host=a");
    let both = spec(r#"{"sleepInterval":"1s","SleepInterval":"2s"}"#);
    assert_eq!(both.sleep_interval, Some(GoDuration::from_secs(2)));
    let both = spec(r#"{"SleepInterval":"2s","sleepInterval":"1s"}"#);
    assert_eq!(both.sleep_interval, Some(GoDuration::from_secs(1)));
}

// data-model J-12
#[test]
fn objects_given_twice_are_merged_and_parameter_names_keep_their_case() {
    let read = spec(r#"{"newConfig":{"locale":"C"},"newConfig":{"encoding":"UTF8"},"pgParameters":{"A":"1","a":"2"}}"#);
    let new = read.new_config.unwrap();
    assert_eq!((new.locale.as_str(), new.encoding.as_str()), ("C", "UTF8"));
    assert_eq!(read.pg_parameters.len(), 2);
}

// data-model 12.7, D-1 to D-3
#[test]
fn durations_follow_the_grammar() {
    let nanos = |text: &str| text.parse::<GoDuration>().map(GoDuration::as_nanos).ok();
    for (text, wanted) in [
        ("1s1s", 2_000_000_000),
        ("1ms1h", 3_600_001_000_000),
        ("5.s", 5_000_000_000),
        (".5s", 500_000_000),
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("-1.5s", -1_500_000_000),
        ("+2m", 120_000_000_000),
        ("1\u{b5}s", 1_000),
        ("1\u{3bc}s", 1_000),
        ("1us", 1_000),
        ("0.4ns", 0),
        ("1.0000000009s", 1_000_000_000),
        ("2562047h47m16.854775807s", i64::MAX),
        ("-2562047h47m16.854775808s", i64::MIN),
    ] {
        assert_eq!(nanos(text), Some(wanted), "{text}");
    }
    for text in [
        ".", "1 s", "1S", "1d", "5", "", "s", "-", "+-1s", "1s-1s", "1..5s", " 1s", "1s ", "--1s",
    ] {
        assert_eq!(nanos(text), None, "{text:?}");
    }
    for text in ["2562047h47m16.854775808s", "9999999h", "99999999999999999999s"] {
        assert!(
            matches!(text.parse::<GoDuration>(), Err(DurationError::Overflow(_))),
            "{text}"
        );
    }
    let stored = |value: &str| read::<ClusterSpec>(&format!(r#"{{"sleepInterval":{value}}}"#));
    assert_eq!(stored("0").unwrap().sleep_interval, Some(GoDuration::ZERO));
    for value in ["5", "true", "{}", "[]", "1.5", "\"\"", "\"5\""] {
        let error = stored(value).unwrap_err().to_string();
        assert!(error.starts_with("sleepInterval: "), "{value}: {error}");
    }
    assert_eq!(stored("\"1\u{b5}s\"").unwrap(), stored("\"1\u{3bc}s\"").unwrap());
}

// data-model 12.8, D-5
#[test]
fn durations_are_written_in_the_canonical_form() {
    for (text, wanted) in [
        ("1h30m1.5s", "1h30m1.5s"),
        ("90s", "1m30s"),
        ("100us", "100\u{b5}s"),
        ("3ns", "3ns"),
        ("1500ns", "1.5\u{b5}s"),
        ("500ms", "500ms"),
        ("1.234567ms", "1.234567ms"),
        ("5s", "5s"),
        ("60s", "1m0s"),
        ("300s", "5m0s"),
        ("48h", "48h0m0s"),
        ("3661.001s", "1h1m1.001s"),
        ("-1.5s", "-1.5s"),
        ("0", "0s"),
    ] {
        assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), wanted, "{text}");
    }
}

// data-model 12.9, T-1 to T-3
#[test]
fn times_keep_their_offset_and_drop_digits_below_a_nanosecond() {
    let time = |text: &str| text.parse::<Timestamp>();
    for (text, wanted) in [
        ("2024-05-06T09:08:30.25+02:00", "2024-05-06T09:08:30.25+02:00"),
        ("2024-05-06T09:08:30.2500+02:00", "2024-05-06T09:08:30.25+02:00"),
        ("2024-05-06T09:08:30.1234567899Z", "2024-05-06T09:08:30.123456789Z"),
        ("2024-05-06T09:08:30,5Z", "2024-05-06T09:08:30.5Z"),
        ("2024-02-29T23:59:59.000Z", "2024-02-29T23:59:59Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0000-01-01T00:00:00+14:00", "0000-01-01T00:00:00+14:00"),
        ("9999-12-31T23:59:59.9-12:00", "9999-12-31T23:59:59.9-12:00"),
        ("1969-12-31T23:30:00.5-00:30", "1969-12-31T23:30:00.5-00:30"),
    ] {
        assert_eq!(time(text).unwrap().to_string(), wanted, "{text}");
    }
    for text in [
        "2024-05-06t09:08:30Z",
        "2024-05-06T09:08:30z",
        "2024-05-06 09:08:30Z",
        "2024-05-06T09:08:30",
        "2024-02-30T00:00:00Z",
        "2024-05-06T25:00:00Z",
        "2024-05-06T09:08:30.Z",
        "2024-05-06T09:08:30+0200",
        "",
    ] {
        assert!(time(text).is_err(), "{text:?}");
    }
    assert_eq!(
        read::<ClusterData>(r#"{"changeTime":null}"#).unwrap().change_time,
        Timestamp::ZERO
    );
    assert!(time("0001-01-01T00:00:00Z").unwrap().is_zero());
    let (east, utc) = (
        time("2024-05-06T09:00:00+02:00").unwrap(),
        time("2024-05-06T07:00:00Z").unwrap(),
    );
    assert_eq!(east.as_unix_nanos(), utc.as_unix_nanos());
    assert_eq!(utc.as_unix_nanos(), 1_714_978_800_000_000_000);
}

// data-model 12.10, J-10
#[test]
fn integers_are_strict_in_form_and_range() {
    let standbys = |value: &str| read::<ClusterSpec>(&format!(r#"{{"maxStandbys":{value}}}"#));
    assert_eq!(standbys("65535").unwrap().max_standbys, Some(65535));
    for value in ["65536", "-1", "1.0", "1e2", "\"7\"", "true", "18446744073709551616"] {
        let error = standbys(value).unwrap_err().to_string();
        assert!(error.starts_with("maxStandbys: "), "{error}");
    }
    // a number too large for any field has no fraction, so the error must not mention one
    let error = standbys("18446744073709551616").unwrap_err().to_string();
    assert!(
        error.ends_with("found a number that is not a 64-bit integer"),
        "{error}"
    );
    let lag = |value: &str| read::<ClusterSpec>(&format!(r#"{{"maxStandbyLag":{value}}}"#));
    assert_eq!(lag("4294967295").unwrap().max_standby_lag, Some(u32::MAX));
    assert!(lag("4294967296").is_err());
}

// data-model 12.11, 12.13, 12.14
#[test]
fn defaults_apply_to_unset_fields() {
    let resolved = spec(r#"{"initMode":"new","sleepInterval":"0s","minSynchronousStandbys":0}"#)
        .resolve()
        .unwrap();
    assert_eq!(resolved.max_standby_lag, 1_232_896);
    assert_eq!(resolved.fail_interval, std::time::Duration::from_secs(20));
    assert_eq!(
        resolved.sleep_interval,
        std::time::Duration::from_millis(100),
        "the least"
    );
    assert_eq!(resolved.min_synchronous_standbys, 0);
}

// data-model 5, 12.12, 12.13
#[test]
fn the_first_broken_rule_is_reported() {
    for (text, wanted) in [
        (r#"{"requestTimeout":"-1s","maxStandbys":0}"#, "requestTimeout"),
        (r#"{"sleepInterval":"-1s"}"#, "sleepInterval"),
        (r#"{"convergenceTimeout":"-1s"}"#, "convergenceTimeout"),
        (r#"{"initTimeout":"-1s"}"#, "initTimeout"),
        (r#"{"syncTimeout":"-1s"}"#, "syncTimeout"),
        (r#"{"dbWaitReadyTimeout":"-1s"}"#, "dbWaitReadyTimeout"),
        (r#"{"failInterval":"-1s"}"#, "failInterval"),
        (r#"{"deadKeeperRemovalInterval":"-1s"}"#, "deadKeeperRemovalInterval"),
        (r#"{"proxyCheckInterval":"-1s"}"#, "proxyCheckInterval"),
        (r#"{"proxyTimeout":"-1s"}"#, "proxyTimeout"),
        (
            r#"{"proxyCheckInterval":"15s"}"#,
            "proxyCheckInterval should be less than proxyTimeout",
        ),
        (r#"{"maxStandbys":0}"#, "maxStandbys"),
        (r#"{"maxStandbysPerSender":0}"#, "maxStandbysPerSender"),
        (
            r#"{"maxSynchronousStandbys":0,"minSynchronousStandbys":0}"#,
            "maxSynchronousStandbys",
        ),
        (
            r#"{"maxSynchronousStandbys":1,"minSynchronousStandbys":2}"#,
            "maxSynchronousStandbys",
        ),
        ("{}", "initMode undefined"),
        (r#"{"initMode":""}"#, "unknown initMode: \"\""),
        (r#"{"initMode":"old"}"#, "unknown initMode: \"old\""),
        (
            r#"{"initMode":"new","role":"standby","standbyConfig":{}}"#,
            "invalid cluster role standby",
        ),
        (r#"{"initMode":"existing"}"#, "existingConfig undefined"),
        (
            r#"{"initMode":"existing","existingConfig":{}}"#,
            "existingConfig.keeperUID",
        ),
        (r#"{"initMode":"pitr"}"#, "pitrConfig undefined"),
        (
            r#"{"initMode":"pitr","pitrConfig":{}}"#,
            "pitrConfig.dataRestoreCommand",
        ),
        (
            r#"{"initMode":"pitr","role":"standby","standbyConfig":{},"pitrConfig":{"dataRestoreCommand":"x","recoveryTargetSettings":{}}}"#,
            "recoveryTargetSettings",
        ),
        (
            r#"{"initMode":"new","defaultSUReplAccessMode":"some"}"#,
            "unknown defaultSUReplAccessMode: \"some\"",
        ),
        (
            r#"{"initMode":"existing","existingConfig":{"keeperUID":"k"},"role":"standby"}"#,
            "standbyConfig undefined",
        ),
        (r#"{"initMode":"new","role":"slave"}"#, "unknown role: \"slave\""),
        (r#"{"initMode":"new","pgHBA":["host all\nall"]}"#, "newlines"),
    ] {
        let error = invalid(text);
        assert!(error.starts_with(wanted) || error.contains(wanted), "{text}: {error}");
    }
    for good in [
        r#"{"initMode":"new","pgHBA":["host\rall"]}"#, // data-model 12.16
        r#"{"initMode":"existing","existingConfig":{"keeperUID":"k"},"role":"standby","standbyConfig":{}}"#,
        r#"{"initMode":"pitr","role":"standby","standbyConfig":{},"pitrConfig":{"dataRestoreCommand":"x"}}"#,
    ] {
        assert_eq!(spec(good).validate(), Ok(()), "{good}");
    }
}

// data-model 12.15, sentinel D2
#[test]
fn slot_names_are_checked() {
    let slot = |name: &str| {
        let slots = vec![name.to_owned()];
        let spec = ClusterSpec {
            additional_master_replication_slots: Some(slots),
            ..spec(r#"{"initMode":"new"}"#)
        };
        spec.validate().map_err(|error| error.to_string())
    };
    assert_eq!(slot("goodslotname_434432"), Ok(()));
    for name in ["bad-slot", " lead", "trail ", "newline\n", "", "UPPER"] {
        let error = slot(name).unwrap_err();
        assert!(
            error.starts_with(&format!("wrong replication slot name: {name:?}: use ")),
            "{error}"
        );
    }
    let error = slot("stolon_c874a3cb").unwrap_err();
    let expected = "replication slot name is reserved: \"stolon_c874a3cb\": choose ";
    assert!(error.starts_with(expected), "{error}");
}

// data-model 6.2, 12.17
#[test]
fn patches_follow_the_table() {
    for (current, patch, wanted) in [
        ("{}", r#"{"pgParameters":{"a":null}}"#, "{}"),
        (
            r#"{"pgParameters":{"a":"1","b":"2"}}"#,
            r#"{"pgParameters":{"a":null}}"#,
            r#"{"pgParameters":{"b":"2"}}"#,
        ),
        (r#"{"pgParameters":{"a":"1"}}"#, r#"{"pgParameters":null}"#, "{}"),
        (r#"{"pgHBA":["x"]}"#, r#"{"pgHBA":["y"]}"#, r#"{"pgHBA":["y"]}"#),
        (r#"{"pgHBA":["x"]}"#, r#"{"pgHBA":[]}"#, r#"{"pgHBA":[]}"#),
        (r#"{"pgHBA":["x"]}"#, r#"{"pgHBA":null}"#, "{}"),
        (
            r#"{"newConfig":{"locale":"C"}}"#,
            r#"{"newConfig":{"encoding":"UTF8"}}"#,
            r#"{"newConfig":{"locale":"C","encoding":"UTF8"}}"#,
        ),
        (
            r#"{"sleepInterval":"5s"}"#,
            r#"{"SleepInterval":"3s"}"#,
            r#"{"sleepInterval":"3s"}"#,
        ),
        ("{}", r#"{"SleepInterval":"3s"}"#, r#"{"sleepInterval":"3s"}"#),
        (
            r#"{"sleepInterval":"5s"}"#,
            r#"{"$patch":"replace","maxStandbys":4}"#,
            r#"{"maxStandbys":4}"#,
        ),
        (
            r#"{"newConfig":{"locale":"C"}}"#,
            r#"{"newConfig":{"$patch":"delete"}}"#,
            r#"{"newConfig":{}}"#,
        ),
        (r#"{"sleepInterval":"5s"}"#, "{}", r#"{"sleepInterval":"5s"}"#),
        (
            "{}",
            r#"{"newConfig":{"locale":null,"encoding":"UTF8"}}"#,
            r#"{"newConfig":{"encoding":"UTF8"}}"#,
        ),
    ] {
        assert_eq!(patched(current, patch).as_deref(), Ok(wanted), "{current} + {patch}");
    }
    let unset = patch_spec(&spec(r#"{"initMode":"new"}"#), br#"{"initMode":null}"#).unwrap();
    assert!(
        unset
            .validate()
            .unwrap_err()
            .to_string()
            .starts_with("initMode undefined")
    );
    assert!(matches!(
        patched("{}", r#"{"maxStandbys":"7"}"#),
        Err(PatchError::Result(_))
    ));
    for patch in ["null", "[]", "1", "\"x\""] {
        assert!(matches!(patched("{}", patch), Err(PatchError::NoObject(_))), "{patch}");
    }
    for patch in ["", "{", "{a}"] {
        assert!(matches!(patched("{}", patch), Err(PatchError::Syntax(_))), "{patch}");
    }
    for patch in [
        r#"{"$patch":"merge"}"#,
        r#"{"$retainKeys":["a"]}"#,
        r#"{"pgHBA":["x"],"$deleteFromPrimitiveList/pgHBA":["x"]}"#,
        r#"{"newConfig":{"$patch":"delete"}}"#,
    ] {
        assert!(matches!(patched("{}", patch), Err(PatchError::Directive(_))), "{patch}");
    }
}

// data-model 12.18
#[test]
fn a_replacement_keeps_init_mode_and_never_makes_a_master_cluster_a_standby() {
    let master = spec(r#"{"initMode":"existing","existingConfig":{"keeperUID":"k"}}"#);
    let standby = ClusterSpec {
        role: Some(Role::Standby),
        standby_config: Some(StandbyConfig::default()),
        ..master.clone()
    };
    assert_eq!(replace_spec(&master, &standby), Err(SpecChangeError::MasterToStandby));
    assert_eq!(replace_spec(&standby, &master), Ok(()));
    let new = spec(r#"{"initMode":"new"}"#);
    assert!(matches!(
        replace_spec(&master, &new),
        Err(SpecChangeError::InitMode { .. })
    ));
    assert!(matches!(
        replace_spec(&new, &spec("{}")),
        Err(SpecChangeError::Invalid(_))
    ));
}

// data-model 12.19
#[test]
fn odd_spellings_and_the_numeric_timeout_are_kept() {
    let text = r#"{"infoUID":"77aa0011","UID":"6d5e4f3a","Generation":3,"ProxyTimeout":15000000000}"#;
    assert_eq!(rewritten::<ProxyInfo>(text), text);
    assert!(read::<ProxyInfo>(r#"{"UID":"a","ProxyTimeout":"15s"}"#).is_err());
    assert_eq!(read::<DbStatus>(r#"{"systemdID":"7"}"#).unwrap().system_id, "7");
    assert_eq!(read::<PostgresState>(r#"{"systemID":"7"}"#).unwrap().system_id, "7");
}

/// Go stolon's keepers never set the mark, and its sentinels ignore it (data-model 8.1).
#[test]
fn the_mark_of_reported_standbys_is_left_out_unless_it_is_set() {
    for text in [
        r#"{"uid":"d1","timelinesHistory":[],"synchronousStandbys":["d2"]}"#,
        r#"{"uid":"d1","synchronousStandbys":["d2"],"syncMarked":false}"#,
    ] {
        assert_eq!(
            rewritten::<PostgresState>(text),
            r#"{"uid":"d1","synchronousStandbys":["d2"]}"#
        );
    }
    let marked = r#"{"uid":"d1","synchronousStandbys":["d2"],"syncMarked":true}"#;
    assert_eq!(rewritten::<PostgresState>(marked), marked);
}

// data-model 12.20, J-9
#[test]
fn a_null_request_timeout_is_an_error_only_where_the_field_is_plain() {
    let error = read::<ClusterData>(r#"{"dbs":{"d":{"spec":{"requestTimeout":null}}}}"#).unwrap_err();
    assert!(error.to_string().starts_with("dbs.d.spec.requestTimeout: "), "{error}");
    assert!(read::<ClusterData>(r#"{"cluster":{"spec":{"requestTimeout":null}}}"#).is_ok());
    let nulls =
        r#"{"cluster":{"uid":null,"generation":null,"status":null},"proxy":{"spec":{"enabledProxies":[null]}}}"#;
    let read: ClusterData = read(nulls).unwrap();
    assert_eq!(read.proxy.unwrap().spec.enabled_proxies, [ProxyUid::default()]);
}

// data-model 12.21, J-3
#[test]
fn strings_are_escaped_as_go_does() {
    let value = "<a> & \"b\" \\ \n\r\t\u{1}\u{8}\u{c}\u{7f} \u{2028}\u{2029} / 🐘";
    let mut wanted = spec(r#"{"initMode":"new"}"#);
    wanted.pg_parameters.insert("p".to_owned(), value.to_owned());
    let text = to_compact(&wanted);
    assert!(
        text.contains(concat!(
            r#"\u003ca\u003e \u0026 \"b\" \\ \n\r\t\u0001\u0008\u000c"#,
            "\u{7f}",
            r#" \u2028\u2029 / 🐘"#
        )),
        "{text}"
    );
    assert_eq!(read::<ClusterSpec>(&text).unwrap(), wanted);
}

// data-model 12.23 to 12.25
#[test]
fn null_entries_large_positions_and_unknown_fields_are_harmless() {
    let text = r#"{"formatVersion":1,"new":[1.5],"keepers":{"k":null},"dbs":{"a":null,"d":{"x":{},"status":{"xLogPos":18446744073709551615}}}}"#;
    let read: ClusterData = read(text).unwrap();
    assert!(read.keepers().is_empty());
    assert_eq!(read.dbs().len(), 1);
    assert_eq!(read.dbs()["d"].status.xlog_pos, Lsn(u64::MAX));
    assert!(to_compact(&read).contains(r#""xLogPos":18446744073709551615"#));
}

// store 10.8, data-model J-11
#[test]
fn hostile_documents_are_errors_or_unusable_and_cause_no_panic() {
    assert_eq!(ClusterData::parse(b"null"), Ok(None));
    for text in [
        "",
        " ",
        "{",
        "{}x",
        "{}{}",
        "nul",
        "{\"a\"}",
        "\u{0}",
        "[1,",
        "\"\\ud800\"",
    ] {
        let error = ClusterData::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, JsonError::Syntax { .. }), "{text}: {error}");
    }
    for text in [
        "[]",
        "1",
        "\"x\"",
        "true",
        r#"{"dbs":[]}"#,
        r#"{"dbs":{"d":[]}}"#,
        r#"{"formatVersion":"1"}"#,
    ] {
        assert!(
            matches!(ClusterData::parse(text.as_bytes()), Err(JsonError::Type { .. })),
            "{text}"
        );
    }
    let unusable = |text: &str| read::<ClusterData>(text).unwrap().check().unwrap_err();
    assert_eq!(unusable("{}"), Unusable::FormatVersion(0));
    assert_eq!(unusable(r#"{"formatVersion":2}"#), Unusable::FormatVersion(2));
    assert_eq!(unusable(r#"{"formatVersion":1}"#), Unusable::NoSpec);
    assert_eq!(unusable(r#"{"formatVersion":1,"cluster":{}}"#), Unusable::NoSpec);
    assert!(matches!(
        unusable(r#"{"formatVersion":1,"cluster":{"spec":{}}}"#),
        Unusable::InvalidSpec(_)
    ));
    let deep = "[".repeat(100_000);
    assert!(matches!(
        ClusterData::parse(deep.as_bytes()),
        Err(JsonError::Syntax { .. })
    ));
}

#[test]
fn a_syntax_error_names_line_and_column() {
    let JsonError::Syntax { line, column, .. } = read::<ClusterSpec>("{\n\t\"initMode\": new\n}").unwrap_err() else {
        panic!("a syntax error");
    };
    assert_eq!((line, column), (2, 15));
}

// data-model 3.2
#[test]
fn a_new_document_has_the_documented_form() {
    let now: Timestamp = "2024-05-06T07:05:12.4Z".parse().unwrap();
    let data = ClusterData::initial("5f0c1a9e".into(), now, spec(r#"{"initMode":"new"}"#));
    assert_eq!(
        to_compact(&data),
        r#"{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{"uid":"5f0c1a9e","generation":1,"changeTime":"2024-05-06T07:05:12.4Z","spec":{"additionalWalSenders":null,"additionalMasterReplicationSlots":null,"initMode":"new","pgHBA":null,"automaticPgRestart":null},"status":{"phase":"initializing"}},"keepers":{},"dbs":{},"proxy":{"changeTime":"0001-01-01T00:00:00Z","spec":{},"status":{}}}"#
    );
}

// data-model P-2
#[test]
fn explicit_zeros_are_set_and_written() {
    let text = r#"{"syncTimeout":"0s","minSynchronousStandbys":0,"additionalWalSenders":0,"additionalMasterReplicationSlots":[],"usePgrewind":false,"initMode":"new","pgHBA":[],"automaticPgRestart":false}"#;
    assert_eq!(rewritten::<ClusterSpec>(text), text);
    assert_eq!(to_compact(&spec(text).display_json(SpecFields::Set)), text);
}

proptest::proptest! {
    #[test]
    fn any_duration_survives_its_text(nanos: i64) {
        let duration = GoDuration::from_nanos(nanos);
        proptest::prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
    }

    #[test]
    fn any_time_from_year_one_survives_its_text(nanos in -62_135_596_800_000_000_000i128..253_402_300_799_000_000_000) {
        let time = Timestamp::from_unix_nanos(nanos);
        proptest::prop_assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
        let _ = ClusterData::parse(&bytes); // the result does not matter, only that it returns
    }

    #[test]
    fn a_damaged_document_causes_no_panic_and_what_is_read_of_it_is_written_the_same_again(
        at: proptest::sample::Index,
        lost in 0usize..40,
        found in "[]{}\\[\\],:\"a0-9.nul-]{0,6}",
    ) {
        let whole = super::golden::WORKED_EXAMPLE;
        let start = at.index(whole.len());
        let end = (start + lost).min(whole.len());
        let damaged = [&whole.as_bytes()[..start], found.as_bytes(), &whole.as_bytes()[end..]].concat();
        if let Ok(Some(data)) = ClusterData::parse(&damaged) {
            let written = to_compact(&data);
            proptest::prop_assert_eq!(ClusterData::parse(written.as_bytes()), Ok(Some(data.clone())));
            let _ = data.check(); // usable or not, without a panic
        }
    }
}
