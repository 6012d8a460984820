//! The real stolon-proxy in front of fake masters, with a private etcd and this test in place of the sentinel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod accept_flood;
mod background_clients;
mod change;
mod connections;
mod dead_peers;
mod fencing;
mod garbage;
mod harness;
mod load;
mod log_rate_limit;
mod masters;
mod names;
mod port_scan;
mod routing;
mod starting;
