//! `clusterdata read|write` (cli 13, cli 18.17, cli 18.18).

use crate::harness::{CLUSTER, CtlHarness};

const WROTE: &str = "successfully wrote cluster data into the new store\n";

#[tokio::test]
async fn read_prints_the_stored_bytes() {
    let harness = CtlHarness::with(CLUSTER).await;
    harness
        .run(&["clusterdata", "read", "extra"])
        .await
        .assert_printed(&format!("{CLUSTER}\n"));
    let pretty = harness.run(&["clusterdata", "read", "--pretty"]).await;
    assert!(
        pretty
            .stdout
            .starts_with("{\n\t\"formatVersion\": 1,\n\t\"changeTime\""),
        "{pretty:?}"
    );
    assert!(pretty.stdout.ends_with("\n}\n"), "{pretty:?}");
    harness
        .put(r#"{"unknown":1,"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#)
        .await;
    harness.run(&["clusterdata", "read"]).await.assert_printed(
        "{\"formatVersion\":1,\"changeTime\":\"0001-01-01T00:00:00Z\",\"cluster\":{\"changeTime\":\"0001-01-01T00:00:00Z\",\
        \"spec\":{\"additionalWalSenders\":null,\"additionalMasterReplicationSlots\":null,\"initMode\":\"new\",\"pgHBA\":null,\
        \"automaticPgRestart\":null},\"status\":{}},\"keepers\":null,\"dbs\":null,\"proxy\":null}\n",
    );
}

#[tokio::test]
async fn data_that_cannot_be_used_is_an_error_for_every_reader() {
    // cli 6.2, cli 18.17, store 10.8
    let harness = CtlHarness::start().await;
    for (data, words) in [
        ("null", "no cluster data"),
        ("garbage", "cannot get cluster data"),
        ("[]", "cannot get cluster data"),
        ("{}", "format version 0"),
        (
            r#"{"formatVersion":2,"cluster":{"spec":{"initMode":"new"}}}"#,
            "format version 2",
        ),
        (r#"{"formatVersion":1}"#, "no cluster spec available"),
        (r#"{"formatVersion":1,"cluster":{}}"#, "no cluster spec available"),
        (
            r#"{"formatVersion":1,"cluster":{"spec":{}}}"#,
            "clusterdata validation failed: initMode undefined",
        ),
        (
            r#"{"formatVersion":1,"cluster":{"spec":{}}}"#,
            "restore a backup with `stolonctl clusterdata write --yes -f FILE`",
        ),
    ] {
        harness.put(data).await;
        for args in [
            &["clusterdata", "read"][..],
            &["spec"],
            &["status"],
            &["failkeeper", "k"],
            &["removekeeper", "k"],
        ] {
            harness.run(args).await.assert_failed_with(words);
        }
        harness.run(&["update", "-p", "{}"]).await.assert_failed_with(words);
        assert_eq!(harness.get().await.as_deref(), Some(data));
    }
}

#[tokio::test]
async fn write_accepts_a_document_and_stores_it_normalised() {
    let harness = CtlHarness::start().await;
    let spaced = CLUSTER.replace(',', " ,\n ");
    harness
        .run_with(&["clusterdata", "write"], spaced.as_bytes())
        .await
        .assert_printed(WROTE);
    assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
    harness.put("null").await;
    harness
        .run_with(&["clusterdata", "write", "-f", "-"], CLUSTER.as_bytes())
        .await
        .assert_printed(WROTE);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CLUSTER).unwrap();
    harness
        .run(&["clusterdata", "write", "-y", "-f", file.path().to_str().unwrap()])
        .await
        .assert_printed(&format!("WARNING: The current cluster data will be removed\n{WROTE}"));
    assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
}

/// A backup may be older than the rules, and there may be no other.
#[tokio::test]
async fn write_accepts_a_spec_that_keepers_apply_in_part_with_a_warning() {
    let harness = CtlHarness::start().await;
    let bad = r#""pgParameters":{"data_directory":"/tmp/x"},"pgHBA":["hosst x"]"#;
    let data = CLUSTER.replacen(r#""pgHBA":null"#, bad, 1);
    let output = harness.run_with(&["clusterdata", "write"], data.as_bytes()).await;
    assert_eq!(
        (output.status, output.stdout.trim_end()),
        (0, WROTE.trim_end()),
        "{output:?}"
    );
    for words in ["\"data_directory\"", "\"hosst x\""] {
        let warned = |line: &str| line.starts_with("WARNING: keepers leave out") && line.contains(words);
        assert!(output.stderr.lines().any(warned), "{words}: {output:?}");
    }
    assert_eq!(harness.get().await, Some(data));
}

#[tokio::test]
async fn write_warns_of_members_that_are_given_twice() {
    let harness = CtlHarness::start().await;
    let twice = CLUSTER.replacen(r#""formatVersion":1,"#, r#""formatVersion":2,"formatVersion":1,"#, 1);
    let output = harness.run_with(&["clusterdata", "write"], twice.as_bytes()).await;
    assert_eq!((output.status, output.stdout.as_str()), (0, WROTE), "{output:?}");
    output.assert_stderr_has("WARNING: given more than once, keep one of each: \"formatVersion\"");
    assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
}

#[tokio::test]
async fn write_overwrites_nothing_without_yes() {
    let harness = CtlHarness::with(CLUSTER).await;
    let output = harness.run_with(&["clusterdata", "write"], CLUSTER.as_bytes()).await;
    assert_eq!(
        output.stderr,
        "WARNING: cluster data already available use --yes to override\n"
    );
    assert_eq!((output.status, output.stdout.as_str()), (1, ""));
    harness.put("garbage").await;
    harness
        .run_with(&["clusterdata", "write", "--yes"], CLUSTER.as_bytes())
        .await
        .assert_failed_with("cannot get cluster data");
    assert_eq!(harness.get().await.as_deref(), Some("garbage"));
}

#[tokio::test]
async fn write_refuses_invalid_documents() {
    let harness = CtlHarness::start().await;
    for (text, line) in [
        ("", "invalid cluster data: unexpected end of JSON input\n"),
        (
            "{a}",
            "invalid cluster data: invalid character 'a' looking for beginning of object key string\n",
        ),
    ] {
        let output = harness.run_with(&["clusterdata", "write"], text.as_bytes()).await;
        assert_eq!((output.status, output.stderr.as_str()), (1, line));
    }
    harness
        .run_with(&["clusterdata", "write"], b"[]")
        .await
        .assert_failed_with("invalid cluster data: ");
    harness
        .run(&["clusterdata", "write", "-f", "/nonexistent/data"])
        .await
        .assert_failed_with("/nonexistent/data");
    assert_eq!(harness.get().await, None);
}

/// The same cluster with a spec that this version does not support: a standby cluster that follows nothing.
fn unsupported() -> String {
    let spec = r#""spec":{"role":"standby","standbyConfig":{},"pitrConfig":{"dataRestoreCommand":"x"},"#;
    let unsupported = CLUSTER.replacen(r#""spec":{"#, spec, 1);
    unsupported.replacen(r#""initMode":"new""#, r#""initMode":"pitr""#, 1)
}

#[tokio::test]
async fn write_replaces_usable_data_by_unusable_data_only_with_force() {
    // cli 13.2
    let normal =
        r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"},"status":{"phase":"normal","master":"d1"}}}"#;
    let unsupported = unsupported();
    let cases = [
        ("{}", "format version 0"),
        ("null", "format version 0"),
        (r#"{"formatVersion":1}"#, "no cluster spec available"),
        (r#"{"formatVersion":1,"cluster":{"spec":{}}}"#, "initMode undefined"),
        (
            r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#,
            "unknown cluster phase \"\"",
        ),
        (normal, "master db \"d1\" not available"),
        (unsupported.as_str(), "role standby needs an upstream"),
    ];
    let harness = CtlHarness::with(CLUSTER).await;
    for (text, words) in cases {
        let refused = harness.run_with(&["clusterdata", "write", "-y"], text.as_bytes()).await;
        refused.assert_failed_with(words);
        refused.assert_stderr_has("--force");
        assert_eq!(harness.get().await.as_deref(), Some(CLUSTER), "{text}");
    }
    for (text, words) in cases {
        harness.put(CLUSTER).await;
        let force = ["clusterdata", "write", "-y", "--force"];
        let forced = harness.run_with(&force, text.as_bytes()).await;
        assert_eq!(forced.status, 0, "{forced:?}");
        forced.assert_stderr_has(words);
        // Present data that cannot be used are replaced, also by data that can be used no better.
        for after in [text, CLUSTER] {
            let again = harness
                .run_with(&["clusterdata", "write", "-y"], after.as_bytes())
                .await;
            assert_eq!(again.status, 0, "{text} {again:?}");
        }
        assert_eq!(harness.get().await.as_deref(), Some(CLUSTER), "{text}");
    }
}

/// A cluster of Go stolon that uses more than this version does can be restored, and is not lost to an empty file.
#[tokio::test]
async fn write_replaces_unsupported_data_by_unsupported_data_but_not_by_broken_data() {
    let unsupported = unsupported();
    let harness = CtlHarness::with(&unsupported).await;
    let restored = harness
        .run_with(&["clusterdata", "write", "-y"], unsupported.as_bytes())
        .await;
    assert_eq!(restored.status, 0, "{restored:?}");
    let stored = harness.get().await;
    harness
        .run_with(&["clusterdata", "write", "-y"], b"{}")
        .await
        .assert_failed_with("format version 0");
    assert_eq!(harness.get().await, stored);
}

#[tokio::test]
async fn write_warns_about_a_document_that_no_program_can_use() {
    // cli 13.2
    let harness = CtlHarness::start().await;
    let output = harness.run_with(&["clusterdata", "write"], b"{}").await;
    assert_eq!((output.status, output.stdout.as_str()), (0, WROTE));
    output.assert_stderr_has("cannot be used");
    assert_eq!(
        harness.get().await.as_deref(),
        Some(
            r#"{"formatVersion":0,"changeTime":"0001-01-01T00:00:00Z","cluster":null,"keepers":null,"dbs":null,"proxy":null}"#
        )
    );
}
