//! Defines the subcommands, one file each, and runs the one that was typed. The checks that all of them share come
//! first (cli 6.1).

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use base::{Chain, Clock, RandomBytes, printable};
use daemon::args::{self, CTL, CommonArgs, Faults, VERSION};
use daemon::telemetry::{self, ignore_broken_pipe, print_stderr};
use store::{Store, StoreError, UNREACHABLE_HINT};

mod clusterdata;
mod confirm;
mod failkeeper;
mod failover;
mod init;
mod input;
mod leased_request;
mod playground;
mod promote;
mod register;
mod removekeeper;
mod spec;
mod spec_warnings;
mod status;
mod stored_document;
mod stored_keepers;
mod stored_requests;
mod switchover;
mod update;

/// Operate a cluster: initialise it, show its status, change its specification.
#[derive(Debug, clap::Parser)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// Kubernetes backend, not supported
    #[arg(long, global = true, hide = true)]
    kubeconfig: Option<String>,
    /// Kubernetes backend, not supported
    #[arg(long, global = true, hide = true)]
    kube_context: Option<String>,
    /// Kubernetes backend, not supported
    #[arg(long, global = true, hide = true)]
    kube_namespace: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Initialise a cluster, or initialise it again: the old cluster data is lost
    Init(init::Args),
    /// Show cluster status
    Status(status::Args),
    /// Show the cluster spec
    Spec(spec::Args),
    /// Replace or patch the cluster spec
    Update(update::Args),
    /// Fail a keeper for one round: a standby replaces its master
    Failkeeper(failkeeper::Args),
    /// Make another keeper the master while the present one is healthy, without loss
    Switchover(switchover::Args),
    /// Make a standby that lacks data the master when no other can be elected; what it lacks is lost
    Failover(failover::Args),
    /// Remove a keeper from the cluster data
    Removekeeper(removekeeper::Args),
    /// Turn a standby cluster into a master cluster
    Promote(promote::Args),
    /// Read or write the whole cluster data
    Clusterdata(clusterdata::Args),
    /// Keep the healthy instances registered in Consul, until SIGTERM or SIGINT
    Register(register::Args),
    /// Run a whole cluster on this machine, to try things out
    Playground(playground::Args),
    /// Print the version
    Version(IgnoredArguments),
}

/// Positional arguments that a command accepts and ignores, as Go stolon does (cli O-25).
#[derive(Debug, Default, clap::Args)]
struct IgnoredArguments {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
}

/// How a command ended that returned no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandOutcome {
    /// It did what was asked, or the operator answered no: exit status 0.
    Success,
    /// It failed and has already printed the error: exit status 1.
    FailureReported,
}

/// Runs the command that was typed and returns the exit status (cli 1.3).
pub async fn run(args: Args, clock: Clock, random: RandomBytes) -> ExitCode {
    let Some(command) = args.command else {
        return print_help(&[]);
    };
    match &command {
        Command::Playground(playground) => return playground::run(playground, clock, random).await,
        Command::Version(_) => return print_line(&format!("{} version {VERSION}", CTL.name)),
        Command::Clusterdata(clusterdata) if !clusterdata.is_complete() => return print_help(&["clusterdata"]),
        Command::Register(register) if register.asks_for_version() => {
            return print_line(&format!("register version {VERSION}"));
        }
        _ => {}
    }
    let mut faults = Faults::default();
    let level = args.common.log_level(&mut faults);
    let common = args.common.check(&mut faults);
    let registration = match &command {
        Command::Register(args) => args.check(&|name| std::env::var_os(name), &mut faults),
        _ => None,
    };
    let Some(common) = common.filter(|_| faults.is_empty()) else {
        for fault in faults.lines() {
            print_stderr(printable(fault));
        }
        return ExitCode::FAILURE;
    };
    let store = Store::new(common.store, clock.clone());
    let outcome = match &command {
        Command::Register(_) => {
            let config = registration.expect("without a configuration there are faults");
            register::run(&store, &common.cluster_name, level, config).await
        }
        Command::Init(args) => Box::pin(init::run(&store, &clock, &random, args)).await,
        Command::Status(args) => status::run(&store, args).await,
        Command::Spec(args) => spec::run(&store, args).await,
        Command::Update(args) => update::run(&store, &clock, args).await,
        Command::Failkeeper(args) => failkeeper::run(&store, &clock, args).await,
        Command::Failover(args) => Box::pin(failover::run(&store, &clock, &random, args)).await,
        Command::Switchover(args) => Box::pin(switchover::run(&store, &clock, &random, args)).await,
        Command::Removekeeper(args) => removekeeper::run(&store, &clock, args).await,
        Command::Promote(args) => promote::run(&store, &clock, args).await,
        Command::Clusterdata(args) => clusterdata::run(&store, args).await,
        // these have ended above
        Command::Playground(_) | Command::Version(_) => Ok(CommandOutcome::Success),
    };
    match outcome {
        Ok(CommandOutcome::Success) => ExitCode::SUCCESS,
        Ok(CommandOutcome::FailureReported) => ExitCode::FAILURE,
        Err(error) => {
            print_stderr(printable(&error_line(&error))); // an error is one line on standard error (cli O-23)
            ExitCode::FAILURE
        }
    }
}

/// Returns the error and its causes on one line. If the store cannot be reached, these are what was attempted, the
/// endpoints, and a hint; the key names do not help then, since nothing was sent.
fn error_line(error: &anyhow::Error) -> String {
    let store = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
    let (limit, endpoints) = match store {
        // A store that returned an error can be reached, so the hint would mislead.
        Some(reachable) if reachable.etcd_fault().is_some() => return Chain(error.as_ref()).to_string(),
        Some(StoreError::Unreachable { limit, source, .. }) => (limit, source),
        _ => return Chain(error.as_ref()).to_string(),
    };
    let attempts = error.chain().take_while(|cause| !cause.is::<StoreError>());
    let mut parts: Vec<String> = attempts.map(ToString::to_string).collect();
    parts.push(format!("the store cannot be reached (waited {limit:?})"));
    parts.extend(endpoints.as_ref().map(ToString::to_string));
    format!("{} ({UNREACHABLE_HINT})", parts.join(": "))
}

/// Prints the help of a subcommand, or of the program, on standard output and returns status 0 (cli O-20).
fn print_help(path: &[&str]) -> ExitCode {
    let mut command = args::command::<Args>(CTL);
    command.build();
    let mut selected = &mut command;
    for name in path {
        selected = selected
            .find_subcommand_mut(name)
            .expect("the path names subcommands of ours");
    }
    exit_code(ignore_broken_pipe(selected.print_help()))
}

fn print_line(line: &str) -> ExitCode {
    exit_code(telemetry::print_stdout(line))
}

fn exit_code(written: io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(format_args!("write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a text on standard output, with exactly one newline at its end (cli O-24).
fn print(text: &str) -> anyhow::Result<()> {
    telemetry::print_stdout(text).context("write to standard output")
}
