//! Which proxies are active, which may still be forwarding to a former master, and what the proxy section becomes
//! (sentinel 9, fencing F-5 to F-8). Who is master is left to `elect`.

use crate::clock::Boottime;
use crate::model::{ClusterData, DbUid, ProxyUid, Spec};
use crate::plan::draft::{Draft, Wakes};
use crate::plan::memory::Memory;
use crate::plan::note::{Names, Note};

/// How the proxies stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProxyView {
    /// Those that may be enabled, sorted (sentinel P-2, P-3).
    pub(crate) active: Vec<ProxyUid>,
    /// Those that may still be forwarding to a former master (fencing F-6); empty while the proxy section names one.
    pub(crate) in_the_way: Vec<ProxyUid>,
}

/// Judges the proxies from what they published, and notes since when they are known to be told to close.
pub(crate) fn judge(
    data: &ClusterData,
    memory: &mut Memory,
    spec: &Spec,
    now: Boottime,
    wakes: &mut Wakes,
) -> ProxyView {
    let section = data.proxy.clone().unwrap_or_default();
    let closed = section.spec.master_db_uid.is_empty();
    // fencing F-6: a leader counts from its own first successful read of "none", which also comes after its own write.
    // A generation that has moved on tells of a master announced in between, by whoever wrote that.
    let same = memory
        .closed
        .filter(|(generation, _)| *generation == section.generation);
    memory.closed = closed.then(|| same.unwrap_or((section.generation, now)));
    let mut view = ProxyView::default();
    for (uid, proxy) in &memory.sightings.proxies {
        let info = proxy.info.as_ref().filter(|_| !proxy.garbled);
        // beyond: closed its connections before it said so
        if info.is_some_and(|info| info.stopped) {
            continue;
        }
        if info.is_some() && now <= proxy.active_until() {
            view.active.push(uid.clone());
            wakes.after(proxy.active_until(), now);
        }
        let Some((_, closed_since)) = memory.closed else {
            continue;
        };
        if info.is_some_and(|info| info.generation == section.generation) {
            continue;
        }
        // A fenced proxy checks in by a transaction on the revision that it read (fencing F-1), so its last lease began
        // before its last info, and before "none": its time runs from the earlier. One of the reference may have read
        // the old master just before "none" and act on it long after (fencing 2): its time runs from "none".
        let fenced = info.is_some_and(|info| info.fenced);
        let began = if fenced {
            proxy.since.min(closed_since)
        } else {
            closed_since
        };
        let closed_by = (began + proxy.lease(spec)).max(proxy.earlier_lease_end);
        if now <= closed_by {
            view.in_the_way.push(uid.clone());
            wakes.after(closed_by, now);
        }
    }
    view
}

/// Tells the proxies to close, if they were told of a master (sentinel P-8, N-9.4); whether there was anything to tell.
pub(crate) fn close(draft: &mut Draft) -> bool {
    let proxy = draft.proxy_mut();
    if proxy.spec.master_db_uid.is_empty() {
        return false;
    }
    proxy.spec.master_db_uid = DbUid::default();
    proxy.generation = proxy.generation.wrapping_add(1);
    true
}

/// Announces the master or another set of proxies (sentinel P-5 to P-7, P-9, P-10).
///
/// `ready` says whether the master may be announced: healthy, converged, and its last word says neither `leaving` nor
/// `stopped` (beyond ).
pub(crate) fn announce(draft: &mut Draft, view: &ProxyView, master: &DbUid, ready: bool) {
    let proxy = draft.proxy_mut();
    let generation = proxy.generation;
    if !proxy.spec.master_db_uid.is_empty() && proxy.spec.master_db_uid != *master {
        // Only a hand-made document sends proxies elsewhere; never from one master to the next (fencing F-5).
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
            draft.say(Note::WaitingForMaster {
                db: master.clone(),
                keeper,
            });
            return;
        }
        // sentinel P-5
        if !view.in_the_way.is_empty() {
            let proxies = Names(view.in_the_way.clone());
            draft.say(Note::WaitingForProxies { proxies, generation });
            return;
        }
        // sentinel P-6, and P-7 in the same write (P-10)
        proxy.spec.master_db_uid = master.clone();
        proxy.spec.enabled_proxies.clone_from(&view.active);
        proxy.generation = proxy.generation.wrapping_add(1);
        let generation = proxy.generation;
        draft.say(Note::MasterAnnounced {
            db: master.clone(),
            generation,
        });
        return;
    }
    // sentinel P-7; an absent list is an empty one (P-11)
    if proxy.spec.enabled_proxies != view.active {
        proxy.spec.enabled_proxies.clone_from(&view.active);
        proxy.generation = proxy.generation.wrapping_add(1);
        let (proxies, generation) = (Names(view.active.clone()), proxy.generation);
        draft.say(Note::ProxiesEnabled { proxies, generation });
    }
}
