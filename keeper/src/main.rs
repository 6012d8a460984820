//! stolon-keeper: checks its options and runs the keeper until a signal ends it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use base::{Chain, Clock, RandomBytes};
use daemon::args::{self, KEEPER};
use daemon::{program, runtime, telemetry};
use keeper::args::{Args, HostEnv};
use keeper::start;

fn main() -> ExitCode {
    let args: Args = args::parse(KEEPER);
    let checked = args.check(&HostEnv::current());
    let config = program::start_logging(checked).unwrap_or_else(|faults| telemetry::fatal_lines(faults.lines()));
    let main_runtime = runtime::local().unwrap_or_else(|error| telemetry::fatal_error("cannot start", &error));
    let keeper = start::run(config, args.advertise_option(), Clock::system(), RandomBytes::system());
    if let Err(error) = program::run_main_task(main_runtime, keeper) {
        telemetry::fatal(Chain(error.as_ref()));
    }
    ExitCode::SUCCESS
}
