//! The end of all connections to a master, and how long it took. Why it comes is told by `checkin` or by the lease.

use std::sync::Arc;

use control::clock::Boottime;
use tokio::runtime::Handle;

use crate::metrics::Metrics;
use crate::relay::{CloseReason, Gate};

/// Ends all connections to a master. First nothing is forwarded any more, anywhere; then every connection is told.
///
/// That is a walk in chunks: the tasks are woken some tens at a time, and a relay thread runs some tens between two
/// looks at its sockets, so that other clients do not wait for thousands of ends. Each closes the master's side first:
/// a session of the old master is gone before its client can come back.
#[derive(Debug, Clone)]
pub struct Disconnector {
    pub(super) threads: Arc<[Handle]>,
    pub(super) metrics: Arc<Metrics>,
}

impl Disconnector {
    /// Closes the gate.
    pub fn disconnect(&self, gate: &Arc<Gate>, why: CloseReason, now: Boottime) {
        gate.close_with(why, now, || self.measure(gate));
    }

    /// Closes the gate if its lease has ended, and gives whether that was so.
    pub(super) fn disconnect_at_lease_end(&self, gate: &Arc<Gate>, now: Boottime) -> bool {
        gate.expire_with(now, || self.measure(gate))
    }

    /// Starts both measurements. A relay thread that comes to run something else is not in the middle of a forward, and the next one finds the
    /// gate closed.
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn measure(&self, gate: &Arc<Gate>) {
        self.metrics.backend_closed();
        for thread in self.threads.iter() {
            let (gate, metrics) = (Arc::clone(gate), Arc::clone(&self.metrics));
            thread.spawn(async move {
                if let Some(shut) = gate.close_event() {
                    metrics.thread_stopped(shut, Boottime::now());
                }
            });
        }
    }
}
