//! What the proxy section becomes: closed, or opened for the master (sentinel 9, fencing F-5 to F-8). Which proxies are
//! active is left to `proxy_view`, the choice of the master to `elect`.

use crate::draft::Draft;
use crate::note::{Note, ProxyList};
use crate::proxy_view::ProxyView;
use model::DbUid;

/// Removes the master from the proxy section if it names one, so that proxies close (sentinel P-8, N-9.4).
pub(crate) fn close(draft: &mut Draft) {
    let proxy = draft.proxy_mut();
    if proxy.spec.master_db_uid.is_empty() {
        return;
    }
    proxy.spec.master_db_uid = DbUid::default();
    proxy.generation = proxy.generation.wrapping_add(1);
}

/// Announces the master or a changed set of enabled proxies (sentinel P-5 to P-7, P-9, P-10).
///
/// `ready` is whether the master may be announced: it is converged, a fresh report shows it healthy and has neither
/// `leaving` nor `stopped` (extensions ), and with synchronous replication its commits already wait.
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
