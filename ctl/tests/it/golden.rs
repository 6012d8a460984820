//! What the reference printed, printed again by ours from the same values in the store; and what its changes wrote,
//! written again byte for byte.

use std::fs;
use std::path::PathBuf;

use control::args::VERSION;
use serde_json::Value;

use crate::bench::{Bench, Ran};

/// A recorded command with the revision of the store that it saw, and the cluster data that it wrote, if any.
struct Step {
    command: &'static str,
    saw: i64,
    wrote: Option<i64>,
}

const fn saw(saw: i64, command: &'static str) -> Step {
    Step {
        command,
        saw,
        wrote: None,
    }
}

const fn wrote(revision: i64, command: &'static str) -> Step {
    Step {
        command,
        saw: revision - 1,
        wrote: Some(revision),
    }
}

/// What came of a recorded command.
#[derive(Debug)]
struct Recorded {
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

/// The commands of a scenario in order. After each output stands an empty line; standard error and the status follow
/// in brackets.
fn recorded(scenario: &str) -> Vec<Recorded> {
    let text = golden(&format!("{scenario}.stolonctl.txt"));
    let runs = text.strip_prefix("$ stolonctl ").unwrap().split("\n$ stolonctl ");
    let parse = |run: &str| {
        let (command, rest) = run.split_once('\n').unwrap_or((run, ""));
        let end = ["\n[stderr]", "\n[exit"]
            .iter()
            .filter_map(|mark| rest.find(mark))
            .min();
        Recorded {
            command: command.to_owned(),
            stdout: rest[..end.unwrap_or(rest.len())].to_owned(),
            status: i32::from(rest.contains("\n[exit 1]")),
        }
    };
    runs.map(parse).collect()
}

/// The arguments of a recorded command line: the one with blanks in it is the last.
fn arguments(command: &str) -> Vec<&str> {
    match command.split_once(" {") {
        Some((options, _)) => options.split(' ').chain([&command[options.len() + 1..]]).collect(),
        None => command.split(' ').collect(),
    }
}

async fn replay(scenario: &str, steps: &[Step]) {
    let bench = Bench::start().await;
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
            .filter(|event| event["revision"].as_i64().unwrap() <= step.saw)
        {
            let key = event["key"].as_str().unwrap();
            match event["value"].as_str() {
                Some(value) => drop(bench.store.put(key, value).await.unwrap()),
                None => drop(
                    bench
                        .store
                        .commit(control::store::Txn::new().delete(key))
                        .await
                        .unwrap(),
                ),
            }
            played += 1;
        }
        let expected = next.find(|run| run.command == step.command).unwrap();
        let before = bench.get().await;
        let ran = bench.run(&arguments(step.command)).await;
        compare(&ran, expected);
        let after = step.wrote.map(value_at).or(before);
        assert_eq!(bench.get().await, after, "{expected:?}");
    }
}

/// Standard output but for the line ends after it, and the status; standard error by meaning: something is said
/// exactly when something went wrong.
fn compare(ran: &Ran, expected: &Recorded) {
    assert_eq!(
        ran.stdout.trim_end_matches('\n'),
        expected.stdout.trim_end_matches('\n'),
        "{expected:?}"
    );
    assert_eq!(ran.status, expected.status, "{expected:?} {ran:?}");
    assert_eq!(ran.stderr.is_empty(), expected.status == 0, "{expected:?} {ran:?}");
}

#[tokio::test]
async fn async_failover_prints_and_writes_what_the_reference_did() {
    const PATCH: &str = r#"update --patch {"pgParameters":{"work_mem":"8MB"},"pgHBA":["host all all 10.0.0.0/8 md5"]}"#;
    let steps = [
        saw(0, "status"),
        saw(0, "spec"),
        saw(0, "clusterdata read"),
        saw(2, "status"),
        saw(2, "spec"),
        saw(2, "spec --defaults"),
        saw(2, "clusterdata read --pretty"),
        saw(43, "status"),
        saw(88, "status"),
        saw(88, "clusterdata read --pretty"),
        saw(143, "status"),
        saw(191, "status"),
        saw(227, "clusterdata read --pretty"),
        wrote(234, "failkeeper k3"),
        saw(264, "status"),
        wrote(308, "removekeeper k2"),
        saw(321, "status"),
        saw(321, "removekeeper nosuch"),
        saw(321, "removekeeper k1"),
        saw(321, "failkeeper nosuch"),
        wrote(324, PATCH),
        saw(324, "spec"),
        wrote(345, r#"update --patch {"pgParameters":null}"#),
        saw(345, "spec"),
        saw(345, r#"update {"initMode":"#),
        saw(345, "update {}"),
        saw(345, "spec"),
        saw(345, "init"),
    ];
    replay("async-failover", &steps).await;
}

#[tokio::test]
async fn sync_prints_what_the_reference_did() {
    let steps = [
        saw(99, "status"),
        saw(111, "status -f json"),
        saw(111, "clusterdata read --pretty"),
        saw(111, "spec"),
        saw(111, "spec --defaults"),
        saw(166, "status"),
        saw(240, "status"),
        saw(293, "clusterdata read --pretty"),
        saw(317, "status"),
        saw(353, "clusterdata read --pretty"),
    ];
    replay("sync", &steps).await;
}

#[tokio::test]
async fn standby_cluster_prints_what_the_reference_did() {
    let steps = [
        saw(71, "status"),
        saw(103, "clusterdata read --pretty"),
        saw(115, "status"),
        saw(135, "clusterdata read --pretty"),
        saw(135, "spec"),
    ];
    replay("standby-cluster", &steps).await;
}

#[tokio::test]
async fn the_version_has_the_form_of_the_reference() {
    let ran = crate::bench::stolonctl(&["version"], &[], b"").await;
    ran.printed(&format!("stolonctl version {VERSION}\n"));
}
