//! Copies over previous data: what is kept until the new data are complete, and what is not copied at all.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use model::Role;
use serde_json::Value;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::Signal;
use stolon_tests::spec::store_data;
use stolon_tests::sql::SqlClient;
use stolon_tests::status;
use stolon_tests::wait::{eventually, throughout};

use super::{
    SEVERAL_ROUNDS, assign_new_db, kill_and_copy_again, kill_keeper_and_server_at, make_dir, old_data_directory,
    restart_with_new_db, wait_old_data_removed,
};

/// The previous data are kept until the copy is recorded, and a `pg_wal` that is a link stays a link.
#[tokio::test]
async fn a_copy_keeps_the_old_data_until_it_is_complete_and_keeps_a_pg_wal_link() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let wal = make_dir(&cluster, "wal");
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    let pgdata = cluster.pgdata("keeper1");
    for entry in fs::read_dir(pgdata.join("pg_wal")).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), wal.join(entry.file_name())).unwrap();
    }
    fs::remove_dir(pgdata.join("pg_wal")).unwrap();
    symlink(&wal, pgdata.join("pg_wal")).unwrap();
    fs::write(wal.join("notes"), "foreign file").unwrap();
    cluster.start("keeper1");
    cluster.wait_healthy("keeper1", &Role::Standby).await;

    kill_and_copy_again(&mut cluster, "keeper1").await;
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).unwrap(), wal);
    let has_segment = || {
        let names = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.len() == 24)
    };
    assert!(has_segment());
    assert_eq!(fs::read_to_string(wal.join("notes")).unwrap(), "foreign file");
    wait_old_data_removed(&cluster, "keeper1").await;
}

/// The new server starts and does not answer: the old data are kept as long as that lasts.
#[tokio::test]
async fn the_old_data_are_removed_only_once_the_new_server_has_answered() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let hold = cluster.dir().path().join("hold");
    pg_programs::wrap(&mut cluster, "keeper1", "held", |program, real| match program {
        "postgres" => pg_programs::starting_script(&hold, real),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.kill_keeper_and_postgres("keeper1");
    fs::write(&hold, "").unwrap();
    let log_length = restart_with_new_db(&mut cluster, "keeper1").await;
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log_after(log_length, "running pg_basebackup", LONG_TIMEOUT)
        .await;
    let pgdata = cluster.pgdata("keeper1");
    eventually("the copy to be complete", LONG_TIMEOUT, async || {
        check(pgdata.join("PG_VERSION").exists(), || "it is not".to_owned())
    })
    .await;
    status::wait_status_shows(&cluster, &["keeper1"], "PostgreSQL does not accept connections yet").await;
    let old = old_data_directory(&cluster, "keeper1").expect("the old data are kept");
    throughout("the old data", SEVERAL_ROUNDS, async || {
        check(old.join("PG_VERSION").exists(), || "removed".to_owned())
    })
    .await;
    fs::remove_file(&hold).unwrap();
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_old_data_removed(&cluster, "keeper1").await;
    status::wait_status_has_no_problems(&cluster).await;
}

/// The instance at the followed db's address is on an older timeline than the recorded one: a copy of it could lack
/// acknowledged transactions.
#[tokio::test]
async fn a_source_behind_the_recorded_timeline_is_not_copied() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    cluster.process("sentinel0").kill();
    let timeline = |timeline: u64| {
        move |data: &mut Value| {
            let master = data["cluster"]["status"]["master"].as_str().unwrap().to_owned();
            data["dbs"][master]["status"]["timelineID"] = timeline.into();
        }
    };
    store_data(&cluster, timeline(7)).await;
    assign_new_db(&cluster, "keeper1").await;
    let behind = "its timeline is 1, and the cluster data have 7 for the followed db";
    status::wait_status_shows(&cluster, &["keeper1"], behind).await;
    assert!(cluster.pgdata("keeper1").join("PG_VERSION").exists());
    assert!(old_data_directory(&cluster, "keeper1").is_none(), "nothing is moved");
    let copies = cluster
        .process("keeper1")
        .log()
        .matches("running pg_basebackup")
        .count();
    assert_eq!(copies, 1, "the first copy");

    store_data(&cluster, timeline(1)).await;
    cluster.start("sentinel0");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_old_data_removed(&cluster, "keeper1").await;
}

