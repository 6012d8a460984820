//! The measurements of the benchmark programs.

#![forbid(unsafe_code)]

pub mod failover;
mod http;
pub mod idle;
pub mod interruption;
pub mod proxy;
pub mod random_faults;
pub mod rejoin;
pub mod slow_store;
