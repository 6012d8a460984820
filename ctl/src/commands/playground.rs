//! `playground`: a whole cluster on one machine, to try things out and to see it survive its master (design D-12).

mod leftovers;
mod load;
mod local_cluster;
mod screen;
mod tour;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use control::clock::Boottime;
use control::telemetry::complain;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::local_cluster::{LocalCluster, Ports, SUPERUSER, StepFailure};

/// How often the live status is looked at.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Run a whole cluster on this machine, to try things out
///
/// Starts its own etcd, two sentinels, three keepers and a proxy in a temporary directory, shows how they are and
/// how to connect, and removes everything when it is interrupted. As root the programs run as the user postgres.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Performs the walk-through first: a row, the death of the master, the gap that a client saw, the old master
    /// back as a standby. Without a terminal it ends after that.
    #[arg(long)]
    tour: bool,
    /// Uses the ports of the walk-through (etcd 2379, PostgreSQL 5432, 5435 and 5436, proxy 25432) and not free ones.
    #[arg(long)]
    usual_ports: bool,
}

/// Runs the playground to its end. It reports its own failures, since they come with a log.
pub(crate) async fn run(args: &Args) -> ExitCode {
    match start_and_stop(args).await {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn start_and_stop(args: &Args) -> anyhow::Result<ExitCode> {
    // before anything exists that would have to be removed
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
        // who leaves by Ctrl-C after the tour leaves as intended
        Ok(Some(StopSignal::Interrupt)) if cluster.screen.is_terminal() => ExitCode::SUCCESS,
        Ok(Some(end)) => ExitCode::from(end.exit_status()),
        Err(error) => {
            complain(format_args!("failed: {error:#}"));
            if let Some(text) = error.downcast_ref::<StepFailure>().and_then(StepFailure::log_tail) {
                complain(text);
            }
            ExitCode::FAILURE
        }
    };
    cluster.screen.print("ending the programs and removing their files");
    // whoever signals again does not get us to leave things behind
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
    cluster.screen.print("Ctrl-C ends it and removes everything.");
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

/// What ends a playground that would go on by itself.
#[derive(Debug, Clone, Copy)]
enum StopSignal {
    Interrupt,
    Terminate,
    HangUp,
}

impl StopSignal {
    /// The exit status, as a shell says a death by that signal.
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

#[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
fn now() -> Boottime {
    Boottime::now()
}
