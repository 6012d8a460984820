//! Garbage in the store: whatever the key holds, decoding it does not panic, and a route opens only to what the bytes
//! name as cluster data (proxy P-3). Recorded documents are damaged at random, as JSON values and as bytes.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use model::Json;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::*;

/// Damaged documents of a run; `PROPTEST_CASES` asks for more.
const CASES: u32 = 4096;

/// Documents that Go stolon wrote, and one of our own.
const RECORDED: [&str; 3] = [
    include_str!("../../../../tests/golden/async-failover.store.jsonl"),
    include_str!("../../../../tests/golden/sync.store.jsonl"),
    include_str!("../../../../tests/golden/standby-cluster.store.jsonl"),
];

/// Returns every recorded document.
static DOCUMENTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let lines = RECORDED.iter().flat_map(|recorded| recorded.lines());
    let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let written = entries.filter(|entry| entry["key"].as_str().unwrap().ends_with("/clusterdata"));
    let texts = written.filter_map(|entry| entry["value"].as_str().map(str::to_owned));
    let texts = texts.chain([document()]);
    texts.map(|text| serde_json::from_str(&text).unwrap()).collect()
});

/// Values, as JSON text, that are invalid everywhere, and some that are valid in the wrong place.
fn invalid_values() -> Vec<String> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"spec":"#.repeat(depth), "}".repeat(depth));
    let mut all: Vec<String> = [nested(20), nested(127), nested(5000), objects(30), objects(5000)].into();
    let long = format!("{:?}", "a".repeat(70_000));
    all.push(long);
    all.extend(
        [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "1",
            "2",
            "1.0",
            "1e0",
            "0.5",
            "-0",
            "1e308",
            "1e999",
            "65536",
            "4294967296",
            "18446744073709551616",
            "-9223372036854775809",
            "340282366920938463463374607431768211456",
            "[]",
            "{}",
            "[null]",
            "[{}]",
            r#"{"":{}}"#,
            r#"{"a":null}"#,
            r#"["me"]"#,
            r#"[["me"]]"#,
            r#""""#,
            r#"" ""#,
            r#""\u0000""#,
            r#""\ud800""#,
            r#""10.0.0.1\u0000.example""#,
            r#""10.0.0.66""#,
            r#""evil.example""#,
            r#""127.0.0.1""#,
            r#""0.0.0.0""#,
            r#""::""#,
            r#""fe80::1%lo""#,
            r#""[::1]""#,
            r#""10.0.0.1:5432""#,
            r#""10.0.0.1/8""#,
            r#""user@10.0.0.1""#,
            r#"".""#,
            r#""-""#,
            r#""xn--""#,
            r#""\n\u001b[2J""#,
            r#""5432""#,
            r#""0""#,
            r#""-5432""#,
            r#""+5432""#,
            r#""65536""#,
            r#""5432 ""#,
            r#""0x1538""#,
            r#""\uff15\uff14\uff13\uff12""#,
            r#""postgres""#,
            r#""db1""#,
            r#""me""#,
            r#""5s""#,
            r#""0s""#,
            r#""-5s""#,
            r#""1ns""#,
            r#""2562047h47m16.854775807s""#,
            r#""9223372036854775808ns""#,
            r#""1e9s""#,
            r#""0001-01-01T00:00:00Z""#,
            r#""9999-12-31T23:59:60Z""#,
        ]
        .map(str::to_owned),
    );
    all
}

/// A change of the values of a document.
#[derive(Debug, Clone)]
enum ValueChange {
    /// Replaces a value.
    Replace { which: Index, with: Index },
    /// Duplicates a member, perhaps with other letter case.
    Repeat {
        which: Index,
        with: Index,
        shout: bool,
        before: bool,
    },
    /// Removes a value.
    Remove { which: Index },
}

/// A change of the bytes of a document.
#[derive(Debug, Clone)]
enum ByteChange {
    Flip { at: Index, mask: u8 },
    Truncate { at: Index, bytes: usize },
    End { at: Index },
    Copy { from: Index, bytes: usize, to: Index },
    Insert { at: Index, bytes: Vec<u8> },
}

fn value_changes() -> impl Strategy<Value = Vec<ValueChange>> {
    let index = any::<Index>;
    let change = prop_oneof![
        4 => (index(), index()).prop_map(|(which, with)| ValueChange::Replace { which, with }),
        3 => (index(), index(), any::<bool>(), any::<bool>())
            .prop_map(|(which, with, shout, before)| ValueChange::Repeat { which, with, shout, before }),
        1 => index().prop_map(|which| ValueChange::Remove { which }),
    ];
    proptest::collection::vec(change, 0..4)
}

