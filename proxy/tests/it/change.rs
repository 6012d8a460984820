//! Clients during a change of the master, and during a shutdown of the proxy (proxy P-8, P-9).

use std::time::Duration;

use rustix::process::{Pid, kill_process};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::wait::{eventually, now};
use tokio::io::AsyncWriteExt;

use crate::harness::{CHECK_INTERVAL, Master, Proxy, ProxyHarness, SHORT_LEASE, run_test, sum};

const HELD: &str = "stolon_proxy_connections_held";

/// Starts a proxy with these options and takes its master away.
async fn without_master(harness: &mut ProxyHarness, options: &[&str], old: &Master) -> Proxy {
    let proxy = Proxy::start(harness, &harness.etcd.endpoint(), options).await;
    harness.publish(Some(old), &[&proxy]).await;
    proxy.wait_connected_to(b'A').await;
    let generation = harness.publish(None, &[&proxy]).await;
    harness.acknowledged(&proxy, generation).await;
    proxy
}

// proxy P-8
#[test]
fn clients_that_connect_during_a_change_reach_the_new_master() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = without_master(&mut harness, &[], &a).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = proxy.connect().await.unwrap();
            client.socket.write_all(b"?").await.unwrap();
            clients.push(client);
        }
        proxy.wait_for_metric(HELD, 20.0).await;
        // The master is named, but this proxy is not enabled yet: still part of the change.
        let generation = harness.publish(Some(&b), &[]).await;
        harness.acknowledged(&proxy, generation).await;
        proxy.wait_for_metric(HELD, 20.0).await;
        harness.publish(Some(&b), &[&proxy]).await;
        for client in &mut clients {
            assert_eq!(client.answer().await.unwrap(), Some(b'B'));
        }
        proxy.wait_for_metric(HELD, 0.0).await;
        proxy
            .wait_for_metric("stolon_proxy_holds_total{result=\"carried\"}", 20.0)
            .await;
        a.wait_for_connections(0).await;
    });
}

// proxy P-8
#[test]
fn no_client_is_held_longer_than_hold_or_at_all_when_it_is_off() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let a = Master::start(b'A').await;
        let proxy = without_master(&mut harness, &["--hold=400ms"], &a).await;
        let start = now();
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        assert!(now().since(start) >= Duration::from_millis(390));
        proxy
            .wait_for_metric("stolon_proxy_connections_refused_total{reason=\"hold_expired\"}", 1.0)
            .await;
        let off = without_master(&mut harness, &["--hold=0s"], &a).await;
        const CLOSED: &str = "stolon_proxy_connections_refused_total{reason=\"route_closed\"}";
        let before = off.metric(CLOSED).await.unwrap(); // those before the route opened
        assert_eq!(off.connect().await.unwrap().read_to_end().await, b"");
        off.wait_for_metric(CLOSED, before + 1.0).await;
    });
}

// proxy P-8
#[test]
fn no_more_than_hold_max_wait_and_closed_clients_make_room() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = without_master(&mut harness, &["--hold-max=2", "--hold=60s"], &a).await;
        let (mut first, second) = (proxy.connect().await.unwrap(), proxy.connect().await.unwrap());
        proxy.wait_for_metric(HELD, 2.0).await;
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        proxy
            .wait_for_metric("stolon_proxy_connections_refused_total{reason=\"hold_full\"}", 1.0)
            .await;
        drop(second);
        const ABANDONED: &str = "stolon_proxy_holds_total{result=\"abandoned\"}";
        let mut third = eventually("a third client to be held", SHORT_TIMEOUT, async || {
            let client = proxy.connect().await.map_err(|err| err.to_string())?;
            every_client_is_counted_once(&proxy).await;
            // Room is made only for a client that can be held.
            let abandoned = proxy.metric(ABANDONED).await;
            if abandoned == Some(1.0) {
                Ok(client)
            } else {
                Err(format!("{abandoned:?} abandoned"))
            }
        })
        .await;
        harness.publish(Some(&b), &[&proxy]).await;
        assert_eq!(first.ask().await.unwrap(), Some(b'B'));
        assert_eq!(third.ask().await.unwrap(), Some(b'B'));
        every_client_is_counted_once(&proxy).await;
    });
}

