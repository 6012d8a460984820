//! pgbench: small messages, and short connections.

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

/// The scale that pgbench's scripts use instead of the database's (pgbench.c: `-D scale` is not overridden). A new
/// server process maps each page of shared buffers at its first access, which costs less with fewer pages; PgBouncer's
/// server processes have mapped them in an earlier run.
const SMALL_SCALE: &str = "scale=1";

/// The script of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// One select per transaction, simple protocol.
    Simple,
    /// One select per transaction, prepared.
    Prepared,
    /// Seven statements per transaction.
    TpcB,
    /// One select per connection.
    Reconnect,
}

impl Script {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Simple => "pgbench -S -D scale=1",
            Self::Prepared => "pgbench -S -M prepared -D scale=1",
            Self::TpcB => "pgbench (TPC-B-like)",
            Self::Reconnect => "pgbench -S -C (one connection per transaction)",
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

/// How much longer than its duration a pgbench may run.
const GRACE: Duration = Duration::from_secs(60);
/// The pause between two scrapes.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn run(
    testbed: &Testbed,
    peer: Peer,
    script: Script,
    clients: usize,
    size: &Size,
) -> anyhow::Result<Sample> {
    let (clients, threads) = (clients.to_string(), clients.min(2).to_string());
    let span = size.span.as_secs().to_string();
    let mut options = vec!["-n", "-c", &clients, "-j", &threads, "-T", &span];
    options.extend(script.options());
    let pgbench = testbed.pgbench(peer, &options);
    let cost = measure_cost(testbed.postgres(peer), run_program(pgbench, size.span + GRACE)).await?;
    let report = PgbenchReport::parse(&cost.result).with_context(|| format!("pgbench printed: {}", cost.result))?;
    let cpu = cost.cpu.as_secs_f64() * 1e6 / report.transactions;
    let mut sample = vec![(TPS, report.tps), (LATENCY, report.latency_ms * 1000.0)];
    if peer != Peer::Direct {
        sample.push((CPU_PER_TRANSACTION, cpu));
    }
    Ok(sample)
}

/// The same; for [`Peer::StolonScraped`] while the metrics of the proxy are scraped.
pub(super) async fn run_scraped(testbed: &Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
    let port = testbed.postgres(peer).metrics.context("the proxy has metrics")?;
    let scraping = (peer == Peer::StolonScraped).then(|| {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(SCRAPE_INTERVAL);
            loop {
                ticks.tick().await;
                // A scrape that fails does not change the figures.
                if let Err(error) = scrape(port).await {
                    print_progress(format_args!("scrape: {error:#}"));
                }
            }
        })
    });
    let sample = run(testbed, peer, Script::Simple, 16, size).await;
    if let Some(scraping) = scraping {
        scraping.abort();
    }
    sample
}

/// Returns the metrics of a stolon-proxy.
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
        .context("metrics: no response")?
        .context("metrics")
}

/// The summary that pgbench prints at its end (PostgreSQL manual, pgbench, with an example).
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
    fn the_summary_of_pgbench_is_parsed() {
        let text = "pgbench (15.20)\ntransaction type: <builtin: select only>\nscaling factor: 10\n\
                    number of transactions actually processed: 51234\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 0.312 ms\ninitial connection time = 21.1 ms\n\
                    tps = 51300.123 (without initial connection time)\n";
        let report = PgbenchReport {
            transactions: 51234.0,
            latency_ms: 0.312,
            tps: 51300.123,
        };
        assert_eq!(PgbenchReport::parse(text), Some(report));
        assert_eq!(PgbenchReport::parse("pgbench: error: connection to server"), None);
    }
}
