//! Every value recorded from Go stolon is read and written back byte for byte.

use super::*;

const RECORDINGS: [(&str, &str); 3] = [
    (
        "async-failover",
        include_str!("../../../../tests/golden/async-failover.store.jsonl"),
    ),
    ("sync", include_str!("../../../../tests/golden/sync.store.jsonl")),
    (
        "standby-cluster",
        include_str!("../../../../tests/golden/standby-cluster.store.jsonl"),
    ),
];
pub(super) const WORKED_EXAMPLE: &str = include_str!("../../../../tests/golden/worked-example.json");

#[derive(serde::Deserialize)]
struct Recorded {
    revision: u64,
    key: String,
    value: Option<String>,
}

fn rewritten<T: serde::Serialize + serde::de::DeserializeOwned>(value: &str) -> Result<String, JsonError> {
    Ok(to_compact(&from_slice::<T>(value.as_bytes())?))
}

#[test]
fn every_recorded_value_is_written_back_byte_for_byte() {
    let mut seen = [0usize; 4];
    for (scenario, text) in RECORDINGS {
        for line in text.lines() {
            let Recorded { revision, key, value } = serde_json::from_str(line).unwrap();
            let Some(value) = value else { continue };
            let (kind, written) = match key.split('/').nth(3).unwrap() {
                "clusterdata" => (0, rewritten::<ClusterData>(&value)),
                "keepers" => (1, rewritten::<KeeperInfo>(&value)),
                "proxies" => (2, rewritten::<ProxyInfo>(&value)),
                "sentinels" => (3, rewritten::<SentinelInfo>(&value)),
                "sentinel-leader" => continue,
                other => panic!("{scenario} revision {revision}: unknown key {other}"),
            };
            assert_eq!(
                written.as_deref(),
                Ok(value.as_str()),
                "{scenario} revision {revision} {key}"
            );
            seen[kind] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 2), "{seen:?}");
}

#[test]
fn every_recorded_cluster_data_passes_the_check_of_readers() {
    for (scenario, text) in RECORDINGS {
        for line in text.lines() {
            let Recorded { revision, key, value } = serde_json::from_str(line).unwrap();
            if let (true, Some(value)) = (key.ends_with("/clusterdata"), value) {
                let data = ClusterData::parse(value.as_bytes()).unwrap().unwrap();
                data.check()
                    .unwrap_or_else(|error| panic!("{scenario} revision {revision}: {error}"));
            }
        }
    }
}

#[test]
fn the_worked_example_keeps_its_bytes_in_both_forms() {
    let data: ClusterData = from_slice(WORKED_EXAMPLE.as_bytes()).unwrap();
    assert_eq!(to_pretty(&data), WORKED_EXAMPLE.trim_end());
    let compact = to_compact(&data);
    assert_eq!(compact.len(), 3462); // data-model 11
    assert_eq!(rewritten::<ClusterData>(&compact), Ok(compact.clone()));
}
