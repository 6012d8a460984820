//! stolonctl as a whole, against a private etcd.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod arguments;
mod clusterdata;
mod failover;
mod golden;
mod harness;
mod init;
mod keepers;
mod outputs;
mod promote;
mod read;
mod register;
mod switchover;
mod update;
