//! Replays recorded commands of Go stolon against the same values in the store: the output must be the same, and
//! what changes write must be the same byte for byte.

use std::fs;
use std::path::PathBuf;

use daemon::args::VERSION;
use serde_json::Value;

use crate::harness::{CommandOutput, CtlHarness};

/// A recorded command with the revision of the store that it read, and the revision that it wrote, if any.
struct RecordedStep {
    command: &'static str,
    at_revision: i64,
    wrote: Option<i64>,
}

const fn reads(saw: i64, command: &'static str) -> RecordedStep {
    RecordedStep {
        command,
        at_revision: saw,
        wrote: None,
    }
}

const fn writes(revision: i64, command: &'static str) -> RecordedStep {
    RecordedStep {
        command,
        at_revision: revision - 1,
        wrote: Some(revision),
    }
}

/// What a recorded command printed.
#[derive(Debug)]
struct RecordedRun {
    command: String,
    stdout: String,
    status: i32,
}

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Returns the commands of a scenario in order. Each output is followed by an empty line; standard error and the exit
/// status follow in brackets.
fn recorded(scenario: &str) -> Vec<RecordedRun> {
    let text = golden(&format!("{scenario}.stolonctl.txt"));
    let runs = text.strip_prefix("$ stolonctl ").unwrap().split("\n$ stolonctl ");
    let parse = |run: &str| {
        let (command, rest) = run.split_once('\n').unwrap_or((run, ""));
        let end = ["\n[stderr]", "\n[exit"]
            .iter()
            .filter_map(|mark| rest.find(mark))
            .min();
        RecordedRun {
            command: command.to_owned(),
            stdout: rest[..end.unwrap_or(rest.len())].to_owned(),
            status: i32::from(rest.contains("\n[exit 1]")),
        }
    };
    runs.map(parse).collect()
}

/// Splits a recorded command line into arguments. Only the last one may contain blanks.
fn arguments(command: &str) -> Vec<&str> {
    match command.split_once(" {") {
        Some((options, _)) => options.split(' ').chain([&command[options.len() + 1..]]).collect(),
        None => command.split(' ').collect(),
    }
}

async fn replay(scenario: &str, steps: &[RecordedStep]) {
    let harness = CtlHarness::start().await;
    let events: Vec<Value> = golden(&format!("{scenario}.store.jsonl"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let value_at = |revision: i64| {
        let event = events.iter().find(|event| event["revision"] == revision).unwrap();
        event["value"].as_str().unwrap().to_owned()
    };
    let mut played = 0;
    let recorded = recorded(scenario);
    let mut next = recorded.iter();
    for step in steps {
        while let Some(event) = events
            .get(played)
            .filter(|event| event["revision"].as_i64().unwrap() <= step.at_revision)
        {
            let key = event["key"].as_str().unwrap();
            match event["value"].as_str() {
                Some(value) => drop(harness.store.put(key, value).await.unwrap()),
                None => drop(harness.store.commit(store::Txn::new().delete(key)).await.unwrap()),
            }
            played += 1;
        }
        let expected = next.find(|run| run.command == step.command).unwrap();
        let before = harness.get().await;
        let output = harness.run(&arguments(step.command)).await;
        compare(&output, expected);
        let after = step.wrote.map(value_at).or(before);
        assert_eq!(harness.get().await, after, "{expected:?}");
    }
}

/// Compares standard output, except for newlines at its end, and the status. The text of standard error is not
/// compared; it must be empty exactly if the command succeeded.
fn compare(output: &CommandOutput, expected: &RecordedRun) {
    assert_eq!(
        output.stdout.trim_end_matches('\n'),
        expected.stdout.trim_end_matches('\n'),
        "{expected:?}"
    );
    assert_eq!(output.status, expected.status, "{expected:?} {output:?}");
    assert_eq!(
        output.stderr.is_empty(),
        expected.status == 0,
        "{expected:?} {output:?}"
    );
}

#[tokio::test]
async fn async_failover_prints_and_writes_what_the_reference_did() {
    const PATCH: &str = r#"update --patch {"pgParameters":{"work_mem":"8MB"},"pgHBA":["host all all 10.0.0.0/8 md5"]}"#;
    let steps = [
        reads(0, "status"),
        reads(0, "spec"),
        reads(0, "clusterdata read"),
        reads(2, "status"),
        reads(2, "spec"),
        reads(2, "spec --defaults"),
        reads(2, "clusterdata read --pretty"),
        reads(43, "status"),
        reads(88, "status"),
        reads(88, "clusterdata read --pretty"),
        reads(143, "status"),
        reads(191, "status"),
        reads(227, "clusterdata read --pretty"),
        writes(234, "failkeeper k3"),
        reads(264, "status"),
        writes(308, "removekeeper k2"),
        reads(321, "status"),
        reads(321, "removekeeper nosuch"),
        reads(321, "removekeeper k1"),
        reads(321, "failkeeper nosuch"),
        writes(324, PATCH),
        reads(324, "spec"),
        writes(345, r#"update --patch {"pgParameters":null}"#),
        reads(345, "spec"),
        reads(345, r#"update {"initMode":"#),
        reads(345, "update {}"),
        reads(345, "spec"),
        reads(345, "init"),
    ];
    replay("async-failover", &steps).await;
}

#[tokio::test]
async fn sync_prints_what_the_reference_did() {
    let steps = [
        reads(99, "status"),
        reads(111, "status -f json"),
        reads(111, "clusterdata read --pretty"),
        reads(111, "spec"),
        reads(111, "spec --defaults"),
        reads(166, "status"),
        reads(240, "status"),
        reads(293, "clusterdata read --pretty"),
        reads(317, "status"),
        reads(353, "clusterdata read --pretty"),
    ];
    replay("sync", &steps).await;
}

#[tokio::test]
async fn standby_cluster_prints_what_the_reference_did() {
    let steps = [
        reads(71, "status"),
        reads(103, "clusterdata read --pretty"),
        writes(104, "promote -y"),
        reads(115, "status"),
        reads(135, "clusterdata read --pretty"),
        reads(135, "spec"),
    ];
    replay("standby-cluster", &steps).await;
}

#[tokio::test]
async fn the_version_has_the_form_of_the_reference() {
    let output = crate::harness::stolonctl(&["version"], &[], b"").await;
    output.assert_printed(&format!("stolonctl version {VERSION}\n"));
}
