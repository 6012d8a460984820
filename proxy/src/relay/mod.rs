//! Bytes between two sockets, and the gate that every one of them passes. It knows nothing of clusters: who is connected
//! to whom, and when the gate closes, is decided elsewhere.
//!
//! A connection is one task that polls both directions, two descriptors, and nothing allocated per direction while it is
//! idle. Bytes are never looked at (P-16). Each direction is moved by one of two paths: `copy` for small messages, `splice`
//! for bulk. A path answers each call with a `Round` and asks the gate between taking and giving. A further engine would do
//! the same.

mod alarm;
mod batch;
mod copy;
mod direction;
mod flow;
mod gate;
mod pipes;
mod round;
mod silence;
mod socket;
mod splice;
pub(crate) mod sys;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::Interest;

pub use self::alarm::Alarm;
use self::direction::{Direction, Road};
pub use self::flow::Paths;
pub use self::gate::{Cut, Gate, Shut};
pub(crate) use self::pipes::PIPES_MAX;
use self::round::Stop;
pub use self::silence::Patience;
use self::socket::Io;
pub use self::socket::Socket;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The program that connected to the proxy.
    Client,
    /// The database server behind it.
    Master,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Master => "master",
        })
    }
}

/// What was being done to a socket when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Taking bytes from it.
    Read,
    /// Giving bytes to it.
    Write,
    /// Passing the end of the other side's stream on to it.
    Finish,
    /// Waiting, with nothing being read from it.
    Wait,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read from",
            Self::Write => "write to",
            Self::Finish => "finish",
            Self::Wait => "wait for",
        })
    }
}

/// A socket that failed; mostly a peer that died or hung up with bytes under way.
#[derive(Debug, thiserror::Error)]
#[error("{act} {side}")]
pub struct RelayError {
    /// Whose socket.
    pub side: Side,
    /// Doing what.
    pub act: Act,
    /// What the socket said.
    #[source]
    pub source: io::Error,
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides finished, the client first.
    ClientLeft,
    /// Both sides finished, the master first.
    MasterLeft,
    /// The gate closed or its lease ended: both were closed, and what was under way was dropped.
    Cut,
    /// One side failed, and the other was told so by a reset (P-11).
    Failed(RelayError),
}

/// What was carried. One a relay thread, on cache lines of its own, so that counting costs nothing.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    /// Bytes given to clients.
    pub to_client: AtomicU64,
    /// Bytes given to masters.
    pub to_master: AtomicU64,
    /// Bytes of both that were spliced; the others were copied.
    pub spliced: AtomicU64,
    /// Times that a direction was to be spliced and could not.
    pub splice_refused: AtomicU64,
    /// Times that a stream was batched.
    pub batches: AtomicU64,
}

/// How connections are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Which paths may be taken.
    pub paths: Paths,
    /// Whether bulk streams are batched.
    pub batching: bool,
    /// How much silence of a peer is borne while bytes wait for it (P-10).
    pub patience: Patience,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            paths: Paths::ByFlow,
            batching: true,
            patience: Patience::default(),
        }
    }
}

/// Carries bytes both ways until both sides have finished, one fails, or the gate closes, and closes both sockets.
///
/// Must run inside a runtime with I/O and time enabled, the one that both sockets are registered with.
pub fn carry<'a>(
    client: Socket,
    master: Socket,
    gate: &'a Gate,
    tally: &'a Tally,
    manner: &'a Manner,
) -> impl Future<Output = Ended> + Send + use<'a> {
    let mut relay = Relay {
        client,
        master,
        gate,
        tally,
        manner,
        pair: Pair {
            to_master: Direction::new(manner.batching),
            to_client: Direction::new(manner.batching),
            first: None,
        },
        registered: None,
        watch: None,
    };
    async move {
        // The box fits into what the alignment of the runtime's allocations leaves unused.
        let mut closed = Box::pin(gate.closed());
        let ended = poll_fn(|cx| relay.poll(cx, closed.as_mut())).await;
        relay.close(&ended);
        ended
    }
}

