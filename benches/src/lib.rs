//! The measurements of the benchmark programs.

pub mod failover;
pub mod proxy;
pub mod slow_store;
