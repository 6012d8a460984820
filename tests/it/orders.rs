//! What a keeper does on the orders of a switchover (extensions X-2). The sentinel is stopped and the test writes orders
//! and cluster data in its place.

use std::time::Duration;

use model::{KeeperInfo, KeeperOrder, OrderKind, Role, from_slice, to_compact};
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::spec::store_data;
use stolon_tests::wait::{eventually, throughout};
use store::Txn;

/// How long nothing must happen: several rounds of the keeper.
const SOME_ROUNDS: Duration = Duration::from_secs(4);

/// A cluster whose sentinel has ended, with keeper0 as the announced master.
struct OrderedCluster {
    cluster: Cluster,
    /// The db of keeper0.
    db: String,
}

impl OrderedCluster {
    async fn start() -> Self {
        let cluster = Cluster::builder(Profile::Fast).proxies(0).with("failInterval", "60s");
        let mut cluster = cluster.start().await;
        let db = cluster.db_uid("keeper0").await;
        eventually("keeper0 to be announced", SHORT_TIMEOUT, async || {
            let master = cluster.proxied_master().await.map_err(error_text)?;
            check(master == "keeper0", || master)
        })
        .await;
        assert_eq!(cluster.stop("sentinel0", Signal::TERM).await, 0);
        Self { cluster, db }
    }

    async fn order(&self, switchover: &str, db: &str, order: OrderKind) {
        let order = KeeperOrder {
            switchover: switchover.to_owned(),
            db: db.into(),
            order,
        };
        self.put_order(&to_compact(&order)).await;
    }

    async fn put_order(&self, value: &str) {
        let key = self.cluster.store.keys().order("keeper0");
        self.cluster.store.put(&key, value).await.unwrap();
    }

    async fn end_order(&self) {
        let key = self.cluster.store.keys().order("keeper0");
        self.cluster.store.commit(Txn::new().delete(&key)).await.unwrap();
    }

    /// Sends the proxies to this db, or to none.
    async fn announce(&self, db: &str) {
        store_data(&self.cluster, |data| data["proxy"]["spec"]["masterDbUid"] = json!(db)).await;
    }

    async fn info(&self) -> Result<KeeperInfo, String> {
        let key = self.cluster.store.keys().keeper_info("keeper0");
        let entry = self.cluster.store.get(&key).await.map_err(|error| error.to_string())?;
        from_slice(&entry.ok_or("no info")?.value).map_err(|error| error.to_string())
    }

    async fn wait_info(&self, what: &str, is_there: impl Fn(&KeeperInfo) -> bool) -> KeeperInfo {
        eventually(what, LONG_TIMEOUT, async || {
            let info = self.info().await?;
            check(is_there(&info), || format!("{info:?}"))?;
            Ok::<_, String>(info)
        })
        .await
    }

    async fn wait_stopped_for(&self, switchover: &str) -> KeeperInfo {
        let what = format!("keeper0 to be stopped for {switchover}");
        self.wait_info(&what, |info| info.stopping == switchover && info.stopped.is_some())
            .await
    }

    /// Asserts that this server of keeper0 runs on, and that nothing is published about a stop.
    async fn assert_runs_on(&self, server: Option<u32>) {
        throughout("the server", SOME_ROUNDS, async || {
            let info = self.info().await?;
            check(!info.is_leaving_or_stopped(), || format!("{info:?}"))?;
            let now = self.cluster.postmaster("keeper0");
            check(now == server, || format!("{now:?} instead of {server:?}"))
        })
        .await;
    }
}

