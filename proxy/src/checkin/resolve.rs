//! Resolves the master's address, and finds out whether it belongs to this machine. How the address is chosen is left
//! to `address`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::DbUid;

use super::{CheckIn, now};
use crate::address::{CurrentAddress, MasterAddress, decide_address};
use crate::listener::is_local_address;
use crate::route::{MasterEndpoint, NetworkFacts, StoredClusterData};

/// How long a check-in waits for the resolver while there is an address in use.
const LOOKUP_TIMEOUT_WITH_ADDRESS: Duration = Duration::from_millis(500);

impl CheckIn {
    /// Returns the network facts for the decision, and how the master's address was found; `None` if no master is
    /// named. Takes at most `limit`.
    pub(super) async fn resolve_master(
        &mut self,
        stored: &StoredClusterData,
        limit: Duration,
    ) -> (NetworkFacts, Option<MasterAddress>) {
        let listen_address = self.listener.address();
        let master_address = match stored.master_endpoint() {
            Some((db, endpoint)) => Some(self.resolve_endpoint(db, &endpoint, limit).await),
            None => None,
        };
        let master = master_address.as_ref().and_then(MasterAddress::address);
        let wildcard = listen_address.ip().to_canonical().is_unspecified();
        let master_is_here = wildcard && master.is_some_and(|master| is_local_address(master.ip().to_canonical()));
        let network = NetworkFacts {
            master,
            master_is_local: master_is_here,
            listen: listen_address,
        };
        (network, master_address)
    }

    async fn resolve_endpoint(&mut self, db: &DbUid, endpoint: &MasterEndpoint, limit: Duration) -> MasterAddress {
        if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
            return MasterAddress::Confirmed(SocketAddr::new(ip, endpoint.port));
        }
        let timeout = match self.current_address(db, endpoint) {
            Some(_) => limit.min(LOOKUP_TIMEOUT_WITH_ADDRESS), // leaves time to publish
            None => limit,
        };
        let answer = self.resolver.look_up_within(endpoint, timeout).await;
        decide_address(answer, self.current_address(db, endpoint), self.log.master, now())
    }

    /// Returns the address of the open route, if it leads to this db and endpoint.
    fn current_address(&self, db: &DbUid, endpoint: &MasterEndpoint) -> Option<CurrentAddress> {
        let open = self.open_route.as_ref()?;
        let is_same = open.db == db.as_str() && open.endpoint.as_ref() == Some(endpoint);
        is_same.then(|| CurrentAddress {
            address: open.address,
            confirmed_until: open.confirmed_until,
            reachable: open.backend.is_reachable(),
        })
    }
}
