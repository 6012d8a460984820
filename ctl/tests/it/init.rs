//! `init` (cli 7, cli 18.10 to 18.12).

use std::fs;

use control::model::ClusterData;

use crate::bench::{Bench, CLUSTER};

const REMOVED: &str = "WARNING: The current cluster data will be removed\n";
const OVERWRITTEN: &str =
    "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.\n";
const QUESTION: &str = "Are you sure you want to continue? [yes/no] ";

async fn spec(bench: &Bench) -> String {
    let data = ClusterData::parse(bench.get().await.unwrap().as_bytes())
        .unwrap()
        .unwrap();
    control::model::to_compact(&data.cluster.unwrap().spec.unwrap())
}

const MINIMAL: &str = r#"{"additionalWalSenders":null,"additionalMasterReplicationSlots":null,"initMode":"new","pgHBA":null,"automaticPgRestart":null}"#;

#[tokio::test]
async fn the_first_initialisation_warns_once_and_the_second_twice() {
    let bench = Bench::start().await;
    bench.run(&["init", "-y"]).await.printed(OVERWRITTEN);
    let first = bench.get().await.unwrap();
    let data = ClusterData::parse(first.as_bytes()).unwrap().unwrap();
    let cluster = data.cluster.unwrap();
    let (uid, born) = (
        cluster.uid.to_string(),
        serde_json::to_string(&cluster.change_time).unwrap(),
    );
    assert_eq!(
        first,
        format!(
            r#"{{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{{"uid":"{uid}","generation":1,"changeTime":{born},"spec":{MINIMAL},"status":{{"phase":"initializing"}}}},"keepers":{{}},"dbs":{{}},"proxy":{{"changeTime":"0001-01-01T00:00:00Z","spec":{{}},"status":{{}}}}}}"#
        )
    );
    assert!(
        uid.len() == 8 && uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        "{uid}"
    );
    bench
        .run(&["init", "--yes"])
        .await
        .printed(&format!("{REMOVED}{OVERWRITTEN}"));
    assert_ne!(bench.get().await.unwrap(), first);
}

#[tokio::test]
async fn without_yes_it_asks() {
    // cli 6.3
    let bench = Bench::start().await;
    bench
        .run_with(&["init"], b"no\n")
        .await
        .printed(&format!("{OVERWRITTEN}{QUESTION}exiting\n"));
    for input in [&b""[..], b"yes", b"maybe\n", b"yes\r\n"] {
        let ran = bench.run_with(&["init"], input).await;
        assert!(ran.status == 1 && ran.stderr.contains("EOF"), "{ran:?}");
    }
    assert_eq!(bench.get().await, None);
    bench
        .run_with(&["init"], b"yes\n")
        .await
        .printed(&format!("{OVERWRITTEN}{QUESTION}"));
    assert_eq!(spec(&bench).await, MINIMAL);
}

#[tokio::test]
async fn an_argument_wins_over_a_file_that_is_not_even_there() {
    let bench = Bench::start().await;
    bench
        .run(&["init", "-y", "-f", "/nonexistent/spec", r#"{"INITMODE":"new"}"#])
        .await
        .printed(OVERWRITTEN);
    assert_eq!(spec(&bench).await, MINIMAL);
    let ran = bench.run(&["init", "-y", "-f", "/nonexistent/spec"]).await;
    ran.failed_with("/nonexistent/spec");
}

#[tokio::test]
async fn the_spec_comes_from_a_file_or_from_standard_input() {
    let bench = Bench::start().await;
    let text = br#"{"initMode":"new","sleepInterval":"7s"}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    bench
        .run(&["init", "-y", "--file", file.path().to_str().unwrap()])
        .await
        .printed(OVERWRITTEN);
    assert!(spec(&bench).await.contains(r#""sleepInterval":"7s""#));
    // all of standard input is the spec, so nothing is left to answer with
    let ran = bench
        .run_with(&["init", "-f", "-"], b"{\"initMode\":\"new\"}\nyes\n")
        .await;
    assert!(ran.status == 1 && ran.stderr.contains("EOF"), "{ran:?}");
    bench
        .run_with(&["init", "-yf", "-"], br#"{"initMode":"new"}"#)
        .await
        .printed(&format!("{REMOVED}{OVERWRITTEN}"));
    assert_eq!(spec(&bench).await, MINIMAL);
}

#[tokio::test]
async fn names_that_are_no_fields_are_told_and_ignored() {
    // data-model J-7, cli 18.11
    let bench = Bench::start().await;
    let text = r#"{"INITMODE":"new","failIntervall":"4s","newConfig":{"local":"C"},"pgParameters":{"any":"1"}}"#;
    let ran = bench.run(&["init", "-y", text]).await;
    assert_eq!((ran.status, ran.stdout.as_str()), (0, OVERWRITTEN));
    ran.said(r#"has this name: "failIntervall", "newConfig.local""#);
    assert!(!spec(&bench).await.contains("failIntervall"));
}

#[tokio::test]
async fn a_bad_spec_writes_nothing() {
    let bench = Bench::start().await;
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
            r#"{"initMode":"new","synchronousReplication":true}"#,
            "not supported yet",
        ),
    ] {
        let ran = bench.run(&["init", "-y", text]).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (1, OVERWRITTEN), "{text} {ran:?}");
        ran.said(words);
    }
    bench
        .run(&["init", "-y", "{}", "{}"])
        .await
        .failed_with("too many arguments");
    assert_eq!(bench.get().await, None);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_initialised_over() {
    // cli 18.12
    let bench = Bench::with("garbage").await;
    bench.run(&["init", "-y"]).await.failed_with("cannot get cluster data");
    assert_eq!(bench.get().await.as_deref(), Some("garbage"));
    bench.put("null").await;
    bench.run(&["init", "-y"]).await.printed(OVERWRITTEN);
    bench
        .put(&CLUSTER.replace("\"formatVersion\":1", "\"formatVersion\":2"))
        .await;
    bench
        .run(&["init", "-y"])
        .await
        .printed(&format!("{REMOVED}{OVERWRITTEN}"));
}
