//! A switchover in the store: the orders and their lease, what the leader publishes, and what it deletes (extensions X-2).
//! What is decided when is tested with `plan`, on data; keepers are played by the test.

use std::time::Duration;

use model::{
    ClusterData, KeeperInfo, KeeperOrder, OrderKind, PostgresState, SentinelInfo, Stopped, SwitchoverReport,
    SwitchoverRequest, SwitchoverState, Timestamp, from_slice, to_compact,
};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use store::Entry;

use crate::sentinel::{Scene, a_cluster};

/// Master db1 and its standby db2, announced.
fn replicated() -> ClusterData {
    let text = a_cluster(r#"{"initMode":"new","sleepInterval":"500ms","failInterval":"6s"}"#);
    let text = text.replace(r#""phase":"initializing""#, r#""phase":"normal","master":"db1""#);
    let mut data: ClusterData = from_slice(text.as_bytes()).unwrap();
    let rest: ClusterData = from_slice(
        br#"{"formatVersion":1,"keepers":{"k1":{"uid":"k1","status":{"healthy":true,"bootUUID":"boot"}},
        "k2":{"uid":"k2","status":{"healthy":true,"bootUUID":"boot"}}},
        "dbs":{"db1":{"uid":"db1","generation":1,"spec":{"keeperUID":"k1","role":"master","followers":["db2"]},
            "status":{"healthy":true,"currentGeneration":1,"timelineID":1,"xLogPos":900}},
        "db2":{"uid":"db2","generation":1,"spec":{"keeperUID":"k2","role":"standby","followConfig":{"type":"internal","dbuid":"db1"}},
            "status":{"healthy":true,"currentGeneration":1,"timelineID":1,"xLogPos":900}}},
        "proxy":{"generation":1,"spec":{"masterDbUid":"db1"}}}"#,
    )
    .unwrap();
    (data.keepers, data.dbs, data.proxy) = (rest.keepers, rest.dbs, rest.proxy);
    data
}

impl Scene {
    /// Publishes the infos of both keepers, as they report their dbs now.
    async fn publish_both(&self, of_master: impl Fn(&mut KeeperInfo), received: u64) {
        let (data, _) = self.data().await.unwrap();
        for (keeper, db) in [("k1", "db1"), ("k2", "db2")] {
            let generation = data.dbs()[db].generation;
            self.publish(keeper, |info| {
                (info.liveness_key, info.orders) = (true, true);
                info.postgres_state = Some(PostgresState {
                    uid: db.into(),
                    generation,
                    healthy: true,
                    timeline_id: 1,
                    xlog_pos: model::Lsn(if db == "db1" { 900 } else { received }),
                    ..PostgresState::default()
                });
                if db == "db1" {
                    of_master(info);
                }
            })
            .await;
        }
    }

    async fn ask(&self, to: &str) {
        let request = SwitchoverRequest {
            id: "s1".to_owned(),
            to: Some(to.into()),
            requested_at: Timestamp::from_unix_nanos(1),
        };
        let minute = Duration::from_secs(60);
        let key = self.store.keys().switchover();
        self.store.put_leased(&key, to_compact(&request), minute).await.unwrap();
    }

    /// Waits until the keeper of the master has this order, and returns its key.
    async fn ordered(&self, wanted: OrderKind) -> Entry {
        let key = self.store.keys().order("k1");
        eventually("the order", SHORT_TIMEOUT, async || {
            let entry = self.store.get(&key).await.map_err(|error| error.to_string())?;
            let entry = entry.ok_or("no order")?;
            let order: KeeperOrder = from_slice(&entry.value).map_err(|error| error.to_string())?;
            assert_eq!((order.switchover.as_str(), order.db.as_str()), ("s1", "db1"));
            if order.order == wanted {
                Ok(entry)
            } else {
                Err(format!("{order:?}"))
            }
        })
        .await
    }

    /// Waits until the sentinel publishes this about the switchover.
    async fn reported(&self, state: SwitchoverState) -> SwitchoverReport {
        let infos = self.store.keys().sentinel_infos();
        eventually("the report", SHORT_TIMEOUT, async || {
            let entries = self.store.list(&infos).await.map_err(|error| error.to_string())?;
            let infos = entries.iter().filter_map(|entry| from_slice(&entry.value).ok());
            let mut reports = infos.filter_map(|info: SentinelInfo| info.switchover);
            let last = reports.next();
            let right = last.clone().filter(|report| report.id == "s1" && report.state == state);
            right.ok_or(format!("{last:?}"))
        })
        .await
    }

    async fn start(&mut self) -> stolon_tests::process::Process {
        self.put_data(&to_compact(&replicated())).await;
        for keeper in ["k1", "k2"] {
            let key = self.store.keys().liveness_key(keeper);
            self.store.put(&key, "boot").await.unwrap();
        }
        self.publish_both(|_| {}, 900).await;
        let sentinel = self.sentinel(&[]);
        sentinel
            .wait_for_log("sentinel leadership acquired", SHORT_TIMEOUT)
            .await;
        // The leader adds the fields of the cluster spec, which makes a second generation.
        eventually("both dbs to apply their spec", SHORT_TIMEOUT, async || {
            self.publish_both(|_| {}, 900).await;
            let (data, _) = self.data().await?;
            let is_applied = |db: &model::Db| db.generation > 1 && db.is_converged();
            let all = data.dbs().values().all(is_applied);
            all.then_some(()).ok_or(format!("{:?}", data.dbs()))
        })
        .await;
        sentinel
    }

