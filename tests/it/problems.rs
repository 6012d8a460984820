//! `stolonctl status` shows what an operator must fix, with the remedy, until it is fixed.

use std::net::TcpListener;

use model::Role;
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, Profile, REPLUSER, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Signal};
use stolon_tests::spec::{store_spec, update, wait_parameter_is, wait_query_returns};
use stolon_tests::status;
use stolon_tests::wait::eventually;

use crate::logins::pair_with_password_files;

/// Before the first master's initdb, and before a standby's copy.
#[tokio::test]
async fn a_port_in_use_is_reported_before_data_are_made() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    for role in [Role::Master, Role::Standby] {
        let uid = cluster.prepare_keeper();
        let port = cluster.port(&uid);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        cluster.start(&uid);
        status::wait_status_shows(
            &cluster,
            &[&uid],
            &format!("port {port} at 127.0.0.1 is in use by another program"),
        )
        .await;
        assert!(!cluster.pgdata(&uid).join("base").exists(), "no data are made");
        drop(listener);
        cluster.wait_healthy(&uid, &role).await;
        status::wait_status_has_no_problems(&cluster).await;
    }

    // Existing data are kept while their server cannot be started.
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    let port = cluster.port("keeper1");
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    cluster.start("keeper1");
    status::wait_status_shows(&cluster, &["keeper1"], &format!("port {port}")).await;
    drop(listener);
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    status::wait_status_has_no_problems(&cluster).await;
}

/// The only keeper of a cluster starts with the wrong directory: there is no standby to elect.
#[tokio::test]
async fn missing_data_are_reported_and_used_once_they_are_back() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    cluster
        .connect("keeper0")
        .await
        .run("create table ours as select 1")
        .await
        .unwrap();
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    let (pgdata, elsewhere) = (cluster.pgdata("keeper0"), cluster.dir().path().join("elsewhere"));
    std::fs::rename(&pgdata, &elsewhere).unwrap();
    cluster.start("keeper0");
    status::wait_status_shows(&cluster, &["keeper0"], &format!("are not in {}", pgdata.display())).await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    std::fs::rename(&elsewhere, &pgdata).unwrap();
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    wait_query_returns(&cluster, "keeper0", "select count(*) from ours", "1").await;
    status::wait_status_has_no_problems(&cluster).await;
}

#[tokio::test]
async fn an_unreadable_password_file_is_reported_at_each_sighup() {
    let (mut cluster, [file, _]) = pair_with_password_files().await;
    let password = std::fs::read_to_string(&file).unwrap();
    for (make, cause) in [("", "the file is empty"), ("gone", "No such file")] {
        match make {
            "" => std::fs::write(&file, "").unwrap(),
            _ => std::fs::remove_file(&file).unwrap(),
        }
        let skip = cluster.process("keeper0").log().len();
        cluster.process("keeper0").signal(Signal::HUP);
        cluster
            .process("keeper0")
            .wait_for_log_after(skip, "cannot read the password file", SHORT_TIMEOUT)
            .await;
        status::wait_status_shows(&cluster, &["keeper0"], cause).await;
    }
    std::fs::write(&file, password).unwrap();
    cluster.process("keeper0").signal(Signal::HUP);
    cluster
        .process("keeper0")
        .wait_for_log("the password file can be read again", SHORT_TIMEOUT)
        .await;
    status::wait_status_has_no_problems(&cluster).await;
}

/// A program without our limits has stored it.
#[tokio::test]
async fn a_stored_duration_out_of_range_is_reported() {
    let cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    store_spec(&cluster, |spec| spec["failInterval"] = json!("1s")).await;
    status::wait_status_shows(
        &cluster,
        &["keeper0"],
        "failInterval of the cluster spec cannot be used as it is",
    )
    .await;
    update(&cluster, &json!({ "failInterval": "4s" })).await;
    status::wait_status_has_no_problems(&cluster).await;
}

/// The postmaster is stopped while open sessions still work, the keeper's included.
#[tokio::test]
async fn a_master_that_accepts_no_new_connections_is_replaced() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let postmaster = cluster.postmaster("keeper0").unwrap();
    let session = cluster.connect("keeper0").await;
    process::send_signal(postmaster, Signal::STOP);
    session.value("select 1").await.unwrap();
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    let log = cluster.process("keeper0").log();
    assert!(log.contains("PostgreSQL answers no new connections"), "{log}");
    cluster.wait_healthy("keeper1", &Role::Master).await;
    cluster.wait_healthy("keeper0", &Role::Standby).await;

    // A promoted master reports nothing at a reload and has no setting that waits for a restart.
    update(&cluster, &json!({ "pgParameters": { "work_mem": "5MB" } })).await;
    wait_parameter_is(&cluster, "keeper1", "work_mem", "5MB").await;
    wait_query_returns(
        &cluster,
        "keeper1",
        "select count(*) from pg_settings where pending_restart",
        "0",
    )
    .await;
    let log = cluster.process("keeper1").log();
    assert!(!log.contains("cannot be changed without restarting"), "{log}");
}

