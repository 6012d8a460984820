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
    /// Standbys that commits wait for and that are not there or not healthy.
    pub(crate) missing_sync_standbys: usize,
    pub(crate) keepers: usize,
    pub(crate) failed_keepers: usize,
    /// Enabled proxies.
    pub(crate) proxies: usize,
}

impl ClusterOverview {
    pub(crate) fn of(data: &ClusterData) -> Self {
        let is_healthy = |uid: &DbUid| data.dbs().get(uid).is_some_and(|db| db.status.healthy);
        let standbys = data.dbs().values().filter(|db| db.is_standby_type());
        let keepers = data.keepers();
        Self {
            announced: data.proxied_master().map(|(_, db)| db.spec.keeper_uid.clone()),
            is_master_healthy: data.master_uid().is_some_and(is_healthy),
            healthy_standbys: standbys.filter(|db| db.status.healthy).count(),
            missing_sync_standbys: missing_sync_standbys(data),
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
            None => f.write_str("no announced master, ")?,
        }
        let standbys = counted(self.healthy_standbys, "healthy standby", "healthy standbys");
        let proxies = counted(self.proxies, "proxy", "proxies");
        write!(f, "{standbys}, {proxies}")?;
        match self.missing_sync_standbys {
            0 => Ok(()),
            missing => {
                let missing = counted(missing, "missing synchronous standby", "missing synchronous standbys");
                write!(f, ", commits wait for {missing}")
            }
        }
    }
}

/// Returns how many of the standbys that the master's commits wait for are not there or not healthy (sentinel S-13). A
/// name that no standby has stands for one that is missing.
fn missing_sync_standbys(data: &ClusterData) -> usize {
    let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
    let Some(master) = master.filter(|master| master.spec.synchronous_replication) else {
        return 0;
    };
    let is_there = |uid: &&DbUid| {
        let db = data.dbs().get(*uid);
        db.is_some_and(|db| db.status.healthy && db.is_standby_type())
    };
    let wanted = master.spec.synchronous_standbys.iter().flatten();
    let absent = wanted.filter(|uid| !is_there(uid)).count();
    absent + master.spec.external_synchronous_standbys.iter().flatten().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The missing standbys of a master with this spec, beside d2.
    fn missing(spec: &str, d2: &str) -> usize {
        let data = format!(
            r#"{{"formatVersion":1,"cluster":{{"status":{{"master":"d1"}}}},"dbs":{{"d1":{{"spec":{spec}}},"d2":{d2}}}}}"#
        );
        let data = ClusterData::parse(data.as_bytes()).unwrap().unwrap();
        ClusterOverview::of(&data).missing_sync_standbys
    }

    #[test]
    fn a_former_master_is_no_healthy_standby() {
        let data = r#"{"formatVersion":1,"cluster":{"status":{"master":"d2"}},"dbs":{
            "d1":{"spec":{"role":"master"},"status":{"healthy":true}},
            "d2":{"spec":{"role":"master"},"status":{"healthy":true}},
            "d3":{"spec":{"role":"standby","followConfig":{"type":"internal","dbuid":"d2"}},"status":{"healthy":true}}}}"#;
        let data = ClusterData::parse(data.as_bytes()).unwrap().unwrap();
        assert_eq!(ClusterOverview::of(&data).healthy_standbys, 1);
    }

    #[test]
    fn standbys_that_commits_wait_for_are_missing_when_absent_or_not_healthy() {
        let standby = |healthy: bool| {
            format!(
                r#"{{"spec":{{"role":"standby","followConfig":{{"type":"internal","dbuid":"d1"}}}},"status":{{"healthy":{healthy}}}}}"#
            )
        };
        let waits = r#"{"synchronousReplication":true,"synchronousStandbys":["d2"]}"#;
        assert_eq!(missing(waits, &standby(true)), 0);
        assert_eq!(missing(waits, &standby(false)), 1);
        assert_eq!(missing(waits, r#"{"spec":{"role":"master"}}"#), 1, "a former master");
        let fake = r#"{"synchronousReplication":true,"externalSynchronousStandbys":["stolonfakestandby"]}"#;
        assert_eq!(missing(fake, &standby(true)), 1);
        assert_eq!(missing("{}", &standby(false)), 0);
    }
}
