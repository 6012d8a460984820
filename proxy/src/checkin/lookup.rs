//! The master's address, and whether it is our own machine's: what a route needs to know beside the cluster data.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::CheckIn;
use crate::listener::is_here;
use crate::route::{Endpoint, Surroundings, choose};

impl CheckIn {
    /// What a route needs to know, and why the master's address could not be resolved, if it could not.
    pub(super) async fn look_around(
        &self,
        endpoint: Option<Endpoint>,
        limit: Duration,
    ) -> (Surroundings, Option<String>) {
        let listen = self.reins.address;
        let present = self.current.as_ref().map(|current| current.master).or(self.told.master);
        let (master, unresolved) = match endpoint {
            Some(endpoint) => match resolve(&endpoint, present, limit).await {
                Ok(master) => (Some(master), None),
                Err(reason) => (None, Some(reason)),
            },
            None => (None, None),
        };
        let wildcard = listen.ip().to_canonical().is_unspecified();
        let master_is_here = wildcard && master.is_some_and(|master| is_here(master.ip().to_canonical()));
        let around = Surroundings {
            master,
            master_is_here,
            listen,
        };
        (around, unresolved)
    }
}

/// The address of a master, or why there is none; names are looked up, for as long as the check-in lasts at most.
async fn resolve(endpoint: &Endpoint, present: Option<SocketAddr>, limit: Duration) -> Result<SocketAddr, String> {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, endpoint.port));
    }
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    match tokio::time::timeout(limit, lookup).await {
        Ok(Ok(found)) => {
            choose(&found.collect::<Vec<_>>(), present).ok_or_else(|| "the name has no address".to_owned())
        }
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err("the resolver did not answer in time".to_owned()),
    }
}
