//! The synchronous standbys of a cluster: which ones commits wait for, and which ones are known to be in sync.

use model::{ClusterData, DbUid};

use crate::cluster::{Cluster, check, db_of, error_text};
use crate::deadlines::LONG_TIMEOUT;
use crate::spec::wait_parameter_is;
use crate::wait::eventually;

/// The parameter that names the standbys.
pub const NAMES: &str = "synchronous_standby_names";

/// Returns the keeper of the standby that is in sync with the master `keeper0`, and the one of the other standby, in a
/// cluster of three keepers.
pub async fn standbys(cluster: &Cluster) -> (String, String) {
    let in_sync = eventually("one standby in sync", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let (wanted, known) = sets(&data)?;
        match known.as_slice() {
            [one] if wanted == known => Ok(data.dbs()[one].spec.keeper_uid.to_string()),
            other => Err(format!("{other:?} of {wanted:?}")),
        }
    })
    .await;
    let other = if in_sync == "keeper1" { "keeper2" } else { "keeper1" };
    (in_sync, other.to_owned())
}

/// Waits until commits on `keeper0` wait for exactly the standbys of these keepers, and all of them are known to be in
/// sync.
pub async fn wait_in_sync(cluster: &Cluster, keepers: &[&str]) {
    let dbs = wait_sets(cluster, keepers, keepers).await;
    wait_parameter_is(cluster, "keeper0", NAMES, &names(&dbs)).await;
}

/// Waits until the standbys of `wanted` are the ones that the master's commits are to wait for, and those of `known` the
/// ones known to be in sync; returns the wanted dbs.
pub async fn wait_sets(cluster: &Cluster, wanted: &[&str], known: &[&str]) -> Vec<DbUid> {
    eventually(
        format!("synchronous standbys {wanted:?}, of which {known:?} are in sync"),
        LONG_TIMEOUT,
        async || check_sets(&cluster.data().await.map_err(error_text)?, wanted, known),
    )
    .await
}

/// Returns the dbs of `wanted` if they are the standbys that the master's commits are to wait for, and those of `known`
/// the ones known to be in sync.
///
/// # Errors
///
/// They are not.
pub fn check_sets(data: &ClusterData, wanted: &[&str], known: &[&str]) -> Result<Vec<DbUid>, String> {
    let dbs_of = |keepers: &[&str]| {
        let dbs = keepers.iter().map(|keeper| Ok(db_of(data, keeper)?.0.clone()));
        let mut dbs: Vec<DbUid> = dbs.collect::<anyhow::Result<_>>().map_err(error_text)?;
        dbs.sort();
        Ok::<_, String>(dbs)
    };
    let (wanted, known) = (dbs_of(wanted)?, dbs_of(known)?);
    let found = sets(data)?;
    check(found == (wanted.clone(), known), || {
        format!("{:?}, of which {:?} are in sync", found.0, found.1)
    })?;
    Ok(wanted)
}

/// Returns the value of [`NAMES`] on a master that waits for all of these.
pub fn names(dbs: &[DbUid]) -> String {
    let names: Vec<String> = dbs.iter().map(|uid| format!("stolon_{uid}")).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        all => format!("{} ({})", all.len(), all.join(",")),
    }
}

/// Returns the sorted standbys that the master's commits are to wait for, and those known to be in sync.
fn sets(data: &ClusterData) -> Result<(Vec<DbUid>, Vec<DbUid>), String> {
    let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
    let master = master.ok_or("no master")?;
    let sorted = |set: &Option<Vec<DbUid>>| {
        let mut set = set.clone().unwrap_or_default();
        set.sort();
        set
    };
    Ok((
        sorted(&master.spec.synchronous_standbys),
        sorted(&master.status.synchronous_standbys),
    ))
}
