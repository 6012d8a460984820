//! What the check-in logs of the route: changes, not rounds (P-7).

use std::net::SocketAddr;
use std::time::Duration;

use control::model::{DbUid, FormerKeepers, LOST_DATA_REMEDY, UNREADABLE_DATA_REMEDY};
use control::store::{StoreError, Target};
use control::telemetry::Chain;
use tracing::{debug, error, info, warn};

use super::{CheckIn, Failed};
use crate::address::{MasterAddress, UnconfirmedReason};
use crate::route::{AdvertisedAddress, ClosedReason, Route};

/// What was last logged, so that changes are logged and not rounds (P-7).
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) master: Option<SocketAddr>,
    pub(super) route: Option<Route>,
    pub(super) trouble: Option<Trouble>,
    /// The last lookup of the master's name did not find the address that it should, so another one is due soon.
    pub(super) unresolved: bool,
    /// Why the master's address is not confirmed, if it is only kept.
    doubt: Option<UnconfirmedReason>,
    pub(super) unpublished: bool,
    /// Keepers that were there when the cluster data were found missing.
    former: FormerKeepers,
}

/// Why check-ins fail, as far as another reason is to be logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The store, whatever it said or did not say.
    Store,
    /// What is under the key cannot be decoded, for this reason.
    Unreadable(String),
}

impl CheckIn {
    /// Logs why check-ins fail: once, and again when it is something else.
    pub(super) fn tell_failure(&mut self, failed: &Failed) {
        let trouble = match failed {
            Failed::Decode { source, .. } => Trouble::Unreadable(Chain(source).to_string()),
            _ => Trouble::Store,
        };
        if self.told.trouble.as_ref() == Some(&trouble) {
            debug!(error = %Chain(failed), "could not check in");
        } else if let Failed::Decode { key, source } = failed {
            error!(
                %key,
                error = %Chain(source),
                remedy = UNREADABLE_DATA_REMEDY,
                "could not check in, the route ends with its lease"
            );
        } else {
            warn!(error = %Chain(failed), "could not check in, trying again");
        }
        self.told.trouble = Some(trouble);
    }

    /// Logs what has changed (P-7). `settled` is how the master's address was found.
    pub(super) fn tell(&mut self, route: &Route, settled: Option<&MasterAddress>) {
        let master = settled.and_then(MasterAddress::address);
        let unresolved = match settled {
            Some(MasterAddress::Unknown(why)) => why.as_str(),
            _ => "",
        };
        self.told.unresolved = matches!(settled, Some(MasterAddress::Kept { .. } | MasterAddress::Unknown(_)));
        self.tell_doubt(settled);
        if let Some(address) = master.filter(|_| master != self.told.master) {
            info!(%address, "master address");
        }
        self.told.master = master;
        if self.told.route.as_ref() == Some(route) {
            return;
        }
        match route {
            Route::Closed(why) => self.life.closed(why.to_string()),
            Route::Open { .. } if self.current.is_none() => self.life.closed("not announced yet".to_owned()),
            Route::Open { .. } => {}
        }
        if let Route::Closed(why) = route {
            match why {
                ClosedReason::NoClusterData => self.tell_no_cluster_data(),
                ClosedReason::NoProxyObject => info!("no proxy object available, closing connections to master"),
                ClosedReason::NoDb(db) => info!(%db, "no db object available, closing connections to master"),
                ClosedReason::NotEnabled(address) => {
                    info!(%address, "not proxying to master address since we aren't in the enabled proxies list");
                }
                ClosedReason::NoAddress(db, advertised) => tell_no_address(db, advertised, unresolved),
                ClosedReason::OwnAddress(address) => {
                    error!(%address, "the master's address is our own, closing connections to master: give the \
                                      proxy another --port, or the keeper another address");
                }
                ClosedReason::UnusableData(unusable) => {
                    error!(error = %Chain(unusable), "cannot use the clusterdata, closing connections to master");
                }
            }
        }
        self.told.route = Some(route.clone());
    }

    /// Logs once that the address in use is not confirmed any more, and once that it is again.
    fn tell_doubt(&mut self, settled: Option<&MasterAddress>) {
        let before = self.told.doubt.take();
        let Some(MasterAddress::Kept {
            address, reason: why, ..
        }) = settled
        else {
            if let (Some(_), Some(MasterAddress::Confirmed(address))) = (before, settled) {
                info!(%address, "the master's name resolves to its address again");
            }
            return;
        };
        if before.is_none() {
            match why {
                UnconfirmedReason::NoAnswer(error) => {
                    warn!(%address, %error, "cannot resolve the master's address, keeping the last one until its lease ends");
                }
                UnconfirmedReason::OtherAddresses(found) => {
                    warn!(%address, ?found, "the master's name resolves to other addresses, keeping the last one until its lease ends");
                }
            }
        }
        self.told.doubt = Some(why.clone());
    }

    fn tell_no_cluster_data(&self) {
        let (cluster_name, key) = (&self.cluster_name, self.store.keys().cluster_data());
        let former = &self.told.former;
        if !former.is_empty() {
            error!(
                %cluster_name,
                %key,
                keepers = %former,
                remedy = LOST_DATA_REMEDY,
                "no clusterdata available, closing connections to master"
            );
        } else if self.in_force.is_some() {
            warn!(%cluster_name, %key, hint = LOST_DATA_REMEDY, "no clusterdata available, closing connections to master");
        } else {
            let hint = "initialise the cluster with stolonctl init, or see --cluster-name and --store-prefix";
            warn!(%cluster_name, %key, hint, "no clusterdata available, closing connections to master");
        }
    }

    /// Finds out whether keepers of a cluster exist, once cluster data are found missing and that is not logged yet.
    /// Initialising the cluster would discard their databases.
    pub(super) async fn look_for_keepers(&mut self, limit: Duration) {
        if matches!(self.told.route, Some(Route::Closed(ClosedReason::NoClusterData))) {
            return;
        }
        self.told.former = self.former_keepers(limit).await.unwrap_or_else(|error| {
            debug!(error = %Chain(&error), "cannot read the keepers' infos");
            FormerKeepers::default()
        });
    }

    async fn former_keepers(&self, limit: Duration) -> Result<FormerKeepers, StoreError> {
        let prefix = self.store.keys().keeper_infos();
        let targets = [Target::Prefix(prefix.clone())];
        let mut snapshot = self.store.limited(limit).snapshot(&targets).await?;
        let infos = snapshot.take(0);
        let infos = infos.iter().map(|entry| (entry.name(&prefix), entry.value.as_slice()));
        Ok(FormerKeepers::of(infos))
    }
}

/// Logs what is wrong with a master's address.
fn tell_no_address(db: &DbUid, AdvertisedAddress { host, port }: &AdvertisedAddress, unresolved: &str) {
    if host.is_empty() {
        error!(
            %db,
            "the master's address is empty, closing connections to master: see whether its keeper runs, and what it \
             advertises (--pg-advertise-address)"
        );
    } else if !unresolved.is_empty() {
        error!(
            %db,
            address = %host,
            error = unresolved,
            "cannot resolve the master's address, closing connections to master: see what its keeper advertises \
             (--pg-advertise-address)"
        );
    } else {
        error!(
            %db,
            address = %host,
            ?port,
            "the master's port is empty or no number from 1 to 65535, closing connections to master: see what its \
             keeper advertises (--pg-advertise-port)"
        );
    }
}
