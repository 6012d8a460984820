//! Which address stands for the master's name: from an answer of the resolver and the address in use, one address or
//! none. How names are looked up, and when, is left to `checkin`.

use std::net::SocketAddr;

use control::clock::Boottime;

use crate::route::choose_address;

/// What a lookup of the master's name has brought so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupResult {
    /// These addresses; none at all counts as a failure.
    Addresses(Vec<SocketAddr>),
    /// An error, in the resolver's words.
    Failed(String),
    /// Nothing yet.
    Pending,
}

/// The address of an open route to the same db at the same name and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentAddress {
    /// The address.
    pub address: SocketAddr,
    /// The end of the lease of the last check-in that found the address in an answer.
    pub confirmed_until: Boottime,
    /// Whether the last connection to it succeeded; also when there was none.
    pub reachable: bool,
}

/// What a check-in makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterAddress {
    /// The resolver says so.
    Confirmed(SocketAddr),
    /// The address in use, for no longer than its lease.
    Kept {
        /// The address.
        address: SocketAddr,
        /// The end of the lease.
        until: Boottime,
        /// Why it is not confirmed.
        why: UnconfirmedReason,
    },
    /// There is no address, for this reason.
    Unknown(String),
}

impl MasterAddress {
    /// The address, if there is one.
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
    /// The lookup failed, or is not finished.
    NoAnswer(String),
    /// The name leads to these addresses now.
    OtherAddresses(Vec<SocketAddr>),
}

/// Decides which address stands for the master's name.
///
/// An answer that fails, is late or names other addresses says little about an unchanged master: resolvers time out, and
/// some return another part of the addresses each time. So an address in use stays until the lease ends that was given
/// when it was last confirmed. Only one address is used at any time: a name that has moved may lead to another server.
/// An address that connections fail to reach gives way at once to those that the name leads to now.
///
/// `preferred` is taken when an answer has it, so that the order of the addresses moves no route (proxy P-6).
pub fn decide_address(
    answer: LookupResult,
    in_use: Option<CurrentAddress>,
    preferred: Option<SocketAddr>,
    now: Boottime,
) -> MasterAddress {
    let in_use = in_use.filter(|in_use| now < in_use.confirmed_until);
    let (doubt, otherwise) = match answer {
        LookupResult::Addresses(found) => {
            let preferred = in_use.map(|in_use| in_use.address).or(preferred);
            match (choose_address(&found, preferred), in_use) {
                (None, _) => unconfirmed("the name has no address".to_owned()),
                (Some(chosen), Some(in_use)) if in_use.reachable && chosen != in_use.address => (
                    UnconfirmedReason::OtherAddresses(found),
                    MasterAddress::Confirmed(chosen),
                ),
                (Some(chosen), _) => return MasterAddress::Confirmed(chosen),
            }
        }
        LookupResult::Failed(error) => unconfirmed(error),
        LookupResult::Pending => unconfirmed("the resolver has not answered yet".to_owned()),
    };
    in_use.map_or(otherwise, |in_use| MasterAddress::Kept {
        address: in_use.address,
        until: in_use.confirmed_until,
        why: doubt,
    })
}

fn unconfirmed(reason: String) -> (UnconfirmedReason, MasterAddress) {
    (
        UnconfirmedReason::NoAnswer(reason.clone()),
        MasterAddress::Unknown(reason),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Boottime = Boottime::from_nanos(1_000);
    const LATER: Boottime = Boottime::from_nanos(2_000);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 5432))
    }

    fn found(lasts: &[u8]) -> LookupResult {
        LookupResult::Addresses(lasts.iter().map(|last| address(*last)).collect())
    }

    const IN_USE: fn() -> Option<CurrentAddress> = || {
        Some(CurrentAddress {
            address: address(1),
            confirmed_until: LATER,
            reachable: true,
        })
    };

    /// What becomes of an open route to 192.0.2.1: the last byte of the address, and in brackets why it is not confirmed.
    fn open(answer: LookupResult, in_use: Option<CurrentAddress>, now: Boottime) -> String {
        match decide_address(answer, in_use, None, now) {
            MasterAddress::Confirmed(address) => address.to_string().replace("192.0.2.", "").replace(":5432", ""),
            MasterAddress::Kept {
                address: kept,
                until,
                why,
            } => {
                assert_eq!((kept, until), (address(1), LATER));
                match why {
                    UnconfirmedReason::NoAnswer(why) => format!("1 ({why})"),
                    UnconfirmedReason::OtherAddresses(found) => format!("1 ({} others)", found.len()),
                }
            }
            MasterAddress::Unknown(why) => format!("none: {why}"),
        }
    }

    #[test]
    fn an_address_in_use_stays_whatever_the_resolver_answers_until_its_lease_ends() {
        let failed = || LookupResult::Failed("no such name".to_owned());
        for (answer, kept, over) in [
            (failed(), "1 (no such name)", "none: no such name"),
            (
                LookupResult::Pending,
                "1 (the resolver has not answered yet)",
                "none: the resolver has not answered yet",
            ),
            (
                found(&[]),
                "1 (the name has no address)",
                "none: the name has no address",
            ),
            (found(&[2, 3]), "1 (2 others)", "2"),
            (found(&[3, 1, 2]), "1", "3"), // another order, a superset
            (found(&[1]), "1", "1"),       // a subset
        ] {
            assert_eq!(open(answer.clone(), IN_USE(), NOW), kept);
            assert_eq!(open(answer.clone(), IN_USE(), LATER), over, "its lease has ended");
            assert_eq!(open(answer, None, NOW), over, "nothing is in use");
        }
    }

    #[test]
    fn an_address_that_cannot_be_reached_gives_way_to_those_of_the_name_and_to_no_failure() {
        let dead = IN_USE().map(|in_use| CurrentAddress {
            reachable: false,
            ..in_use
        });
        assert_eq!(open(found(&[2]), dead, NOW), "2");
        assert_eq!(open(found(&[2, 1]), dead, NOW), "1", "the name still leads there");
        assert_eq!(
            open(LookupResult::Failed("timeout".to_owned()), dead, NOW),
            "1 (timeout)"
        );
    }

    #[test]
    fn a_closed_route_opens_to_the_address_that_it_had() {
        assert_eq!(
            decide_address(found(&[2, 1]), None, Some(address(1)), NOW),
            MasterAddress::Confirmed(address(1))
        );
        assert_eq!(
            decide_address(found(&[2]), None, Some(address(1)), NOW),
            MasterAddress::Confirmed(address(2))
        );
    }
}
