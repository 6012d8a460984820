//! Decides for each accepted client whether it is connected, held or closed (proxy P-8, P-14). Accepting is left to
//! `accept`, the connection to `session`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use tracing::{debug, warn};

use super::Config;
use super::backend::{Backend, BackendGuard};
use super::handle::DesiredListener;
use super::hold::{HeldClient, HoldQueue};
use super::log_limits::LogLimits;
use super::session::{ClientSession, SessionContext};
use crate::metrics::{HoldOutcome, Metrics, RefusalReason};
use crate::relay::socket_options::uses_pacing;
use crate::relay::{ConnectionCount, RelayThread, ServerConnector};

/// Pause after an accept for which the kernel had no memory, or no descriptor even with the spare one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Decides for each accepted client whether it is connected, held or closed.
#[derive(Debug)]
pub(super) struct Admission {
    config: Config,
    metrics: Arc<Metrics>,
    workers: Vec<SessionWorker>,
    clients: Arc<AtomicUsize>,
    /// Closed for a moment when no descriptor is left, so that a client can be accepted and closed (proxy P-14).
    spare_descriptor: Mutex<Option<OwnedFd>>,
    /// Clients that wait for the next master, oldest first (proxy P-8).
    hold_queue: Mutex<HoldQueue>,
    log_limits: Arc<LogLimits>,
    clock: Clock,
}

/// A relay thread, with what its sessions share.
#[derive(Debug)]
struct SessionWorker {
    thread: RelayThread,
    context: Arc<SessionContext>,
}

impl Admission {
    pub(super) fn new(
        config: Config,
        address: SocketAddr,
        threads: Vec<RelayThread>,
        clients: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        // Read from a new socket: the congestion control of the listening one may have been replaced already.
        let unbound = Socket::new(Domain::for_address(address), Type::STREAM, None).ok();
        let pacing = unbound.is_some_and(|unbound| uses_pacing(SockRef::from(&unbound)));
        let log_limits = Arc::new(LogLimits::default());
        let context = |thread: &RelayThread| SessionContext {
            counters: Arc::clone(thread.counters()),
            metrics: Arc::clone(&metrics),
            log_limits: Arc::clone(&log_limits),
            connector: ServerConnector {
                keepalive: config.keepalive,
                timeout: config.connect_timeout,
                pacing,
                clock: clock.clone(),
            },
            relay: config.relay,
            // `bind` has given a listening socket on loopback one that does not pace, and accepted sockets inherit it.
            client_pacing: pacing && !address.ip().to_canonical().is_loopback(),
            clock: clock.clone(),
        };
        let workers = threads
            .into_iter()
            .map(|thread| SessionWorker {
                context: Arc::new(context(&thread)),
                thread,
            })
            .collect();
        Self {
            config,
            metrics,
            workers,
            clients,
            spare_descriptor: Mutex::new(open_spare_descriptor()),
            hold_queue: Mutex::default(),
            log_limits,
            clock,
        }
    }

    /// Starts a session for a client, holds it, or closes it.
    pub(super) fn admit(&self, client: OwnedFd, desired: &DesiredListener) {
        self.metrics.connections.accepted.increment(1);
        let now = self.clock.now();
        let backend = desired.backend.as_ref().filter(|backend| backend.gate().is_open(now));
        // A change of the master is expected to be short; with any other reason clients are closed at once (proxy P-8).
        let can_hold = desired.master_changing && !self.config.hold.is_zero();
        if backend.is_none() && !can_hold {
            return self.metrics.connections.count_refused(RefusalReason::RouteClosed);
        }
        let max = self.config.max_connections;
        if self.clients.load(Ordering::Relaxed) >= max {
            self.log_limits.max_connections.log(now, || {
                warn!(max, "as many clients as --max-connections allows, closing more")
            });
            return self.metrics.connections.count_refused(RefusalReason::Limit);
        }
        // Held clients count as well, so that they cannot exhaust the descriptors.
        let count = ConnectionCount::new(&self.clients);
        match backend {
            Some(backend) => self.start_session(client, count, backend),
            None => self.hold(client, count, now),
        }
    }

