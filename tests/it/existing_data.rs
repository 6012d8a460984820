//! Init mode `existing`: a cluster that is initialised from data which a keeper finds in its directory (keeper 5.2).

use std::fs;
use std::path::PathBuf;

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, SUPERUSER, check, error_text};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::pg_programs;
use stolon_tests::process::Signal;
use stolon_tests::spec::store_data;
use stolon_tests::standalone::{Standalone, create_dir};
use stolon_tests::status::{wait_status_has_no_problems, wait_status_shows};
use stolon_tests::wait::eventually;

const ROWS: &str = "select count(*) from kept";

/// A cluster that is to be initialised from the data of `keeper0`, which is prepared and not started: a stopped server's
/// directory with 10 rows, `archive_mode` in its `postgresql.conf` and `work_mem` set by ALTER SYSTEM.
async fn prepared() -> (Cluster, Standalone) {
    prepare(true).await
}

/// The same; `merge` is whether the cluster takes over the parameters that it finds.
async fn prepare(merge: bool) -> (Cluster, Standalone) {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("mergePgParameters", merge)
        .with("initMode", "existing")
        .with("existingConfig", json!({ "keeperUID": "keeper0" }))
        .keepers(0)
        .proxies(0)
        .start()
        .await;
    cluster.prepare_keeper();
    let dir = cluster.dir().data_dir("keeper0");
    create_dir(cluster.dir(), &dir);
    let settings = "archive_mode = on\narchive_command = 'true'";
    let server = Standalone::create(&cluster, &dir.join("postgres"), settings).await;
    let sql = server.connect().await;
    sql.run("create table kept as select generate_series(1, 10)")
        .await
        .unwrap();
    sql.run("alter system set work_mem = '7MB'").await.unwrap();
    (cluster, server)
}

/// Returns the names in PGDATA with their sizes.
fn content(server: &Standalone) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(server.data()).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> = entries
        .map(|entry| (entry.path(), entry.metadata().unwrap().len()))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_cluster_starts_with_the_data_and_the_configuration_of_an_existing_instance() {
    let (mut cluster, server) = prepared().await;
    let system_id = server
        .connect()
        .await
        .value("select system_identifier from pg_control_system()")
        .await
        .unwrap();
    server.stop();
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(cluster.query("keeper0", ROWS).await.unwrap(), "10");
    let now = cluster
        .query("keeper0", "select system_identifier from pg_control_system()")
        .await;
    assert_eq!(now.unwrap(), system_id);
    for (parameter, value) in [("archive_mode", "on"), ("work_mem", "7MB")] {
        assert_eq!(
            cluster.query("keeper0", &format!("show {parameter}")).await.unwrap(),
            value
        );
        let spec = cluster.data().await.unwrap().cluster.unwrap().spec.unwrap();
        assert_eq!(
            spec.pg_parameters.get(parameter).map(String::as_str),
            Some(value),
            "{parameter}"
        );
    }
    let kept = fs::read_to_string(server.data().join("postgresql.conf.original")).unwrap();
    assert!(kept.contains("archive_command = 'true'"), "{kept}");

    let standby = cluster.add_keeper();
    cluster.wait_healthy(&standby, &Role::Standby).await;
    assert_eq!(cluster.query(&standby, ROWS).await.unwrap(), "10");
    wait_status_has_no_problems(&cluster).await;
}

/// Keeper T6.4.
#[tokio::test]
async fn a_cluster_that_merges_no_parameters_starts_existing_data_with_its_own() {
    let (mut cluster, server) = prepare(false).await;
    server.stop();
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(cluster.query("keeper0", ROWS).await.unwrap(), "10");
    for (parameter, value) in [("archive_mode", "off"), ("work_mem", "4MB")] {
        assert_eq!(
            cluster.query("keeper0", &format!("show {parameter}")).await.unwrap(),
            value
        );
    }
    let spec = cluster.data().await.unwrap().cluster.unwrap().spec.unwrap();
    let merged = ["archive_mode", "archive_command", "work_mem"];
    assert!(
        !merged.iter().any(|name| spec.pg_parameters.contains_key(*name)),
        "{:?}",
        spec.pg_parameters
    );
    wait_status_has_no_problems(&cluster).await;
}

