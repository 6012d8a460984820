//! One fenced proxy.

use base::clock::Boottime;
use model::{DbUid, GoDuration, ProxyInfo, ProxySection, ProxyUid};

use super::PROXY_TIMEOUT;

/// One fenced proxy.
#[derive(Debug, Clone)]
pub(super) struct SimProxy {
    uid: ProxyUid,
    pub(super) runs: bool,
    pub(super) info: Option<ProxyInfo>,
    /// The db it forwards to, and until when.
    route: Option<(DbUid, Boottime)>,
}

impl SimProxy {
    /// Returns a running proxy that has not checked in yet.
    pub(super) fn new(index: usize) -> Self {
        Self {
            uid: ProxyUid::from(format!("p{index}")),
            runs: true,
            info: None,
            route: None,
        }
    }

    /// One check-in (fencing F-1, F-2), which publishes the info as this revision of the store.
    pub(super) fn check_in(&mut self, section: &ProxySection, revision: i64, now: Boottime) {
        self.info = Some(ProxyInfo {
            info_uid: revision.to_string().as_str().into(),
            uid: self.uid.clone(),
            generation: section.generation,
            proxy_timeout: GoDuration::from(PROXY_TIMEOUT).as_nanos(),
            fenced: true,
            stopped: false,
        });
        let master = &section.spec.master_db_uid;
        let enabled = !master.is_empty() && section.spec.enabled_proxies.contains(&self.uid);
        self.route = enabled.then(|| (master.clone(), now + PROXY_TIMEOUT));
    }

    /// Returns the db of its route; the lease may have ended.
    pub(super) fn route(&self) -> Option<&DbUid> {
        self.route.as_ref().map(|(db, _)| db)
    }

    /// Returns the db that it may forward to.
    pub(super) fn may_forward_to(&self, now: Boottime) -> Option<&DbUid> {
        self.route.as_ref().filter(|(_, until)| now <= *until).map(|(db, _)| db)
    }
}
