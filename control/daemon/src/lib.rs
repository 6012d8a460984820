//! What the four programs share: options, logs, metrics and the HTTP server that serves them.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone; the functions of `telemetry` that print do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod telemetry;
