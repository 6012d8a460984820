//! Keepers under synchronous replication. The sentinel is stopped and the test writes the cluster data in its place.

use std::fs;
use std::time::Duration;

use model::{DbUid, KeeperInfo, PostgresState, Role, from_slice};
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::http;
use stolon_tests::process::Signal;
use stolon_tests::spec::{store_data, wait_parameter_is, wait_query_returns};
use stolon_tests::sql::SqlClient;
use stolon_tests::status::{wait_status_lacks, wait_status_shows};
use stolon_tests::synchronous::{NAMES, names};
use stolon_tests::wait::{eventually, now};
use stolon_tests::wal_receiver::SuspendedReceiver;

const FAKE: &str = "stolonfakestandby";

/// A cluster whose sentinel has ended, with keeper0 as the master, and the dbs of its keepers.
struct ScriptedCluster {
    cluster: Cluster,
    dbs: Vec<String>,
    /// The address of keeper0's pages.
    pages: String,
}

impl ScriptedCluster {
    async fn start(keepers: usize) -> Self {
        let cluster = Cluster::builder(Profile::Fast).with("failInterval", "60s");
        let mut cluster = cluster.keepers(keepers).start().await;
        assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
        let pages = cluster.serve_pages("keeper0");
        cluster.start("keeper0");
        cluster.wait_healthy("keeper0", &Role::Master).await;
        let sql = cluster.connect("keeper0").await;
        sql.run("create table t (id int); create role app login password 'app'; grant all on t to app")
            .await
            .unwrap();
        let mut dbs = Vec::new();
        for number in 0..keepers {
            let keeper = format!("keeper{number}");
            dbs.push(cluster.db_uid(&keeper).await);
            if number > 0 {
                cluster.wait_healthy(&keeper, &Role::Standby).await;
                cluster.wait_caught_up(&keeper, "keeper0").await;
            }
        }
        assert_eq!(cluster.stop("sentinel0", Signal::TERM).await, 0);
        Self { cluster, dbs, pages }
    }

    /// Writes what a sentinel writes for a master that waits for these standbys; waits until the master has applied it.
    async fn wait_for_standbys(&self, standbys: &[usize]) {
        let (master, standbys) = (&self.dbs[0], self.names_of(standbys));
        let generation = self.store_standbys(master, &standbys, &[]).await;
        let dbs: Vec<_> = standbys.into_iter().map(DbUid::from).collect();
        wait_parameter_is(&self.cluster, "keeper0", NAMES, &names(&dbs)).await;
        self.wait_state("keeper0", "the generation", |state| state.generation == generation)
            .await;
    }

    fn names_of(&self, standbys: &[usize]) -> Vec<String> {
        standbys.iter().map(|number| self.dbs[*number].clone()).collect()
    }

    /// Stores the standbys of a db; returns its generation.
    async fn store_standbys(&self, db: &str, standbys: &[String], external: &[&str]) -> i64 {
        store_data(&self.cluster, |data| {
            data["cluster"]["spec"]["synchronousReplication"] = json!(true);
            set_standbys(&mut data["dbs"][db], standbys, external);
        })
        .await;
        self.generation(db).await
    }

    async fn generation(&self, db: &str) -> i64 {
        let data = self.cluster.data().await.unwrap();
        data.dbs()
            .iter()
            .find(|(uid, _)| uid.as_str() == db)
            .expect("it is there")
            .1
            .generation
    }

    /// Returns the state that a keeper has published.
    async fn state(&self, keeper: &str) -> Result<PostgresState, String> {
        let key = self.cluster.store.keys().keeper_info(keeper);
        let entry = self.cluster.store.get(&key).await.map_err(|error| error.to_string())?;
        let info: KeeperInfo = from_slice(&entry.ok_or("no info")?.value).map_err(|error| error.to_string())?;
        info.postgres_state.ok_or_else(|| "no state".to_owned())
    }

    async fn wait_state(&self, keeper: &str, what: &str, holds: impl Fn(&PostgresState) -> bool) {
        eventually(format!("{keeper} to publish {what}"), LONG_TIMEOUT, async || {
            let state = self.state(keeper).await?;
            check(holds(&state), || format!("{state:?}"))
        })
        .await;
    }

    /// Waits until the master reports exactly these as in sync, by the mark.
    async fn wait_marked(&self, keeper: &str, standbys: &[usize]) {
        let mut wanted = self.names_of(standbys);
        wanted.sort();
        self.wait_state(keeper, "the standbys in sync", |state| {
            let found = state.synchronous_standbys.iter().flatten();
            state.sync_marked && found.map(|uid| uid.as_str()).eq(wanted.iter().map(String::as_str))
        })
        .await;
    }

