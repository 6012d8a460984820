//! Masters that are not there: they refuse, cannot be reached, or never answer (proxy P-12). Each costs its clients their
//! connections, and nothing more.

use std::time::Duration;

use control::clock::Boottime;
use stolon_tests::ports::Port;
use stolon_tests::wait::{eventually, now};
use tokio::net::{TcpSocket, TcpStream};

use crate::complaints::told_seldom;
use crate::rig::{Client, Master, PATIENCE, Proxy, Rig, block_on};

const CLIENTS: usize = 1000;

/// A proxy, started at this time, whose route is open to a master advertised at this address, and its rig.
async fn sent_to(host: &str, port: u16, options: &[&str]) -> (Rig, Proxy, Boottime) {
    let (mut rig, start) = (Rig::start().await, now());
    let mut master = Master::start(b'A').await;
    (master.host, master.port) = (host.to_owned(), port);
    let proxy = Proxy::start(&rig, &rig.etcd.endpoint(), options).await;
    rig.publish(Some(&master), &[&proxy]).await;
    proxy.metric_is("stolon_proxy_route_open", 1.0).await; // the line is told before that
    (rig, proxy, start)
}

async fn refused_are(proxy: &Proxy, reason: &str, clients: usize) {
    let series = format!("stolon_proxy_connections_refused_total{{reason=\"{reason}\"}}");
    eventually(
        format!("{clients} clients to be refused for {reason}"),
        PATIENCE,
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

/// A thousand clients at once, all of them connected to the proxy.
async fn a_thousand(proxy: &Proxy) -> Vec<Client> {
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        clients.push(proxy.connect().await.unwrap());
    }
    clients
}

/// A thousand clients are closed, counted, and told of once a second at most, with these words.
async fn costs_a_thousand(host: &str, port: u16, words: &str) {
    let (_rig, proxy, start) = sent_to(host, port, &[]).await;
    for client in a_thousand(&proxy).await {
        assert_eq!(client.ended().await, b"");
    }
    refused_are(&proxy, "master", CLIENTS).await;
    proxy
        .process
        .wait_for_log("could not connect a client to the master", PATIENCE)
        .await;
    assert!(proxy.process.log().contains(words));
    told_seldom(&proxy, start);
}

#[test]
fn a_master_that_refuses_costs_a_thousand_clients_their_connections_and_no_more() {
    let nobody = Port::free();
    block_on(costs_a_thousand("127.0.0.1", nobody.number(), "refused"));
}

#[test]
fn a_master_that_cannot_be_reached_costs_a_thousand_clients_their_connections_and_no_more() {
    // The broadcast address of loopback: no connection leads there, on any machine.
    block_on(costs_a_thousand("127.255.255.255", 5432, "unreachable"));
}

#[test]
fn a_master_that_never_answers_costs_a_thousand_clients_no_more_than_the_connect_timeout() {
    block_on(async {
        // A full backlog: further connection requests are not answered.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            fillers.push(filler.unwrap());
        }
        let (mut rig, proxy, start) = sent_to("127.0.0.1", address.port(), &["--connect-timeout=300ms"]).await;
        let first = now();
        assert_eq!(proxy.connect().await.unwrap().ended().await, b"");
        assert!(now().since(first) >= Duration::from_millis(290));
        for client in a_thousand(&proxy).await {
            assert_eq!(client.ended().await, b"");
        }
        refused_are(&proxy, "connect_timeout", CLIENTS + 1).await;
        told_seldom(&proxy, start);
        proxy.settled_descriptors().await;
        // a route that closes ends the wait, too
        let waiting = proxy.connect().await.unwrap();
        rig.publish(None, &[&proxy]).await;
        assert_eq!(waiting.ended().await, b"");
    });
}
