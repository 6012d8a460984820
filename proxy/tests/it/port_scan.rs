//! Port scanners and other sources of garbage: at the clients' port the bytes are forwarded uninspected (proxy P-16),
//! at the metrics port they are refused, and other clients are not affected.

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::background_clients::BackgroundClients;
use crate::harness::{Master, Proxy, ProxyHarness, run_test};

/// Rounds through all garbage and all kinds of ends.
const ROUNDS: usize = 6;
/// Limit of concurrent connections to the metrics port.
const METRICS_CONNECTIONS: usize = 64;

/// Returns pseudo-random bytes, the same ones in every run.
fn random_bytes(mut seed: u64, bytes: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

/// Returns what scanners send, and what is hard for parsers.
fn garbage(round: usize) -> Vec<Vec<u8>> {
    let seed = 1 + round as u64;
    let hello = [
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        random_bytes(seed, 500).as_slice(),
    ]
    .concat();
    let ssl_request = [&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], random_bytes(seed, 40).as_slice()].concat();
    let cancel_request = [&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e], random_bytes(seed, 8).as_slice()].concat();
    let heads = b"GET /metrics HTTP/1.1\r\n".iter().copied();
    vec![
        Vec::new(),
        vec![0],
        vec![0; 100_000],
        vec![0xff; 9],
        random_bytes(seed, 7),
        random_bytes(seed, 3_000),
        random_bytes(seed, 200_000),
        hello,
        ssl_request,
        cancel_request,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n".to_vec(),
        b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        heads.chain(b"X: y\r\n".repeat(20_000)).collect(),
        [b"GET /".as_slice(), &b"a".repeat(200_000)].concat(),
    ]
}

/// How the client ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionEnd {
    /// Shuts down its sending direction and reads to the end.
    Finish,
    /// Closes at once.
    Close,
    /// Closes at once with a reset.
    Reset,
}

/// Sends the bytes and ends the connection. Returns what was received before the other side's end, if that was awaited
/// and orderly.
async fn send_garbage(port: u16, bytes: &[u8], exit: ConnectionEnd) -> Option<Vec<u8>> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut back = Vec::new();
    match exit {
        ConnectionEnd::Finish => {
            let (mut read, mut write) = socket.split();
            let send = async {
                write.write_all(bytes).await?;
                write.shutdown().await
            };
            let both = async { tokio::join!(send, read.read_to_end(&mut back)) };
            let (sent, got) = tokio::time::timeout(SHORT_TIMEOUT, both).await.expect("an end in time");
            return (sent.is_ok() && got.is_ok()).then_some(back);
        }
        // Sends as much as is accepted at once.
        ConnectionEnd::Close => drop(socket.try_write(bytes)),
        ConnectionEnd::Reset => {
            drop(socket.try_write(bytes));
            socket.set_zero_linger().unwrap();
        }
    }
    None
}

/// Starts a proxy with two background clients. Also returns its number of descriptors before them.
async fn proxy_with_clients() -> (ProxyHarness, Master, Proxy, usize, BackgroundClients) {
    let mut harness = ProxyHarness::start().await;
    let (a, proxy) = harness.forwarding().await;
    drop(proxy.wait_connected_to(b'A').await);
    let before = proxy.stable_descriptors().await;
    let background = BackgroundClients::start(&proxy, 2).await;
    (harness, a, proxy, before, background)
}

// proxy P-16
#[test]
fn garbage_at_the_clients_port_is_forwarded_uninspected_and_leaks_nothing() {
    run_test(async {
        let (_rig, a, proxy, before, mut background) = proxy_with_clients().await;
        for round in 0..ROUNDS {
            for bytes in garbage(round) {
                let back = send_garbage(proxy.port.number(), &bytes, ConnectionEnd::Finish)
                    .await
                    .expect("no error");
                let echo = bytes.iter().map(|byte| if *byte == b'?' { b'A' } else { *byte });
                assert!(echo.eq(back), "{} other bytes came back", bytes.len());
                send_garbage(proxy.port.number(), &bytes, ConnectionEnd::Close).await;
                send_garbage(proxy.port.number(), &bytes, ConnectionEnd::Reset).await;
            }
        }
        background.assert_served(5).await;
        a.wait_for_connections(background.count()).await;
        background.stop(&proxy, before).await;
    });
}

#[test]
fn garbage_at_the_metrics_port_is_bounded_and_ends_no_scrape() {
    run_test(async {
        let (_rig, _a, proxy, before, mut background) = proxy_with_clients().await;
        for bytes in garbage(0) {
            for exit in [ConnectionEnd::Finish, ConnectionEnd::Close, ConnectionEnd::Reset] {
                send_garbage(proxy.metrics.number(), &bytes, exit).await;
            }
            proxy.wait_for_metric("stolon_proxy_connections_open", 2.0).await;
        }
        // Some send nothing, some an incomplete request, and there are more of them than are served at once.
        let mut silent = Vec::new();
        for number in 0..2 * METRICS_CONNECTIONS {
            let mut socket = TcpStream::connect(("127.0.0.1", proxy.metrics.number())).await.unwrap();
            socket
                .write_all(&b"GET /metrics HTTP/1.1\r\nX: "[..number % 20])
                .await
                .unwrap();
            silent.push(socket);
        }
        let peak = before + 6 * background.count() + METRICS_CONNECTIONS + 1;
        eventually("the silent ones to be let in", SHORT_TIMEOUT, async || {
            let now = proxy.descriptors();
            assert!(now <= peak, "{now} of {peak}");
            if now >= before + METRICS_CONNECTIONS {
                Ok(())
            } else {
                Err(now)
            }
        })
        .await;
        let scrape = tokio::time::timeout(SHORT_TIMEOUT, proxy.metric("stolon_proxy_connections_open")).await;
        assert_eq!(scrape.expect("a response once their time is over"), Some(2.0));
        background.assert_served(5).await;
        for mut socket in silent {
            // Closed by the other side, mostly after an error response.
            let end = tokio::time::timeout(SHORT_TIMEOUT, socket.read_to_end(&mut Vec::new())).await;
            drop(end.expect("an end in time"));
        }
        background.stop(&proxy, before).await;
    });
}
