//! The keepers that belong to a cluster whose cluster data are missing or cannot be read, and what an operator can do.
//! Who looks for them, and when, is left to the programs.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{ClusterUid, KeeperInfo, from_slice};

/// No more keepers than this are named.
const NAMED_MAX: usize = 20;

/// What keeps the databases, and what does not, once cluster data are missing. Both commands replace what is stored.
pub const LOST_DATA_REMEDY: &str = "restore a backup with `stolonctl clusterdata write --yes -f FILE` to keep the \
                                    databases, or discard them with `stolonctl init`; check --store-endpoints, \
                                    --store-prefix and --cluster-name first";

/// The same once the stored value cannot be decoded: no command writes over it.
pub const UNREADABLE_DATA_REMEDY: &str = "repair it with etcdctl; or delete it with etcdctl, then restore a backup with \
                                          `stolonctl clusterdata write --yes -f FILE` to keep the databases, or discard \
                                          them with `stolonctl init`";

/// Keepers with a cluster, by the last part of their info's key; no cluster where the info cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormerKeepers(BTreeMap<String, Option<ClusterUid>>);

impl FormerKeepers {
    /// The keepers that wrote these infos, each with the last part of its key, less those that never belonged to a
    /// cluster. An info that cannot be decoded was written by somebody: it may well be a keeper with data.
    pub fn of<'a>(infos: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut former = Self::default();
        for (key, info) in infos {
            match from_slice::<KeeperInfo>(info) {
                Ok(info) => former.add(key, &info.cluster_uid),
                Err(_) => former.add_undecodable(key),
            }
        }
        former
    }

    /// Adds a keeper of this cluster; the empty uid is none.
    pub fn add(&mut self, key: &str, cluster: &ClusterUid) {
        if !cluster.is_empty() {
            self.0.insert(key.to_owned(), Some(cluster.clone()));
        }
    }

    /// Adds a keeper whose info cannot be decoded.
    pub fn add_undecodable(&mut self, key: &str) {
        self.0.insert(key.to_owned(), None);
    }

    /// Adds what another look has found, which counts where both know a keeper.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A clause that names them, to end a message with; empty when nobody is known.
    pub fn clause(&self) -> String {
        match self.is_empty() {
            true => String::new(),
            false => format!(" (keepers of a cluster exist: {self})"),
        }
    }

    /// The clusters of these keepers.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterUid> {
        self.0.values().flatten()
    }
}

impl fmt::Display for FormerKeepers {
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
        let former = FormerKeepers::of(infos);
        assert_eq!(
            former.to_string(),
            "k1 (cluster c1), k3 (its info cannot be decoded)",
            "k2 never had a database"
        );
        assert_eq!(former.clusters().collect::<Vec<_>>(), [&ClusterUid::from("c1")]);
    }

    #[test]
    fn a_large_cluster_makes_no_endless_line() {
        let mut former = FormerKeepers::default();
        for number in 0..1000 {
            former.add(&format!("k{number:03}"), &"c1".into());
        }
        assert!(
            former.to_string().ends_with("k019 (cluster c1) and 980 more"),
            "{former}"
        );
    }
}
