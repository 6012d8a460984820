//! Many connections, and how they end (proxy P-13, P-14).

use std::time::Duration;

use socket2::SockRef;
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Client, Master, Proxy, ProxyHarness, run_test};

async fn open_clients(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(proxy.connect().await.unwrap());
    }
    // One round trip each, so that the connection to the master is established.
    for client in &mut clients {
        client.socket.write_all(b"?").await.unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap(), Some(b'A'));
    }
    clients
}

#[test]
fn a_thousand_connections_are_dropped_at_once_and_leak_nothing() {
    run_test(async {
        const COUNT: usize = 1200;
        let mut harness = ProxyHarness::start().await;
        let (a, b) = (Master::start(b'A').await, Master::start(b'B').await);
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--relay-threads=2"]).await;
        harness.publish(Some(&a), &[&proxy]).await;
        drop(proxy.wait_connected_to(b'A').await);
        a.wait_for_connections(0).await;
        let before = proxy.stable_descriptors().await;
        let clients = open_clients(&proxy, COUNT).await;
        let during = proxy.descriptors();
        assert_eq!(during - before, 2 * COUNT, "two descriptors a connection");
        proxy
            .wait_for_metric("stolon_proxy_connections_open", COUNT as f64)
            .await;
        let ended_before = proxy
            .metric("stolon_proxy_connections_ended_total{reason=\"route_change\"}")
            .await;
        assert_eq!(ended_before, Some(0.0));
        harness.fail_over(&proxy, &a, &b).await;
        for client in clients {
            assert_eq!(client.read_to_end().await, b"");
        }
        proxy.wait_for_metric("stolon_proxy_connections_open", 0.0).await;
        proxy
            .wait_for_metric(
                "stolon_proxy_connections_ended_total{reason=\"route_change\"}",
                COUNT as f64,
            )
            .await;
        println!(
            "forwarding had stopped after {:?} s, the last of {COUNT} had ended after {:?} s",
            proxy.metric("stolon_proxy_last_stop_seconds").await,
            proxy.metric("stolon_proxy_last_drop_seconds").await
        );
        let (stopped, dropped) = (
            proxy.metric("stolon_proxy_last_stop_seconds").await.unwrap(),
            proxy.metric("stolon_proxy_last_drop_seconds").await.unwrap(),
        );
        assert!(0.0 < stopped && stopped < dropped, "{stopped} {dropped}");
        a.wait_for_connections(0).await;
        eventually("the descriptors to be as before", SHORT_TIMEOUT, async || {
            let now = proxy.descriptors();
            if now <= before + 1 {
                Ok(())
            } else {
                Err(format!("{before} before, {now} now"))
            }
        })
        .await;
        proxy.wait_connected_to(b'B').await;
    });
}

/// Number of connections with mixed endings. All of them: `cargo test --release -p proxy --features test-hooks --test
/// it endings`
const ROUNDS: usize = if cfg!(debug_assertions) { 600 } else { 10_000 };

#[test]
fn mixed_endings_leak_no_descriptors_pipes_or_memory() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let a = Master::start(b'A').await;
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--log-level=info"]).await;
        harness.publish(Some(&a), &[&proxy]).await;
        drop(proxy.wait_connected_to(b'A').await);
        let bulk = vec![b'x'; 300_000];
        for round in 0..ROUNDS / 4 {
            end_one_way(&proxy, round, &bulk).await; // until pools and queues have grown to their full size
        }
        let quiet = async || {
            proxy.wait_for_metric("stolon_proxy_connections_open", 0.0).await;
            a.wait_for_connections(0).await;
        };
        quiet().await;
        let (descriptors, resident) = (proxy.descriptors(), proxy.resident_kib());
        for round in 0..ROUNDS {
            end_one_way(&proxy, round, &bulk).await;
        }
        quiet().await;
        eventually("the descriptors to be as before", SHORT_TIMEOUT, async || {
            let now = proxy.descriptors();
            if now <= descriptors {
                Ok(())
            } else {
                Err(format!("{descriptors} before, {now} now"))
            }
        })
        .await;
        let grown = proxy.resident_kib().saturating_sub(resident);
        assert!(grown < 1024, "{grown} KiB more after {ROUNDS} rounds");
        let spliced = proxy
            .metric("stolon_proxy_relayed_by_path_bytes_total{path=\"splice\"}")
            .await;
        assert!(spliced > Some(0.0), "pipes were not in it");
    });
}

async fn end_one_way(proxy: &Proxy, round: usize, bulk: &[u8]) {
    let mut client = proxy.connect().await.unwrap();
    match round % 6 {
        0 => drop(client), // perhaps before it was accepted
        1 => {
            assert_eq!(client.ask().await.unwrap(), Some(b'A'));
            client.socket.set_zero_linger().unwrap();
        }
        2 => {
            client.socket.write_all(b"last").await.unwrap();
            client.socket.shutdown().await.unwrap();
            assert_eq!(client.read_to_end().await, b"last");
        }
        3 => {
            // Pipes hold unread bulk data when the reset arrives.
            client.socket.write_all(bulk).await.unwrap();
            client.socket.set_zero_linger().unwrap();
        }
        4 => {
            let (mut read, mut write) = client.socket.split();
            let mut echo = vec![0; bulk.len()];
            let (sent, got) = tokio::join!(write.write_all(bulk), read.read_exact(&mut echo));
            sent.unwrap();
            got.unwrap();
            assert!(echo == bulk);
        }
        _ => assert_eq!(client.ask().await.unwrap(), Some(b'A')),
    }
}

// proxy P-16
#[test]
fn an_urgent_byte_is_forwarded_in_order() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let (_master, proxy) = harness.forwarding().await;
        let mut client = proxy.wait_connected_to(b'A').await;
        let socket = SockRef::from(&client.socket);
        assert_eq!(socket.send(b"abc").unwrap(), 3);
        assert_eq!(socket.send_out_of_band(b"d").unwrap(), 1);
        assert_eq!(socket.send(b"efg").unwrap(), 3);
        let mut echo = [0; 7];
        client.socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"abcdefg");
    });
}

// proxy P-14
#[test]
fn clients_beyond_max_connections_are_closed_and_counted() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let a = Master::start(b'A').await;
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &["--max-connections=3"]).await;
        harness.publish(Some(&a), &[&proxy]).await;
        drop(proxy.wait_connected_to(b'A').await);
        a.wait_for_connections(0).await;
        let mut clients = open_clients(&proxy, 3).await;
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        proxy
            .wait_for_metric(
                "stolon_proxy_connections_refused_total{reason=\"max_connections\"}",
                1.0,
            )
            .await;
        drop(clients.pop());
        proxy.wait_connected_to(b'A').await;
        assert_eq!(clients[0].ask().await.unwrap(), Some(b'A'));
    });
}

// proxy P-13: for a client that does not read, the proxy buffers a bounded amount
#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let (_master, proxy) = harness.forwarding().await;
        let mut client = proxy.wait_connected_to(b'A').await;
        let resident = || proxy.resident_kib();
        let before = resident();
        let chunk = vec![b'x'; 1 << 16];
        let mut sent = 0;
        // Everything is echoed and not read, until no more is accepted.
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.socket.write(&chunk)).await {
            sent += written.unwrap();
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 2048, "{grown} KiB more after {sent} bytes");
    });
}
