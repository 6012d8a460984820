//! The sentinel's program against a real etcd.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only functions with #[test] for tests, not their helpers"
)]

mod sentinel;

use store::{Store, StoreConfig, StoreOptions};

fn store(endpoints: &str) -> Store {
    let options = StoreOptions {
        endpoints: endpoints.to_owned(),
        cluster_name: "mycluster".to_owned(),
        ..StoreOptions::default()
    };
    Store::connect(StoreConfig::validate(&options).expect("the options are fine"))
}
