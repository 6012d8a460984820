//! The planner on recordings of Go stolon: each recorded cluster data with the infos around it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::NOW;
use crate::propagate::without_routine_changes;
use crate::{
    Entropy, Memory, Observations, Observed, Plan, PlanError, PlanInput, Urgency, memory_after_failed_round, plan,
};
use model::{CheckedClusterData, ClusterData, KeeperInfo, Phase, ProxyInfo, Timestamp, from_slice};

const ASYNC: &str = include_str!("../../../../tests/golden/async-failover.store.jsonl");
const SYNC: &str = include_str!("../../../../tests/golden/sync.store.jsonl");
const STANDBY: &str = include_str!("../../../../tests/golden/standby-cluster.store.jsonl");

pub(super) const RECORDINGS: [&str; 3] = [ASYNC, SYNC, STANDBY];

#[derive(serde::Deserialize)]
struct Recorded {
    revision: i64,
    key: String,
    value: Option<String>,
}

/// An info as it was just read.
fn observed<T>(key: &str, revision: i64, info: T) -> Observed<T> {
    Observed {
        key: key.to_owned(),
        revision,
        age: Duration::ZERO,
        info,
    }
}

/// Replays a recording as a leader would read it, and plans at every cluster data in it.
fn follow(recording: &str, mut each: impl FnMut(i64, &CheckedClusterData, Result<Plan, PlanError>)) {
    let mut memory = Memory::default();
    let mut seen = Observations::default();
    let mut began: Option<Timestamp> = None;
    let mut number = 0;
    for line in recording.lines() {
        let Recorded { revision, key, value } = serde_json::from_str(line).unwrap();
        let name = key.rsplit('/').next().unwrap().to_owned();
        match (key.split('/').nth(3).unwrap(), value) {
            ("keepers", Some(value)) => {
                let info: KeeperInfo = from_slice(value.as_bytes()).unwrap();
                seen.keepers.insert(info.uid.clone(), observed(&name, revision, info));
            }
            ("keepers", None) => drop(seen.keepers.remove(name.as_str())),
            ("proxies", Some(value)) => {
                let info: ProxyInfo = from_slice(value.as_bytes()).unwrap();
                seen.proxies.insert(info.uid.clone(), observed(&name, revision, info));
            }
            ("proxies", None) => drop(seen.proxies.remove(name.as_str())),
            ("clusterdata", Some(value)) => {
                let data = ClusterData::parse(value.as_bytes()).unwrap().unwrap().check().unwrap();
                let wall = data.data.change_time;
                if !wall.is_zero() {
                    began.get_or_insert(wall);
                }
                let now = NOW + began.map_or(Duration::ZERO, |began| wall.since(began));
                let input = PlanInput {
                    data: &data,
                    observations: &seen,
                    memory: &memory,
                    leadership: 1,
                    now,
                    wall,
                };
                let mut uid = || {
                    number += 1;
                    format!("new{number}")
                };
                let plan = plan(
                    &input,
                    &mut Entropy {
                        uid: &mut uid,
                        number: 0,
                    },
                );
                let next = match &plan {
                    Ok(plan) => plan.memory.clone(),
                    Err(_) => memory_after_failed_round(&input),
                };
                memory = next;
                each(revision, &data, plan);
            }
            _ => {}
        }
    }
}

#[test]
fn no_plan_over_an_asynchronous_recording_breaks_an_invariant() {
    let mut plans = 0;
    follow(ASYNC, |revision, _, plan| match plan {
        Ok(_) => plans += 1,
        Err(PlanError::NoKeepers) => {}
        Err(refusal) => panic!("revision {revision}: {refusal}"),
    });
    assert!(plans > 50, "{plans}");
}

#[test]
fn a_steady_state_of_go_stolon_is_left_unchanged() {
    let mut documents: BTreeMap<i64, (ClusterData, Result<Plan, PlanError>)> = BTreeMap::new();
    follow(ASYNC, |revision, data, plan| {
        documents.insert(revision, (data.data.clone(), plan));
    });
    let documents: Vec<_> = documents.into_iter().collect();
    let mut settled = 0;
    for around in documents.windows(3) {
        let (revision, (data, plan)) = &around[1];
        let same = around
            .iter()
            .all(|(_, (other, _))| without_routine_changes(other) == without_routine_changes(data));
        let healthy = data.dbs().values().all(|db| db.status.healthy && db.is_converged());
        let normal = data
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.status.phase == Phase::Normal);
        let Ok(plan) = plan else { continue };
        if !(same && healthy && normal) {
            continue;
        }
        settled += 1;
        assert_eq!(plan.urgency, Urgency::Periodic, "revision {revision}: {:?}", plan.notes);
    }
    assert!(settled > 5, "{settled}");
}

#[test]
fn no_plan_over_a_synchronous_recording_breaks_an_invariant() {
    let mut plans = 0;
    follow(SYNC, |revision, _, plan| match plan {
        Ok(_) => plans += 1,
        Err(PlanError::NoKeepers) => {}
        Err(refusal) => panic!("revision {revision}: {refusal}"),
    });
    assert!(plans > 20, "{plans}");
}

#[test]
fn no_plan_over_the_recording_of_a_standby_cluster_breaks_an_invariant() {
    let mut plans = 0;
    follow(STANDBY, |revision, _, plan| match plan {
        Ok(_) => plans += 1,
        Err(PlanError::NoKeepers) => {}
        Err(refusal) => panic!("revision {revision}: {refusal}"),
    });
    assert!(plans > 20, "{plans}");
}
