//! Failures of the master, of every kind: the cluster keeps serving clients.

use std::time::Duration;

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Signal};
use stolon_tests::wait::{eventually, now};
use stolon_tests::writers::{WriterStats, Writers, lost_rows};

/// The keeper notices the end of its server and starts it again before the sentinel counts it as failed (keeper 12.9).
#[tokio::test]
async fn a_killed_postgres_is_restarted_without_a_failover() {
    // Recovery on a busy machine may take longer than the failInterval of the fast profile.
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "20s")
        .start()
        .await;
    let writers = Writers::through(&cluster, "proxy0", 4).await;
    let before = cluster.data().await.unwrap();
    let old_server = cluster.postmaster("keeper0").unwrap();

    cluster.kill_postmaster("keeper0");

    eventually("a new server", LONG_TIMEOUT, async || {
        cluster
            .postmaster("keeper0")
            .filter(|pid| *pid != old_server)
            .ok_or("none")
    })
    .await;
    writers.wait_each_client_commits(10).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    let after = cluster.data().await.unwrap();
    assert_eq!(before.master_uid(), after.master_uid());
    assert_eq!(before.proxied_master().unwrap().0, after.proxied_master().unwrap().0);
    assert_no_rows_lost(&cluster, writers.stop()).await;
}

/// A keeper that gets SIGTERM publishes that it leaves, so the election does not wait for failInterval (extensions
/// No acknowledged row is lost, and the old master follows without a copy (keeper 6.7).
#[tokio::test]
async fn sigterm_fails_over_without_waiting_for_failinterval_without_loss_and_without_a_copy() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "120s")
        .start()
        .await;
    let writers = Writers::through(&cluster, "proxy0", 4).await;
    let marker = cluster.pgdata("keeper0").join("no_copy_has_replaced_this_directory");
    std::fs::write(&marker, "").unwrap();

    let start = now();
    cluster.process("keeper0").signal(Signal::TERM);
    let elected = cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    writers.wait_each_client_commits(10).await;
    let took = now().since(start);
    assert_eq!(elected, "keeper1");
    assert!(
        took < Duration::from_secs(60),
        "served again after {took:?}: not an orderly shutdown"
    );
    assert_eq!(cluster.process("keeper0").exit_status(SHORT_TIMEOUT).await, 0);
    assert_eq!(cluster.postmaster("keeper0"), None, "the server ends with its keeper");
    assert_no_rows_lost(&cluster, writers.stop()).await;

    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    let log = cluster.process("keeper0").log();
    assert!(!log[log_length..].contains("running pg_basebackup"), "a copy was made");
    assert!(marker.exists(), "the directory was replaced");
    cluster
        .connect("keeper1")
        .await
        .run("insert into writers values (100, 1)")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper0", "keeper1").await;
}

/// SIGINT stops the server cleanly without leaving the cluster: a keeper that is back in time stays the master
/// (keeper 3.8).
#[tokio::test]
async fn a_master_restarted_by_sigint_within_failinterval_stays_master() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .start()
        .await;
    let before = cluster.data().await.unwrap();

    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    assert_eq!(cluster.postmaster("keeper0"), None);
    cluster.start("keeper0");

    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_proxy_serves("proxy0").await;
    assert_eq!(before.master_uid(), cluster.data().await.unwrap().master_uid());
}

/// A power failure of the master's host, and its return (sentinel 16).
#[tokio::test]
async fn sigkill_of_keeper_and_postgres_fails_over_and_the_old_master_comes_back_as_a_standby() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let sql = cluster.connect("proxy0").await;
    sql.run("create table test (id int primary key, value text not null)")
        .await
        .unwrap();
    sql.run("insert into test values (1, 'value1')").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;

    cluster.kill_keeper_and_postgres("keeper0");

    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_proxy_serves("proxy0").await;
    eventually("the old session to be closed", SHORT_TIMEOUT, async || {
        check(sql.is_closed(), || "it is open".to_owned())
    })
    .await;
    let sql = cluster.connect("proxy0").await;
    assert_eq!(sql.value("select value from test").await.unwrap(), "value1");
    sql.run("insert into test values (2, 'value2')").await.unwrap();

    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;
    let old_master = cluster.connect("keeper0").await;
    assert_eq!(
        old_master.column("select value from test order by id").await.unwrap(),
        ["value1", "value2"]
    );
}

/// Of two standbys the one that has received more WAL is elected, whatever its uid: Go stolon elects the one that
/// has received less.
#[tokio::test]
async fn the_most_advanced_of_two_standbys_is_elected() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(3).start().await;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table test (id int)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;

    // keeper1 receives no more WAL: its WAL receiver is stopped.
    let receiver = eventually("keeper1's WAL receiver", SHORT_TIMEOUT, async || {
        cluster
            .connect("keeper1")
            .await
            .value("select pid from pg_stat_wal_receiver")
            .await
            .map_err(error_text)
    })
    .await;
    let receiver: u32 = receiver.parse().unwrap();
    process::send_signal(receiver, Signal::STOP);
    sql.run("insert into test select generate_series(1, 1000)")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper2", "keeper0").await;
    cluster.kill_keeper_and_postgres("keeper0");

    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper2"
    );
    process::send_signal(receiver, Signal::CONT);
    cluster.wait_proxy_serves("proxy0").await;
    let sql = cluster.connect("proxy0").await;
    assert_eq!(sql.value("select count(*) from test").await.unwrap(), "1000");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_caught_up("keeper1", "keeper2").await;
}

