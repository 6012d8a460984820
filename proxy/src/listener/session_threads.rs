//! Starts sessions on the relay threads, each on the one with the fewest connections. Which clients get a session is
//! decided by `admission`, what a session does by `session`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use base::Clock;
use socket2::{Domain, SockRef, Socket, Type};

use super::Config;
use super::backend::{Backend, BackendGuard};
use super::rate_limited::RateLimited;
use super::session::{ClientSession, SessionContext};
use crate::metrics::Metrics;
use crate::relay::socket_options::uses_pacing;
use crate::relay::{ConnectionCount, RelayThread, ServerConnector};

/// The relay threads, as what runs sessions.
#[derive(Debug)]
pub(super) struct SessionThreads(Vec<SessionThread>);

/// A relay thread, with what its sessions share.
#[derive(Debug)]
struct SessionThread {
    thread: RelayThread,
    context: Arc<SessionContext>,
}

impl SessionThreads {
    /// Returns the threads for clients of this address.
    pub(super) fn new(
        config: &Config,
        address: SocketAddr,
        threads: Vec<RelayThread>,
        metrics: &Arc<Metrics>,
        clock: &Clock,
    ) -> Self {
        // Read from a new socket: the congestion control of the listening one may have been replaced already.
        let unbound = Socket::new(Domain::for_address(address), Type::STREAM, None).ok();
        let pacing = unbound.is_some_and(|unbound| uses_pacing(SockRef::from(&unbound)));
        let connect_errors = Arc::new(RateLimited::default());
        let context = |thread: &RelayThread| SessionContext {
            counters: Arc::clone(thread.counters()),
            metrics: Arc::clone(metrics),
            connect_errors: Arc::clone(&connect_errors),
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
        let with_context = |thread| SessionThread {
            context: Arc::new(context(&thread)),
            thread,
        };
        Self(threads.into_iter().map(with_context).collect())
    }

    /// Starts the session of a client. `count` counts it until the session ends.
    pub(super) fn start(&self, client: OwnedFd, count: ConnectionCount, backend: &Arc<Backend>) {
        let least_loaded = self.0.iter().min_by_key(|one| one.thread.connections());
        let SessionThread { thread, context } =
            least_loaded.expect("a listener is made with one thread at least, see `args`");
        let session = ClientSession {
            backend: BackendGuard::new(backend),
            context: Arc::clone(context),
            _counts: [count, thread.count_connection()],
        };
        thread.handle().spawn(session.run(client));
    }
}
