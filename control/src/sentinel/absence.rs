//! What to do while there are no cluster data: whether a cluster may be created, or one is there that has only lost them.
//! Creating it is left to the loop.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Boottime;
use crate::model::ClusterUid;
use crate::sentinel::reading::Reading;

/// Publications of keepers that are waited for before a cluster is created, in sleepIntervals.
const INTERVALS: u32 = 3;

/// Keepers of an earlier cluster, by the last part of their info's key; no cluster where the info cannot be decoded.
pub(super) type Former = BTreeMap<String, Option<ClusterUid>>;

/// What follows from the absence of cluster data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody has been seen for long enough.
    Create,
    /// Keepers may still publish.
    WaitUntil(Boottime),
    /// Keepers of an earlier cluster are here, or were.
    Keep(Former),
}

/// What was seen since the cluster data are absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Absence {
    since: Option<Boottime>,
    former: Former,
}

impl Absence {
    /// One more reading, at `now`, that found no cluster data; `interval` is how often keepers publish.
    ///
    /// A keeper that was seen once counts until cluster data are there: that it is stopped does not give its data up.
    pub(super) fn look(&mut self, reading: &Reading, interval: Duration, now: Boottime) -> Verdict {
        self.former.extend(former(reading));
        if !self.former.is_empty() {
            return Verdict::Keep(self.former.clone());
        }
        let since = *self.since.get_or_insert(now);
        let end = since + interval.saturating_mul(INTERVALS);
        if now < end {
            return Verdict::WaitUntil(end);
        }
        Verdict::Create
    }

    /// The store could not be read: keepers may not have reached it either.
    pub(super) fn interrupted(&mut self) {
        self.since = None;
    }

    /// There are cluster data.
    pub(super) fn over(&mut self) {
        *self = Self::default();
    }
}

fn former(reading: &Reading) -> Former {
    let decoded = reading.seen.keepers.values();
    let with_cluster = decoded.filter(|observed| !observed.info.cluster_uid.is_empty());
    let named = with_cluster.map(|observed| (observed.key.clone(), Some(observed.info.cluster_uid.clone())));
    // What cannot be decoded was written by somebody: it may well be a keeper with data.
    let known: Vec<&String> = reading.seen.keepers.values().map(|observed| &observed.key).collect();
    let others = reading.seen.keeper_keys.keys().filter(|key| !known.contains(key));
    named.chain(others.map(|key| (key.clone(), None))).collect()
}

/// The keepers and their clusters, for a log line.
pub(super) fn names(former: &Former) -> String {
    let name = |(key, cluster): (&String, &Option<ClusterUid>)| match cluster {
        Some(cluster) => format!("{key} (cluster {cluster})"),
        None => format!("{key} (its info cannot be decoded)"),
    };
    let names: Vec<String> = former.iter().map(name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeeperInfo;
    use crate::plan::{Observations, Observed};
    use crate::sentinel::reading::Found;
    use crate::store::Revision;

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(keepers: &[(&str, &str)], garbage: &[&str]) -> Reading {
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
        Reading {
            data: Found::Nothing,
            revision: Revision::ABSENT,
            seen,
            leases: BTreeMap::new(),
            garbage: BTreeMap::new(),
        }
    }

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_cluster_is_created_when_nobody_was_seen_for_three_sleep_intervals() {
        let mut absence = Absence::default();
        let nobody = reading(&[], &[]);
        assert_eq!(absence.look(&nobody, 5 * SECOND, at(100)), Verdict::WaitUntil(at(115)));
        assert_eq!(absence.look(&nobody, 5 * SECOND, at(114)), Verdict::WaitUntil(at(115)));
        assert_eq!(absence.look(&nobody, 5 * SECOND, at(115)), Verdict::Create);
    }

    #[test]
    fn time_without_the_store_begins_the_wait_anew() {
        let mut absence = Absence::default();
        let nobody = reading(&[], &[]);
        absence.look(&nobody, 5 * SECOND, at(100));
        absence.interrupted();
        assert_eq!(absence.look(&nobody, 5 * SECOND, at(130)), Verdict::WaitUntil(at(145)));
    }

    #[test]
    fn keepers_of_a_cluster_keep_it_from_being_created_also_once_they_are_gone() {
        let mut absence = Absence::default();
        let seen = absence.look(&reading(&[("k1", "c1"), ("k2", "")], &["k3"]), SECOND, at(100));
        let Verdict::Keep(former) = seen else {
            panic!("{seen:?}");
        };
        assert_eq!(names(&former), "k1 (cluster c1), k3 (its info cannot be decoded)");
        let nobody = reading(&[], &[]);
        assert_eq!(absence.look(&nobody, SECOND, at(200)), Verdict::Keep(former));
        absence.over();
        assert_eq!(absence.look(&nobody, SECOND, at(300)), Verdict::WaitUntil(at(303)));
    }

    #[test]
    fn keepers_that_never_belonged_to_a_cluster_do_not_count() {
        let mut absence = Absence::default();
        let fresh = reading(&[("k1", "")], &[]);
        assert_eq!(absence.look(&fresh, SECOND, at(1)), Verdict::WaitUntil(at(4)));
        assert_eq!(absence.look(&fresh, SECOND, at(4)), Verdict::Create);
    }
}
