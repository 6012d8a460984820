//! Once a new master is announced, no client gets an acknowledgement from the old one (fencing 4).

use std::time::Duration;

use model::ClusterData;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::tcp_relay::{NetworkCondition, TcpRelay};
use stolon_tests::wait::eventually;
use stolon_tests::writers::{Writers, lost_rows_after};
use store::{KeyRange, Watch};

/// A proxy is frozen with a statement on its way to the old master and a response on its way back. When it thaws, the
/// new master is announced, and it forwards neither (fencing 4.2, F-3).
#[tokio::test]
async fn a_frozen_proxy_forwards_nothing_of_the_old_master_after_it_thaws() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let busy = cluster.connect("proxy0").await;
    let idle = cluster.connect("proxy0").await;
    idle.run("create table test (what text)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let watch = watch_data(&cluster);

    // A response that the server sends while the proxy is frozen.
    let answer = tokio::spawn(async move {
        let answer = busy
            .run("select pg_sleep(1); insert into test values ('answered late')")
            .await;
        (answer, busy)
    });
    let direct = cluster.connect("keeper0").await;
    eventually("the server to run the statement", SHORT_TIMEOUT, async || {
        let running = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'";
        let count = direct.value(running).await.map_err(|error| format!("{error:#}"))?;
        check(count == "1", || "it does not".to_owned())
    })
    .await;
    cluster.process("proxy0").freeze(SHORT_TIMEOUT).await;
    // A statement that is sent while the proxy is frozen.
    let statement = tokio::spawn(async move {
        let sent = idle.run("insert into test values ('sent late')").await;
        (sent, idle)
    });
    // The keeper is killed; its server keeps running and would execute statements.
    cluster.process("keeper0").kill();
    wait_announced(&watch, "keeper1").await;
    let late = "select count(*) from test where what = 'answered late'";
    assert_eq!(
        direct.value(late).await.unwrap(),
        "1",
        "the old server must keep running for this test"
    );

    cluster.process("proxy0").signal(Signal::CONT);

    let (answered, busy) = answer.await.unwrap();
    assert!(answered.is_err(), "the old master's answer reached the client");
    let (sent, idle) = statement.await.unwrap();
    assert!(sent.is_err(), "the old master acknowledged what was sent later");
    assert!(busy.is_closed() && idle.is_closed());
    let count = direct
        .value("select count(*) from test where what = 'sent late'")
        .await
        .unwrap();
    assert_eq!(count, "0", "what was sent late reached the old master");
    cluster.wait_proxy_serves("proxy0").await;
}

/// The proxy alone cannot reach the store (fencing 4.3).
#[tokio::test]
async fn a_proxy_without_the_store_forwards_no_acknowledgement_of_the_old_master() {
    assert_fenced_while(|relay| relay.disable(), TcpRelay::enable).await;
}

/// A check-in (two requests) takes 0.9 of its limit, which is proxyTimeout / 3 = 1 s (fencing 4.3, proxy P-3).
#[tokio::test]
async fn a_proxy_with_a_slow_store_forwards_no_acknowledgement_of_the_old_master() {
    assert_fenced_while(
        |relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(225))),
        set_normal,
    )
    .await;
}

/// A check-in takes 1.1 of its limit (fencing 4.3).
#[tokio::test]
async fn a_proxy_with_a_store_slower_than_its_limit_forwards_no_acknowledgement_of_the_old_master() {
    assert_fenced_while(
        |relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(275))),
        set_normal,
    )
    .await;
}

/// The store stops while the old master's keeper is dead and its server keeps running (fencing 4.3).
#[tokio::test]
async fn a_stopped_store_ends_all_acknowledgements_of_the_old_master() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let session = cluster.connect("proxy0").await;
    Writers::create_table(&session).await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let writers = Writers::start(&cluster.sql_config("proxy0"), 2);
    eventually("rows", SHORT_TIMEOUT, async || {
        check(writers.rows() > 20, || "too few".to_owned())
    })
    .await;

    cluster.etcd.kill();
    cluster.process("keeper0").kill();
    eventually("the sessions to be closed with the lease", SHORT_TIMEOUT, async || {
        check(session.is_closed(), || "open".to_owned())
    })
    .await;
    cluster.restart_etcd().await;
    let watch = watch_data(&cluster);
    wait_announced(&watch, "keeper1").await;
    let at_announcement = writers.stats();
    writers.wait_each_client_commits(10).await;
    let sql = cluster.connect("keeper1").await;
    assert_eq!(
        lost_rows_after(&sql, &at_announcement, &writers.stop()).await.unwrap(),
        0
    );
}

/// Kills the master's keeper, whose server keeps running, while `impair` applies to the proxy's connection to the
/// store: every row acknowledged after the announcement is on the new master.
async fn assert_fenced_while(impair: impl Fn(&TcpRelay), repair: impl Fn(&TcpRelay)) {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let relay = TcpRelay::to(&cluster.etcd.address()).await;
    let proxy = cluster.prepare_proxy();
    cluster.program(&proxy).store_endpoint = relay.endpoint();
    cluster.start(&proxy);
    cluster.wait_proxy_serves(&proxy).await;
    Writers::create_table(&cluster.connect(&proxy).await).await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let writers = Writers::start(&cluster.sql_config(&proxy), 2);
    eventually("rows", SHORT_TIMEOUT, async || {
        check(writers.rows() > 20, || "too few".to_owned())
    })
    .await;
    let watch = watch_data(&cluster);

    impair(&relay);
    cluster.process("keeper0").kill();
    wait_announced(&watch, "keeper1").await;
    let at_announcement = writers.stats();
    // The old server accepts writes until the end: only the proxy keeps clients from it.
    assert!(cluster.postmaster("keeper0").is_some());
    let direct = cluster.connect("keeper0").await;
    assert_eq!(direct.value("select pg_is_in_recovery()").await.unwrap(), "f");
    repair(&relay);
    writers.wait_each_client_commits(10).await;

    let stats = writers.stop();
    let sql = SqlClient::connect(&cluster.sql_config("keeper1")).await.unwrap();
    assert_eq!(lost_rows_after(&sql, &at_announcement, &stats).await.unwrap(), 0);
}

fn set_normal(relay: &TcpRelay) {
    relay.set_both(NetworkCondition::Normal);
}

fn watch_data(cluster: &Cluster) -> Watch {
    cluster
        .store
        .watch(vec![KeyRange::Key(cluster.store.keys().cluster_data())], None)
}

/// Waits until the proxy section of the cluster data has the db of this keeper.
async fn wait_announced(watch: &Watch, keeper: &str) {
    let named = async {
        loop {
            for change in watch.changed().await.keys.into_values() {
                let Some(entry) = change.entry else { continue };
                let data = ClusterData::parse(&entry.value).unwrap().unwrap();
                if data
                    .proxied_master()
                    .is_some_and(|(_, db)| db.spec.keeper_uid.as_str() == keeper)
                {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(LONG_TIMEOUT, named)
        .await
        .expect("the new master is announced in time");
}
