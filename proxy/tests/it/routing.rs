//! Where clients go, and when that changes (proxy P-1 to P-6).

use std::time::Duration;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::{eventually, now, throughout};

use crate::harness::{CHECK_INTERVAL, Master, Proxy, ProxyHarness, STEADY_LEASE, run_test};

/// Long enough for a check-in that a watch event starts.
const A_WHILE: Duration = Duration::from_secs(1);

#[test]
fn opens_once_the_master_is_named_and_logs_what_the_walk_through_shows() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let master = Master::start(b'A').await;
        let mut proxy = harness.proxy().await;
        // proxy P-5: the first read opens the socket, whatever it finds; while the route is closed, clients are closed
        proxy
            .process
            .wait_for_log(
                "WARN no clusterdata available, closing connections to master cluster_name=main",
                SHORT_TIMEOUT,
            )
            .await;
        assert!(proxy.process.log().contains("stolonctl init, or see --cluster-name"));
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        proxy
            .wait_for_metric("stolon_proxy_connections_refused_total{reason=\"route_closed\"}", 1.0)
            .await;

        let generation = harness.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.wait_connected_to(b'A').await;
        let info = harness.info(&proxy).await.unwrap();
        assert_eq!((info.generation, info.fenced, info.stopped), (generation, true, false));
        assert_eq!(info.uid.as_str(), proxy.uid);
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        let log = proxy.process.log();
        let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in the log"));
        let address = format!("address=127.0.0.1:{}", master.port);
        let lines = [
            format!("proxy id id={}", proxy.uid),
            "Starting proxying".to_owned(),
            format!("master address {address}"),
            format!("proxying to master address {address}"),
        ];
        assert!(lines.windows(2).all(|pair| at(&pair[0]) < at(&pair[1])), "{log}");
        assert_eq!(proxy.stop().await.0, 0);
    });
}

#[test]
fn a_change_is_followed_by_the_watch_long_before_the_next_check_in() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        harness.set_timing(Duration::from_secs(600), Duration::from_secs(1800));
        let b = Master::start(b'B').await;
        let (_master, proxy) = harness.forwarding().await;
        let client = proxy.wait_connected_to(b'A').await;
        let generation = harness.publish(None, &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        assert_eq!(client.read_to_end().await, b"");
        harness.publish(Some(&b), &[&proxy]).await;
        wait_for_answer_without_pauses(&proxy, b'B').await;
    });
}

#[test]
fn periodic_writes_of_the_sentinel_cause_no_check_in() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        harness.set_timing(Duration::from_secs(600), Duration::from_secs(1800));
        let (_master, proxy) = harness.forwarding().await;
        proxy.wait_connected_to(b'A').await;
        let info = harness.store.keys().proxy_info(&proxy.uid);
        let revision = async || harness.store.get(&info).await.unwrap().map(|entry| entry.mod_revision);
        let before = revision().await;
        let seen = proxy.metric("stolon_proxy_watch_events_total").await.unwrap();
        for _ in 0..5 {
            harness.write().await;
        }
        eventually("the watch to report a write", SHORT_TIMEOUT, async || {
            let now = proxy.metric("stolon_proxy_watch_events_total").await.unwrap();
            if now > seen { Ok(()) } else { Err(now) }
        })
        .await;
        throughout("the info is not written again", A_WHILE, async || {
            let now = revision().await;
            if now == before { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        // what matters is followed as before
        let b = Master::start(b'B').await;
        let generation = harness.publish(None, &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        harness.publish(Some(&b), &[&proxy]).await;
        wait_for_answer_without_pauses(&proxy, b'B').await;
    });
}

/// Connects in a tight loop, without the pauses of `eventually`, until this master answers.
async fn wait_for_answer_without_pauses(proxy: &Proxy, name: u8) {
    let answered = tokio::time::timeout(SHORT_TIMEOUT, async {
        loop {
            if let Ok(mut client) = proxy.connect().await
                && client.ask().await.is_ok_and(|answer| answer == Some(name))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    answered.await.expect("the master is reached in time");
}

// proxy P-4: a few milliseconds from the commit to the first byte. A busy machine slows everything down, so the time is
// compared with the minimum that a change needs, each at its fastest: a write and a read of the store, and one response.
#[test]
fn a_change_takes_no_longer_than_a_few_requests_to_the_store() {
    const ROUNDS: usize = 10;
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        harness.set_timing(Duration::from_secs(600), Duration::from_secs(1800));
        let master = Master::start(b'A').await;
        let proxy = harness.proxy().await;
        let (mut change, mut least) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            let generation = harness.publish(None, &[&proxy]).await;
            harness.acknowledged(&proxy, generation).await;
            harness.publish(Some(&master), &[&proxy]).await;
            let start = now();
            wait_for_answer_without_pauses(&proxy, b'A').await;
            change = change.min(now().since(start));

            let start = now();
            harness.store.put("another key", "value").await.unwrap();
            harness.store.get("another key").await.unwrap();
            wait_for_answer_without_pauses(&proxy, b'A').await;
            least = least.min(now().since(start));
        }
        println!("{change:?} from the commit to the first byte; a write, a read and a response: {least:?}");
        assert!(change < least * 8, "{change:?}, and no more than {least:?} is needed");
    });
}

// proxy P-6, fencing F-1: connections that the data end have ended before the new generation is published
#[test]
fn connections_to_a_master_that_is_no_longer_named_end_before_that_is_acknowledged() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let b = Master::start(b'B').await;
        let (a, proxy) = harness.forwarding().await;
        let (idle, mut busy) = (proxy.wait_connected_to(b'A').await, proxy.wait_connected_to(b'A').await);
        let asking = tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Ok(Some(answer)) = busy.ask().await {
                answers.push(answer);
            }
            answers
        });
        harness.fail_over(&proxy, &a, &b).await;
        assert_eq!(idle.read_to_end().await, b"");
        let answers = asking.await.unwrap();
        assert!(answers.iter().all(|answer| *answer == b'A'), "a late response arrived");
        assert_eq!(proxy.wait_connected_to(b'B').await.ask().await.unwrap(), Some(b'B'));
        a.wait_for_connections(0).await;
    });
}

