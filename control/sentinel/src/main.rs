//! stolon-sentinel: command-line options and start (cli 4). The loop is in `sentinel`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use base::{Chain, Clock};
use clap::Parser;
use daemon::args::{self, CommonConfig, DaemonArgs, Faults, SENTINEL};
use daemon::telemetry::{self, Component, fatal, fatal_error, serve_metrics};
use model::{ClusterSpec, SentinelUid, from_slice};
use sentinel::{self, Config, check_initial, metrics::Metrics, random_uid};
use store::Store;
use tokio::signal::unix::{SignalKind, signal};

/// Monitor a cluster, elect its master and publish the desired state to keepers and proxies
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// File with a cluster spec (JSON), used only if the store holds no cluster data
    #[arg(long, value_name = "FILE")]
    initial_cluster_spec: Option<PathBuf>,
}

fn main() {
    let args: Args = args::parse(SENTINEL);
    let mut faults = Faults::default();
    telemetry::init(&args.daemon.log(&mut faults));
    let common = args.daemon.common.check(&mut faults);
    let initial_spec = args
        .initial_cluster_spec
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
        .and_then(|path| read_initial(path, &mut faults));
    let Some(common) = common.filter(|_| faults.is_empty()) else {
        fatal(faults);
    };
    let uid = SentinelUid::from(random_uid());
    tracing::info!(id = %uid, "sentinel id");
    start(common, uid, initial_spec);
    telemetry::flush();
}

/// Reads the initial spec; errors go to `faults` (sentinel L-3).
fn read_initial(path: &Path, faults: &mut Faults) -> Option<ClusterSpec> {
    let shown = path.display();
    let mut refuse = |what: &str, why: &(dyn std::error::Error + 'static)| {
        faults.push(format!("cannot create sentinel: {what} {shown}: {}", Chain(why)));
        None
    };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return refuse("cannot read provided initial cluster config file", &error),
    };
    let mut spec: ClusterSpec = match from_slice(&text) {
        Ok(spec) => spec,
        Err(error) => return refuse("cannot parse provided initial cluster config", &error),
    };
    if let Err(error) = check_initial(&spec) {
        return refuse("cannot use provided initial cluster config", &error);
    }
    match spec.clean_server_settings(None) {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!(file = %shown, "initial cluster config: {warning}");
            }
            Some(spec)
        }
        Err(error) => refuse("cannot use provided initial cluster config", &error),
    }
}

fn start(common: CommonConfig, uid: SentinelUid, initial_spec: Option<ClusterSpec>) {
    if let Some(address) = &common.metrics_listen_address
        && let Err(error) = serve_metrics(address, Component::Sentinel, &common.cluster_name)
    {
        fatal_error("cannot serve metrics", &error);
    }
    let metrics = Metrics::register();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => fatal_error("cannot start", &error),
    };
    runtime.block_on(async {
        let (interrupted, terminated) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (mut interrupted, mut terminated) = match (interrupted, terminated) {
            (Ok(interrupted), Ok(terminated)) => (interrupted, terminated),
            (Err(error), _) | (_, Err(error)) => fatal_error("cannot listen for signals", &error),
        };
        let stop = async {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
        };
        let config = Config {
            store: Store::connect(common.store.clone(), Clock::system()),
            uid,
            initial_spec,
        };
        sentinel::run(config, metrics, stop).await;
    });
    runtime.shutdown_background(); // a pending name lookup must not delay the exit
}
