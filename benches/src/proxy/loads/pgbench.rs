//! pgbench: many small messages, and many short connections.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::measure_cost;
use crate::proxy::figures::{CPU_PER_TRANSACTION, LATENCY, Sample, TPS};
use crate::proxy::peers::Peer;
use crate::proxy::print_progress;
use crate::proxy::size::Size;
use crate::proxy::testbed::{Testbed, run as run_program};

/// As if the database were of this scale, to which pgbench's own scripts keep when they are told (pgbench.c: a `-D` of
/// `scale` is not overridden): a new server process maps a page of shared buffers when it first touches it, which costs
/// less the fewer there are. PgBouncer's server processes have done it in an earlier run.
const SMALL_SCALE: &str = "scale=1";

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// One select a transaction, as text.
    Simple,
    /// One select a transaction, prepared.
    Prepared,
    /// Seven statements a transaction.
    TpcB,
    /// One select a connection.
    Reconnect,
}

impl Script {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Simple => "pgbench -S -D scale=1",
            Self::Prepared => "pgbench -S -M prepared -D scale=1",
            Self::TpcB => "pgbench (TPC-B-like)",
            Self::Reconnect => "pgbench -S -C (a connection a transaction)",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Simple => &["-S", "-D", SMALL_SCALE],
            Self::Prepared => &["-S", "-M", "prepared", "-D", SMALL_SCALE],
            Self::TpcB => &[],
            Self::Reconnect => &["-S", "-C"],
        }
    }
}

/// How much longer than it should a pgbench may take.
const GRACE: Duration = Duration::from_secs(60);
/// Between two scrapes.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn run(
    site: &Testbed,
    peer: Peer,
    script: Script,
    clients: usize,
    size: &Size,
) -> anyhow::Result<Sample> {
    let (clients, threads) = (clients.to_string(), clients.min(2).to_string());
    let span = size.span.as_secs().to_string();
    let mut options = vec!["-n", "-c", &clients, "-j", &threads, "-T", &span];
    options.extend(script.options());
    let pgbench = site.pgbench(peer, &options);
    let cost = measure_cost(site.postgres(peer), run_program(pgbench, size.span + GRACE)).await?;
    let said = PgbenchReport::parse(&cost.result).with_context(|| format!("pgbench said: {}", cost.result))?;
    let cpu = cost.cpu.as_secs_f64() * 1e6 / said.transactions;
    let mut sample = vec![(TPS, said.tps), (LATENCY, said.latency_ms * 1000.0)];
    if peer != Peer::Direct {
        sample.push((CPU_PER_TRANSACTION, cpu));
    }
    Ok(sample)
}

/// The same, with somebody reading the metrics of the proxy all the time, when the peer says so.
pub(super) async fn run_scraped(site: &Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let port = site.postgres(peer).metrics.context("the proxy has metrics")?;
    let scraping = (peer == Peer::StolonScraped).then(|| {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SCRAPE_INTERVAL);
            loop {
                ticks.tick().await;
                // a scrape that fails costs the proxy nothing, and shows in the figures of nobody
                if let Err(error) = scrape(port).await {
                    print_progress(format_args!("scrape: {error:#}"));
                }
            }
        })
    });
    let sample = run(site, peer, Script::Simple, 16, size).await;
    if let Some(scraping) = scraping {
        scraping.abort();
    }
    sample
}

/// Reads the metrics of a stolon-proxy.
pub(super) async fn scrape(port: u16) -> anyhow::Result<String> {
    let read = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(request).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .context("metrics: no answer")?
        .context("metrics")
}

/// What pgbench tells at its end (manual, pgbench, "Good Practices" and the example there).
#[derive(Debug, PartialEq)]
struct PgbenchReport {
    transactions: f64,
    latency_ms: f64,
    tps: f64,
}

impl PgbenchReport {
    fn parse(text: &str) -> Option<Self> {
        let after = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split([' ', '/']).next()?.parse().ok()
        };
        Some(Self {
            transactions: after("number of transactions actually processed: ")?,
            latency_ms: after("latency average = ")?,
            tps: after("tps = ")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_understood() {
        let text = "pgbench (15.20)\ntransaction type: <builtin: select only>\nscaling factor: 10\n\
                    number of transactions actually processed: 51234\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 0.312 ms\ninitial connection time = 21.1 ms\n\
                    tps = 51300.123 (without initial connection time)\n";
        let said = PgbenchReport {
            transactions: 51234.0,
            latency_ms: 0.312,
            tps: 51300.123,
        };
        assert_eq!(PgbenchReport::parse(text), Some(said));
        assert_eq!(PgbenchReport::parse("pgbench: error: connection to server"), None);
    }
}
