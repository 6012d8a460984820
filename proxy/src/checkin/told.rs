//! What the check-in logs of the route: changes, not rounds (P-7).

use std::net::SocketAddr;

use control::telemetry::Chain;
use tracing::{error, info};

use super::CheckIn;
use crate::route::{Route, Why};

/// What was last logged, so that changes are logged and not rounds (P-7).
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) master: Option<SocketAddr>,
    pub(super) route: Option<Route>,
    pub(super) failing: bool,
    pub(super) unpublished: bool,
}

impl CheckIn {
    /// Logs what has changed (P-7).
    pub(super) fn tell(&mut self, route: &Route, master: Option<SocketAddr>) {
        if let Some(address) = master.filter(|_| master != self.told.master) {
            info!(%address, "master address");
        }
        self.told.master = master;
        if self.told.route.as_ref() == Some(route) {
            return;
        }
        if let Route::Closed(why) = route {
            match why {
                Why::NoClusterData => info!("no clusterdata available, closing connections to master"),
                Why::NoProxyObject => info!("no proxy object available, closing connections to master"),
                Why::NoDb(db) => info!(%db, "no db object available, closing connections to master"),
                Why::NotEnabled(address) => {
                    info!(%address, "not proxying to master address since we aren't in the enabled proxies list");
                }
                Why::NoAddress(db) => error!(
                    %db,
                    "cannot resolve the master's address, closing connections to master: see what its keeper advertises \
                     (--pg-advertise-address)"
                ),
                Why::OwnAddress(address) => {
                    error!(%address, "the master's address is our own, closing connections to master: give the \
                                      proxy another --port, or the keeper another address");
                }
                Why::UnusableData(unusable) => {
                    error!(error = %Chain(unusable), "cannot use the clusterdata, closing connections to master");
                }
            }
        }
        self.told.route = Some(route.clone());
    }
}
