//! An elected standby receives another standby's WAL before it is promoted (synchronous SY-21): otherwise the other one
//! would have to be copied.

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::spec::wait_query_returns;
use stolon_tests::synchronous::standbys;
use stolon_tests::wait::eventually;
use stolon_tests::wal_receiver::SuspendedReceiver;

#[tokio::test]
async fn an_elected_standby_takes_from_another_one_what_it_lacks_and_that_one_is_not_copied() {
    let cluster = Cluster::builder(Profile::Fast).keepers(3).proxies(1);
    let mut cluster = cluster.synchronous(Some((1, 1))).start().await;
    cluster.wait_proxy_serves("proxy0").await;
    let (in_sync, ahead) = standbys(&cluster).await;
    let sql = cluster.connect("proxy0").await;
    sql.run("create table test (what text); insert into test values ('acknowledged')")
        .await
        .unwrap();
    cluster.wait_caught_up(&ahead, "keeper0").await;
    let db = cluster.db_uid(&ahead).await;

    // The synchronous standby receives nothing of the next row, whose commit waits for it; the other one does.
    let receiver = SuspendedReceiver::of(&cluster, &in_sync).await;
    let commit = tokio::spawn(async move { sql.run("insert into test values ('sent')").await });
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    wait_query_returns(&cluster, "keeper0", waiting, "1").await;
    cluster.wait_caught_up(&ahead, "keeper0").await;
    cluster.kill_keeper_and_postgres("keeper0");
    assert!(commit.await.unwrap().is_err(), "it was not acknowledged");
    receiver.end();

    cluster.wait_proxy_serves("proxy0").await;
    assert_eq!(cluster.master().await.unwrap(), in_sync);
    let log = cluster.process(&in_sync).log();
    let words = "received the other standby's WAL";
    assert!(log.contains(words), "no {words:?} in {log}");
    // Commits wait for the other standby, which follows the new master with the data that it has.
    let sql = cluster.connect("proxy0").await;
    sql.run("insert into test values ('new')").await.unwrap();
    cluster.wait_healthy(&ahead, &Role::Standby).await;
    assert_eq!(cluster.db_uid(&ahead).await, db, "it was not copied");
    cluster.wait_caught_up(&ahead, &in_sync).await;
    let rows = "select string_agg(what, ' ' order by what) from test";
    for keeper in [&in_sync, &ahead] {
        eventually(format!("the rows on {keeper}"), LONG_TIMEOUT, async || {
            let found = cluster.query(keeper, rows).await?;
            check(found == "acknowledged new sent", || found)
        })
        .await;
    }
}
