//! Whether a keeper may follow the cluster data of another cluster than the one of its database. Reading who created
//! the cluster is left to the reconciler.

use model::{CheckedClusterData, ClusterUid, CreationRecord, DbUid, KeeperUid};

use crate::reconcile::{Desired, Goal, HoldReason};

/// Returns the local cluster when these cluster data belong to another one and following them would destroy its
/// database.
///
/// A sentinel with an initial spec creates a new cluster where it finds no cluster data, and a keeper may be started
/// with the wrong cluster name. Neither may destroy a database. `cluster` and `db` are the saved uids, empty for none;
/// `has_data` is whether PGDATA holds a database, or may.
pub fn endangered_cluster<'a>(
    checked: &CheckedClusterData,
    me: &KeeperUid,
    cluster: &'a ClusterUid,
    db: &DbUid,
    has_data: bool,
) -> Option<&'a ClusterUid> {
    // There are no data, or their origin is unknown: this keeper did not create them.
    let unknown = cluster.is_empty() && db.is_empty();
    if !has_data || unknown || *cluster == checked.cluster().uid {
        return None;
    }
    // Cluster data that assign the local db to this keeper are about it, whatever the cluster's uid is.
    let ours = checked.data.dbs().get(db);
    if ours.is_some_and(|db| db.spec.keeper_uid == *me) {
        return None;
    }
    Some(cluster)
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

    /// Returns the cluster that would be lost in these cluster data; `cluster` and `db` are the saved uids.
    fn lost(checked: &CheckedClusterData, cluster: &str, db: &str, has_data: bool) -> Option<String> {
        let (cluster, db) = (cluster.into(), db.into());
        let found = endangered_cluster(checked, &"k1".into(), &cluster, &db, has_data);
        found.map(|cluster| cluster.to_string())
    }

    #[test]
    fn a_database_of_another_cluster_would_be_lost() {
        let lost = |cluster, db| lost(&checked("A2", "k1"), cluster, db, true);
        assert_eq!(lost("c1", "A"), Some("c1".into()));
        assert_eq!(lost("c1", ""), Some("c1".into()), "dbstate is gone");
        assert_eq!(lost("", "A"), Some("".into()), "keeperstate is gone");
    }

    #[test]
    fn nothing_is_lost_without_data_in_the_same_cluster_and_with_the_same_db() {
        let checked_a2 = checked("A2", "k1");
        assert_eq!(lost(&checked_a2, "c1", "A", false), None);
        assert_eq!(lost(&checked_a2, "c2", "A", true), None);
        assert_eq!(lost(&checked_a2, "c1", "A2", true), None);
        assert_eq!(lost(&checked_a2, "", "", true), None, "data that no keeper made");
        let of_another = lost(&checked("A", "k9"), "c1", "A", true);
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