fn byte_changes() -> impl Strategy<Value = Vec<ByteChange>> {
    let index = any::<Index>;
    let scratch = prop_oneof![
        3 => (index(), 1..=u8::MAX).prop_map(|(at, mask)| ByteChange::Flip { at, mask }),
        2 => (index(), 1..40_usize).prop_map(|(at, bytes)| ByteChange::Truncate { at, bytes }),
        1 => index().prop_map(|at| ByteChange::End { at }),
        2 => (index(), 1..400_usize, index()).prop_map(|(from, bytes, to)| ByteChange::Copy { from, bytes, to }),
        2 => (index(), "[ -~]{1,12}").prop_map(|(at, text)| ByteChange::Insert { at, bytes: text.into_bytes() }),
        1 => (index(), proptest::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| ByteChange::Insert { at, bytes }),
    ];
    prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(scratch, 1..3)]
}

/// Returns the pointers (RFC 6901) to all values; those that a route depends on three times, so that they are hit more
/// often.
fn pointers(document: &Value) -> Vec<String> {
    fn collect(value: &Value, path: &str, all: &mut Vec<String>) {
        let matters = ["/proxy", "/dbs", "/formatVersion", "/cluster/spec"];
        let times = if matters.iter().any(|part| path.starts_with(part)) {
            3
        } else {
            1
        };
        all.extend(std::iter::repeat_n(path.to_owned(), times));
        match value {
            Value::Object(members) => members
                .iter()
                .for_each(|(name, value)| collect(value, &format!("{path}/{name}"), all)),
            Value::Array(values) => values
                .iter()
                .enumerate()
                .for_each(|(at, value)| collect(value, &format!("{path}/{at}"), all)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    collect(document, "", &mut all);
    all
}

/// Returns the text of a document after all changes.
fn apply_changes(document: &Value, value_changes: &[ValueChange], byte_changes: &[ByteChange]) -> Vec<u8> {
    let (mut document, invalid_values) = (document.clone(), invalid_values());
    let mut put: Vec<(String, String)> = Vec::new(); // placeholders for texts that a `Value` cannot hold, and those texts
    for (number, change) in value_changes.iter().enumerate() {
        let all = pointers(&document);
        let mark = format!("@{number}@");
        match change {
            ValueChange::Replace { which, with } => {
                *document.pointer_mut(which.get(&all).as_str()).unwrap() = Value::String(mark.clone());
                put.push((format!("{mark:?}"), with.get(&invalid_values).clone()));
            }
            ValueChange::Repeat {
                which,
                with,
                shout,
                before,
            } => {
                let Some((parent, name)) = which.get(&all).rsplit_once('/') else {
                    continue;
                };
                let Some(Value::Object(members)) = document.pointer_mut(parent) else {
                    continue;
                };
                // Members are sorted by name.
                let key = if *before {
                    format!("!{number}")
                } else {
                    format!("|{number}")
                };
                let name = if *shout { name.to_uppercase() } else { name.to_owned() };
                put.push((format!("{key:?}"), format!("{name:?}")));
                put.push((format!("{mark:?}"), with.get(&invalid_values).clone()));
                members.insert(key, Value::String(mark));
            }
            ValueChange::Remove { which } => {
                let Some((parent, name)) = which.get(&all).rsplit_once('/') else {
                    continue;
                };
                if let Some(Value::Object(members)) = document.pointer_mut(parent) {
                    members.remove(name);
                }
            }
        }
    }
    let mut text = document.to_string();
    for (mark, value) in &put {
        text = text.replacen(mark, value, 1);
    }
    let mut bytes = text.into_bytes();
    for scratch in byte_changes {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match scratch {
            ByteChange::Flip { at: place, mask } => {
                let place = at(place);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= mask;
                }
            }
            ByteChange::Truncate {
                at: place,
                bytes: count,
            } => {
                let place = at(place);
                let end = (place + count).min(bytes.len());
                bytes.drain(place..end);
            }
            ByteChange::End { at: place } => {
                let place = at(place);
                bytes.truncate(place);
            }
            ByteChange::Copy { from, bytes: count, to } => {
                let (from, to) = (at(from), at(to));
                let piece = bytes[from..(from + count).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
            ByteChange::Insert { at: place, bytes: new } => {
                let place = at(place);
                bytes.splice(place..place, new.iter().copied());
            }
        }
    }
    bytes
}

/// Returns all members of this name, in any letter case and however often they occur.
fn members<'a>(of: impl IntoIterator<Item = &'a Json>, name: &str) -> Vec<&'a Json> {
    let objects = of.into_iter().filter_map(|value| match value {
        Json::Object(members) => Some(members),
        _ => None,
    });
    let all = objects.flatten();
    all.filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

fn descend<'a>(from: &'a Json, path: &[&str]) -> Vec<&'a Json> {
    path.iter().fold(vec![from], |values, name| members(values, name))
}

fn is_text(value: &Json, wanted: impl Fn(&str) -> bool) -> bool {
    matches!(value, Json::String(text) if wanted(text))
}

/// Whether a document names this db anywhere as the master for the proxy `me`, and contains the db.
fn names_route(document: &Json, db: &str, endpoint: &MasterEndpoint, me: &str) -> bool {
    let proxy = descend(document, &["proxy", "spec"]);
    let dbs = descend(document, &["dbs"]);
    let statuses = members(members(dbs, db), "status");
    let listed = members(proxy.clone(), "enabledProxies");
    let listed = listed.into_iter().flat_map(|list| match list {
        Json::Array(entries) => entries.as_slice(),
        _ => &[],
    });
    members(proxy, "masterDbUid")
        .into_iter()
        .any(|named| is_text(named, |uid| uid == db))
        && members(statuses.clone(), "listenAddress")
            .into_iter()
            .any(|host| is_text(host, |host| host == endpoint.host))
        && members(statuses, "port")
            .into_iter()
            .any(|port| is_text(port, |port| port.parse() == Ok(endpoint.port)))
        && listed.into_iter().any(|entry| is_text(entry, |uid| uid == me))
        && descend(document, &["formatVersion"]).contains(&&Json::Int(1))
}

/// Returns the proxy that a document enables.
fn enabled_proxy(document: &Value) -> String {
    let first = &document["proxy"]["spec"]["enabledProxies"][0];
    first.as_str().unwrap_or("me").to_owned()
}

/// The result of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DecisionKind {
    Unchanged,
    Closed,
    Open,
}

