//! The session of one admitted client: connects it to the server, relays, and records how it ended. Whether a client is
//! admitted is decided before; how a connect goes is left to the relay.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use base::{Chain, Clock};
use socket2::SockRef;
use tracing::{debug, warn};

use super::backend::BackendGuard;
use super::rate_limited::RateLimited;
use crate::metrics::{Metrics, RefusalReason};
use crate::relay::socket_options::disable_pacing;
use crate::relay::{self, ByteCounters, ConnectError, ConnectionCount, RelayConfig, RelayEnd, ServerConnector, Socket};

/// What all sessions of a relay thread share.
#[derive(Debug)]
pub(super) struct SessionContext {
    pub(super) counters: Arc<ByteCounters>,
    pub(super) metrics: Arc<Metrics>,
    /// Limits the log lines about failed connects of all threads together.
    pub(super) connect_errors: Arc<RateLimited>,
    pub(super) connector: ServerConnector,
    pub(super) relay: RelayConfig,
    /// Whether the system's congestion control paces, and client sockets inherit it.
    pub(super) client_pacing: bool,
    pub(super) clock: Clock,
}

/// One admitted client. It exists as long as the connection, so it is small.
pub(super) struct ClientSession {
    pub(super) backend: BackendGuard,
    pub(super) context: Arc<SessionContext>,
    pub(super) _counts: [ConnectionCount; 2],
}

impl ClientSession {
    pub(super) async fn run(self, client: OwnedFd) {
        // The future of the connect is larger than that of the relay. Boxed, it is freed before relaying begins.
        let (client, server, took) = match Box::pin(self.prepare(client)).await {
            Ok(connected) => connected,
            Err(err) => return self.refuse(&err),
        };
        let open = self.context.metrics.connections.opened(took);
        let ended = relay::forward(
            client,
            server,
            self.backend.gate(),
            &self.context.counters,
            &self.context.relay,
        )
        .await;
        drop(open);
        let close_reason = self.backend.gate().close_event().map(|closed| closed.reason);
        self.context.metrics.connections.count_ended(&ended, close_reason);
        match ended {
            RelayEnd::Failed(err) => debug!(error = %Chain(&err), "connection failed"),
            ended => debug!(?ended, cut = ?close_reason, "connection ended"),
        }
    }

    /// Returns both sockets, and how long the server took to accept.
    async fn prepare(&self, client: OwnedFd) -> Result<(Socket, Socket, Duration), ConnectError> {
        if self.context.client_pacing
            && let Ok(peer) = SockRef::from(&client).peer_addr()
            && let Some(peer) = peer.as_socket()
        {
            disable_pacing(SockRef::from(&client), peer.ip());
        }
        let client = Socket::new(client).map_err(ConnectError::Descriptors)?;
        let (server, took) = self.connect(&client).await?;
        Ok((client, server, took))
    }

    pub(super) async fn connect(&self, client: &Socket) -> Result<(Socket, Duration), ConnectError> {
        let backend = &self.backend;
        let connected = self
            .context
            .connector
            .connect(backend.address(), backend.gate(), client)
            .await?;
        backend.set_reachable(true);
        Ok(connected)
    }

    fn refuse(&self, err: &ConnectError) {
        let reason = match err {
            ConnectError::Descriptors(_) => RefusalReason::Descriptors,
            ConnectError::Refused(_) => RefusalReason::Master,
            ConnectError::TimedOut => RefusalReason::Timeout,
            ConnectError::GateClosed | ConnectError::ClientLeft => RefusalReason::Abandoned,
        };
        self.context.metrics.connections.count_refused(reason);
        if matches!(reason, RefusalReason::Master | RefusalReason::Timeout) {
            self.backend.set_reachable(false);
        }
        let master = self.backend.address();
        if reason == RefusalReason::Abandoned {
            debug!(%master, error = %err, "client is gone before it was connected");
        } else {
            let now = self.context.clock.now();
            self.context.connect_errors.log(
                now,
                || warn!(%master, error = %err, "could not connect a client to the master"),
            );
        }
    }
}
