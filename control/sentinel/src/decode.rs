//! Decodes what was read from the store. Undecodable values are kept apart with their error, not dropped.

use std::collections::{BTreeMap, BTreeSet};

use model::{BootUuid, JsonError, KeeperInfo, KeeperUid, ProxyInfo, ProxyUid, Stored, from_slice};
use plan::{Observations, Observed, RoutineInfos};
use store::{Entry, KeyChange, KeyRange, Keys, LeaseId, Revision, Snapshot};

use crate::requests::{UnusableRequest, decode_orders, decode_request};

/// The decoded result of one read transaction (sentinel E-2).
#[derive(Debug)]
pub(super) struct DecodedSnapshot {
    /// The cluster data.
    pub(super) data: Stored,
    /// The revision of its last put; [`Revision::ABSENT`] when the key does not exist.
    pub(super) revision: Revision,
    /// The infos and liveness keys.
    pub(super) observations: Observations,
    /// The leases of the keeper infos.
    pub(super) leases: BTreeMap<KeeperUid, LeaseId>,
    /// Undecodable info keys, with the error (store S-12).
    pub(super) undecodable: BTreeMap<String, JsonError>,
    /// Requests of operators that count for nothing, and why.
    pub(super) unusable_requests: BTreeMap<String, UnusableRequest>,
}

/// Returns the keys that a sentinel reads and watches.
pub(super) fn key_ranges(keys: &Keys) -> Vec<KeyRange> {
    vec![
        KeyRange::Key(keys.cluster_data()),
        KeyRange::Prefix(keys.keeper_infos()),
        KeyRange::Prefix(keys.proxy_infos()),
        KeyRange::Prefix(keys.liveness_keys()),
        KeyRange::Key(keys.failover_request()),
        KeyRange::Key(keys.switchover()),
        KeyRange::Prefix(keys.orders()),
    ]
}

/// Decodes what was read for [`key_ranges`]. Orders under `order_lease` are this sentinel's own.
pub(super) fn decode(mut snapshot: Snapshot, keys: &Keys, order_lease: Option<LeaseId>) -> DecodedSnapshot {
    let document = snapshot.take_one(0);
    let revision = document.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
    let data = Stored::decode(document.as_ref().map(|entry| entry.value.as_slice()));
    let mut decoded = DecodedSnapshot {
        data,
        revision,
        observations: Observations::default(),
        leases: BTreeMap::new(),
        undecodable: BTreeMap::new(),
        unusable_requests: BTreeMap::new(),
    };
    for entry in snapshot.take(1) {
        let name = entry.name(&keys.keeper_infos());
        decoded
            .observations
            .keeper_keys
            .insert(name.to_owned(), entry.mod_revision.0);
        add_keeper(&mut decoded, &entry, name);
    }
    for entry in snapshot.take(2) {
        add_proxy(&mut decoded, &entry, entry.name(&keys.proxy_infos()));
    }
    for entry in snapshot.take(3) {
        let boot = BootUuid::from(String::from_utf8_lossy(&entry.value).as_ref());
        decoded
            .observations
            .liveness_keys
            .insert(KeeperUid::from(entry.name(&keys.liveness_keys())), boot);
    }
    decoded.observations.failover = request(&mut decoded, snapshot.take_one(4), from_slice);
    decoded.observations.switchover = request(&mut decoded, snapshot.take_one(5), from_slice);
    let known = known_keepers(&decoded);
    decoded.observations.orders = decode_orders(snapshot.take(6), &keys.orders(), &known, order_lease);
    decoded
}

/// Returns the request of an operator, with the revision of its put.
fn request<T>(
    decoded: &mut DecodedSnapshot,
    entry: Option<Entry>,
    decode: impl Fn(&[u8]) -> Result<T, JsonError>,
) -> Option<(T, i64)> {
    let entry = entry?;
    match decode_request(&entry, decode) {
        Ok(request) => Some(request),
        Err(why) => {
            decoded.unusable_requests.insert(entry.key, why);
            None
        }
    }
}

/// Returns the keepers that publish, or are in the cluster data.
fn known_keepers(decoded: &DecodedSnapshot) -> BTreeSet<KeeperUid> {
    let mut known: BTreeSet<_> = decoded.observations.keepers.keys().cloned().collect();
    if let Stored::Usable(checked) = &decoded.data {
        known.extend(checked.data.keepers().keys().cloned());
    }
    known
}

/// Adds a keeper info under the uid that it contains, not the one in its key (store S-11). Of two infos with the same
/// uid the later one in key order counts.
fn add_keeper(decoded: &mut DecodedSnapshot, entry: &Entry, name: &str) {
    match from_slice::<KeeperInfo>(&entry.value) {
        Ok(info) => {
            let uid = info.uid.clone();
            if let Some(lease) = entry.lease {
                decoded.leases.insert(uid.clone(), lease);
            }
            decoded.observations.keepers.insert(uid, observed(entry, name, info));
        }
        Err(error) => {
            decoded.undecodable.insert(entry.key.clone(), error);
        }
    }
}

fn add_proxy(decoded: &mut DecodedSnapshot, entry: &Entry, name: &str) {
    match from_slice::<ProxyInfo>(&entry.value) {
        Ok(info) => {
            decoded
                .observations
                .proxies
                .insert(info.uid.clone(), observed(entry, name, info));
        }
        Err(error) => {
            decoded.observations.undecodable_proxies.insert(ProxyUid::from(name));
            decoded.undecodable.insert(entry.key.clone(), error);
        }
    }
}

/// Returns whether a change is an info that only repeats one of `routine` (sentinel E-1). One that cannot be decoded does
/// not.
pub(super) fn is_repetition(routine: &RoutineInfos, keys: &Keys, key: &str, change: &KeyChange) -> bool {
    let Some(entry) = &change.entry else { return false };
    if let Some(name) = key.strip_prefix(&keys.keeper_infos()) {
        return from_slice(&entry.value).is_ok_and(|info| routine.is_keeper_repetition(name, &info));
    }
    if let Some(name) = key.strip_prefix(&keys.proxy_infos()) {
        return from_slice(&entry.value).is_ok_and(|info| routine.is_proxy_repetition(name, &info));
    }
    false
}

fn observed<T>(entry: &Entry, name: &str, info: T) -> Observed<T> {
    Observed {
        key: name.to_owned(),
        revision: entry.mod_revision.0,
        age: std::time::Duration::ZERO,
        info,
    }
}
