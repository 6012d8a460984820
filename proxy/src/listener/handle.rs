//! The part of the listener that `checkin` uses: its desired state, and the state that it is in. How one becomes the
//! other is left to `accept`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::clock::Boottime;
use tokio::sync::watch;

use super::backend::Backend;
use super::disconnect::Disconnector;
use crate::relay::{CloseReason, Gate};

/// The desired state of the listener, set by `checkin`. Only its latest value counts.
#[derive(Debug, Clone, Default)]
pub struct DesiredListener {
    /// End of the lease of the last good check-in; `None` before the first read of the store (proxy P-5).
    pub lease_end: Option<Boottime>,
    /// The proxy timeout: the length of the lease.
    pub proxy_timeout: Duration,
    /// Where clients go; `None` while the route is closed.
    pub backend: Option<Arc<Backend>>,
    /// Whether the route is closed by a change of the master, so that clients are held for the next one (proxy P-8).
    pub master_changing: bool,
    /// Accept no more clients, but keep existing connections (proxy P-9).
    pub drain: bool,
    /// Close the socket and end the task.
    pub stop: bool,
}

impl DesiredListener {
    /// Returns where clients go, if the route is open at `now`.
    pub(super) fn open_backend(&self, now: Boottime) -> Option<&Arc<Backend>> {
        self.backend.as_ref().filter(|backend| backend.gate().is_open(now))
    }
}

/// State of the socket for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    /// Has not tried to listen yet.
    Waiting,
    /// Listening.
    Listening,
    /// Closed because the lease ended, or for draining.
    Stopped,
    /// Listening failed, for this reason; it is retried.
    Failed(String),
}

/// The other side of a [`Listener`](super::Listener), held by `checkin`. Dropping it ends the listener.
#[derive(Debug)]
pub struct ListenerHandle {
    desired: watch::Sender<DesiredListener>,
    state: watch::Receiver<ListenState>,
    clients: Arc<AtomicUsize>,
    address: SocketAddr,
    disconnector: Disconnector,
}

impl ListenerHandle {
    pub(super) fn new(
        desired: watch::Sender<DesiredListener>,
        state: watch::Receiver<ListenState>,
        clients: Arc<AtomicUsize>,
        address: SocketAddr,
        disconnector: Disconnector,
    ) -> Self {
        Self {
            desired,
            state,
            clients,
            address,
            disconnector,
        }
    }

    /// Changes the desired state.
    pub fn update(&self, change: impl FnOnce(&mut DesiredListener)) {
        self.desired.send_modify(change);
    }

    /// Changes the desired state, and wakes the listener only if `change` returns true. Returns that.
    pub fn update_if(&self, change: impl FnOnce(&mut DesiredListener) -> bool) -> bool {
        self.desired.send_if_modified(change)
    }

    /// Returns the end of the lease in the desired state.
    pub fn lease_end(&self) -> Option<Boottime> {
        self.desired.borrow().lease_end
    }

    /// Waits until the listener has tried to listen. Returns the reason if that failed.
    pub async fn listen_failure(&mut self) -> Option<String> {
        let has_tried = |state: &ListenState| *state != ListenState::Waiting;
        match self.state.wait_for(has_tried).await.as_deref() {
            Ok(ListenState::Failed(reason)) => Some(reason.clone()),
            _ => None, // a listener that has ended is reported by the program
        }
    }

    /// Stops forwarding through the gate and ends its connections.
    pub fn disconnect(&self, gate: &Arc<Gate>, reason: CloseReason, now: Boottime) {
        self.disconnector.disconnect(gate, reason, now);
    }

    /// Returns the address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of clients, each counted from accept to the end of its connection.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Returns the counter behind [`clients`](Self::clients), for use beside the handle.
    pub fn client_counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.clients)
    }
}
