//! A client that stops reading during a large response: the memory that proxy and kernel use for it.

use std::time::Duration;

use anyhow::{Context, ensure};
use stolon_tests::process::{Signal, send_signal};
use stolon_tests::wait::{eventually, now};

use super::copy;
use crate::proxy::figures::{HOST_GROWTH, HOST_TAKEN, PROXY_GROWTH, Sample};
use crate::proxy::peers::Peer;
use crate::proxy::size::Size;
use crate::proxy::testbed::Testbed;
use crate::proxy::usage;

/// Limit for the COPY before and after the stall.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The buffers between server and client count as full when the kernel's memory is the same in this many samples.
const STABLE_SAMPLES: usize = 6;
/// By how much samples may differ, because of other sockets.
const SLACK_BYTES: u64 = 64 * 1024;
/// The pause between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

pub(super) async fn run(testbed: &Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let instance = testbed.postgres(peer);
    let tcp_before = usage::tcp_bytes()?;
    let mut psql = copy::copy_to_null(testbed, peer).spawn().context("start psql")?;
    let pid = psql.id().context("psql runs")?;
    // The COPY has begun when psql has written to /dev/null.
    eventually("the COPY to begin", TIMEOUT, async || {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).context("psql's io")?;
        let written = io
            .lines()
            .find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok());
        ensure!(
            written.is_some_and(|bytes| bytes > 1_000_000),
            "{written:?} bytes so far"
        );
        anyhow::Ok(())
    })
    .await;
    let memory_before = usage::anonymous_bytes(&instance.pids)?;
    send_signal(pid, Signal::STOP);
    let full = wait_buffers_full().await?;
    let (mut memory, mut tcp) = (memory_before, full);
    let start = now();
    while now().since(start) < size.stall {
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        memory = memory.max(usage::anonymous_bytes(&instance.pids)?);
        tcp = tcp.max(usage::tcp_bytes()?);
    }
    send_signal(pid, Signal::CONT);
    let status = tokio::time::timeout(TIMEOUT, psql.wait())
        .await
        .context("psql does not end")?
        .context("psql")?;
    ensure!(status.success(), "psql after the stall: {status}");
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let mut sample = vec![
        (HOST_TAKEN, kib(full.saturating_sub(tcp_before))),
        (HOST_GROWTH, kib(tcp - full)),
    ];
    if peer != Peer::Direct {
        sample.push((PROXY_GROWTH, kib(memory - memory_before)));
    }
    Ok(sample)
}

/// Waits until the kernel's TCP memory stays the same, at most for the timeout; returns it in bytes.
async fn wait_buffers_full() -> anyhow::Result<u64> {
    let start = now();
    let (mut last, mut same) = (usage::tcp_bytes()?, 0);
    while same < STABLE_SAMPLES && now().since(start) < TIMEOUT {
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        let bytes = usage::tcp_bytes()?;
        same = if bytes.abs_diff(last) <= SLACK_BYTES {
            same + 1
        } else {
            0
        };
        last = bytes;
    }
    Ok(last)
}
