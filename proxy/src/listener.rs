//! The socket for clients: accept, admit, connect to the master, hand over to a relay. Where clients may go is told by
//! `checkin` and obeyed here; that leases end is seen here, whatever hangs there (fencing F-4).

mod curtain;
mod hold;
mod socket;
mod visit;

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

pub use self::curtain::Curtain;
use self::hold::{Held, Waiting};
use self::socket::paces;
pub use self::socket::{Bound, Keepalive, bind, is_here};
use self::visit::{Host, Visit};
use crate::metrics::{Metrics, Refused, Released};
use crate::relay::{Alarm, Gate, Manner, Tally, sys};

/// Connections that the kernel holds for us before it refuses more; it takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;
/// Accepts in a row before the relay of this thread gets its turn.
const ACCEPTS_AT_ONCE: usize = 32;
/// The pause after an accept for which the kernel had no memory, or no descriptor even with the spare one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often to try to listen again when the address was taken meanwhile.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What happens to many clients at once is logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(1);

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
    pub manner: Manner,
    /// How long a client may wait for the next master during a change; zero: not at all (P-8).
    pub hold: Duration,
    /// How many may.
    pub hold_max: usize,
}

/// Where admitted clients go, and the gate that their bytes pass.
#[derive(Debug)]
pub struct Path {
    /// The master's address.
    pub master: SocketAddr,
    /// Closes when the route does.
    pub gate: Arc<Gate>,
    /// Whether the last connection to the master's address was made; also before the first one.
    pub reachable: AtomicBool,
    metrics: Arc<Metrics>,
    /// Clients on it.
    clients: AtomicUsize,
}

impl Path {
    /// A path that measures how long its connections took to end, once its gate has closed.
    pub fn new(master: SocketAddr, gate: Arc<Gate>, metrics: Arc<Metrics>) -> Self {
        Self {
            master,
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
struct OnPath(Arc<Path>);

impl OnPath {
    fn enter(path: &Arc<Path>) -> Self {
        path.clients.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(path))
    }
}

impl Deref for OnPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for OnPath {
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn drop(&mut self) {
        let last = self.clients.fetch_sub(1, Ordering::Relaxed) == 1;
        if let Some(shut) = self.gate.shut().filter(|_| last) {
            self.metrics.path_emptied(shut, Boottime::now());
        }
    }
}

/// What `checkin` wants of the listener. Only the last orders count.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// End of the lease of the last good check-in; none before the first read of the store (P-5).
    pub lease_end: Option<Boottime>,
    /// How long a good check-in is good for: the lease began so long before its end.
    pub timeout: Duration,
    /// Where clients go; none while the route is closed.
    pub path: Option<Arc<Path>>,
    /// Whether it is closed by a change of the master, so that clients wait for the next one (P-8).
    pub changing: bool,
    /// Take no more clients; those that are connected go on (P-9).
    pub drain: bool,
    /// Close the socket and be done.
    pub stop: bool,
}

/// What has become of the socket for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
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
    pub tally: Arc<Tally>,
    /// Its connections now.
    pub load: Arc<AtomicUsize>,
}

/// All that it takes to turn orders into connections.
#[derive(Debug)]
pub struct Listener {
    orders: watch::Receiver<Orders>,
    standing: watch::Sender<Standing>,
    bound: Option<Bound>,
    door: Door,
    curtain: Curtain,
}

/// The ends that `checkin` holds.
#[derive(Debug)]
pub struct Reins {
    /// Tells the listener what to do; when it is dropped the listener ends.
    pub orders: watch::Sender<Orders>,
    /// What has become of the socket.
    pub standing: watch::Receiver<Standing>,
    /// Clients now, from accept to the end.
    pub clients: Arc<AtomicUsize>,
    /// The address that clients connect to.
    pub address: SocketAddr,
    /// Ends connections.
    pub curtain: Curtain,
}

impl Listener {
    /// A listener that waits for orders; run it on one of `threads`.
    pub fn new(config: Config, bound: Bound, threads: Vec<RelayThread>, metrics: Arc<Metrics>) -> (Self, Reins) {
        let (orders_tx, orders) = watch::channel(Orders::default());
        let (standing, standing_rx) = watch::channel(Standing::Waiting);
        let clients = Arc::new(AtomicUsize::new(0));
        let address = bound.address;
        let curtain = Curtain {
            threads: threads.iter().map(|thread| thread.handle.clone()).collect(),
            metrics: Arc::clone(&metrics),
        };
        let reins = Reins {
            orders: orders_tx,
            standing: standing_rx,
            clients: Arc::clone(&clients),
            address,
            curtain: curtain.clone(),
        };
        // of a new socket, as the one that listens may have been given another already
        let fresh = Socket::new(Domain::for_address(address), Type::STREAM, None).ok();
        let paces = fresh.is_some_and(|fresh| paces(SockRef::from(&fresh)));
        let complaints = Arc::new(Complaints::default());
        let host = |tally| Host {
            tally,
            metrics: Arc::clone(&metrics),
            complaints: Arc::clone(&complaints),
            keepalive: config.keepalive,
            connect_timeout: config.connect_timeout,
            manner: config.manner,
            paces,
            // the socket that listens has been given another, if it is for this machine alone
            paces_clients: paces && !address.ip().to_canonical().is_loopback(),
        };
        let threads = threads
            .into_iter()
            .map(|thread| Thread {
                handle: thread.handle,
                load: thread.load,
                host: Arc::new(host(thread.tally)),
            })
            .collect();
        let door = Door {
            config,
            address,
            metrics,
            threads,
            clients,
            spare: Mutex::new(spare()),
            waiting: Mutex::default(),
            complaints,
        };
        (
            Self {
                orders,
                standing,
                bound: Some(bound),
                door,
                curtain,
            },
            reins,
        )
    }

