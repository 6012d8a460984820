//! An established connection: requests are timed, and it is closed when nothing arrives on it any more. Establishing it
//! is left to `connect`.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use tokio::time::{sleep, timeout};

use super::keep_alive::KeepAliveStreams;
use super::monitor::ConnectionMonitor;
use crate::entry::LeaseId;
use crate::error::Cause;
use crate::latency::hedge_after;

/// A connection without measurements for this long is measured by a small request, if there are several.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A handle; clones share the connection.
#[derive(Clone)]
pub(crate) struct Connection {
    client: Client,
    monitor: Arc<ConnectionMonitor>,
    keep_alive_streams: Arc<KeepAliveStreams>,
}

impl Connection {
    pub(super) fn new(client: Client, monitor: Arc<ConnectionMonitor>) -> Self {
        Self {
            client,
            monitor,
            keep_alive_streams: Arc::default(),
        }
    }

    /// Returns the client, which sends on this connection alone.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Renews a lease, over a stream that stays open for the next time. Returns whether it exists.
    ///
    /// # Errors
    /// As of the client.
    pub(crate) async fn renew(&self, lease: LeaseId) -> Result<bool, etcd_client::Error> {
        self.keep_alive_streams.renew(&self.client, lease).await
    }

    /// Returns whether both are the same connection.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.monitor, &other.monitor)
    }

    /// Returns the number of bytes received so far. If it does not change during a request, the connection is silent.
    pub(crate) fn received(&self) -> u64 {
        self.monitor.received()
    }

    /// Records that a request is sent now.
    pub(crate) fn note_sent(&self) {
        self.monitor.note_sent();
    }

    /// Returns the latency to expect of a request sent now.
    pub(super) fn expected(&self) -> Duration {
        self.monitor.expected()
    }

    /// Returns the latency of past responses.
    pub(super) fn measured(&self) -> Duration {
        self.monitor.measured()
    }

    /// Returns how long to wait before the request is sent on another connection, too.
    pub(crate) fn hedge_after(&self) -> Duration {
        hedge_after(self.expected())
    }

    /// Times one request. An error response of the server counts, an error of the connection does not.
    pub(crate) async fn timed<T, E>(
        &self,
        request: impl Future<Output = Result<T, E>>,
        is_server_response: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let timer = self.monitor.start_request();
        let outcome = request.await;
        if outcome.as_ref().map_or_else(is_server_response, |_| true) {
            timer.answered();
        }
        outcome
    }

    /// Measures an otherwise idle connection for as long as it exists.
    pub(super) async fn probe(&self, key: String, limit: Duration) -> Infallible {
        loop {
            sleep(PROBE_INTERVAL).await;
            if self.monitor.is_unmeasured_for(PROBE_INTERVAL) {
                let mut client = self.client.kv_client();
                let count = client.get(key.as_str(), Some(GetOptions::new().with_count_only()));
                let received = self.received();
                // the result does not matter, only its latency
                let outcome = timeout(limit, self.timed(count, |_| false)).await;
                if outcome.is_err() && self.received() == received {
                    // other requests avoid this connection, so they would not detect it
                    self.close(&format!("no response to a probe within {limit:?}"));
                }
            }
        }
    }

    /// Closes the connection if no byte has arrived since the oldest pending request was sent, at least this long ago.
    /// The short timeout of a single request is not a reason to close.
    pub(crate) fn close_if_silent_for(&self, limit: Duration) {
        if self.monitor.is_silent_for(limit) {
            self.close(&format!("no response within {limit:?}"));
        }
    }

    /// Closes the connection; a new one is established.
    pub(crate) fn close(&self, why: &str) {
        self.monitor.close(why);
    }

    /// Returns whether the connection has ended, or is about to.
    pub(super) fn is_closed(&self) -> bool {
        self.monitor.is_closed()
    }

    /// Waits until the connection has ended.
    pub(super) async fn closed(&self) {
        self.monitor.closed().await;
    }

    /// Returns why it has ended, if that is known.
    pub(super) fn end_reason(&self) -> Option<Cause> {
        self.monitor.reason()
    }
}
