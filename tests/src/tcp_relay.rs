//! A TCP relay of the tests' own between a program and its store: it passes bytes on, or holds, delays, slows or
//! cuts them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use control::clock::Boottime;

use crate::wait::now;

/// What is read at once.
const READ_BYTES: usize = 16 * 1024;
/// So many pieces of one connection and way are kept back at most; then its sender has to wait.
const HELD_READS_MAX: usize = 1024;

/// A way through the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the program sent.
    ToServer,
    /// What the server sent.
    ToClient,
}

/// What happens to the bytes of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkCondition {
    /// They go on at once.
    #[default]
    Normal,
    /// They are kept until the weather changes; nothing is lost.
    Hold,
    /// They go on this much later.
    Delay(Duration),
    /// They go on at this many bytes a second.
    RateLimit(u32),
}

/// A relay to one server. It ends with the value.
#[derive(Debug)]
pub struct TcpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    to_server: DirectionState,
    to_client: DirectionState,
    accepted: AtomicUsize,
    /// Changes when all connections are to be cut; while true, new ones are refused.
    closing: watch::Sender<(u64, bool)>,
}

#[derive(Debug)]
struct DirectionState {
    condition: watch::Sender<NetworkCondition>,
    /// What changes the weather to [`Weather::Hold`] when it comes by.
    hold_trigger: Mutex<Option<Vec<u8>>>,
    received: AtomicU64,
    delivered: AtomicU64,
}

impl DirectionState {
    /// Holds this way from now on when the bytes contain what was waited for; `tail` is the end of what came before.
    fn hold_on_match(&self, tail: &mut Vec<u8>, bytes: &[u8]) {
        let mut tripwire = self.hold_trigger.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(needle) = &*tripwire else { return tail.clear() };
        tail.extend_from_slice(bytes);
        if tail.windows(needle.len()).any(|part| part == needle) {
            self.condition.send_replace(NetworkCondition::Hold);
            *tripwire = None;
            tail.clear();
        } else {
            tail.drain(..tail.len().saturating_sub(needle.len()));
        }
    }
}

impl TcpRelay {
    /// Listens on a free loopback port and connects each client with `server` (`host:port`).
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a listener has an address");
        let way = || DirectionState {
            condition: watch::Sender::new(NetworkCondition::Normal),
            hold_trigger: Mutex::new(None),
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        };
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            to_server: way(),
            to_client: way(),
            accepted: AtomicUsize::new(0),
            closing: watch::Sender::new((0, false)),
        });
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, Arc::clone(&shared))));
        Self {
            address,
            shared,
            _task: task,
        }
    }

    /// Where the program connects to, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The URL of the address, as `--store-endpoints` takes it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets what happens to bytes of one way, from now on and for those that are held.
    pub fn set(&self, toward: Direction, weather: NetworkCondition) {
        self.direction(toward).condition.send_replace(weather);
    }

    /// Holds this way as soon as bytes come by that contain these, which are held already.
    pub fn hold_from(&self, toward: Direction, needle: &[u8]) {
        *self
            .direction(toward)
            .hold_trigger
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(needle.to_vec());
    }

    /// Whether this way is held.
    pub fn is_held(&self, toward: Direction) -> bool {
        *self.direction(toward).condition.borrow() == NetworkCondition::Hold
    }

    /// Sets what happens to bytes of both ways.
    pub fn set_both(&self, weather: NetworkCondition) {
        self.set(Direction::ToServer, weather);
        self.set(Direction::ToClient, weather);
    }

    /// Ends all connections at once; what was held is lost. New ones are served.
    pub fn close_connections(&self) {
        self.shared.closing.send_modify(|(count, _)| *count += 1);
    }

    /// Ends all connections and every new one, until [`Self::restore`].
    pub fn disable(&self) {
        self.shared
            .closing
            .send_modify(|(count, closed)| (*count, *closed) = (*count + 1, true));
    }

    /// Serves new connections again.
    pub fn enable(&self) {
        self.shared.closing.send_modify(|(_, closed)| *closed = false);
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes taken from the sender of this way so far.
    pub fn received(&self, toward: Direction) -> u64 {
        self.direction(toward).received.load(Ordering::Relaxed)
    }

    /// Bytes handed on in this way so far; while they are held this falls behind [`Self::received`].
    pub fn delivered(&self, toward: Direction) -> u64 {
        self.direction(toward).delivered.load(Ordering::Relaxed)
    }

    fn direction(&self, toward: Direction) -> &DirectionState {
        self.shared.direction(toward)
    }
}

impl Shared {
    fn direction(&self, toward: Direction) -> &DirectionState {
        match toward {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        if !shared.closing.borrow().1 {
            connections.spawn(relay_connection(client, Arc::clone(&shared)));
        }
    }
}

async fn relay_connection(client: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.closing.subscribe();
    let Ok(server) = TcpStream::connect(&shared.server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true)); // only slower without
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let at_count = cut.borrow_and_update().0;
    tokio::select! {
        _ = async { tokio::join!(
            forward(from_client, to_server, &shared.to_server),
            forward(from_server, to_client, &shared.to_client),
        ) } => {}
        _ = cut.wait_for(|(count, _)| *count != at_count) => {}
    }
}

/// Carries one way: one half takes bytes and notes when they came, the other hands them on as the weather allows.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: &DirectionState) {
    let (give, mut take) = mpsc::channel::<(Boottime, Vec<u8>)>(HELD_READS_MAX);
    let reading = async move {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            way.received.fetch_add(count as u64, Ordering::Relaxed);
            if give.send((now(), buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        let mut tail = Vec::new();
        while let Some((came, bytes)) = take.recv().await {
            way.hold_on_match(&mut tail, &bytes);
            wait_to_forward(way, came, bytes.len()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            way.delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        // the sender has finished; the other way goes on
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

/// Waits as long as the weather keeps these bytes back.
async fn wait_to_forward(way: &DirectionState, came: Boottime, bytes: usize) {
    let mut weather = way.condition.subscribe();
    loop {
        let pause = match *weather.borrow_and_update() {
            NetworkCondition::Normal => return,
            NetworkCondition::Hold => None,
            NetworkCondition::Delay(delay) => Some((came + delay).since(now())),
            NetworkCondition::RateLimit(rate) => Some(Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)))),
        };
        match pause {
            None => drop(weather.changed().await),
            Some(pause) => tokio::select! {
                () = sleep(pause) => return,
                _ = weather.changed() => {}
            },
        }
    }
}
