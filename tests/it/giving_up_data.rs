//! An operator elects a standby that lacks data when those that have everything are lost: `stolonctl failover` (synchronous SY-20).

use model::{Role, from_slice};
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::spec::update;
use stolon_tests::synchronous::standbys;
use stolon_tests::wait::eventually;

#[tokio::test]
async fn a_standby_that_lacks_data_is_elected_by_an_operator_when_master_and_synchronous_standby_are_lost() {
    let cluster = Cluster::builder(Profile::Fast).keepers(3).proxies(1);
    let mut cluster = cluster.synchronous(Some((1, 1))).start().await;
    cluster.wait_proxy_serves("proxy0").await;
    let (in_sync, older) = standbys(&cluster).await;
    let sql = cluster.connect("proxy0").await;
    sql.run("create table test (what text); insert into test values ('kept')")
        .await
        .unwrap();
    cluster.wait_caught_up(&older, "keeper0").await;
    assert_eq!(cluster.stop(&older, Signal::INT).await, 0);
    sql.run("insert into test values ('given up')").await.unwrap();
    // The standby first, until it counts as failed: it could still be elected otherwise, and be the one that is replaced.
    cluster.kill_keeper_and_postgres(&in_sync);
    cluster.wait_counts_as_failed(&in_sync).await;
    cluster.kill_keeper_and_postgres("keeper0");
    cluster.start(&older);
    cluster.wait_healthy(&older, &Role::Standby).await;
    cluster
        .process("sentinel0")
        .wait_for_log("no eligible masters", LONG_TIMEOUT)
        .await;
    assert_eq!(cluster.master().await.unwrap(), "keeper0");

    let arguments = ["failover", "--to", &older, "--accept-data-loss", "--yes"];
    let (status, output) = cluster.stolonctl(&arguments).await;
    assert_eq!(status, 0, "{output}");
    for words in [
        "Master to be replaced: keeper keeper0",
        "all that the new one lacks is lost",
        "known to be in sync: keeper",
        "promoted and announced: keeper",
    ] {
        assert!(output.contains(words), "no {words:?} in {output}");
    }
    assert_eq!(cluster.master().await.unwrap(), older);
    let key = cluster.store.keys().failover_request();
    let left = cluster.store.get(&key).await.unwrap();
    assert!(
        left.is_none(),
        "{:?}",
        left.map(|entry| from_slice::<model::FailoverRequest>(&entry.value))
    );

    // Clients read at once, and write once the minimum that cannot be reached is lowered.
    cluster.wait_proxy_serves("proxy0").await;
    let rows = "select string_agg(what, ' ' order by what) from test";
    assert_eq!(cluster.query("proxy0", rows).await.unwrap(), "kept");
    update(&cluster, &json!({"minSynchronousStandbys": 0})).await;
    let sql = cluster.connect("proxy0").await;
    sql.run("insert into test values ('new')").await.unwrap();

    // What comes back has the new master's rows, not those that were given up.
    for keeper in ["keeper0", in_sync.as_str()] {
        cluster.start(keeper);
        cluster.wait_healthy(keeper, &Role::Standby).await;
        cluster.wait_caught_up(keeper, &older).await;
        eventually(format!("the rows on {keeper}"), LONG_TIMEOUT, async || {
            let found = cluster.query(keeper, rows).await?;
            check(found == "kept new", || found)
        })
        .await;
    }
}
