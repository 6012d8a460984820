//! Decides where clients may go, from the cluster data and the network facts of one check-in. Pure; how the store is
//! read is left to `checkin`, how connections are made to `listener`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use model::{CheckedClusterData, Db, DbUid, JsonError, ProxyUid, Stored, Unusable};

/// The cluster data as they were read and decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredClusterData {
    /// The key is absent or holds `null`.
    Absent,
    /// A document that must not be used: another format version, no spec, or an invalid one.
    Unusable(Unusable),
    /// A valid document.
    Usable(Box<CheckedClusterData>),
}

impl StoredClusterData {
    /// Whether a check-in decides the same from both, as long as the network is the same: all that `decide` and the
    /// intervals depend on is equal. Only usable data compare as alike.
    pub fn routes_like(&self, other: &Self) -> bool {
        let (Self::Usable(this), Self::Usable(other)) = (self, other) else {
            return false;
        };
        fn inputs(checked: &CheckedClusterData) -> impl PartialEq + '_ {
            let proxy = checked.data.proxy.as_ref().map(|proxy| (proxy.generation, &proxy.spec));
            let master = checked
                .data
                .proxied_master()
                .map(|(uid, db)| (uid, AdvertisedAddress::of(db)));
            let spec = &checked.spec;
            (proxy, master, spec.proxy_check_interval, spec.proxy_timeout)
        }
        inputs(this) == inputs(other)
    }
}

/// The master's address as the cluster data have it, valid or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedAddress {
    /// An address or a name; empty before the keeper has reported it.
    pub host: String,
    /// The port, a text in the document; empty before the keeper has reported it.
    pub port: String,
}

impl AdvertisedAddress {
    fn of(db: &Db) -> Self {
        Self {
            host: db.status.listen_address.clone(),
            port: db.status.port.clone(),
        }
    }

    /// Returns `None` if the address is empty, or the port is not a number from 1 to 65535.
    pub fn endpoint(&self) -> Option<MasterEndpoint> {
        let port = self.port.parse().ok().filter(|port| *port != 0)?;
        let host = Some(&self.host).filter(|host| !host.is_empty())?.clone();
        Some(MasterEndpoint { host, port })
    }
}

/// Where the master listens, according to the cluster data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterEndpoint {
    /// An address or a name.
    pub host: String,
    /// Not zero.
    pub port: u16,
}

impl StoredClusterData {
    /// Decodes the value of the key; `None` if it is absent.
    ///
    /// # Errors
    ///
    /// The value is not a cluster data document.
    pub fn parse(value: Option<&[u8]>) -> Result<Self, JsonError> {
        match Stored::decode(value) {
            Stored::Absent => Ok(Self::Absent),
            Stored::Undecodable(error) => Err(error),
            Stored::Unusable { why, .. } => Ok(Self::Unusable(why)),
            Stored::Usable(checked) => Ok(Self::Usable(checked)),
        }
    }

    /// Returns the db that the cluster data name and its endpoint, which has to be resolved before a route can be
    /// decided.
    ///
    /// `None` if no master is named, its db is not in the document, or it has no valid address or port.
    pub fn master_endpoint(&self) -> Option<(&DbUid, MasterEndpoint)> {
        let Self::Usable(checked) = self else { return None };
        let (uid, db) = checked.data.proxied_master()?;
        Some((uid, AdvertisedAddress::of(db).endpoint()?))
    }
}

/// What a decision needs beside the cluster data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// The address that `StoredClusterData::master_endpoint` resolves to, if it does.
    pub master: Option<SocketAddr>,
    /// Whether that address belongs to this machine.
    pub master_is_local: bool,
    /// Address that clients connect to.
    pub listen: SocketAddr,
}

/// Where clients may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this master, once the proxy info is published.
    Open {
        /// The db that the cluster data name.
        db: DbUid,
        /// Its address.
        master: SocketAddr,
    },
    /// Nowhere, for this reason.
    Closed(RouteClosedReason),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { db, master } => write!(f, "open to db {db} at {master}"),
            Self::Closed(reason) => write!(f, "closed: {reason}"),
        }
    }
}

/// Why the route is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteClosedReason {
    /// The key is absent or holds `null`.
    NoClusterData,
    /// The document must not be used.
    UnusableData(Unusable),
    /// The document has no proxy object.
    NoProxyObject,
    /// The proxy object names no db, or one that is not in the document.
    NoDb(DbUid),
    /// The master's address is empty, invalid, or does not resolve.
    NoAddress(DbUid, AdvertisedAddress),
    /// The master's address is our own listening address (proxy P-15).
    OwnAddress(SocketAddr),
    /// This proxy is not among the enabled ones.
    NotEnabled(SocketAddr),
}