/// A standby that lags more than maxStandbyLag is not elected (sentinel C-10).
#[tokio::test]
async fn a_standby_that_lags_too_far_is_not_elected() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("maxStandbyLag", 50 * 1024)
        .start()
        .await;
    let sql = cluster.connect("keeper0").await;
    sql.run("create table test (id int, filler text)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    sql.run("insert into test select id, repeat('x', 100) from generate_series(1, 5000) id")
        .await
        .unwrap();
    // The lag of keeper1 is computed from the master's last reported position.
    let written: u64 = sql
        .value("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
        .await
        .unwrap()
        .parse()
        .unwrap();
    eventually("the master's position in the cluster data", SHORT_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let reported = data
            .master_uid()
            .and_then(|uid| data.dbs().get(uid))
            .map_or(0, |db| db.status.xlog_pos.0);
        check(reported >= written, || format!("{reported} of {written}"))
    })
    .await;
    cluster.kill_keeper_and_postgres("keeper0");
    cluster.start("keeper1");

    cluster
        .process("sentinel0")
        .wait_for_log("no eligible masters", SHORT_TIMEOUT)
        .await;
    assert_eq!(cluster.master().await.unwrap(), "keeper0");
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// The master's keeper and PostgreSQL are frozen and thaw later (sentinel 16).
#[tokio::test]
async fn a_frozen_master_is_replaced_and_follows_when_it_thaws() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let sql = cluster.connect("proxy0").await;
    sql.run("create table test (id int)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;

    cluster.freeze("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_proxy_serves("proxy0").await;
    let sql = cluster.connect("proxy0").await;
    sql.run("insert into test values (1)").await.unwrap();

    cluster.thaw("keeper0");
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;
    assert_eq!(
        cluster
            .connect("keeper0")
            .await
            .value("select count(*) from test")
            .await
            .unwrap(),
        "1"
    );
    assert_eq!(cluster.proxied_master().await.unwrap(), "keeper1");
}

/// An operator marks the master's keeper as failed (sentinel 16).
#[tokio::test]
async fn failkeeper_of_the_master_elects_another() {
    let cluster = Cluster::builder(Profile::Fast).start().await;
    // The standby can be elected once its db has converged, and its timeline is known. The command is not repeated.
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    eventually("keeper1's db to have converged", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let db = data.db_of_keeper(&"keeper1".into()).ok_or("no db")?.1;
        let is_ready = db.status.healthy && db.is_converged() && db.status.timeline_id != 0;
        check(is_ready, || format!("{:?}", db.status))
    })
    .await;
    let (status, output) = cluster.stolonctl(&["failkeeper", "keeper0"]).await;
    assert_eq!((status, output.as_str()), (0, ""));
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_proxy_serves("proxy0").await;
    cluster.wait_healthy("keeper0", &Role::Standby).await;
}

/// The elected standby fails before it serves, and the old master is back: it is elected again (sentinel C-12 and N-14,
/// extensions ).
#[tokio::test]
async fn the_old_master_is_elected_again_when_the_new_one_fails_before_it_serves() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
    cluster.kill_keeper_and_postgres("keeper1");

    cluster.start("keeper0");

    eventually("keeper0 to be elected again", LONG_TIMEOUT, async || {
        let master = cluster.master().await.map_err(error_text)?;
        check(master == "keeper0", || format!("{master} is"))
    })
    .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_proxy_serves("proxy0").await;
}

/// A master's keeper whose directory is lost creates no empty database in its place.
#[tokio::test]
async fn a_master_that_lost_its_data_is_replaced() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    cluster
        .connect("keeper0")
        .await
        .run("create table test (id int)")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    let dir = cluster.dir().data_dir("keeper0");
    std::fs::remove_dir_all(&dir).unwrap();

    cluster.start("keeper0");

    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_proxy_serves("proxy0").await;
    assert_eq!(
        cluster
            .connect("proxy0")
            .await
            .value("select count(*) from test")
            .await
            .unwrap(),
        "0"
    );
    cluster.wait_healthy("keeper0", &Role::Standby).await;
}

/// A master that comes back in time on another port stays the master, and the standby follows it there.
#[tokio::test]
async fn a_master_restarted_on_another_port_stays_master() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .start()
        .await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster.change_port("keeper0");
    cluster.start("keeper0");

    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_proxy_serves("proxy0").await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let receiver = cluster.connect("keeper1").await;
    let port = cluster.port("keeper0").to_string();
    eventually("the standby to follow to the new port", LONG_TIMEOUT, async || {
        let sender = receiver
            .value("select sender_port from pg_stat_wal_receiver")
            .await
            .map_err(error_text)?;
        check(sender == port, || format!("it receives from port {sender}"))
    })
    .await;
}

async fn assert_no_rows_lost(cluster: &Cluster, stats: Vec<WriterStats>) {
    let sql = cluster.connect("proxy0").await;
    assert_eq!(lost_rows(&sql, &stats).await.unwrap(), 0, "acknowledged rows are lost");
}
