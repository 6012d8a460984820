//! What the four programs share: options, logs, metrics, an HTTP server, signals, and the start and end of a daemon.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone; the functions of `telemetry` that print do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod health;
pub mod http;
mod notify;
pub mod program;
pub mod runtime;
pub mod signals;
pub mod systemd;
pub mod telemetry;
mod version;
