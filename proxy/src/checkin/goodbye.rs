//! The end of a proxy that is told to stop (P-9): it drains, and says goodbye.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::model::{ProxyInfo, to_compact};
use control::store::{Txn, info_ttl};
use control::telemetry::Chain;
use tracing::{debug, warn};

use super::{CheckIn, Fatal, now};
use crate::relay::CloseReason;

/// How long a stop may take for its goodbye (P-9), connections and store together.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// The part of it that connections get to end; they were told to, and nothing is forwarded any more.
const DROP_LIMIT: Duration = Duration::from_millis(400);
/// How often a proxy that drains looks whether its clients are gone.
const LOOK_FOR_CLIENTS_EVERY: Duration = Duration::from_millis(20);

impl CheckIn {
    /// Takes no more clients and lets those that are there end by themselves, for as long as `limit` (P-9). Meanwhile the
    /// check-ins go on, as the lease is what lets connections live.
    ///
    /// # Errors
    /// As `run`.
    pub async fn drain(&mut self, limit: Duration) -> Result<(), Fatal> {
        self.reins.commands.send_modify(|orders| orders.drain = true);
        let clients = Arc::clone(&self.reins.clients);
        let all_gone = async {
            while clients.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK_FOR_CLIENTS_EVERY).await;
            }
        };
        tokio::select! {
            fatal = self.run() => Err(fatal),
            () = all_gone => Ok(()),
            () = tokio::time::sleep(limit) => Ok(()),
        }
    }

    /// Says goodbye (P-9, beyond ): stops forwarding, lets the connections end, publishes that we have stopped.
    pub async fn stop(mut self) {
        let started = now();
        self.close(CloseReason::Stopping);
        let Self {
            reins,
            store,
            lease,
            published,
            ..
        } = &self;
        reins.commands.send_modify(|orders| orders.stop = true);
        let left = || GOODBYE_LIMIT.saturating_sub(now().since(started));
        while reins.clients.load(Ordering::Relaxed) > 0 && now().since(started) < DROP_LIMIT {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let Some(generation) = *published else { return };
        let goodbye = async {
            let lease = match lease {
                Some(lease) => lease.id,
                None => {
                    store
                        .limited(left())
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
                .limited(left())
                .commit(Txn::new().put_leased(&key, to_compact(&info), lease))
                .await
        };
        match tokio::time::timeout(left(), goodbye).await {
            Ok(Ok(_)) => debug!("published that we have stopped"),
            Ok(Err(err)) => warn!(error = %Chain(&err), "could not publish that we have stopped"),
            Err(_) => warn!("could not publish that we have stopped: the store did not answer in time"),
        }
    }
}
