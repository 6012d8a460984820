//! Binds the socket for clients, and finds out which addresses belong to this machine. When clients are accepted is left
//! to `accept`, the options of sockets to the relay.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Config;
use crate::relay::socket_options::{disable_pacing, set_options, uses_pacing};

/// A socket bound to the address for clients; it refuses connections until it listens.
#[derive(Debug)]
pub struct BoundSocket {
    pub(super) socket: Socket,
    /// The address, with the port that was bound.
    pub address: SocketAddr,
    /// Another process has it too and keeps it open: systemd.
    pub(super) is_inherited: bool,
}

impl BoundSocket {
    /// Returns a second descriptor of an inherited socket: once the first is closed, the address cannot be bound again.
    pub(super) fn duplicate_inherited(&self) -> io::Result<Option<Self>> {
        if !self.is_inherited {
            return Ok(None);
        }
        Ok(Some(Self {
            socket: self.socket.try_clone()?,
            ..*self
        }))
    }
}

/// Binds the address for clients. Listening starts later, but a port in use is reported at start.
pub fn bind(config: &Config, address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Without support for IPv4-mapped addresses it serves IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    set_client_options(&socket, address, config)?;
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket {
        socket,
        address,
        is_inherited: false,
    })
}

/// Takes a socket for clients that was passed by systemd. Clients that connect before it is used, or after, wait in its
/// accept queue.
pub fn inherit(config: &Config, listener: TcpListener) -> io::Result<BoundSocket> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let socket = Socket::from(listener);
    set_client_options(&socket, address, config)?;
    Ok(BoundSocket {
        socket,
        address,
        is_inherited: true,
    })
}

/// Sets the options that accepted sockets inherit (proxy P-10).
fn set_client_options(socket: &Socket, address: SocketAddr, config: &Config) -> io::Result<()> {
    set_options(SockRef::from(socket), config.keepalive)?;
    if uses_pacing(SockRef::from(socket)) {
        disable_pacing(SockRef::from(socket), address.ip());
    }
    Ok(())
}

/// Whether an address belongs to this machine: the kernel would choose it as the source address too. Sends nothing.
pub fn is_local_address(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() {
        [0_u8; 4].into()
    } else {
        [0_u8; 16].into()
    };
    let source = || -> io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ip.is_loopback() || ip.is_unspecified() || source().is_ok_and(|source| source == ip)
}
