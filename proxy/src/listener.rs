//! The socket for clients: accept, admit, connect to the master, hand over to a relay. Where clients may go is told by
//! `checkin` and obeyed here; that leases end is seen here, whatever hangs there (fencing F-4).

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

use control::clock::{Boottime, wall_clock};
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
use crate::relay::{BoottimeTimer, ByteCounters, Gate, RelayConfig, sys};

/// Connections that the kernel holds for us before it refuses more; it takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;
/// Accepts in a row before the relay of this thread gets its turn.
const ACCEPTS_MAX: usize = 32;
/// The pause after an accept for which the kernel had no memory, or no descriptor even with the spare one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often to try to listen again when the address was taken meanwhile.
const LISTEN_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// What happens to many clients at once is logged no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How connections are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether the socket closes when the lease ends (P-4).
    pub stop_listening: bool,
    /// Keepalive of both sides of a connection.
    pub keepalive: Keepalive,
    /// Limit of a connect to the master (P-12).
    pub connect_timeout: Duration,
    /// Clients at once (P-14).
    pub max_connections: usize,
    /// How bytes are carried.
    pub relay: RelayConfig,
    /// How long a client may wait for the next master during a change; zero: not at all (P-8).
    pub hold: Duration,
    /// How many may.
    pub hold_max: usize,
}

/// Where admitted clients go, and the gate that their bytes pass.
#[derive(Debug)]
pub struct Backend {
    /// The master's address.
    pub address: SocketAddr,
    /// Closes when the route does.
    pub gate: Arc<Gate>,
    /// Whether the last connection to the master's address was made; also before the first one.
    pub reachable: AtomicBool,
    metrics: Arc<Metrics>,
    /// Clients on it.
    clients: AtomicUsize,
}

impl Backend {
    /// A path that measures how long its connections took to end, once its gate has closed.
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

/// A client's hold of its path. When the last one of a closed path lets go, that is measured: the path itself lives on
/// until the next orders, which a silent store delays.
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
            self.metrics.backend_drained(shut, Boottime::now());
        }
    }
}

/// What `checkin` wants of the listener. Only the last orders count.
#[derive(Debug, Clone, Default)]
pub struct ListenerCommand {
    /// End of the lease of the last good check-in; none before the first read of the store (P-5).
    pub lease_end: Option<Boottime>,
    /// How long a good check-in is good for: the lease began so long before its end.
    pub proxy_timeout: Duration,
    /// Where clients go; none while the route is closed.
    pub backend: Option<Arc<Backend>>,
    /// Whether it is closed by a change of the master, so that clients wait for the next one (P-8).
    pub master_changing: bool,
    /// Take no more clients; those that are connected go on (P-9).
    pub drain: bool,
    /// Close the socket and be done.
    pub stop: bool,
}

/// What has become of the socket for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    /// Not asked to listen yet.
    Waiting,
    /// It listens.
    Listening,
    /// Its lease ended.
    Stopped,
    /// The address cannot be listened on; it is tried again.
    Failed(String),
}

/// One thread that carries bytes.
#[derive(Debug)]
pub struct RelayThread {
    /// Its runtime.
    pub handle: Handle,
    /// Its count of bytes.
    pub counters: Arc<ByteCounters>,
    /// Its connections now.
    pub connections: Arc<AtomicUsize>,
}

/// All that it takes to turn orders into connections.
#[derive(Debug)]
pub struct Listener {
    commands: watch::Receiver<ListenerCommand>,
    state: watch::Sender<ListenState>,
    bound: Option<BoundSocket>,
    admission: Admission,
    disconnector: Disconnector,
}

/// The ends that `checkin` holds.
#[derive(Debug)]
pub struct ListenerHandle {
    /// Tells the listener what to do; when it is dropped the listener ends.
    pub commands: watch::Sender<ListenerCommand>,
    /// What has become of the socket.
    pub state: watch::Receiver<ListenState>,
    /// Clients now, from accept to the end.
    pub clients: Arc<AtomicUsize>,
    /// The address that clients connect to.
    pub address: SocketAddr,
    /// Ends connections.
    pub disconnector: Disconnector,
}