    fn hold(&self, client: OwnedFd, count: ConnectionCount, now: Boottime) {
        let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (has_room, removed) = queue.make_room(self.config.hold_max, now);
        for _ in 0..removed {
            self.metrics.connections.count_hold_outcome(HoldOutcome::Abandoned);
        }
        if !has_room {
            self.metrics.connections.set_held(queue.clients.len());
            return self.metrics.connections.count_refused(RefusalReason::HoldFull);
        }
        let until = now + self.config.hold;
        queue.clients.push_back(HeldClient { client, until, count });
        self.metrics.connections.set_held(queue.clients.len());
    }

    /// Connects held clients once there is a master again. Closes them if there will be none, or if they have waited
    /// too long. Returns when the first of the others will have.
    pub(super) fn release_held(&self, desired: &DesiredListener, now: Boottime) -> Option<Boottime> {
        let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.clients.is_empty() {
            return None;
        }
        let backend = desired.backend.as_ref().filter(|backend| backend.gate().is_open(now));
        // Oldest first, so the first client that has to stay ends the loop: all later ones expire later.
        while let Some(held) = queue.clients.front() {
            let expired = held.until <= now;
            if backend.is_none() && !expired && desired.master_changing && !desired.drain {
                break;
            }
            let held = queue.clients.pop_front().expect("the queue is not empty");
            match backend {
                Some(backend) if !desired.drain => {
                    self.metrics.connections.count_hold_outcome(HoldOutcome::Connected);
                    self.start_session(held.client, held.count, backend);
                }
                _ if expired => self.metrics.connections.count_hold_outcome(HoldOutcome::Expired),
                _ => self.metrics.connections.count_hold_outcome(HoldOutcome::RouteClosed),
            }
        }
        self.metrics.connections.set_held(queue.clients.len());
        queue.clients.front().map(|held| held.until)
    }

    /// Handles a failed accept (proxy P-14); `accept_and_close` tries it once more, with the spare descriptor. Returns
    /// how long to pause before the next accept, if at all.
    pub(super) fn handle_accept_error(
        &self,
        err: &io::Error,
        accept_and_close: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        match err.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                self.log_limits.no_descriptors.log(
                    self.clock.now(),
                    || warn!(error = %err, "no descriptor for a client, closing it"),
                );
                let mut spare_fd = self.spare_descriptor.lock().unwrap_or_else(PoisonError::into_inner);
                drop(spare_fd.take());
                let closed = accept_and_close();
                *spare_fd = open_spare_descriptor();
                if closed {
                    self.metrics.connections.accepted.increment(1);
                    self.metrics.connections.count_refused(RefusalReason::Descriptors);
                }
                (!closed).then_some(ACCEPT_PAUSE)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.log_limits.no_memory.log(
                    self.clock.now(),
                    || warn!(error = %err, "no memory for a client, waiting"),
                );
                Some(ACCEPT_PAUSE)
            }
            // An error of the connection that was to be accepted (accept(2)). It is gone; the next one may be good.
            _ => {
                debug!(error = %err, "could not accept a client");
                None
            }
        }
    }

    fn start_session(&self, client: OwnedFd, count: ConnectionCount, backend: &Arc<Backend>) {
        let least_loaded = self.workers.iter().min_by_key(|worker| worker.thread.connections());
        let worker = least_loaded.expect("a listener is made with one thread at least, see `args`");
        let session = ClientSession {
            backend: BackendGuard::new(backend),
            context: Arc::clone(&worker.context),
            _counts: [count, worker.thread.count_connection()],
        };
        worker.thread.handle().spawn(session.run(client));
    }
}

/// Opens a descriptor whose only use is to be closed when a client needs one.
fn open_spare_descriptor() -> Option<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).ok()
}
