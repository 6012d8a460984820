//! The socket for clients: accepts and admits clients and starts their sessions on the relay threads. Where clients may
//! go is decided by `checkin`; that a lease has ended is detected here, so that a check-in that hangs delays nothing
//! (fencing F-4).

mod disconnect;
mod hold;
mod session;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::clock::{Boottime, wall_clock};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

pub use self::disconnect::Disconnector;
use self::hold::{HeldClient, HoldQueue};
use self::session::{ClientSession, ConnContext};
use self::socket::uses_pacing;
pub use self::socket::{BoundSocket, Keepalive, bind, is_local_address};
use crate::metrics::{HoldOutcome, Metrics, RefusalReason};
use crate::relay::epoll::sys;
use crate::relay::{BoottimeTimer, ByteCounters, Gate, RelayConfig};

/// Length of the accept queue; the kernel limits it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Accepts in a row before the other tasks of this thread run.
const ACCEPTS_MAX: usize = 32;
/// Pause after an accept for which the kernel had no memory, or no descriptor even with the spare one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between attempts to listen on an address that is taken.
const LISTEN_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two log lines about something that happens to many clients at once.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Configuration of the listener and its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address that clients connect to; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether the socket closes when the lease ends (proxy P-4).
    pub stop_listening: bool,
    /// TCP keepalive of both sides of a connection.
    pub keepalive: Keepalive,
    /// Timeout of a connect to the master (proxy P-12).
    pub connect_timeout: Duration,
    /// Limit of concurrent clients (proxy P-14).
    pub max_connections: usize,
    /// How the relay forwards bytes.
    pub relay: RelayConfig,
    /// How long a client may be held for the next master during a change; zero disables holding (proxy P-8).
    pub hold: Duration,
    /// Limit of held clients.
    pub hold_max: usize,
}

/// The server that admitted clients are connected to, and the gate that their bytes pass.
#[derive(Debug)]
pub struct Backend {
    /// Address of the master.
    pub address: SocketAddr,
    /// Closes when the route closes.
    pub gate: Arc<Gate>,
    /// Whether the last connect to the address succeeded; true before the first one.
    pub reachable: AtomicBool,
    metrics: Arc<Metrics>,
    /// Number of clients connected to it.
    clients: AtomicUsize,
}

impl Backend {
    /// Returns a backend without clients. Once its gate has closed, it measures how long its connections took to end.
    pub fn new(address: SocketAddr, gate: Arc<Gate>, metrics: Arc<Metrics>) -> Self {
        Self {
            address,
            gate,
            reachable: AtomicBool::new(true),
            metrics,
            clients: AtomicUsize::new(0),
        }
    }
}

/// One client of a backend. Dropping the last one of a closed backend records how long the connections took to end. The
/// drop of the backend itself would be too late: it is kept until the next command, which a silent store delays.
#[derive(Debug)]
struct BackendGuard(Arc<Backend>);

