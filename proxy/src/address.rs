//! Decides which address stands for the master's name, from the resolver's answer and the address in use. Pure; how and
//! when names are looked up is left to `checkin`.

use std::net::SocketAddr;

use base::clock::Boottime;

/// Result of a lookup of the master's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupResult {
    /// These addresses; an empty list counts as a failure.
    Addresses(Vec<SocketAddr>),
    /// An error, in the resolver's words.
    Failed(String),
    /// No response yet.
    Pending,
}

/// The address of an open route to the same db, name and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentAddress {
    /// The address that clients are connected to.
    pub address: SocketAddr,
    /// End of the lease of the last check-in at which the name resolved to the address.
    pub confirmed_until: Boottime,
    /// Whether the last connect to it succeeded; true before the first one.
    pub reachable: bool,
}

/// The decision of one check-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterAddress {
    /// The resolver returned this address.
    Confirmed(SocketAddr),
    /// The address in use stays, until the end of its lease at most.
    Kept {
        /// The address in use.
        address: SocketAddr,
        /// End of the lease.
        until: Boottime,
        /// Why it is not confirmed.
        reason: UnconfirmedReason,
    },
    /// There is no address, for this reason.
    Unknown(String),
}

impl MasterAddress {
    /// Returns the address, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Confirmed(address) | Self::Kept { address, .. } => Some(*address),
            Self::Unknown(_) => None,
        }
    }
}

/// Why an address in use is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnconfirmedReason {
    /// The lookup failed, or has not finished.
    NoAnswer(String),
    /// The name resolves to these addresses now.
    OtherAddresses(Vec<SocketAddr>),
}

/// Decides which address stands for the master's name.
///
/// A failed, late or different answer is no sign that an unchanged master has moved: resolvers time out, and some
/// return another subset of the addresses each time. So an address in use stays until the end of the lease that was
/// granted when it was last confirmed. At most one address is used at a time, because a name that has moved may lead to
/// another server. An address that connects fail to reach is replaced at once if the name resolves to others.
///
/// `preferred` is taken if the response contains it, so that the order of the addresses changes no route (proxy P-6).
pub fn decide_address(
    answer: LookupResult,
    in_use: Option<CurrentAddress>,
    preferred: Option<SocketAddr>,
    now: Boottime,
) -> MasterAddress {
    let in_use = in_use.filter(|in_use| now < in_use.confirmed_until);
    // `fallback` is the decision without an address in use.
    let (reason, fallback) = match answer {
        LookupResult::Addresses(addresses) => {
            let preferred = in_use.map(|in_use| in_use.address).or(preferred);
            match (choose_address(&addresses, preferred), in_use) {
                (None, _) => unconfirmed("the name has no address".to_owned()),
                (Some(chosen), Some(in_use)) if in_use.reachable && chosen != in_use.address => (
                    UnconfirmedReason::OtherAddresses(addresses),
                    MasterAddress::Confirmed(chosen),
                ),
                (Some(chosen), _) => return MasterAddress::Confirmed(chosen),
            }
        }
        LookupResult::Failed(error) => unconfirmed(error),
        LookupResult::Pending => unconfirmed("the resolver has not answered yet".to_owned()),
    };
    in_use.map_or(fallback, |in_use| MasterAddress::Kept {
        address: in_use.address,
        until: in_use.confirmed_until,
        reason,
    })
}

fn unconfirmed(reason: String) -> (UnconfirmedReason, MasterAddress) {
    (
        UnconfirmedReason::NoAnswer(reason.clone()),
        MasterAddress::Unknown(reason),
    )
}

