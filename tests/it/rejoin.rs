//! Old masters that come back with data that diverged from the new master's: a copy replaces them (extensions ).
//! `failover` has the case without a copy.

use std::path::PathBuf;

use model::Role;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;

/// Starts two keepers whose master has a row that the stopped standby has not received, and puts a file into the
/// master's directory that no copy has.
async fn diverged() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table test (what text)").await.unwrap();
    sql.run("insert into test values ('shared')").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    sql.run("insert into test values ('diverged')").await.unwrap();
    let marker = create_marker(&cluster);
    (cluster, marker)
}

fn create_marker(cluster: &Cluster) -> PathBuf {
    let marker = cluster.pgdata("keeper0").join("no_copy_has_replaced_this_directory");
    std::fs::write(&marker, "").unwrap();
    marker
}

/// Waits for the failover, starts the old master's keeper, and checks that a copy is made for this reason and that it
/// has the rows of the new master.
async fn assert_replaced_by_a_copy(mut cluster: Cluster, marker: PathBuf, reason: &str) {
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_healthy("keeper1", &Role::Master).await;
    let sql = cluster.connect("keeper1").await;
    sql.run("insert into test values ('new')").await.unwrap();

    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    cluster
        .process("keeper0")
        .wait_for_log_after(log_length, "running pg_basebackup", LONG_TIMEOUT)
        .await;
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;

    let log = cluster.process("keeper0").log();
    assert!(
        log[log_length..].contains(reason),
        "{reason:?} is not in {}",
        &log[log_length..]
    );
    assert!(!marker.exists(), "the old directory is still there");
    let rows = "select what from test order by what";
    let expected = sql.column(rows).await.unwrap();
    let old_master = cluster.connect("keeper0").await;
    assert_eq!(old_master.column(rows).await.unwrap(), expected);
    assert!(!expected.contains(&"diverged".to_owned()) && expected.contains(&"new".to_owned()));
}

#[tokio::test]
async fn an_old_master_killed_with_rows_that_no_standby_received_is_replaced_by_a_copy() {
    let (mut cluster, marker) = diverged().await;
    cluster.kill_keeper_and_postgres("keeper0");
    cluster.start("keeper1");
    assert_replaced_by_a_copy(cluster, marker, "the old data were not shut down cleanly").await;
}

#[tokio::test]
async fn an_old_master_stopped_cleanly_after_the_fork_is_replaced_by_a_copy() {
    let (mut cluster, marker) = diverged().await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster.start("keeper1");
    let reason = "the old data extend past the point where the source left their timeline";
    assert_replaced_by_a_copy(cluster, marker, reason).await;
}

/// Data that were not stopped cleanly are replaced even when no row has diverged.
#[tokio::test]
async fn an_old_master_killed_with_everything_received_is_replaced_by_a_copy() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table test (what text)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let marker = create_marker(&cluster);
    cluster.kill_keeper_and_postgres("keeper0");
    assert_replaced_by_a_copy(cluster, marker, "the old data were not shut down cleanly").await;
}