    /// Tries to log in as an ordinary client.
    async fn ordinary_client(&self, keeper: &str) -> Result<SqlClient, String> {
        let mut config = self.cluster.sql_config(keeper);
        config.user("app").password("app");
        SqlClient::connect(&config).await.map_err(error_text)
    }

    async fn wait_client_gets_in(&self, keeper: &str) -> SqlClient {
        eventually("an ordinary client to get in", LONG_TIMEOUT, async || {
            self.ordinary_client(keeper).await
        })
        .await
    }
}

fn set_standbys(db: &mut Value, standbys: &[String], external: &[&str]) {
    db["generation"] = json!(db["generation"].as_i64().unwrap() + 1);
    db["spec"]["synchronousReplication"] = json!(true);
    db["spec"]["synchronousStandbys"] = json!(standbys);
    db["spec"]["externalSynchronousStandbys"] = json!(external);
}

/// Makes a standby's db the master, whose commits wait for the db of the old one.
fn elect(data: &mut Value, new: &String, old: &String) {
    data["cluster"]["status"]["master"] = json!(new);
    let db = &mut data["dbs"][new];
    set_standbys(db, std::slice::from_ref(old), &[]);
    db["spec"]["role"] = json!("master");
    db["spec"].as_object_mut().unwrap().remove("followConfig");
    db["spec"]["followers"] = json!([]);
}

/// Rule: keeper 10.2 to 10.8.
#[tokio::test]
async fn synchronous_names_are_applied_and_standbys_are_reported_by_the_mark() {
    let scripted = ScriptedCluster::start(3).await;
    let cluster = &scripted.cluster;
    scripted.wait_for_standbys(&[1]).await;
    scripted.wait_marked("keeper0", &[1]).await;
    for keeper in ["keeper1", "keeper2"] {
        wait_parameter_is(cluster, keeper, NAMES, FAKE).await;
    }
    for keeper in ["keeper0", "keeper1", "keeper2"] {
        wait_parameter_is(cluster, keeper, "restart_after_crash", "off").await;
    }
    let state = scripted.state("keeper0").await.unwrap();
    assert!(!state.pg_parameters.contains_key("restart_after_crash"), "{state:?}");

    // What keeper2 lacks was acknowledged by keeper1 alone: it is shown as in sync, and not reported so (synchronous
    // SY-3).
    let receiver = SuspendedReceiver::of(cluster, "keeper2").await;
    let sql = cluster.connect("keeper0").await;
    sql.run("insert into t values (1)").await.unwrap();
    scripted.wait_for_standbys(&[1, 2]).await;
    let shown = format!(
        "select sync_state from pg_stat_replication where application_name = 'stolon_{}'",
        scripted.dbs[2]
    );
    wait_query_returns(cluster, "keeper0", &shown, "sync").await;
    scripted.wait_marked("keeper0", &[1]).await;
    receiver.resume();
    scripted.wait_marked("keeper0", &[1, 2]).await;

    // Switched off: names, and the server's own restart, are as before.
    store_data(cluster, |data| {
        data["cluster"]["spec"]["synchronousReplication"] = json!(false);
        let db = &mut data["dbs"][&scripted.dbs[0]];
        set_standbys(db, &[], &[]);
        db["spec"]["synchronousReplication"] = json!(false);
    })
    .await;
    for keeper in ["keeper0", "keeper1", "keeper2"] {
        wait_parameter_is(cluster, keeper, NAMES, "").await;
        wait_parameter_is(cluster, keeper, "restart_after_crash", "on").await;
    }
}