    /// Obeys orders until told to stop. Errors only when the system gives it no timer.
    #[expect(clippy::disallowed_methods, reason = "the loop is where time enters")]
    pub async fn run(mut self) -> io::Result<()> {
        let alarm = Alarm::new()?;
        let mut listening: Option<AsyncFd<OwnedFd>> = None;
        let mut was_leased = false;
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.stop {
                return Ok(());
            }
            let now = Boottime::now();
            let connections = orders
                .path
                .as_ref()
                .map_or(0, |path| path.clients.load(Ordering::Relaxed));
            let expired = |path: &Arc<Path>| self.curtain.fall_at_lease_end(&path.gate, now);
            if orders.path.as_ref().is_some_and(expired) {
                self.door.metrics.route(false, wall_clock());
            }
            let leased = orders.lease_end.is_some_and(|end| now < end);
            if was_leased && !leased {
                warn!(timeout = ?orders.timeout, connections, "check timeout timer fired");
                if self.door.config.stop_listening && listening.take().is_some() {
                    self.say(Standing::Stopped);
                    info!("Stopping listening");
                    // Bound but deaf, so that nobody else takes the port meanwhile.
                    self.bound = bind(&self.door.config, self.door.address).ok();
                }
            }
            was_leased = leased;
            if orders.drain && listening.take().is_some() {
                self.say(Standing::Stopped);
                info!("Stopping listening");
            }
            let wanted = leased && !orders.drain;
            if wanted && listening.is_none() {
                listening = self.listen();
            }
            let first_held_until = self.door.look_after_held(&orders, now);
            let ends = [
                orders.lease_end.filter(|_| leased),
                orders.path.as_ref().and_then(|path| path.gate.until()),
            ];
            let next_end = ends.into_iter().flatten().min();
            let again = wanted && listening.is_none();
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return Ok(()) },
                rung = alarm.at(next_end.unwrap_or_default()), if next_end.is_some() => rung?,
                () = tokio::time::sleep(LISTEN_AGAIN_AFTER), if again => {}
                () = tokio::time::sleep(first_held_until.unwrap_or(now).since(now)), if first_held_until.is_some() => {}
                () = self.door.accept_some(listening.as_ref(), &orders), if listening.is_some() => {}
            }
        }
    }

    /// Starts to listen, on the socket that is bound already or on a new one.
    fn listen(&mut self) -> Option<AsyncFd<OwnedFd>> {
        let address = self.door.address;
        let bound = self.bound.take().map_or_else(|| bind(&self.door.config, address), Ok);
        let listening = bound.and_then(|bound| {
            bound.socket.listen(BACKLOG)?;
            sys::readable(bound.socket.into())
        });
        match listening {
            Ok(listening) => {
                info!(%address, "Starting proxying");
                self.say(Standing::Listening);
                Some(listening)
            }
            Err(err) => {
                let failed = Standing::Failed(err.to_string());
                if *self.standing.borrow() != failed {
                    error!(%address, error = %err, "could not listen for clients, trying again");
                    self.say(failed);
                }
                None
            }
        }
    }

    fn say(&self, standing: Standing) {
        self.door
            .metrics
            .listening
            .set(if standing == Standing::Listening { 1.0 } else { 0.0 });
        self.standing.send_replace(standing);
    }
}

/// One thread that carries bytes, as seen from the door.
#[derive(Debug)]
struct Thread {
    handle: Handle,
    load: Arc<AtomicUsize>,
    host: Arc<Host>,
}

/// What a client meets first.
#[derive(Debug)]
struct Door {
    config: Config,
    address: SocketAddr,
    metrics: Arc<Metrics>,
    threads: Vec<Thread>,
    clients: Arc<AtomicUsize>,
    /// Given up for a moment when no descriptor is left for a client that is to be closed (P-14).
    spare: Mutex<Option<OwnedFd>>,
    /// Clients that wait for the next master, in the order of their coming (P-8).
    waiting: Mutex<Waiting>,
    complaints: Arc<Complaints>,
}

/// A descriptor that is good for nothing but being closed.
fn spare() -> Option<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).ok()
}

fn accept(listening: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(
        listening,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
    )?)
}

