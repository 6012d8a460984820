//! Logs changes of the route and of the check-in's success, not every round (proxy P-7).

use std::net::SocketAddr;
use std::time::Duration;

use base::Chain;
use model::{DbUid, FormerKeepers, LOST_DATA_REMEDY, UNREADABLE_DATA_REMEDY};
use store::{KeyRange, StoreError};
use tracing::{debug, error, info, warn};

use super::{CheckIn, CheckInError};
use crate::address::{MasterAddress, UnconfirmedReason};
use crate::route::{AdvertisedAddress, ClosedReason, Route};

/// What was logged last, so that only changes are logged (proxy P-7).
#[derive(Debug, Default)]
pub(super) struct RouteLog {
    pub(super) master: Option<SocketAddr>,
    pub(super) route: Option<Route>,
    pub(super) failure: Option<FailureKind>,
    /// The last lookup did not confirm the master's address, so another one is due soon.
    pub(super) unresolved: bool,
    /// Why the master's address is not confirmed, if it was only kept.
    unconfirmed: Option<UnconfirmedReason>,
    pub(super) publish_failed: bool,
    /// Keepers that existed when the cluster data were found missing.
    former_keepers: FormerKeepers,
}

/// Kinds of failures; a change of the kind is logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The store did not answer, or with an error.
    Store,
    /// The cluster data cannot be decoded, for this reason.
    Unreadable(String),
}

impl CheckIn {
    /// Logs a failed check-in: once, and again when the kind of failure changes.
    pub(super) fn log_failure(&mut self, error: &CheckInError) {
        let failure = match error {
            CheckInError::Decode { source, .. } => FailureKind::Unreadable(Chain(source).to_string()),
            _ => FailureKind::Store,
        };
        if self.log.failure.as_ref() == Some(&failure) {
            debug!(error = %Chain(error), "could not check in");
        } else if let CheckInError::Decode { key, source } = error {
            error!(
                %key,
                error = %Chain(source),
                remedy = UNREADABLE_DATA_REMEDY,
                "could not check in, the route ends with its lease"
            );
        } else {
            warn!(error = %Chain(error), "could not check in, trying again");
        }
        self.log.failure = Some(failure);
    }

    /// Logs changes of the route (proxy P-7). `master_address` is how the address was found.
    pub(super) fn log_route(&mut self, route: &Route, master_address: Option<&MasterAddress>) {
        let master = master_address.and_then(MasterAddress::address);
        let unresolved = match master_address {
            Some(MasterAddress::Unknown(reason)) => reason.as_str(),
            _ => "",
        };
        self.log.unresolved = matches!(
            master_address,
            Some(MasterAddress::Kept { .. } | MasterAddress::Unknown(_))
        );
        self.log_unconfirmed(master_address);
        if let Some(address) = master.filter(|_| master != self.log.master) {
            info!(%address, "master address");
        }
        self.log.master = master;
        if self.log.route.as_ref() == Some(route) {
            return;
        }
        match route {
            Route::Closed(reason) => self.status.route_closed(reason.to_string()),
            Route::Open { .. } if self.open_route.is_none() => self.status.route_closed("not published yet".to_owned()),
            Route::Open { .. } => {}
        }
        if let Route::Closed(reason) = route {
            match reason {
                ClosedReason::NoClusterData => self.log_no_cluster_data(),
                ClosedReason::NoProxyObject => info!("no proxy object available, closing connections to master"),
                ClosedReason::NoDb(db) => info!(%db, "no db object available, closing connections to master"),
                ClosedReason::NotEnabled(address) => {
                    info!(%address, "not proxying to master address since we aren't in the enabled proxies list");
                }
                ClosedReason::NoAddress(db, advertised) => log_no_address(db, advertised, unresolved),
                ClosedReason::OwnAddress(address) => {
                    error!(%address, "the master's address is our own, closing connections to master: give the \
                                      proxy another --port, or the keeper another address");
                }
                ClosedReason::UnusableData(unusable) => {
                    error!(error = %Chain(unusable), "cannot use the clusterdata, closing connections to master");
                }
            }
        }
        self.log.route = Some(route.clone());
    }

    /// Logs once that the address in use is not confirmed any more, and once that it is again.
    fn log_unconfirmed(&mut self, settled: Option<&MasterAddress>) {
        let before = self.log.unconfirmed.take();
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
        self.log.unconfirmed = Some(why.clone());
    }

    fn log_no_cluster_data(&self) {
        let (cluster_name, key) = (&self.cluster_name, self.store.keys().cluster_data());
        let former = &self.log.former_keepers;
        if !former.is_empty() {
            error!(
                %cluster_name,
                %key,
                keepers = %former,
                remedy = LOST_DATA_REMEDY,
                "no clusterdata available, closing connections to master"
            );
        } else if self.applied_timing.is_some() {
            warn!(%cluster_name, %key, hint = LOST_DATA_REMEDY, "no clusterdata available, closing connections to master");
        } else {
            let hint = "initialise the cluster with stolonctl init, or see --cluster-name and --store-prefix";
            warn!(%cluster_name, %key, hint, "no clusterdata available, closing connections to master");
        }
    }

    /// Reads whether keepers of a cluster exist, if the cluster data are missing and that was not logged yet. The
    /// advice to the operator depends on it: initialising the cluster would discard their databases.
    pub(super) async fn read_former_keepers(&mut self, limit: Duration) {
        if matches!(self.log.route, Some(Route::Closed(ClosedReason::NoClusterData))) {
            return;
        }
        self.log.former_keepers = self.former_keepers(limit).await.unwrap_or_else(|error| {
            debug!(error = %Chain(&error), "cannot read the keepers' infos");
            FormerKeepers::default()
        });
    }

    async fn former_keepers(&self, limit: Duration) -> Result<FormerKeepers, StoreError> {
        let prefix = self.store.keys().keeper_infos();
        let targets = [KeyRange::Prefix(prefix.clone())];
        let mut snapshot = self.store.with_timeout(limit).snapshot(&targets).await?;
        let infos = snapshot.take(0);
        let infos = infos.iter().map(|entry| (entry.name(&prefix), entry.value.as_slice()));
        Ok(FormerKeepers::from_infos(infos))
    }
}

/// Logs what is wrong with the master's address.
fn log_no_address(db: &DbUid, AdvertisedAddress { host, port }: &AdvertisedAddress, unresolved: &str) {
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
