//! Copies the cluster spec to every db, and sets generations and change times (sentinel 10).

use crate::draft::Draft;
use model::{ClusterData, Db, FollowConfig, FollowType, GoDuration, Spec, Timestamp};

/// Copies the fields of the cluster spec that dbs hold; keepers read the others themselves (sentinel G-1, G-2).
pub(crate) fn propagate(draft: &mut Draft, spec: &Spec) {
    for db in draft.next.dbs_mut().values_mut() {
        let slots = if db.is_master_type() {
            spec.additional_master_replication_slots.clone()
        } else {
            None
        };
        let db_spec = &mut db.spec;
        if let Some(follow) = &mut db_spec.follow_config
            && follow.kind == FollowType::External
        {
            *follow = FollowConfig::external(spec.standby_config.as_ref()); // sentinel N-27
        }
        db_spec.request_timeout = GoDuration::from(spec.request_timeout);
        db_spec.max_standbys = spec.max_standbys;
        db_spec.use_pgrewind = spec.use_pgrewind;
        db_spec.additional_wal_senders = spec.additional_wal_senders;
        db_spec.additional_replication_slots = slots;
        db_spec.pg_parameters.clone_from(&spec.pg_parameters);
        db_spec.pg_hba.clone_from(&spec.pg_hba);
    }
}

/// Raises the generation of every db whose spec differs from the cluster data read (sentinel G-3, G-4).
pub(crate) fn raise_generations(before: &ClusterData, next: &mut ClusterData) {
    for (uid, db) in next.dbs_mut() {
        if before.dbs().get(uid).is_some_and(|old: &Db| old.spec != db.spec) {
            db.generation = db.generation.wrapping_add(1);
        }
    }
}

/// Sets the change times of everything that differs from the cluster data read (sentinel G-6).
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

/// Returns the cluster data without what changes with nearly every report: times and positions. Two documents that are
/// equal in this form differ in no decision (sentinel E-9).
pub(crate) fn without_routine_changes(data: &ClusterData) -> ClusterData {
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
            db.status.xlog_pos = model::Lsn::default();
            db.status.older_wal_file.clear();
        }
    }
    if let Some(proxy) = &mut data.proxy {
        proxy.change_time = Timestamp::ZERO;
    }
    data
}
