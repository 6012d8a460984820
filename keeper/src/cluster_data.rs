//! Reads the cluster data and the keeper's order for a round, and the desired state of this keeper's instance in them. The
//! steps towards it are decided by `reconcile`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use model::{
    BootUuid, CreationRecord, KeeperOrder, KeeperUid, OrderKind, Stored, UNREADABLE_DATA_REMEDY, UNUSABLE_DATA_REMEDY,
    Unusable, from_slice,
};
use store::{Entry, KeyRange, Revision, Store};
use tracing::debug;

use crate::context::KeeperContext;
use crate::local::state::LocalState;
use crate::postgres::instance::{Instance, LocalRole as FileRole};
use crate::publish::PermitConditions;
use crate::reconcile::{
    ClusterDataState, Desired, Goal, HoldReason, StoredOrder, TargetRole, desired_state, desired_under_order,
    endangered_cluster, hold_unless_given_up,
};

/// Latency above which optional requests to the store are skipped.
const SLOW_STORE: Duration = Duration::from_millis(100);

/// Cluster data as read, with their revision, and the keeper's order that was read together with them.
#[derive(Debug, Clone)]
pub struct ReadClusterData {
    pub state: ClusterDataState,
    pub revision: Revision,
    pub order: StoredOrder,
    /// Revision of the keeper's orders key.
    pub order_revision: Revision,
    /// When the read was sent; `None` for what the watch brought.
    pub sent: Option<Boottime>,
}

impl ReadClusterData {
    /// Returns the revisions that a permit, or the acceptance of the order, depends on.
    pub fn revisions(&self) -> PermitConditions {
        PermitConditions {
            cluster_data: self.revision,
            order: self.order_revision,
        }
    }
}

/// Cluster data of a watch event.
#[derive(Debug)]
pub struct WatchedClusterData {
    pub entry: Entry,
    /// What they decode to.
    pub state: ClusterDataState,
}

/// Reads the cluster data of one keeper.
#[derive(Debug)]
pub struct ClusterDataReader {
    store: Store,
    me: KeeperUid,
    boot: BootUuid,
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    /// The cluster data of the last watch event.
    latest: Arc<Mutex<Option<WatchedClusterData>>>,
}

impl ClusterDataReader {
    /// `latest` are the cluster data of the last watch event.
    pub fn new(context: &KeeperContext, latest: Arc<Mutex<Option<WatchedClusterData>>>) -> Self {
        Self {
            store: context.store.clone(),
            me: context.me.clone(),
            boot: context.boot.clone(),
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            latest,
        }
    }

    /// Returns the cluster data for the first plan. They are read from the store, except before a promotion on a slow
    /// store: the promotion first requests a permit, which is granted only on the current revision, so the data of the
    /// last watch event are sufficient.
    pub async fn first_read(&self) -> ReadClusterData {
        let latest = self
            .latest
            .lock()
            .expect("no thread panics while holding the cluster data")
            .take();
        let latest = match latest {
            Some(latest) if is_slow(&self.store) => latest,
            latest => return self.read_unless_known(latest).await,
        };
        let read = ReadClusterData {
            state: latest.state,
            revision: latest.entry.mod_revision,
            // Not read: the permit is refused if there is one.
            order: StoredOrder::Absent,
            order_revision: Revision::ABSENT,
            sent: None,
        };
        let is_standby = matches!(self.instance.local_role().await, Ok(FileRole::Standby));
        let runs = matches!(self.instance.running().await, Ok(Some(_)));
        match desired_state(&read.state, &self.me, &self.boot).goal {
            Goal::Run(target) if target.role == TargetRole::Master && target.db == self.local.db().uid => {
                if is_standby && runs { read } else { self.read().await }
            }
            _ => self.read().await,
        }
    }

    /// Reads the cluster data and the order.
    pub async fn read(&self) -> ReadClusterData {
        self.read_unless_known(None).await
    }

    /// Reads the cluster data and the order; cluster data that are the known ones are not decoded again.
    async fn read_unless_known(&self, known: Option<WatchedClusterData>) -> ReadClusterData {
        let sent = Some(self.instance.clock().now());
        let keys = self.store.keys();
        let ranges = [keys.cluster_data(), keys.order(self.me.as_str())].map(KeyRange::Key);
        let revision = |entry: Option<&Entry>| entry.map_or(Revision::ABSENT, |entry| entry.mod_revision);
        match self.store.snapshot(&ranges).await {
            Ok(mut read) => {
                let (data, order) = (read.take_one(0), read.take_one(1));
                ReadClusterData {
                    state: match (known, &data) {
                        (Some(known), Some(read)) if known.entry.value == read.value => known.state,
                        _ => cluster_data_state(data.as_ref()),
                    },
                    revision: revision(data.as_ref()),
                    order: stored_order(order.as_ref()),
                    order_revision: revision(order.as_ref()),
                    sent,
                }
            }
            Err(error) => {
                debug!(error = %Chain(&error), "could not read the cluster data");
                ReadClusterData {
                    state: ClusterDataState::Unavailable,
                    revision: Revision::ABSENT,
                    order: StoredOrder::Absent,
                    order_revision: Revision::ABSENT,
                    sent,
                }
            }
        }
    }

