//! The kind of Tokio runtime that the programs use. What runs on it is left to them.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime whose tasks run on the thread that blocks on it.
///
/// # Errors
/// The kernel refuses an event queue (epoll_create(2)).
pub fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