impl Listener {
    /// A listener that waits for orders; run it on one of `threads`.
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
            threads: threads.iter().map(|thread| thread.handle.clone()).collect(),
            metrics: Arc::clone(&metrics),
        };
        let handle = ListenerHandle {
            commands: command_tx,
            state: state_rx,
            clients: Arc::clone(&clients),
            address,
            disconnector: disconnector.clone(),
        };
        // of a new socket, as the one that listens may have been given another already
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
            // the socket that listens has been given another, if it is for this machine alone
            client_pacing: pacing && !address.ip().to_canonical().is_loopback(),
        };
        let threads = threads
            .into_iter()
            .map(|thread| RelayWorker {
                handle: thread.handle,
                connections: thread.connections,
                context: Arc::new(context(thread.counters)),
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

    /// Obeys orders until told to stop. Errors only when the system gives it no timer.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    pub async fn run(mut self) -> io::Result<()> {
        let alarm = BoottimeTimer::new()?;
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
            let expired = |backend: &Arc<Backend>| self.disconnector.disconnect_at_lease_end(&backend.gate, now);
            if command.backend.as_ref().is_some_and(expired) {
                self.admission.metrics.set_route_open(false, wall_clock());
            }
            let leased = command.lease_end.is_some_and(|end| now < end);
            if was_leased && !leased {
                warn!(timeout = ?command.proxy_timeout, connections, "check timeout timer fired");
                if self.admission.config.stop_listening && listening.take().is_some() {
                    self.set_state(ListenState::Stopped);
                    info!("Stopping listening");
                    // Bound but deaf, so that nobody else takes the port meanwhile.
                    self.bound = bind(&self.admission.config, self.admission.address).ok();
                }
            }
            was_leased = leased;
            if command.drain && listening.take().is_some() {
                self.set_state(ListenState::Stopped);
                info!("Stopping listening");
            }
            let wanted = leased && !command.drain;
            if wanted && listening.is_none() {
                listening = self.listen();
            }
            let first_held_until = self.admission.release_held(&command, now);
            let ends = [
                command.lease_end.filter(|_| leased),
                command.backend.as_ref().and_then(|backend| backend.gate.lease_end()),
            ];
            let next_end = ends.into_iter().flatten().min();
            let again = wanted && listening.is_none();
            tokio::select! {
                changed = self.commands.changed() => if changed.is_err() { return Ok(()) },
                rung = alarm.wait_until(next_end.unwrap_or_default()), if next_end.is_some() => rung?,
                () = tokio::time::sleep(LISTEN_RETRY_PAUSE), if again => {}
                () = tokio::time::sleep(first_held_until.unwrap_or(now).since(now)), if first_held_until.is_some() => {}
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
            .listening
            .set(if state == ListenState::Listening { 1.0 } else { 0.0 });
        self.state.send_replace(state);
    }
}

/// One thread that carries bytes, as seen from the door.
#[derive(Debug)]
struct RelayWorker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    context: Arc<ConnContext>,
}

/// What a client meets first.
#[derive(Debug)]
struct Admission {
    config: Config,
    address: SocketAddr,
    metrics: Arc<Metrics>,
    workers: Vec<RelayWorker>,
    clients: Arc<AtomicUsize>,
    /// Given up for a moment when no descriptor is left for a client that is to be closed (P-14).
    spare_descriptor: Mutex<Option<OwnedFd>>,
    /// Clients that wait for the next master, in the order of their coming (P-8).
    hold_queue: Mutex<HoldQueue>,
    log_limits: Arc<LogLimits>,
}

