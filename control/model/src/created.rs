//! The record of who created a cluster, and which earlier clusters an operator gave up for it. It is a key of its own
//! beside the cluster data, written in the transaction that creates them. Go stolon neither writes nor reads it.

use serde::{Deserialize, Serialize};

use crate::{ClusterUid, is_zero};

/// The most given-up clusters that are recorded.
const GIVEN_UP_MAX: usize = 100;

/// The last creation of cluster data, unless Go stolon made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreationRecord {
    /// The cluster that was created.
    #[serde(rename = "clusterUID", skip_serializing_if = "is_zero")]
    pub cluster_uid: ClusterUid,
    /// The program that created it; informative.
    #[serde(skip_serializing_if = "is_zero")]
    pub by: String,
    /// Clusters whose databases an operator agreed to lose, the latest first; none when a sentinel created the cluster.
    #[serde(skip_serializing_if = "is_zero")]
    pub gives_up: Vec<ClusterUid>,
}

impl CreationRecord {
    /// Returns the record for a cluster that a sentinel creates. It gives up no cluster's data.
    pub fn by_sentinel(cluster_uid: ClusterUid) -> Self {
        Self {
            cluster_uid,
            by: "stolon-sentinel".to_owned(),
            gives_up: Vec::new(),
        }
    }

    /// Returns the record for a cluster that an operator creates to replace the clusters `replaced`. `before` is the
    /// record of the previous creation, whose given-up clusters are carried over.
    pub fn by_operator(cluster_uid: ClusterUid, replaced: Vec<ClusterUid>, before: Option<Self>) -> Self {
        let before = before.unwrap_or_default();
        let mut gives_up: Vec<ClusterUid> = Vec::new();
        for uid in replaced.into_iter().chain(before.gives_up) {
            if !uid.is_empty() && uid != cluster_uid && !gives_up.contains(&uid) && gives_up.len() < GIVEN_UP_MAX {
                gives_up.push(uid);
            }
        }
        Self {
            cluster_uid,
            by: "stolonctl init".to_owned(),
            gives_up,
        }
    }

    /// Returns whether an operator gave up the databases of cluster `old` when the current cluster, `present`, was
    /// created.
    pub fn gives_up(&self, old: &ClusterUid, present: &ClusterUid) -> bool {
        self.cluster_uid == *present && self.gives_up.contains(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{from_slice, to_compact};

    #[test]
    fn what_an_operator_gave_up_is_remembered_over_several_creations() {
        let first = CreationRecord::by_operator("c2".into(), vec!["c1".into(), "c0".into(), "".into()], None);
        assert_eq!(
            to_compact(&first),
            r#"{"clusterUID":"c2","by":"stolonctl init","givesUp":["c1","c0"]}"#
        );
        let second = CreationRecord::by_operator("c3".into(), vec!["c2".into(), "c1".into()], Some(first));
        assert_eq!(second.gives_up, ["c2".into(), "c1".into(), "c0".into()]);
        assert!(second.gives_up(&"c0".into(), &"c3".into()));
        assert!(!second.gives_up(&"c0".into(), &"c4".into()), "c4 is another creation");
        assert!(!second.gives_up(&"c9".into(), &"c3".into()));
        let many = (0..1_000)
            .map(|number| ClusterUid::from(format!("c{number}")))
            .collect();
        assert_eq!(
            CreationRecord::by_operator("c".into(), many, None).gives_up.len(),
            GIVEN_UP_MAX
        );
    }

    #[test]
    fn a_sentinel_gives_nothing_up() {
        let created = CreationRecord::by_sentinel("c2".into());
        assert_eq!(to_compact(&created), r#"{"clusterUID":"c2","by":"stolon-sentinel"}"#);
        let read: CreationRecord = from_slice(to_compact(&created).as_bytes()).unwrap();
        assert!(!read.gives_up(&"c1".into(), &"c2".into()));
    }
}
