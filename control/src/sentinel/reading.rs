//! One reading of the store, from bytes to what the judgement takes. What is garbage is told apart, not dropped.

use std::collections::BTreeMap;

use crate::model::{
    BootUuid, Checked, ClusterData, JsonError, KeeperInfo, KeeperUid, ProxyInfo, ProxyUid, Unusable, from_slice,
};
use crate::plan::{Observations, Observed};
use crate::store::{Entry, Keys, LeaseId, Revision, Snapshot, Target};

/// What one transaction has read (sentinel E-2).
#[derive(Debug)]
pub(super) struct Reading {
    /// The cluster data.
    pub(super) data: Found,
    /// The revision of its last put; [`Revision::ABSENT`] when there is none.
    pub(super) revision: Revision,
    /// The infos and liveness keys.
    pub(super) seen: Observations,
    /// The leases of the keeper infos.
    pub(super) leases: BTreeMap<KeeperUid, LeaseId>,
    /// Info keys that cannot be decoded, with the reason (store S-12).
    pub(super) garbage: BTreeMap<String, JsonError>,
}

/// What was found under `clusterdata`.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or the value `null` (store C-5).
    Nothing,
    /// A document that may be used.
    Usable(Box<Checked>),
    /// A document of another format version, or without a valid spec.
    Unusable(Unusable),
    /// No document.
    Garbage(JsonError),
}

/// What a sentinel reads and watches.
pub(super) fn targets(keys: &Keys) -> Vec<Target> {
    vec![
        Target::Key(keys.cluster_data()),
        Target::Prefix(keys.keeper_infos()),
        Target::Prefix(keys.proxy_infos()),
        Target::Prefix(keys.alive_all()),
    ]
}

/// Makes sense of what was read for [`targets`].
pub(super) fn decode(mut snapshot: Snapshot, keys: &Keys) -> Reading {
    let document = snapshot.take_one(0);
    let revision = document.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
    let data = document.map_or(Found::Nothing, |entry| judge(&entry.value));
    let mut reading = Reading {
        data,
        revision,
        seen: Observations::default(),
        leases: BTreeMap::new(),
        garbage: BTreeMap::new(),
    };
    for entry in snapshot.take(1) {
        let name = entry.name(&keys.keeper_infos());
        reading.seen.keeper_keys.insert(name.to_owned(), entry.mod_revision.0);
        keeper(&mut reading, &entry, name);
    }
    for entry in snapshot.take(2) {
        proxy(&mut reading, &entry, entry.name(&keys.proxy_infos()));
    }
    for entry in snapshot.take(3) {
        let boot = BootUuid::from(String::from_utf8_lossy(&entry.value).as_ref());
        reading
            .seen
            .alive
            .insert(KeeperUid::from(entry.name(&keys.alive_all())), boot);
    }
    reading
}

fn judge(value: &[u8]) -> Found {
    match ClusterData::parse(value) {
        Ok(None) => Found::Nothing,
        Ok(Some(data)) => match data.check() {
            Ok(checked) => Found::Usable(Box::new(checked)),
            Err(why) => Found::Unusable(why),
        },
        Err(why) => Found::Garbage(why),
    }
}

/// store S-11: by the uid inside; of two with the same, the later in key order counts.
fn keeper(reading: &mut Reading, entry: &Entry, name: &str) {
    match from_slice::<KeeperInfo>(&entry.value) {
        Ok(info) => {
            let uid = info.uid.clone();
            if let Some(lease) = entry.lease {
                reading.leases.insert(uid.clone(), lease);
            }
            reading.seen.keepers.insert(uid, observed(entry, name, info));
        }
        Err(why) => {
            reading.garbage.insert(entry.key.clone(), why);
        }
    }
}

fn proxy(reading: &mut Reading, entry: &Entry, name: &str) {
    match from_slice::<ProxyInfo>(&entry.value) {
        Ok(info) => {
            reading
                .seen
                .proxies
                .insert(info.uid.clone(), observed(entry, name, info));
        }
        Err(why) => {
            reading.seen.garbled_proxies.insert(ProxyUid::from(name));
            reading.garbage.insert(entry.key.clone(), why);
        }
    }
}

fn observed<T>(entry: &Entry, name: &str, info: T) -> Observed<T> {
    Observed {
        key: name.to_owned(),
        revision: entry.mod_revision.0,
        age: std::time::Duration::ZERO,
        info,
    }
}
