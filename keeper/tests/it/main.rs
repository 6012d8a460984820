//! Tests of the keeper's instance handling with a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod failures;
mod harness;
mod health;
mod replication;
mod start_stop;
mod store;
mod synchronous;
