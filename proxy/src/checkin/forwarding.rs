//! The open route: its gate, its lease and its connections, and the listener's desired state, which follows from them.
//! Whether it opens or closes is decided in `sequence`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use model::DbUid;
use tracing::info;

use super::error::FatalError;
use super::status::CheckInStatus;
use super::step::{GrantedRoute, OpenEndpoint};
use super::timing::CheckInTiming;
use crate::address::CurrentAddress;
use crate::listener::{Backend, ListenerHandle};
use crate::metrics::Metrics;
use crate::relay::{CloseReason, Gate};
use crate::route::{MasterEndpoint, Route};

/// What clients are forwarded to.
#[derive(Debug)]
pub(super) struct Forwarding {
    listener: ListenerHandle,
    metrics: Arc<Metrics>,
    status: Arc<CheckInStatus>,
    clock: Clock,
    open: Option<OpenRoute>,
}

/// The open route.
#[derive(Debug)]
struct OpenRoute {
    db: String,
    /// The master's endpoint in the cluster data.
    endpoint: Option<MasterEndpoint>,
    address: SocketAddr,
    /// End of the lease of the last check-in at which the name resolved to the address.
    confirmed_until: Boottime,
    gate: Arc<Gate>,
    backend: Arc<Backend>,
}

impl Forwarding {
    /// Returns a closed route.
    pub(super) fn new(
        listener: ListenerHandle,
        metrics: Arc<Metrics>,
        status: Arc<CheckInStatus>,
        clock: Clock,
    ) -> Self {
        Self {
            listener,
            metrics,
            status,
            clock,
            open: None,
        }
    }

    /// Returns how much is left of the lease of the last good check-in.
    pub(super) fn lease_left(&self) -> Duration {
        let lease_end = self.listener.lease_end().unwrap_or_default();
        lease_end.since(self.clock.now())
    }

    /// Returns the address that clients connect to.
    pub(super) fn listen_address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Returns the number of clients.
    pub(super) fn clients(&self) -> usize {
        self.listener.clients()
    }

    /// Returns the counter behind [`clients`](Self::clients), for use beside the check-ins.
    pub(super) fn client_counter(&self) -> Arc<AtomicUsize> {
        self.listener.client_counter()
    }

    /// Whether a route is open. Its lease may have ended.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Returns what the open route leads to.
    pub(super) fn open_endpoint(&self) -> Option<OpenEndpoint> {
        self.open.as_ref().map(|open| OpenEndpoint {
            endpoint: open.endpoint.clone(),
            address: open.address,
        })
    }

    /// Returns the address of the open route, if it leads to this db and endpoint.
    pub(super) fn current_address(&self, db: &DbUid, endpoint: &MasterEndpoint) -> Option<CurrentAddress> {
        let open = self.open.as_ref()?;
        let is_same = open.db == db.as_str() && open.endpoint.as_ref() == Some(endpoint);
        is_same.then(|| CurrentAddress {
            address: open.address,
            confirmed_until: open.confirmed_until,
            reachable: open.backend.is_reachable(),
        })
    }

    /// Starts listening after the first read of the store, whatever it returned (proxy P-5).
    ///
    /// # Errors
    /// The address cannot be listened on. Later failures are retried by the listener.
    pub(super) async fn start_listening(&mut self, read_at: Boottime, timing: CheckInTiming) -> Result<(), FatalError> {
        let first = self.listener.update_if(|desired| {
            let first = desired.lease_end.is_none();
            if first {
                desired.lease_end = Some(read_at + timing.timeout);
                desired.proxy_timeout = timing.timeout;
            }
            first
        });
        if !first {
            return Ok(());
        }
        let address = self.listener.address();
        match self.listener.listen_failure().await {
            Some(reason) => Err(FatalError::Listen { address, reason }),
            None => Ok(()),
        }
    }

