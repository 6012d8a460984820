//! The engine on epoll, by way of the runtime: a connection is one task that polls both directions, two descriptors,
//! and no allocation per direction while it is idle. Bytes are never inspected (proxy P-16).
//!
//! Two methods move them: `copy` for small messages, `splice` for bulk. Each call returns a `Transfer`; a method checks
//! the gate between reading and writing. When the gate closes is decided elsewhere.

mod batching;
mod copy;
mod direction;
mod method;
mod peer_timeout;
mod pipes;
mod socket;
mod splice;
mod transfer;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::Interest;

use self::direction::{Direction, Endpoints};
pub use self::method::MethodPolicy;
pub use self::peer_timeout::PeerTimeout;
pub(crate) use self::pipes::PIPES_MAX;
use self::socket::SharedFd;
pub use self::socket::Socket;
use self::transfer::TransferError;
use crate::relay::counters::ByteCounters;
use crate::relay::gate::Gate;
use crate::relay::outcome::{RelayEnd, RelayError, Side, SocketOperation};

/// Configuration of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayConfig {
    /// Which methods may be used.
    pub methods: MethodPolicy,
    /// Whether the wake-ups of bulk streams are batched.
    pub batching: bool,
    /// When a silent peer is given up while bytes wait for it (proxy P-10).
    pub peer_timeout: PeerTimeout,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            methods: MethodPolicy::Adaptive,
            batching: true,
            peer_timeout: PeerTimeout::default(),
        }
    }
}

/// Forwards bytes in both directions until both sides have finished, one fails, or the gate closes. Then closes both
/// sockets.
///
/// Must run in the runtime that both sockets are registered with, with I/O and time enabled.
pub fn forward<'a>(
    client: Socket,
    server: Socket,
    gate: &'a Gate,
    counters: &'a ByteCounters,
    config: &'a RelayConfig,
) -> impl Future<Output = RelayEnd> + Send + use<'a> {
    let mut relay = Relay {
        client,
        server,
        gate,
        counters,
        config,
        directions: Directions {
            to_server: Direction::new(config.batching),
            to_client: Direction::new(config.batching),
            first_finished: None,
        },
        gate_waker: None,
        error_watch: None,
    };
    async move {
        // The box costs nothing: it fits into the padding of the runtime's allocation.
        let mut closed = Box::pin(gate.closed());
        let end = poll_fn(|cx| relay.poll(cx, closed.as_mut())).await;
        relay.close(&end);
        end
    }
}

