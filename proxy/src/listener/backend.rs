//! The server behind the route, and how many clients are connected to it. When the route opens and closes is decided by
//! `checkin`.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::Clock;

use crate::metrics::Metrics;
use crate::relay::Gate;

/// The server that admitted clients are connected to, and the gate that their bytes pass.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    gate: Arc<Gate>,
    reachable: AtomicBool,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Number of clients connected to it.
    clients: AtomicUsize,
}

impl Backend {
    /// Returns a backend without clients. Once its gate has closed, it measures how long its connections took to end.
    pub fn new(address: SocketAddr, gate: Arc<Gate>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self {
            address,
            gate,
            reachable: AtomicBool::new(true),
            metrics,
            clock,
            clients: AtomicUsize::new(0),
        }
    }

    /// Returns the address of the master.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the gate, which closes when the route closes.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Whether the last connect to the address succeeded; true before the first one.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Returns the number of clients connected to it.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    pub(super) fn set_reachable(&self, reachable: bool) {
        // Usually nothing changes, and then the cache line stays shared between the threads.
        if self.is_reachable() != reachable {
            self.reachable.store(reachable, Ordering::Relaxed);
        }
    }
}

/// One client of a backend. Dropping the last one of a closed backend records how long the connections took to end. The
/// drop of the backend itself would be too late: it is kept until the listener's desired state changes, which a silent
/// store delays.
#[derive(Debug)]
pub(super) struct BackendGuard(Arc<Backend>);

impl BackendGuard {
    pub(super) fn new(backend: &Arc<Backend>) -> Self {
        backend.clients.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(backend))
    }
}

impl Deref for BackendGuard {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.0
    }
}

impl Drop for BackendGuard {
    fn drop(&mut self) {
        let last = self.clients.fetch_sub(1, Ordering::Relaxed) == 1;
        if let Some(closed) = self.gate.close_event().filter(|_| last) {
            self.metrics.connections.backend_drained(closed, self.clock.now());
        }
    }
}
