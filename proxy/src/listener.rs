//! The socket for clients: accept, admit, connect to the master, hand over to a relay. Where clients may go is told by
//! `checkin` and obeyed here; that leases end is seen here, whatever hangs there (fencing F-4).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::telemetry::Chain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::metrics::{Metrics, Refused};
use crate::relay::{self, Alarm, Cut, Ended, Gate, Manner, Tally, sys};

/// Connections that the kernel holds for us before it refuses more; it takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;
/// Accepts in a row before the relay of this thread gets its turn.
const ACCEPTS_AT_ONCE: usize = 32;
/// The pause after an accept for which the kernel had no memory, or no descriptor even with the spare one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often held clients are looked through for dead ones, when there are as many as may be.
const LOOK_FOR_DEAD_EVERY: Duration = Duration::from_millis(100);
/// How often to try to listen again when the address was taken meanwhile.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What happens to many clients at once is logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// `TCP_USER_TIMEOUT` toward clients (P-10): a peer that is gone without a word while bytes wait for it is given up.
///
/// tcp(7): it also ends a connection whose peer answers but has not made room for that long, and a client may well stop
/// reading for minutes (`COPY … TO STDOUT | less`). So it is as long as the kernel's own patience with a silent peer,
/// `net.ipv4.tcp_retries2`, which does not bound the other case at all.
const CLIENT_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The same toward masters, which have no reason to stop reading for minutes.
const MASTER_PATIENCE: Duration = Duration::from_secs(2 * 60);

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

/// The options of TCP keepalive, which itself is always on; `None` leaves the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Pause between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is given up.
    pub count: Option<u32>,
}

/// Where admitted clients go, and the gate that their bytes pass. Each connection holds one.
#[derive(Debug, Clone)]
pub struct Path {
    /// The master's address.
    pub master: SocketAddr,
    /// Closes when the route does.
    pub gate: Arc<Gate>,
    _last: Arc<LastOut>,
}

impl Path {
    /// A path that measures how long its connections took to end, once its gate has closed.
    pub fn new(master: SocketAddr, gate: Arc<Gate>, metrics: Arc<Metrics>) -> Self {
        let last = Arc::new(LastOut {
            gate: Arc::clone(&gate),
            metrics,
        });
        Self {
            master,
            gate,
            _last: last,
        }
    }
}

/// Measures, when the last connection of a path is gone, the time since its gate closed.
#[derive(Debug)]
struct LastOut {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
}

impl Drop for LastOut {
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn drop(&mut self) {
        if let Some(shut) = self.gate.shut() {
            self.metrics
                .drop_seconds
                .set(Boottime::now().since(shut.at).as_secs_f64());
        }
    }
}

/// What `checkin` wants of the listener. Only the last orders count.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// End of the lease of the last good check-in; none before the first read of the store (P-5).
    pub lease_end: Option<Boottime>,
    /// Where clients go; none while the route is closed.
    pub path: Option<Path>,
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

/// A socket bound for clients; it takes none before it listens.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    /// The address with the port that was taken.
    pub address: SocketAddr,
}

/// Binds the address for clients, so that a port in use is known at start although listening begins later.
pub fn bind(config: &Config, address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // A kernel without IPv4 in IPv6 sockets serves IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    // Accepted sockets inherit all of this (P-10).
    set_options(SockRef::from(&socket), config.keepalive, CLIENT_PATIENCE)?;
    if paces(SockRef::from(&socket)) {
        calm(SockRef::from(&socket), address.ip());
    }
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound { socket, address })
}

/// Whether the system's congestion control paces what it sends, as `bbr` does, which halves what loopback carries.
fn paces(socket: SockRef<'_>) -> bool {
    let name = socket.tcp_congestion().unwrap_or_default();
    !matches!(
        name.split(|byte| *byte == 0).next(),
        Some(b"reno" | b"cubic" | b"") | None
    )
}

/// Gives a socket whose peer is on this machine a congestion control that does not pace.
fn calm(socket: SockRef<'_>, peer: IpAddr) {
    if peer.to_canonical().is_loopback() {
        // Not everybody may choose any (tcp(7), `tcp_allowed_congestion_control`); it is only about speed.
        let _ = socket.set_tcp_congestion(b"reno");
    }
}

