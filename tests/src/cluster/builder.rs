//! The initial size and spec of a test cluster, and its start.

use model::Role;
use serde_json::Value;

use super::{Cluster, Profile};
use crate::tcp_relay::TcpRelay;

/// The initial size and spec of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    spec: Value,
    sentinels: usize,
    keepers: usize,
    proxies: usize,
    endpoints: usize,
}

impl ClusterBuilder {
    /// Returns a builder of a cluster with one sentinel, two keepers and one proxy.
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            spec: profile.spec(),
            sentinels: 1,
            keepers: 2,
            proxies: 1,
            endpoints: 0,
        }
    }

    /// Sets the number of sentinels (default: 1).
    #[must_use]
    pub fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count;
        self
    }

    /// Sets the number of keepers (default: 2); the first one is the first master.
    #[must_use]
    pub fn keepers(mut self, count: usize) -> Self {
        self.keepers = count;
        self
    }

    /// Sets the number of proxies (default: 1).
    #[must_use]
    pub fn proxies(mut self, count: usize) -> Self {
        self.proxies = count;
        self
    }

    /// Starts no program, only etcd with the spec.
    #[must_use]
    pub fn without_programs(self) -> Self {
        self.sentinels(0).keepers(0).proxies(0)
    }

    /// Connects the programs to the store over `count` endpoints, each a relay in [`Cluster::relays`] (default:
    /// directly).
    #[must_use]
    pub fn endpoints(mut self, count: usize) -> Self {
        self.endpoints = count;
        self
    }

    /// Replicates synchronously with this minimum and maximum of synchronous standbys (default: asynchronously).
    #[must_use]
    pub fn synchronous(self, standbys: Option<(u16, u16)>) -> Self {
        match standbys {
            None => self,
            Some((min, max)) => self
                .with("synchronousReplication", true)
                .with("minSynchronousStandbys", min)
                .with("maxSynchronousStandbys", max),
        }
    }

    /// Sets a field of the spec, in place of the profile's.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.spec[field] = value.into();
        self
    }

    /// Starts the cluster and waits until clients are served and the standbys follow.
    pub async fn start(self) -> Cluster {
        let mut cluster = Cluster::store_only().await;
        for _ in 0..self.endpoints {
            let relay = TcpRelay::to(&cluster.etcd.address()).await;
            cluster.relays.push(relay);
        }
        let spec = self.spec.to_string();
        let (status, output) = cluster.stolonctl(&["init", "--yes", &spec]).await;
        assert_eq!(status, 0, "stolonctl init: {output}");
        for _ in 0..self.sentinels {
            cluster.add_sentinel();
        }
        for index in 0..self.keepers {
            let uid = cluster.add_keeper();
            let role = if index == 0 { Role::Master } else { Role::Standby };
            if index == 0 || index + 1 == self.keepers {
                cluster.wait_healthy(&uid, &role).await;
            }
        }
        for _ in 0..self.proxies {
            let name = cluster.add_proxy();
            cluster.wait_proxy_serves(&name).await;
        }
        for index in 1..self.keepers {
            cluster.wait_healthy(&format!("keeper{index}"), &Role::Standby).await;
        }
        cluster
    }
}
