//! Strangers who knock at every port and say anything: at the clients' port their bytes are carried unread (proxy P-16), at
//! the metrics' port they are no requests, and nobody else notices.

use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::regulars::Regulars;
use crate::rig::{Master, PATIENCE, Proxy, Rig, block_on};

/// Rounds through all garbage and all ways to end.
const ROUNDS: usize = 6;
/// The metrics are served to so many connections at once.
const METRICS_CONNECTIONS: usize = 16;

/// Some bytes without a meaning, the same ones in every run.
fn noise(mut seed: u64, bytes: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

/// What scanners send, and what breaks parsers.
fn garbage(round: usize) -> Vec<Vec<u8>> {
    let seed = 1 + round as u64;
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], noise(seed, 500).as_slice()].concat();
    let ssl_request = [&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], noise(seed, 40).as_slice()].concat();
    let cancel_request = [&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e], noise(seed, 8).as_slice()].concat();
    let heads = b"GET /metrics HTTP/1.1\r\n".iter().copied();
    vec![
        Vec::new(),
        vec![0],
        vec![0; 100_000],
        vec![0xff; 9],
        noise(seed, 7),
        noise(seed, 3_000),
        noise(seed, 200_000),
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

/// The ways to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Finishes and reads to the end.
    Finish,
    /// Closes, whatever comes.
    Close,
    /// The same with a reset.
    Reset,
}

/// Sends this and goes. What came back, when it was waited for; an error of the other side is an answer, too.
async fn knock(port: u16, bytes: &[u8], exit: Exit) -> Option<Vec<u8>> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut back = Vec::new();
    match exit {
        Exit::Finish => {
            let (mut read, mut write) = socket.split();
            let send = async {
                write.write_all(bytes).await?;
                write.shutdown().await
            };
            let both = async { tokio::join!(send, read.read_to_end(&mut back)) };
            let (sent, got) = tokio::time::timeout(PATIENCE, both).await.expect("an end in time");
            return (sent.is_ok() && got.is_ok()).then_some(back);
        }
        // As much as is taken at once: a stranger does not wait.
        Exit::Close => drop(socket.try_write(bytes)),
        Exit::Reset => {
            drop(socket.try_write(bytes));
            socket.set_zero_linger().unwrap();
        }
    }
    None
}

/// A proxy with two regular clients, what it used before them, and what it leans on.
async fn scene() -> (Rig, Master, Proxy, usize, Regulars) {
    let mut rig = Rig::start().await;
    let a = Master::start(b'A').await;
    let proxy = rig.proxy().await;
    rig.publish(Some(&a), &[&proxy]).await;
    drop(proxy.client_of(b'A').await);
    let before = proxy.settled_descriptors().await;
    let regulars = Regulars::of(&proxy, 2).await;
    (rig, a, proxy, before, regulars)
}

// proxy P-16
#[test]
fn garbage_at_the_clients_port_is_carried_unread_and_leaves_nothing_behind() {
    block_on(async {
        let (_rig, a, proxy, before, mut regulars) = scene().await;
        for round in 0..ROUNDS {
            for bytes in garbage(round) {
                let back = knock(proxy.port.number(), &bytes, Exit::Finish)
                    .await
                    .expect("no error");
                let echo = bytes.iter().map(|byte| if *byte == b'?' { b'A' } else { *byte });
                assert!(echo.eq(back), "{} other bytes came back", bytes.len());
                knock(proxy.port.number(), &bytes, Exit::Close).await;
                knock(proxy.port.number(), &bytes, Exit::Reset).await;
            }
        }
        regulars.go_on(5).await;
        a.has_open(regulars.count()).await;
        regulars.leave(&proxy, before).await;
    });
}

#[test]
fn garbage_at_the_metrics_port_is_bounded_and_ends_no_scrape() {
    block_on(async {
        let (_rig, _a, proxy, before, mut regulars) = scene().await;
        for bytes in garbage(0) {
            for exit in [Exit::Finish, Exit::Close, Exit::Reset] {
                knock(proxy.metrics.number(), &bytes, exit).await;
            }
            proxy.metric_is("stolon_proxy_connections_open", 2.0).await;
        }
        // some say nothing, some never finish their request, and more of them than are served at once
        let mut silent = Vec::new();
        for number in 0..2 * METRICS_CONNECTIONS {
            let mut socket = TcpStream::connect(("127.0.0.1", proxy.metrics.number())).await.unwrap();
            socket
                .write_all(&b"GET /metrics HTTP/1.1\r\nX: "[..number % 20])
                .await
                .unwrap();
            silent.push(socket);
        }
        let most = before + 6 * regulars.count() + METRICS_CONNECTIONS + 1;
        eventually("the silent ones to be let in", PATIENCE, async || {
            let now = proxy.descriptors();
            assert!(now <= most, "{now} of {most}");
            if now >= before + METRICS_CONNECTIONS {
                Ok(())
            } else {
                Err(now)
            }
        })
        .await;
        let scrape = tokio::time::timeout(PATIENCE, proxy.metric("stolon_proxy_connections_open")).await;
        assert_eq!(scrape.expect("an answer once their time is over"), Some(2.0));
        regulars.go_on(5).await;
        for mut socket in silent {
            // closed by the other side, most of them with a word of why
            let end = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
            drop(end.expect("an end in time"));
        }
        regulars.leave(&proxy, before).await;
    });
}