impl BackendGuard {
    fn new(backend: &Arc<Backend>) -> Self {
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
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn drop(&mut self) {
        let last = self.clients.fetch_sub(1, Ordering::Relaxed) == 1;
        if let Some(shut) = self.gate.close_event().filter(|_| last) {
            self.metrics.connections.backend_drained(shut, Boottime::now());
        }
    }
}

/// The state that `checkin` wants the listener to be in. Only the latest command counts.
#[derive(Debug, Clone, Default)]
pub struct ListenerCommand {
    /// End of the lease of the last good check-in; `None` before the first read of the store (proxy P-5).
    pub lease_end: Option<Boottime>,
    /// The proxy timeout: how long before its end the lease began.
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

/// State of the socket for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    /// Not commanded to listen yet.
    Waiting,
    /// Listening.
    Listening,
    /// Closed because the lease ended, or for draining.
    Stopped,
    /// Listening failed, for this reason; it is retried.
    Failed(String),
}

/// A thread that runs sessions.
#[derive(Debug)]
pub struct RelayThread {
    /// Handle of its runtime.
    pub handle: Handle,
    /// Its byte counters.
    pub counters: Arc<ByteCounters>,
    /// Number of its connections.
    pub connections: Arc<AtomicUsize>,
}

/// The task that accepts clients as commanded.
#[derive(Debug)]
pub struct Listener {
    commands: watch::Receiver<ListenerCommand>,
    state: watch::Sender<ListenState>,
    bound: Option<BoundSocket>,
    admission: Admission,
    disconnector: Disconnector,
}

/// The other side of a [`Listener`], held by `checkin`.
#[derive(Debug)]
pub struct ListenerHandle {
    /// Sends commands. The listener ends when it is dropped.
    pub commands: watch::Sender<ListenerCommand>,
    /// State of the socket.
    pub state: watch::Receiver<ListenState>,
    /// Number of clients, each counted from accept to the end of its connection.
    pub clients: Arc<AtomicUsize>,
    /// Address that clients connect to.
    pub address: SocketAddr,
    /// Ends connections.
    pub disconnector: Disconnector,
}

impl Listener {
    /// Returns a listener that waits for its first command. Its `run` must be spawned on one of `threads`.
    pub fn new(
        config: Config,
        bound: BoundSocket,
        threads: Vec<RelayThread>,
        metrics: Arc<Metrics>,
    ) -> (Self, ListenerHandle) {
        let (command_tx, command) = watch::channel(ListenerCommand::default());
        let (state, state_rx) = watch::channel(ListenState::Waiting);
        let clients = Arc::new(AtomicUsize::new(0));
        let address = bound.address;
        let disconnector = Disconnector {
            threads: threads.iter().map(|worker| worker.handle.clone()).collect(),
            metrics: Arc::clone(&metrics),
        };
        let handle = ListenerHandle {
            commands: command_tx,
            state: state_rx,
            clients: Arc::clone(&clients),
            address,
            disconnector: disconnector.clone(),
        };
        // Ask a new socket: the listening one may have got another congestion control already.
        let unbound = Socket::new(Domain::for_address(address), Type::STREAM, None).ok();
        let pacing = unbound.is_some_and(|unbound| uses_pacing(SockRef::from(&unbound)));
        let log_limits = Arc::new(LogLimits::default());
        let context = |counters| ConnContext {
            counters,
            metrics: Arc::clone(&metrics),
            log_limits: Arc::clone(&log_limits),
            keepalive: config.keepalive,
            connect_timeout: config.connect_timeout,
            relay: config.relay,
            server_pacing: pacing,
            // A listening socket on loopback has got one that does not pace, and accepted sockets inherit it.
            client_pacing: pacing && !address.ip().to_canonical().is_loopback(),
        };
        let threads = threads
            .into_iter()
            .map(|worker| RelayWorker {
                handle: worker.handle,
                connections: worker.connections,
                context: Arc::new(context(worker.counters)),
            })
            .collect();
        let admission = Admission {
            config,
            address,
            metrics,
            workers: threads,
            clients,
            spare_descriptor: Mutex::new(open_spare_descriptor()),
            hold_queue: Mutex::default(),
            log_limits,
        };
        (
            Self {
                commands: command,
                state,
                bound: Some(bound),
                admission,
                disconnector,
            },
            handle,
        )
    }

