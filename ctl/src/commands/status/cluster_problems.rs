//! Problems of the cluster as a whole, which no keeper reports: commits that wait for missing standbys, a failed master
//! that nobody replaces, a keeper that the initialisation waits for. Computed from the cluster data alone.

use model::{ClusterData, Db, DbUid, InitMode, Phase, Problem, Spec};

/// Returns the problem of the cluster, if there is one.
pub(super) fn cluster_problem(data: &ClusterData, spec: &Spec) -> Option<Problem> {
    let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
    let phase = data.cluster.as_ref().map(|cluster| &cluster.status.phase);
    match (phase, master) {
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

fn master_failed(master: &Db) -> Problem {
    let text = format!(
        "the master, that of {}, is not healthy, and no other db has been elected",
        master.spec.keeper_uid
    );
    let remedy = "a standby is elected after failInterval, if none of the commits is known to be missing from it (without \
                  synchronous replication: at most maxStandbyLag of WAL). Otherwise bring this keeper back, or elect a \
                  standby that may lack data: `stolonctl failover --to KEEPER --accept-data-loss`. The log of the leading \
                  sentinel says why a db is not elected";
    Problem::new("election", &text, remedy)
}

/// Returns the problem of a master whose commits wait for standbys that do not confirm them (synchronous SY-18).
fn commits_wait(data: &ClusterData, spec: &Spec, master: &Db) -> Option<Problem> {
    if !master.spec.synchronous_replication {
        return None;
    }
    let wanted: Vec<&DbUid> = master.spec.synchronous_standbys.iter().flatten().collect();
    let is_lost = |uid: &&&DbUid| data.dbs().get(**uid).is_none_or(|db| !is_healthy(data, db));
    let lost: Vec<String> = wanted.iter().filter(is_lost).map(|uid| name(data, uid)).collect();
    // A placeholder is in the set while it has too few members.
    let has_placeholder = master
        .spec
        .external_synchronous_standbys
        .iter()
        .flatten()
        .next()
        .is_some();
    let mut parts = Vec::new();
    if !lost.is_empty() {
        parts.push(format!("not healthy: {}", lost.join(", ")));
    }
    if has_placeholder {
        let (has, min) = (wanted.len(), spec.min_synchronous_standbys);
        parts.push(format!("minSynchronousStandbys is {min}, and {has} can be waited for"));
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
