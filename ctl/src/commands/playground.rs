//! `playground`: runs a whole cluster on this machine, to try things out and to watch it survive the loss of its
//! master. Its steps are in `tour`, the processes in `programs`.

mod load;
mod observe;
mod ports;
mod programs;
mod screen;
mod sql;
mod tour;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use base::{Clock, RandomBytes};
use daemon::telemetry::print_stderr;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::observe::Observer;
use self::ports::Ports;
use self::programs::{CLUSTER, Playground, SUPERUSER, StepFailure};

/// Pause between two reads of the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Run a whole cluster on this machine, to try things out
///
/// Starts its own etcd, two sentinels, three keepers and a proxy in a temporary directory, shows their status and how
/// to connect, and removes everything when it is interrupted. As root, the programs run as the user postgres.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// First perform a tour: insert a row, kill the master, measure how long a client was not served, restart the
    /// old master as a standby. Without a terminal, exit after that.
    #[arg(long)]
    tour: bool,
    /// Use fixed ports (etcd 2379, PostgreSQL 5432, 5435 and 5436, proxy 25432) instead of free ones.
    #[arg(long)]
    usual_ports: bool,
    /// Also run Prometheus with the alert rules and, where grafana-server is installed, Grafana with the dashboards; all
    /// programs then serve metrics.
    #[arg(long)]
    observe: bool,
}

/// Runs the playground until it is stopped. Prints its errors itself, because they come with the end of a log.
pub(crate) async fn run(args: &Args, clock: Clock, random: RandomBytes) -> ExitCode {
    match start_and_stop(args, clock, &random).await {
        Ok(code) => code,
        Err(error) => {
            print_stderr(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn start_and_stop(args: &Args, clock: Clock, random: &RandomBytes) -> anyhow::Result<ExitCode> {
    // Before anything exists that would have to be removed.
    let mut signals = StopSignals::listen()?;
    let ports = if args.usual_ports {
        Ports::usual()
    } else {
        Ports::free()?
    };
    ports.ensure_free()?;
    let mut observer = args.observe.then(Observer::find).transpose()?;
    let mut playground = Playground::prepare(ports, clock.clone(), random)?;
    let outcome = tokio::select! {
        outcome = run_until_done(args, &clock, &mut playground, observer.as_mut()) => outcome,
        name = signals.next() => Ok(Some(name)),
    };
    playground.screen.abandon_step();
    let code = match outcome {
        Ok(None) => ExitCode::SUCCESS,
        // Ctrl-C at a terminal is the intended end.
        Ok(Some(StopSignal::Interrupt)) if playground.screen.is_terminal() => ExitCode::SUCCESS,
        Ok(Some(end)) => ExitCode::from(end.exit_status()),
        Err(error) => {
            print_stderr(format_args!("failed: {error:#}"));
            if let Some(text) = error.downcast_ref::<StepFailure>().and_then(StepFailure::log_tail) {
                print_stderr(text);
            }
            ExitCode::FAILURE
        }
    };
    playground
        .screen
        .print("stopping the programs and removing their files");
    // Further signals are ignored here, so that nothing is left behind.
    playground.shut_down()?;
    Ok(code)
}

async fn run_until_done(
    args: &Args,
    clock: &Clock,
    playground: &mut Playground,
    observer: Option<&mut Observer>,
) -> anyhow::Result<Option<StopSignal>> {
    let observed = match observer {
        Some(observer) => observer.start(playground).await?,
        None => Vec::new(),
    };
    tour::start_cluster(playground).await?;
    if args.tour {
        tour::run_steps(playground, clock).await?;
        if !playground.screen.is_terminal() {
            return Ok(None);
        }
    } else {
        tour::add_standbys(playground).await?;
    }
    playground.screen.print("");
    playground.screen.print("Connect with:");
    playground.screen.print(&format!(
        "  PGPASSWORD={} psql --host 127.0.0.1 --port {} --username {SUPERUSER} postgres",
        playground.password, playground.ports.proxy
    ));
    playground.screen.print("Look at the cluster, or change it, with:");
    playground.screen.print(&format!(
        "  stolonctl status --cluster-name {CLUSTER} --store-backend etcdv3 --store-endpoints http://127.0.0.1:{}",
        playground.ports.etcd
    ));
    for line in &observed {
        playground.screen.print(line);
    }
    playground
        .screen
        .print("Ctrl-C stops everything and removes all files.");
    playground.screen.print("");
    loop {
        playground.check_children()?;
        if playground.screen.is_terminal() {
            let lines = view::status_lines(&playground.store).await;
            playground.screen.redraw_status(&lines);
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
