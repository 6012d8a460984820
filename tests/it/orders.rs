//! What a keeper does on the orders of a switchover (extensions X-2). The sentinel is stopped and the test writes orders
//! and cluster data in its place.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use model::{KeeperInfo, KeeperOrder, OrderKind, Role, SwitchoverRequest, Timestamp, from_slice, to_compact};
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::Signal;
use stolon_tests::spec::{store_data, store_spec};
use stolon_tests::wait::{eventually, throughout};
use stolon_tests::wal_receiver::{SuspendedReceiver, wait_only_standby_streams};
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
        Self::start_with(|_| {}).await
    }

    /// `prepare` is called with keeper0 stopped.
    async fn start_with(prepare: impl FnOnce(&mut Cluster)) -> Self {
        let cluster = Cluster::builder(Profile::Fast).proxies(0).with("failInterval", "60s");
        // Standbys are waited for without a limit of PostgreSQL's.
        let parameters = json!({ "dynamic_shared_memory_type": "mmap", "wal_sender_timeout": "0" });
        let mut cluster = cluster.with("pgParameters", parameters).start().await;
        assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
        prepare(&mut cluster);
        cluster.start("keeper0");
        cluster.wait_healthy("keeper0", &Role::Master).await;
        let db = cluster.db_uid("keeper0").await;
        eventually("keeper0 to be announced", SHORT_TIMEOUT, async || {
            let master = cluster.proxied_master().await.map_err(error_text)?;
            check(master == "keeper0", || master)
        })
        .await;
        wait_only_standby_streams(&cluster, "keeper0").await;
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

    /// Requests the switchover, as far as the keeper looks at that.
    async fn request(&self, switchover: &str) {
        let request = SwitchoverRequest {
            id: switchover.to_owned(),
            to: None,
            requested_at: Timestamp::ZERO,
        };
        let (store, value) = (&self.cluster.store, to_compact(&request));
        let key = store.keys().switchover();
        store.put_leased(&key, value, Duration::from_secs(600)).await.unwrap();
    }

    async fn end_request(&self) {
        let key = self.cluster.store.keys().switchover();
        self.cluster.store.commit(Txn::new().delete(&key)).await.unwrap();
    }

    /// Suspends keeper1's WAL receiver and writes a row, so that the stop of keeper0's server waits; accepts an order to
    /// stop. Returns the receiver.
    async fn hold_stop(&self, switchover: &str) -> SuspendedReceiver {
        self.hold_stop_after(switchover, "select 1").await
    }

    /// The same; runs `sql`, too, before the order.
    async fn hold_stop_after(&self, switchover: &str, before: &str) -> SuspendedReceiver {
        let cluster = &self.cluster;
        let receiver = SuspendedReceiver::of(cluster, "keeper1").await;
        let sql = cluster.connect("keeper0").await;
        sql.run("create table test (id int); insert into test values (1)")
            .await
            .unwrap();
        sql.run(before).await.unwrap();
        self.announce("").await;
        self.request(switchover).await;
        self.order(switchover, &self.db, OrderKind::Stop).await;
        self.wait_info("keeper0 to accept the order", |info| info.stopping == switchover)
            .await;
        receiver
    }

    /// Asserts that keeper0's server is stopping on, and that nothing is published about its end.
    async fn assert_is_stopping(&self, switchover: &str) {
        let server = self.cluster.postmaster("keeper0");
        assert!(server.is_some());
        throughout("the stop", SOME_ROUNDS, async || {
            let info = self.info().await?;
            check(info.stopping == switchover && info.stopped.is_none(), || {
                format!("{info:?}")
            })?;
            let now = self.cluster.postmaster("keeper0");
            check(now == server, || format!("{now:?} instead of {server:?}"))
        })
        .await;
    }

    /// Asserts that keeper0 has become a master again, with the row that only it has.
    async fn assert_is_back(&self) {
        self.wait_info("keeper0 to run again", |info| {
            let healthy = info.postgres_state.as_ref().is_some_and(|state| state.healthy);
            healthy && !info.is_leaving_or_stopped()
        })
        .await;
        let row = "select id from test where not pg_is_in_recovery()";
        assert_eq!(self.cluster.query("keeper0", row).await.unwrap(), "1");
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

/// Rule: keeper 4.4.4. Only when the switchover is over, since another sentinel may order the stop again.
#[tokio::test]
async fn a_stop_that_waits_for_a_suspended_standby_ends_once_its_switchover_is_over() {
    assert_stop_ends_after("select 1").await;
}

/// The shutdown waits for the WAL sender before its checkpoint, because more WAL is left than the connection takes.
#[tokio::test]
async fn a_stop_that_waits_for_a_blocked_wal_sender_ends_once_its_switchover_is_over() {
    assert_stop_ends_after(
        "select pg_logical_emit_message(false, 'test', repeat('x', 1000000)) from generate_series(1, 64)",
    )
    .await;
}

async fn assert_stop_ends_after(before: &str) {
    let mut ordered = OrderedCluster::start().await;
    let receiver = ordered.hold_stop_after("s1", before).await;
    ordered.assert_is_stopping("s1").await;
    ordered.end_order().await;
    ordered.assert_is_stopping("s1").await;

    ordered.end_request().await;
    ordered.assert_is_back().await;
    let log = ordered.cluster.process("keeper0").log();
    assert!(
        log.contains("the switchover is over, not waiting for standbys"),
        "{log}"
    );
    let log = &log[log.find("accepted the order to stop postgres").unwrap()..];
    assert!(!log.contains("not properly shut down"), "{log}");
    receiver.resume();
    ordered.cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// The server that it leaves is still shutting down.
#[tokio::test]
async fn a_keeper_that_is_killed_after_it_accepted_an_order_answers_it_when_the_server_has_ended() {
    let mut ordered = OrderedCluster::start().await;
    let receiver = ordered.hold_stop("s1").await;
    let before = ordered.info().await.unwrap().boot_uuid;
    let killed = ordered.cluster.process("keeper0");
    killed.kill();
    let log_length = killed.log().len();
    ordered.cluster.start("keeper0");
    let keeper = ordered.cluster.process("keeper0");
    keeper
        .wait_for_log_after(log_length, "stopping database", SHORT_TIMEOUT)
        .await;
    receiver.resume();
    let info = ordered
        .wait_info("another process", |info| info.boot_uuid != before)
        .await;
    assert!(!info.is_leaving_or_stopped(), "{info:?}");
    store_data(&ordered.cluster, |data| {
        data["keepers"]["keeper0"]["status"]["bootUUID"] = json!(info.boot_uuid.as_str());
    })
    .await;
    let info = ordered.wait_stopped_for("s1").await;
    assert_eq!(info.postgres_state.unwrap().uid.as_str(), ordered.db);
    let stopped = info.stopped.unwrap();
    assert!(stopped.clean && stopped.lsn.is_some(), "{stopped:?}");

    // The new process ends the WAL senders a second after its start, so the standby may have missed the rest so far.
    ordered.end_order().await;
    ordered.assert_is_back().await;
    ordered.cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// Clients have no master meanwhile.
#[tokio::test]
async fn the_end_of_a_stopped_master_that_cannot_be_read_is_read_again_soon() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut ordered = OrderedCluster::start_with(|cluster| {
        pg_programs::wrap(cluster, "keeper0", "programs", |program, real| {
            let fails = format!("if [ -e \"{}\" ]; then echo broken >&2; exit 1; fi", broken.display());
            match program {
                "pg_controldata" => format!("#!/bin/sh\n{fails}\nexec \"{}\" \"$@\"\n", real.display()),
                _ => pg_programs::passthrough_script(real),
            }
        });
    })
    .await;
    store_spec(&ordered.cluster, |spec| spec["sleepInterval"] = json!("10m")).await;
    ordered.announce("").await;
    std::fs::write(&broken, "").unwrap();
    ordered.order("s1", &ordered.db, OrderKind::Stop).await;
    // With delays that double up to sleepInterval, twelve attempts would take more than ten minutes.
    let keeper = ordered.cluster.process("keeper0");
    eventually("twelve attempts", LONG_TIMEOUT, async || {
        let attempts = keeper
            .log()
            .matches("could not find out how our db was stopped")
            .count();
        check(attempts >= 12, || format!("{attempts}"))
    })
    .await;
    let info = ordered.info().await.unwrap();
    assert_eq!((info.stopping.as_str(), &info.stopped), ("s1", &None));
    assert_eq!(ordered.cluster.postmaster("keeper0"), None);

    std::fs::remove_file(&broken).unwrap();
    let stopped = ordered.wait_stopped_for("s1").await.stopped.unwrap();
    assert!(stopped.clean && stopped.lsn.is_some(), "{stopped:?}");
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
    let standby = cluster.db_uid("keeper1").await;
    let received = |has_received| BTreeMap::from([(standby.as_str().into(), has_received)]);
    assert_eq!(info.checkpoint_received, received(true));
    let done = format!("select redo_lsn >= '{written}' from pg_control_checkpoint()");
    assert_eq!(sql.value(&done).await.unwrap(), "t");
    // The next switchover's checkpoint, while the standby receives no WAL.
    let receiver = SuspendedReceiver::of(cluster, "keeper1").await;
    ordered.order("s2", &ordered.db, OrderKind::Checkpoint).await;
    let info = ordered
        .wait_info("the next checkpoint", |info| info.checkpointed == "s2")
        .await;
    assert_eq!(info.checkpoint_received, received(false));
    receiver.resume();
    ordered
        .wait_info("the standby to receive it", |info| {
            info.checkpointed == "s2" && info.checkpoint_received == received(true)
        })
        .await;
}
