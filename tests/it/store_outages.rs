//! The store goes away, for a short time or a long one: nobody fails over, and clients notice as little as is safe.

use std::time::Duration;

use stolon_tests::cluster::{Cluster, LONG_TIMEOUT, Profile, SHORT_TIMEOUT, check};
use stolon_tests::wait::{eventually, now};
use stolon_tests::writers::{Writers, lost_rows};

/// proxy P-2, fencing F-2: away for at most proxyTimeout − proxyCheckInterval − 1 s, etcd costs no connection. The lease
/// is so long that no busy machine takes longer to start etcd again.
#[tokio::test]
async fn a_short_outage_of_the_store_costs_no_connection_and_no_failover() {
    let cluster = Cluster::builder(Profile::Fast)
        .with("proxyTimeout", "120s")
        .with("proxyCheckInterval", "2s");
    let mut cluster = cluster.start().await;
    let before = cluster.data().await.unwrap();
    let idle = cluster.connect("proxy0").await;
    Writers::create_table(&idle).await.unwrap();
    let writers = Writers::start(&cluster.sql_config("proxy0"), 2);
    writers.wait_served().await;

    let start = now();
    cluster.etcd.kill();
    eventually("5 s without a store", LONG_TIMEOUT, async || {
        check(now().since(start) > Duration::from_secs(5), || "not yet".to_owned())
    })
    .await;
    cluster.restart_etcd().await;
    proxies_checked_in_again(&cluster).await;
    writers.wait_served().await;

    assert!(!idle.is_closed(), "the session that was idle has ended");
    assert_eq!(idle.value("select 1").await.unwrap(), "1");
    let met = writers.stop();
    let errors: Vec<_> = met.iter().map(|met| &met.errors).collect();
    assert!(errors.iter().all(|errors| errors.is_empty()), "{errors:?}");
    let after = cluster.data().await.unwrap();
    assert_eq!(before.master_uid(), after.master_uid());
    assert_eq!(lost_rows(&cluster.connect("proxy0").await, &met).await.unwrap(), 0);
}

/// fencing F-4, proxy P-2 and P-4: away for longer than proxyTimeout, etcd costs the connections, but no master and
/// no row; clients get in again soon after it is back.
#[tokio::test]
async fn a_long_outage_of_the_store_closes_proxies_and_costs_no_master() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let before = cluster.data().await.unwrap();
    let idle = cluster.connect("proxy0").await;
    Writers::create_table(&idle).await.unwrap();
    let writers = Writers::start(&cluster.sql_config("proxy0"), 2);
    writers.wait_served().await;

    let start = now();
    cluster.etcd.kill();
    eventually("the session to end with the lease of 3 s", SHORT_TIMEOUT, async || {
        check(idle.is_closed(), || "it is open".to_owned())
    })
    .await;
    // a store that is away for longer than failInterval must not make the first round after it elect anybody
    eventually("6 s without a store", LONG_TIMEOUT, async || {
        check(now().since(start) > Duration::from_secs(6), || "not yet".to_owned())
    })
    .await;
    cluster.restart_etcd().await;
    writers.wait_served().await;

    let after = cluster.data().await.unwrap();
    assert_eq!(before.master_uid(), after.master_uid());
    assert_eq!(
        lost_rows(&cluster.connect("proxy0").await, &writers.stop())
            .await
            .unwrap(),
        0
    );
}

/// proxy P-3: the route stays as it is while etcd restarts at once; the claim for an etcd that is frozen, too.
#[tokio::test]
async fn a_store_that_hangs_for_a_moment_costs_nothing() {
    let mut cluster = Cluster::builder(Profile::Default).start().await;
    let before = cluster.data().await.unwrap();
    let idle = cluster.connect("proxy0").await;
    cluster.etcd.freeze().await;
    let start = now();
    eventually("3 s of a hanging store", LONG_TIMEOUT, async || {
        check(now().since(start) > Duration::from_secs(3), || "not yet".to_owned())
    })
    .await;
    cluster.etcd.thaw();
    proxies_checked_in_again(&cluster).await;
    assert_eq!(idle.value("select 1").await.unwrap(), "1");
    assert_eq!(before.master_uid(), cluster.data().await.unwrap().master_uid());
}

/// Waits until the proxy has written its info anew.
async fn proxies_checked_in_again(cluster: &Cluster) {
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
