//! What all four programs share: the types of the stored documents (`model`), access to etcd (`store`), the sentinel's
//! decisions (`plan`) and its loop (`sentinel`), command-line arguments, logs and metrics. The loops of keeper and
//! proxy live in their own crates.

// These macros panic when standard output or standard error is closed. `telemetry::print_stdout` and `print_stderr` do
// not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod clock;
pub mod model;
pub mod plan;
pub mod redact;
pub mod sentinel;
pub mod store;
pub mod telemetry;