/// Each is reported with its remedy, and nothing is stopped, started or changed until it is put right.
#[tokio::test]
async fn data_that_may_not_be_adopted_are_left_as_they_are() {
    let (mut cluster, server) = prepared().await;
    let bin = pg_programs::directory("postgres").unwrap();
    pg_programs::use_dir(&mut cluster, "keeper0", &bin);

    // Their server runs.
    cluster.start("keeper0");
    wait_status_shows(&cluster, &["keeper0"], "no keeper has started it").await;
    assert!(server.runs());
    assert_eq!(server.connect().await.value(ROWS).await.unwrap(), "10");
    assert_eq!(cluster.stop("keeper0", Signal::TERM).await, 0);
    assert!(server.runs(), "a keeper that ends leaves it alone, too");
    server.stop();

    // They are a standby's.
    let file = |name: &str| server.data().join(name);
    fs::write(file("standby.signal"), "").unwrap();
    let before = content(&server);
    cluster.start("keeper0");
    wait_status_shows(&cluster, &["keeper0"], "the data are a standby's").await;
    assert_eq!(content(&server), before);
    fs::remove_file(file("standby.signal")).unwrap();

    // They are a backup.
    fs::write(file("backup_label"), "").unwrap();
    wait_status_shows(&cluster, &["keeper0"], "a backup that was not recovered: backup_label").await;
    fs::remove_file(file("backup_label")).unwrap();

    // They are of another major version. The file is replaced in one step: without it there is no database.
    let version = fs::read_to_string(file("PG_VERSION")).unwrap();
    let replace_version = |text: &str| {
        fs::write(file("PG_VERSION.new"), text).unwrap();
        fs::rename(file("PG_VERSION.new"), file("PG_VERSION")).unwrap();
    };
    replace_version("12\n");
    wait_status_shows(&cluster, &["keeper0"], "the data are of PostgreSQL 12").await;
    replace_version(&version);

    // There is something else.
    let aside = server.data().with_extension("aside");
    fs::rename(server.data(), &aside).unwrap();
    create_dir(cluster.dir(), server.data());
    fs::write(file("notes.txt"), "mine").unwrap();
    wait_status_shows(&cluster, &["keeper0"], "there is no complete database cluster").await;
    assert_eq!(fs::read_to_string(file("notes.txt")).unwrap(), "mine");
    fs::remove_dir_all(server.data()).unwrap();
    fs::rename(&aside, server.data()).unwrap();

    // They are incomplete.
    fs::rename(file("pg_xact"), file("elsewhere")).unwrap();
    wait_status_shows(&cluster, &["keeper0"], "there is no complete database cluster").await;
    assert!(file("base").exists());
    fs::rename(file("elsewhere"), file("pg_xact")).unwrap();

    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(cluster.query("keeper0", ROWS).await.unwrap(), "10");
    wait_status_has_no_problems(&cluster).await;
}

/// The keeper has reported one database cluster for the db and finds another one, for example a wrong copy. The test
/// records the identifier: the db is no longer to be initialised soon after the first report of it.
#[tokio::test]
async fn existing_data_are_not_taken_over_for_a_db_that_was_reported_with_another_system_identifier() {
    let (mut cluster, server) = prepared().await;
    // While their server runs, the db is assigned and nothing else happens.
    cluster.start("keeper0");
    wait_status_shows(&cluster, &["keeper0"], "no keeper has started it").await;
    let query = "select system_identifier from pg_control_system()";
    let system_id = server.connect().await.value(query).await.unwrap();
    let db = cluster.db_uid("keeper0").await;
    let record =
        async |id: &str| store_data(&cluster, |data| data["dbs"][&db]["status"]["systemdID"] = json!(id)).await;
    record("7000000000000000001").await;
    server.stop();
    let before = content(&server);
    let words = format!(
        "the system identifier of the data is {system_id}, and the one recorded for this db is 7000000000000000001"
    );
    wait_status_shows(&cluster, &["keeper0"], &words).await;
    assert!(!server.runs());
    assert_eq!(content(&server), before);

    record(&system_id).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(cluster.query("keeper0", ROWS).await.unwrap(), "10");
    wait_status_has_no_problems(&cluster).await;
}

/// A running cluster is initialised again with the data of its master (keeper T6.3).
#[tokio::test]
async fn a_cluster_that_is_initialised_again_keeps_the_data_and_parameters_of_its_master() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table kept as select generate_series(1, 10)")
        .await
        .unwrap();
    let (status, text) = cluster
        .stolonctl(&["update", "--patch", r#"{"pgParameters":{"work_mem":"9MB"}}"#])
        .await;
    assert_eq!(status, 0, "{text}");
    eventually("the parameter", LONG_TIMEOUT, async || {
        let value = cluster.query("keeper0", "show work_mem").await?;
        check(value == "9MB", || value.clone())
    })
    .await;
    let before = cluster.db_uid("keeper0").await;
    let mut spec = Profile::Fast.spec();
    spec["initMode"] = "existing".into();
    spec["existingConfig"] = json!({ "keeperUID": "keeper0" });
    let (status, text) = cluster.stolonctl(&["init", "--yes", &spec.to_string()]).await;
    assert_eq!(status, 0, "{text}");
    cluster.wait_other_db("keeper0", &before).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(cluster.query("keeper0", ROWS).await.unwrap(), "10");
    let data = cluster.data().await.map_err(error_text).unwrap();
    let parameters = data.cluster.unwrap().spec.unwrap().pg_parameters;
    assert_eq!(
        parameters.get("work_mem").map(String::as_str),
        Some("9MB"),
        "{parameters:?}"
    );
    assert_eq!(cluster.stop("keeper0", Signal::TERM).await, 0);
}

/// The keeper's users are not made in existing data: that they are missing is reported, and the keeper goes on once they
/// are there.
#[tokio::test]
async fn existing_data_that_the_keeper_cannot_log_in_to_are_kept_until_it_can() {
    let (mut cluster, server) = prepared().await;
    let sql = server.connect().await;
    let (user, password) = (SUPERUSER.0, SUPERUSER.1.replace('\'', "''"));
    sql.run(&format!("alter role {user} password 'another'")).await.unwrap();
    server.stop();
    cluster.start("keeper0");
    let words = "PostgreSQL refuses the login of the superuser";
    wait_status_shows(&cluster, &["keeper0"], words).await;
    assert_eq!(cluster.stop("keeper0", Signal::TERM).await, 0);
    assert!(!server.runs());
    server.run_alone(&format!("alter role {user} password '{password}'"));
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(cluster.query("keeper0", ROWS).await.unwrap(), "10");
    assert_eq!(cluster.query("keeper0", "show work_mem").await.unwrap(), "7MB");
    wait_status_has_no_problems(&cluster).await;
}
