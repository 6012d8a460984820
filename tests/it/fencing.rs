//! Fencing, section 4: no client is told by an old master that something was done, once a new one is published.

use std::time::Duration;

use control::model::ClusterData;
use control::store::{Target, Watch};
use stolon_tests::cluster::{Cluster, LONG_TIMEOUT, Profile, SHORT_TIMEOUT, check};
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::tcp_relay::{NetworkCondition, TcpRelay};
use stolon_tests::wait::eventually;
use stolon_tests::writers::{Writers, lost_rows_after};

/// fencing 4.2, F-3: the proxy stands still with a statement on its way to the old master and an answer on its way
/// back; when it goes on, the new master is published, and neither is carried.
#[tokio::test]
async fn a_frozen_proxy_carries_nothing_of_the_old_master_when_it_goes_on() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let asked = cluster.connect("proxy0").await;
    let idle = cluster.connect("proxy0").await;
    idle.run("create table test (what text)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let watch = watch_data(&cluster);

    // an answer that the server gives while the proxy stands still
    let answer = tokio::spawn(async move {
        let answer = asked
            .run("select pg_sleep(1); insert into test values ('answered late')")
            .await;
        (answer, asked)
    });
    let direct = cluster.connect("keeper0").await;
    eventually("the server to run the statement", SHORT_TIMEOUT, async || {
        let running = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'";
        let count = direct.value(running).await.map_err(|error| format!("{error:#}"))?;
        check(count == "1", || "it does not".to_owned())
    })
    .await;
    cluster.process("proxy0").freeze(SHORT_TIMEOUT).await;
    // a statement that is sent while the proxy stands still
    let statement = tokio::spawn(async move {
        let sent = idle.run("insert into test values ('sent late')").await;
        (sent, idle)
    });
    // the keeper dies, its server goes on and would do all that is asked of it
    cluster.process("keeper0").kill();
    published(&watch, "keeper1").await;
    let late = "select count(*) from test where what = 'answered late'";
    assert_eq!(
        direct.value(late).await.unwrap(),
        "1",
        "the old server was to go on for this test"
    );

    cluster.process("proxy0").signal(Signal::CONT);

    let (answered, asked) = answer.await.unwrap();
    assert!(answered.is_err(), "the old master's answer reached the client");
    let (sent, idle) = statement.await.unwrap();
    assert!(sent.is_err(), "the old master acknowledged what was sent later");
    assert!(asked.is_closed() && idle.is_closed());
    let count = direct
        .value("select count(*) from test where what = 'sent late'")
        .await
        .unwrap();
    assert_eq!(count, "0", "what was sent late reached the old master");
    cluster.wait_serving("proxy0").await;
}

/// fencing 4.3: the proxy alone is cut off from the store.
#[tokio::test]
async fn a_proxy_cut_off_from_the_store_acknowledges_nothing_of_the_old_master() {
    fails_over_while(|relay| relay.disable(), TcpRelay::enable).await;
}

/// fencing 4.3: the store answers the proxy, but a check-in (two requests) takes 0.9 of what it may, which is
/// proxyTimeout / 3 = 1 s (proxy P-3).
#[tokio::test]
async fn a_proxy_with_a_slow_store_acknowledges_nothing_of_the_old_master() {
    fails_over_while(
        |relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(225))),
        fair,
    )
    .await;
}

/// fencing 4.3: and at 1.1 of it.
#[tokio::test]
async fn a_proxy_with_a_store_slower_than_its_limit_acknowledges_nothing_of_the_old_master() {
    fails_over_while(
        |relay| relay.set_both(NetworkCondition::Delay(Duration::from_millis(275))),
        fair,
    )
    .await;
}

/// fencing 4.3: the store stops for everybody while the old master's keeper is dead and its server goes on.
#[tokio::test]
async fn a_stopped_store_lets_nobody_acknowledge_for_the_old_master() {
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
    eventually("the sessions to end with the lease", SHORT_TIMEOUT, async || {
        check(session.is_closed(), || "open".to_owned())
    })
    .await;
    cluster.restart_etcd().await;
    let watch = watch_data(&cluster);
    published(&watch, "keeper1").await;
    let at_publication = writers.stats();
    writers.wait_served().await;
    let sql = cluster.connect("keeper1").await;
    assert_eq!(
        lost_rows_after(&sql, &at_publication, &writers.stop()).await.unwrap(),
        0
    );
}

/// The master's keeper dies while its server goes on, and the proxy's way to the store has this weather: what is
/// acknowledged after the new master is published is on the new master.
async fn fails_over_while(worsen: impl Fn(&TcpRelay), mend: impl Fn(&TcpRelay)) {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let relay = TcpRelay::to(&cluster.etcd.address()).await;
    let proxy = cluster.prepare_proxy();
    cluster.program(&proxy).store_endpoint = relay.endpoint();
    cluster.start(&proxy);
    cluster.wait_serving(&proxy).await;
    Writers::create_table(&cluster.connect(&proxy).await).await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let writers = Writers::start(&cluster.sql_config(&proxy), 2);
    eventually("rows", SHORT_TIMEOUT, async || {
        check(writers.rows() > 20, || "too few".to_owned())
    })
    .await;
    let watch = watch_data(&cluster);

    worsen(&relay);
    cluster.process("keeper0").kill();
    published(&watch, "keeper1").await;
    let at_publication = writers.stats();
    // the old server takes writes to the end: only the proxy keeps clients from it
    assert!(cluster.postmaster("keeper0").is_some());
    let direct = cluster.connect("keeper0").await;
    assert_eq!(direct.value("select pg_is_in_recovery()").await.unwrap(), "f");
    mend(&relay);
    writers.wait_served().await;

    let met = writers.stop();
    let sql = SqlClient::connect(&cluster.sql_config("keeper1")).await.unwrap();
    assert_eq!(lost_rows_after(&sql, &at_publication, &met).await.unwrap(), 0);
}

fn fair(relay: &TcpRelay) {
    relay.set_both(NetworkCondition::Normal);
}

fn watch_data(cluster: &Cluster) -> Watch {
    cluster
        .store
        .watch(vec![Target::Key(cluster.store.keys().cluster_data())], None)
}

/// Waits until the proxy section names the db of this keeper.
async fn published(watch: &Watch, keeper: &str) {
    let named = async {
        loop {
            for change in watch.changed().await.keys.into_values() {
                let Some(entry) = change.now else { continue };
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
        .expect("another master is published in time");
}
