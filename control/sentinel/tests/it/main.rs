//! The sentinel's program against a real etcd.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only functions with #[test] for tests, not their helpers"
)]

mod failover;
mod sentinel;
mod switchover;

use stolon_tests::store_client;
use store::Store;

fn store(endpoints: &str) -> Store {
    store_client::connect(endpoints, "mycluster")
}
