//! Changes of a cluster's spec, and their arrival at its servers.

use serde_json::Value;
use store::Txn;

use crate::cluster::{Cluster, check};
use crate::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use crate::wait::eventually;

/// Patches the spec with stolonctl.
///
/// # Panics
///
/// It is refused.
pub async fn update(cluster: &Cluster, patch: &Value) {
    let (status, output) = cluster.stolonctl(&["update", "--patch", &patch.to_string()]).await;
    assert_eq!((status, output.as_str()), (0, ""), "stolonctl update --patch {patch}");
}

/// Changes the stored spec without the checks of our programs.
pub async fn store_spec(cluster: &Cluster, change: impl Fn(&mut Value)) {
    store_data(cluster, |data| change(&mut data["cluster"]["spec"])).await;
}

/// Changes the stored cluster data without the checks of our programs.
pub async fn store_data(cluster: &Cluster, change: impl Fn(&mut Value)) {
    let key = cluster.store.keys().cluster_data();
    eventually("the changed cluster data to be stored", SHORT_TIMEOUT, async || {
        let entry = cluster
            .store
            .get(&key)
            .await
            .map_err(|error| error.to_string())?
            .ok_or("no data")?;
        let mut data: Value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
        change(&mut data);
        let write = Txn::new()
            .if_unchanged(&key, entry.mod_revision)
            .put(&key, data.to_string());
        let written = cluster.store.commit(write).await.map_err(|error| error.to_string())?;
        check(written.committed().is_some(), || "another program wrote".to_owned())
    })
    .await;
}

/// Waits until a keeper's server has this value of a parameter.
pub async fn wait_parameter_is(cluster: &Cluster, uid: &str, parameter: &str, wanted: &str) {
    wait_query_returns(cluster, uid, &format!("show {parameter}"), wanted).await;
}

/// Waits until a keeper's server returns this value for a query.
pub async fn wait_query_returns(cluster: &Cluster, uid: &str, question: &str, wanted: &str) {
    eventually(
        format!("{question} on {uid} to be {wanted}"),
        LONG_TIMEOUT,
        async || {
            let value = cluster.query(uid, question).await?;
            check(value == wanted, || value)
        },
    )
    .await;
}
