//! Where clients may go: from what the store holds to a route, with its reason. How the store is asked and how
//! connections are carried is left to `checkin` and `listener`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use control::model::{Checked, ClusterData, Db, DbUid, JsonError, ProxyUid, Unusable};

/// What was read under the key of the cluster data, when it could be read and decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredClusterData {
    /// The key is absent or holds `null`.
    Absent,
    /// A document that may not be used: another format version, no spec, an invalid one.
    Unusable(Unusable),
    /// A good document.
    Usable(Box<Checked>),
}

/// What the cluster data tell of a master's address, usable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedAddress {
    /// An address or a name; empty before the keeper has told it.
    pub host: String,
    /// The same of the port, a text in the document.
    pub port: String,
}

impl AdvertisedAddress {
    fn of(db: &Db) -> Self {
        Self {
            host: db.status.listen_address.clone(),
            port: db.status.port.clone(),
        }
    }

    /// `None` when the address is empty, or the port is no number from 1 to 65535.
    pub fn endpoint(&self) -> Option<MasterEndpoint> {
        let port = self.port.parse().ok().filter(|port| *port != 0)?;
        let host = Some(&self.host).filter(|host| !host.is_empty())?.clone();
        Some(MasterEndpoint { host, port })
    }
}

/// Where the named master listens, as the cluster data tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterEndpoint {
    /// An address or a name.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl StoredClusterData {
    /// Reads what is under the key; `None` when it is absent.
    ///
    /// # Errors
    /// The value is not a cluster data document at all.
    pub fn parse(value: Option<&[u8]>) -> Result<Self, JsonError> {
        let Some(value) = value else { return Ok(Self::Absent) };
        Ok(match ClusterData::parse(value)? {
            None => Self::Absent,
            Some(data) => data
                .check()
                .map_or_else(Self::Unusable, |checked| Self::Usable(Box::new(checked))),
        })
    }

    /// The named master and where it says it listens; to be resolved before a route can be concluded.
    ///
    /// `None` when no master is named, it is not in the document, or it has no usable address or port.
    pub fn master_endpoint(&self) -> Option<(&DbUid, MasterEndpoint)> {
        let Self::Usable(checked) = self else { return None };
        let (uid, db) = checked.data.proxied_master()?;
        Some((uid, AdvertisedAddress::of(db).endpoint()?))
    }
}

/// What a check-in needs to know beside the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// The address that `Found::master` resolves to, when it does.
    pub master: Option<SocketAddr>,
    /// Whether that address belongs to this machine.
    pub master_is_local: bool,
    /// The address that clients connect to.
    pub listen: SocketAddr,
}

/// Where clients may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this master, once the proxy info is published.
    Open {
        /// The db that the cluster data name.
        db: DbUid,
        /// Where it listens.
        master: SocketAddr,
    },
    /// Nowhere.
    Closed(ClosedReason),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { db, master } => write!(f, "open to db {db} at {master}"),
            Self::Closed(why) => write!(f, "closed: {why}"),
        }
    }
}

/// Why clients may go nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClosedReason {
    /// The key is absent or holds `null`.
    NoClusterData,
    /// The document may not be used.
    UnusableData(Unusable),
    /// The document has no proxy object.
    NoProxyObject,
    /// The proxy object names no db, or one that is not there.
    NoDb(DbUid),
    /// The master's address is empty or does not resolve.
    NoAddress(DbUid, AdvertisedAddress),
    /// The master's address is our own listening address (P-15).
    OwnAddress(SocketAddr),
    /// This proxy is not in the list of enabled ones.
    NotEnabled(SocketAddr),
}

impl ClosedReason {
    /// Whether this is what a change of the master looks like on its way (fencing F-5), so that clients may wait for the
    /// next one (P-8).
    pub fn may_be_master_change(&self) -> bool {
        matches!(self, Self::NoDb(_) | Self::NotEnabled(_))
    }
}

impl fmt::Display for ClosedReason {
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
    /// Not at all.
    No,
    /// With this proxy generation; a failure is only logged.
    Try(i64),
    /// With this proxy generation; a failure fails the check-in.
    Must(i64),
}

/// What a check-in concludes from what it read (P-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDecision {
    /// Where clients may go. An open route opens only after publishing, a closed one closes before (fencing F-1).
    pub route: Route,
    /// What to say of it.
    pub publish: PublishInfo,
    /// Whether the check-in, once it has published what it must, counts as success and renews the lease.
    pub renews_lease: bool,
}

/// Decides where clients may go, by the table of P-3, from a document that was read and decoded.
///
/// A store that does not answer, or a value that cannot be decoded, gives nothing to conclude from: the route stays as
/// it is until its lease ends.
pub fn decide(found: &StoredClusterData, around: &NetworkFacts, me: &ProxyUid) -> RouteDecision {
    let verdict = |why, publish, renews| RouteDecision {
        route: Route::Closed(why),
        publish,
        renews_lease: renews,
    };
    let checked = match found {
        StoredClusterData::Absent => return verdict(ClosedReason::NoClusterData, PublishInfo::No, true),
        StoredClusterData::Unusable(unusable) => {
            return verdict(ClosedReason::UnusableData(unusable.clone()), PublishInfo::No, false);
        }
        StoredClusterData::Usable(checked) => checked,
    };
    let Some(proxy) = &checked.data.proxy else {
        return verdict(ClosedReason::NoProxyObject, PublishInfo::Try(0), true);
    };
    let Some((uid, db)) = checked.data.proxied_master() else {
        let named = proxy.spec.master_db_uid.clone();
        return verdict(ClosedReason::NoDb(named), PublishInfo::Try(proxy.generation), true);
    };
    let Some(master) = around.master else {
        return verdict(
            ClosedReason::NoAddress(uid.clone(), AdvertisedAddress::of(db)),
            PublishInfo::No,
            true,
        );
    };
    if is_own_address(around, master) {
        return verdict(ClosedReason::OwnAddress(master), PublishInfo::No, true);
    }
    if !proxy.spec.enabled_proxies.contains(me) {
        return verdict(
            ClosedReason::NotEnabled(master),
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

/// Which of the addresses that a name resolves to is taken.
///
/// The present one while it is among them, so that their order ends no connection (P-6); else the first of IPv4 if there
/// is one, as the reference does, whose keepers may listen on IPv4 alone.
pub fn choose_address(resolved: &[SocketAddr], present: Option<SocketAddr>) -> Option<SocketAddr> {
    present
        .filter(|present| resolved.contains(present))
        .or_else(|| resolved.iter().copied().find(SocketAddr::is_ipv4))
        .or_else(|| resolved.first().copied())
}

/// Whether a connection to `master` would arrive at our own socket (P-15).
fn is_own_address(around: &NetworkFacts, master: SocketAddr) -> bool {
    let (listen, ip) = (around.listen.ip().to_canonical(), master.ip().to_canonical());
    let reaches = if listen.is_unspecified() {
        around.master_is_local
    } else {
        listen == ip || means_loopback(ip, listen)
    };
    master.port() == around.listen.port() && reaches
}

/// Connecting to the unspecified address means connecting to this machine's loopback (ip(7)).
fn means_loopback(ip: IpAddr, listen: IpAddr) -> bool {
    ip.is_unspecified() && listen.is_loopback()
}

#[cfg(test)]
mod tests;
