//! Free TCP ports on loopback, each reserved for one user among all processes that take theirs here.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

/// Below the kernel's range for outgoing connections (`net.ipv4.ip_local_port_range`, from 32768), so that no outgoing
/// connection takes a port before its server binds it.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that no other user of this type takes until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The reservation among processes: a name in the abstract socket namespace, which ends with the process.
    _reservation: UnixListener,
}

impl Port {
    /// Reserves a port on which no socket listens.
    ///
    /// # Errors
    ///
    /// The whole range is in use.
    pub fn free() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let size = u32::from(RANGE.end - RANGE.start);
        // Processes that start together search different parts of the range.
        let start = std::process::id().wrapping_mul(37);
        (0..size)
            .map(|_| start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % size)
            .filter_map(|offset| u16::try_from(offset).ok())
            .find_map(|offset| Self::reserve(RANGE.start + offset))
            .ok_or_else(|| Error::new(format!("no free port in {RANGE:?}")))
    }

    /// Returns its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn reserve(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("stolon-port-{number}")).ok()?;
        let reservation = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self {
            number,
            _reservation: reservation,
        })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_reserved_only_once() {
        let ports: Vec<Port> = (0..20).map(|_| Port::free().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }
}
