//! The subcommands, one file each: which there are, and the order of what happens before one runs (cli 6.1).

use std::process::ExitCode;

use control::args::{self, CTL, CommonArgs, VERSION};

mod playground;

/// Operates a cluster: initialises it, shows it, changes what it should be.
#[derive(Debug, clap::Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a whole cluster on this machine, to try things out
    Playground(playground::Args),
    /// Print the version
    Version,
}

/// Runs what was typed and gives the exit status.
pub(crate) async fn run(args: Args) -> ExitCode {
    match args.command {
        None => {
            // Who cannot be shown the help has closed standard output.
            let _ = args::command::<Args>(CTL).print_help();
            ExitCode::SUCCESS
        }
        Some(Command::Playground(args)) => playground::run(&args).await,
        Some(Command::Version) => {
            println!("{} version {VERSION}", CTL.name);
            ExitCode::SUCCESS
        }
    }
}
