//! The kinds of Tokio runtime that the programs use. What runs on them is left to the programs.

use std::io;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime, Runtime};

/// Builds a runtime whose tasks run on the thread that blocks on it.
///
/// # Errors
/// The kernel refuses an event queue (epoll_create(2)).
pub fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Builds a runtime like [`current_thread`] that stays on its thread, so that its tasks need not be [`Send`].
///
/// # Errors
/// The kernel refuses an event queue (epoll_create(2)).
pub fn local() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}
