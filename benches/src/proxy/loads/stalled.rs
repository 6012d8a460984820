//! A client that stops reading in the middle of a large answer: who keeps what it does not take?

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

/// How long the COPY may take, before and after.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The buffers between server and client are full when the kernel's memory has been the same for so many looks.
const STABLE_SAMPLES: usize = 6;
/// By how much it may differ meanwhile: there are other sockets.
const SLACK_BYTES: u64 = 64 * 1024;
/// Between two looks.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

pub(super) async fn run(site: &Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let instance = site.postgres(peer);
    let tcp_before = usage::tcp_bytes()?;
    let mut psql = copy::copy_to_null(site, peer).spawn().context("start psql")?;
    let pid = psql.id().context("psql runs")?;
    // under way: it has written something to /dev/null
    eventually("the COPY to be under way", TIMEOUT, async || {
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
    ensure!(status.success(), "psql after it was let go on: {status}");
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

/// What the kernel's TCP memory has come to once it stays the same, or at the end of our patience.
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
