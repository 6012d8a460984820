//! Keepers and their instances: start, parameters, replication slots, addresses, environment.

use std::net::TcpListener;
use std::time::Duration;

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::spec::{update, wait_parameter_is, wait_query_returns};
use stolon_tests::sql::SqlClient;
use stolon_tests::status::wait_status_shows;
use stolon_tests::wait::{eventually, throughout};

/// A data directory has one keeper at a time (keeper 2.4).
#[tokio::test]
async fn a_second_keeper_on_the_same_data_directory_is_refused() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let second = cluster.prepare_keeper();
    cluster.program(&second).options = cluster.program("keeper0").options.clone();
    cluster.start(&second);
    assert_eq!(cluster.process(&second).exit_status(SHORT_TIMEOUT).await, 1);
    cluster
        .process(&second)
        .wait_for_log("cannot take exclusive lock on data dir", SHORT_TIMEOUT)
        .await;
    cluster
        .process("keeper0")
        .wait_for_log("exclusive lock on data dir taken", SHORT_TIMEOUT)
        .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
}

/// The environment variables of libpq do not reach the keeper's child processes (keeper 12.1).
#[tokio::test]
async fn libpq_variables_in_the_environment_do_not_affect_a_keeper() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    for role in [Role::Master, Role::Standby] {
        let uid = cluster.prepare_keeper();
        for (name, value) in [
            ("PGPASSWORD", "wrong"),
            ("PGHOST", "203.0.113.1"),
            ("PGPORT", "1"),
            ("PGUSER", "nobody"),
            ("PGOPTIONS", "-c default_transaction_read_only=on"),
            ("PGDATA", "/nonexistent"),
        ] {
            cluster
                .program(&uid)
                .environment
                .push((name.to_owned(), value.to_owned()));
        }
        cluster.start(&uid);
        cluster.wait_healthy(&uid, &role).await;
    }
    cluster
        .connect("keeper0")
        .await
        .run("create table test (id int)")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// Keepers wait for the first sentinel; then one becomes the master and the others follow (sentinel 16).
#[tokio::test]
async fn three_keepers_started_before_two_sentinels_become_one_cluster() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    for _ in 0..3 {
        cluster.add_keeper();
    }
    cluster
        .process("keeper2")
        .wait_for_log(
            "our keeper data is not available, waiting for it to appear",
            SHORT_TIMEOUT,
        )
        .await;
    cluster.add_sentinel();
    cluster.add_sentinel();
    let master = eventually("a first master", LONG_TIMEOUT, async || {
        cluster.master().await.map_err(error_text)
    })
    .await;
    for uid in ["keeper0", "keeper1", "keeper2"] {
        let role = if uid == master { Role::Master } else { Role::Standby };
        cluster.wait_healthy(uid, &role).await;
    }
}

/// One PostgreSQL user has both roles.
#[tokio::test]
async fn one_user_may_be_superuser_and_replication_user() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    for role in [Role::Master, Role::Standby] {
        let uid = cluster.prepare_keeper();
        let program = cluster.program(&uid);
        program.options.retain(|option| !option.starts_with("--pg-repl-"));
        let (user, password) = stolon_tests::cluster::SUPERUSER;
        program.options.push(format!("--pg-repl-username={user}"));
        program.options.push(format!("--pg-repl-password={password}"));
        cluster.start(&uid);
        cluster.wait_healthy(&uid, &role).await;
    }
    cluster
        .process("keeper0")
        .wait_for_log("replication role added to superuser", SHORT_TIMEOUT)
        .await;
}

