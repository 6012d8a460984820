//! Tablespaces: directories outside PGDATA, which two keepers may share and which outlive lost data.

use std::fs;
use std::path::Path;

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::sql::SqlClient;
use stolon_tests::wait::{eventually, throughout};

use super::{SEVERAL_ROUNDS, make_dir, restart_with_new_db, with_mounts};

async fn create_tablespace(sql: &SqlClient, location: &Path) {
    let statement = format!("create tablespace ts location '{}'", location.display());
    sql.run(&statement).await.unwrap();
}

/// Makes a table of 1,000 rows in the tablespace.
async fn fill_table(sql: &SqlClient) {
    sql.run("create table t (id int) tablespace ts").await.unwrap();
    sql.run("insert into t select generate_series(1, 1000)").await.unwrap();
}

/// Two keepers on one host: the old master's links lead to the tablespace directory of the new master.
#[tokio::test]
async fn a_returning_old_master_does_not_touch_a_shared_tablespace() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let space = make_dir(&cluster, "ts");
    let sql = cluster.connect("keeper0").await;
    create_tablespace(&sql, &space).await;
    fill_table(&sql).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
    eventually("both keepers' problems in status", SHORT_TIMEOUT, async || {
        let (status, shown) = cluster.stolonctl(&["status"]).await;
        let named = shown.lines().filter(|line| line.contains(&*space.to_string_lossy()));
        check(status == 0 && named.count() >= 2, || shown)
    })
    .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_healthy("keeper1", &Role::Master).await;

    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let keeper = cluster.process("keeper0");
    keeper
        .wait_for_log_after(log_length, "no new data are created, because of", SHORT_TIMEOUT)
        .await;
    keeper
        .wait_for_log_after(log_length, "run this keeper on another host", SHORT_TIMEOUT)
        .await;
    let resyncs = || {
        keeper.log()[log_length..]
            .matches("resyncing the database cluster")
            .count()
    };
    let before = resyncs();
    throughout("no repeated log lines", SEVERAL_ROUNDS, async || {
        check(resyncs() == before, || keeper.tail(20))
    })
    .await;
    assert!(!keeper.log()[log_length..].contains("running pg_basebackup"));
    assert!(
        cluster.pgdata("keeper0").join("PG_VERSION").exists(),
        "its data are kept"
    );
    let sql = cluster.connect("keeper1").await;
    assert_eq!(sql.value("select count(*) from t").await.unwrap(), "1000");
    sql.run("insert into t select generate_series(1, 1000)").await.unwrap();
    sql.run("checkpoint").await.unwrap();

    // One of the remedies in the message.
    sql.run("alter table t set tablespace pg_default").await.unwrap();
    sql.run("drop tablespace ts").await.unwrap();
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;
    let log = cluster.process("keeper0").log();
    let is_found = |line: &&str| line.contains("problem found") && line.contains("no new data are created");
    let count = log[log_length..].lines().filter(is_found).count();
    assert_eq!(count, 1, "logged once");
    assert_eq!(
        cluster
            .connect("keeper0")
            .await
            .value("select count(*) from t")
            .await
            .unwrap(),
        "2000"
    );
}

/// Each keeper has its own file system at the tablespace's location, as on two hosts. PGDATA is lost; the tablespace
/// directory remains, and has the keeper's mark.
#[tokio::test]
async fn a_copy_reuses_the_tablespace_directory_of_lost_data() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let (space, below) = (make_dir(&cluster, "ts"), make_dir(&cluster, "ts1"));
    fs::write(below.join("notes"), "foreign file").unwrap();
    let sql = cluster.connect("keeper0").await;
    create_tablespace(&sql, &space).await;
    fill_table(&sql).await;
    let uid = cluster.prepare_keeper();
    let script = format!("mount --bind {} {}", below.display(), space.display());
    with_mounts(&mut cluster, &uid, &script);
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    let version_directory = || {
        let names = fs::read_dir(&below).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with("PG_"))
    };
    assert!(version_directory(), "its tablespace is on its own file system");

    cluster.kill_keeper_and_postgres(&uid);
    fs::remove_dir_all(cluster.pgdata(&uid)).unwrap();
    restart_with_new_db(&mut cluster, &uid).await;
    cluster.wait_healthy(&uid, &Role::Standby).await;
    cluster.wait_caught_up(&uid, "keeper0").await;
    assert_eq!(
        cluster
            .connect(&uid)
            .await
            .value("select count(*) from t")
            .await
            .unwrap(),
        "1000"
    );
    assert_eq!(fs::read_to_string(below.join("notes")).unwrap(), "foreign file");
    sql.run("checkpoint").await.unwrap();
    assert_eq!(sql.value("select count(*) from t").await.unwrap(), "1000");
}

/// A tablespace directory of unknown origin stops the copy and is not changed.
#[tokio::test]
async fn a_tablespace_directory_of_unknown_origin_stops_the_copy() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let (space, below) = (make_dir(&cluster, "ts"), make_dir(&cluster, "ts1"));
    let sql = cluster.connect("keeper0").await;
    create_tablespace(&sql, &space).await;
    let version = format!(
        "select 'PG_{}_' || catalog_version_no from pg_control_system()",
        pg_programs::major()
    );
    let version = sql.value(&version).await.unwrap();
    let foreign = below.join(version);
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("content"), "foreign file").unwrap();
    let uid = cluster.prepare_keeper();
    let script = format!("mount --bind {} {}", below.display(), space.display());
    with_mounts(&mut cluster, &uid, &script);
    cluster.start(&uid);
    let keeper = cluster.process(&uid);
    keeper
        .wait_for_log("its contents are not known to belong to this keeper", LONG_TIMEOUT)
        .await;
    assert!(!keeper.log().contains("running pg_basebackup"));
    assert_eq!(fs::read_to_string(foreign.join("content")).unwrap(), "foreign file");
    fs::rename(&foreign, below.join("moved away")).unwrap();
    cluster.wait_healthy(&uid, &Role::Standby).await;
}
