//! A TCP relay between a program and its store, which forwards bytes, or holds, delays or slows them, or closes the
//! connections.

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

use base::clock::Boottime;

use crate::wait::now;

/// Bytes per read.
const READ_BYTES: usize = 16 * 1024;
/// How many reads of one direction of a connection are held at most; then its sender has to wait.
const HELD_READS_MAX: usize = 1024;

/// A direction through the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the program to the server.
    ToServer,
    /// From the server to the program.
    ToClient,
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkCondition {
    /// They are forwarded at once.
    #[default]
    Normal,
    /// They are held until the condition changes; nothing is lost.
    Hold,
    /// They are forwarded this much later.
    Delay(Duration),
    /// They are forwarded at this many bytes per second.
    RateLimit(u32),
}

/// A relay to one server. It stops when this is dropped.
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
    /// A count that changes when all connections are to be closed, and whether new ones are refused.
    closing: watch::Sender<(u64, bool)>,
}

#[derive(Debug)]
struct DirectionState {
    condition: watch::Sender<NetworkCondition>,
    /// Bytes that set the condition to [`NetworkCondition::Hold`] when they are to be forwarded.
    hold_trigger: Mutex<Option<Vec<u8>>>,
    received: AtomicU64,
    delivered: AtomicU64,
}

impl DirectionState {
    /// Sets this direction to hold when the bytes contain the trigger; `tail` is the end of the bytes before them.
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
    /// It cannot listen.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a listener has an address");
        let direction = || DirectionState {
            condition: watch::Sender::new(NetworkCondition::Normal),
            hold_trigger: Mutex::new(None),
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        };
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            to_server: direction(),
            to_client: direction(),
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

    /// Returns the address that the program connects to, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns the URL of the address, for `--store-endpoints`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the condition of one direction, also for bytes that are held.
    pub fn set(&self, direction: Direction, condition: NetworkCondition) {
        self.direction(direction).condition.send_replace(condition);
    }

    /// Holds this direction from the first read that contains these bytes; that read is held, too.
    pub fn hold_from(&self, direction: Direction, needle: &[u8]) {
        *self
            .direction(direction)
            .hold_trigger
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(needle.to_vec());
    }

    /// Returns whether this direction is held.
    pub fn is_held(&self, direction: Direction) -> bool {
        *self.direction(direction).condition.borrow() == NetworkCondition::Hold
    }

    /// Sets the condition of both directions.
    pub fn set_both(&self, condition: NetworkCondition) {
        self.set(Direction::ToServer, condition);
        self.set(Direction::ToClient, condition);
    }

    /// Closes all connections at once; what was held is lost. New ones are served.
    pub fn close_connections(&self) {
        self.shared.closing.send_modify(|(count, _)| *count += 1);
    }

    /// Closes all connections and every new one, until [`Self::enable`].
    pub fn disable(&self) {
        self.shared
            .closing
            .send_modify(|(count, closed)| (*count, *closed) = (*count + 1, true));
    }

    /// Serves new connections again.
    pub fn enable(&self) {
        self.shared.closing.send_modify(|(_, closed)| *closed = false);
    }

    /// Returns how many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were read from the sender of this direction so far.
    pub fn received(&self, direction: Direction) -> u64 {
        self.direction(direction).received.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were written to the receiver of this direction so far, fewer than [`Self::received`]
    /// while some are held.
    pub fn delivered(&self, direction: Direction) -> u64 {
        self.direction(direction).delivered.load(Ordering::Relaxed)
    }

    fn direction(&self, direction: Direction) -> &DirectionState {
        self.shared.direction(direction)
    }
}

impl Shared {
    fn direction(&self, direction: Direction) -> &DirectionState {
        match direction {
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
    let mut closing = shared.closing.subscribe();
    let Ok(server) = TcpStream::connect(&shared.server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true)); // only slower without
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let at_count = closing.borrow_and_update().0;
    tokio::select! {
        _ = async { tokio::join!(
            forward(from_client, to_server, &shared.to_server),
            forward(from_server, to_client, &shared.to_client),
        ) } => {}
        _ = closing.wait_for(|(count, _)| *count != at_count) => {}
    }
}

/// Forwards one direction: one half reads bytes with the time of the read, the other writes them when the condition
/// allows.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: &DirectionState) {
    let (sender, mut receiver) = mpsc::channel::<(Boottime, Vec<u8>)>(HELD_READS_MAX);
    let reading = async move {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            direction.received.fetch_add(count as u64, Ordering::Relaxed);
            if sender.send((now(), buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        let mut tail = Vec::new();
        while let Some((received_at, bytes)) = receiver.recv().await {
            direction.hold_on_match(&mut tail, &bytes);
            wait_to_forward(direction, received_at, bytes.len()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            direction.delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        // The sender has finished; the other direction continues.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

/// Waits until the condition allows these bytes to be forwarded.
async fn wait_to_forward(direction: &DirectionState, received_at: Boottime, bytes: usize) {
    let mut condition = direction.condition.subscribe();
    loop {
        let pause = match *condition.borrow_and_update() {
            NetworkCondition::Normal => return,
            NetworkCondition::Hold => None,
            NetworkCondition::Delay(delay) => Some((received_at + delay).since(now())),
            NetworkCondition::RateLimit(rate) => Some(Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)))),
        };
        match pause {
            None => drop(condition.changed().await),
            Some(pause) => tokio::select! {
                () = sleep(pause) => return,
                _ = condition.changed() => {}
            },
        }
    }
}