async fn every_client_is_counted_once(proxy: &Proxy) {
    eventually("every client to be counted once", SHORT_TIMEOUT, async || {
        let text = proxy.scrape().await;
        let count = |name: &str| sum(&text, &format!("stolon_proxy_connections_{name}"));
        let accepted = count("accepted_total");
        let places = [
            count("refused_total"),
            count("ended_total"),
            count("open"),
            count("held"),
        ];
        if accepted == places.iter().sum::<f64>() {
            Ok(())
        } else {
            Err(format!("{accepted} accepted, {places:?}"))
        }
    })
    .await;
}

// proxy P-8: missing cluster data is not a change of the master
#[test]
fn held_clients_are_closed_when_the_cluster_data_disappear() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let a = Master::start(b'A').await;
        let proxy = without_master(&mut harness, &["--hold=60s"], &a).await;
        let client = proxy.connect().await.unwrap();
        proxy.wait_for_metric(HELD, 1.0).await;
        harness.write_raw(b"null").await;
        assert_eq!(client.read_to_end().await, b"");
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
    });
}

// proxy P-9
#[test]
fn a_draining_proxy_accepts_no_clients_and_lets_connections_end() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let a = Master::start(b'A').await;
        let mut proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--drain=5m"]).await;
        harness.set_timing(CHECK_INTERVAL, SHORT_LEASE * 3);
        harness.publish(Some(&a), &[&proxy]).await;
        let mut client = proxy.wait_connected_to(b'A').await;
        proxy.process.signal(Signal::TERM);
        proxy.process.wait_for_log("Stopping listening", SHORT_TIMEOUT).await;
        assert!(proxy.connect().await.is_err(), "it takes clients");
        // Beyond the end of the lease at the time of the signal: check-ins must go on.
        let start = now();
        while now().since(start) < SHORT_LEASE * 4 {
            assert_eq!(client.ask().await.unwrap(), Some(b'A'));
            tokio::time::sleep(Duration::from_millis(50)).await; // request rate of the client
        }
        assert!(!harness.info(&proxy).await.unwrap().stopped);
        drop(client);
        assert_eq!(proxy.process.exit_status(SHORT_TIMEOUT).await, 0);
        assert!(harness.info(&proxy).await.unwrap().stopped);
    });
}

// proxy P-9
#[test]
fn a_drain_ends_at_its_limit_and_at_the_second_signal() {
    run_test(async {
        for (drain, second) in [("--drain=300ms", false), ("--drain=5m", true)] {
            let mut harness = ProxyHarness::start().await;
            let a = Master::start(b'A').await;
            let mut proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &[drain]).await;
            harness.publish(Some(&a), &[&proxy]).await;
            let client = proxy.wait_connected_to(b'A').await;
            proxy.process.signal(Signal::TERM);
            proxy
                .process
                .wait_for_log("letting connections end", SHORT_TIMEOUT)
                .await;
            if second {
                proxy.process.signal(Signal::INT);
            }
            assert_eq!(client.read_to_end().await, b"");
            assert_eq!(proxy.process.exit_status(SHORT_TIMEOUT).await, 0);
            assert!(harness.info(&proxy).await.unwrap().stopped);
        }
    });
}

// proxy section 3
#[test]
fn sigusr1_logs_a_summary() {
    run_test(async {
        let mut harness = ProxyHarness::with_short_lease().await;
        let (a, proxy) = harness.forwarding().await;
        let mut client = proxy.wait_connected_to(b'A').await;
        client.ask().await.unwrap();
        let pid = Pid::from_raw(proxy.process.pid() as i32).unwrap();
        kill_process(pid, rustix::process::Signal::USR1).unwrap();
        proxy.process.wait_for_log("INFO summary route=", SHORT_TIMEOUT).await;
        let log = proxy.process.log();
        let line = log.lines().find(|line| line.contains("INFO summary")).unwrap();
        let route = format!("db {} at 127.0.0.1:{}", a.db, a.port);
        for part in [route.as_str(), "clients=1 held=0", "ended=", "spliced_bytes=0"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        harness.etcd.freeze().await;
        proxy
            .process
            .wait_for_log("check timeout timer fired", SHORT_TIMEOUT)
            .await;
        kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let closed = "INFO summary route=closed why=\"check-in failed: ";
        proxy.process.wait_for_log(closed, SHORT_TIMEOUT).await;
        harness.etcd.thaw();
    });
}