    async fn has_ended(&self) {
        let keys = self.store.keys();
        for key in [keys.switchover(), keys.order("k1")] {
            assert_eq!(self.store.get(&key).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn a_switchover_is_carried_out_by_orders_under_the_leaders_lease() {
    let mut scene = Scene::new().await;
    let sentinel = scene.start().await;
    scene.ask("k2").await;
    let checkpoint = scene.ordered(OrderKind::Checkpoint).await;
    let lease = checkpoint.lease.unwrap();
    let left = scene.store.remaining(lease).await.unwrap().unwrap();
    assert!(left.granted <= Duration::from_secs(3), "half of failInterval: {left:?}");
    let report = scene.reported(SwitchoverState::Checkpoint).await;
    assert_eq!((report.to.as_str(), report.reason.as_str()), ("k2", ""));

    scene
        .publish_both(
            |info| {
                info.checkpointed = "s1".to_owned();
                info.checkpoint_received = [("db2".into(), true)].into();
            },
            900,
        )
        .await;
    let stop = scene.ordered(OrderKind::Stop).await;
    assert_eq!(stop.lease, Some(lease));
    assert!(scene.data().await.unwrap().0.proxied_master().is_none());
    // for longer than the lease of an order that nobody renews
    let key = scene.store.keys().order("k1");
    scene.publish_both(|info| info.stopping = "s1".to_owned(), 900).await;
    stolon_tests::wait::throughout("the order to stop", Duration::from_secs(5), async || {
        let entry = scene.store.get(&key).await.map_err(|error| error.to_string())?;
        entry.map(drop).ok_or("gone".to_owned())
    })
    .await;

    let stopped = |info: &mut KeeperInfo| {
        info.stopping = "s1".to_owned();
        info.postgres_state.as_mut().unwrap().healthy = false;
        info.stopped = Some(Stopped {
            clean: true,
            lsn: Some(model::Lsn(1_000)),
            timeline_id: 1,
        });
    };
    scene.publish_both(stopped, 900).await;
    scene.reported(SwitchoverState::Receiving).await;
    scene.publish_both(stopped, 1_000).await;
    scene.reported(SwitchoverState::Promoting).await;
    let (data, _) = scene.data().await.unwrap();
    assert_eq!(data.master_uid().map(|uid| uid.as_str()), Some("db2"));
    scene.has_ended().await;
    scene.publish_both(stopped, 1_000).await;
    scene.reported(SwitchoverState::Done).await;
    let log = sentinel.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(at("closing proxies for a switchover") < at("master db stopped cleanly, as a switchover ordered"));
    assert!(at("electing db as the new master") < at("switchover done"), "{log}");
}

#[tokio::test]
async fn a_switchover_that_is_refused_leaves_its_reason_and_no_request() {
    let mut scene = Scene::new().await;
    let sentinel = scene.start().await;
    scene.ask("k1").await;
    let report = scene.reported(SwitchoverState::Refused).await;
    assert_eq!(report.reason, "keeper k1: it has the master already");
    scene.has_ended().await;
    sentinel.wait_for_log("refusing a switchover", SHORT_TIMEOUT).await;

    let key = scene.store.keys().switchover();
    scene.store.put(&key, "{garbage").await.unwrap();
    sentinel
        .wait_for_log("ignoring the request of an operator", SHORT_TIMEOUT)
        .await;
}

/// An order outlives neither its request nor its leader for long.
#[tokio::test]
async fn orders_end_with_their_request_and_with_their_leader() {
    let mut scene = Scene::new().await;
    let sentinel = scene.start().await;
    scene.ask("k2").await;
    scene.ordered(OrderKind::Checkpoint).await;
    let keys = scene.store.keys().clone();
    let request = scene.store.get(&keys.switchover()).await.unwrap().unwrap();
    scene.store.revoke(request.lease.unwrap()).await.unwrap();
    let report = scene.reported(SwitchoverState::Aborted).await;
    assert_eq!(report.reason, "the request has expired or was withdrawn");
    scene.has_ended().await;

    scene.ask("k2").await;
    let order = scene.ordered(OrderKind::Checkpoint).await;
    drop(sentinel);
    eventually("the order to expire", SHORT_TIMEOUT, async || {
        let entry = scene.store.get(&keys.order("k1")).await;
        let entry = entry.map_err(|error| error.to_string())?;
        entry.is_none().then_some(()).ok_or("there".to_owned())
    })
    .await;
    // another leader goes on, under a lease of its own
    let _next = scene.sentinel(&[]);
    let again = scene.ordered(OrderKind::Checkpoint).await;
    assert_ne!(again.lease, order.lease);
}
