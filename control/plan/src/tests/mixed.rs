//! Synchronous clusters in which keepers are those of Go stolon, or a sentinel of Go stolon may take over (sentinel 19): what
//! is acknowledged is kept, and what is stored has no field that such a sentinel would drop.

use std::collections::BTreeSet;

use serde_json::Value;

use super::golden::RECORDINGS;
use super::simulation::{Event, FAIL, MINUTE, SLEEP, Simulation, TICK};

/// Adds the paths of all fields; uids and names of parameters are `*`.
fn add_fields(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            let is_map = ["keepers", "dbs", "pgParameters"].contains(&path.rsplit('.').next().unwrap_or_default());
            for (name, member) in members {
                let path = format!("{path}.{}", if is_map { "*" } else { name });
                add_fields(member, &path, fields);
                fields.insert(path);
            }
        }
        Value::Array(members) => members.iter().for_each(|member| add_fields(member, path, fields)),
        _ => {}
    }
}

/// A settled cluster of three keepers, of which those in `old` are of Go stolon.
fn settled(old: &[usize]) -> Simulation {
    let mut simulation = Simulation::new(3, old, 2);
    simulation.until_steady();
    simulation
}

fn recorded_fields() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for line in RECORDINGS.iter().flat_map(|recording| recording.lines()) {
        let line: Value = serde_json::from_str(line).unwrap();
        if let (Some(key), Some(value)) = (line["key"].as_str(), line["value"].as_str())
            && key.ends_with("/clusterdata")
        {
            add_fields(&serde_json::from_str(value).unwrap(), "", &mut fields);
        }
    }
    fields
}

#[test]
fn a_synchronous_cluster_stores_only_fields_that_go_stolon_keeps() {
    let known = recorded_fields();
    let mut stored = BTreeSet::new();
    let mut simulation = settled(&[]);
    simulation.apply(&Event::Synchronous(1, 2));
    let events = [
        Event::Wait(100),
        Event::KillMaster,
        Event::Wait(600),
        Event::StartKeeper(0),
        Event::StartKeeper(1),
        Event::StartKeeper(2),
        Event::Wait(300),
        // there is no keeper 3: to any
        Event::Switchover(3),
        Event::Wait(300),
    ];
    for event in events {
        simulation.apply(&event);
        add_fields(&serde_json::to_value(simulation.data()).unwrap(), "", &mut stored);
    }
    let unknown: Vec<&String> = stored.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for path in [
        ".dbs.*.spec.synchronousStandbys",
        ".dbs.*.status.synchronousStandbys",
        ".dbs.*.spec.followConfig.dbuid",
    ] {
        assert!(stored.contains(path), "{path} of {stored:?}");
    }
}

#[test]
fn no_keeper_of_go_stolon_makes_a_synchronous_cluster_lose_what_was_acknowledged() {
    for old in [&[0][..], &[1], &[1, 2], &[0, 1, 2]] {
        let mut simulation = settled(old);
        simulation.apply(&Event::Synchronous(1, 1));
        simulation.apply(&Event::Wait(100));
        for _ in 0..3 {
            let master = simulation.master().unwrap();
            let in_sync = simulation.in_sync();
            assert_eq!(in_sync.len(), 1, "{old:?}");
            let others = (0..3).filter(|index| !in_sync.contains(index) && *index != master);
            others.for_each(|index| simulation.apply(&Event::Lag(index)));
            simulation.apply(&Event::Write(1_000));
            simulation.apply(&Event::Wait(10));
            simulation.apply(&Event::KillKeeper(master));
            let elected = simulation.until(MINUTE, |simulation| simulation.master() == Some(in_sync[0]));
            assert!(
                elected.is_some_and(|elected| elected >= FAIL && elected <= SLEEP + FAIL + 3 * TICK),
                "{old:?}: {elected:?}"
            );
            (0..3).for_each(|index| simulation.apply(&Event::CatchUp(index)));
            simulation.apply(&Event::StartKeeper(master));
            let repaired = simulation.until(2 * MINUTE, |simulation| {
                simulation.serves() && simulation.good_dbs() == 3 && simulation.in_sync().len() == 1
            });
            assert!(repaired.is_some(), "{old:?}: {:#?}", simulation.last());
            assert!(simulation.broken().is_empty(), "{old:?}: {:?}", simulation.broken());
        }
    }
}
