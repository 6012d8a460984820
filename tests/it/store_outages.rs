//! The store is away, for a short or a long time: nothing fails over, and connections are closed only where safety
//! requires it.

use std::time::Duration;

use base::clock::Boottime;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Signal};
use stolon_tests::tcp_relay::{Direction, NetworkCondition};
use stolon_tests::wait::{eventually, now};
use stolon_tests::writers::{Writers, lost_rows};

/// An outage of at most proxyTimeout − proxyCheckInterval − 1 s closes no connection (proxy P-2, fencing F-2). The
/// lease is longer than a busy machine needs to start etcd again.
#[tokio::test]
async fn a_short_store_outage_closes_no_connection_and_causes_no_failover() {
    let cluster = Cluster::builder(Profile::Fast)
        .with("proxyTimeout", "120s")
        .with("proxyCheckInterval", "2s");
    let mut cluster = cluster.start().await;
    let before = cluster.data().await.unwrap();
    let idle = cluster.connect("proxy0").await;
    let writers = Writers::through(&cluster, "proxy0", 2).await;

    let start = now();
    cluster.etcd.kill();
    wait_elapsed(start, Duration::from_secs(5)).await;
    cluster.restart_etcd().await;
    wait_next_check_in(&cluster).await;
    writers.wait_each_client_commits(10).await;

    assert!(!idle.is_closed(), "the session that was idle has ended");
    assert_eq!(idle.value("select 1").await.unwrap(), "1");
    let stats = writers.stop();
    let errors: Vec<_> = stats.iter().map(|stats| &stats.errors).collect();
    assert!(errors.iter().all(|errors| errors.is_empty()), "{errors:?}");
    let after = cluster.data().await.unwrap();
    assert_eq!(before.master_uid(), after.master_uid());
    assert_eq!(lost_rows(&cluster.connect("proxy0").await, &stats).await.unwrap(), 0);
}

/// An outage longer than proxyTimeout closes the connections, but changes no master and loses no row; clients are
/// served soon after etcd is back (fencing F-4, proxy P-2 and P-4).
#[tokio::test]
async fn a_long_store_outage_closes_the_proxies_and_causes_no_failover() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let before = cluster.data().await.unwrap();
    let idle = cluster.connect("proxy0").await;
    let writers = Writers::through(&cluster, "proxy0", 2).await;

    let start = now();
    cluster.etcd.kill();
    eventually(
        "the session to be closed with the lease of 3 s",
        SHORT_TIMEOUT,
        async || check(idle.is_closed(), || "it is open".to_owned()),
    )
    .await;
    // After an outage longer than failInterval the first round must not elect.
    wait_elapsed(start, Duration::from_secs(6)).await;
    cluster.restart_etcd().await;
    writers.wait_each_client_commits(10).await;

    let after = cluster.data().await.unwrap();
    assert_eq!(before.master_uid(), after.master_uid());
    assert_eq!(
        lost_rows(&cluster.connect("proxy0").await, &writers.stop())
            .await
            .unwrap(),
        0
    );
}

/// The route stays open while etcd does not answer for 3 s (proxy P-3).
#[tokio::test]
async fn a_store_that_hangs_briefly_closes_no_connection() {
    let mut cluster = Cluster::builder(Profile::Default).start().await;
    let before = cluster.data().await.unwrap();
    let idle = cluster.connect("proxy0").await;
    cluster.etcd.freeze().await;
    let start = now();
    wait_elapsed(start, Duration::from_secs(3)).await;
    cluster.etcd.thaw();
    wait_next_check_in(&cluster).await;
    assert_eq!(idle.value("select 1").await.unwrap(), "1");
    assert_eq!(before.master_uid(), cluster.data().await.unwrap().master_uid());
}

/// The master's keeper goes on publishing, and the election is conditional on its info (extensions ).
#[tokio::test]
async fn a_master_that_takes_no_connections_is_replaced_although_the_store_answers_late() {
    let mut cluster = Cluster::builder(Profile::Short).endpoints(3).proxies(0).start().await;
    for relay in &cluster.relays {
        relay.set(
            Direction::ToClient,
            NetworkCondition::Delay(Duration::from_millis(1400)),
        );
    }
    let server = cluster.postmaster("keeper0").expect("the master runs");
    // Its sessions go on; new connections are not answered.
    process::send_signal(server, Signal::STOP);
    cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    let log = cluster.process("sentinel0").log();
    assert!(!log.contains("sentinel leadership lost"), "{log}");
}

/// Waits until this time has passed since `start`: the length of an outage.
async fn wait_elapsed(start: Boottime, outage: Duration) {
    eventually(format!("{outage:?} without a store"), LONG_TIMEOUT, async || {
        check(now().since(start) > outage, || "not yet".to_owned())
    })
    .await;
}

/// Waits until the proxy has published its info again.
async fn wait_next_check_in(cluster: &Cluster) {
    let prefix = cluster.store.keys().proxy_infos();
    let newest = async || {
        let infos = cluster.store.list(&prefix).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(infos.iter().map(|entry| entry.mod_revision).max())
    };
    let before = eventually("the store to answer", SHORT_TIMEOUT, &newest).await;
    eventually("a check-in", SHORT_TIMEOUT, async || {
        let now = newest().await?;
        check(now > before, || "none yet".to_owned())
    })
    .await;
}
