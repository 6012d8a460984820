//! Clients of an etcd, to prepare and inspect what the programs store.

use std::time::Duration;

use base::Clock;
use store::{Store, StoreConfig, StoreOptions};

/// Returns the options of a client of these endpoints, separated by commas, for a cluster.
pub fn options(endpoints: &str, cluster_name: &str) -> StoreOptions {
    StoreOptions {
        endpoints: endpoints.to_owned(),
        cluster_name: cluster_name.to_owned(),
        ..StoreOptions::default()
    }
}

/// Returns a client that connects at its first request.
///
/// # Panics
///
/// The endpoints or the name are not valid.
pub fn connect(endpoints: &str, cluster_name: &str) -> Store {
    connect_with(&options(endpoints, cluster_name))
}

/// The same with this timeout of its requests.
///
/// # Panics
///
/// The endpoints or the name are not valid.
pub fn connect_with_timeout(endpoints: &str, cluster_name: &str, timeout: Duration) -> Store {
    connect_with(&StoreOptions {
        timeout,
        ..options(endpoints, cluster_name)
    })
}

/// Returns a client with these options.
///
/// # Panics
///
/// They are not valid.
pub fn connect_with(options: &StoreOptions) -> Store {
    let config = StoreConfig::validate(options);
    let config = config.unwrap_or_else(|faults| panic!("store options: {faults:?}"));
    Store::new(config, Clock::system())
}
