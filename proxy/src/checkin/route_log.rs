//! Logs changes of the route and of the check-in's success, not every round (proxy P-7). What is decided, and what is
//! read for a hint, is left to the check-in.

use std::net::SocketAddr;

use base::Chain;
use model::{DbUid, KeepersWithData, LOST_DATA_REMEDY, UNREADABLE_DATA_REMEDY, UNUSABLE_DATA_REMEDY};
use tracing::{debug, error, info, warn};

use super::error::CheckInError;
use crate::address::{MasterAddress, UnconfirmedReason};
use crate::route::{AdvertisedAddress, Route, RouteClosedReason};

/// What was logged last, so that only changes are logged (proxy P-7).
#[derive(Debug)]
pub(super) struct RouteLog {
    cluster_name: String,
    cluster_data_key: String,
    master: Option<SocketAddr>,
    route: Option<Route>,
    failure: Option<FailureKind>,
    /// Why the master's address is not confirmed, if it was only kept.
    unconfirmed: Option<UnconfirmedReason>,
    publish_failed: bool,
    /// Keepers that existed when the cluster data were found missing.
    keepers_with_data: KeepersWithData,
}

/// Kinds of failures; a change of the kind is logged.
#[derive(Debug, PartialEq, Eq)]
enum FailureKind {
    /// No answer from the store or an error, a check-in that took too long, or a jump of the wall clock.
    Other,
    /// The cluster data cannot be decoded, for this reason.
    Unreadable(String),
}

impl RouteLog {
    pub(super) fn new(cluster_name: String, cluster_data_key: String) -> Self {
        Self {
            cluster_name,
            cluster_data_key,
            master: None,
            route: None,
            failure: None,
            unconfirmed: None,
            publish_failed: false,
            keepers_with_data: KeepersWithData::default(),
        }
    }

    /// Logs the first check-in that does not fail any more, whether or not the cluster data are usable.
    pub(super) fn check_in_answered(&mut self) {
        if self.failure.take().is_some() {
            info!("checking in again");
        }
    }

    /// Logs a failed check-in: once, and again when the kind of failure changes.
    pub(super) fn check_in_failed(&mut self, error: &CheckInError) {
        let failure = match error {
            CheckInError::Decode { source, .. } => FailureKind::Unreadable(Chain(source).to_string()),
            _ => FailureKind::Other,
        };
        if self.failure.as_ref() == Some(&failure) {
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
        self.failure = Some(failure);
    }

    pub(super) fn info_published(&mut self) {
        self.publish_failed = false;
    }

    /// Logs the first failure to publish the info that does not fail the check-in.
    pub(super) fn publishing_failed(&mut self, err: &CheckInError) {
        if !std::mem::replace(&mut self.publish_failed, true) {
            warn!(error = %Chain(err), "could not publish the proxy info");
        }
    }

    /// Whether missing cluster data will be logged, and with them the keepers that exist: initialising the cluster
    /// would discard their databases.
    pub(super) fn needs_keepers_with_data(&self) -> bool {
        !matches!(self.route, Some(Route::Closed(RouteClosedReason::NoClusterData)))
    }

    pub(super) fn set_keepers_with_data(&mut self, keepers: KeepersWithData) {
        self.keepers_with_data = keepers;
    }

    /// Logs changes of the route (proxy P-7) and returns whether it has changed. `master_address` is how the address
    /// was found; `had_data`: whether cluster data have been read before.
    pub(super) fn note_route(&mut self, route: &Route, master_address: Option<&MasterAddress>, had_data: bool) -> bool {
        let master = master_address.and_then(MasterAddress::address);
        self.note_unconfirmed(master_address);
        if let Some(address) = master.filter(|_| master != self.master) {
            info!(%address, "master address");
        }
        self.master = master;
        let changed = self.route.as_ref() != Some(route);
        if changed {
            if let Route::Closed(reason) = route {
                let unresolved = match master_address {
                    Some(MasterAddress::Unknown(reason)) => reason.as_str(),
                    _ => "",
                };
                self.log_closed(reason, unresolved, had_data);
            }
            self.route = Some(route.clone());
        }
        changed
    }

    fn log_closed(&self, reason: &RouteClosedReason, unresolved: &str, had_data: bool) {
        match reason {
            RouteClosedReason::NoClusterData => self.log_no_cluster_data(had_data),
            RouteClosedReason::NoProxyObject => info!("no proxy object available, closing connections to master"),
            RouteClosedReason::NoDb(db) => info!(%db, "no db object available, closing connections to master"),
            RouteClosedReason::NotEnabled(address) => {
                info!(%address, "not proxying to master address since we aren't in the enabled proxies list");
            }
            RouteClosedReason::NoAddress(db, advertised) => log_no_address(db, advertised, unresolved),
            RouteClosedReason::OwnAddress(address) => {
                error!(%address, "the master's address is our own, closing connections to master: give the \
                                  proxy another --port, or the keeper another address");
            }
            RouteClosedReason::UnusableData(unusable) => {
                error!(
                    error = %Chain(unusable),
                    remedy = UNUSABLE_DATA_REMEDY,
                    "cannot use the clusterdata, closing connections to master"
                );
            }
        }
    }

    /// Logs once that the address in use is not confirmed any more, and once that it is again.
    fn note_unconfirmed(&mut self, master_address: Option<&MasterAddress>) {
        let before = self.unconfirmed.take();
        let Some(MasterAddress::Kept { address, reason, .. }) = master_address else {
            if let (Some(_), Some(MasterAddress::Confirmed(address))) = (before, master_address) {
                info!(%address, "the master's name resolves to its address again");
            }
            return;
        };
        if before.is_none() {
            match reason {
                UnconfirmedReason::NoAnswer(error) => {
                    warn!(%address, %error, "cannot resolve the master's address, keeping the last one until its lease ends");
                }
                UnconfirmedReason::OtherAddresses(found) => {
                    warn!(%address, ?found, "the master's name resolves to other addresses, keeping the last one until its lease ends");
                }
            }
        }
        self.unconfirmed = Some(reason.clone());
    }

    fn log_no_cluster_data(&self, had_data: bool) {
        let (cluster_name, key) = (&self.cluster_name, &self.cluster_data_key);
        let known = &self.keepers_with_data;
        if !known.is_empty() {
            error!(
                %cluster_name,
                %key,
                keepers = %known,
                remedy = LOST_DATA_REMEDY,
                "no clusterdata available, closing connections to master"
            );
        } else if had_data {
            warn!(%cluster_name, %key, hint = LOST_DATA_REMEDY, "no clusterdata available, closing connections to master");
        } else {
            let hint = "initialise the cluster with stolonctl init, or see --cluster-name and --store-prefix";
            warn!(%cluster_name, %key, hint, "no clusterdata available, closing connections to master");
        }
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
            "the master's port is empty or not a number from 1 to 65535, closing connections to master: see what its \
             keeper advertises (--pg-advertise-port)"
        );
    }
}
