//! What every db takes over from the cluster's spec, and how generations and change times follow (sentinel 10).

use crate::model::{ClusterData, Db, GoDuration, Spec, Timestamp};
use crate::plan::classify::is_master_type;
use crate::plan::draft::Draft;

/// sentinel G-1; keepers read the rest of the spec themselves (G-2).
pub(crate) fn propagate(draft: &mut Draft, spec: &Spec) {
    for db in draft.next.dbs_mut().values_mut() {
        let slots = if is_master_type(db) {
            spec.additional_master_replication_slots.clone()
        } else {
            None
        };
        let wanted = &mut db.spec;
        wanted.request_timeout = GoDuration::from(spec.request_timeout);
        wanted.max_standbys = spec.max_standbys;
        wanted.use_pgrewind = spec.use_pgrewind;
        wanted.additional_wal_senders = spec.additional_wal_senders;
        wanted.additional_replication_slots = slots;
        wanted.pg_parameters.clone_from(&spec.pg_parameters);
        wanted.pg_hba.clone_from(&spec.pg_hba);
    }
}

/// Raises the generation of every db whose spec differs from the document read (sentinel G-3, G-4).
pub(crate) fn raise_generations(before: &ClusterData, next: &mut ClusterData) {
    for (uid, db) in next.dbs_mut() {
        if before.dbs().get(uid).is_some_and(|old: &Db| old.spec != db.spec) {
            db.generation = db.generation.wrapping_add(1);
        }
    }
}

/// Sets the change times of what differs from the document read (sentinel G-6).
pub(crate) fn set_change_times(before: &ClusterData, next: &mut ClusterData, wall: Timestamp) {
    next.change_time = wall;
    if let Some(cluster) = &mut next.cluster
        && before.cluster.as_ref() != Some(cluster)
    {
        cluster.change_time = wall;
    }
    for (uid, keeper) in next.keepers_mut() {
        if before.keepers().get(uid) != Some(keeper) {
            keeper.change_time = wall;
        }
    }
    for (uid, db) in next.dbs_mut() {
        if before.dbs().get(uid) != Some(db) {
            db.change_time = wall;
        }
    }
    if let Some(proxy) = &mut next.proxy
        && before.proxy.as_ref() != Some(proxy)
    {
        proxy.change_time = wall;
    }
}

/// The document without what changes on its own at nearly every report: times and positions. Two that are equal in the
/// rest differ in no decision (sentinel E-9).
pub(crate) fn decisions(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    data.change_time = Timestamp::ZERO;
    if let Some(cluster) = &mut data.cluster {
        cluster.change_time = Timestamp::ZERO;
    }
    if let Some(keepers) = &mut data.keepers {
        for keeper in keepers.values_mut() {
            keeper.change_time = Timestamp::ZERO;
            keeper.status.last_healthy_time = Timestamp::ZERO;
        }
    }
    if let Some(dbs) = &mut data.dbs {
        for db in dbs.values_mut() {
            db.change_time = Timestamp::ZERO;
            db.status.xlog_pos = crate::model::Lsn::default();
            db.status.older_wal_file.clear();
        }
    }
    if let Some(proxy) = &mut data.proxy {
        proxy.change_time = Timestamp::ZERO;
    }
    data
}
