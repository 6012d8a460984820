//! What precedes a promotion: the names of the new db are in force (synchronous SY-7), and the standby has what another
//! standby has received more (synchronous SY-21). Waiting for both is left to the executor.

use model::{AccessMode, Db, DbStatus, DbUid, KeeperUid, Lsn, Role, TimelineHistory};

use crate::reconcile::{
    ClusterDataState, LogMessage, MemberUpstream, ObservedState, SYNCHRONOUS_STANDBY_NAMES, ServerConfig, Step,
    TargetDb, Upstream,
};

/// A standby that has received more than the db that is to be promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AheadStandby {
    /// The standby, as an upstream without a slot.
    pub standby: MemberUpstream,
    /// What it has received.
    pub lsn: Lsn,
}

/// Returns the standby that has received most, if that is more than the db of keeper `me` has, which is to be promoted, by
/// the positions in the cluster data. They count only while nobody is announced: those of a running cluster are not read at
/// the same time. With strict access standbys let no other keeper in (keeper 9.2).
pub fn ahead_standby(state: &ClusterDataState, me: &KeeperUid) -> Option<AheadStandby> {
    let ClusterDataState::Valid(checked) = state else {
        return None;
    };
    let data = &checked.data;
    let (uid, own) = data.db_of_keeper(me)?;
    let is_strict = checked.spec.default_su_repl_access_mode == AccessMode::Strict;
    if own.spec.role != Role::Master || data.proxied_master().is_some() || is_strict {
        return None;
    }
    let has_more = |(other, db): &(&DbUid, &Db)| {
        let is_complete = db.spec.role == Role::Standby && db.status.healthy && db.status.current_generation > 0;
        *other != uid
            && is_complete
            && is_same_branch(&own.status, &db.status)
            && db.status.xlog_pos > own.status.xlog_pos
            && !db.status.listen_address.is_empty()
    };
    let (uid, db) = data
        .dbs()
        .iter()
        .filter(has_more)
        .max_by_key(|(_, db)| db.status.xlog_pos)?;
    Some(AheadStandby {
        standby: MemberUpstream {
            db: uid.clone(),
            keeper: db.spec.keeper_uid.clone(),
            host: db.status.listen_address.clone(),
            port: db.status.port.clone(),
            has_slot: false,
        },
        lsn: db.status.xlog_pos,
    })
}

/// Whether two instances have the WAL of the same master, as far as they have it. PostgreSQL does not compare that when
/// it streams: both may have followed a promotion to a timeline of the same number.
fn is_same_branch(own: &DbStatus, other: &DbStatus) -> bool {
    let timeline = own.timeline_id;
    let began = |status: &DbStatus| Some(status.history_entry(timeline.checked_sub(1)?)?.switch_point);
    let began_alike = timeline <= 1 || began(own).is_some_and(|at| began(other) == Some(at));
    let is_alike = |entry: &TimelineHistory| {
        let same = other.history_entry(entry.timeline_id);
        same.is_none_or(|same| same.switch_point == entry.switch_point)
    };
    !own.system_id.is_empty()
        && own.system_id == other.system_id
        && timeline == other.timeline_id
        && began_alike
        && own.timelines_history.iter().all(is_alike)
}

/// Adds the steps after which a running standby can be promoted with this configuration. It goes on following until
/// then: its upstream, or a standby that has more.
pub(crate) fn prepare_promotion(
    observed: &ObservedState<'_>,
    target: &TargetDb,
    config: &ServerConfig,
    steps: &mut Vec<Step>,
) {
    let is_tried = observed.process.caught_up.as_ref() == Some(&target.db);
    let ahead = observed.ahead.filter(|_| !is_tried);
    if ahead.is_none() && !target.is_synchronous_master() {
        return;
    }
    let current = observed.process.current.as_ref();
    let followed = current.and_then(|current| current.upstream.clone());
    let config = ServerConfig {
        upstream: ahead.map(|ahead| Upstream::from(&ahead.standby)).or(followed),
        ..config.clone()
    };
    let names = config.parameters.get(SYNCHRONOUS_STANDBY_NAMES).cloned();
    if let Some(ahead) = ahead {
        steps.push(Step::Log(LogMessage::CatchingUp(ahead.clone())));
    }
    if current != Some(&config) || observed.process.reload_unconfirmed {
        steps.push(Step::Reload(config));
    }
    if target.is_synchronous_master() {
        steps.push(Step::ConfirmStandbyNames(names.unwrap_or_default()));
    }
    steps.extend(ahead.map(|ahead| Step::CatchUp(ahead.clone())));
}
