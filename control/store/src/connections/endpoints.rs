//! The state of each endpoint: its connection or its last error. Logs when the store becomes unreachable and when it is
//! reachable again. Connecting is left to `connections`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::{info, warn};

use super::connection::Connection;
use crate::config::StoreConfig;
use crate::endpoint::Endpoint;
use crate::error::{Cause, UNREACHABLE_HINT};

/// The endpoints, in the order of the configuration, and whether an outage was logged.
pub(super) struct EndpointTable {
    state: Mutex<EndpointStates>,
    /// Changes whenever a connection is established.
    connected: watch::Sender<u64>,
}

struct EndpointStates {
    endpoints: Vec<EndpointState>,
    outage_logged: bool,
    /// An endpoint was connected at least once.
    was_reachable: bool,
}

#[derive(Default)]
struct EndpointState {
    connection: Option<Connection>,
    failed: Option<Cause>,
}

impl EndpointTable {
    /// Returns a table of endpoints without connections.
    pub(super) fn new(count: usize) -> Self {
        let state = Mutex::new(EndpointStates {
            endpoints: (0..count).map(|_| EndpointState::default()).collect(),
            outage_logged: false,
            was_reachable: false,
        });
        Self {
            state,
            connected: watch::Sender::new(0),
        }
    }

    /// Returns a receiver that changes whenever a connection is established.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.connected.subscribe()
    }

    /// Returns the connections that have not ended.
    pub(super) fn live(&self) -> Vec<Connection> {
        let state = self.lock();
        let connections = state
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.connection.as_ref());
        connections
            .filter(|connection| !connection.is_closed())
            .cloned()
            .collect()
    }

    /// Returns the last error of each endpoint, if none of them is connected.
    pub(super) fn last_failures(&self, endpoints: &[Endpoint]) -> Option<Cause> {
        let state = self.lock();
        if state.endpoints.iter().any(|endpoint| endpoint.connection.is_some()) {
            return None;
        }
        let failures = state.endpoints.iter().zip(endpoints).map(|(state, endpoint)| {
            let why = state
                .failed
                .as_ref()
                .map_or("no response yet".to_owned(), Cause::to_string);
            format!("{endpoint}: {why}")
        });
        Some(Cause::new(failures.collect::<Vec<_>>().join("; ")))
    }

    /// Records a new connection, and logs the end of an outage.
    pub(super) fn set_connected(&self, index: usize, connection: Connection, config: &StoreConfig) {
        let was_outage_logged = {
            let mut state = self.lock();
            if let Some(endpoint) = state.endpoints.get_mut(index) {
                *endpoint = EndpointState {
                    connection: Some(connection),
                    failed: None,
                };
            }
            state.was_reachable = true;
            std::mem::take(&mut state.outage_logged)
        };
        self.connected.send_modify(|count| *count = count.wrapping_add(1));
        if was_outage_logged {
            info!(endpoint = %config.endpoints[index], "store is reachable again");
        }
    }

    /// Records why an endpoint has no connection, and logs once that none has.
    pub(super) fn set_failed(&self, index: usize, why: Option<Cause>, config: &StoreConfig) {
        let failures = {
            let mut state = self.lock();
            if let Some(endpoint) = state.endpoints.get_mut(index) {
                *endpoint = EndpointState {
                    connection: None,
                    failed: why,
                };
            }
            let new_outage = state.all_failures(&config.endpoints).filter(|_| !state.outage_logged);
            state.outage_logged |= new_outage.is_some();
            // the hint helps only if the store was never reached
            let hint = (!state.was_reachable).then_some(UNREACHABLE_HINT);
            new_outage.map(|error| (error, hint))
        };
        if let Some((error, hint)) = failures {
            warn!(%error, hint, "store is unreachable, trying again until it is back");
        }
    }

    fn lock(&self) -> MutexGuard<'_, EndpointStates> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndpointStates {
    /// Returns every endpoint's last error, once all of them have failed.
    fn all_failures(&self, endpoints: &[Endpoint]) -> Option<Cause> {
        let failures: Option<Vec<String>> = self
            .endpoints
            .iter()
            .zip(endpoints)
            .map(|(state, endpoint)| state.failed.as_ref().map(|why| format!("{endpoint}: {why}")))
            .collect();
        Some(Cause::new(failures?.join("; ")))
    }
}
