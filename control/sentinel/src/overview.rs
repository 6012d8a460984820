//! The cluster data in a few figures, which metrics and status show. They are counted once a round.

use std::fmt;

use base::counted;
use model::{ClusterData, DbUid, KeeperUid};

/// What the cluster data hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClusterOverview {
    /// The keeper of the master that is announced to the proxies.
    pub(crate) announced: Option<KeeperUid>,
    pub(crate) is_master_healthy: bool,
    pub(crate) healthy_standbys: usize,
    pub(crate) keepers: usize,
    pub(crate) failed_keepers: usize,
    /// Enabled proxies.
    pub(crate) proxies: usize,
}

impl ClusterOverview {
    pub(crate) fn of(data: &ClusterData) -> Self {
        let is_healthy = |uid: &DbUid| data.dbs().get(uid).is_some_and(|db| db.status.healthy);
        let standbys = data.dbs().iter().filter(|(uid, _)| Some(*uid) != data.master_uid());
        let keepers = data.keepers();
        Self {
            announced: data.proxied_master().map(|(_, db)| db.spec.keeper_uid.clone()),
            is_master_healthy: data.master_uid().is_some_and(is_healthy),
            healthy_standbys: standbys.filter(|(_, db)| db.status.healthy).count(),
            keepers: keepers.len(),
            failed_keepers: keepers.values().filter(|keeper| !keeper.status.healthy).count(),
            proxies: data.proxy.as_ref().map_or(0, |proxy| proxy.spec.enabled_proxies.len()),
        }
    }
}

impl fmt::Display for ClusterOverview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.announced {
            Some(master) => write!(f, "master {master}, ")?,
            None => f.write_str("no master, ")?,
        }
        let standbys = counted(self.healthy_standbys, "healthy standby", "healthy standbys");
        let proxies = counted(self.proxies, "proxy", "proxies");
        write!(f, "{standbys}, {proxies}")
    }
}