/// Returns the address to use of those that a name resolves to.
///
/// The preferred one if it is among them, so that their order ends no connection (proxy P-6). Otherwise the first IPv4
/// address if there is one, as in Go stolon, whose keepers may listen on IPv4 alone.
fn choose_address(resolved: &[SocketAddr], preferred: Option<SocketAddr>) -> Option<SocketAddr> {
    preferred
        .filter(|preferred| resolved.contains(preferred))
        .or_else(|| resolved.iter().copied().find(SocketAddr::is_ipv4))
        .or_else(|| resolved.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Boottime = Boottime::from_nanos(1_000);
    const LATER: Boottime = Boottime::from_nanos(2_000);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 5432))
    }

    fn addresses(lasts: &[u8]) -> LookupResult {
        LookupResult::Addresses(lasts.iter().map(|last| address(*last)).collect())
    }

    const IN_USE: fn() -> Option<CurrentAddress> = || {
        Some(CurrentAddress {
            address: address(1),
            confirmed_until: LATER,
            reachable: true,
        })
    };

    /// Returns what becomes of an open route to 192.0.2.1: the last byte of the address, and in brackets why it is not
    /// confirmed.
    fn open(answer: LookupResult, in_use: Option<CurrentAddress>, now: Boottime) -> String {
        match decide_address(answer, in_use, None, now) {
            MasterAddress::Confirmed(address) => address.to_string().replace("192.0.2.", "").replace(":5432", ""),
            MasterAddress::Kept {
                address: kept,
                until,
                reason,
            } => {
                assert_eq!((kept, until), (address(1), LATER));
                match reason {
                    UnconfirmedReason::NoAnswer(reason) => format!("1 ({reason})"),
                    UnconfirmedReason::OtherAddresses(addresses) => format!("1 ({} others)", addresses.len()),
                }
            }
            MasterAddress::Unknown(reason) => format!("none: {reason}"),
        }
    }

    #[test]
    fn an_address_in_use_stays_whatever_the_resolver_answers_until_its_lease_ends() {
        let failed = || LookupResult::Failed("no such name".to_owned());
        for (answer, kept, expired) in [
            (failed(), "1 (no such name)", "none: no such name"),
            (
                LookupResult::Pending,
                "1 (the resolver has not answered yet)",
                "none: the resolver has not answered yet",
            ),
            (
                addresses(&[]),
                "1 (the name has no address)",
                "none: the name has no address",
            ),
            (addresses(&[2, 3]), "1 (2 others)", "2"),
            (addresses(&[3, 1, 2]), "1", "3"), // another order, a superset
            (addresses(&[1]), "1", "1"),       // a subset
        ] {
            assert_eq!(open(answer.clone(), IN_USE(), NOW), kept);
            assert_eq!(open(answer.clone(), IN_USE(), LATER), expired, "its lease has ended");
            assert_eq!(open(answer, None, NOW), expired, "nothing is in use");
        }
    }

    #[test]
    fn an_unreachable_address_is_replaced_by_those_of_the_name_and_kept_on_failures() {
        let unreachable = IN_USE().map(|in_use| CurrentAddress {
            reachable: false,
            ..in_use
        });
        assert_eq!(open(addresses(&[2]), unreachable, NOW), "2");
        assert_eq!(
            open(addresses(&[2, 1]), unreachable, NOW),
            "1",
            "the name still leads there"
        );
        assert_eq!(
            open(LookupResult::Failed("timeout".to_owned()), unreachable, NOW),
            "1 (timeout)"
        );
    }

    #[test]
    fn a_closed_route_opens_to_the_address_that_it_had() {
        assert_eq!(
            decide_address(addresses(&[2, 1]), None, Some(address(1)), NOW),
            MasterAddress::Confirmed(address(1))
        );
        assert_eq!(
            decide_address(addresses(&[2]), None, Some(address(1)), NOW),
            MasterAddress::Confirmed(address(2))
        );
    }

    // proxy P-6
    #[test]
    fn a_name_with_several_addresses_keeps_the_current_one() {
        let [a, b] = ["10.0.0.1:1", "10.0.0.2:1"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(choose_address(&[a, b], None), Some(a));
        assert_eq!(choose_address(&[a, b], Some(b)), Some(b));
        assert_eq!(choose_address(&[a], Some(b)), Some(a));
        assert_eq!(choose_address(&[], Some(b)), None);
        let c = "[::1]:1".parse().unwrap();
        assert_eq!(choose_address(&[c, b], None), Some(b));
        assert_eq!(choose_address(&[c], Some(b)), Some(c));
    }
}
