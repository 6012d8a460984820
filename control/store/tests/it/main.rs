//! The store against a real etcd: requests, watches, elections, outages and TLS.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only functions with #[test] for tests, not their helpers"
)]

mod alarms;
mod election;
mod outages;
mod requests;
mod slow;
mod tls;
mod watches;

use std::time::Duration;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use store::{Store, StoreConfig, StoreOptions};

/// Waits until the condition holds.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let probe = async || if is_so().await { Ok(()) } else { Err("not yet") };
    eventually(what, SHORT_TIMEOUT, probe).await;
}

fn options(endpoints: &str) -> StoreOptions {
    StoreOptions {
        endpoints: endpoints.to_owned(),
        cluster_name: "mycluster".to_owned(),
        ..StoreOptions::default()
    }
}

fn store(endpoints: &str) -> Store {
    Store::connect(StoreConfig::validate(&options(endpoints)).expect("the options are fine"))
}

fn store_with_timeout(endpoints: &str, timeout: Duration) -> Store {
    let options = StoreOptions {
        timeout,
        ..options(endpoints)
    };
    Store::connect(StoreConfig::validate(&options).expect("the options are fine"))
}
