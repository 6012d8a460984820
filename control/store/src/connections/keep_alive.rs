//! The streams over which leases are renewed. A program renews one or two leases about once a second, for as long as it
//! runs; a stream of its own for each renewal was the larger part of what an idle program did.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper};

use crate::entry::LeaseId;

/// Maximum number of idle streams of one connection: more than the leases of one program. Those of former leases are
/// dropped when there are more.
const IDLE_STREAMS_MAX: usize = 4;

/// The error of etcd-client when a keepalive is answered with a TTL of zero (its `rpc/lease.rs`).
const LEASE_NOT_FOUND: &str = "lease not found";

/// The idle streams of one connection, by lease: each request of etcd-client is about one lease.
///
/// A stream is taken out for the time of a renewal. A renewal that is given up drops it, so that a late response is
/// never taken for that of a later request.
#[derive(Default)]
pub(crate) struct KeepAliveStreams {
    idle: Mutex<BTreeMap<LeaseId, OpenStream>>,
}

struct OpenStream {
    requests: LeaseKeeper,
    responses: LeaseKeepAliveStream,
}

impl OpenStream {
    /// Sends a keepalive and waits for its response. Returns whether the lease exists; `None` if the stream has ended.
    async fn renew(&mut self) -> Option<bool> {
        self.requests.keep_alive().await.ok()?;
        let response = self.responses.message().await.ok()??;
        Some(response.ttl() > 0)
    }
}

impl KeepAliveStreams {
    /// Renews a lease. Returns whether it exists.
    ///
    /// # Errors
    /// Of a new stream. When an idle one has ended, a new one is opened.
    pub(crate) async fn renew(&self, client: &Client, lease: LeaseId) -> Result<bool, etcd_client::Error> {
        let idle = self.idle().remove(&lease);
        if let Some(mut stream) = idle
            && let Some(exists) = stream.renew().await
        {
            if exists {
                self.keep(lease, stream);
            }
            return Ok(exists);
        }
        // opening the stream sends one keepalive and waits for the response
        match client.lease_client().keep_alive(lease.0).await {
            Ok((requests, responses)) => {
                self.keep(lease, OpenStream { requests, responses });
                Ok(true)
            }
            Err(etcd_client::Error::LeaseKeepAliveError(why)) if why == LEASE_NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn keep(&self, lease: LeaseId, stream: OpenStream) {
        let mut idle = self.idle();
        if idle.len() >= IDLE_STREAMS_MAX {
            idle.clear();
        }
        idle.insert(lease, stream);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseId, OpenStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
