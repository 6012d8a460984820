//! Which texts can be the host of an address: an IP address, or a name that could be resolved. Resolving is left to the
//! callers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest name and longest part of it between dots, in bytes (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Why a text is neither an IP address nor a possible host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidHost {
    /// The text is empty.
    Empty,
    /// Colons stand in IPv6 addresses only, and this is not one.
    Ipv6,
    /// Only digits and dots, but not an IPv4 address.
    Ipv4,
    /// A character that no host name has.
    Character(char),
    /// Nothing between two dots, or before the first.
    EmptyLabel,
    /// Longer than any host name.
    TooLong,
}

impl fmt::Display for InvalidHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the host is missing"),
            Self::Ipv6 => f.write_str("the host has colons but is not an IPv6 address"),
            Self::Ipv4 => f.write_str("the host is not an IPv4 address: four numbers from 0 to 255"),
            Self::Character(found) => write!(f, "the host has the character {found:?}, which no host name has"),
            Self::EmptyLabel => f.write_str("the host has nothing before a dot"),
            Self::TooLong => write!(
                f,
                "the host is longer than a name can be ({NAME_BYTES_MAX} bytes, {LABEL_BYTES_MAX} between dots)"
            ),
        }
    }
}

impl std::error::Error for InvalidHost {}

/// Returns the number of a port, 0 included; `None` for all else, such as a number with a sign.
pub fn parse_port(port: &str) -> Option<u16> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|_| is_number)
}

/// Checks that a text is an IP address, without brackets, or could be the name of a host. Names in any script pass, since
/// /etc/hosts may hold them.
///
/// # Errors
/// It is neither.
pub fn check_host(host: &str) -> Result<(), InvalidHost> {
    if host.is_empty() {
        return Err(InvalidHost::Empty);
    }
    if host.parse::<IpAddr>().is_ok() || is_scoped_ipv6(host) {
        return Ok(());
    }
    let is_name_char = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match host.chars().find(|c| !is_name_char(c)) {
        Some(':') => return Err(InvalidHost::Ipv6),
        Some(found) => return Err(InvalidHost::Character(found)),
        None => {}
    }
    let name = host.strip_suffix('.').unwrap_or(host); // the root of the name service
    let labels: Vec<&str> = name.split('.').collect();
    if labels.iter().any(|label| label.is_empty()) {
        return Err(InvalidHost::EmptyLabel);
    }
    if name.len() > NAME_BYTES_MAX || labels.iter().any(|label| label.len() > LABEL_BYTES_MAX) {
        return Err(InvalidHost::TooLong);
    }
    let is_number = |label: &&str| label.bytes().all(|byte| byte.is_ascii_digit());
    // The resolver also accepts shorter forms, such as 127.1 (inet_aton(3)).
    if labels.iter().all(is_number) && labels.len() >= 4 {
        return Err(InvalidHost::Ipv4);
    }
    Ok(())
}

/// Whether the text is an IPv6 address with a zone, such as `fe80::1%eth0`.
fn is_scoped_ipv6(host: &str) -> bool {
    let parts = host.split_once('%');
    parts.is_some_and(|(address, zone)| {
        let is_zone = !zone.is_empty()
            && zone
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '%' | '/' | ']'));
        is_zone && address.parse::<Ipv6Addr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_pass() {
        for host in [
            "127.0.0.1",
            "127.1",
            "::1",
            "fe80::1%eth0",
            "localhost",
            "etcd-0.etcd.svc.cluster.local.",
            "a_b",
            "käse.example",
            "1a",
        ] {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
    }

    #[test]
    fn what_can_never_be_resolved_is_refused() {
        for (host, why) in [
            ("", InvalidHost::Empty),
            ("300.1.1.1", InvalidHost::Ipv4),
            ("1.2.3.4.5", InvalidHost::Ipv4),
            ("::g", InvalidHost::Ipv6),
            ("1:2", InvalidHost::Ipv6),
            ("fe80::1%", InvalidHost::Ipv6),
            ("a b", InvalidHost::Character(' ')),
            ("user@a", InvalidHost::Character('@')),
            ("a\n", InvalidHost::Character('\n')),
            ("a..b", InvalidHost::EmptyLabel),
            (".", InvalidHost::EmptyLabel),
            (&"a".repeat(64), InvalidHost::TooLong),
            (&"a.".repeat(128), InvalidHost::TooLong),
        ] {
            assert_eq!(check_host(host), Err(why), "{host}");
        }
    }
}
