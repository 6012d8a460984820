//! The harness of the end-to-end tests: real etcd, real PostgreSQL, the four real programs.
//!
//! Everything that a test starts lives in one temporary directory and ends with the value that started it, also when
//! the test panics; the end of its log is then printed. Nothing here sleeps: it waits for a condition, with a deadline.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod cluster;
pub mod conf;
pub mod consul;
pub mod deadlines;
pub mod etcd;
pub mod fake_sentinel;
pub mod grafana;
pub mod http;
pub mod pg_programs;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod promql;
pub mod spec;
pub mod sql;
pub mod standalone;
pub mod status;
pub mod store_client;
pub mod synchronous;
pub mod tcp_relay;
pub mod test_dir;
pub mod wait;
pub mod wal_receiver;
pub mod writers;
