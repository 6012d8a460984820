//! The connections to the store: one for each endpoint, established at the first request and again whenever they end
//! (store 3.3). Also chooses one for each request; the handling of errors is left to `requester`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::Clock;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::debug;

use crate::config::StoreConfig;
use crate::error::Cause;
use crate::latency::{fastest, is_worth_moving};

mod connect;
mod connection;
mod endpoints;
mod io;
mod keep_alive;
mod monitor;

use self::connect::connect_endpoint;
use self::endpoints::EndpointTable;

pub(crate) use self::connect::ConnectionGone;
pub(crate) use self::connection::Connection;

/// Delays between two attempts to connect (store 3.3).
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// All connections of one store.
pub(super) struct StoreConnections {
    config: StoreConfig,
    clock: Clock,
    endpoints: Arc<EndpointTable>,
    connect_tasks: OnceLock<ConnectTasks>,
    next_index: AtomicUsize,
}

/// The tasks that keep the endpoints connected. They end when the last clone of the store is dropped.
struct ConnectTasks(Vec<AbortHandle>);

impl Drop for ConnectTasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl StoreConnections {
    pub(super) fn new(config: StoreConfig, clock: Clock) -> Self {
        let endpoints = Arc::new(EndpointTable::new(config.endpoints.len()));
        Self {
            config,
            clock,
            endpoints,
            connect_tasks: OnceLock::new(),
            next_index: AtomicUsize::new(0),
        }
    }

    pub(super) fn config(&self) -> &StoreConfig {
        &self.config
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits for a connection: the fastest, or those of similar latency in turns. Must be called within a tokio
    /// runtime.
    pub(super) async fn ready(&self) -> Connection {
        self.connect_tasks.get_or_init(|| self.connect_all());
        let mut connected = self.endpoints.subscribe();
        loop {
            connected.mark_unchanged();
            if let Some(connection) = self.choose(None) {
                return connection;
            }
            // the sender is part of `self`, so this cannot fail
            let _ = connected.changed().await;
        }
    }

    /// Returns the last error of each endpoint, if none of them is connected.
    pub(super) fn last_failures(&self) -> Option<Cause> {
        self.endpoints.last_failures(&self.config.endpoints)
    }

    /// Returns another connection than this one, if there is one.
    pub(super) fn other_than(&self, connection: &Connection) -> Option<Connection> {
        self.choose(Some(connection))
    }

    /// Returns whether another connection is so much faster that a watch should move to it.
    pub(super) fn is_much_slower(&self, connection: &Connection) -> bool {
        let best = self.endpoints.live().iter().map(Connection::expected).min();
        best.is_some_and(|best| is_worth_moving(connection.expected(), best))
    }

    /// Returns the measured latency of the fastest connection; zero when there is none.
    pub(super) fn latency(&self) -> Duration {
        let measured = self.endpoints.live().iter().map(Connection::measured).min();
        measured.unwrap_or_default()
    }

    fn choose(&self, except: Option<&Connection>) -> Option<Connection> {
        let mut live = self.endpoints.live();
        live.retain(|connection| except.is_none_or(|other| !connection.is_same_as(other)));
        let expected: Vec<Duration> = live.iter().map(Connection::expected).collect();
        let candidates = fastest(&expected);
        let turn = self.next_index.fetch_add(1, Ordering::Relaxed);
        let chosen = *candidates.get(turn.checked_rem(candidates.len())?)?;
        live.into_iter().nth(chosen)
    }

    fn connect_all(&self) -> ConnectTasks {
        let connect = |index| {
            let (config, clock) = (self.config.clone(), self.clock.clone());
            maintain_connection(config, clock, index, Arc::clone(&self.endpoints))
        };
        ConnectTasks(
            (0..self.config.endpoints.len())
                .map(|index| tokio::spawn(connect(index)).abort_handle())
                .collect(),
        )
    }
}

/// Keeps one endpoint connected. A delay follows each failure and each connection that ended soon.
async fn maintain_connection(config: StoreConfig, clock: Clock, index: usize, endpoints: Arc<EndpointTable>) {
    let endpoint = &config.endpoints[index];
    let mut backoff = Duration::ZERO;
    loop {
        sleep(backoff).await;
        backoff = (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        match connect_endpoint(&config, &clock, index).await {
            Ok(connection) => {
                debug!(%endpoint, "connected to the store");
                endpoints.set_connected(index, connection.clone(), &config);
                let is_one_of_several = config.endpoints.len() > 1;
                tokio::select! {
                    () = connection.closed() => {}
                    () = sleep(BACKOFF_MAX) => {
                        backoff = Duration::ZERO;
                        tokio::select! {
                            () = connection.closed() => {}
                            _ = connection.probe(config.keys.cluster_data(), config.timeout), if is_one_of_several => {}
                        }
                    }
                }
                debug!(%endpoint, "connection to the store ended");
                endpoints.set_failed(index, connection.end_reason(), &config);
            }
            Err(why) => {
                debug!(%endpoint, error = %why, "cannot connect to the store");
                endpoints.set_failed(index, Some(why), &config);
            }
        }
    }
}