/// Decodes these bytes as a check-in does, and asserts that a route that they open is one that they name.
fn check_bytes(bytes: &[u8], me: &str) -> Result<DecisionKind, TestCaseError> {
    let Ok(stored) = StoredClusterData::parse(Some(bytes)) else {
        return Ok(DecisionKind::Unchanged);
    };
    let endpoint = stored.master_endpoint().map(|(_, endpoint)| endpoint);
    let address = endpoint.as_ref().map(|endpoint| {
        let looked_up = Ipv4Addr::new(10, 9, 8, 7).into();
        SocketAddr::new(endpoint.host.parse().unwrap_or(looked_up), endpoint.port)
    });
    let network = NetworkFacts {
        master: address,
        ..network(None)
    };
    let decision = decide(&stored, &network, &ProxyUid::from(me));
    let Route::Open { db, master } = decision.route else {
        return Ok(DecisionKind::Closed);
    };
    prop_assert_eq!(Some(master), address);
    let document = Json::parse(bytes).unwrap();
    let endpoint = endpoint.unwrap();
    prop_assert!(
        names_route(&document, db.as_str(), &endpoint, me),
        "{} {:?}",
        db,
        endpoint
    );
    let generation = match decision.publish {
        PublishInfo::Must(generation) => i128::from(generation),
        other => return Err(TestCaseError::fail(format!("{other:?}"))),
    };
    let generations = descend(&document, &["proxy", "generation"]);
    prop_assert!(generations.contains(&&Json::Int(generation)) || generation == 0);
    Ok(DecisionKind::Open)
}

#[test]
fn damaged_cluster_data_open_no_route_that_they_do_not_name() {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(asked.unwrap_or(CASES))
    };
    let kinds = [const { Cell::new(0_u32) }; 3];
    let strategy = (any::<Index>(), value_changes(), byte_changes());
    TestRunner::new(config)
        .run(&strategy, |(which, value_changes, byte_changes)| {
            let document = which.get(&DOCUMENTS);
            let route = check_bytes(
                &apply_changes(document, &value_changes, &byte_changes),
                &enabled_proxy(document),
            )?;
            let count = &kinds[route as usize];
            count.set(count.get() + 1);
            Ok(())
        })
        .unwrap();
    println!("unchanged, closed, open: {kinds:?}");
    assert!(
        kinds.iter().all(|count| count.get() > CASES / 50),
        "it proves little: {kinds:?}"
    );
}

#[test]
fn undamaged_cluster_data_open_the_route_that_they_name() {
    let judged: Vec<DecisionKind> = DOCUMENTS
        .iter()
        .map(|document| check_bytes(document.to_string().as_bytes(), &enabled_proxy(document)).unwrap())
        .collect();
    let opened = judged.iter().filter(|kinds| **kinds == DecisionKind::Open).count();
    assert!(opened > DOCUMENTS.len() / 2, "{opened} of {}", DOCUMENTS.len());
    assert!(!judged.contains(&DecisionKind::Unchanged));
}

proptest! {
    /// Arbitrary bytes decode into nothing that opens a route.
    #[test]
    fn arbitrary_bytes_are_no_cluster_data(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_ne!(check_bytes(&bytes, "me")?, DecisionKind::Open);
    }
}
