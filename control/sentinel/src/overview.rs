//! The cluster data in a few figures, which metrics and status show. They are counted once a round.

use std::fmt;

use base::counted;
use model::{CheckedClusterData, DbUid, KeeperUid};

/// What the cluster data hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClusterOverview {
    /// The keeper of the master that is announced to the proxies.
    pub(crate) announced: Option<KeeperUid>,
    pub(crate) is_master_healthy: bool,
    pub(crate) healthy_standbys: usize,
    /// Standbys that commits wait for in vain (sentinel S-13).
    pub(crate) missing_sync_standbys: usize,
    pub(crate) keepers: usize,
    pub(crate) failed_keepers: usize,
    /// Enabled proxies.
    pub(crate) proxies: usize,
}

impl ClusterOverview {
    pub(crate) fn of(checked: &CheckedClusterData) -> Self {
        let data = &checked.data;
        let is_healthy = |uid: &DbUid| data.dbs().get(uid).is_some_and(|db| db.status.healthy);
        let standbys = data.dbs().values().filter(|db| db.is_standby_type());
        let keepers = data.keepers();
        Self {
            announced: data.proxied_master().map(|(_, db)| db.spec.keeper_uid.clone()),
            is_master_healthy: data.master_uid().is_some_and(is_healthy),
            healthy_standbys: standbys.filter(|db| db.status.healthy).count(),
            missing_sync_standbys: plan::missing_synchronous_standbys(checked),
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

#[cfg(test)]
mod tests {
    use model::Stored;

    use super::*;

    /// The overview of this document; its cluster has the master d1 and a minimum of 3 standbys.
    fn overview(dbs: &str) -> ClusterOverview {
        let spec = r#"{"initMode":"new","minSynchronousStandbys":3,"maxSynchronousStandbys":3}"#;
        let data =
            format!(r#"{{"formatVersion":1,"cluster":{{"spec":{spec},"status":{{"master":"d1"}}}},"dbs":{dbs}}}"#);
        let stored = Stored::decode(Some(data.as_bytes()));
        ClusterOverview::of(stored.usable().unwrap_or_else(|| panic!("{stored:?}")))
    }

    /// The missing standbys of a master with this spec, beside d2.
    fn missing(spec: &str, d2: &str) -> usize {
        overview(&format!(r#"{{"d1":{{"spec":{spec}}},"d2":{d2}}}"#)).missing_sync_standbys
    }

    #[test]
    fn a_former_master_is_no_healthy_standby() {
        let overview = overview(
            r#"{
            "d1":{"spec":{"role":"master"},"status":{"healthy":true}},
            "d2":{"spec":{"role":"master"},"status":{"healthy":true}},
            "d3":{"spec":{"role":"standby","followConfig":{"type":"internal","dbuid":"d1"}},"status":{"healthy":true}}}"#,
        );
        assert_eq!(overview.healthy_standbys, 1);
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
        assert_eq!(missing("{}", &standby(false)), 0);
    }

    /// Row X44 (sentinel 15.5).
    #[test]
    fn a_set_below_the_minimum_lacks_as_many_as_the_log_has() {
        let standby =
            r#"{"spec":{"role":"standby","followConfig":{"type":"internal","dbuid":"d1"}},"status":{"healthy":true}}"#;
        let waits = |wanted: &str| {
            format!(
                r#"{{"synchronousReplication":true,"synchronousStandbys":{wanted},"externalSynchronousStandbys":["stolonfakestandby"]}}"#
            )
        };
        assert_eq!(missing(&waits(r#"["d2"]"#), standby), 2);
        assert_eq!(missing(&waits("[]"), standby), 3);
    }
}
