use serde_json::{Value, json};

use super::*;

/// A cluster of the keepers k1 (master), k2 and k3, all healthy, with this spec and these standbys that commits wait for.
fn cluster(spec: Value, wanted: &[&str], placeholders: &[&str]) -> Value {
    let keeper = json!({ "status": { "healthy": true } });
    let db = |number: u32| {
        let mut spec = json!({ "keeperUID": format!("k{number}"), "role": "master" });
        if number > 1 {
            spec["role"] = "standby".into();
            spec["followConfig"] = json!({ "type": "internal", "dbuid": "d1" });
        }
        json!({ "spec": spec, "status": { "healthy": true } })
    };
    let mut data = json!({
        "formatVersion": 1,
        "cluster": { "uid": "c", "spec": spec, "status": { "phase": "normal", "master": "d1" } },
        "keepers": { "k1": keeper, "k2": keeper, "k3": keeper },
        "dbs": { "d1": db(1), "d2": db(2), "d3": db(3) },
    });
    let master = &mut data["dbs"]["d1"]["spec"];
    master["synchronousReplication"] = (!wanted.is_empty() || !placeholders.is_empty()).into();
    master["synchronousStandbys"] = json!(wanted);
    master["externalSynchronousStandbys"] = json!(placeholders);
    data
}

fn synchronous(min: u16) -> Value {
    json!({ "initMode": "new", "synchronousReplication": true, "minSynchronousStandbys": min, "maxSynchronousStandbys": 9 })
}

/// Returns the kind and the text of the problem; empty without one.
fn shown(data: &Value) -> String {
    let data = ClusterData::parse(data.to_string().as_bytes()).unwrap().unwrap();
    let checked = data.check().unwrap();
    cluster_problem(&checked.data, &checked.spec, true).map_or_else(String::new, |problem| {
        assert!(!problem.remedy.is_empty());
        format!("{}: {}", problem.kind, problem.text)
    })
}

#[test]
fn a_healthy_cluster_has_no_problem() {
    assert_eq!(shown(&cluster(json!({ "initMode": "new" }), &[], &[])), "");
    assert_eq!(shown(&cluster(synchronous(2), &["d2", "d3"], &[])), "");
    // an asynchronous master waits for nothing
    let mut asynchronous = cluster(json!({ "initMode": "new" }), &[], &["elsewhere"]);
    asynchronous["dbs"]["d1"]["spec"]["synchronousReplication"] = false.into();
    asynchronous["dbs"]["d2"]["status"]["healthy"] = false.into();
    assert_eq!(shown(&asynchronous), "");
}

#[test]
fn commits_that_wait_for_missing_standbys_are_a_problem() {
    let wait = "replication: commits wait for synchronous standbys that are missing: ";
    let mut unhealthy = cluster(synchronous(1), &["d2"], &[]);
    unhealthy["dbs"]["d2"]["status"]["healthy"] = false.into();
    assert_eq!(shown(&unhealthy), format!("{wait}not healthy: k2"));
    // a former master that took the place of the elected one
    let mut former = cluster(synchronous(1), &["d2"], &[]);
    former["dbs"]["d2"]["spec"]["role"] = "master".into();
    assert_eq!(shown(&former), format!("{wait}not healthy: k2"));
    let gone = cluster(synchronous(1), &["d9"], &[]);
    assert_eq!(shown(&gone), format!("{wait}not healthy: d9"));
    let too_few = cluster(synchronous(3), &["d2", "d3"], &["stolonfakestandby"]);
    let count = "minSynchronousStandbys is 3, but the set has 2";
    assert_eq!(shown(&too_few), format!("{wait}{count}"));
    let mut both = too_few;
    both["dbs"]["d3"]["status"]["healthy"] = false.into();
    assert_eq!(shown(&both), format!("{wait}not healthy: k3; {count}"));
    // lowered just now
    assert_eq!(
        shown(&cluster(synchronous(2), &["d2", "d3"], &["stolonfakestandby"])),
        ""
    );
}

#[test]
fn a_failed_master_that_nobody_replaces_is_a_problem() {
    let expected = "election: the master (keeper k1) is not healthy";
    for (part, of) in [("keepers", "k1"), ("dbs", "d1")] {
        let mut data = cluster(synchronous(1), &["d9"], &[]);
        data[part][of]["status"]["healthy"] = false.into();
        assert_eq!(shown(&data), expected, "the failed master takes precedence");
        data["cluster"]["status"]["phase"] = "initializing".into();
        assert_eq!(shown(&data), "");
    }
}

#[test]
fn a_keeper_that_the_initialisation_waits_for_is_a_problem() {
    let spec = json!({ "initMode": "existing", "existingConfig": { "keeperUID": "k9" } });
    let mut data = cluster(spec, &[], &[]);
    data["cluster"]["status"] = json!({ "phase": "initializing" });
    data["dbs"] = json!({});
    let expected = "initialisation: the cluster is to take over the data of keeper k9, which has not registered";
    assert_eq!(shown(&data), expected);
    data["keepers"]["k9"] = json!({});
    assert_eq!(shown(&data), "");
    // other modes take any keeper
    data["cluster"]["spec"] = json!({ "initMode": "new" });
    data["keepers"] = json!({});
    assert_eq!(shown(&data), "");
}

#[test]
fn without_a_leading_sentinel_what_is_shown_may_be_old() {
    let data = cluster(json!({ "initMode": "new" }), &[], &[]);
    let data = ClusterData::parse(data.to_string().as_bytes()).unwrap().unwrap();
    let checked = data.check().unwrap();
    let problem = cluster_problem(&checked.data, &checked.spec, false).unwrap();
    assert!(problem.text.contains("no sentinel leads") && problem.remedy.contains("start a stolon-sentinel"));
    assert_eq!(cluster_problem(&checked.data, &checked.spec, true), None);
}
