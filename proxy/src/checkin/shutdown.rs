//! The orderly shutdown of a proxy (proxy P-9): drains connections, and publishes that the proxy has stopped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base::Chain;
use model::{ProxyInfo, to_compact};
use store::{Txn, info_ttl};
use tracing::{debug, warn};

use super::{CheckIn, FatalError, now};
use crate::relay::CloseReason;

/// Time limit for ending connections and publishing (proxy P-9).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// The part of it that is spent waiting for connections to end. They have been woken for it, and nothing is forwarded
/// any more.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(400);
/// Pause between two checks whether all clients are gone.
const CLIENT_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl CheckIn {
    /// Accepts no more clients and waits up to `limit` for the connected ones to leave (proxy P-9). Check-ins continue
    /// meanwhile, because connections need the lease.
    ///
    /// # Errors
    ///
    /// As of `run`.
    pub async fn drain(&mut self, limit: Duration) -> Result<(), FatalError> {
        self.listener.command(|command| command.drain = true);
        let clients = self.listener.client_counter();
        let all_gone = async {
            while clients.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(CLIENT_POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            fatal = self.run() => Err(fatal),
            () = all_gone => Ok(()),
            () = tokio::time::sleep(limit) => Ok(()),
        }
    }

    /// Stops forwarding, ends the connections, and publishes that the proxy has stopped (proxy P-9, extensions ).
    pub async fn stop(mut self) {
        let started = now();
        self.close_route(CloseReason::Stopping);
        let Self {
            listener,
            store,
            info_lease: lease,
            published_generation: published,
            ..
        } = &self;
        listener.command(|command| command.stop = true);
        let left = || SHUTDOWN_TIMEOUT.saturating_sub(now().since(started));
        while listener.clients() > 0 && now().since(started) < DISCONNECT_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let Some(generation) = *published else { return };
        let publish_stopped = async {
            let lease = match lease {
                Some(lease) => lease.id,
                None => {
                    store
                        .with_timeout(left())
                        .grant(info_ttl(self.timing().timeout.saturating_mul(2)))
                        .await?
                        .lease
                }
            };
            let info = ProxyInfo {
                stopped: true,
                ..self.info(generation, self.timing().timeout)
            };
            let key = store.keys().proxy_info(self.me.as_str());
            store
                .with_timeout(left())
                .commit(Txn::new().put_leased(&key, to_compact(&info), lease))
                .await
        };
        match tokio::time::timeout(left(), publish_stopped).await {
            Ok(Ok(_)) => debug!("published that we have stopped"),
            Ok(Err(err)) => warn!(error = %Chain(&err), "could not publish that we have stopped"),
            Err(_) => warn!("could not publish that we have stopped: the store did not answer in time"),
        }
    }
}
