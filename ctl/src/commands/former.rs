//! The keepers that hold databases when a cluster is initialised: whose they are, and the record that an operator gives
//! them up.

use std::collections::BTreeMap;

use anyhow::Context as _;
use control::model::{ClusterUid, Created, KeeperInfo, from_slice};
use control::store::{Store, Target};

/// What is there before an initialisation.
#[derive(Debug, Default)]
pub(super) struct Former {
    /// The clusters of the keepers that are there, by the last part of their info's key.
    keepers: BTreeMap<String, ClusterUid>,
    /// The record of the last initialisation.
    created: Option<Created>,
}

/// Reads the infos of the keepers, and the record of the last initialisation.
pub(super) async fn read(store: &Store) -> anyhow::Result<Former> {
    let keys = store.keys();
    let targets = [Target::Prefix(keys.keeper_infos()), Target::Key(keys.created())];
    let mut snapshot = store.snapshot(&targets).await.context("cannot get the keepers")?;
    let infos = snapshot.take(0);
    let prefix = keys.keeper_infos();
    let cluster = |value: &[u8]| from_slice::<KeeperInfo>(value).ok().map(|info| info.cluster_uid);
    let keepers = infos.iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(&prefix).unwrap_or(&entry.key);
        Some((name.to_owned(), cluster(&entry.value).filter(|uid| !uid.is_empty())?))
    });
    let created = snapshot.take_one(1);
    Ok(Former {
        keepers: keepers.collect(),
        // What cannot be decoded proves nothing.
        created: created.and_then(|entry| from_slice(&entry.value).ok()),
    })
}

impl Former {
    /// What the operator has to know before the answer, if there are keepers with data.
    pub(super) fn warning(&self) -> Option<String> {
        let name = |(keeper, cluster): (&String, &ClusterUid)| format!("{keeper} (cluster {cluster})");
        let names: Vec<String> = self.keepers.iter().map(name).collect();
        (!names.is_empty()).then(|| {
            format!(
                "WARNING: These keepers may hold databases, which will be discarded: {}",
                names.join(", ")
            )
        })
    }

    /// The record of this initialisation, in the place of the clusters `replaced` and of those of the keepers.
    pub(super) fn created(self, uid: ClusterUid, mut replaced: Vec<ClusterUid>) -> Created {
        let last = self.created.as_ref().map(|created| created.cluster_uid.clone());
        replaced.extend(self.keepers.into_values());
        replaced.extend(last);
        Created::by_operator(uid, replaced, self.created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepers_that_are_there_are_named_and_given_up() {
        let mut former = Former::default();
        assert_eq!(former.warning(), None);
        former.keepers = [("k1".to_owned(), "c1".into()), ("k2".to_owned(), "c2".into())].into();
        former.created = Some(Created::by_sentinel("c3".into()));
        assert_eq!(
            former.warning().unwrap(),
            "WARNING: These keepers may hold databases, which will be discarded: k1 (cluster c1), k2 (cluster c2)"
        );
        let created = former.created("c9".into(), vec!["c8".into()]);
        assert_eq!(created.gives_up, ["c8".into(), "c1".into(), "c2".into(), "c3".into()]);
    }
}
