//! Decides for each accepted client whether it is connected, held or closed (proxy P-8, P-14). Accepting is left to
//! `accept`, the connection to `session`.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base::Clock;
use base::clock::Boottime;
use tracing::warn;

use super::Config;
use super::handle::DesiredListener;
use super::hold::HoldQueue;
use super::rate_limited::RateLimited;
use super::session_threads::SessionThreads;
use crate::metrics::{Metrics, RefusalReason};
use crate::relay::ConnectionCount;

/// Decides for each accepted client whether it is connected, held or closed.
#[derive(Debug)]
pub(super) struct Admission {
    threads: SessionThreads,
    /// All clients, held ones too.
    clients: Arc<AtomicUsize>,
    max_connections: usize,
    max_connections_reached: RateLimited,
    can_hold: bool,
    hold_queue: Mutex<HoldQueue>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Admission {
    pub(super) fn new(
        config: &Config,
        threads: SessionThreads,
        clients: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        Self {
            threads,
            clients,
            max_connections: config.max_connections,
            max_connections_reached: RateLimited::default(),
            can_hold: !config.hold.is_zero(),
            hold_queue: Mutex::new(HoldQueue::new(config.hold_max, config.hold, Arc::clone(&metrics))),
            metrics,
            clock,
        }
    }

    /// Starts a session for a client, holds it, or closes it.
    pub(super) fn admit(&self, client: OwnedFd, desired: &DesiredListener) {
        self.metrics.connections.accepted.increment(1);
        let now = self.clock.now();
        let backend = desired.open_backend(now);
        // A change of the master is expected to be short; with any other reason clients are closed at once (proxy P-8).
        if backend.is_none() && !(desired.master_changing && self.can_hold) {
            return self.metrics.connections.count_refused(RefusalReason::RouteClosed);
        }
        let max = self.max_connections;
        if self.clients.load(Ordering::Relaxed) >= max {
            self.max_connections_reached.log(now, || {
                warn!(max, "as many clients as --max-connections allows, closing more")
            });
            return self.metrics.connections.count_refused(RefusalReason::Limit);
        }
        // Held clients count as well, so that they cannot exhaust the descriptors.
        let count = ConnectionCount::new(&self.clients);
        match backend {
            Some(backend) => self.threads.start(client, count, backend),
            None => {
                let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.hold(client, count, now);
            }
        }
    }

    /// Connects held clients once there is a master again. Closes them if there will be none, or if they have waited
    /// too long. Returns when the first of the others will have.
    pub(super) fn release_held(&self, desired: &DesiredListener, now: Boottime) -> Option<Boottime> {
        let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            return None;
        }
        match desired.open_backend(now) {
            _ if desired.drain => queue.close_all(now),
            Some(backend) => queue.connect_all(|client, count| self.threads.start(client, count, backend)),
            None if desired.master_changing => queue.close_expired(now),
            None => queue.close_all(now),
        }
        queue.first_end()
    }
}