/// The startup process refuses wal_level because of a logical slot, after the server has opened its sockets.
#[tokio::test]
async fn a_master_that_exits_during_recovery_reverts_to_its_previous_parameters() {
    let cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .proxies(0)
        .start()
        .await;
    let level = |level: Value| json!({ "automaticPgRestart": true, "pgParameters": { "wal_level": level } });
    update(&cluster, &level(json!("logical"))).await;
    for uid in ["keeper1", "keeper0"] {
        wait_parameter_is(&cluster, uid, "wal_level", "logical").await;
    }
    let spec = json!({ "additionalMasterReplicationSlots": ["users"] });
    update(&cluster, &spec).await;
    wait_query_returns(
        &cluster,
        "keeper0",
        "select count(*) from pg_replication_slots where slot_name = 'stolon_users'",
        "1",
    )
    .await;
    let make = "select count(*) from (select pg_drop_replication_slot('stolon_users')) a, \
                (select pg_create_logical_replication_slot('stolon_users', 'test_decoding')) b";
    eventually("a logical slot", SHORT_TIMEOUT, async || {
        cluster.query("keeper0", make).await
    })
    .await;
    let before = cluster.postmaster("keeper0");
    update(&cluster, &level(Value::Null)).await;
    status::wait_status_shows(&cluster, &["keeper0"], "\"wal_level\"").await;
    assert_ne!(cluster.postmaster("keeper0"), before, "it has tried to restart");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    wait_parameter_is(&cluster, "keeper0", "wal_level", "logical").await;
    wait_parameter_is(&cluster, "keeper1", "wal_level", "replica").await;
}

/// The password of the replication user changes while a standby streams, and its connection is terminated.
#[tokio::test]
async fn a_standby_that_its_master_refuses_is_reported_until_it_streams_again() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("dbWaitReadyTimeout", "5s")
        .proxies(0)
        .start()
        .await;
    let sql = cluster.connect("keeper0").await;
    let (user, password) = REPLUSER;
    sql.run(&format!("alter role {user} password 'geheim'")).await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    sql.run("select pg_terminate_backend(pid) from pg_stat_replication")
        .await
        .unwrap();
    for text in [
        "replication: the standby receives no WAL from the db that it follows",
        "password authentication failed",
    ] {
        status::wait_status_shows(&cluster, &["keeper1"], text).await;
    }
    assert_eq!(cluster.master().await.unwrap(), "keeper0");
    let log = cluster.process("keeper1").log();
    let found = |line: &&str| line.contains("problem found") && line.contains("receives no WAL");
    assert_eq!(log.lines().filter(found).count(), 1, "{log}");

    sql.run(&format!(
        "alter role {user} password '{}'",
        password.replace('\'', "''")
    ))
    .await
    .unwrap();
    status::wait_status_has_no_problems(&cluster).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// The key is deleted: the keeper does not change its database, and reports the loss.
#[tokio::test]
async fn lost_cluster_data_are_reported_by_each_keeper_until_they_are_restored() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table ours as select 1").await.unwrap();
    let key = cluster.store.keys().cluster_data();
    let saved = cluster.store.get(&key).await.unwrap().unwrap();
    let write = store::Txn::new().delete(&key);
    cluster.store.commit(write).await.unwrap();
    let keeper = cluster.process("keeper0");
    keeper
        .wait_for_log(
            "the cluster data are gone, and this keeper has a database",
            SHORT_TIMEOUT,
        )
        .await;
    eventually("the problem in the keeper info", SHORT_TIMEOUT, async || {
        let infos = cluster.store.list(&cluster.store.keys().keeper_infos()).await;
        let infos = infos.map_err(|error| error.to_string())?;
        let texts: Vec<String> = infos
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
            .collect();
        check(
            texts.iter().any(|text| text.contains("the cluster data are gone")),
            || texts.join("\n"),
        )
    })
    .await;
    // The status command fails; its error names the keeper and the remedy.
    let (code, shown) = cluster.stolonctl(&["status"]).await;
    assert_eq!(code, 1, "{shown}");
    assert!(
        shown.contains("keepers of a cluster exist: keeper0") && shown.contains("clusterdata write"),
        "{shown}"
    );
    let write = store::Txn::new().put(&key, saved.value);
    cluster.store.commit(write).await.unwrap();
    status::wait_status_has_no_problems(&cluster).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    wait_query_returns(&cluster, "keeper0", "select count(*) from ours", "1").await;
}
