//! stolonctl: the operator's command line. Parses the arguments and runs one command; what a command does is left to
//! its file.

#![forbid(unsafe_code)]
// These macros panic if standard output is closed; `telemetry::print_stdout` and `print_stderr` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use base::{Clock, RandomBytes};
use daemon::args::{self, CTL};
use daemon::runtime;
use daemon::telemetry::print_stderr;

mod commands;

use commands::Args;

fn main() -> ExitCode {
    let args: Args = args::parse(CTL);
    let runtime = match runtime::current_thread() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_stderr(format_args!("start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(commands::run(args, Clock::system(), RandomBytes::system()));
    runtime.shutdown_background(); // do not wait for pending name lookups (cli O-26)
    code
}
