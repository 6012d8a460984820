//! A keeper whose data are lost, see `docs/operating.md`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use model::Role;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;

/// PGDATA alone is lost, or the whole directory of the keeper.
#[tokio::test]
async fn a_standby_whose_data_are_lost_is_copied_again() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    for lost in [cluster.pgdata("keeper1"), cluster.dir().data_dir("keeper1")] {
        let before = cluster.db_uid("keeper1").await;
        assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
        fs::remove_dir_all(&lost).unwrap();
        cluster.start("keeper1");
        cluster.wait_other_db("keeper1", &before).await;
        cluster.wait_healthy("keeper1", &Role::Standby).await;
        cluster
            .connect("keeper0")
            .await
            .run("select pg_switch_wal()")
            .await
            .unwrap();
        cluster.wait_caught_up("keeper1", "keeper0").await;
        assert_eq!(cluster.master().await.unwrap(), "keeper0");
    }
}

/// The server still runs, but its files are lost.
#[tokio::test]
async fn a_standby_whose_data_are_lost_while_it_runs_is_copied_again() {
    let cluster = Cluster::builder(Profile::Fast).start().await;
    let before = cluster.db_uid("keeper1").await;
    remove_while_used(&cluster.pgdata("keeper1"));
    cluster.wait_other_db("keeper1", &before).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// A master's PGDATA is lost: a standby is elected, and the old master becomes a standby.
#[tokio::test]
async fn a_master_whose_pgdata_is_lost_is_replaced() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "20s")
        .start()
        .await;
    cluster
        .connect("keeper0")
        .await
        .run("create table t as select 1")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    fs::remove_dir_all(cluster.pgdata("keeper0")).unwrap();
    cluster.start("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_healthy("keeper1", &Role::Master).await;
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    let sql = cluster.connect("keeper1").await;
    assert_eq!(sql.value("select count(*) from t").await.unwrap(), "1");
}

/// Removes a directory in which a server may make files meanwhile.
fn remove_while_used(directory: &Path) {
    for _ in 0..1000 {
        match fs::remove_dir_all(directory) {
            Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty => {}
            removed => return removed.unwrap(),
        }
    }
    panic!("{} is filled as fast as it is emptied", directory.display());
}
