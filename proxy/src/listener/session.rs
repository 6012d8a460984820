//! The session of one admitted client: connects it to the server, relays, and records how it ended. Whether a client is
//! admitted is decided before.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use socket2::{Domain, Protocol, SockRef, Type};
use tracing::{debug, warn};

use super::socket::{Keepalive, disable_pacing, set_options};
use super::{BackendGuard, ConnectionCount, LogLimits};
use crate::metrics::{Metrics, RefusalReason};
use crate::relay::epoll::sys;
use crate::relay::{self, ByteCounters, RelayConfig, RelayEnd, Socket};

/// What all sessions of a relay thread share.
#[derive(Debug)]
pub(super) struct ConnContext {
    pub(super) counters: Arc<ByteCounters>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log_limits: Arc<LogLimits>,
    pub(super) keepalive: Keepalive,
    pub(super) connect_timeout: Duration,
    pub(super) relay: RelayConfig,
    /// Whether the system's congestion control paces, so that a server on this machine needs another one.
    pub(super) server_pacing: bool,
    /// The same for clients, whose sockets inherit it.
    pub(super) client_pacing: bool,
}

/// One admitted client. It exists as long as the connection, so it is small.
pub(super) struct ClientSession {
    pub(super) backend: BackendGuard,
    pub(super) context: Arc<ConnContext>,
    pub(super) _counts: [ConnectionCount; 2],
}

impl ClientSession {
    pub(super) async fn run(self, client: OwnedFd) {
        // The future of the connect is larger than that of the relay. Boxed, it is freed before relaying begins.
        let (client, server, took) = match Box::pin(self.prepare(client)).await {
            Ok(arrived) => arrived,
            Err((reason, err)) => return self.reject(reason, &err),
        };
        let open = self.context.metrics.connections.opened(took);
        let ended = relay::forward(
            client,
            server,
            &self.backend.gate,
            &self.context.counters,
            &self.context.relay,
        )
        .await;
        drop(open);
        let cut = self.backend.gate.close_event().map(|shut| shut.reason);
        self.context.metrics.connections.count_ended(&ended, cut);
        match ended {
            RelayEnd::Failed(err) => debug!(error = %Chain(&err), "connection failed"),
            ended => debug!(?ended, ?cut, "connection ended"),
        }
    }

    /// Returns both sockets, and how long the server took to accept.
    async fn prepare(&self, client: OwnedFd) -> Result<(Socket, Socket, Duration), (RefusalReason, io::Error)> {
        if self.context.client_pacing
            && let Ok(peer) = SockRef::from(&client).peer_addr()
            && let Some(peer) = peer.as_socket()
        {
            disable_pacing(SockRef::from(&client), peer.ip());
        }
        let client = Socket::new(client).map_err(|err| (RefusalReason::Descriptors, err))?;
        let (server, took) = self.connect(&client).await?;
        Ok((client, server, took))
    }

    /// Connects to the server within the timeout (proxy P-12). Aborts if the client fails or the route closes
    /// meanwhile.
    #[expect(
        clippy::disallowed_methods,
        reason = "a measurement, and the lease is checked again after the connect"
    )]
    pub(super) async fn connect(&self, client: &Socket) -> Result<(Socket, Duration), (RefusalReason, io::Error)> {
        let (address, gate) = (self.backend.address, &self.backend.gate);
        let kind = Type::STREAM.nonblocking();
        let server = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
            .map_err(|err| (RefusalReason::Descriptors, err))?;
        let refused = |err| (RefusalReason::Master, err);
        set_options(SockRef::from(&server), self.context.keepalive).map_err(refused)?;
        if self.context.server_pacing {
            disable_pacing(SockRef::from(&server), address.ip());
        }
        let start = Boottime::now();
        match server.connect(&address.into()) {
            Err(err) if err.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(refused(err)),
            _ => {}
        }
        // On this machine the connect has completed already.
        let server = if is_connected(&server).map_err(refused)? {
            server
        } else {
            let connecting = sys::writable(server.into()).map_err(|err| (RefusalReason::Descriptors, err))?;
            let connected = tokio::select! {
                connected = tokio::time::timeout(self.context.connect_timeout, connecting.writable()) => connected,
                () = gate.closed() => return Err((RefusalReason::Abandoned, io::Error::other("the route closed"))),
                _ = client.failed() => return Err((RefusalReason::Abandoned, io::Error::other("the client left"))),
            };
            let limit = |_| (RefusalReason::Timeout, io::Error::from(io::ErrorKind::TimedOut));
            connected.map_err(limit)?.map(drop).map_err(refused)?;
            let server = socket2::Socket::from(connecting.into_inner());
            server
                .take_error()
                .and_then(|err| err.map_or(Ok(()), Err))
                .map_err(refused)?;
            server
        };
        if is_connected_to_itself(&server, address) {
            return Err(refused(io::Error::other("connected to itself")));
        }
        let now = Boottime::now();
        if !gate.is_open(now) {
            return Err((RefusalReason::Abandoned, io::Error::other("the route closed")));
        }
        let server = Socket::new(server).map_err(|err| (RefusalReason::Descriptors, err))?;
        self.set_reachable(true);
        Ok((server, now.since(start)))
    }

    fn set_reachable(&self, reachable: bool) {
        // Usually nothing changes, and then the cache line stays shared between the threads.
        if self.backend.reachable.load(Ordering::Relaxed) != reachable {
            self.backend.reachable.store(reachable, Ordering::Relaxed);
        }
    }

    fn reject(&self, reason: RefusalReason, err: &io::Error) {
        self.context.metrics.connections.count_refused(reason);
        if matches!(reason, RefusalReason::Master | RefusalReason::Timeout) {
            self.set_reachable(false);
        }
        let master = self.backend.address;
        if reason == RefusalReason::Abandoned {
            debug!(%master, error = %err, "client is gone before it was connected");
        } else {
            self.context
                .log_limits
                .connect_errors
                .log(|| warn!(%master, error = %err, "could not connect a client to the master"));
        }
    }
}

/// Whether a connect to a free local port has connected to itself (proxy P-15): the kernel chose that port as the
/// source.
pub(super) fn is_connected_to_itself(server: &socket2::Socket, address: SocketAddr) -> bool {
    server.local_addr().is_ok_and(|own| own.as_socket() == Some(address))
}

/// Whether a non-blocking connect has completed; an error if it has failed.
fn is_connected(server: &socket2::Socket) -> io::Result<bool> {
    let mut polled = [PollFd::new(server, PollFlags::OUT)];
    retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())))?;
    let events = polled[0].revents();
    if events.intersects(PollFlags::ERR | PollFlags::HUP) {
        return Err(server
            .take_error()?
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
    }
    Ok(events.contains(PollFlags::OUT))
}