/// One connection. Everything that an idle connection needs is in here, so it is small.
struct Relay<'a> {
    client: Socket,
    server: Socket,
    gate: &'a Gate,
    counters: &'a ByteCounters,
    config: &'a RelayConfig,
    directions: Directions,
    /// The waker that is registered with the gate. Registering takes a lock, so it is done once and not at every
    /// wake-up.
    gate_waker: Option<Waker>,
    error_watch: Option<Pin<Box<dyn Future<Output = RelayError> + Send>>>,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, closed: Pin<&mut impl Future<Output = ()>>) -> Poll<RelayEnd> {
        let registered = self.gate_waker.as_ref();
        if !registered.is_some_and(|waker| waker.will_wake(cx.waker())) {
            if closed.poll(cx).is_ready() {
                return Poll::Ready(RelayEnd::GateClosed);
            }
            self.gate_waker = Some(cx.waker().clone());
        }
        if self.gate.is_closed() {
            return Poll::Ready(RelayEnd::GateClosed);
        }
        let (client, server, directions) = (&self.client, &self.server, &mut self.directions);
        let endpoints = |source, sink, sink_side, is_last| Endpoints {
            source,
            sink,
            sink_side,
            is_last,
            gate: self.gate,
            counters: self.counters,
            methods: self.config.methods,
        };
        match directions.to_server.advance(
            cx,
            &endpoints(client, server, Side::Server, directions.to_client.is_done()),
        ) {
            Ok(true) => directions.to_client.note_reverse_data(server),
            Ok(false) => {}
            Err(error) => return Poll::Ready(relay_end(error, Side::Client, Side::Server)),
        }
        directions.note_finished(Side::Client);
        match directions.to_client.advance(
            cx,
            &endpoints(server, client, Side::Client, directions.to_server.is_done()),
        ) {
            Ok(true) => directions.to_server.note_reverse_data(client),
            Ok(false) => {}
            Err(error) => return Poll::Ready(relay_end(error, Side::Server, Side::Client)),
        }
        directions.note_finished(Side::Server);
        directions.to_server.tick(cx, client);
        directions.to_client.tick(cx, server);
        if directions.to_server.is_done() && directions.to_client.is_done() {
            return Poll::Ready(match directions.first_finished {
                Some(Side::Server) => RelayEnd::ServerFinished,
                _ => RelayEnd::ClientFinished,
            });
        }
        if let Err(err) = self.watch_writable(cx) {
            return Poll::Ready(RelayEnd::Failed(err));
        }
        if self.directions.to_server.not_reading() || self.directions.to_client.not_reading() {
            let new = || -> Pin<Box<dyn Future<Output = _> + Send>> {
                Box::pin(wait_for_error(
                    self.client.share(),
                    self.server.share(),
                    self.config.peer_timeout,
                ))
            };
            return self
                .error_watch
                .get_or_insert_with(new)
                .as_mut()
                .poll(cx)
                .map(RelayEnd::Failed);
        }
        self.error_watch = None;
        Poll::Pending
    }

    /// Makes sure that a socket whose send buffer is full wakes this task when it is writable.
    fn watch_writable(&mut self, cx: &mut Context<'_>) -> Result<(), RelayError> {
        for (direction, side, sink) in [
            (&self.directions.to_server, Side::Server, &mut self.server),
            (&self.directions.to_client, Side::Client, &mut self.client),
        ] {
            if direction.is_stalled() && !sink.watches_writable() {
                self.error_watch = None; // it has handles of the sockets
                let operation = SocketOperation::Wait;
                sink.watch_writable().map_err(|source| RelayError {
                    side,
                    operation,
                    source,
                })?;
                cx.waker().wake_by_ref(); // the new registration has no waker yet
            }
        }
        Ok(())
    }

    /// Closes both sockets. Closing also ends the stream of the last direction, so there must be no other handle.
    fn close(self, end: &RelayEnd) {
        drop(self.error_watch);
        if let RelayEnd::Failed(error) = end {
            let (direction, source, sink, counter) = match error.side {
                Side::Server => (
                    &self.directions.to_client,
                    &self.server,
                    &self.client,
                    &self.counters.to_client,
                ),
                Side::Client => (
                    &self.directions.to_server,
                    &self.client,
                    &self.server,
                    &self.counters.to_server,
                ),
            };
            if source.is_open() && sink.is_open() && !direction.is_stalled() && !direction.is_done() {
                let written = copy::drain_after_error(source, sink, self.gate);
                counter.fetch_add(written as u64, Ordering::Relaxed);
            }
            // A crash must not look like an orderly end (proxy P-11), so both sides get a reset, even with bytes in
            // transit.
            self.server.reset_on_close();
            self.client.reset_on_close();
        }
        drop(self.server); // first the server: the client may reconnect at once
        drop(self.client);
    }
}

/// The two directions of one connection.
#[derive(Debug)]
struct Directions {
    to_server: Direction,
    to_client: Direction,
    /// The side whose stream ended first.
    first_finished: Option<Side>,
}

impl Directions {
    /// Records which side finished first. To be called right after the direction of this source was advanced.
    fn note_finished(&mut self, source: Side) {
        if self.first_finished.is_none() && (self.to_server.is_done() || self.to_client.is_done()) {
            self.first_finished = Some(source);
        }
    }
}

fn relay_end(error: TransferError, source_side: Side, sink_side: Side) -> RelayEnd {
    let (side, operation, source) = match error {
        TransferError::GateClosed => return RelayEnd::GateClosed,
        TransferError::Source(operation, source) => (source_side, operation, source),
        TransferError::Sink(operation, source) => (sink_side, operation, source),
    };
    RelayEnd::Failed(RelayError {
        side,
        operation,
        source,
    })
}

/// Waits until one of the sockets reports an error, which it does even if nothing is read from it (proxy P-13), or
/// until its peer has timed out (proxy P-10).
async fn wait_for_error(client: Arc<SharedFd>, server: Arc<SharedFd>, peer_timeout: PeerTimeout) -> RelayError {
    let operation = SocketOperation::Wait;
    let (side, socket, readiness) = tokio::select! {
        readiness = client.fd.ready(Interest::ERROR) => (Side::Client, &client, readiness.map(drop)),
        readiness = server.fd.ready(Interest::ERROR) => (Side::Server, &server, readiness.map(drop)),
        side = peer_timeout::wait_for_either(&client, &server, peer_timeout) => {
            let source = io::ErrorKind::TimedOut.into();
            return RelayError { side, operation, source };
        }
    };
    let socket_error = readiness
        .and_then(|()| SockRef::from(socket.fd.get_ref()).take_error())
        .unwrap_or_else(Some);
    let source = socket_error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    RelayError {
        side,
        operation,
        source,
    }
}

#[cfg(test)]
mod tests;
