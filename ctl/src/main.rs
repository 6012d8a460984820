//! stolonctl: the operator's command line. Parses, calls one command, prints; what a command does is left to its file.

use std::process::ExitCode;

use control::args::{self, CTL};
use tokio::runtime::Builder;

mod commands;

use commands::Args;

fn main() -> ExitCode {
    let args: Args = args::parse(CTL);
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(commands::run(args));
    runtime.shutdown_background(); // nothing lingers (cli O-26)
    code
}
