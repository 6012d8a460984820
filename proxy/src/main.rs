//! stolon-proxy: checks its options, starts the log and runs the proxy until a signal ends it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use base::{Clock, RandomBytes};
use daemon::args::{self, PROXY};
use daemon::program;
use daemon::telemetry::{fatal, fatal_error};
use proxy::args::Args;
use proxy::program::{raise_limits, run};

fn main() -> ExitCode {
    let args: Args = args::parse(PROXY);
    let config = program::start_logging(args.check(raise_limits())).unwrap_or_else(|faults| fatal(faults));
    if let Err(err) = run(config, &Clock::system(), RandomBytes::system()) {
        let err: &(dyn std::error::Error + 'static) = err.as_ref();
        fatal_error("stolon-proxy cannot run", err);
    }
    ExitCode::SUCCESS
}
