//! What every other crate builds on: clocks, random bytes, error chains and the masking of passwords.

#![forbid(unsafe_code)]

mod chain;
pub mod clock;
pub mod host;
mod random;
pub mod redact;

pub use chain::Chain;
pub use clock::Clock;
pub use random::RandomBytes;
