//! Measures what an idle cluster costs.

use std::time::Duration;

use benches::idle::{IdleOptions, measure};
use benches::interruption::until_signal;
use clap::Parser;
use model::GoDuration;

/// Measure what an idle cluster costs, and fail when a figure exceeds its limit
///
/// Three keepers, one sentinel and one proxy at the default spec: memory and CPU of each program, writes to etcd, the time to the
/// first log line of each program, and the sizes of the binaries.
#[derive(Debug, Parser)]
struct Args {
    /// How long CPU and writes are counted
    #[arg(long, default_value = "1m")]
    time: GoDuration,
    /// Scrape the metrics of each program once a second meanwhile
    #[arg(long)]
    scrape: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = IdleOptions {
        time: args.time.to_std().max(Duration::from_secs(1)),
        scrape: args.scrape,
    };
    until_signal(measure(options)).await
}