/// The advertised address leads to an instance of another cluster with the same passwords.
#[tokio::test]
async fn an_instance_of_another_cluster_is_not_copied() {
    let mut other_cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    other_cluster.process("keeper0").kill(); // its server keeps running, and no keeper drops its slots
    cluster
        .process("keeper1")
        .wait_for_log("already standby", SHORT_TIMEOUT)
        .await;
    // No standby is left to be elected while keeper0 is restarted.
    cluster.kill_keeper_and_postgres("keeper1");
    let port = other_cluster.port("keeper0");
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster
        .program("keeper0")
        .options
        .push(format!("--pg-advertise-port={port}"));
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;

    let log_length = restart_with_new_db(&mut cluster, "keeper1").await;
    let db = eventually("a new db", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let (uid, _) = stolon_tests::cluster::db_of(&data, "keeper1").map_err(error_text)?;
        Ok::<_, String>(uid.to_string())
    })
    .await;
    let sql = other_cluster.connect("keeper0").await;
    sql.run(&format!("select pg_create_physical_replication_slot('stolon_{db}')"))
        .await
        .unwrap();
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log_after(log_length, "another instance answers at", LONG_TIMEOUT)
        .await;
    let ids = [&sql, &cluster.connect("keeper0").await];
    for sql in ids {
        let id = sql
            .value("select system_identifier from pg_control_system()")
            .await
            .unwrap();
        cluster
            .process("keeper1")
            .wait_for_log_after(log_length, &id, SHORT_TIMEOUT)
            .await;
    }
    assert!(!cluster.process("keeper1").log()[log_length..].contains("running pg_basebackup"));
    assert!(cluster.pgdata("keeper1").join("PG_VERSION").exists());

    // With the correct address the copy is made.
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster
        .program("keeper0")
        .options
        .retain(|option| !option.starts_with("--pg-advertise-port"));
    cluster.start("keeper0");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// pg_basebackup fails each time: the pause before the next attempt grows, and the old data are kept.
#[tokio::test]
async fn failing_copies_are_retried_with_backoff_and_lose_no_data() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    pg_programs::wrap(&mut cluster, "keeper1", "programs", |program, real| match program {
        "pg_basebackup" => "#!/bin/sh\necho it fails >&2\nexit 1\n".to_owned(),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.kill_keeper_and_postgres("keeper1");
    let log_length = restart_with_new_db(&mut cluster, "keeper1").await;
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log_after(log_length, "attempt 1; waiting 5s before the next one", LONG_TIMEOUT)
        .await;
    keeper
        .wait_for_log_after(log_length, "attempt 2; waiting 10s before the next one", LONG_TIMEOUT)
        .await;
    let attempts = keeper.log()[log_length..].matches("running pg_basebackup").count();
    assert_eq!(attempts, 2);
    let (status, shown) = cluster.stolonctl(&["status"]).await;
    assert!(
        status == 0 && shown.contains("copying the followed db failed"),
        "{shown}"
    );
    let old = old_data_directory(&cluster, "keeper1").expect("the old data are there");
    assert!(old.join("PG_VERSION").exists());

    assert_eq!(cluster.stop("keeper1", Signal::TERM).await, 0);
    pg_programs::use_default(&mut cluster, "keeper1");
    cluster.start("keeper1");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_old_data_removed(&cluster, "keeper1").await;
}

/// PGDATA is a link: a copy goes to its target.
#[tokio::test]
async fn a_pgdata_that_is_a_link_stays_a_link() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let real = make_dir(&cluster, "real");
    let dir = cluster.dir().data_dir(&uid);
    fs::create_dir(&dir).unwrap();
    cluster.dir().give_to_user(&dir).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&real, dir.join("postgres")).unwrap();
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    kill_keeper_and_server_at(&mut cluster, &uid, &real);
    let log_length = restart_with_new_db(&mut cluster, &uid).await;
    cluster
        .process(&uid)
        .wait_for_log_after(log_length, "sync succeeded", LONG_TIMEOUT)
        .await;
    cluster.wait_healthy(&uid, &Role::Standby).await;
    assert_eq!(fs::read_link(dir.join("postgres")).unwrap(), real);
    assert!(real.join("PG_VERSION").exists());
    let sql = SqlClient::connect(&cluster.sql_config(&uid)).await.unwrap();
    assert_eq!(sql.value("select pg_is_in_recovery()").await.unwrap(), "t");
}
