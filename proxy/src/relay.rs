//! Forwards bytes between two sockets, through a gate that every byte passes. Which sockets are connected, and when the
//! gate closes, is decided elsewhere; nothing here depends on clusters.
//!
//! `gate`, `outcome`, `counters`, `workers`, `socket_options` and `sys` are shared by all engines. There is one engine,
//! `epoll`, whose sockets `connect` makes; the rest of the proxy uses what is exported here, and never the engine's own
//! modules. Another engine would have to check the gate between reading and writing as well (fencing F-3).

mod connect;
mod counters;
mod epoll;
mod gate;
mod outcome;
pub(crate) mod socket_options;
pub(crate) mod sys;
mod timer;
mod workers;

pub use self::connect::{ConnectError, ServerConnector};
pub use self::counters::ByteCounters;
pub(crate) use self::epoll::PIPES_MAX;
pub use self::epoll::{MethodPolicy, PeerTimeout, RelayConfig, Socket, forward};
pub use self::gate::{CloseEvent, CloseReason, Gate};
pub use self::outcome::{RelayEnd, RelayError, Side, SocketOperation};
pub use self::socket_options::Keepalive;
pub use self::timer::BoottimeTimer;
pub use self::workers::{ConnectionCount, RelayThread};
