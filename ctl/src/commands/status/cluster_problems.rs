//! Problems of the cluster as a whole, which no keeper reports: commits that wait for missing standbys, a failed master
//! that nobody replaces, a keeper that the initialisation waits for, no leading sentinel. Computed from the cluster data and
//! whether there is a leader.

use model::{ClusterData, Db, DbUid, InitMode, Phase, Problem, Spec};

/// Returns the problem of the cluster, if there is one. At most one is shown: what comes later follows from the earlier.
/// Without a leading sentinel the cluster data may be old.
pub(super) fn cluster_problem(data: &ClusterData, spec: &Spec, has_leader: bool) -> Option<Problem> {
    let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
    let phase = data.cluster.as_ref().map(|cluster| &cluster.status.phase);
    match (phase, master) {
        (_, Some(_)) if !has_leader => Some(no_leader()),
        (Some(Phase::Normal), Some(master)) if !is_healthy(data, master) => Some(master_failed(master)),
        (Some(Phase::Normal), Some(master)) => commits_wait(data, spec, master),
        (Some(Phase::Initializing), None) => missing_keeper(data, spec),
        _ => None,
    }
}

fn is_healthy(data: &ClusterData, db: &Db) -> bool {
    let keeper = data.keepers().get(&db.spec.keeper_uid);
    db.status.healthy && keeper.is_some_and(|keeper| keeper.status.healthy)
}

fn no_leader() -> Problem {
    let text =
        "no sentinel leads: what is shown of keepers and PostgreSQL may be old, and nothing is replaced that fails";
    let remedy =
        "start a stolon-sentinel with this cluster name and store; one that runs takes the leadership within seconds";
    Problem::new("election", text, remedy)
}

fn master_failed(master: &Db) -> Problem {
    let text = format!("the master (keeper {}) is not healthy", master.spec.keeper_uid);
    let remedy = "wait: its keeper starts it, or after failInterval a standby is elected that has all commits (asynchronous: \
                  that lacks at most maxStandbyLag). If neither happens, start this keeper, or accept data loss: `stolonctl \
                  failover --to KEEPER --accept-data-loss`. The leading sentinel's log names the reason for each db";
    Problem::new("election", &text, remedy)
}

/// Returns the problem of a master whose commits wait for missing standbys (synchronous SY-18).
fn commits_wait(data: &ClusterData, spec: &Spec, master: &Db) -> Option<Problem> {
    if !master.spec.synchronous_replication {
        return None;
    }
    let missing: Vec<String> = data
        .lost_synchronous_standbys(master)
        .into_iter()
        .map(|uid| name(data, uid))
        .collect();
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("not healthy: {}", missing.join(", ")));
    }
    // The placeholder is in the set while it has too few members; it stays for a moment when the minimum is lowered.
    let has_placeholder = master
        .spec
        .external_synchronous_standbys
        .iter()
        .flatten()
        .next()
        .is_some();
    let (members, min) = (
        master.spec.synchronous_standbys.iter().flatten().count(),
        usize::from(spec.min_synchronous_standbys),
    );
    if has_placeholder && members < min {
        parts.push(format!("minSynchronousStandbys is {min}, but the set has {members}"));
    }
    (!parts.is_empty()).then(|| {
        let text = format!(
            "commits wait for synchronous standbys that are missing: {}",
            parts.join("; ")
        );
        let remedy = "start their keepers, add a keeper, or lower minSynchronousStandbys (`stolonctl update --patch`)";
        Problem::new("replication", &text, remedy)
    })
}

/// Returns how a synchronous standby is shown: by its keeper, if the db is known.
fn name(data: &ClusterData, uid: &DbUid) -> String {
    data.dbs()
        .get(uid)
        .map_or_else(|| uid.to_string(), |db| db.spec.keeper_uid.to_string())
}

/// Returns the problem of an initialisation with the data of a keeper that is not there.
fn missing_keeper(data: &ClusterData, spec: &Spec) -> Option<Problem> {
    let keeper = &spec.existing_config.as_ref()?.keeper_uid;
    let is_missing = spec.init_mode == InitMode::Existing && !data.keepers().contains_key(keeper);
    is_missing.then(|| {
        let text = format!("the cluster is to take over the data of keeper {keeper}, which has not registered");
        let remedy = "start this keeper with this cluster name and store, or name another one with `stolonctl init`";
        Problem::new("initialisation", &text, remedy)
    })
}

#[cfg(test)]
mod tests;
