//! Which infos of a cluster in which nothing is to be decided may be published again without a round (sentinel E-1). What
//! a round decides is left to `plan`, when it is due to the loop.

use std::collections::BTreeMap;

use crate::history::{Arrival, KeeperHistory, ProxyHistory};
use crate::memory::Memory;
use model::{ClusterData, InfoUid, KeeperInfo, Lsn, Phase, ProxyInfo, ProxyUid};

/// The infos that a round has read and that change no decision when they are published again with another position. Empty
/// while every change may matter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoutineInfos {
    /// By the last part of the key; without what changes at every publication.
    keepers: BTreeMap<String, KeeperInfo>,
    proxies: BTreeMap<ProxyUid, ProxyInfo>,
}

impl RoutineInfos {
    /// Returns the infos in `memory`, after a round that has found nothing to decide or to note for `data`, or of a sentinel
    /// that does not lead and so decides nothing.
    ///
    /// Positions decide about elections, about standbys that are not proven to be in sync, and about dbs on different
    /// timelines. All but the last show in the notes of the plan.
    pub fn of(data: &ClusterData, memory: &Memory) -> Self {
        if !is_announced(data) || !is_on_one_timeline(data) {
            return Self::default();
        }
        let history = &memory.history;
        let keepers = history.keepers.iter();
        let keepers = keepers.filter(|(uid, known)| data.keepers().contains_key(*uid) && is_settled_keeper(known));
        let proxies = history.proxies.iter();
        Self {
            keepers: keepers
                .map(|(_, known)| (known.last.key.clone(), without_position(&known.last.info)))
                .collect(),
            proxies: proxies
                .filter_map(|(uid, known)| settled_proxy(data, uid, known))
                .collect(),
        }
    }

    /// Returns whether this info of a keeper, put under a key that ends with `key`, only repeats one of these with another
    /// position.
    pub fn is_keeper_repetition(&self, key: &str, info: &KeeperInfo) -> bool {
        self.keepers
            .get(key)
            .is_some_and(|known| *known == without_position(info))
    }

    /// Returns whether this info of a proxy, put under a key that ends with `key`, only repeats one of these.
    pub fn is_proxy_repetition(&self, key: &str, info: &ProxyInfo) -> bool {
        let known = self.proxies.get(&info.uid).filter(|_| info.uid.as_str() == key);
        known.is_some_and(|known| *known == without_uid(info))
    }
}

/// Returns whether the proxies are open for the master.
fn is_announced(data: &ClusterData) -> bool {
    let cluster = data.cluster.as_ref();
    let is_normal = cluster.is_some_and(|cluster| cluster.status.phase == Phase::Normal);
    is_normal && data.proxied_master().map(|(uid, _)| uid) == data.master_uid()
}

/// Returns whether all dbs are on the same timeline. A position on an earlier one may be past the master's fork (sentinel
/// C-7).
fn is_on_one_timeline(data: &ClusterData) -> bool {
    let mut timelines = data.dbs().values().map(|db| db.status.timeline_id);
    let first = timelines.next();
    timelines.all(|timeline| Some(timeline) == first)
}

/// Returns whether a keeper counts as reporting as long as its liveness key exists, however old its info is, and its
/// instance, if it has one, is healthy. The age of an info found at the start is not known well enough (sentinel E-6), and
/// one that was deferred counts as new in the next round (sentinel W-4).
fn is_settled_keeper(known: &KeeperHistory) -> bool {
    let info = &known.last.info;
    let is_dated = known.arrival.is_new() || known.arrival == Arrival::Known;
    let is_alive = info.liveness_key && known.alive.as_ref() == Some(&info.boot_uuid);
    let is_healthy = info.postgres_state.as_ref().is_none_or(|state| state.healthy);
    known.key_exists && is_dated && is_alive && is_healthy && !info.is_leaving_or_stopped()
}

/// Returns the info of a proxy that is enabled and has acknowledged the proxy section.
fn settled_proxy(data: &ClusterData, uid: &ProxyUid, known: &ProxyHistory) -> Option<(ProxyUid, ProxyInfo)> {
    let section = data.proxy.as_ref()?;
    let info = known.info.as_ref().filter(|_| !known.undecodable)?;
    let is_settled =
        section.spec.enabled_proxies.contains(uid) && info.generation == section.generation && !info.stopped;
    is_settled.then(|| (uid.clone(), without_uid(info)))
}

/// Returns an info without what changes at every publication: its uid and the position.
fn without_position(info: &KeeperInfo) -> KeeperInfo {
    let mut info = info.clone();
    info.info_uid = InfoUid::default();
    if let Some(state) = &mut info.postgres_state {
        state.xlog_pos = Lsn::default();
    }
    info
}

fn without_uid(info: &ProxyInfo) -> ProxyInfo {
    ProxyInfo {
        info_uid: InfoUid::default(),
        ..info.clone()
    }
}