/// Parameters of the spec are merged with initdb's, reloaded when they change, and cause a restart only when that is
/// allowed (keeper 8.6).
#[tokio::test]
async fn parameters_are_merged_reloaded_and_applied_by_restart_as_the_spec_says() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).start().await;
    let (status, spec) = cluster.stolonctl(&["spec"]).await;
    assert_eq!(status, 0);
    assert!(
        spec.contains("\"max_connections\""),
        "initdb's parameters are in the spec: {spec}"
    );

    let log_length = cluster.process("keeper0").log().len();
    update(
        &cluster,
        &json!({"pgParameters":{"log_min_duration_statement":"77s","no.such_parameter":"1"}}),
    )
    .await;
    let keeper = cluster.process("keeper0");
    keeper
        .wait_for_log_after(
            log_length,
            "postgres parameters changed, reloading postgres instance",
            SHORT_TIMEOUT,
        )
        .await;
    let log_length = keeper.log().rfind("reloading postgres instance").unwrap();
    keeper
        .wait_for_log_after(log_length, "postgres parameters not changed", SHORT_TIMEOUT)
        .await;
    let sql = cluster.connect("keeper0").await;
    assert_eq!(sql.value("show log_min_duration_statement").await.unwrap(), "77s");

    update(
        &cluster,
        &json!({"automaticPgRestart":true,"pgParameters":{"max_connections":"150"}}),
    )
    .await;
    wait_parameter_is(&cluster, "keeper0", "max_connections", "150").await;

    update(
        &cluster,
        &json!({"automaticPgRestart":false,"pgParameters":{"max_connections":"200"}}),
    )
    .await;
    eventually("the server to have a pending restart", SHORT_TIMEOUT, async || {
        let count = "select count(*) from pg_settings where pending_restart";
        let pending = cluster.query("keeper0", count).await?;
        check(pending == "1", || format!("{pending} are pending"))
    })
    .await;
    wait_status_shows(&cluster, &["keeper0"], "parameters wait for a restart of PostgreSQL").await;
    throughout("no restart", Duration::from_secs(3), async || {
        let value = cluster.query("keeper0", "show max_connections").await?;
        check(value == "150", || value)
    })
    .await;
}

/// ALTER SYSTEM fails (keeper 8.4 and 15.3).
#[tokio::test]
async fn alter_system_is_refused() {
    let cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let sql = cluster.connect("keeper0").await;
    let error = sql.run("alter system set archive_mode to on").await.unwrap_err();
    let text = format!("{:?}", error);
    assert!(
        text.contains(r#"could not fsync file "postgresql.auto.conf": Invalid argument"#),
        "{text}"
    );
}

/// Additional slots exist on the master, and after a failover on the new one (keeper 11).
#[tokio::test]
async fn replication_slots_follow_the_spec_and_the_master() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let sql = cluster.connect("keeper0").await;
    let standby = cluster.db_uid("keeper1").await;
    update(
        &cluster,
        &json!({"additionalMasterReplicationSlots":["slot01","slot02"]}),
    )
    .await;
    sql.run("select pg_create_physical_replication_slot('by_hand')")
        .await
        .unwrap();
    sql.run("select pg_create_physical_replication_slot('stolon_by_hand')")
        .await
        .unwrap();
    wait_slots_are(
        &cluster,
        "keeper0",
        &[
            "by_hand",
            &format!("stolon_{standby}"),
            "stolon_slot01",
            "stolon_slot02",
        ],
    )
    .await;
    wait_slots_are(&cluster, "keeper1", &[]).await;
    update(&cluster, &json!({"additionalMasterReplicationSlots":["slot02"]})).await;
    wait_slots_are(
        &cluster,
        "keeper0",
        &["by_hand", &format!("stolon_{standby}"), "stolon_slot02"],
    )
    .await;

    assert_eq!(cluster.stop("keeper0", Signal::TERM).await, 0);
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    eventually("the slots on the new master", LONG_TIMEOUT, async || {
        let found = slots(&cluster, "keeper1").await?;
        check(found.contains(&"stolon_slot02".to_owned()), || format!("{found:?}"))
    })
    .await;
}

/// A slot whose WAL was removed receives nothing any more (keeper 11.3).
#[tokio::test]
async fn an_invalidated_slot_is_made_again() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    update(
        &cluster,
        &json!({
            "additionalMasterReplicationSlots": ["slot01"], "pgParameters": { "max_slot_wal_keep_size": "16MB" },
        }),
    )
    .await;
    wait_slots_are(&cluster, "keeper0", &["stolon_slot01"]).await;
    let log_length = cluster.process("keeper0").log().len();
    let sql = cluster.connect("keeper0").await;
    // Slots of keepers reserve no WAL before a receiver uses them.
    sql.run(
        "select pg_drop_replication_slot('stolon_slot01'); \
         select pg_create_physical_replication_slot('stolon_slot01', true); create table filler (t text)",
    )
    .await
    .unwrap();
    // More than wal_keep_size.
    eventually("the slot to be invalidated and made again", LONG_TIMEOUT, async || {
        let fill = "insert into filler values ('x'); select pg_switch_wal(); checkpoint";
        sql.run(fill).await.map_err(error_text)?;
        let log = cluster.process("keeper0").log();
        check(log[log_length..].contains("creating replication slot"), || {
            "not yet".to_owned()
        })
    })
    .await;
    wait_query_returns(
        &cluster,
        "keeper0",
        "select string_agg(slot_name || ' ' || coalesce(restart_lsn::text, 'new'), ',') from pg_replication_slots",
        "stolon_slot01 new",
    )
    .await;
}

