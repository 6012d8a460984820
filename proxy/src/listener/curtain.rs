//! The end of all connections to a master, and how long it took. Why it comes is told by `checkin` or by the lease.

use std::sync::Arc;

use control::clock::Boottime;
use tokio::runtime::Handle;

use crate::metrics::Metrics;
use crate::relay::{Cut, Gate};

/// Ends all connections to a master. First nothing is forwarded any more, anywhere; then every connection is told.
///
/// That is a walk in chunks: the tasks are woken some tens at a time, and a relay thread runs some tens between two
/// looks at its sockets, so that other clients do not wait for thousands of ends. Each closes the master's side first:
/// a session of the old master is gone before its client can come back.
#[derive(Debug, Clone)]
pub struct Curtain {
    pub(super) threads: Arc<[Handle]>,
    pub(super) metrics: Arc<Metrics>,
}

impl Curtain {
    /// Closes the gate.
    pub fn fall(&self, gate: &Arc<Gate>, why: Cut, now: Boottime) {
        gate.close_and(why, now, || self.time_the_end(gate));
    }

    /// Closes the gate if its lease has ended, and gives whether that was so.
    pub(super) fn fall_at_lease_end(&self, gate: &Arc<Gate>, now: Boottime) -> bool {
        gate.expire_and(now, || self.time_the_end(gate))
    }

    /// Starts both measurements. A relay thread that comes to run something else is not in the middle of a forward, and the next one finds the
    /// gate closed.
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn time_the_end(&self, gate: &Arc<Gate>) {
        self.metrics.path_closed();
        for thread in self.threads.iter() {
            let (gate, metrics) = (Arc::clone(gate), Arc::clone(&self.metrics));
            thread.spawn(async move {
                if let Some(shut) = gate.shut() {
                    metrics.thread_stopped(shut, Boottime::now());
                }
            });
        }
    }
}
