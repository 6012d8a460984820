//! `playground`: a whole cluster on one machine, to try things out and to see it survive its master (design D-12).

mod leftovers;
mod load;
mod screen;
mod stage;
mod tour;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use control::clock::Boottime;
use control::telemetry::complain;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::stage::{Failure, Ports, SUPERUSER, Stage};

/// How often the live status is looked at.
const STATUS_EVERY: Duration = Duration::from_millis(500);

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
    match play(args).await {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn play(args: &Args) -> anyhow::Result<ExitCode> {
    // before anything exists that would have to be removed
    let mut signals = Signals::listen()?;
    let ports = if args.usual_ports { Ports::USUAL } else { Ports::free()? };
    ports.check()?;
    let mut stage = Stage::build(ports)?;
    let outcome = tokio::select! {
        outcome = perform(args, &mut stage) => outcome,
        name = signals.next() => Ok(Some(name)),
    };
    stage.screen.give_up();
    let code = match outcome {
        Ok(None) => ExitCode::SUCCESS,
        // who leaves by Ctrl-C after the tour leaves as intended
        Ok(Some(End::Interrupt)) if stage.screen.is_terminal() => ExitCode::SUCCESS,
        Ok(Some(end)) => ExitCode::from(end.status()),
        Err(error) => {
            complain(format_args!("failed: {error:#}"));
            if let Some(text) = error.downcast_ref::<Failure>().and_then(Failure::explanation) {
                complain(text);
            }
            ExitCode::FAILURE
        }
    };
    stage.screen.say("ending the programs and removing their files");
    // whoever signals again does not get us to leave things behind
    stage.clear().await?;
    Ok(code)
}

async fn perform(args: &Args, stage: &mut Stage) -> anyhow::Result<Option<End>> {
    tour::open(stage).await?;
    if args.tour {
        tour::perform(stage).await?;
        if !stage.screen.is_terminal() {
            return Ok(None);
        }
    } else {
        tour::add_standbys(stage).await?;
    }
    stage.screen.say("");
    stage.screen.say("Connect with:");
    stage.screen.say(&format!(
        "  PGPASSWORD={} psql --host 127.0.0.1 --port {} --username {SUPERUSER} postgres",
        stage.password, stage.ports.proxy
    ));
    stage.screen.say("Ctrl-C ends it and removes everything.");
    stage.screen.say("");
    loop {
        stage.check_children()?;
        if stage.screen.is_terminal() {
            let lines = tour::status(stage).await;
            stage.screen.draw(&lines);
        }
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

/// What ends a playground that would go on by itself.
#[derive(Debug, Clone, Copy)]
enum End {
    Interrupt,
    Terminate,
    HangUp,
}

impl End {
    /// The exit status, as a shell says a death by that signal.
    fn status(self) -> u8 {
        match self {
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Interrupt,
            _ = self.terminate.recv() => End::Terminate,
            _ = self.hang_up.recv() => End::HangUp,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
fn now() -> Boottime {
    Boottime::now()
}