/// One connection. All that it is while it idles is here, so it is small.
struct Relay<'a> {
    client: Socket,
    master: Socket,
    gate: &'a Gate,
    tally: &'a Tally,
    manner: &'a Manner,
    pair: Pair,
    /// Which waker waits for the gate. Registering takes a lock, so it happens once, not at every wake.
    registered: Option<Waker>,
    watch: Option<Pin<Box<dyn Future<Output = RelayError> + Send>>>,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, closed: Pin<&mut impl Future<Output = ()>>) -> Poll<Ended> {
        let known = self.registered.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            if closed.poll(cx).is_ready() {
                return Poll::Ready(Ended::Cut);
            }
            self.registered = Some(cx.waker().clone());
        }
        if self.gate.is_closed() {
            return Poll::Ready(Ended::Cut);
        }
        let (client, master, pair) = (&self.client, &self.master, &mut self.pair);
        let road = |from, to, toward, is_last| Road {
            from,
            to,
            toward,
            is_last,
            gate: self.gate,
            tally: self.tally,
            paths: self.manner.paths,
        };
        match pair
            .to_master
            .advance(cx, &road(client, master, Side::Master, pair.to_client.is_done()))
        {
            Ok(true) => pair.to_client.sink_heard(master),
            Ok(false) => {}
            Err(stop) => return Poll::Ready(ended_by(stop, Side::Client, Side::Master)),
        }
        pair.note(Side::Client);
        match pair
            .to_client
            .advance(cx, &road(master, client, Side::Client, pair.to_master.is_done()))
        {
            Ok(true) => pair.to_master.sink_heard(client),
            Ok(false) => {}
            Err(stop) => return Poll::Ready(ended_by(stop, Side::Master, Side::Client)),
        }
        pair.note(Side::Master);
        pair.to_master.tick(cx, client);
        pair.to_client.tick(cx, master);
        if pair.to_master.is_done() && pair.to_client.is_done() {
            return Poll::Ready(match pair.first {
                Some(Side::Master) => Ended::MasterLeft,
                _ => Ended::ClientLeft,
            });
        }
        if let Err(err) = self.widen(cx) {
            return Poll::Ready(Ended::Failed(err));
        }
        if self.pair.to_master.is_deaf() || self.pair.to_client.is_deaf() {
            let new = || -> Pin<Box<dyn Future<Output = _> + Send>> {
                Box::pin(death(self.client.share(), self.master.share(), self.manner.patience))
            };
            return self.watch.get_or_insert_with(new).as_mut().poll(cx).map(Ended::Failed);
        }
        self.watch = None;
        Poll::Pending
    }

    /// Has a socket that is full tell when it has room.
    fn widen(&mut self, cx: &mut Context<'_>) -> Result<(), RelayError> {
        for (direction, side, sink) in [
            (&self.pair.to_master, Side::Master, &mut self.master),
            (&self.pair.to_client, Side::Client, &mut self.client),
        ] {
            if direction.is_stalled() && !sink.is_wide() {
                self.watch = None; // it shares the sockets
                let act = Act::Wait;
                sink.widen().map_err(|source| RelayError { side, act, source })?;
                cx.waker().wake_by_ref(); // no waker is with the socket
            }
        }
        Ok(())
    }

    /// Closes both sockets, which also passes the last end on, so nothing else may hold them.
    fn close(self, ended: &Ended) {
        drop(self.watch);
        if let Ended::Failed(error) = ended {
            let (direction, from, to, carried) = match error.side {
                Side::Master => (&self.pair.to_client, &self.master, &self.client, &self.tally.to_client),
                Side::Client => (&self.pair.to_master, &self.client, &self.master, &self.tally.to_master),
            };
            if from.is_open() && to.is_open() && !direction.is_stalled() && !direction.is_done() {
                let given = copy::last_words(from, to, self.gate);
                carried.fetch_add(given as u64, Ordering::Relaxed);
            }
            // A crash must not look like an orderly end, so the other side gets a reset, whatever it still had under
            // way.
            self.master.end_by_reset();
            self.client.end_by_reset();
        }
        drop(self.master); // before the client, which may connect again at once
        drop(self.client);
    }
}

/// The two directions of one connection.
#[derive(Debug)]
struct Pair {
    to_master: Direction,
    to_client: Direction,
    /// Whose stream ended first.
    first: Option<Side>,
}

impl Pair {
    /// Remembers whose end is the first, told right after the direction that brought it was advanced.
    fn note(&mut self, source: Side) {
        if self.first.is_none() && (self.to_master.is_done() || self.to_client.is_done()) {
            self.first = Some(source);
        }
    }
}

fn ended_by(stop: Stop, from: Side, to: Side) -> Ended {
    match stop {
        Stop::Cut => Ended::Cut,
        Stop::Source(act, source) => Ended::Failed(RelayError {
            side: from,
            act,
            source,
        }),
        Stop::Sink(act, source) => Ended::Failed(RelayError { side: to, act, source }),
    }
}

/// Waits until one of the sockets reports an error, which it does whether anything is read from it or not (P-13), or its
/// peer has fallen silent (P-10).
async fn death(client: Arc<Io>, master: Arc<Io>, patience: Patience) -> RelayError {
    let act = Act::Wait;
    let (side, socket, woken) = tokio::select! {
        woken = client.fd.ready(Interest::ERROR) => (Side::Client, &client, woken.map(drop)),
        woken = master.fd.ready(Interest::ERROR) => (Side::Master, &master, woken.map(drop)),
        side = silence::of_either(&client, &master, patience) => {
            let source = io::ErrorKind::TimedOut.into();
            return RelayError { side, act, source };
        }
    };
    let told = woken
        .and_then(|()| SockRef::from(socket.fd.get_ref()).take_error())
        .unwrap_or_else(Some);
    let source = told.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    RelayError { side, act, source }
}

#[cfg(test)]
mod tests;
