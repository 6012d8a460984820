//! `update` (cli 8, cli 18.13). The races are in the program's own tests.

use crate::harness::{CLUSTER, CtlHarness};

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let harness = CtlHarness::with(CLUSTER).await;
    harness
        .run(&["update", "-p", r#"{"failInterval":"9s"}"#])
        .await
        .assert_printed("");
    let expected = CLUSTER.replace(
        r#""sleepInterval":"1s","#,
        r#""sleepInterval":"1s","failInterval":"9s","#,
    );
    assert_eq!(harness.get().await, Some(expected.clone()));
    harness
        .run_with(&["update", "-pf", "-"], br#"{"pgHBA":[]}"#)
        .await
        .assert_printed("");
    let expected = expected.replacen(r#""pgHBA":null"#, r#""pgHBA":[]"#, 1);
    assert_eq!(harness.get().await, Some(expected));
    harness
        .run(&["update", r#"{"initMode":"new","sleepInterval":"1s"}"#])
        .await
        .assert_printed("");
    assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
}

#[tokio::test]
async fn a_patch_that_changes_nothing_still_writes() {
    let harness = CtlHarness::with(CLUSTER).await;
    let key = harness.store.keys().cluster_data();
    let before = harness.store.get(&key).await.unwrap().unwrap();
    harness.run(&["update", "--patch", "{}"]).await.assert_printed("");
    let after = harness.store.get(&key).await.unwrap().unwrap();
    assert_eq!(after.value, before.value);
    assert!(after.mod_revision > before.mod_revision);
}

#[tokio::test]
async fn unknown_field_names_are_reported_and_ignored() {
    // data-model J-7
    let harness = CtlHarness::with(CLUSTER).await;
    let whole = r#"{"initMode":"new","sleepInterval":"1s","sleepintervall":"2s"}"#;
    for args in [&["update", "-p", r#"{"maxStandby":1}"#][..], &["update", whole]] {
        let output = harness.run(args).await;
        assert_eq!((output.status, output.stdout.as_str()), (0, ""), "{output:?}");
        let unknown = if args.len() == 3 {
            "\"maxStandby\""
        } else {
            "\"sleepintervall\""
        };
        assert!(
            output.stderr.starts_with("WARNING: ignored") && output.stderr.contains(unknown),
            "{output:?}"
        );
        assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
    }
    // Directives of a patch are not field names.
    let patch = r#"{"$patch":"replace","initMode":"new","sleepInterval":"1s"}"#;
    let output = harness.run(&["update", "-p", patch]).await;
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn what_counts_otherwise_than_given_is_a_warning() {
    let harness = CtlHarness::with(CLUSTER).await;
    let output = harness
        .run(&[
            "update",
            "-p",
            r#"{"maxStandbys":1,"maxstandbys":2,"sleepInterval":"0s"}"#,
        ])
        .await;
    assert_eq!((output.status, output.stdout.as_str()), (0, ""), "{output:?}");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "WARNING: given more than once, keep one of each: \"maxStandbys\"",
            "WARNING: sleepInterval 0s is out of range, using 100ms: keepers and sentinels would read the store without \
             a delay",
        ]
    );
    assert!(
        harness
            .get()
            .await
            .unwrap()
            .contains(r#""sleepInterval":"0s","maxStandbys":2"#)
    );
}

#[tokio::test]
async fn invalid_updates_are_refused() {
    let harness = CtlHarness::with(CLUSTER).await;
    for (args, words) in [
        (&["update"][..], "no cluster spec given"),
        (&["update", "{}", "-f", "x"], "only one"),
        (&["update", "{}", "{}"], "too many arguments"),
        (&["update", "-f", "/nonexistent/spec"], "/nonexistent/spec"),
        (&["update", "{}"], "invalid cluster spec: initMode undefined"),
        (&["update", "null"], "null"),
        (&["update", r#"{"sleepInterval":"10s"}"#], "initMode"),
        (&["update", r#"{"maxStandbys":3}"#], "give --patch"),
        (&["update", "-p", "null"], "null where a JSON object is required"),
        (&["update", "-p", "\"x\""], "a string where a JSON object is required"),
        (
            &[
                "update",
                "-p",
                r#"{"initMode":"existing","existingConfig":{"keeperUID":"k"}}"#,
            ],
            "init mode",
        ),
        (&["update", "-p", r#"{"role":"standby","standbyConfig":{}}"#], "standby"),
        (&["update", "-p", r#"{"$retainKeys":[]}"#], "$retainKeys"),
        (&["update", "-p", "[]"], "patch"),
    ] {
        harness.run(args).await.assert_failed_with(words);
    }
    assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
    for data in ["null", "garbage", r#"{"formatVersion":2}"#] {
        harness.put(data).await;
        assert_eq!(harness.run(&["update", "-p", "{}"]).await.status, 1);
        assert_eq!(harness.get().await.as_deref(), Some(data));
    }
}

#[tokio::test]
async fn text_that_must_not_reach_a_server_is_refused_and_nothing_is_written() {
    let harness = CtlHarness::with(CLUSTER).await;
    for (patch, words) in [
        (
            r#"{"pgHBA":["hosst all all 10.0.0.1/32 md5"]}"#,
            "begins with \"hosst\"",
        ),
        (
            r#"{"pgHBA":["host all all all md5\nhost all all all trust"]}"#,
            "newline",
        ),
        (r#"{"pgHBA":["include /etc/passwd"]}"#, "includes a file"),
        (r#"{"pgParameters":{"bad name":"1"}}"#, "invalid parameter \"bad name\""),
        (r#"{"pgParameters":{"":"1"}}"#, "invalid parameter \"\""),
        (r#"{"pgParameters":{"work_mem":"1\u0000"}}"#, "NUL"),
        (r#"{"pgParameters":{"a = '1'\nport":"1"}}"#, "invalid parameter"),
        (
            r#"{"pgParameters":{"include_dir":"x"}}"#,
            "\"include_dir\" cannot be set",
        ),
        (r#"{"pgParameters":{"data_directory":"/tmp/x"}}"#, "--data-dir"),
        (
            r#"{"pgParameters":{"HBA_FILE":"/tmp/x","port":"1"}}"#,
            "\"HBA_FILE\" cannot be set",
        ),
        (
            r#"{"pgParameters":{"Work_Mem":"1MB","work_mem":"2MB"}}"#,
            "are the same to PostgreSQL",
        ),
        (r#"{"additionalMasterReplicationSlots":["a","a"]}"#, "given twice"),
    ] {
        let output = harness.run(&["update", "--patch", patch]).await;
        assert_eq!(output.status, 1, "{patch}: {output:?}");
        assert!(output.stderr.contains(words), "{patch}: {output:?}");
        assert_eq!(harness.get().await.as_deref(), Some(CLUSTER), "{patch}");
    }
}

#[tokio::test]
async fn an_invalid_stored_text_prevents_no_other_change() {
    let bad = r#""pgParameters":{"bad name":"1","data_directory":"/tmp/x"},"pgHBA":["hosst x"]"#;
    let stored = CLUSTER.replacen(r#""pgHBA":null"#, bad, 1);
    let harness = CtlHarness::with(&stored).await;
    let output = harness.run(&["update", "--patch", r#"{"failInterval":"9s"}"#]).await;
    assert_eq!(output.status, 0, "{output:?}");
    for words in ["\"bad name\"", "\"data_directory\"", "\"hosst x\""] {
        let warned = output
            .stderr
            .lines()
            .any(|line| line.starts_with("WARNING: ") && line.contains(words));
        assert!(warned, "{words}: {output:?}");
    }
    assert!(
        harness.get().await.unwrap().contains(bad),
        "the stored spec keeps its texts"
    );
}

/// A complete configuration file with every line uncommented is accepted, with a warning for each line that is left
/// out.
#[tokio::test]
async fn a_stock_postgresql_conf_is_accepted_with_a_warning_for_each_line_left_out() {
    let mut files = 0;
    for path in [
        "/usr/share/postgresql/15/postgresql.conf.sample",
        "/etc/postgresql/15/main/postgresql.conf",
    ] {
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        files += 1;
        let given = stolon_tests::conf::parameters(&text);
        assert!(given.len() > 200, "{path}: {} parameters", given.len());
        let harness = CtlHarness::with(CLUSTER).await;
        let patch = serde_json::json!({ "pgParameters": given }).to_string();
        let output = harness
            .run_with(&["update", "--patch", "--file", "-"], patch.as_bytes())
            .await;
        assert_eq!(output.status, 0, "{path}: {output:?}");
        let spec: serde_json::Value = serde_json::from_str(&harness.get().await.unwrap()).unwrap();
        let kept = spec["cluster"]["spec"]["pgParameters"].as_object().unwrap();
        for name in ["data_directory", "hba_file", "include_dir", "port", "primary_conninfo"] {
            assert!(given.contains_key(name) && !kept.contains_key(name), "{path}: {name}");
        }
        for name in given.keys() {
            let warned = output
                .stderr
                .contains(&format!("WARNING: left out parameter {name:?}: "));
            assert_eq!(warned, !kept.contains_key(name), "{path}: {name}: {}", output.stderr);
        }
        assert!(
            kept.contains_key("shared_buffers") && kept.contains_key("archive_command"),
            "{path}"
        );
    }
    assert!(files > 0, "PostgreSQL's sample is installed with the server");
}

#[tokio::test]
async fn switching_synchronous_replication_off_is_a_warning() {
    let stored = CLUSTER.replacen(
        r#""additionalWalSenders":null,"#,
        r#""synchronousReplication":true,"additionalWalSenders":null,"#,
        1,
    );
    let harness = CtlHarness::with(&stored).await;
    let off = harness
        .run(&["update", "-p", r#"{"synchronousReplication":false}"#])
        .await;
    assert_eq!((off.status, off.stdout.as_str()), (0, ""), "{off:?}");
    off.assert_stderr_has(
        "WARNING: synchronous replication is switched off: a failover within the next moments may lose",
    );
    // Once it is off, there is nothing to warn of.
    harness.run(&["update", "-p", "{}"]).await.assert_printed("");
}