/// Rule: synchronous SY-11 and SY-18, keeper R21.
#[tokio::test]
async fn synchronous_master_keeps_ordinary_clients_out_after_a_crash_until_its_standby_is_there() {
    let mut scripted = ScriptedCluster::start(2).await;
    scripted.wait_for_standbys(&[1]).await;
    scripted.wait_marked("keeper0", &[1]).await;
    drop(scripted.wait_client_gets_in("keeper0").await);

    SuspendedReceiver::of(&scripted.cluster, "keeper1").await;
    let client = scripted.ordinary_client("keeper0").await.unwrap();
    let commit = tokio::spawn(async move { client.run("insert into t values (7)").await });
    wait_query_returns(
        &scripted.cluster,
        "keeper0",
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
        "1",
    )
    .await;
    let crashed = scripted.cluster.postmaster("keeper0").unwrap();
    scripted.cluster.freeze("keeper1");
    scripted.cluster.kill_postmaster("keeper0");
    assert!(commit.await.unwrap().is_err(), "it was not acknowledged");
    eventually("a new server", LONG_TIMEOUT, async || {
        scripted
            .cluster
            .postmaster("keeper0")
            .filter(|pid| *pid != crashed)
            .ok_or("none")
    })
    .await;
    // The superuser passes, and sees what nobody may see yet.
    wait_query_returns(&scripted.cluster, "keeper0", "select count(*) from t where id = 7", "1").await;
    let refused = scripted.ordinary_client("keeper0").await.expect_err("it is kept out");
    assert!(refused.contains("no pg_hba.conf entry"), "{refused}");
    let metric = "stolon_keeper_client_logins_blocked 1";
    eventually("the metric", SHORT_TIMEOUT, async || {
        let (_, text) = http::get(&scripted.pages, "/metrics").map_err(|error| error.to_string())?;
        check(text.contains(metric), || "0".to_owned())
    })
    .await;
    let words = "client logins are blocked";
    wait_status_shows(&scripted.cluster, &["keeper0"], words).await;
    let still = scripted
        .ordinary_client("keeper0")
        .await
        .expect_err("it is still kept out");
    assert!(still.contains("no pg_hba.conf entry"), "{still}");

    scripted.cluster.thaw("keeper1");
    let client = scripted.wait_client_gets_in("keeper0").await;
    scripted.wait_marked("keeper0", &[1]).await;
    client.run("insert into t values (8)").await.unwrap();
    wait_status_lacks(&scripted.cluster, &["keeper0"], words).await;
    wait_query_returns(
        &scripted.cluster,
        "keeper1",
        "select count(*) from t where id in (7, 8)",
        "2",
    )
    .await;
}

/// Rule: synchronous SY-7. The first commit after the promotion waits for the names of the new db.
#[tokio::test]
async fn synchronous_standby_is_promoted_with_names_for_which_its_first_commit_waits() {
    let scripted = ScriptedCluster::start(2).await;
    let cluster = &scripted.cluster;
    scripted.wait_for_standbys(&[1]).await;
    scripted.wait_marked("keeper0", &[1]).await;
    wait_parameter_is(cluster, "keeper1", NAMES, FAKE).await;
    let (old, new) = (&scripted.dbs[0], &scripted.dbs[1]);
    store_data(cluster, |data| elect(data, new, old)).await;
    wait_query_returns(cluster, "keeper1", "select pg_is_in_recovery()", "f").await;
    let client = scripted.wait_client_gets_in("keeper1").await;
    let commit = tokio::spawn(async move { client.run("insert into t values (1)").await });
    wait_query_returns(
        cluster,
        "keeper1",
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
        "1",
    )
    .await;
    wait_parameter_is(cluster, "keeper1", NAMES, &format!("stolon_{old}")).await;
    scripted.wait_marked("keeper1", &[]).await;
    let log = cluster_log(cluster, "keeper1");
    let confirmed = log.find("synchronous_standby_names is in force").expect("logged");
    assert!(
        confirmed < log.find("promoting database").expect("logged"),
        "names come before the promotion"
    );

    // Nobody to wait for, as with minSynchronousStandbys 0: the commit succeeds (synchronous SY-15).
    scripted.store_standbys(new, &[], &[]).await;
    assert!(commit.await.unwrap().is_ok());
}

/// Rule: synchronous SY-21.
#[tokio::test]
async fn synchronous_standby_is_promoted_without_what_another_one_does_not_send() {
    let scripted = ScriptedCluster::start(3).await;
    scripted.wait_for_standbys(&[1]).await;
    scripted.wait_marked("keeper0", &[1]).await;
    let (old, new, other) = (&scripted.dbs[0], &scripted.dbs[1], &scripted.dbs[2]);
    store_data(&scripted.cluster, |data| {
        elect(data, new, old);
        data["proxy"]["spec"] = json!({});
        let position = &mut data["dbs"][other]["status"]["xLogPos"];
        *position = json!(position.as_u64().unwrap() + (1 << 30));
    })
    .await;
    wait_query_returns(&scripted.cluster, "keeper1", "select pg_is_in_recovery()", "f").await;
    let log = cluster_log(&scripted.cluster, "keeper1");
    let found = [
        "another standby has WAL that ours lacks",
        "not received in time",
        "promoting database",
    ];
    let at: Vec<Option<usize>> = found.iter().map(|words| log.find(words)).collect();
    assert!(at[0].is_some() && at.is_sorted(), "{at:?} in {log}");
    wait_parameter_is(&scripted.cluster, "keeper1", NAMES, &format!("stolon_{old}")).await;
}