    /// Stops forwarding and ends the connections, if a route is open.
    pub(super) fn stop(&mut self, reason: CloseReason) {
        let Some(open) = self.open.take() else { return };
        self.listener.disconnect(&open.gate, reason, self.clock.now());
        self.listener.update(|desired| {
            desired.backend = None;
            desired.master_changing = reason == CloseReason::RouteChange;
        });
        self.status.route_closed(match reason {
            CloseReason::RouteChange => "the master is changing".to_owned(),
            CloseReason::Lease => "the lease had ended".to_owned(),
            CloseReason::ClockJump => "the wall clock jumped".to_owned(),
            CloseReason::Stopping => "stopping".to_owned(),
        });
        self.set_metrics(Some(&open.db), None);
    }

    /// Ends the change of the master, so that no client is held any longer.
    pub(super) fn end_master_change(&self) {
        self.listener
            .update_if(|desired| std::mem::replace(&mut desired.master_changing, false));
    }

    /// Applies a good check-in: renews the route's lease or opens a new route, and renews the listener's lease. A route
    /// to an address that was only kept ends with the lease of the check-in that last confirmed it.
    pub(super) fn apply(&mut self, granted: GrantedRoute) {
        let checked_at = self.clock.now();
        let lease_end = granted.lease_start + granted.timeout;
        let opened = match granted.route {
            Route::Open { db, master } => {
                let confirmed_until = granted.kept_until.unwrap_or(lease_end);
                // Never past the published timeout, even if the lease that confirmed the address was longer (fencing
                // F-2).
                let route_end = lease_end.min(confirmed_until);
                let is_kept = self
                    .open
                    .as_ref()
                    .is_some_and(|open| open.gate.renew(route_end, checked_at));
                if !is_kept {
                    self.stop(CloseReason::Lease); // its lease ended before this check-in could renew it
                }
                match &mut self.open {
                    Some(open) => {
                        open.endpoint = granted.endpoint;
                        open.confirmed_until = confirmed_until;
                        if open.db != db.as_str() {
                            // Same address, other db (proxy P-6).
                            let before = std::mem::replace(&mut open.db, db.as_str().to_owned());
                            self.metrics.route.set_master(Some(&before), Some(db.as_str()));
                        }
                        None
                    }
                    None => Some(self.open_new(&db, master, granted.endpoint, confirmed_until, route_end)),
                }
            }
            Route::Closed(_) => None,
        };
        self.status.check_in_succeeded(checked_at, lease_end);
        self.listener.update(|desired| {
            desired.lease_end = Some(lease_end);
            desired.proxy_timeout = granted.timeout;
            if opened.is_some() {
                desired.backend.clone_from(&opened);
                desired.master_changing = false;
            }
        });
        // After the update, so that the listener refuses no client once the route is reported as open.
        if opened.is_some() {
            self.report_opened();
        }
    }

    fn open_new(
        &mut self,
        db: &DbUid,
        master: SocketAddr,
        endpoint: Option<MasterEndpoint>,
        confirmed_until: Boottime,
        route_end: Boottime,
    ) -> Arc<Backend> {
        let gate = Arc::new(Gate::new(route_end));
        let (metrics, clock) = (Arc::clone(&self.metrics), self.clock.clone());
        let backend = Arc::new(Backend::new(master, Arc::clone(&gate), metrics, clock));
        self.open = Some(OpenRoute {
            db: db.as_str().to_owned(),
            endpoint,
            address: master,
            confirmed_until,
            gate,
            backend: Arc::clone(&backend),
        });
        backend
    }

    fn report_opened(&self) {
        let Some(open) = &self.open else { return };
        self.status.route_opened(&open.db, open.address.to_string());
        self.set_metrics(None, Some(&open.db));
        // The listener, on another thread, may have seen its lease end before the metric was set.
        if open.gate.is_closed() {
            self.metrics.route.set_open(false, self.clock.wall());
        }
        info!(address = %open.address, "proxying to master address");
    }

    /// Has the listener accept no more clients and keep the connected ones.
    pub(super) fn drain(&self) {
        self.listener.update(|desired| desired.drain = true);
    }

    /// Has the listener end.
    pub(super) fn stop_listener(&self) {
        self.listener.update(|desired| desired.stop = true);
    }

    fn set_metrics(&self, from: Option<&str>, to: Option<&str>) {
        self.metrics.route.set_master(from, to);
        self.metrics.route.set_open(to.is_some(), self.clock.wall());
    }
}
