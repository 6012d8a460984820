//! Sockets and their options, on both sides of a connection. Who is connected to whom is decided elsewhere.
//!
//! `TCP_USER_TIMEOUT` is deliberately not set (P-10). Where it is, it decides instead of the keepalive options when a
//! silent peer is given up (`tcp_keepalive_timer` in the kernel's net/ipv4/tcp_timer.c), and it ends connections to
//! peers that answer and only do not read for so long (tcp(7)): a client behind a pager, a server that waits for a lock
//! in the middle of a COPY. So three things give up a silent peer: keepalive, while nothing waits for it; the relay, once
//! the proxy has to keep bytes for it, by the `Patience` that is made here; and for bytes that all fit into the kernel's
//! buffer the kernel's own patience, `net.ipv4.tcp_retries2`, after about 15 minutes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::Config;
use crate::relay::PeerTimeout;

/// The options of TCP keepalive, which itself is always on; `None` leaves the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Pause between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is given up.
    pub count: Option<u32>,
}

impl Keepalive {
    /// How much silence is borne while bytes wait: as much as keepalive would bear while none do. What is not given counts
    /// as in the default of `Patience`, and not as the system has it, which is hours: a peer that vanishes in the middle of
    /// an answer leaves locks behind.
    pub fn peer_timeout(&self) -> PeerTimeout {
        const IDLE: Duration = Duration::from_secs(30);
        const INTERVAL: Duration = Duration::from_secs(10);
        const COUNT: u32 = 9;
        let count = self.count.unwrap_or(COUNT);
        let idle = self.idle.unwrap_or(IDLE);
        let silence = idle.saturating_add(self.interval.unwrap_or(INTERVAL).saturating_mul(count));
        PeerTimeout {
            silence_seconds: u32::try_from(silence.as_secs()).unwrap_or(u32::MAX),
            unanswered_probes: count.clamp(2, PeerTimeout::default().unanswered_probes.into()) as u8,
        }
    }
}

/// A socket bound for clients; it takes none before it listens.
#[derive(Debug)]
pub struct BoundSocket {
    pub(super) socket: Socket,
    /// The address with the port that was taken.
    pub address: SocketAddr,
}

/// Binds the address for clients, so that a port in use is known at start although listening begins later.
pub fn bind(config: &Config, address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // A kernel without IPv4 in IPv6 sockets serves IPv6 alone.
        let _ = socket.set_only_v6(false);
    }
    // Accepted sockets inherit all of this (P-10).
    set_options(SockRef::from(&socket), config.keepalive)?;
    if uses_pacing(SockRef::from(&socket)) {
        disable_pacing(SockRef::from(&socket), address.ip());
    }
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket { socket, address })
}

/// Whether the system's congestion control paces what it sends, as `bbr` does, which halves what loopback carries.
pub(super) fn uses_pacing(socket: SockRef<'_>) -> bool {
    let name = socket.tcp_congestion().unwrap_or_default();
    !matches!(
        name.split(|byte| *byte == 0).next(),
        Some(b"reno" | b"cubic" | b"") | None
    )
}

/// Gives a socket whose peer is on this machine a congestion control that does not pace.
pub(super) fn disable_pacing(socket: SockRef<'_>, peer: IpAddr) {
    if peer.to_canonical().is_loopback() {
        // Not everybody may choose any (tcp(7), `tcp_allowed_congestion_control`); it is only about speed.
        let _ = socket.set_tcp_congestion(b"reno");
    }
}

pub(super) fn set_options(socket: SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let mut options = TcpKeepalive::new();
    options = keepalive.idle.map_or(options.clone(), |idle| options.with_time(idle));
    options = keepalive
        .interval
        .map_or(options.clone(), |interval| options.with_interval(interval));
    options = keepalive
        .count
        .map_or(options.clone(), |count| options.with_retries(count));
    if keepalive == Keepalive::default() {
        socket.set_keepalive(true)?;
    } else {
        socket.set_tcp_keepalive(&options)?;
    }
    // An urgent byte is carried in its place like any other (RFC 6093, P-16); left to itself the kernel takes it out.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_nodelay(true)
}

/// Whether an address belongs to this machine: the kernel would then send from it to itself. Sends nothing.
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
