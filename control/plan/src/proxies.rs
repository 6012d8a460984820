//! Which proxies are active, which may still forward to a former master, and what the proxy section becomes (sentinel
//! 9, fencing F-5 to F-8). The choice of the master is left to `elect`.

use crate::draft::{Deadlines, Draft};
use crate::memory::Memory;
use crate::note::{Note, ProxyList};
use base::clock::Boottime;
use model::{ClusterData, DbUid, ProxyUid, Spec};

/// The state of the proxies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProxyView {
    /// Proxies that may be enabled, sorted (sentinel P-2, P-3).
    pub(crate) active: Vec<ProxyUid>,
    /// Proxies that may still forward to a former master (fencing F-6); empty while the proxy section names a master.
    pub(crate) may_still_forward: Vec<ProxyUid>,
}

/// Returns the state of the proxies from their infos, and records since when the proxy section has no master.
pub(crate) fn assess(
    data: &ClusterData,
    memory: &mut Memory,
    spec: &Spec,
    now: Boottime,
    deadlines: &mut Deadlines,
) -> ProxyView {
    let section = data.proxy.clone().unwrap_or_default();
    let closed = section.spec.master_db_uid.is_empty();
    // A leader counts from its own first successful read of "no master", which also follows its own write (fencing
    // F-6). A changed generation means that another writer announced a master in between.
    let same = memory
        .proxies_closed
        .filter(|(generation, _)| *generation == section.generation);
    memory.proxies_closed = closed.then(|| same.unwrap_or((section.generation, now)));
    let mut view = ProxyView::default();
    for (uid, proxy) in &memory.history.proxies {
        let info = proxy.info.as_ref().filter(|_| !proxy.undecodable);
        // It closed its connections before it published `stopped` (extensions ).
        if info.is_some_and(|info| info.stopped) {
            continue;
        }
        if info.is_some() && now <= proxy.active_until() {
            view.active.push(uid.clone());
            deadlines.after(proxy.active_until(), now);
        }
        let Some((_, closed_since)) = memory.proxies_closed else {
            continue;
        };
        if info.is_some_and(|info| info.generation == section.generation) {
            continue;
        }
        // A fenced proxy checks in with a transaction on the revision that it read (fencing F-1), so its last lease
        // began before its last info and before "no master": its time runs from the earlier of both. A proxy of Go
        // stolon may have read the old master just before "no master" and act on it much later (fencing 2): its time
        // runs from "no master".
        let fenced = info.is_some_and(|info| info.fenced);
        let began = if fenced {
            proxy.since.min(closed_since)
        } else {
            closed_since
        };
        let closed_by = (began + proxy.lease(spec)).max(proxy.earlier_lease_end);
        if now <= closed_by {
            view.may_still_forward.push(uid.clone());
            deadlines.after(closed_by, now);
        }
    }
    view
}

/// Removes the master from the proxy section, so that proxies close (sentinel P-8, N-9.4). Returns whether there was
/// one.
pub(crate) fn close(draft: &mut Draft) -> bool {
    let proxy = draft.proxy_mut();
    if proxy.spec.master_db_uid.is_empty() {
        return false;
    }
    proxy.spec.master_db_uid = DbUid::default();
    proxy.generation = proxy.generation.wrapping_add(1);
    true
}

/// Announces the master or a changed set of enabled proxies (sentinel P-5 to P-7, P-9, P-10).
///
/// `ready` is whether the master may be announced: healthy, converged, and its last report has neither `leaving` nor
/// `stopped` (extensions ).
pub(crate) fn announce(draft: &mut Draft, view: &ProxyView, master: &DbUid, ready: bool) {
    let proxy = draft.proxy_mut();
    let generation = proxy.generation;
    if !proxy.spec.master_db_uid.is_empty() && proxy.spec.master_db_uid != *master {
        // Only cluster data edited by hand names another db. Never go from one master directly to the next (fencing
        // F-5).
        close(draft);
        return;
    }
    if proxy.spec.master_db_uid.is_empty() {
        if !ready {
            let keeper = draft
                .next
                .dbs()
                .get(master)
                .map(|db| db.spec.keeper_uid.clone())
                .unwrap_or_default();
            draft.note(Note::WaitingForMaster {
                db: master.clone(),
                keeper,
            });
            return;
        }
        // A proxy that may still forward to an earlier master must have closed first (sentinel P-5).
        if !view.may_still_forward.is_empty() {
            let proxies = ProxyList(view.may_still_forward.clone());
            draft.note(Note::WaitingForProxies { proxies, generation });
            return;
        }
        // Announce the master and the enabled proxies in one write (sentinel P-6, P-7, P-10).
        proxy.spec.master_db_uid = master.clone();
        proxy.spec.enabled_proxies.clone_from(&view.active);
        proxy.generation = proxy.generation.wrapping_add(1);
        let generation = proxy.generation;
        draft.note(Note::MasterAnnounced {
            db: master.clone(),
            generation,
        });
        return;
    }
    // Update the enabled proxies; an absent list equals an empty one (sentinel P-7, P-11).
    if proxy.spec.enabled_proxies != view.active {
        proxy.spec.enabled_proxies.clone_from(&view.active);
        proxy.generation = proxy.generation.wrapping_add(1);
        let (proxies, generation) = (ProxyList(view.active.clone()), proxy.generation);
        draft.note(Note::ProxiesEnabled { proxies, generation });
    }
}
