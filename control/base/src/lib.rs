//! What every other crate builds on: clocks, error chains and the masking of passwords.

#![forbid(unsafe_code)]

mod chain;
pub mod clock;
pub mod redact;

pub use chain::Chain;
