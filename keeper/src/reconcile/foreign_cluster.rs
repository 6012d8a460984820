//! Whether a keeper may follow the cluster data of another cluster than the one that its database belongs to. Reading
//! the record of the creation is left to the pass.

use control::model::{Checked, ClusterUid, Created, KeeperUid};

use crate::reconcile::{DataState, Desired, Goal, HoldReason, LocalFacts};

/// The cluster whose data would be lost, if these cluster data are of another one than our database.
///
/// A sentinel with an initial spec makes a new cluster where it finds no cluster data; so does whoever starts a keeper
/// with the wrong cluster name. Neither may cost a database.
pub fn endangered_cluster(checked: &Checked, me: &KeeperUid, local: &LocalFacts) -> Option<ClusterUid> {
    let present = &checked.cluster().uid;
    // Nothing to lose, or nothing that says whose it is: data that this keeper did not make.
    let unknown = local.cluster.is_empty() && local.db.uid.is_empty();
    if local.data == DataState::Absent || unknown || local.cluster == *present {
        return None;
    }
    // A document that names our database as ours is about it, whatever its cluster is called.
    let ours = checked.data.dbs().get(&local.db.uid);
    if ours.is_some_and(|db| db.spec.keeper_uid == *me) {
        return None;
    }
    Some(local.cluster.clone())
}

/// The orders of another cluster: obeyed only when an operator gave up the one that our data belong to.
pub fn hold_unless_given_up(orders: Desired, own: &ClusterUid, created: Option<&Created>) -> Desired {
    let Some(other) = orders.cluster.clone() else {
        return orders;
    };
    if created.is_some_and(|created| created.gives_up(own, &other)) {
        return orders;
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
    use control::model::{ClusterData, ClusterSpec, Db, DbSpec, InitMode, Timestamp};

    use super::*;
    use crate::reconcile::{DataRole, LocalDb};

    /// Cluster data of c2, with a db `db` on this keeper.
    fn checked(db: &str, keeper: &str) -> Checked {
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
    fn only_an_operator_who_gave_the_cluster_up_lets_the_keeper_go_on() {
        let orders = || Desired {
            cluster: Some("c2".into()),
            goal: Goal::Hold(HoldReason::NotListed),
        };
        let held =
            |created: Option<Created>| hold_unless_given_up(orders(), &"c1".into(), created.as_ref()) != orders();
        let operator =
            |present: &str, given_up: &str| Created::by_operator(present.into(), vec![given_up.into()], None);
        assert!(held(None), "a sentinel or a stolonctl of the reference");
        assert!(held(Some(Created::by_sentinel("c2".into()))));
        assert!(held(Some(operator("c2", "c0"))), "another cluster was given up");
        assert!(held(Some(operator("c0", "c1"))), "that was another creation");
        assert!(!held(Some(operator("c2", "c1"))));
        assert_eq!(
            hold_unless_given_up(orders(), &"c1".into(), None).goal,
            Goal::Hold(HoldReason::OtherCluster {
                own: "c1".into(),
                other: "c2".into()
            })
        );
    }
}
