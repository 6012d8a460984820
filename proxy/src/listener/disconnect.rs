//! Ends all connections to a master and measures how long that takes. When and why is decided by `checkin` or by the
//! end of the lease.

use std::sync::Arc;

use base::Clock;
use base::clock::Boottime;
use tokio::runtime::Handle;

use crate::metrics::Metrics;
use crate::relay::{CloseReason, Gate};

/// Ends all connections to a master. First all forwarding stops, then every session is woken to end.
///
/// Both happen in batches: a few dozen tasks are woken at a time, and a relay thread runs a few dozen between two polls
/// of its sockets. So other clients do not wait for thousands of ends. A session closes its server side first: the old
/// master's session is gone before its client can reconnect.
#[derive(Debug, Clone)]
pub struct Disconnector {
    threads: Arc<[Handle]>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Disconnector {
    pub(super) fn new(threads: Arc<[Handle]>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self {
            threads,
            metrics,
            clock,
        }
    }

    /// Closes the gate and starts the measurements.
    pub fn disconnect(&self, gate: &Arc<Gate>, reason: CloseReason, now: Boottime) {
        gate.close_with(reason, now, || self.measure(gate));
    }

    /// Closes the gate if its lease has ended. Returns whether this call closed it.
    pub(super) fn disconnect_at_lease_end(&self, gate: &Arc<Gate>, now: Boottime) -> bool {
        gate.expire_with(now, || self.measure(gate))
    }

    /// Starts both measurements. Each relay thread runs one task: while it does, the thread is not in the middle of a
    /// forward, and its next forward finds the gate closed.
    fn measure(&self, gate: &Arc<Gate>) {
        self.metrics.connections.backend_closed();
        for thread in self.threads.iter() {
            let (gate, metrics, clock) = (Arc::clone(gate), Arc::clone(&self.metrics), self.clock.clone());
            thread.spawn(async move {
                if let Some(closed) = gate.close_event() {
                    metrics.connections.thread_stopped(closed, clock.now());
                }
            });
        }
    }
}
