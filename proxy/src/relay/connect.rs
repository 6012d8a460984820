//! Connects a client to the server: the socket, its options, and what may end the attempt. Which server it is, and what
//! becomes of a client that is not connected, is decided by `listener`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use socket2::{Domain, Protocol, SockRef, Type};

use super::gate::Gate;
use super::socket_options::{Keepalive, disable_pacing, set_options};
use super::{Socket, sys};

/// Why a client was not connected to the server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No descriptor was left, or no memory for it.
    #[error(transparent)]
    Descriptors(io::Error),
    /// The connect failed.
    #[error(transparent)]
    Refused(io::Error),
    /// The server did not answer in time.
    #[error("timed out")]
    TimedOut,
    /// The gate closed, or its lease ended, before the connect had completed.
    #[error("the route closed")]
    GateClosed,
    /// The client failed before the connect had completed.
    #[error("the client left")]
    ClientLeft,
}

/// What all connects have in common.
#[derive(Debug, Clone)]
pub struct ServerConnector {
    /// TCP keepalive of the connection.
    pub keepalive: Keepalive,
    /// Timeout of a connect (proxy P-12).
    pub timeout: Duration,
    /// Whether the system's congestion control paces, so that a server on this machine needs another one.
    pub pacing: bool,
    /// Measures the connect, and is compared with the lease after it.
    pub clock: Clock,
}

impl ServerConnector {
    /// Connects to the server within the timeout (proxy P-12), and returns how long that took. Aborts if the client
    /// fails or the gate closes meanwhile.
    pub async fn connect(
        &self,
        address: SocketAddr,
        gate: &Gate,
        client: &Socket,
    ) -> Result<(Socket, Duration), ConnectError> {
        let kind = Type::STREAM.nonblocking();
        let server = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
            .map_err(ConnectError::Descriptors)?;
        set_options(SockRef::from(&server), self.keepalive).map_err(ConnectError::Refused)?;
        if self.pacing {
            disable_pacing(SockRef::from(&server), address.ip());
        }
        let start = self.clock.now();
        match server.connect(&address.into()) {
            Err(err) if err.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(ConnectError::Refused(err));
            }
            _ => {}
        }
        // On this machine the connect has completed already.
        let server = if is_connected(&server).map_err(ConnectError::Refused)? {
            server
        } else {
            self.wait_until_connected(server, gate, client).await?
        };
        if is_connected_to_itself(&server, address) {
            return Err(ConnectError::Refused(io::Error::other("connected to itself")));
        }
        let now = self.clock.now();
        if !gate.is_open(now) {
            return Err(ConnectError::GateClosed);
        }
        let server = Socket::new(server).map_err(ConnectError::Descriptors)?;
        Ok((server, now.since(start)))
    }

    async fn wait_until_connected(
        &self,
        server: socket2::Socket,
        gate: &Gate,
        client: &Socket,
    ) -> Result<socket2::Socket, ConnectError> {
        let connecting = sys::writable(server.into()).map_err(ConnectError::Descriptors)?;
        let connected = tokio::select! {
            connected = tokio::time::timeout(self.timeout, connecting.writable()) => connected,
            () = gate.closed() => return Err(ConnectError::GateClosed),
            _ = client.failed() => return Err(ConnectError::ClientLeft),
        };
        connected
            .map_err(|_| ConnectError::TimedOut)?
            .map(drop)
            .map_err(ConnectError::Refused)?;
        let server = socket2::Socket::from(connecting.into_inner());
        match server.take_error() {
            Ok(None) => Ok(server),
            Ok(Some(err)) | Err(err) => Err(ConnectError::Refused(err)),
        }
    }
}

/// Whether a connect to a free local port has connected to itself (proxy P-15): the kernel chose that port as the
/// source.
fn is_connected_to_itself(server: &socket2::Socket, address: SocketAddr) -> bool {
    server.local_addr().is_ok_and(|own| own.as_socket() == Some(address))
}

/// Whether a non-blocking connect has completed; an error if it has failed.
fn is_connected(server: &socket2::Socket) -> io::Result<bool> {
    let mut polled = [PollFd::new(server, PollFlags::OUT)];
    retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())))?;
    let events = polled[0].revents();
    if events.intersects(PollFlags::ERR | PollFlags::HUP) {
        return Err(server
            .take_error()?
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
    }
    Ok(events.contains(PollFlags::OUT))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    // proxy P-15
    #[test]
    fn a_connect_to_itself_is_detected() {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(&own).unwrap(); // there is no listener, and yet it succeeds (TCP simultaneous open)
        assert!(is_connected_to_itself(&socket, own.as_socket().unwrap()));

        let other = std::net::TcpListener::bind(any).unwrap().local_addr().unwrap();
        assert!(!is_connected_to_itself(&socket, other));
    }
}
