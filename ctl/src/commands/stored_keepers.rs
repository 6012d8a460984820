//! Finds out from the rest of the store whether a cluster exists whose cluster data are missing: infos of keepers, and
//! the record of the last initialisation. The error texts follow from it; what is written is left to `init`.

use anyhow::Context as _;
use model::{ClusterUid, CreationRecord, KeepersWithData, LOST_DATA_REMEDY, from_slice};
use store::{Entry, KeyRange, Keys, Store};

/// What shows that a cluster exists, apart from its cluster data.
#[derive(Debug, Default)]
pub(super) struct StoredKeepers {
    keepers: KeepersWithData,
    /// All keepers that publish, also those without a database.
    keeper_count: usize,
    /// The record of the last initialisation (`created` in the store).
    creation_record: Option<CreationRecord>,
}

/// Reads the infos of the keepers and the record of the last initialisation.
pub(super) async fn read(store: &Store) -> anyhow::Result<StoredKeepers> {
    let keys = store.keys();
    let targets = [KeyRange::Prefix(keys.keeper_infos()), KeyRange::Key(keys.created())];
    let mut snapshot = store.snapshot(&targets).await.context("cannot get the keepers")?;
    let infos = snapshot.take(0);
    Ok(StoredKeepers::of(keys, &infos, snapshot.take_one(1).as_ref()))
}

impl StoredKeepers {
    /// Decodes these infos and this record.
    pub(super) fn of(keys: &Keys, infos: &[Entry], created: Option<&Entry>) -> Self {
        let prefix = keys.keeper_infos();
        Self {
            keepers: KeepersWithData::from_infos(
                infos.iter().map(|entry| (entry.name(&prefix), entry.value.as_slice())),
            ),
            keeper_count: infos.len(),
            // A record that cannot be decoded is treated as absent.
            creation_record: created.and_then(|entry| from_slice(&entry.value).ok()),
        }
    }

    /// Returns the error for missing cluster data, with the remedy. Only if nothing shows that databases exist does it
    /// propose `stolonctl init`, which would discard them.
    pub(super) fn no_cluster_data_error(&self) -> String {
        let created = self.creation_record.as_ref().map(|created| &created.cluster_uid);
        let created = created.filter(|uid| !uid.is_empty());
        match created {
            _ if !self.keepers.is_empty() => format!(
                "no cluster data, but keepers of a cluster exist: {}: {LOST_DATA_REMEDY}",
                self.keepers
            ),
            Some(uid) => format!("no cluster data, but cluster {uid} was created here: {LOST_DATA_REMEDY}"),
            None => "no cluster data: initialise the cluster with `stolonctl init`, or check --cluster-name, \
                     --store-prefix and --store-endpoints"
                .to_owned(),
        }
    }

    /// Returns how many keepers publish an info, with or without a database.
    pub(super) fn keeper_count(&self) -> usize {
        self.keeper_count
    }

    /// Returns a clause that names the keepers, or an empty string.
    pub(super) fn keepers_clause(&self) -> String {
        self.keepers.clause()
    }

    /// Returns the warning to print before the question, if there are keepers with data.
    pub(super) fn discard_warning(&self) -> Option<String> {
        (!self.keepers.is_empty()).then(|| {
            format!(
                "WARNING: These keepers may hold databases, which will be discarded: {}",
                self.keepers
            )
        })
    }

    /// Returns the record of this initialisation. It lists the clusters that it gives up: those in `replaced`, those of
    /// the keepers, and the one of the last record.
    pub(super) fn into_creation_record(self, uid: ClusterUid, mut replaced: Vec<ClusterUid>) -> CreationRecord {
        let last = self.creation_record.as_ref().map(|created| created.cluster_uid.clone());
        replaced.extend(self.keepers.clusters().cloned());
        replaced.extend(last);
        CreationRecord::by_operator(uid, replaced, self.creation_record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_keepers_are_named_and_given_up() {
        let mut known = StoredKeepers::default();
        assert_eq!(known.discard_warning(), None);
        known.keepers.add("k1", &"c1".into());
        known.keepers.add("k2", &"c2".into());
        known.creation_record = Some(CreationRecord::by_sentinel("c3".into()));
        assert_eq!(
            known.discard_warning().unwrap(),
            "WARNING: These keepers may hold databases, which will be discarded: k1 (cluster c1), k2 (cluster c2)"
        );
        let created = known.into_creation_record("c9".into(), vec!["c8".into()]);
        assert_eq!(created.gives_up, ["c8".into(), "c1".into(), "c2".into(), "c3".into()]);
    }

    #[test]
    fn initialising_alone_is_proposed_only_without_traces_of_a_cluster() {
        let mut known = StoredKeepers::default();
        assert!(
            known
                .no_cluster_data_error()
                .contains("initialise the cluster with `stolonctl init`")
        );
        known.creation_record = Some(CreationRecord::by_sentinel("c3".into()));
        let text = known.no_cluster_data_error();
        assert!(
            text.contains("cluster c3 was created here: restore a backup with"),
            "{text}"
        );
        known.keepers.add_undecodable("k1");
        let text = known.no_cluster_data_error();
        assert!(
            text.contains("k1 (its info cannot be decoded): restore a backup with"),
            "{text}"
        );
        for text in [text, known.no_cluster_data_error()] {
            assert!(!text.contains("initialise the cluster"), "{text}");
        }
    }
}