#[test]
fn a_direct_move_of_the_route_ends_the_old_connections_too() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let b = Master::start(b'B').await;
        let (_master, proxy) = harness.forwarding().await;
        let client = proxy.wait_connected_to(b'A').await;
        harness.publish(Some(&b), &[&proxy]).await;
        assert_eq!(client.read_to_end().await, b"");
        proxy.wait_connected_to(b'B').await;
        proxy
            .wait_for_metric("stolon_proxy_connections_ended_total{reason=\"route_change\"}", 1.0)
            .await;
    });
}

// proxy P-6
#[test]
fn an_unchanged_address_keeps_connections_through_every_other_change() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let master = Master::start(b'A').await;
        let (proxy, other) = (harness.proxy().await, harness.proxy().await);
        harness.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.wait_connected_to(b'A').await;
        let generation = harness.publish(Some(&master), &[&proxy, &other]).await;
        harness.acknowledged(&proxy, generation).await;
        harness.set_timing(CHECK_INTERVAL / 2, STEADY_LEASE * 2);
        let generation = harness.publish(Some(&master), &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        // fencing F-2: an increased timeout is published when it takes effect
        assert_eq!(published_timeout(&harness, &proxy).await, STEADY_LEASE * 2);
        // and a decreased one with the check-in after that
        harness.set_timing(CHECK_INTERVAL / 2, STEADY_LEASE);
        let generation = harness.publish(Some(&master), &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        eventually("the smaller timeout to be published", SHORT_TIMEOUT, async || {
            let published = published_timeout(&harness, &proxy).await;
            if published == STEADY_LEASE {
                Ok(())
            } else {
                Err(format!("{published:?}"))
            }
        })
        .await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
    });
}

async fn published_timeout(harness: &ProxyHarness, proxy: &Proxy) -> Duration {
    Duration::from_nanos(harness.info(proxy).await.unwrap().proxy_timeout as u64)
}

#[test]
fn a_proxy_that_is_not_enabled_publishes_the_generation_and_forwards_nothing() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let master = Master::start(b'A').await;
        let proxy = harness.proxy().await;
        let generation = harness.publish(Some(&master), &[]).await;
        harness.acknowledged(&proxy, generation).await;
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        let line = format!(
            "not proxying to master address since we aren't in the enabled proxies list address=127.0.0.1:{}",
            master.port
        );
        proxy.process.wait_for_log(&line, SHORT_TIMEOUT).await;
        harness.publish(Some(&master), &[&proxy]).await;
        proxy.wait_connected_to(b'A').await;
    });
}

