//! stolon-proxy as a library, for the program, its tests and the benchmarks.

pub mod address;
pub mod args;
pub mod checkin;
pub mod listener;
pub mod metrics;
pub mod program;
pub mod relay;
pub mod route;
