//! The options of sockets on both sides of a connection. Which sockets are connected is decided elsewhere.
//!
//! `TCP_USER_TIMEOUT` is deliberately not set (proxy P-10). Once set, it replaces the keepalive options as the limit
//! for a silent peer (`tcp_keepalive_timer` in the kernel's net/ipv4/tcp_timer.c), and it also ends connections to
//! peers that acknowledge but do not read for that long (tcp(7)): a client with its output in a pager, a server that
//! waits for a lock in the middle of a COPY. So three mechanisms detect a dead peer: keepalive while no bytes wait for
//! it; the `PeerTimeout`, computed here, once the proxy has to buffer bytes for it; and for bytes that fit into
//! the kernel's send buffer the kernel's own limit, `net.ipv4.tcp_retries2`, after about 15 minutes.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::PeerTimeout;

/// Options of TCP keepalive, which itself is always on; `None` keeps the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Number of unanswered probes after which the connection fails.
    pub count: Option<u32>,
}

impl Keepalive {
    /// Returns the timeout of a peer that bytes wait for: the time that keepalive allows while none do. Options that
    /// are not given count as in the default of [`PeerTimeout`]. The system's defaults add up to hours, in which a peer
    /// lost in the middle of a response would keep locks.
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

/// Whether the system's congestion control paces its sends, as `bbr` does. Pacing halves the throughput of loopback.
pub(crate) fn uses_pacing(socket: SockRef<'_>) -> bool {
    let name = socket.tcp_congestion().unwrap_or_default();
    !matches!(
        name.split(|byte| *byte == 0).next(),
        Some(b"reno" | b"cubic" | b"") | None
    )
}

/// Sets a congestion control that does not pace, if the peer is on this machine.
pub(crate) fn disable_pacing(socket: SockRef<'_>, peer: IpAddr) {
    if peer.to_canonical().is_loopback() {
        // Setting it may need a privilege (tcp(7), `tcp_allowed_congestion_control`); failing costs only speed.
        let _ = socket.set_tcp_congestion(b"reno");
    }
}

pub(crate) fn set_options(socket: SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
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
    // Keeps an urgent byte in the stream (RFC 6093, proxy P-16); by default the kernel takes it out.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_nodelay(true)
}
