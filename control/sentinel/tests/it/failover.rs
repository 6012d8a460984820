//! A request for a failover in the store: read, warned of once when it cannot be decoded, carried out, and deleted
//! (synchronous SY-20). When it is refused is tested with `plan`, on data.

use std::time::Duration;

use model::{ClusterData, FailoverRequest, PostgresState, Timestamp, from_slice, to_compact};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use store::{Revision, Store};

use crate::sentinel::{Scene, a_cluster};

/// Master db1 is silent since long ago, db2 is far behind; its keeper is k2.
fn behind() -> ClusterData {
    let text = a_cluster(r#"{"initMode":"new","sleepInterval":"500ms","failInterval":"2s"}"#);
    let text = text.replace(r#""phase":"initializing""#, r#""phase":"normal","master":"db1""#);
    let mut data: ClusterData = from_slice(text.as_bytes()).unwrap();
    let rest: ClusterData = from_slice(
        br#"{"formatVersion":1,"keepers":{"k1":{"uid":"k1"},"k2":{"uid":"k2"}},
        "dbs":{"db1":{"uid":"db1","generation":1,"spec":{"keeperUID":"k1","role":"master"},
            "status":{"currentGeneration":1,"timelineID":1,"xLogPos":900000000}},
        "db2":{"uid":"db2","generation":1,"spec":{"keeperUID":"k2","role":"standby","followConfig":{"type":"internal","dbuid":"db1"}},
            "status":{"currentGeneration":1,"timelineID":1,"xLogPos":100}}},
        "proxy":{"generation":1,"spec":{"masterDbUid":"db1"}}}"#,
    )
    .unwrap();
    (data.keepers, data.dbs, data.proxy) = (rest.keepers, rest.dbs, rest.proxy);
    data
}

fn request(id: &str, to: &str) -> String {
    to_compact(&FailoverRequest {
        id: id.to_owned(),
        to: to.into(),
        master: "db1".into(),
        accept_data_loss: true,
        requested_at: Timestamp::from_unix_nanos(1),
    })
}

/// Puts a request under a lease, as the command does.
async fn put(store: &Store, value: &str) -> Revision {
    let key = store.keys().failover_request();
    store.put_leased(&key, value, Duration::from_secs(60)).await.unwrap();
    store.get(&key).await.unwrap().unwrap().mod_revision
}

#[tokio::test]
async fn a_request_for_a_failover_is_carried_out_and_deleted() {
    let mut scene = Scene::new().await;
    scene.put_data(&to_compact(&behind())).await;
    let keys = scene.store.keys().clone();
    scene.store.put(&keys.liveness_key("k2"), "boot").await.unwrap();
    let sentinel = scene.sentinel(&[]);
    sentinel
        .wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT)
        .await;
    scene
        .publish("k2", |info| {
            info.liveness_key = true;
            info.postgres_state = Some(PostgresState {
                uid: "db2".into(),
                generation: 1,
                healthy: true,
                timeline_id: 1,
                xlog_pos: model::Lsn(100),
                ..PostgresState::default()
            });
        })
        .await;
    sentinel.wait_for_log("no eligible masters", SHORT_TIMEOUT).await;

    put(&scene.store, "{garbage").await;
    let undecodable = "ignoring the request of an operator";
    sentinel.wait_for_log(undecodable, SHORT_TIMEOUT).await;
    let refused = put(&scene.store, &request("r1", "k1")).await;
    sentinel
        .wait_for_log("ignoring an operator's request for a failover", SHORT_TIMEOUT)
        .await;
    let kept = scene.store.get(&keys.failover_request()).await.unwrap();
    assert_eq!(kept.map(|entry| entry.mod_revision), Some(refused));

    put(&scene.store, &request("r2", "k2")).await;
    let data = eventually("db2 to be elected", SHORT_TIMEOUT, async || {
        let (data, _) = scene.data().await?;
        let is_elected = data.master_uid().is_some_and(|master| master.as_str() == "db2");
        if is_elected {
            Ok(data)
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    assert!(data.proxied_master().is_none());
    assert_eq!(scene.store.get(&keys.failover_request()).await.unwrap(), None);
    let log = sentinel.log();
    assert_eq!(log.matches(undecodable).count(), 1, "{log}");
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(
        at("closing proxies before electing the db that an operator asked for")
            < at("electing the db that an operator asked for: what it lacks is lost"),
        "{log}"
    );
}
