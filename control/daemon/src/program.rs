//! The start and the end of a daemon, as far as they are the same in every program: log started, metrics served, main
//! task run, log written out. Their order, and what a program runs, are left to its `main`.

use std::future::Future;
use std::io;
use std::panic::resume_unwind;

use tokio::runtime::LocalRuntime;
use tracing::field::display;
use tracing::warn;

use crate::args::{CheckedArgs, CommonConfig, Faults};
use crate::health::ProgramHealth;
use crate::systemd;
use crate::telemetry::{self, Component, MetricsError, MetricsServer};

/// Starts the log and writes the warnings about the arguments to it. Returns the configuration.
///
/// # Errors
/// All errors in the arguments. They are not logged yet: `main` does that, and exits.
pub fn start_logging<C>(checked: CheckedArgs<C>) -> Result<C, Faults> {
    telemetry::init(&checked.log);
    for warning in &checked.warnings {
        let file = warning.file.as_ref().map(|path| display(path.display()));
        warn!(file, "{}", warning.text);
    }
    checked.config
}

/// Serves the metrics from now on if an address is configured. Call it before metric handles are created: earlier
/// handles record nothing.
///
/// # Errors
/// The address is not available, a file that restricts access cannot be used, or the server cannot start.
pub fn serve_metrics(common: &CommonConfig, component: Component) -> Result<Option<MetricsServer>, MetricsError> {
    let serve = |address: &String| {
        let access = common.metrics_access.clone();
        telemetry::serve_metrics(address, access, component, &common.cluster_name)
    };
    common.metrics_listen_address.as_ref().map(serve).transpose()
}

/// Reports the program's health from now on: at `/healthz` and `/readyz` of its server, if it has one, and to systemd.
///
/// # Errors
/// The thread for systemd cannot be created.
pub fn report_health(server: Option<&MetricsServer>, health: ProgramHealth) -> io::Result<()> {
    if let Some(server) = server {
        health.add_pages(server);
    }
    systemd::report(health)
}

/// Runs a program's main task, which may use `spawn_local`, to its end, then writes out the log.
///
/// Work on other threads, such as a pending name lookup or an abandoned removal, does not delay the exit.
pub fn run_main_task<T: 'static>(runtime: LocalRuntime, main: impl Future<Output = T> + 'static) -> T {
    // Waking the future that a runtime blocks on costs an eventfd write and an epoll_wait that finds nothing else; waking a
    // task costs neither.
    let outcome = runtime.block_on(runtime.spawn_local(main));
    runtime.shutdown_background();
    telemetry::flush();
    // Nobody aborts the task, so it has panicked.
    outcome.unwrap_or_else(|failed| resume_unwind(failed.into_panic()))
}
