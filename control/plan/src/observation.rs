//! What a sentinel reads in one transaction besides the cluster data. Earlier reads are left to `history`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::clock::Boottime;
use model::{BootUuid, FailoverRequest, KeeperInfo, KeeperOrder, KeeperUid, ProxyInfo, ProxyUid, SwitchoverRequest};

/// One info as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed<T> {
    /// Its name: the key after the prefix of its kind, which may differ from the uid in the info (store S-11).
    pub key: String,
    /// The revision of its last put.
    pub revision: i64,
    /// Minimum age when read, from its lease or from the watch event (sentinel E-2, E-6); zero when neither is known.
    pub age: Duration,
    /// The info.
    pub info: T,
}

/// The order of a keeper as read.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedOrder {
    /// The revision of its last put.
    pub revision: i64,
    /// The order; none if it cannot be decoded.
    pub order: Option<KeeperOrder>,
    /// It is under the lease of this sentinel's orders. Another one ends with the leader that put it.
    pub is_own: bool,
}

/// Infos and liveness keys, read in the same transaction as the cluster data (sentinel E-2).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observations {
    /// Keeper infos by the uid in them, without those that cannot be decoded (store S-12).
    pub keepers: BTreeMap<KeeperUid, Observed<KeeperInfo>>,
    /// The revision of the last put of every keeper info key, including undecodable ones.
    pub keeper_keys: BTreeMap<String, i64>,
    /// The keys of keeper infos that were put before the change that started this round, and started none themselves
    /// (sentinel E-1).
    pub repeated_keepers: BTreeSet<String>,
    /// Proxy infos by the uid in them.
    pub proxies: BTreeMap<ProxyUid, Observed<ProxyInfo>>,
    /// Keys of undecodable proxy infos: each may be a proxy that still forwards (fencing F-6).
    pub undecodable_proxies: BTreeSet<ProxyUid>,
    /// Liveness keys and their values.
    pub liveness_keys: BTreeMap<KeeperUid, BootUuid>,
    /// When the watch reported that a liveness key is gone. Its last renewal was at least a TTL before that.
    pub liveness_gone: BTreeMap<KeeperUid, Boottime>,
    /// An operator's request for a failover, with the revision of its put; none if there is none, or none that can be
    /// decoded (synchronous SY-20).
    pub failover: Option<(FailoverRequest, i64)>,
    /// An operator's request for a switchover, with the revision of its put; none if there is none, or none that can be
    /// decoded (extensions X-2).
    pub switchover: Option<(SwitchoverRequest, i64)>,
    /// The orders of all keepers (extensions X-2).
    pub orders: BTreeMap<KeeperUid, ObservedOrder>,
    /// Duration of the read, from request to response.
    pub latency: Duration,
    /// Duration of the sentinel's own requests since the previous read: its write and its lease queries.
    pub own_requests: Duration,
}
