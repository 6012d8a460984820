//! stolonctl: parses the arguments and runs one command.

#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use base::{Clock, RandomBytes};
use ctl::Args;
use daemon::args::{self, CTL};
use daemon::runtime;
use daemon::telemetry::print_stderr;

fn main() -> ExitCode {
    let args: Args = args::parse(CTL);
    let runtime = match runtime::current_thread() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_stderr(format_args!("start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(ctl::run(args, Clock::system(), RandomBytes::system()));
    runtime.shutdown_background(); // do not wait for pending name lookups (cli O-26)
    code
}
