//! The master's address, and whether it is our own machine's: what a route needs to know beside the cluster data.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tracing::debug;

use super::CheckIn;
use crate::listener::is_here;
use crate::route::{Endpoint, Surroundings, choose};

impl CheckIn {
    pub(super) async fn look_around(&self, endpoint: Option<Endpoint>, limit: Duration) -> Surroundings {
        let listen = self.reins.address;
        let present = self.current.as_ref().map(|current| current.master).or(self.told.master);
        let master = match endpoint {
            Some(endpoint) => resolve(&endpoint, present, limit).await,
            None => None,
        };
        let wildcard = listen.ip().to_canonical().is_unspecified();
        let master_is_here = wildcard && master.is_some_and(|master| is_here(master.ip().to_canonical()));
        Surroundings {
            master,
            master_is_here,
            listen,
        }
    }
}

/// The address of a master; names are looked up, for as long as the check-in lasts at most.
async fn resolve(endpoint: &Endpoint, present: Option<SocketAddr>, limit: Duration) -> Option<SocketAddr> {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, endpoint.port));
    }
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    match tokio::time::timeout(limit, lookup).await {
        Ok(Ok(found)) => choose(&found.collect::<Vec<_>>(), present),
        Ok(Err(err)) => {
            debug!(host = %endpoint.host, error = %err, "could not resolve the master's address");
            None
        }
        Err(_) => None,
    }
}
