//! Whether a keeper may follow the cluster data of another cluster than the one of its database. Reading who created
//! the cluster is left to the reconciler.

use model::{CheckedClusterData, ClusterUid, CreationRecord, KeeperUid};

use crate::reconcile::{DataState, Desired, Goal, HoldReason, LocalFacts};

/// Returns the local cluster when these cluster data belong to another one and following them would destroy its
/// database.
///
/// A sentinel with an initial spec creates a new cluster where it finds no cluster data, and a keeper may be started
/// with the wrong cluster name. Neither may destroy a database.
pub fn endangered_cluster(checked: &CheckedClusterData, me: &KeeperUid, local: &LocalFacts) -> Option<ClusterUid> {
    let current = &checked.cluster().uid;
    // There are no data, or their origin is unknown: this keeper did not create them.
    let unknown = local.cluster.is_empty() && local.db.uid.is_empty();
    if local.data == DataState::Absent || unknown || local.cluster == *current {
        return None;
    }
    // Cluster data that assign the local db to this keeper are about it, whatever the cluster's uid is.
    let ours = checked.data.dbs().get(&local.db.uid);
    if ours.is_some_and(|db| db.spec.keeper_uid == *me) {
        return None;
    }
    Some(local.cluster.clone())
}

/// Returns the desired state of another cluster only when an operator gave up the local one; otherwise a hold.
pub fn hold_unless_given_up(desired: Desired, own: &ClusterUid, created: Option<&CreationRecord>) -> Desired {
    let Some(other) = desired.cluster.clone() else {
        return desired;
    };
    if created.is_some_and(|created| created.gives_up(own, &other)) {
        return desired;
    }
    Desired {
        cluster: None,
        goal: Goal::Hold(HoldReason::OtherCluster {
            own: own.clone(),
            other,
        }),
    }
}

#[cfg(test)]
mod tests {
    use model::{ClusterData, ClusterSpec, Db, DbSpec, InitMode, Timestamp};

    use super::*;
    use crate::reconcile::{DataRole, LocalDb};

    /// Cluster data of c2, with a db `db` on this keeper.
    fn checked(db: &str, keeper: &str) -> CheckedClusterData {
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            ..ClusterSpec::default()
        };
        let mut data = ClusterData::initial("c2".into(), Timestamp::ZERO, spec);
        let spec = DbSpec {
            keeper_uid: keeper.into(),
            ..DbSpec::default()
        };
        let db = Db {
            uid: db.into(),
            spec,
            ..Db::default()
        };
        data.dbs_mut().insert(db.uid.clone(), db);
        data.check().unwrap()
    }

    fn local(cluster: &str, db: &str, data: DataState) -> LocalFacts {
        let db = LocalDb {
            uid: db.into(),
            generation: 1,
            initializing: false,
        };
        LocalFacts {
            cluster: cluster.into(),
            db,
            data,
            unclaimed: None,
            foreign_server: None,
        }
    }

    const PRESENT: DataState = DataState::Present(DataRole::Master);

    #[test]
    fn a_database_of_another_cluster_would_be_lost() {
        let lost =
            |cluster, db, data| endangered_cluster(&checked("A2", "k1"), &"k1".into(), &local(cluster, db, data));
        assert_eq!(lost("c1", "A", PRESENT), Some("c1".into()));
        assert_eq!(lost("c1", "", PRESENT), Some("c1".into()), "dbstate is gone");
        assert_eq!(lost("", "A", PRESENT), Some("".into()), "keeperstate is gone");
        let standby = DataState::Present(DataRole::Standby);
        assert_eq!(lost("c1", "A", standby), Some("c1".into()));
    }

    #[test]
    fn nothing_is_lost_without_data_in_the_same_cluster_and_with_the_same_db() {
        let lost =
            |cluster, db, data| endangered_cluster(&checked("A2", "k1"), &"k1".into(), &local(cluster, db, data));
        assert_eq!(lost("c1", "A", DataState::Absent), None);
        assert_eq!(lost("c2", "A", PRESENT), None);
        assert_eq!(lost("c1", "A2", PRESENT), None);
        assert_eq!(lost("", "", PRESENT), None, "data that no keeper made");
        let of_another = endangered_cluster(&checked("A", "k9"), &"k1".into(), &local("c1", "A", PRESENT));
        assert_eq!(of_another, Some("c1".into()));
    }

    #[test]
    fn only_an_operator_who_gave_the_cluster_up_lifts_the_hold() {
        let desired = || Desired {
            cluster: Some("c2".into()),
            goal: Goal::Hold(HoldReason::NotListed),
        };
        let held = |created: Option<CreationRecord>| {
            hold_unless_given_up(desired(), &"c1".into(), created.as_ref()) != desired()
        };
        let operator =
            |present: &str, given_up: &str| CreationRecord::by_operator(present.into(), vec![given_up.into()], None);
        assert!(held(None), "a sentinel or a stolonctl of Go stolon");
        assert!(held(Some(CreationRecord::by_sentinel("c2".into()))));
        assert!(held(Some(operator("c2", "c0"))), "another cluster was given up");
        assert!(held(Some(operator("c0", "c1"))), "that was another creation");
        assert!(!held(Some(operator("c2", "c1"))));
        assert_eq!(
            hold_unless_given_up(desired(), &"c1".into(), None).goal,
            Goal::Hold(HoldReason::OtherCluster {
                own: "c1".into(),
                other: "c2".into()
            })
        );
    }
}
