//! stolon-keeper: checks its options and runs the keeper until a signal ends it.

#![forbid(unsafe_code)]

use std::panic::resume_unwind;
use std::process::ExitCode;

use base::{Chain, Clock, RandomBytes};
use daemon::args::{self, KEEPER};
use daemon::{program, runtime, telemetry};
use keeper::args::{Args, Config, HostEnv};
use keeper::start;
use tokio::task::{LocalSet, spawn_local};

fn main() -> ExitCode {
    let args: Args = args::parse(KEEPER);
    let checked = args.check(&HostEnv::current());
    let config = program::start_logging(checked).unwrap_or_else(|faults| telemetry::fatal_lines(faults.lines()));
    let main_runtime = runtime::current_thread().unwrap_or_else(|error| telemetry::fatal_error("cannot start", &error));
    if let Err(error) = program::run_main_task(main_runtime, run(config, args.advertise_option())) {
        telemetry::fatal(Chain(error.as_ref()));
    }
    ExitCode::SUCCESS
}

async fn run(config: Config, advertise_option: &'static str) -> anyhow::Result<()> {
    let keeper = start::run(config, advertise_option, Clock::system(), RandomBytes::system());
    // A task of its own: the set polls what it runs directly whenever any of its tasks has been woken.
    let ended = LocalSet::new().run_until(async { spawn_local(keeper).await }).await;
    ended.unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
}