    /// Follows commands until one of them sets `stop`. Returns an error only if the system has no timer for it.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    pub async fn run(mut self) -> io::Result<()> {
        let lease_timer = BoottimeTimer::new()?;
        let mut listening: Option<AsyncFd<OwnedFd>> = None;
        let mut was_leased = false;
        loop {
            let command = self.commands.borrow_and_update().clone();
            if command.stop {
                return Ok(());
            }
            let now = Boottime::now();
            let connections = command
                .backend
                .as_ref()
                .map_or(0, |backend| backend.clients.load(Ordering::Relaxed));
            // Checked in every round, because the check-in that would close the route may be what hangs (fencing F-4).
            let lease_has_ended =
                |backend: &Arc<Backend>| self.disconnector.disconnect_at_lease_end(&backend.gate, now);
            if command.backend.as_ref().is_some_and(lease_has_ended) {
                self.admission.metrics.route.set_open(false, wall_clock());
            }
            let leased = command.lease_end.is_some_and(|end| now < end);
            if was_leased && !leased {
                warn!(timeout = ?command.proxy_timeout, connections, "check timeout timer fired");
                if self.admission.config.stop_listening && listening.take().is_some() {
                    self.set_state(ListenState::Stopped);
                    info!("Stopping listening");
                    // Bound but not listening: clients are refused, and no other process can take the port.
                    self.bound = bind(&self.admission.config, self.admission.address).ok();
                }
            }
            was_leased = leased;
            // A draining proxy does not bind again: it will not listen any more.
            if command.drain && listening.take().is_some() {
                self.set_state(ListenState::Stopped);
                info!("Stopping listening");
            }
            let should_listen = leased && !command.drain;
            if should_listen && listening.is_none() {
                listening = self.listen();
            }
            let first_hold_end = self.admission.release_held(&command, now);
            // The route may end before the lease: an address that was only kept ends with the lease that confirmed it.
            let deadlines = [
                command.lease_end.filter(|_| leased),
                command.backend.as_ref().and_then(|backend| backend.gate.lease_end()),
            ];
            let next_deadline = deadlines.into_iter().flatten().min();
            let retry_listen = should_listen && listening.is_none();
            tokio::select! {
                changed = self.commands.changed() => if changed.is_err() { return Ok(()) },
                fired = lease_timer.wait_until(next_deadline.unwrap_or_default()), if next_deadline.is_some() => fired?,
                () = tokio::time::sleep(LISTEN_RETRY_PAUSE), if retry_listen => {}
                () = tokio::time::sleep(first_hold_end.unwrap_or(now).since(now)), if first_hold_end.is_some() => {}
                () = self.admission.accept_batch(listening.as_ref(), &command), if listening.is_some() => {}
            }
        }
    }

    /// Starts to listen, on the socket that is bound already or on a new one.
    fn listen(&mut self) -> Option<AsyncFd<OwnedFd>> {
        let address = self.admission.address;
        let bound = self
            .bound
            .take()
            .map_or_else(|| bind(&self.admission.config, address), Ok);
        let listening = bound.and_then(|bound| {
            bound.socket.listen(BACKLOG)?;
            sys::readable(bound.socket.into())
        });
        match listening {
            Ok(listening) => {
                info!(%address, "Starting proxying");
                self.set_state(ListenState::Listening);
                Some(listening)
            }
            Err(err) => {
                let failed = ListenState::Failed(err.to_string());
                if *self.state.borrow() != failed {
                    error!(%address, error = %err, "could not listen for clients, trying again");
                    self.set_state(failed);
                }
                None
            }
        }
    }

    fn set_state(&self, state: ListenState) {
        self.admission
            .metrics
            .connections
            .set_listening(state == ListenState::Listening);
        self.state.send_replace(state);
    }
}

/// A relay thread, with what its sessions share.
#[derive(Debug)]
struct RelayWorker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    context: Arc<ConnContext>,
}

/// Decides for each accepted client whether it is connected, held or closed.
#[derive(Debug)]
struct Admission {
    config: Config,
    address: SocketAddr,
    metrics: Arc<Metrics>,
    workers: Vec<RelayWorker>,
    clients: Arc<AtomicUsize>,
    /// Closed for a moment when no descriptor is left, so that a client can be accepted and closed (proxy P-14).
    spare_descriptor: Mutex<Option<OwnedFd>>,
    /// Clients that wait for the next master, oldest first (proxy P-8).
    hold_queue: Mutex<HoldQueue>,
    log_limits: Arc<LogLimits>,
}

/// Opens a descriptor whose only use is to be closed when a client needs one.
fn open_spare_descriptor() -> Option<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).ok()
}

fn accept(listening: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(
        listening,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
    )?)
}

impl Admission {
    /// Waits for clients and admits a batch of them. Cancelling it loses no client.
    async fn accept_batch(&self, listening: Option<&AsyncFd<OwnedFd>>, command: &ListenerCommand) {
        let Some(listening) = listening else { return };
        let Ok(mut ready) = listening.readable().await else {
            return;
        };
        for _ in 0..ACCEPTS_MAX {
            match ready.try_io(accept) {
                Ok(Ok(client)) => self.admit(client, command),
                Ok(Err(err)) => {
                    if let Some(pause) = self.handle_accept_error(listening, &err) {
                        return tokio::time::sleep(pause).await;
                    }
                }
                Err(_nobody_waits) => return,
            }
        }
        tokio::task::yield_now().await;
    }

