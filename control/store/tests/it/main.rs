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
use stolon_tests::etcd::Etcd;
use stolon_tests::store_client;
use stolon_tests::wait::eventually;
use store::{Store, StoreOptions};

/// Waits until the condition holds.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let probe = async || if is_so().await { Ok(()) } else { Err("not yet") };
    eventually(what, SHORT_TIMEOUT, probe).await;
}

fn options(endpoints: &str) -> StoreOptions {
    store_client::options(endpoints, "mycluster")
}

fn store(endpoints: &str) -> Store {
    store_client::connect(endpoints, "mycluster")
}

fn store_with_timeout(endpoints: &str, timeout: Duration) -> Store {
    store_client::connect_with_timeout(endpoints, "mycluster", timeout)
}

/// Runs etcdctl with these arguments to its success.
fn run_etcdctl(etcd: &Etcd, args: &[&str]) {
    let output = etcd.etcdctl().args(args).output().unwrap();
    assert!(output.status.success(), "etcdctl {args:?}: {output:?}");
}
