//! Which proxies are active, and which may still forward to a former master (sentinel 9, fencing F-6). What the proxy
//! section becomes is left to `proxies`.

use crate::history::ProxyHistory;
use crate::memory::Memory;
use base::clock::Boottime;
use model::{ClusterData, ProxyUid, Spec};

/// The state of the proxies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProxyView {
    /// Proxies that may be enabled, sorted (sentinel P-2, P-3).
    pub(crate) active: Vec<ProxyUid>,
    /// Proxies that may still forward to a former master (fencing F-6); empty while the proxy section names a master.
    pub(crate) may_still_forward: Vec<ProxyUid>,
    /// When the next of them leaves its list without another info.
    pub(crate) deadline: Option<Boottime>,
}

/// Returns the state of the proxies from their infos.
pub(crate) fn assess(data: &ClusterData, memory: &Memory, spec: &Spec, now: Boottime) -> ProxyView {
    let generation = data.proxy.as_ref().map_or(0, |section| section.generation);
    let closed_since = memory.proxies_closed.map(|(_, since)| since);
    let mut view = ProxyView::default();
    let mut deadlines = Vec::new();
    for (uid, proxy) in &memory.history.proxies {
        let info = proxy.info.as_ref().filter(|_| !proxy.undecodable);
        // It closed its connections before it published `stopped` (extensions ).
        if info.is_some_and(|info| info.stopped) {
            continue;
        }
        if info.is_some() && now <= proxy.active_until() {
            view.active.push(uid.clone());
            deadlines.push(proxy.active_until());
        }
        // A proxy that publishes the generation of "no master" has closed.
        let acknowledged = info.is_some_and(|info| info.generation == generation);
        if let Some(closed_since) = closed_since.filter(|_| !acknowledged) {
            let closed_by = closed_by(proxy, closed_since, spec);
            if now <= closed_by {
                view.may_still_forward.push(uid.clone());
                deadlines.push(closed_by);
            }
        }
    }
    view.deadline = deadlines.into_iter().min();
    view
}

/// Returns when a proxy that has not acknowledged "no master" has closed by its lease.
///
/// A fenced proxy checks in with a transaction on the revision that it read (fencing F-1), so its last lease began
/// before its last info and before "no master": its time runs from the earlier of both. A proxy of Go stolon may have
/// read the former master just before "no master" and act on it much later (fencing 2): its time runs from "no master".
fn closed_by(proxy: &ProxyHistory, closed_since: Boottime, spec: &Spec) -> Boottime {
    let info = proxy.info.as_ref().filter(|_| !proxy.undecodable);
    let began = if info.is_some_and(|info| info.fenced) {
        proxy.since.min(closed_since)
    } else {
        closed_since
    };
    (began + proxy.lease(spec)).max(proxy.earlier_lease_end)
}