/// A descriptor that is good for nothing but being closed.
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
    /// Waits for clients and takes some in. Nothing is lost when it is cancelled.
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

    /// Does what can be done about a failed accept (P-14): the next one follows at once, or after a pause.
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
                    self.metrics.accepted.increment(1);
                    self.metrics.refused(RefusalReason::Descriptors);
                }
                (!closed).then_some(ACCEPT_PAUSE)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.log_limits
                    .no_memory
                    .log(|| warn!(error = %err, "no memory for a client, waiting"));
                Some(ACCEPT_PAUSE)
            }
            // An error of the connection that was to be accepted (accept(2)): it is gone, the next one is looked at.
            _ => {
                debug!(error = %err, "could not accept a client");
                None
            }
        }
    }

    /// Takes a client in, holds it, or closes it.
    #[expect(
        clippy::disallowed_methods,
        reason = "whether the lease still runs is known here and now"
    )]
    fn admit(&self, client: OwnedFd, command: &ListenerCommand) {
        self.metrics.accepted.increment(1);
        let now = Boottime::now();
        let backend = command.backend.as_ref().filter(|backend| backend.gate.is_open(now));
        let holds = command.master_changing && !self.config.hold.is_zero();
        if backend.is_none() && !holds {
            return self.metrics.refused(RefusalReason::RouteClosed);
        }
        let max = self.config.max_connections;
        if self.clients.load(Ordering::Relaxed) >= max {
            self.log_limits
                .max_connections
                .log(|| warn!(max, "as many clients as --max-connections allows, closing more"));
            return self.metrics.refused(RefusalReason::Limit);
        }
        let count = ConnectionCount::new(&self.clients);
        match backend {
            Some(backend) => self.start_session(client, count, backend),
            None => self.hold(client, count, now),
        }
    }

    fn hold(&self, client: OwnedFd, count: ConnectionCount, now: Boottime) {
        let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (has_room, dead) = queue.make_room(self.config.hold_max, now);
        for _ in 0..dead {
            self.metrics.released(HoldOutcome::Abandoned);
        }
        if !has_room {
            self.metrics.set_held(queue.clients.len());
            return self.metrics.refused(RefusalReason::HoldFull);
        }
        let until = now + self.config.hold;
        queue.clients.push_back(HeldClient { client, until, count });
        self.metrics.set_held(queue.clients.len());
    }

    /// Sends held clients on when there is a master again, closes them when there will be none or they have waited long
    /// enough. Gives when the first of the others has.
    fn release_held(&self, command: &ListenerCommand, now: Boottime) -> Option<Boottime> {
        let mut queue = self.hold_queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.clients.is_empty() {
            return None;
        }
        let backend = command.backend.as_ref().filter(|backend| backend.gate.is_open(now));
        while let Some(held) = queue.clients.front() {
            let over = held.until <= now;
            if backend.is_none() && !over && command.master_changing && !command.drain {
                break;
            }
            let held = queue.clients.pop_front().expect("it was looked at");
            match backend {
                Some(backend) if !command.drain => {
                    self.metrics.released(HoldOutcome::Connected);
                    self.start_session(held.client, held.count, backend);
                }
                _ if over => self.metrics.released(HoldOutcome::Expired),
                _ => self.metrics.released(HoldOutcome::RouteClosed),
            }
        }
        self.metrics.set_held(queue.clients.len());
        queue.clients.front().map(|held| held.until)
    }

    fn start_session(&self, client: OwnedFd, count: ConnectionCount, backend: &Arc<Backend>) {
        let least = self
            .workers
            .iter()
            .min_by_key(|thread| thread.connections.load(Ordering::Relaxed));
        let thread = least.expect("a listener is made with one thread at least, see `args`");
        let session = ClientSession {
            backend: BackendGuard::new(backend),
            context: Arc::clone(&thread.context),
            _counts: [count, ConnectionCount::new(&thread.connections)],
        };
        thread.handle.spawn(session.run(client));
    }
}

/// Counts one for as long as it lives.
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

/// What goes wrong for many clients at once, each kind logged once a second at most.
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
    #[expect(clippy::disallowed_methods, reason = "logging is paced by the clock")]
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
