//! `playground`: runs a whole cluster on this machine, to try things out and to watch it survive the loss of its
//! master. Its steps are in `tour`, the processes in `local_cluster`.

mod leftovers;
mod load;
mod local_cluster;
mod screen;
mod tour;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use base::clock::Boottime;
use daemon::telemetry::print_stderr;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::local_cluster::{LocalCluster, Ports, SUPERUSER, StepFailure};

/// Pause between two reads of the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Run a whole cluster on this machine, to try things out
///
/// Starts its own etcd, two sentinels, three keepers and a proxy in a temporary directory, shows their status and how
/// to connect, and removes everything when it is interrupted. As root, the programs run as the user postgres.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// First run the walk-through: insert a row, kill the master, measure how long a client was not served, restart the
    /// old master as a standby. Without a terminal, exit after that.
    #[arg(long)]
    tour: bool,
    /// Use the ports of the walk-through (etcd 2379, PostgreSQL 5432, 5435 and 5436, proxy 25432) instead of free ones.
    #[arg(long)]
    usual_ports: bool,
}

/// Runs the playground until it is stopped. Prints its errors itself, because they come with the end of a log.
pub(crate) async fn run(args: &Args) -> ExitCode {
    match start_and_stop(args).await {
        Ok(code) => code,
        Err(error) => {
            print_stderr(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn start_and_stop(args: &Args) -> anyhow::Result<ExitCode> {
    // Before anything exists that would have to be removed.
    let mut signals = StopSignals::listen()?;
    let ports = if args.usual_ports {
        Ports::WALK_THROUGH
    } else {
        Ports::free()?
    };
    ports.ensure_free()?;
    let mut cluster = LocalCluster::prepare(ports)?;
    let outcome = tokio::select! {
        outcome = run_until_done(args, &mut cluster) => outcome,
        name = signals.next() => Ok(Some(name)),
    };
    cluster.screen.abandon_step();
    let code = match outcome {
        Ok(None) => ExitCode::SUCCESS,
        // Ctrl-C at a terminal is the intended end.
        Ok(Some(StopSignal::Interrupt)) if cluster.screen.is_terminal() => ExitCode::SUCCESS,
        Ok(Some(end)) => ExitCode::from(end.exit_status()),
        Err(error) => {
            print_stderr(format_args!("failed: {error:#}"));
            if let Some(text) = error.downcast_ref::<StepFailure>().and_then(StepFailure::log_tail) {
                print_stderr(text);
            }
            ExitCode::FAILURE
        }
    };
    cluster.screen.print("stopping the programs and removing their files");
    // Further signals are ignored here, so that nothing is left behind.
    cluster.shut_down().await?;
    Ok(code)
}

async fn run_until_done(args: &Args, cluster: &mut LocalCluster) -> anyhow::Result<Option<StopSignal>> {
    tour::start_cluster(cluster).await?;
    if args.tour {
        tour::run_steps(cluster).await?;
        if !cluster.screen.is_terminal() {
            return Ok(None);
        }
    } else {
        tour::add_standbys(cluster).await?;
    }
    cluster.screen.print("");
    cluster.screen.print("Connect with:");
    cluster.screen.print(&format!(
        "  PGPASSWORD={} psql --host 127.0.0.1 --port {} --username {SUPERUSER} postgres",
        cluster.password, cluster.ports.proxy
    ));
    cluster.screen.print("Ctrl-C stops everything and removes all files.");
    cluster.screen.print("");
    loop {
        cluster.check_children()?;
        if cluster.screen.is_terminal() {
            let lines = tour::status_lines(cluster).await;
            cluster.screen.redraw_status(&lines);
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// The signal that stopped the playground.
#[derive(Debug, Clone, Copy)]
enum StopSignal {
    Interrupt,
    Terminate,
    HangUp,
}

impl StopSignal {
    /// The exit status that a shell reports for this signal.
    fn exit_status(self) -> u8 {
        match self {
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.hang_up.recv() => StopSignal::HangUp,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the program is where time enters")]
fn now() -> Boottime {
    Boottime::now()
}