#[test]
fn a_master_may_be_advertised_by_name_and_one_that_does_not_resolve_closes_the_route() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let mut master = Master::start(b'A').await;
        master.host = "localhost".to_owned();
        let proxy = harness.proxy().await;
        harness.publish(Some(&master), &[&proxy]).await;
        let mut client = proxy.wait_connected_to(b'A').await;
        let generation = harness.publish(Some(&master), &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        master.host = "no-such-host.invalid".to_owned(); // RFC 6761: never resolves
        harness.publish(Some(&master), &[&proxy]).await;
        assert_eq!(client.read_to_end().await, b"");
        proxy
            .process
            .wait_for_log("cannot resolve the master's address", SHORT_TIMEOUT)
            .await;
        let log = proxy.process.log();
        let line = log.lines().find(|line| line.contains("cannot resolve")).unwrap();
        assert!(line.contains("address=no-such-host.invalid error="), "{line}");
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        master.host = String::new();
        harness.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log("ERROR the master's address is empty", SHORT_TIMEOUT)
            .await;
        (master.host, master.port) = ("127.0.0.1".to_owned(), 0);
        harness.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log("ERROR the master's port is empty or not a number", SHORT_TIMEOUT)
            .await;
    });
}

// proxy P-15
#[test]
fn a_master_address_that_is_its_own_closes_the_route_with_an_error() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let mut master = Master::start(b'A').await;
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--listen-address=0.0.0.0"]).await;
        master.port = proxy.port.number();
        harness.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log(
                "ERROR the master's address is our own, closing connections to master",
                SHORT_TIMEOUT,
            )
            .await;
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        assert!(harness.info(&proxy).await.is_none());
    });
}

// proxy P-3: garbage neither opens nor moves a route, nor closes it before the end of its lease
#[test]
fn garbage_in_the_store_leaves_the_route_until_the_lease_ends() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (_master, proxy) = harness.forwarding().await;
        let mut client = proxy.wait_connected_to(b'A').await;
        harness.write_raw(b"{\"formatVersion\":1,\"proxy\":7}").await;
        proxy
            .process
            .wait_for_log("ERROR could not check in", SHORT_TIMEOUT)
            .await;
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        assert_eq!(client.read_to_end().await, b"");
        let fired = "WARN check timeout timer fired timeout=3s connections=1";
        proxy.process.wait_for_log(fired, SHORT_TIMEOUT).await;
        let log = proxy.process.log();
        let remedy = "the route ends with its lease key=stolon/cluster/main/clusterdata error=";
        assert_eq!(log.matches(remedy).count(), 1, "{log}");
        assert_eq!(log.matches("repair it with etcdctl").count(), 1, "{log}");
        proxy.process.wait_for_log("Stopping listening", SHORT_TIMEOUT).await;
        assert!(proxy.connect().await.is_err(), "there is no listener");
        harness.write().await;
        proxy.wait_connected_to(b'A').await;
    });
}

#[test]
fn another_format_version_closes_at_once_and_is_not_overwritten() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (_master, proxy) = harness.forwarding().await;
        let client = proxy.wait_connected_to(b'A').await;
        harness.sentinel.data.format_version = 2;
        let revision = harness.write().await;
        assert_eq!(client.read_to_end().await, b"");
        proxy
            .process
            .wait_for_log("cannot use the clusterdata", SHORT_TIMEOUT)
            .await;
        let published = harness.info(&proxy).await.unwrap().info_uid;
        proxy.process.wait_for_log("Stopping listening", SHORT_TIMEOUT).await;
        let key = harness.store.keys().cluster_data();
        assert_eq!(
            harness.store.get(&key).await.unwrap().unwrap().mod_revision,
            revision,
            "the cluster data were overwritten"
        );
        let later = harness.info(&proxy).await.map(|info| info.info_uid);
        assert!(
            later.is_none_or(|later| later == published),
            "data that may not be used were acknowledged"
        );
        harness.sentinel.data.format_version = 1;
        harness.write().await;
        proxy.wait_connected_to(b'A').await;
    });
}

#[test]
fn without_stop_listening_the_socket_stays_when_the_lease_ends() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let master = Master::start(b'A').await;
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--stop-listening=false"]).await;
        harness.publish(Some(&master), &[&proxy]).await;
        let client = proxy.wait_connected_to(b'A').await;
        harness.etcd.kill();
        assert_eq!(client.read_to_end().await, b"");
        proxy
            .process
            .wait_for_log("check timeout timer fired", SHORT_TIMEOUT)
            .await;
        throughout("the socket listens", Duration::from_millis(500), async || {
            let client = proxy.connect().await.map_err(|err| err.to_string())?;
            if client.read_to_end().await.is_empty() {
                Ok(())
            } else {
                Err("carried".to_owned())
            }
        })
        .await;
        harness.etcd.restart().await;
        proxy.wait_connected_to(b'A').await;
    });
}
