//! Resolves the master's address, and finds out whether it belongs to this machine. How the address is chosen is left
//! to `address`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base::Clock;

use super::resolver::Resolver;
use crate::address::{CurrentAddress, MasterAddress, decide_address};
use crate::listener::is_local_address;
use crate::route::{MasterEndpoint, NetworkFacts};

/// How long a check-in waits for the resolver while there is an address in use.
const LOOKUP_TIMEOUT_WITH_ADDRESS: Duration = Duration::from_millis(500);

/// Resolves the endpoint of the master within `limit`.
///
/// `in_use` returns the address of the open route, if it leads to this endpoint; it is called again after the lookup,
/// during which the route may have closed. `preferred` is taken if the name still resolves to it.
pub(super) async fn resolve(
    resolver: &mut Resolver,
    endpoint: &MasterEndpoint,
    in_use: impl Fn() -> Option<CurrentAddress>,
    preferred: Option<SocketAddr>,
    limit: Duration,
    clock: &Clock,
) -> MasterAddress {
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        return MasterAddress::Confirmed(SocketAddr::new(ip, endpoint.port));
    }
    let timeout = match in_use() {
        Some(_) => limit.min(LOOKUP_TIMEOUT_WITH_ADDRESS), // leaves time to publish
        None => limit,
    };
    let answer = resolver.look_up_within(endpoint, timeout).await;
    decide_address(answer, in_use(), preferred, clock.now())
}

/// Returns the facts about the network that the decision needs.
pub(super) fn network_facts(listen: SocketAddr, master: Option<SocketAddr>) -> NetworkFacts {
    let wildcard = listen.ip().to_canonical().is_unspecified();
    NetworkFacts {
        master,
        master_is_local: wildcard && master.is_some_and(|master| is_local_address(master.ip().to_canonical())),
        listen,
    }
}
