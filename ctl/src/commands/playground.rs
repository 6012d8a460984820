//! `playground`: a whole cluster on one machine, to try things out (design D-12).

use std::process::ExitCode;

/// Run a whole cluster on this machine, to try things out
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the playground to its end and reports its own failures.
pub(crate) async fn run(_: &Args) -> ExitCode {
    eprintln!("playground is not supported yet");
    ExitCode::FAILURE
}
