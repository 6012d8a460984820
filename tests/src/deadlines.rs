//! The limits of all waits in tests, for a busy machine: none is reached unless something is wrong. Intervals that a
//! test chooses for its cluster, and spans during which something must hold, are in the tests.

use std::time::Duration;

/// Limit for killed processes to disappear at the end of a test.
pub const CLEANUP_TIMEOUT: Duration = Duration::from_secs(4);
/// Limit for one SQL statement, or one connect.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for what takes the programs a few rounds, a request to the store, or the start of etcd.
pub const SHORT_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit for a load of many clients.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(150);
/// Limit for starting, copying and recovering an instance.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(180);
/// Limit for a whole test of one PostgreSQL instance without a cluster, which starts and stops it many times.
pub const INSTANCE_TEST_TIMEOUT: Duration = Duration::from_secs(600);
