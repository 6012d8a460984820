//! What to do while there is no cluster data: create a cluster, wait, or leave the store alone because keepers show
//! that the data was lost. Creating is left to the loop.

use std::time::Duration;

use crate::decode::DecodedSnapshot;
use base::clock::Boottime;
use model::KeepersWithData;

/// How many sleepIntervals keepers are given to publish before a cluster is created.
const WAIT_INTERVALS: u32 = 3;

/// The decision while there is no cluster data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MissingDataDecision {
    /// No keeper of a cluster has published for long enough.
    Create,
    /// Keepers may still publish.
    WaitUntil(Boottime),
    /// Keepers of an earlier cluster exist, or did.
    KeepersExist(KeepersWithData),
}

/// Observations while there is no cluster data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MissingData {
    since: Option<Boottime>,
    known: KeepersWithData,
}

impl MissingData {
    /// Records one more read without cluster data, at `now`, and decides. `interval` is how often keepers publish.
    ///
    /// A keeper that was found once counts until there is cluster data: its data still exists when it is stopped.
    pub(super) fn observe(
        &mut self,
        decoded: &DecodedSnapshot,
        interval: Duration,
        now: Boottime,
    ) -> MissingDataDecision {
        self.known.extend(keepers_with_data(decoded));
        if !self.known.is_empty() {
            return MissingDataDecision::KeepersExist(self.known.clone());
        }
        let since = *self.since.get_or_insert(now);
        let end = since + interval.saturating_mul(WAIT_INTERVALS);
        if now < end {
            return MissingDataDecision::WaitUntil(end);
        }
        MissingDataDecision::Create
    }

    /// Restarts the wait after an outage: keepers may not have reached the store either.
    pub(super) fn restart_wait(&mut self) {
        self.since = None;
    }

    /// Resets the state, because there is cluster data.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Returns the keepers of a cluster in this read.
pub(super) fn keepers_with_data(decoded: &DecodedSnapshot) -> KeepersWithData {
    let mut known = KeepersWithData::default();
    // An undecodable info may come from a keeper with data.
    for key in decoded.observations.keeper_keys.keys() {
        if !decoded
            .observations
            .keepers
            .values()
            .any(|observed| observed.key == *key)
        {
            known.add_undecodable(key);
        }
    }
    for observed in decoded.observations.keepers.values() {
        known.add(&observed.key, &observed.info.cluster_uid);
    }
    known
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use model::{KeeperInfo, Stored};
    use plan::{Observations, Observed};
    use store::Revision;

    const SECOND: Duration = Duration::from_secs(1);

    fn decoded(keepers: &[(&str, &str)], garbage: &[&str]) -> DecodedSnapshot {
        let mut seen = Observations::default();
        for (key, cluster) in keepers {
            let info = KeeperInfo {
                uid: (*key).into(),
                cluster_uid: (*cluster).into(),
                ..KeeperInfo::default()
            };
            let observed = Observed {
                key: (*key).to_owned(),
                revision: 1,
                age: Duration::ZERO,
                info,
            };
            seen.keepers.insert((*key).into(), observed);
            seen.keeper_keys.insert((*key).to_owned(), 1);
        }
        seen.keeper_keys
            .extend(garbage.iter().map(|key| ((*key).to_owned(), 1)));
        DecodedSnapshot {
            data: Stored::Absent,
            revision: Revision::ABSENT,
            observations: seen,
            leases: BTreeMap::new(),
            undecodable: BTreeMap::new(),
            unusable_requests: BTreeMap::new(),
        }
    }

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_cluster_is_created_when_no_keeper_was_found_for_three_sleep_intervals() {
        let mut absence = MissingData::default();
        let no_keepers = decoded(&[], &[]);
        assert_eq!(
            absence.observe(&no_keepers, 5 * SECOND, at(100)),
            MissingDataDecision::WaitUntil(at(115))
        );
        assert_eq!(
            absence.observe(&no_keepers, 5 * SECOND, at(114)),
            MissingDataDecision::WaitUntil(at(115))
        );
        assert_eq!(
            absence.observe(&no_keepers, 5 * SECOND, at(115)),
            MissingDataDecision::Create
        );
    }

    #[test]
    fn a_store_outage_restarts_the_wait() {
        let mut absence = MissingData::default();
        let no_keepers = decoded(&[], &[]);
        absence.observe(&no_keepers, 5 * SECOND, at(100));
        absence.restart_wait();
        assert_eq!(
            absence.observe(&no_keepers, 5 * SECOND, at(130)),
            MissingDataDecision::WaitUntil(at(145))
        );
    }

    #[test]
    fn keepers_of_a_cluster_prevent_creation_even_after_they_are_gone() {
        let mut absence = MissingData::default();
        let seen = absence.observe(&decoded(&[("k1", "c1"), ("k2", "")], &["k3"]), SECOND, at(100));
        let MissingDataDecision::KeepersExist(known) = seen else {
            panic!("{seen:?}");
        };
        assert_eq!(known.to_string(), "k1 (cluster c1), k3 (its info cannot be decoded)");
        let no_keepers = decoded(&[], &[]);
        assert_eq!(
            absence.observe(&no_keepers, SECOND, at(200)),
            MissingDataDecision::KeepersExist(known)
        );
        absence.reset();
        assert_eq!(
            absence.observe(&no_keepers, SECOND, at(300)),
            MissingDataDecision::WaitUntil(at(303))
        );
    }

    #[test]
    fn keepers_that_never_belonged_to_a_cluster_do_not_count() {
        let mut absence = MissingData::default();
        let fresh = decoded(&[("k1", "")], &[]);
        assert_eq!(
            absence.observe(&fresh, SECOND, at(1)),
            MissingDataDecision::WaitUntil(at(4))
        );
        assert_eq!(absence.observe(&fresh, SECOND, at(4)), MissingDataDecision::Create);
    }
}
