//! Why a check-in failed, and what ends the proxy. How that is logged is left to `route_log`.

use std::net::SocketAddr;
use std::time::Duration;

use model::JsonError;
use store::StoreError;

/// An error that ends the proxy.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The first attempt to listen failed; later ones are retried.
    #[error("listen for clients on {address}: {reason} (--listen-address, --port)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        reason: String,
    },
}

/// Why a check-in failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckInError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("decode {key}")]
    Decode {
        key: String,
        #[source]
        source: JsonError,
    },
    #[error("the check-in took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the wall clock jumped during the check-in")]
    ClockJumped,
    #[error("the proxy info is attached to a later lease of the store")]
    LaterLease,
    #[error(transparent)]
    Fatal(#[from] FatalError),
}
