//! What could not be set up on this machine, with the system's error as its source.

use std::io;

/// A failed attempt; most have the system's error as their source.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct Error {
    attempt: String,
    source: Option<io::Error>,
}

impl Error {
    /// Returns an error that no error of the system caused.
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        Self {
            attempt: attempt.into(),
            source: None,
        }
    }
}

/// Names the attempt of a failed system call.
pub(crate) trait Attempt<T> {
    /// Wraps the error: `attempt` returns what was tried, like "make bin/".
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error {
            attempt: attempt(),
            source: Some(source),
        })
    }
}
