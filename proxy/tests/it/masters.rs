//! Masters that refuse connections, cannot be reached, or never answer (proxy P-12). Their clients are closed, and
//! nothing else is affected.

use std::time::Duration;

use base::clock::Boottime;
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::ports;
use stolon_tests::wait::{eventually, now};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Client, Master, Proxy, ProxyHarness, run_test};
use crate::log_rate_limit::assert_log_is_rate_limited;

const CLIENTS: usize = 1000;

/// Starts a proxy whose route is open to a master advertised at this address. Returns it with its harness and start
/// time.
async fn proxy_to(host: &str, port: u16, options: &[&str]) -> (ProxyHarness, Proxy, Boottime) {
    let (mut harness, start) = (ProxyHarness::start().await, now());
    let mut master = Master::start(b'A').await;
    (master.host, master.port) = (host.to_owned(), port);
    let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), options).await;
    harness.publish(Some(&master), &[&proxy]).await;
    proxy.wait_for_metric("stolon_proxy_route_open", 1.0).await; // the line is logged before that
    (harness, proxy, start)
}

async fn wait_for_refusals(proxy: &Proxy, reason: &str, clients: usize) {
    let series = format!("stolon_proxy_connections_refused_total{{reason=\"{reason}\"}}");
    eventually(
        format!("{clients} clients to be refused for {reason}"),
        SHORT_TIMEOUT,
        async || {
            let scraped = proxy.scrape().await;
            let counted = scraped
                .lines()
                .filter(|line| line.starts_with("stolon_proxy_connections_"));
            if counted.clone().any(|line| line == format!("{series} {clients}")) {
                Ok(())
            } else {
                Err(counted
                    .filter(|line| !line.ends_with(" 0"))
                    .collect::<Vec<_>>()
                    .join(", "))
            }
        },
    )
    .await;
}

/// Opens 1000 connections to the proxy.
async fn connect_clients(proxy: &Proxy) -> Vec<Client> {
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        clients.push(proxy.connect().await.unwrap());
    }
    clients
}

/// Asserts that 1000 clients are closed and counted, and that this is logged with `words` and a rate limit.
async fn check_failing_master(host: &str, port: u16, words: &str) {
    let (_rig, proxy, start) = proxy_to(host, port, &[]).await;
    for client in connect_clients(&proxy).await {
        assert_eq!(client.read_to_end().await, b"");
    }
    wait_for_refusals(&proxy, "master", CLIENTS).await;
    proxy
        .process
        .wait_for_log("could not connect a client to the master", SHORT_TIMEOUT)
        .await;
    assert!(proxy.process.log().contains(words));
    assert_log_is_rate_limited(&proxy, start);
}

#[test]
fn a_master_that_refuses_closes_its_clients_and_affects_nothing_else() {
    let nobody = ports::free();
    run_test(check_failing_master("127.0.0.1", nobody.number(), "refused"));
}

#[test]
fn an_unreachable_master_closes_its_clients_and_affects_nothing_else() {
    // The broadcast address of loopback, which cannot be connected to.
    run_test(check_failing_master("127.255.255.255", 5432, "unreachable"));
}

#[test]
fn a_master_that_never_answers_delays_its_clients_by_the_connect_timeout() {
    run_test(async {
        // A full backlog: further connection requests are not answered.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            fillers.push(filler.unwrap());
        }
        let (mut harness, proxy, start) = proxy_to("127.0.0.1", address.port(), &["--connect-timeout=300ms"]).await;
        let first = now();
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        assert!(now().since(first) >= Duration::from_millis(290));
        for client in connect_clients(&proxy).await {
            assert_eq!(client.read_to_end().await, b"");
        }
        wait_for_refusals(&proxy, "connect_timeout", CLIENTS + 1).await;
        assert_log_is_rate_limited(&proxy, start);
        proxy.stable_descriptors().await;
        // Closing the route ends the connect as well.
        let waiting = proxy.connect().await.unwrap();
        harness.publish(None, &[&proxy]).await;
        assert_eq!(waiting.read_to_end().await, b"");
    });
}
