//! stolon-sentinel: checks its options and runs the sentinel's loop until a signal ends it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use base::{Clock, RandomBytes};
use daemon::args::{self, SENTINEL};
use daemon::signals::{STOP, SignalHandlers};
use daemon::telemetry::{Component, fatal, fatal_error};
use daemon::{program, runtime};
use model::{SentinelUid, short_uid};
use sentinel::SentinelParts;
use sentinel::args::{Args, Config};
use sentinel::metrics::Metrics;
use store::Store;
use tracing::info;

fn main() -> ExitCode {
    let args: Args = args::parse(SENTINEL);
    let config = program::start_logging(args.check()).unwrap_or_else(|faults| fatal(faults));
    let main_runtime = runtime::local().unwrap_or_else(|error| fatal_error("cannot start", &error));
    program::run_main_task(main_runtime, run(config));
    ExitCode::SUCCESS
}

async fn run(config: Config) {
    let (clock, random) = (Clock::system(), RandomBytes::system());
    let uid = SentinelUid::from(short_uid(random.bytes()));
    info!(id = %uid, "sentinel id");
    let server = program::serve_metrics(&config.common, Component::Sentinel)
        .unwrap_or_else(|error| fatal_error("cannot start the HTTP server", &error));
    let metrics = Metrics::register();
    let mut signals =
        SignalHandlers::install(&STOP).unwrap_or_else(|error| fatal_error("cannot listen for signals", &error));
    let parts = SentinelParts {
        store: Store::new(config.common.store, clock.clone()),
        uid,
        initial_spec: config.initial_spec,
        metrics,
        server,
        clock,
        random,
    };
    sentinel::run(parts, signals.next()).await;
}