/// Rule: extensions.
#[tokio::test]
async fn a_master_stops_on_an_order_once_no_master_is_announced_and_starts_when_the_order_is_gone() {
    let ordered = OrderedCluster::start().await;
    let (cluster, db) = (&ordered.cluster, ordered.db.as_str());
    let server = cluster.postmaster("keeper0");
    assert!(server.is_some() && ordered.info().await.unwrap().orders);

    ordered.order("s1", db, OrderKind::Stop).await;
    ordered.assert_runs_on(server).await;
    ordered.order("s1", "another db", OrderKind::Stop).await;
    ordered.announce("").await;
    ordered.assert_runs_on(server).await;

    ordered.order("s1", db, OrderKind::Stop).await;
    let info = ordered.wait_stopped_for("s1").await;
    let stopped = info.stopped.unwrap();
    assert!(stopped.clean && stopped.lsn.is_some() && !info.leaving, "{stopped:?}");
    assert_eq!(cluster.postmaster("keeper0"), None);
    // The standby has received everything up to there.
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    let received = format!("select pg_last_wal_receive_lsn() >= '{}'", stopped.lsn.unwrap());
    assert_eq!(cluster.query("keeper1", &received).await.unwrap(), "t");

    // The next switchover finds it stopped.
    ordered.order("s2", db, OrderKind::Stop).await;
    assert_eq!(ordered.wait_stopped_for("s2").await.stopped, Some(stopped));

    ordered.end_order().await;
    ordered
        .wait_info("keeper0 to run again", |info| {
            let healthy = info.postgres_state.as_ref().is_some_and(|state| state.healthy);
            healthy && !info.is_leaving_or_stopped()
        })
        .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
}

/// A keeper that starts again while an order exists answers it, once the sentinel has acknowledged it.
#[tokio::test]
async fn a_restarted_keeper_answers_an_order() {
    let mut ordered = OrderedCluster::start().await;
    let db = ordered.db.clone();
    ordered.announce("").await;
    ordered.cluster.kill_keeper_and_postgres("keeper0");
    ordered.order("s1", &db, OrderKind::Stop).await;
    let before = ordered.info().await.unwrap().boot_uuid;
    ordered.cluster.start("keeper0");
    let info = ordered
        .wait_info("another process", |info| info.boot_uuid != before)
        .await;
    assert!(!info.is_leaving_or_stopped(), "{info:?}");
    store_data(&ordered.cluster, |data| {
        data["keepers"]["keeper0"]["status"]["bootUUID"] = json!(info.boot_uuid.as_str());
    })
    .await;
    let stopped = ordered.wait_stopped_for("s1").await.stopped.unwrap();
    assert!(!stopped.clean && stopped.lsn.is_none(), "{stopped:?}");
    assert_eq!(ordered.cluster.postmaster("keeper0"), None);

    ordered.end_order().await;
    ordered.cluster.wait_healthy("keeper0", &Role::Master).await;
}

/// Rule: extensions. Whatever the value is.
#[tokio::test]
async fn a_killed_server_is_not_started_while_an_order_exists() {
    let mut ordered = OrderedCluster::start().await;
    ordered.put_order("garbage").await;
    ordered.cluster.kill_postmaster("keeper0");
    let keeper = ordered.cluster.process("keeper0");
    keeper
        .wait_for_log("an order of a switchover exists", SHORT_TIMEOUT)
        .await;
    ordered.assert_runs_on(None).await;
    ordered.end_order().await;
    ordered.cluster.wait_healthy("keeper0", &Role::Master).await;
}

#[tokio::test]
async fn an_ordered_checkpoint_is_made_and_published() {
    let ordered = OrderedCluster::start().await;
    let cluster = &ordered.cluster;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table test (id int); insert into test select generate_series(1, 10000)")
        .await
        .unwrap();
    let written = sql.value("select pg_current_wal_lsn()").await.unwrap();
    ordered.order("s1", &ordered.db, OrderKind::Checkpoint).await;
    let info = ordered
        .wait_info("the checkpoint", |info| info.checkpointed == "s1")
        .await;
    assert!(!info.is_leaving_or_stopped(), "{info:?}");
    let done = format!("select redo_lsn >= '{written}' from pg_control_checkpoint()");
    assert_eq!(sql.value(&done).await.unwrap(), "t");
}