/// PostgreSQL releases a commit when a standby reports its position, which one that has everything does only from time to
/// time: here never.
#[tokio::test]
async fn synchronous_commit_is_released_by_a_standby_that_already_has_everything() {
    let scripted = ScriptedCluster::start(2).await;
    let cluster = &scripted.cluster;
    store_data(cluster, |data| {
        for db in data["dbs"].as_object_mut().unwrap().values_mut() {
            db["spec"]["pgParameters"] = json!({"wal_receiver_status_interval": "0", "checkpoint_timeout": "1h"});
            db["generation"] = json!(db["generation"].as_i64().unwrap() + 1);
        }
    })
    .await;
    wait_parameter_is(cluster, "keeper1", "wal_receiver_status_interval", "0").await;
    scripted.store_standbys(&scripted.dbs[0], &[], &[FAKE]).await;
    wait_parameter_is(cluster, "keeper0", NAMES, FAKE).await;
    let sql = cluster.connect("keeper0").await;
    let commit = tokio::spawn(async move { sql.run("insert into t values (1)").await });
    wait_query_returns(
        cluster,
        "keeper0",
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
        "1",
    )
    .await;
    wait_query_returns(
        cluster,
        "keeper0",
        "select count(*) from pg_stat_replication where flush_lsn = pg_current_wal_flush_lsn()",
        "1",
    )
    .await;
    scripted.wait_for_standbys(&[1]).await;
    // A background process writes WAL after 15 s, which would hide the fault.
    let released = tokio::time::timeout(Duration::from_secs(10), commit).await;
    released.expect("the commit is released").unwrap().unwrap();
}

fn cluster_log(cluster: &Cluster, program: &str) -> String {
    fs::read_to_string(cluster.dir().log(program)).unwrap()
}

/// Rule: synchronous SY-13.
#[tokio::test]
async fn synchronous_standby_that_leaves_stops_when_no_commit_waits_for_it_or_after_its_limit() {
    let mut scripted = ScriptedCluster::start(3).await;
    scripted.wait_for_standbys(&[1, 2]).await;
    scripted.wait_marked("keeper0", &[1, 2]).await;

    let began = now();
    scripted.cluster.process("keeper1").signal(Signal::TERM);
    eventually("keeper1 to leave", SHORT_TIMEOUT, async || {
        let key = scripted.cluster.store.keys().keeper_info("keeper1");
        let entry = scripted
            .cluster
            .store
            .get(&key)
            .await
            .map_err(|error| error.to_string())?;
        let info: KeeperInfo = from_slice(&entry.ok_or("no info")?.value).map_err(|error| error.to_string())?;
        check(info.leaving, || "not yet".to_owned())
    })
    .await;
    scripted.wait_for_standbys(&[2]).await;
    let replaced = now();
    assert_eq!(scripted.cluster.process("keeper1").exit_status(LONG_TIMEOUT).await, 0);
    let warning = "the cluster data still list this synchronous standby";
    if replaced.since(began) < Duration::from_secs(1) {
        assert!(!scripted.cluster.process("keeper1").log().contains(warning));
    }

    // Nobody replaces keeper2: it ends all the same.
    assert_eq!(scripted.cluster.stop("keeper2", Signal::TERM).await, 0);
    assert!(scripted.cluster.process("keeper2").log().contains(warning));
    assert_eq!(scripted.cluster.postmaster("keeper2"), None);
}

/// Rule: synchronous SY-19.
#[tokio::test]
async fn synchronous_commit_below_on_is_a_problem_that_status_shows() {
    let scripted = ScriptedCluster::start(2).await;
    let cluster = &scripted.cluster;
    scripted.wait_for_standbys(&[1]).await;
    let sql = cluster.connect("keeper0").await;
    sql.run("alter role app set synchronous_commit = local").await.unwrap();
    wait_status_shows(cluster, &["keeper0"], "local (role app").await;
    sql.run("alter role app reset synchronous_commit").await.unwrap();
    wait_status_lacks(cluster, &["keeper0"], "local (role app").await;
}
