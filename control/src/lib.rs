//! The shared language and the judge: what the cluster is (`model`), where that is kept (`store`), and what it
//! should become (`plan`). The programs' own loops live with the programs.

// These panic when nobody takes what they print: `telemetry::say` and `complain` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod clock;
pub mod model;
pub mod plan;
pub mod redact;
pub mod sentinel;
pub mod store;
pub mod telemetry;
