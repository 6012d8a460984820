//! How a connection ended, and which side failed in which operation. What follows from it is left to the callers; which
//! of it happened is found out by the engine.

use std::fmt;
use std::io;

/// One side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The program that connected to the proxy.
    Client,
    /// The server that the proxy connected it to.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// The operation in which a socket failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketOperation {
    /// Reading from it.
    Read,
    /// Writing to it.
    Write,
    /// Shutting down its sending direction, after the other side's stream has ended.
    Shutdown,
    /// Waiting for an error while nothing is read from it.
    Wait,
}

impl fmt::Display for SocketOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read from",
            Self::Write => "write to",
            Self::Shutdown => "finish",
            Self::Wait => "wait for",
        })
    }
}

/// A socket that failed; usually its peer crashed, or closed with bytes in transit.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {side}")]
pub struct RelayError {
    /// The side whose socket failed.
    pub side: Side,
    /// What was being done with it.
    pub operation: SocketOperation,
    /// The error of the system.
    #[source]
    pub source: io::Error,
}

/// How a connection ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides finished their streams, the client first.
    ClientFinished,
    /// Both sides finished their streams, the server first.
    ServerFinished,
    /// The gate closed or its lease ended: both sockets were closed, and bytes in transit were dropped.
    GateClosed,
    /// One side failed; the other one got a reset (proxy P-11).
    Failed(RelayError),
}
