//! What every other crate builds on: clocks, random bytes, error chains, the masking of passwords, and checks of hosts and
//! files that users give.

#![forbid(unsafe_code)]

mod chain;
pub mod clock;
mod count;
pub mod host;
mod printable;
mod random;
pub mod redact;
pub mod user_file;

pub use chain::Chain;
pub use clock::Clock;
pub use count::counted;
pub use printable::{is_printable, printable};
pub use random::RandomBytes;
