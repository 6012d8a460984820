//! stolonctl: the operator's command line. What a command does is left to its file.

#![forbid(unsafe_code)]
// These macros panic if standard output is closed; `telemetry::print_stdout` and `print_stderr` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod commands;

pub use commands::{Args, run};