impl Door {
    /// Waits for clients and takes some in. Nothing is lost when it is cancelled.
    async fn accept_some(&self, listening: Option<&AsyncFd<OwnedFd>>, orders: &Orders) {
        let Some(listening) = listening else { return };
        let Ok(mut ready) = listening.readable().await else {
            return;
        };
        for _ in 0..ACCEPTS_AT_ONCE {
            match ready.try_io(accept) {
                Ok(Ok(client)) => self.admit(client, orders),
                Ok(Err(err)) => {
                    if let Some(pause) = self.accept_failed(listening, &err) {
                        return tokio::time::sleep(pause).await;
                    }
                }
                Err(_nobody_waits) => return,
            }
        }
        tokio::task::yield_now().await;
    }

    /// Does what can be done about a failed accept (P-14): the next one follows at once, or after a pause.
    fn accept_failed(&self, listening: &AsyncFd<OwnedFd>, err: &io::Error) -> Option<Duration> {
        match err.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                self.complaints
                    .descriptors
                    .tell(|| warn!(error = %err, "no descriptor for a client, closing it"));
                let mut spare_fd = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
                drop(spare_fd.take());
                let closed = accept(listening).is_ok();
                *spare_fd = spare();
                if closed {
                    self.metrics.accepted.increment(1);
                    self.metrics.refused(Refused::Descriptors);
                }
                (!closed).then_some(ACCEPT_PAUSE)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.complaints
                    .memory
                    .tell(|| warn!(error = %err, "no memory for a client, waiting"));
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
    fn admit(&self, client: OwnedFd, orders: &Orders) {
        self.metrics.accepted.increment(1);
        let now = Boottime::now();
        let path = orders.path.as_ref().filter(|path| path.gate.is_open(now));
        let holds = orders.changing && !self.config.hold.is_zero();
        if path.is_none() && !holds {
            return self.metrics.refused(Refused::RouteClosed);
        }
        let max = self.config.max_connections;
        if self.clients.load(Ordering::Relaxed) >= max {
            self.complaints
                .limit
                .tell(|| warn!(max, "as many clients as --max-connections allows, closing more"));
            return self.metrics.refused(Refused::Limit);
        }
        let counted = Counted::one(&self.clients);
        match path {
            Some(path) => self.send_on(client, counted, path),
            None => self.hold(client, counted, now),
        }
    }

    fn hold(&self, client: OwnedFd, counted: Counted, now: Boottime) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (has_room, dead) = waiting.make_room(self.config.hold_max, now);
        for _ in 0..dead {
            self.metrics.released(Released::Abandoned);
        }
        if !has_room {
            self.metrics.set_held(waiting.clients.len());
            return self.metrics.refused(Refused::HoldFull);
        }
        let until = now + self.config.hold;
        waiting.clients.push_back(Held { client, until, counted });
        self.metrics.set_held(waiting.clients.len());
    }

    /// Sends held clients on when there is a master again, closes them when there will be none or they have waited long
    /// enough. Gives when the first of the others has.
    fn look_after_held(&self, orders: &Orders, now: Boottime) -> Option<Boottime> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.clients.is_empty() {
            return None;
        }
        let path = orders.path.as_ref().filter(|path| path.gate.is_open(now));
        while let Some(held) = waiting.clients.front() {
            let over = held.until <= now;
            if path.is_none() && !over && orders.changing && !orders.drain {
                break;
            }
            let held = waiting.clients.pop_front().expect("it was looked at");
            match path {
                Some(path) if !orders.drain => {
                    self.metrics.released(Released::Carried);
                    self.send_on(held.client, held.counted, path);
                }
                _ if over => self.metrics.released(Released::Expired),
                _ => self.metrics.released(Released::RouteClosed),
            }
        }
        self.metrics.set_held(waiting.clients.len());
        waiting.clients.front().map(|held| held.until)
    }

    fn send_on(&self, client: OwnedFd, counted: Counted, path: &Arc<Path>) {
        let least = self
            .threads
            .iter()
            .min_by_key(|thread| thread.load.load(Ordering::Relaxed));
        let thread = least.expect("a listener is made with one thread at least, see `args`");
        let visit = Visit {
            path: OnPath::enter(path),
            host: Arc::clone(&thread.host),
            _counted: [counted, Counted::one(&thread.load)],
        };
        thread.handle.spawn(visit.serve(client));
    }
}

/// Counts one for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What goes wrong for many clients at once, each kind logged once a second at most.
#[derive(Debug, Default)]
struct Complaints {
    descriptors: Seldom,
    memory: Seldom,
    limit: Seldom,
    master: Seldom,
}

#[derive(Debug, Default)]
struct Seldom(AtomicU64);

impl Seldom {
    #[expect(clippy::disallowed_methods, reason = "logging is paced by the clock")]
    fn tell(&self, complaint: impl FnOnce()) {
        let now = Boottime::now().as_nanos();
        let quiet = LOG_EVERY.as_nanos() as u64;
        let due = |last: u64| (last == 0 || now >= last.saturating_add(quiet)).then_some(now);
        if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            complaint();
        }
    }
}

#[cfg(test)]
mod tests;