impl RouteClosedReason {
    /// Whether this may be the effect of a change of the master (fencing F-5), so that clients are held for the next
    /// one (proxy P-8).
    pub fn may_be_master_change(&self) -> bool {
        matches!(self, Self::NoDb(_) | Self::NotEnabled(_))
    }
}

impl fmt::Display for RouteClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClusterData => f.write_str("no cluster data"),
            Self::UnusableData(unusable) => unusable.fmt(f),
            Self::NoProxyObject => f.write_str("no proxy object"),
            Self::NoDb(db) if db.is_empty() => f.write_str("no master named"),
            Self::NoDb(db) => write!(f, "db {db} is not there"),
            Self::NoAddress(db, _) => write!(f, "db {db} has no usable address"),
            Self::OwnAddress(own) => write!(f, "the master's address {own} is our own"),
            Self::NotEnabled(_) => f.write_str("not enabled"),
        }
    }
}

/// Whether the proxy info is published, and what a failure to do so means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishInfo {
    /// Nothing is published.
    No,
    /// With this proxy generation; a failure is only logged.
    Try(i64),
    /// With this proxy generation; a failure fails the check-in.
    Must(i64),
}

/// The decision of a check-in (proxy P-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDecision {
    /// Where clients may go. An open route opens only after publishing, a closed one closes before it (fencing F-1).
    pub route: Route,
    /// What is published about it.
    pub publish: PublishInfo,
    /// Whether the check-in counts as successful and renews the lease, once it has published what it must.
    pub renews_lease: bool,
}

/// Decides where clients may go, by the table of proxy P-3, from cluster data that were read and decoded.
///
/// If the store does not answer, or its value cannot be decoded, there is no decision: the route stays as it is until
/// its lease ends.
pub fn decide(stored: &StoredClusterData, network: &NetworkFacts, me: &ProxyUid) -> RouteDecision {
    let closed = |reason, publish, renews_lease| RouteDecision {
        route: Route::Closed(reason),
        publish,
        renews_lease,
    };
    let checked = match stored {
        // The store has answered, so the lease is renewed. There is no generation to publish.
        StoredClusterData::Absent => return closed(RouteClosedReason::NoClusterData, PublishInfo::No, true),
        // Not renewed: at the end of the lease the listening socket closes as well, so that a load balancer can use
        // another proxy (proxy P-4).
        StoredClusterData::Unusable(unusable) => {
            return closed(
                RouteClosedReason::UnusableData(unusable.clone()),
                PublishInfo::No,
                false,
            );
        }
        StoredClusterData::Usable(checked) => checked,
    };
    let Some(proxy) = &checked.data.proxy else {
        return closed(RouteClosedReason::NoProxyObject, PublishInfo::Try(0), true);
    };
    // A change of the master begins like this (fencing F-5), and the sentinel waits for the generation. A failure to
    // publish it delays the change but is safe, because the route is closed.
    let Some((uid, db)) = checked.data.proxied_master() else {
        let named = proxy.spec.master_db_uid.clone();
        return closed(RouteClosedReason::NoDb(named), PublishInfo::Try(proxy.generation), true);
    };
    // Nothing is published: the generation names a master that this proxy cannot connect to.
    let Some(master) = network.master else {
        return closed(
            RouteClosedReason::NoAddress(uid.clone(), AdvertisedAddress::of(db)),
            PublishInfo::No,
            true,
        );
    };
    if is_own_address(network, master) {
        return closed(RouteClosedReason::OwnAddress(master), PublishInfo::No, true);
    }
    // Published all the same: the sentinel enables the proxies that have published their info (sentinel P-7).
    if !proxy.spec.enabled_proxies.contains(me) {
        return closed(
            RouteClosedReason::NotEnabled(master),
            PublishInfo::Must(proxy.generation),
            true,
        );
    }
    RouteDecision {
        route: Route::Open {
            db: uid.clone(),
            master,
        },
        publish: PublishInfo::Must(proxy.generation),
        renews_lease: true,
    }
}

/// Whether a connection to `master` would reach our own socket (proxy P-15).
fn is_own_address(network: &NetworkFacts, master: SocketAddr) -> bool {
    let (listen, ip) = (network.listen.ip().to_canonical(), master.ip().to_canonical());
    let reaches = if listen.is_unspecified() {
        network.master_is_local
    } else {
        listen == ip || means_loopback(ip, listen)
    };
    master.port() == network.listen.port() && reaches
}

/// Connecting to the unspecified address connects to this machine's loopback (ip(7)).
fn means_loopback(ip: IpAddr, listen: IpAddr) -> bool {
    ip.is_unspecified() && listen.is_loopback()
}

#[cfg(test)]
mod tests;
