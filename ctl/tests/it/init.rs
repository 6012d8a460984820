//! `init` (cli 7, cli 18.10 to 18.12).

use std::fs;

use model::ClusterData;

use crate::harness::{CLUSTER, CtlHarness};

const REMOVED: &str = "WARNING: The current cluster data will be removed\n";
const OVERWRITTEN: &str =
    "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.\n";
const QUESTION: &str = "Are you sure you want to continue? [yes/no] ";

async fn spec(harness: &CtlHarness) -> String {
    let data = ClusterData::parse(harness.get().await.unwrap().as_bytes())
        .unwrap()
        .unwrap();
    model::to_compact(&data.cluster.unwrap().spec.unwrap())
}

const MINIMAL: &str = r#"{"additionalWalSenders":null,"additionalMasterReplicationSlots":null,"initMode":"new","pgHBA":null,"automaticPgRestart":null}"#;

#[tokio::test]
async fn the_first_initialisation_warns_once_and_the_second_twice() {
    let harness = CtlHarness::start().await;
    harness.run(&["init", "-y"]).await.assert_printed(OVERWRITTEN);
    let first = harness.get().await.unwrap();
    let data = ClusterData::parse(first.as_bytes()).unwrap().unwrap();
    let cluster = data.cluster.unwrap();
    let (uid, change_time) = (
        cluster.uid.to_string(),
        serde_json::to_string(&cluster.change_time).unwrap(),
    );
    assert_eq!(
        first,
        format!(
            r#"{{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{{"uid":"{uid}","generation":1,"changeTime":{change_time},"spec":{MINIMAL},"status":{{"phase":"initializing"}}}},"keepers":{{}},"dbs":{{}},"proxy":{{"changeTime":"0001-01-01T00:00:00Z","spec":{{}},"status":{{}}}}}}"#
        )
    );
    assert!(
        uid.len() == 8 && uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        "{uid}"
    );
    harness
        .run(&["init", "--yes"])
        .await
        .assert_printed(&format!("{REMOVED}{OVERWRITTEN}"));
    assert_ne!(harness.get().await.unwrap(), first);
}

#[tokio::test]
async fn without_yes_it_asks() {
    // cli 6.3
    let harness = CtlHarness::start().await;
    harness
        .run_with(&["init"], b"no\n")
        .await
        .assert_printed(&format!("{OVERWRITTEN}{QUESTION}exiting\n"));
    for input in [&b""[..], b"yes", b"maybe\n", b"yes\r\n"] {
        let output = harness.run_with(&["init"], input).await;
        assert!(output.status == 1 && output.stderr.contains("EOF"), "{output:?}");
    }
    assert_eq!(harness.get().await, None);
    harness
        .run_with(&["init"], b"yes\n")
        .await
        .assert_printed(&format!("{OVERWRITTEN}{QUESTION}"));
    assert_eq!(spec(&harness).await, MINIMAL);
}

#[tokio::test]
async fn an_argument_takes_precedence_over_a_missing_file() {
    let harness = CtlHarness::start().await;
    let output = harness
        .run(&["init", "-y", "-f", "/nonexistent/spec", r#"{"INITMODE":"new"}"#])
        .await;
    let ignored = "WARNING: the file is ignored: the cluster spec was given as an argument\n";
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.status),
        (OVERWRITTEN, ignored, 0)
    );
    assert_eq!(spec(&harness).await, MINIMAL);
    let output = harness.run(&["init", "-y", "-f", "/nonexistent/spec"]).await;
    output.assert_failed_with("/nonexistent/spec");
}

#[tokio::test]
async fn the_spec_comes_from_a_file_or_from_standard_input() {
    let harness = CtlHarness::start().await;
    let text = br#"{"initMode":"new","sleepInterval":"7s"}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    harness
        .run(&["init", "-y", "--file", file.path().to_str().unwrap()])
        .await
        .assert_printed(OVERWRITTEN);
    assert!(spec(&harness).await.contains(r#""sleepInterval":"7s""#));
    // All of standard input is the spec, so the confirmation finds nothing to read.
    let output = harness
        .run_with(&["init", "-f", "-"], b"{\"initMode\":\"new\"}\n")
        .await;
    assert!(output.status == 1 && output.stderr.contains("EOF"), "{output:?}");
    harness
        .run_with(&["init", "-f", "-"], b"{\"initMode\":\"new\"}\nyes\n")
        .await
        .assert_failed_with("line 2 column 1");
    harness
        .run_with(&["init", "-yf", "-"], br#"{"initMode":"new"}"#)
        .await
        .assert_printed(&format!("{REMOVED}{OVERWRITTEN}"));
    assert_eq!(spec(&harness).await, MINIMAL);
}

#[tokio::test]
async fn unknown_field_names_are_reported_and_ignored() {
    // data-model J-7, cli 18.11
    let harness = CtlHarness::start().await;
    let text = r#"{"INITMODE":"new","failIntervall":"4s","newConfig":{"local":"C"},"pgParameters":{"any":"1"}}"#;
    let output = harness.run(&["init", "-y", text]).await;
    assert_eq!((output.status, output.stdout.as_str()), (0, OVERWRITTEN));
    output.assert_stderr_has(r#"has this name: "failIntervall", "newConfig.local""#);
    assert!(!spec(&harness).await.contains("failIntervall"));
}

#[tokio::test]
async fn a_bad_spec_writes_nothing() {
    let harness = CtlHarness::start().await;
    for (text, words) in [
        ("{}", "initMode undefined"),
        ("", "failed to unmarshal cluster spec"),
        ("null", "failed to unmarshal cluster spec"),
        ("{\"initMode\"\n:new}", "line 2 column"),
        (r#"{"initMode":"new","sleepInterval":"5"}"#, "sleepInterval"),
        (
            r#"{"initMode":"new","requestTimeout":"-1s","maxStandbys":0}"#,
            "requestTimeout",
        ),
        (r#"{"initMode":"new","maxStandbys":0}"#, "maxStandbys"),
        (r#"{"initMode":"new","proxyCheckInterval":"15s"}"#, "proxyCheckInterval"),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":["a-b"]}"#,
            "wrong replication slot name: \"a-b\"",
        ),
        (
            r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"},"role":"standby","standbyConfig":{}}"#,
            "role standby needs an upstream",
        ),
    ] {
        let output = harness.run(&["init", "-y", text]).await;
        assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{text} {output:?}");
        output.assert_stderr_has(words);
        // The question comes after the check.
        let asked = harness.run_with(&["init", text], b"yes\n").await;
        asked.assert_failed_with(words);
    }
    harness
        .run(&["init", "-y", "{}", "{}"])
        .await
        .assert_failed_with("too many arguments");
    assert_eq!(harness.get().await, None);
}

#[tokio::test]
async fn undecodable_cluster_data_is_not_overwritten_by_init() {
    // cli 18.12
    let harness = CtlHarness::with("garbage").await;
    harness
        .run(&["init", "-y"])
        .await
        .assert_failed_with("cannot get cluster data");
    assert_eq!(harness.get().await.as_deref(), Some("garbage"));
    harness.put("null").await;
    harness.run(&["init", "-y"]).await.assert_printed(OVERWRITTEN);
    harness
        .put(&CLUSTER.replace("\"formatVersion\":1", "\"formatVersion\":2"))
        .await;
    harness
        .run(&["init", "-y"])
        .await
        .assert_printed(&format!("{REMOVED}{OVERWRITTEN}"));
}
