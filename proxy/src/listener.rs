//! The socket for clients: `accept` has the loop, `admission` decides who is served, `session_threads` starts the
//! sessions, `session` serves one client, and `checkin` controls all of it through `handle`. Where clients may go is
//! decided by `checkin`; that a lease has ended is detected here, so that a check-in that hangs delays nothing (fencing
//! F-4).

mod accept;
mod accept_errors;
mod admission;
mod backend;
mod disconnect;
mod handle;
mod hold;
mod rate_limited;
mod session;
mod session_threads;
mod socket;

use std::net::SocketAddr;
use std::time::Duration;

pub use self::accept::Listener;
pub use self::backend::Backend;
pub use self::disconnect::Disconnector;
pub use self::handle::{DesiredListener, ListenState, ListenerHandle};
pub use self::socket::{BoundSocket, bind, inherit, is_local_address};
use crate::relay::{Keepalive, RelayConfig};

/// Configuration of the listener and its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address that clients connect to; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether the socket closes when the lease ends (proxy P-4).
    pub stop_listening: bool,
    /// TCP keepalive of both sides of a connection.
    pub keepalive: Keepalive,
    /// Timeout of a connect to the master (proxy P-12).
    pub connect_timeout: Duration,
    /// Limit of concurrent clients (proxy P-14).
    pub max_connections: usize,
    /// How the relay forwards bytes.
    pub relay: RelayConfig,
    /// How long a client may be held for the next master during a change; zero disables holding (proxy P-8).
    pub hold: Duration,
    /// Limit of held clients.
    pub hold_max: usize,
}

#[cfg(test)]
mod tests;
