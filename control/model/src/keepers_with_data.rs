//! Keepers that still publish infos of a cluster whose cluster data is missing or unreadable, and what an operator can
//! do then.

use std::collections::BTreeMap;
use std::fmt;

use crate::{ClusterUid, KeeperInfo, from_slice};

/// The most keepers that a message names.
const NAMED_MAX: usize = 20;

/// The remedy when cluster data is missing. Both commands replace what is stored.
pub const LOST_DATA_REMEDY: &str = "restore a backup with `stolonctl clusterdata write --yes -f FILE` to keep the \
                                    databases, or discard them with `stolonctl init`; check --store-endpoints, \
                                    --store-prefix and --cluster-name first";

/// The remedy when the stored value cannot be decoded: no stolonctl command overwrites such a value.
pub const UNREADABLE_DATA_REMEDY: &str = "repair it with etcdctl; or delete it with etcdctl, then restore a backup with \
                                          `stolonctl clusterdata write --yes -f FILE` to keep the databases, or discard \
                                          them with `stolonctl init`";

/// The remedy when the stored document can be read but not used: another format version, no spec, an invalid one, or no
/// master. Both commands replace it.
pub const UNUSABLE_DATA_REMEDY: &str = "restore a backup with `stolonctl clusterdata write --yes -f FILE` to keep the \
                                        databases, or discard them with `stolonctl init`";

/// Keepers that belong to a cluster, by the last part of their info's key; no cluster uid where the info cannot be
/// decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeepersWithData(BTreeMap<String, Option<ClusterUid>>);

impl KeepersWithData {
    /// Returns the keepers that wrote these infos, each with the last part of its key, except those that never belonged
    /// to a cluster. An info that cannot be decoded may come from a keeper with data, so it counts.
    pub fn from_infos<'a>(infos: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut known = Self::default();
        for (key, info) in infos {
            match from_slice::<KeeperInfo>(info) {
                Ok(info) => known.add(key, &info.cluster_uid),
                Err(_) => known.add_undecodable(key),
            }
        }
        known
    }

    /// Adds a keeper of this cluster; an empty uid means no cluster and adds nothing.
    pub fn add(&mut self, key: &str, cluster: &ClusterUid) {
        if !cluster.is_empty() {
            self.0.insert(key.to_owned(), Some(cluster.clone()));
        }
    }

    /// Adds a keeper whose info cannot be decoded.
    pub fn add_undecodable(&mut self, key: &str) {
        self.0.insert(key.to_owned(), None);
    }

    /// Adds the keepers of another set, which takes precedence where both hold a keeper.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns whether there is no such keeper.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a clause that lists the keepers, for the end of a message; empty when there are none.
    pub fn clause(&self) -> String {
        match self.is_empty() {
            true => String::new(),
            false => format!(" (keepers of a cluster exist: {self})"),
        }
    }

    /// Returns the clusters of these keepers.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterUid> {
        self.0.values().flatten()
    }
}

impl fmt::Display for KeepersWithData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, cluster)) in self.0.iter().take(NAMED_MAX).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            let key = key.escape_debug();
            match cluster {
                Some(cluster) => write!(f, "{separator}{key} (cluster {cluster})")?,
                None => write!(f, "{separator}{key} (its info cannot be decoded)")?,
            }
        }
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepers_of_a_cluster_and_infos_that_cannot_be_decoded_count() {
        let infos: [(_, &[u8]); 3] = [
            ("k1", br#"{"uid":"k1","clusterUID":"c1"}"#),
            ("k2", br#"{"uid":"k2"}"#),
            ("k3", b"garbage"),
        ];
        let known = KeepersWithData::from_infos(infos);
        assert_eq!(
            known.to_string(),
            "k1 (cluster c1), k3 (its info cannot be decoded)",
            "k2 never had a database"
        );
        assert_eq!(known.clusters().collect::<Vec<_>>(), [&ClusterUid::from("c1")]);
    }

    #[test]
    fn a_large_cluster_makes_no_endless_line() {
        let mut known = KeepersWithData::default();
        for number in 0..1000 {
            known.add(&format!("k{number:03}"), &"c1".into());
        }
        assert!(known.to_string().ends_with("k019 (cluster c1) and 980 more"), "{known}");
    }
}
