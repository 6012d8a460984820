//! The planner on damaged documents and infos: it may return an error, but it must return.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::cluster::NOW;
use crate::{Entropy, Memory, Observations, Observed, PlanInput, memory_after_failed_round, plan};
use model::{ClusterData, KeeperInfo, ProxyInfo, Timestamp, from_slice};

const RECORDING: &str = include_str!("../../../../tests/golden/async-failover.store.jsonl");
/// A cluster in steady state: a master, two standbys and a proxy (tests/golden).
const SETTLED: i64 = 143;

#[derive(serde::Deserialize)]
struct Recorded {
    revision: i64,
    key: String,
    value: Option<String>,
}

/// The stored values at that revision that a sentinel reads.
fn settled() -> Vec<(String, String)> {
    let mut values = std::collections::BTreeMap::new();
    for line in RECORDING.lines() {
        let Recorded { revision, key, value } = serde_json::from_str(line).unwrap();
        if revision > SETTLED {
            break;
        }
        let kind = key.split('/').nth(3).unwrap();
        if matches!(kind, "clusterdata" | "keepers" | "proxies") {
            match value {
                Some(value) => drop(values.insert(key, value)),
                None => drop(values.remove(&key)),
            }
        }
    }
    values.into_iter().collect()
}

/// The ranges of the numbers and strings of a JSON document.
fn tokens(text: &str) -> Vec<std::ops::Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'"' => {
                at += bytes[at..].iter().position(|&byte| byte == b'"').unwrap() + 1;
                if bytes.get(at) != Some(&b':') {
                    found.push(start..at);
                }
            }
            b'0'..=b'9' => {
                at += bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                found.push(start..at);
            }
            _ => {}
        }
    }
    found
}

/// Replaces one number or string by another.
fn damage(text: &str, at: Index, number: &str, word: &str) -> String {
    let tokens = tokens(text);
    let token = tokens[at.index(tokens.len())].clone();
    let new = if text.as_bytes()[token.start] == b'"' {
        word
    } else {
        number
    };
    [&text[..token.start], new, &text[token.end..]].concat()
}

/// Plans as a new leader and once again, without writing.
fn plan_twice(values: &[(String, String)]) {
    let mut seen = Observations::default();
    let mut data = None;
    for (key, value) in values {
        let name = key.rsplit('/').next().unwrap();
        match key.split('/').nth(3).unwrap() {
            "clusterdata" => data = ClusterData::parse(value.as_bytes()).ok().flatten(),
            "keepers" => {
                if let Ok(info) = from_slice::<KeeperInfo>(value.as_bytes()) {
                    seen.keepers.insert(info.uid.clone(), observed(name, info));
                }
            }
            _ => {
                if let Ok(info) = from_slice::<ProxyInfo>(value.as_bytes()) {
                    seen.proxies.insert(info.uid.clone(), observed(name, info));
                }
            }
        }
    }
    let Some(Ok(data)) = data.map(ClusterData::check) else {
        return;
    };
    let mut memory = Memory::default();
    let mut made = 0;
    for round in 0..4 {
        let input = PlanInput {
            data: &data,
            observations: &seen,
            memory: &memory,
            leadership: 1,
            now: NOW + Duration::from_secs(30 * round),
            wall: Timestamp::from_unix_nanos(1_700_000_000_000_000_000),
        };
        let mut uid = || {
            made += 1;
            format!("new{made}")
        };
        let fresh = &mut Entropy {
            uid: &mut uid,
            number: u64::MAX,
        };
        memory = plan(&input, fresh).map_or_else(|_| memory_after_failed_round(&input), |plan| plan.memory);
    }
}

fn observed<T>(name: &str, info: T) -> Observed<T> {
    Observed {
        key: name.to_owned(),
        revision: 1,
        age: Duration::ZERO,
        info,
    }
}

fn numbers() -> impl Strategy<Value = &'static str> {
    let extreme = [
        "0",
        "1",
        "-1",
        "65535",
        "4294967295",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
    ];
    select(extreme.to_vec())
}

fn words() -> impl Strategy<Value = String> {
    let of_the_document = settled().into_iter().flat_map(|(_, value)| {
        let words = tokens(&value).into_iter().map(|token| value[token].to_owned());
        words.filter(|word| word.starts_with('"')).collect::<Vec<_>>()
    });
    let extreme = ["\"\"", "\"0s\"", "\"2562047h47m16s\"", "\"9999-12-31T23:59:59Z\""].map(str::to_owned);
    select(extreme.into_iter().chain(of_the_document).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn no_damage_to_stored_values_makes_the_planner_panic(
        hits in proptest::collection::vec((any::<Index>(), any::<Index>(), numbers(), words()), 1..6),
    ) {
        let mut values = settled();
        for (which, at, number, word) in hits {
            // the document is damaged as often as all infos together
            let document = values.iter().position(|(key, _)| key.ends_with("/clusterdata")).unwrap();
            let which = which.index(2 * values.len());
            let (_, value) = &mut values[if which % 2 == 0 { document } else { which / 2 }];
            *value = damage(value, at, number, &word);
        }
        plan_twice(&values);
    }
}
