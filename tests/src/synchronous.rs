//! Who is the synchronous standby of a cluster.

use crate::cluster::Cluster;
use crate::deadlines::LONG_TIMEOUT;
use crate::wait::eventually;

/// Returns the keeper of the standby that is in sync with the master `keeper0`, and the one of the other standby, in a
/// cluster of three keepers.
pub async fn standbys(cluster: &Cluster) -> (String, String) {
    let in_sync = eventually("one standby in sync", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(|error| error.to_string())?;
        let master = data
            .master_uid()
            .and_then(|uid| data.dbs().get(uid))
            .ok_or("no master")?;
        let (wanted, known) = (&master.spec.synchronous_standbys, &master.status.synchronous_standbys);
        match known.as_deref() {
            Some([one]) if wanted == known => Ok(data.dbs()[one].spec.keeper_uid.to_string()),
            other => Err(format!("{other:?} of {wanted:?}")),
        }
    })
    .await;
    let other = if in_sync == "keeper1" { "keeper2" } else { "keeper1" };
    (in_sync, other.to_owned())
}
