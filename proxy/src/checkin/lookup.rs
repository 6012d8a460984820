//! The master's address, and whether it is our own machine's: what a route needs to know beside the cluster data.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::model::DbUid;

use super::{CheckIn, now};
use crate::address::{InUse, Settled, settle};
use crate::listener::is_here;
use crate::route::{Endpoint, Found, Surroundings};

/// For so long a check-in waits for the resolver while the address in use may stay.
const PATIENCE_WITH_ADDRESS: Duration = Duration::from_millis(500);

impl CheckIn {
    /// What a route needs to know, and how the master's address was found; `None` when no master is named. Lasts no
    /// longer than `limit`.
    pub(super) async fn look_around(&mut self, found: &Found, limit: Duration) -> (Surroundings, Option<Settled>) {
        let listen = self.reins.address;
        let settled = match found.master() {
            Some((db, endpoint)) => Some(self.resolve(db, &endpoint, limit).await),
            None => None,
        };
        let master = settled.as_ref().and_then(Settled::address);
        let wildcard = listen.ip().to_canonical().is_unspecified();
        let master_is_here = wildcard && master.is_some_and(|master| is_here(master.ip().to_canonical()));
        let around = Surroundings {
            master,
            master_is_here,
            listen,
        };
        (around, settled)
    }

    async fn resolve(&mut self, db: &DbUid, endpoint: &Endpoint, limit: Duration) -> Settled {
        if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
            return Settled::Confirmed(SocketAddr::new(ip, endpoint.port));
        }
        let patience = match self.in_use(db, endpoint) {
            Some(_) => limit.min(PATIENCE_WITH_ADDRESS), // something is left for publishing
            None => limit,
        };
        let answer = self.resolver.ask(endpoint, patience).await;
        settle(answer, self.in_use(db, endpoint), self.told.master, now())
    }

    /// The address of the open route, if that leads to this db under this name.
    fn in_use(&self, db: &DbUid, endpoint: &Endpoint) -> Option<InUse> {
        let current = self.current.as_ref()?;
        let same = current.db == db.as_str() && current.endpoint.as_ref() == Some(endpoint);
        same.then(|| InUse {
            address: current.master,
            until: current.confirmed_until,
            reachable: current.path.reachable.load(Ordering::Relaxed),
        })
    }
}