fn set_options(socket: SockRef<'_>, keepalive: Keepalive, patience: Duration) -> io::Result<()> {
    let mut options = TcpKeepalive::new();
    options = keepalive.idle.map_or(options.clone(), |idle| options.with_time(idle));
    options = keepalive
        .interval
        .map_or(options.clone(), |interval| options.with_interval(interval));
    options = keepalive
        .count
        .map_or(options.clone(), |count| options.with_retries(count));
    if keepalive == Keepalive::default() {
        socket.set_keepalive(true)?;
    } else {
        socket.set_tcp_keepalive(&options)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(patience))
}

/// Whether an address belongs to this machine: the kernel would then send from it to itself. Sends nothing.
pub fn is_here(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() {
        [0_u8; 4].into()
    } else {
        [0_u8; 16].into()
    };
    let source = || -> io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ip.is_loopback() || ip.is_unspecified() || source().is_ok_and(|source| source == ip)
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

/// Ends all connections to a master. First nothing is forwarded any more, anywhere; then every connection is told.
///
/// That is a walk in chunks: the tasks are woken some tens at a time, and a relay thread runs some tens between two
/// looks at its sockets, so that other clients do not wait for thousands of ends. Each closes the master's side first:
/// a session of the old master is gone before its client can come back.
#[derive(Debug, Clone)]
pub struct Curtain {
    threads: Arc<[Handle]>,
    metrics: Arc<Metrics>,
}

impl Curtain {
    /// Closes the gate.
    pub fn fall(&self, gate: &Arc<Gate>, why: Cut, now: Boottime) {
        gate.close_and(why, now, || self.time_the_stop(gate));
    }

    /// Closes the gate if its lease has ended, and gives whether that was so.
    fn fall_at_lease_end(&self, gate: &Arc<Gate>, now: Boottime) -> bool {
        gate.expire_and(now, || self.time_the_stop(gate))
    }

    /// A relay thread that comes to run something else is not in the middle of a forward, and the next one finds the
    /// gate closed.
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn time_the_stop(&self, gate: &Arc<Gate>) {
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
        let door = Door {
            paces: fresh.is_some_and(|fresh| paces(SockRef::from(&fresh))),
            config,
            address,
            metrics,
            threads,
            clients,
            spare: Mutex::new(spare()),
            waiting: Mutex::default(),
            complaints: Arc::default(),
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
            let expired = |path: &Path| self.curtain.fall_at_lease_end(&path.gate, now);
            if orders.path.as_ref().is_some_and(expired) {
                self.door.metrics.route(false, wall_clock());
            }
            let leased = orders.lease_end.is_some_and(|end| now < end);
            if was_leased && !leased {
                warn!("check timeout timer fired");
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
                debug!(%address, "listening for clients");
                info!("Starting proxying");
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

/// What a client meets first.
#[derive(Debug)]
struct Door {
    config: Config,
    /// Whether peers on this machine need another congestion control than the system's.
    paces: bool,
    address: SocketAddr,
    metrics: Arc<Metrics>,
    threads: Vec<RelayThread>,
    clients: Arc<AtomicUsize>,
    /// Given up for a moment when no descriptor is left for a client that is to be closed (P-14).
    spare: Mutex<Option<OwnedFd>>,
    /// Clients that wait for the next master, in the order of their coming (P-8).
    waiting: Mutex<Waiting>,
    complaints: Arc<Complaints>,
}

#[derive(Debug, Default)]
struct Waiting {
    clients: VecDeque<Held>,
    looked_for_dead: Boottime,
}

/// A client that waits for the next master: its socket, of which nothing is read.
#[derive(Debug)]
struct Held {
    client: OwnedFd,
    until: Boottime,
    counted: Counted,
}

impl Waiting {
    /// Forgets clients that are gone.
    fn drop_dead(&mut self) {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled: Vec<_> = self
            .clients
            .iter()
            .map(|held| PollFd::new(&held.client, PollFlags::RDHUP))
            .collect();
        let zero = rustix::event::Timespec::default();
        if poll(&mut polled, Some(&zero)).is_err() {
            return; // no memory for it: all of them stay
        }
        let mut dead = polled
            .iter()
            .map(|fd| fd.revents().intersects(gone))
            .collect::<Vec<_>>()
            .into_iter();
        self.clients.retain(|_| !dead.next().unwrap_or(false));
    }
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
        if waiting.clients.len() >= self.config.hold_max && now.since(waiting.looked_for_dead) >= LOOK_FOR_DEAD_EVERY {
            waiting.looked_for_dead = now;
            waiting.drop_dead();
        }
        if waiting.clients.len() >= self.config.hold_max {
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
                    self.metrics.holds_carried.increment(1);
                    self.send_on(held.client, held.counted, path);
                }
                _ if over => self.metrics.refused(Refused::HoldExpired),
                _ => self.metrics.refused(Refused::RouteClosed),
            }
        }
        self.metrics.set_held(waiting.clients.len());
        waiting.clients.front().map(|held| held.until)
    }

    fn send_on(&self, client: OwnedFd, counted: Counted, path: &Path) {
        let least = self
            .threads
            .iter()
            .min_by_key(|thread| thread.load.load(Ordering::Relaxed));
        let thread = least.expect("a listener is made with one thread at least, see `args`");
        let visit = Visit {
            path: path.clone(),
            tally: Arc::clone(&thread.tally),
            metrics: Arc::clone(&self.metrics),
            complaints: Arc::clone(&self.complaints),
            keepalive: self.config.keepalive,
            connect_timeout: self.config.connect_timeout,
            manner: self.config.manner,
            paces: self.paces,
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

/// One admitted client, until it is gone.
struct Visit {
    path: Path,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
    complaints: Arc<Complaints>,
    keepalive: Keepalive,
    connect_timeout: Duration,
    manner: Manner,
    paces: bool,
    _counted: [Counted; 2],
}

impl Visit {
    async fn serve(self, client: OwnedFd) {
        let client = match TcpStream::from_std(client.into()) {
            Ok(client) => client,
            Err(err) => return self.turn_away(Refused::Descriptors, &err),
        };
        if self.paces
            && let Ok(peer) = client.peer_addr()
        {
            calm(SockRef::from(&client), peer.ip());
        }
        // Connecting takes more room than carrying: the box keeps that out of a connection's lifelong memory.
        let (master, took) = match Box::pin(self.connect(&client)).await {
            Ok(connected) => connected,
            Err((reason, err)) => return self.turn_away(reason, &err),
        };
        let open = self.metrics.opened(took);
        let ended = relay::carry(client, master, &self.path.gate, &self.tally, self.manner).await;
        drop(open);
        let cut = self.path.gate.shut().map(|shut| shut.why);
        self.metrics.ended(&ended, cut);
        match ended {
            Ended::Failed(err) => debug!(error = %Chain(&err), "connection failed"),
            ended => debug!(?ended, ?cut, "connection ended"),
        }
    }

    /// Connects to the master within the limit (P-12), unless the client dies or the route closes meanwhile.
    #[expect(
        clippy::disallowed_methods,
        reason = "a measurement, and the lease is looked at again after the connect"
    )]
    async fn connect(&self, client: &TcpStream) -> Result<(TcpStream, Duration), (Refused, io::Error)> {
        let (master, gate) = (self.path.master, &self.path.gate);
        let socket = if master.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.map_err(|err| (Refused::Descriptors, err))?;
        let refused = |err| (Refused::Master, err);
        set_options(SockRef::from(&socket), self.keepalive, MASTER_PATIENCE).map_err(refused)?;
        if self.paces {
            calm(SockRef::from(&socket), master.ip());
        }
        let start = Boottime::now();
        let connected = tokio::select! {
            connected = tokio::time::timeout(self.connect_timeout, socket.connect(master)) => connected,
            () = gate.closed() => return Err((Refused::Abandoned, io::Error::other("the route closed"))),
            _ = client.ready(Interest::ERROR) => return Err((Refused::Abandoned, io::Error::other("the client left"))),
        };
        let limit = |_| (Refused::Timeout, io::Error::from(io::ErrorKind::TimedOut));
        let connected = connected.map_err(limit)?.map_err(refused)?;
        // On loopback a connect to a free port may meet itself.
        if connected.local_addr().is_ok_and(|own| own == master) {
            return Err(refused(io::Error::other("connected to itself")));
        }
        let now = Boottime::now();
        if !gate.is_open(now) {
            return Err((Refused::Abandoned, io::Error::other("the route closed")));
        }
        Ok((connected, now.since(start)))
    }

    fn turn_away(&self, reason: Refused, err: &io::Error) {
        self.metrics.refused(reason);
        let master = self.path.master;
        if reason == Refused::Abandoned {
            debug!(%master, error = %err, "client is gone before it was connected");
        } else {
            self.complaints
                .master
                .tell(|| warn!(%master, error = %err, "could not connect a client to the master"));
        }
    }
}

#[cfg(test)]
mod tests;