    /// Returns the desired state under the order; on hold if the cluster data belong to another cluster than the local
    /// database.
    pub async fn desired(&self, read: &ReadClusterData) -> Desired {
        let state = &read.state;
        let desired = desired_under_order(desired_state(state, &self.me, &self.boot), state, &read.order);
        let ClusterDataState::Valid(checked) = state else {
            return desired;
        };
        let (cluster, db) = (self.local.cluster(), self.local.db().uid);
        let Some(own) = endangered_cluster(checked, &self.me, &cluster, &db, true) else {
            return desired;
        };
        // Where there are no data, none are endangered. What cannot be read may be data.
        if matches!(self.instance.local_role().await, Ok(FileRole::Undefined)) {
            return desired;
        }
        let key = self.store.keys().created();
        match self.store.get(&key).await {
            Ok(entry) => {
                let created = entry.and_then(|entry| from_slice::<CreationRecord>(&entry.value).ok());
                hold_unless_given_up(desired, own, created.as_ref())
            }
            Err(error) => {
                debug!(error = %Chain(&error), "could not read who created the cluster");
                Desired {
                    cluster: None,
                    goal: Goal::Hold(HoldReason::StoreUnavailable),
                }
            }
        }
    }
}

/// Whether the store answers so slowly that optional requests are skipped.
pub fn is_slow(store: &Store) -> bool {
    store.latency() > SLOW_STORE
}

/// Decodes a value of the keeper's orders key.
fn stored_order(entry: Option<&Entry>) -> StoredOrder {
    match entry.map(|entry| from_slice::<KeeperOrder>(&entry.value)) {
        None => StoredOrder::Absent,
        Some(Ok(order)) if matches!(order.order, OrderKind::Checkpoint | OrderKind::Stop) => StoredOrder::Usable(order),
        Some(Ok(_) | Err(_)) => StoredOrder::Unusable,
    }
}

/// Decodes a value of the `clusterdata` key.
pub fn cluster_data_state(entry: Option<&Entry>) -> ClusterDataState {
    match Stored::decode(entry.map(|entry| entry.value.as_slice())) {
        Stored::Absent => ClusterDataState::Absent,
        Stored::Undecodable(error) => {
            ClusterDataState::Unusable(format!("{}: {UNREADABLE_DATA_REMEDY}", Chain(&error)))
        }
        Stored::Unusable {
            why: Unusable::FormatVersion(version),
            ..
        } => ClusterDataState::UnsupportedFormat(version),
        Stored::Unusable { why, .. } => ClusterDataState::Unusable(format!("{}: {UNUSABLE_DATA_REMEDY}", Chain(&why))),
        Stored::Usable(checked) => ClusterDataState::Valid(checked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str) -> Entry {
        Entry {
            key: "k".into(),
            value: value.as_bytes().to_vec(),
            mod_revision: Revision(1),
            create_revision: Revision(1),
            lease: None,
        }
    }

    #[test]
    fn an_order_of_an_unknown_kind_or_half_of_one_is_unusable() {
        let order = |kind: &str| format!(r#"{{"switchover":"a1","db":"d1","order":"{kind}"}}"#);
        assert_eq!(stored_order(None), StoredOrder::Absent);
        for kind in ["checkpoint", "stop"] {
            let stored = stored_order(Some(&entry(&order(kind))));
            assert!(
                matches!(&stored, StoredOrder::Usable(order) if order.order.as_str() == kind),
                "{stored:?}"
            );
        }
        for text in [
            &order("restart"),
            "",
            "null",
            r#"{"switchover":"a1","order":"stop"}"#,
            r#"{"switchover":"","db":"d1","order":"stop"}"#,
            r#"{"switchover":"a1","db":"","order":"stop"}"#,
        ] {
            assert_eq!(stored_order(Some(&entry(text))), StoredOrder::Unusable, "{text}");
        }
    }

    #[test]
    fn undecodable_cluster_data_are_reported_and_change_nothing() {
        assert_eq!(cluster_data_state(None), ClusterDataState::Absent);
        assert_eq!(cluster_data_state(Some(&entry("null"))), ClusterDataState::Absent);
        let unusable = |value: &str| match cluster_data_state(Some(&entry(value))) {
            ClusterDataState::Unusable(why) => why,
            other => panic!("{other:?}"),
        };
        for (value, remedy) in [
            (
                "{a}",
                "delete it with etcdctl, then restore a backup with `stolonctl clusterdata write",
            ),
            (
                "",
                "delete it with etcdctl, then restore a backup with `stolonctl clusterdata write",
            ),
            (
                r#"{"formatVersion":1}"#,
                "no cluster spec available: restore a backup with `stolonctl clusterdata write",
            ),
        ] {
            assert!(unusable(value).contains(remedy), "{value}: {}", unusable(value));
        }
        assert_eq!(
            cluster_data_state(Some(&entry(r#"{"formatVersion":2}"#))),
            ClusterDataState::UnsupportedFormat(2)
        );
    }
}
