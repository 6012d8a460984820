//! The runtimes of a program: how one is built, and how the main one ends. What runs on them is left to the programs.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::telemetry;

/// Builds a runtime whose tasks run on the thread that blocks on it.
///
/// # Errors
/// The kernel refuses an event queue (epoll_create(2)).
pub fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs a program's main task to its end, then writes out the log.
///
/// Work on other threads, such as a pending name lookup or an abandoned removal, does not delay the exit.
pub fn run_main_task<T>(runtime: Runtime, main: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(main);
    runtime.shutdown_background();
    telemetry::flush();
    outcome
}
