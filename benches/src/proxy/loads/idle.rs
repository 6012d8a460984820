//! Thousands of connections that are idle after one request, and the closing of all of them at once.

use std::io;
use std::time::Duration;

use anyhow::{Context, ensure};
use base::clock::Boottime;
use stolon_tests::wait::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::pgbench::scrape;
use crate::proxy::figures::{
    ALL_DROPPED, DESCRIPTORS_PER_CONNECTION, FORWARDING_STOPPED, LAST_CLOSE, MEMORY_PER_CONNECTION, Sample,
};
use crate::proxy::peers::{Instance, Peer};
use crate::proxy::plain_server::request_name;
use crate::proxy::size::Size;
use crate::proxy::testbed::Testbed;
use crate::proxy::usage;

/// Connections before the measured ones: one-time allocations happen then.
const WARM_UP: usize = 200;
/// How many connections are opened at the same time.
const CONCURRENT_CONNECTS: usize = 50;
/// Limit for one connection, one command, or the close of all connections.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn run(testbed: &mut Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let instance = testbed.start_instance(peer).await?;
    let sample = measure(testbed, peer, &instance, size).await;
    // The remaining stolon-proxies lead to the first server again.
    testbed.route_to(0).await?;
    testbed.stop_instance(instance).await;
    sample
}

async fn measure(testbed: &mut Testbed, peer: Peer, instance: &Instance, size: &Size) -> anyhow::Result<Sample> {
    let pids = &instance.pids;
    drop(open(instance.port, WARM_UP).await?);
    let idle_descriptors = stable_value(|| usage::descriptors(pids)).await?;
    let memory = usage::anonymous_bytes(pids)?;
    let connections = open(instance.port, size.idle).await?;
    let count = connections.len() as f64;
    let descriptors = usage::descriptors(pids)?.saturating_sub(idle_descriptors);
    let grown = usage::anonymous_bytes(pids)?.saturating_sub(memory);
    let mut sample = vec![
        (MEMORY_PER_CONNECTION, grown as f64 / 1024.0 / count),
        (DESCRIPTORS_PER_CONNECTION, descriptors as f64 / count),
    ];
    match peer {
        Peer::Haproxy | Peer::HaproxyTuned => {
            let commands = instance.commands.clone().context("HAProxy takes commands")?;
            let command = async move {
                let mut socket = UnixStream::connect(&commands).await.context("HAProxy's socket")?;
                let command = b"shutdown sessions server postgres/master\n";
                socket.write_all(command).await.context("HAProxy's socket")?;
                let mut answer = String::new();
                socket.read_to_string(&mut answer).await.context("HAProxy's socket")?;
                ensure!(answer.trim().is_empty(), "HAProxy answers {answer:?}");
                anyhow::Ok(())
            };
            let took = time_to_close(connections, command).await?;
            sample.push((LAST_CLOSE, took.as_secs_f64() * 1000.0));
        }
        Peer::Stolon | Peer::StolonScraped | Peer::StolonTwoThreads | Peer::StolonBefore => {
            let took = time_to_close(connections, testbed.route_to(1)).await?;
            sample.push((LAST_CLOSE, took.as_secs_f64() * 1000.0));
            let metrics = scrape(instance.metrics.context("the proxy has metrics")?).await?;
            for (figure, name) in [
                (FORWARDING_STOPPED, "stolon_proxy_last_stop_seconds"),
                (ALL_DROPPED, "stolon_proxy_last_drop_seconds"),
            ] {
                let line = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                let seconds: f64 = line
                    .and_then(|line| line.parse().ok())
                    .with_context(|| format!("no {name}"))?;
                sample.push((figure, seconds * 1000.0));
            }
        }
        // They have no command that closes connections.
        Peer::Direct | Peer::Nginx | Peer::Pgbouncer => drop(connections),
    }
    Ok(sample)
}

/// Opens connections, requests the server's name on each, and returns them.
async fn open(port: u16, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut pending = JoinSet::new();
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        if pending.len() == CONCURRENT_CONNECTS {
            let opened = pending.join_next().await.context("some are pending")?;
            connections.push(opened.context("open a connection")??);
        }
        pending.spawn(async move {
            let connect = async {
                let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
                let name = request_name(&mut socket).await?;
                name.ok_or(io::ErrorKind::UnexpectedEof)?;
                io::Result::Ok(socket)
            };
            let opened = tokio::time::timeout(TIMEOUT, connect).await;
            opened
                .context("open a connection: no response")?
                .context("open a connection")
        });
    }
    while let Some(opened) = pending.join_next().await {
        connections.push(opened.context("open a connection")??);
    }
    Ok(connections)
}

/// Runs the command; returns the time from its start to the close of the last connection.
async fn time_to_close(
    connections: Vec<TcpStream>,
    command: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Duration> {
    let mut ends = JoinSet::new();
    for connection in connections {
        ends.spawn(wait_closed(connection));
    }
    let start = now();
    command.await?;
    let mut last = start;
    let all = async {
        while let Some(end) = ends.join_next().await {
            last = last.max(end?);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(TIMEOUT, all)
        .await
        .context("not all connections were closed")??;
    Ok(last.since(start))
}

/// Waits until the connection is closed or fails; returns the time.
async fn wait_closed(socket: TcpStream) -> Boottime {
    let mut rest = [0; 64];
    loop {
        // An error is handled below.
        let _ = socket.readable().await;
        match socket.try_read(&mut rest) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return now(),
        }
    }
}

/// Waits until two samples in a row are the same, and returns the value.
async fn stable_value(sample: impl Fn() -> anyhow::Result<usize>) -> anyhow::Result<usize> {
    let start = now();
    let mut last = sample()?;
    while now().since(start) < TIMEOUT {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let value = sample()?;
        if value == last {
            return Ok(value);
        }
        last = value;
    }
    Ok(last)
}
