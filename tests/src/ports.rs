//! Free TCP ports on loopback, each reserved for one user, among all test processes.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's range for outgoing connections (`net.ipv4.ip_local_port_range`, from 32768), so that no outgoing
/// connection takes a port before its server binds it.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that no other test uses until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The reservation among processes: a name in the abstract socket namespace, which ends with the process.
    _reservation: UnixListener,
}

impl Port {
    /// Reserves a port on which no socket listens.
    ///
    /// # Panics
    ///
    /// The whole range is in use.
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let size = RANGE.end - RANGE.start;
        let start = u16::try_from(std::process::id() % u32::from(size)).expect("a remainder is below its divisor");
        for _ in 0..size {
            let offset = (u32::from(start) * 37 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(size);
            let number = RANGE.start + u16::try_from(offset).expect("a remainder is below its divisor");
            let Ok(name) = SocketAddr::from_abstract_name(format!("stolon-tests-port-{number}")) else {
                continue;
            };
            let Ok(reservation) = UnixListener::bind_addr(&name) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self {
                    number,
                    _reservation: reservation,
                };
            }
        }
        panic!("no free port in {RANGE:?}");
    }

    /// Returns its number.
    pub fn number(&self) -> u16 {
        self.number
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
        let ports: Vec<Port> = (0..20).map(|_| Port::free()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }
}