/// Another program listens on PostgreSQL's port: the keeper logs an error at every attempt and starts the server once
/// the port is free (keeper 12.3).
#[tokio::test]
async fn a_port_in_use_is_logged_and_the_start_is_retried() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let listener = TcpListener::bind(("127.0.0.1", cluster.port(&uid))).unwrap();
    cluster.start(&uid);
    cluster
        .process(&uid)
        .wait_for_log("failed to start postgres", LONG_TIMEOUT)
        .await;
    let log_length = cluster.process(&uid).log().len();
    cluster
        .process(&uid)
        .wait_for_log_after(log_length, "failed to start postgres", LONG_TIMEOUT)
        .await;
    let port = cluster.port(&uid).to_string();
    assert!(cluster.process(&uid).log().contains(&port), "the port is named");
    assert_eq!(cluster.process(&uid).try_wait(), None);

    drop(listener);
    cluster.wait_healthy(&uid, &Role::Master).await;
}

/// A killed keeper leaves its server running; the next keeper on the directory stops it and continues (keeper 12.9).
#[tokio::test]
async fn a_restarted_keeper_stops_the_server_that_it_left_when_killed() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .start()
        .await;
    cluster.process("keeper0").kill();
    assert!(
        cluster.postmaster("keeper0").is_some(),
        "SIGKILL of the keeper leaves its server"
    );
    cluster.start("keeper0");
    cluster
        .process("keeper0")
        .wait_for_log("stopping database", SHORT_TIMEOUT)
        .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_proxy_serves("proxy0").await;
}

/// The advertised address is published; the server listens on the other one.
#[tokio::test]
async fn an_advertised_address_is_published_and_not_listened_on() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let options = &mut cluster.program(&uid).options;
    options.push("--pg-advertise-address=203.0.113.6".to_owned());
    options.push("--pg-advertise-port=6666".to_owned());
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Master).await;
    let data = cluster.data().await.unwrap();
    let db = &data.dbs()[data.master_uid().unwrap()];
    assert_eq!(
        (db.status.listen_address.as_str(), db.status.port.as_str()),
        ("203.0.113.6", "6666")
    );
}

/// A removed keeper that still runs comes back with a new db (sentinel 16).
#[tokio::test]
async fn a_removed_keeper_comes_back_with_a_new_db() {
    let cluster = Cluster::builder(Profile::Fast).start().await;
    let (status, output) = cluster.stolonctl(&["removekeeper", "keeper0"]).await;
    assert_eq!(status, 1, "the master's keeper cannot be removed: {output}");
    let before = cluster.db_uid("keeper1").await;
    let (status, output) = cluster.stolonctl(&["removekeeper", "keeper1"]).await;
    assert_eq!((status, output.as_str()), (0, ""));
    cluster.wait_other_db("keeper1", &before).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
}

async fn wait_slots_are(cluster: &Cluster, keeper: &str, wanted: &[&str]) {
    let mut wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    wanted.sort();
    eventually(format!("the slots of {keeper}"), SHORT_TIMEOUT, async || {
        let mut found = slots(cluster, keeper).await?;
        found.sort();
        check(found == wanted, || format!("{found:?} instead of {wanted:?}"))
    })
    .await;
}

async fn slots(cluster: &Cluster, keeper: &str) -> Result<Vec<String>, String> {
    let sql = SqlClient::connect(&cluster.sql_config(keeper))
        .await
        .map_err(error_text)?;
    let slots = sql.column("select slot_name from pg_replication_slots").await;
    slots.map_err(error_text)
}
