//! The sentinel's loop and program: read the store, plan, write. The decisions are in `plan`.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod ages;
pub mod args;
mod decode;
mod info_publisher;
mod initial_spec;
mod log_state;
pub mod metrics;
mod missing_data;
mod order_lease;
mod overview;
mod requests;
mod sentinel;
mod stale_reads;
mod status;
mod throttle;
mod timing;
mod watch_arrivals;
mod writer;

pub use self::sentinel::{SentinelParts, run};