    /// Handles a failed accept (proxy P-14). Returns how long to pause before the next one, if at all.
    fn handle_accept_error(&self, listening: &AsyncFd<OwnedFd>, err: &io::Error) -> Option<Duration> {
        match err.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                self.log_limits
                    .no_descriptors
                    .log(|| warn!(error = %err, "no descriptor for a client, closing it"));
                let mut spare_fd = self.spare_descriptor.lock().unwrap_or_else(PoisonError::into_inner);
                drop(spare_fd.take());
                let closed = accept(listening).is_ok();
                *spare_fd = open_spare_descriptor();
                if closed {
                    self.metrics.connections.accepted.increment(1);
                    self.metrics.connections.count_refused(RefusalReason::Descriptors);
                }
                (!closed).then_some(ACCEPT_PAUSE)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.log_limits
                    .no_memory
                    .log(|| warn!(error = %err, "no memory for a client, waiting"));
                Some(ACCEPT_PAUSE)
            }
            // An error of the connection that was to be accepted (accept(2)). It is gone; the next one may be good.
            _ => {
                debug!(error = %err, "could not accept a client");
                None
            }
        }
    }

    /// Starts a session for a client, holds it, or closes it.
    #[expect(clippy::disallowed_methods, reason = "the lease is compared with the current time")]
    fn admit(&self, client: OwnedFd, command: &ListenerCommand) {
        self.metrics.connections.accepted.increment(1);
        let now = Boottime::now();
        let backend = command.backend.as_ref().filter(|backend| backend.gate.is_open(now));
        // A change of the master is expected to be short; with any other reason clients are closed at once (proxy P-8).
        let can_hold = command.master_changing && !self.config.hold.is_zero();
        if backend.is_none() && !can_hold {
            return self.metrics.connections.count_refused(RefusalReason::RouteClosed);
        }
        let max = self.config.max_connections;
        if self.clients.load(Ordering::Relaxed) >= max {
            self.log_limits
                .max_connections
                .log(|| warn!(max, "as many clients as --max-connections allows, closing more"));
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
    fn release_held(&self, command: &ListenerCommand, now: Boottime) -> Option<Boottime> {
        let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.clients.is_empty() {
            return None;
        }
        let backend = command.backend.as_ref().filter(|backend| backend.gate.is_open(now));
        // Oldest first, so the first client that has to stay ends the loop: all later ones expire later.
        while let Some(held) = queue.clients.front() {
            let expired = held.until <= now;
            if backend.is_none() && !expired && command.master_changing && !command.drain {
                break;
            }
            let held = queue.clients.pop_front().expect("the queue is not empty");
            match backend {
                Some(backend) if !command.drain => {
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

    fn start_session(&self, client: OwnedFd, count: ConnectionCount, backend: &Arc<Backend>) {
        let least_loaded = self
            .workers
            .iter()
            .min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let worker = least_loaded.expect("a listener is made with one thread at least, see `args`");
        let session = ClientSession {
            backend: BackendGuard::new(backend),
            context: Arc::clone(&worker.context),
            _counts: [count, ConnectionCount::new(&worker.connections)],
        };
        worker.handle.spawn(session.run(client));
    }
}

/// Counts one for as long as it exists.
#[derive(Debug)]
struct ConnectionCount(Arc<AtomicUsize>);

impl ConnectionCount {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rate limits of the log lines about events that hit many clients at once.
#[derive(Debug, Default)]
struct LogLimits {
    no_descriptors: RateLimited,
    no_memory: RateLimited,
    max_connections: RateLimited,
    connect_errors: RateLimited,
}

#[derive(Debug, Default)]
struct RateLimited(AtomicU64);

impl RateLimited {
    #[expect(clippy::disallowed_methods, reason = "the rate limit depends on the clock")]
    fn log(&self, log: impl FnOnce()) {
        let now = Boottime::now().as_nanos();
        let quiet = LOG_INTERVAL.as_nanos() as u64;
        let due = |last: u64| (last == 0 || now >= last.saturating_add(quiet)).then_some(now);
        if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            log();
        }
    }
}

#[cfg(test)]
mod tests;
