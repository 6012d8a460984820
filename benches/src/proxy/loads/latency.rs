//! Response times of one client, alone or beside another client's COPY through the same proxy.

use std::time::Duration;

use anyhow::Context;
use stolon_tests::wait::now;

use super::copy;
use crate::proxy::figures::{P50, P99, P999, Sample};
use crate::proxy::peers::Peer;
use crate::proxy::size::Size;
use crate::proxy::testbed::{Testbed, run as run_program};

/// Limit for one COPY or one response.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Responses before the measured ones, while caches are cold.
const WARM_UP: usize = 200;

pub(super) async fn run(testbed: &Testbed, peer: Peer, beside_copy: bool, size: &Size) -> anyhow::Result<Sample> {
    if !beside_copy {
        return run_client(testbed, peer, size).await;
    }
    tokio::select! {
        sample = run_client(testbed, peer, size) => sample,
        error = copy_repeatedly(testbed, peer) => Err(error),
    }
}

/// Runs the client on its own thread, so that no response waits for a wake-up between the benchmark's threads.
async fn run_client(testbed: &Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let (config, size) = (testbed.config(peer), size.clone());
    let client = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("make a runtime")?;
        runtime.block_on(query_repeatedly(&config, &size))
    });
    client.await.context("the client's thread")?
}

async fn query_repeatedly(config: &tokio_postgres::Config, size: &Size) -> anyhow::Result<Sample> {
    let connect = tokio::time::timeout(TIMEOUT, config.connect(tokio_postgres::NoTls));
    let (client, connection) = connect.await.context("connect: no response")?.context("connect")?;
    // The client's calls fail with the same error.
    tokio::spawn(async { drop(connection.await) });
    let statement = client
        .prepare("select abalance from pgbench_accounts where aid = $1")
        .await
        .context("prepare")?;
    let accounts = i32::try_from(size.scale * 100_000).context("pgbench's account ids are integers")?;
    let mut micros = Vec::with_capacity(100_000);
    let mut start = now();
    let mut end = start + size.span;
    let mut account = 0;
    loop {
        if micros.len() == WARM_UP && account == WARM_UP as i32 {
            micros.clear();
            end = now() + size.span;
        }
        account = 1 + account % accounts;
        tokio::time::timeout(TIMEOUT, client.query_one(&statement, &[&account]))
            .await
            .context("no response")?
            .context("select")?;
        let answered = now();
        micros.push(answered.since(start).as_secs_f64() * 1e6);
        start = answered;
        if start >= end {
            break;
        }
    }
    micros.sort_by(f64::total_cmp);
    let percentile = |per_mille: usize| micros[(micros.len() * per_mille / 1000).min(micros.len() - 1)];
    Ok(vec![
        (P50, percentile(500)),
        (P99, percentile(990)),
        (P999, percentile(999)),
    ])
}

/// Runs one COPY after the other until one fails.
async fn copy_repeatedly(testbed: &Testbed, peer: Peer) -> anyhow::Error {
    loop {
        if let Err(error) = run_program(copy::copy_to_null(testbed, peer), TIMEOUT).await {
            return error.context("the other client's COPY");
        }
    }
}
