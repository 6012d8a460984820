//! Peers that disappear without closing: they answer nothing, not even the kernel's probes (proxy P-10, P-13).

use std::io;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::background_clients::BackgroundClients;
use crate::harness::{Client, Master, Proxy, ProxyHarness, run_test};

/// Keepalive that detects a silent peer after three seconds, whether bytes wait for it or not.
const KEEPALIVE: [&str; 3] = [
    "--tcp-keepalive-idle=1",
    "--tcp-keepalive-interval=1",
    "--tcp-keepalive-count=2",
];

/// Drops all packets that arrive at a socket, so that its peer sees a host without power or network.
fn drop_incoming(socket: &TcpStream) {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K of linux/bpf_common.h
    let nothing = SockFilter::new(RETURN, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[nothing]).unwrap();
}

#[test]
fn dead_clients_are_detected_by_keepalive_and_leak_nothing() {
    const SILENT: usize = 200;
    run_test(async {
        let mut harness = ProxyHarness::start().await;
        let a = Master::start(b'A').await;
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &KEEPALIVE).await;
        harness.publish(Some(&a), &[&proxy]).await;
        drop(proxy.wait_connected_to(b'A').await);
        let before = proxy.stable_descriptors().await;
        let mut background = BackgroundClients::start(&proxy, 2).await;
        let mut gone: Vec<Client> = Vec::new();
        for number in 0..SILENT {
            let mut client = proxy.connect().await.unwrap();
            if number % 2 == 0 {
                assert_eq!(client.ask().await.unwrap(), Some(b'A')); // the others never send a byte
            }
            gone.push(client);
        }
        a.wait_for_connections(SILENT + background.count()).await;
        for client in &gone {
            drop_incoming(&client.socket);
        }
        a.wait_for_connections(background.count()).await;
        background.assert_served(5).await;
        proxy
            .wait_for_metric("stolon_proxy_connections_ended_total{reason=\"error\"}", SILENT as f64)
            .await;
        background.stop(&proxy, before).await;
    });
}

#[test]
fn a_dead_master_is_detected_by_keepalive() {
    run_test(async {
        let sessions = TestMaster::start().await;
        let (mut client, mut master) = sessions.one().await;
        client.write_all(b"?").await.unwrap();
        assert_eq!(master.read_u8().await.unwrap(), b'?');
        drop_incoming(&master);
        expect_reset(&mut client).await;
    });
}

// proxy P-10, P-13
#[test]
fn dead_clients_are_given_up_in_the_middle_of_an_answer_and_slow_readers_are_not() {
    run_test(async {
        let sessions = TestMaster::start().await;
        let (mut patient, mut answering) = sessions.one().await;
        let answer = fill(&mut answering).await;
        // The kernel probes a client that does not read at growing intervals; after three more clients they exceed
        // three seconds.
        for is_full in [true, false, true] {
            let (client, mut master) = sessions.one().await;
            if is_full {
                fill(&mut master).await;
            }
            drop_incoming(&client);
            expect_reset_while_writing(&mut master).await;
        }
        sessions
            .proxy
            .wait_for_metric("stolon_proxy_connections_ended_total{reason=\"error\"}", 3.0)
            .await;
        answering.shutdown().await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(SHORT_TIMEOUT, patient.read_to_end(&mut got)).await;
        read.expect("an end in time").unwrap();
        assert_eq!(got.len(), answer);
        assert!(got.chunks(CHUNK_BYTES).all(|got| *got == chunk()[..got.len()]));
    });
}

#[test]
fn a_dead_master_with_full_buffers_is_given_up() {
    run_test(async {
        let sessions = TestMaster::start().await;
        let (mut client, master) = sessions.one().await;
        fill(&mut client).await;
        drop_incoming(&master);
        expect_reset_while_writing(&mut client).await;
    });
}

/// A proxy whose master is this test.
struct TestMaster {
    _rig: ProxyHarness,
    master: TcpListener,
    proxy: Proxy,
}

impl TestMaster {
    async fn start() -> Self {
        let mut harness = ProxyHarness::start().await;
        let master = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut named = Master::start(b'A').await;
        named.port = master.local_addr().unwrap().port();
        let proxy = Proxy::start(&harness, &harness.etcd.endpoint(), &KEEPALIVE).await;
        harness.publish(Some(&named), &[&proxy]).await;
        proxy.wait_for_metric("stolon_proxy_route_open", 1.0).await;
        Self {
            _rig: harness,
            master,
            proxy,
        }
    }

    /// Opens a connection and returns its outer ends: the client's and the master's.
    async fn one(&self) -> (TcpStream, TcpStream) {
        let client = self.proxy.connect().await.unwrap();
        let (master, _) = self.master.accept().await.unwrap();
        (client.socket, master)
    }
}

const CHUNK_BYTES: usize = 64 * 1024;

fn chunk() -> Vec<u8> {
    (0..CHUNK_BYTES).map(|at| (at % 251) as u8).collect()
}

/// Writes chunks until nothing is accepted for a while: every buffer on the way is full. Returns the number of bytes
/// accepted.
async fn fill(socket: &mut TcpStream) -> usize {
    let (chunk, mut filled) = (chunk(), 0);
    let rest = |filled: usize| &chunk[filled % CHUNK_BYTES..];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), socket.write(rest(filled))).await {
        filled += written.unwrap();
    }
    filled
}

/// Keeps writing, so that every buffer on the way stays full, until the connection is reset.
async fn expect_reset_while_writing(socket: &mut TcpStream) {
    let chunk = chunk();
    let err = loop {
        let written = tokio::time::timeout(SHORT_TIMEOUT, socket.write(&chunk)).await;
        if let Err(err) = written.expect("an end in time") {
            break err;
        }
    };
    assert_eq!(err.kind(), io::ErrorKind::ConnectionReset);
}

async fn expect_reset(socket: &mut TcpStream) {
    let end = tokio::time::timeout(SHORT_TIMEOUT, socket.read(&mut [0])).await;
    let end = end.expect("an end in time").expect_err("not an orderly end");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}
