//! The master's address, and whether it is our own machine's: what a route needs to know beside the cluster data.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::model::DbUid;

use super::{CheckIn, now};
use crate::address::{CurrentAddress, MasterAddress, decide_address};
use crate::listener::is_local_address;
use crate::route::{MasterEndpoint, NetworkFacts, StoredClusterData};

/// For so long a check-in waits for the resolver while the address in use may stay.
const PATIENCE_WITH_ADDRESS: Duration = Duration::from_millis(500);

impl CheckIn {
    /// What a route needs to know, and how the master's address was found; `None` when no master is named. Lasts no
    /// longer than `limit`.
    pub(super) async fn look_around(
        &mut self,
        found: &StoredClusterData,
        limit: Duration,
    ) -> (NetworkFacts, Option<MasterAddress>) {
        let listen = self.reins.address;
        let settled = match found.master_endpoint() {
            Some((db, endpoint)) => Some(self.resolve(db, &endpoint, limit).await),
            None => None,
        };
        let master = settled.as_ref().and_then(MasterAddress::address);
        let wildcard = listen.ip().to_canonical().is_unspecified();
        let master_is_here = wildcard && master.is_some_and(|master| is_local_address(master.ip().to_canonical()));
        let around = NetworkFacts {
            master,
            master_is_local: master_is_here,
            listen,
        };
        (around, settled)
    }

    async fn resolve(&mut self, db: &DbUid, endpoint: &MasterEndpoint, limit: Duration) -> MasterAddress {
        if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
            return MasterAddress::Confirmed(SocketAddr::new(ip, endpoint.port));
        }
        let patience = match self.in_use(db, endpoint) {
            Some(_) => limit.min(PATIENCE_WITH_ADDRESS), // something is left for publishing
            None => limit,
        };
        let answer = self.resolver.ask(endpoint, patience).await;
        decide_address(answer, self.in_use(db, endpoint), self.told.master, now())
    }

    /// The address of the open route, if that leads to this db under this name.
    fn in_use(&self, db: &DbUid, endpoint: &MasterEndpoint) -> Option<CurrentAddress> {
        let current = self.current.as_ref()?;
        let same = current.db == db.as_str() && current.endpoint.as_ref() == Some(endpoint);
        same.then(|| CurrentAddress {
            address: current.master,
            confirmed_until: current.confirmed_until,
            reachable: current.path.reachable.load(Ordering::Relaxed),
        })
    }
}
