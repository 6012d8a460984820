//! What precedes a promotion: the names of the new db are in force (synchronous SY-7), and the standby has the WAL that
//! another standby has received (synchronous SY-21). Waiting for both is left to the executor.

use model::{AccessMode, Db, DbStatus, DbUid, KeeperUid, Lsn, Role, TimelineHistory};

use crate::reconcile::observed::WAL_RETRIEVE_RETRY_INTERVAL;
use crate::reconcile::{
    ClusterDataState, LogMessage, MemberUpstream, ObservedState, SYNCHRONOUS_STANDBY_NAMES, ServerConfig, Step,
    TargetDb, Upstream,
};

/// A standby that has WAL which the standby that is to be promoted lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AheadStandby {
    /// The standby, as an upstream without a slot.
    pub standby: MemberUpstream,
    /// The position up to which it has WAL.
    pub lsn: Lsn,
}

impl AheadStandby {
    /// Whether a standby with WAL up to `flushed` has as much.
    pub fn is_reached(&self, flushed: Option<Lsn>) -> bool {
        flushed >= Some(self.lsn)
    }
}

/// Returns the eligible standby with the highest recorded position, if it is above that of keeper `me`, whose standby is to
/// be promoted. `None` while a master is announced: recorded positions are then of different times. `None` with strict
/// access: standbys reject other keepers (keeper 9.2).
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
    let is_eligible = |(other, db): &(&DbUid, &Db)| {
        let is_healthy_standby = db.spec.role == Role::Standby && db.status.healthy && db.status.current_generation > 0;
        *other != uid
            && is_healthy_standby
            && is_same_history(&own.status, &db.status)
            && db.status.xlog_pos > own.status.xlog_pos
            && !db.status.listen_address.is_empty()
    };
    let (uid, db) = data
        .dbs()
        .iter()
        .filter(is_eligible)
        .max_by_key(|(_, db)| db.status.xlog_pos)?;
    Some(AheadStandby {
        standby: MemberUpstream {
            uses_slot: false,
            ..MemberUpstream::of(uid, db)
        },
        lsn: db.status.xlog_pos,
    })
}

/// Whether both have the same system id, timeline and switch points, that to this timeline being known. PostgreSQL compares
/// only the first two when it streams. Two timelines of one number that begin at the same position are not distinguished, as
/// in sentinel C-7.
fn is_same_history(own: &DbStatus, other: &DbStatus) -> bool {
    let is_alike = |entry: &TimelineHistory| {
        let same = other.history_entry(entry.timeline_id);
        same.is_none_or(|same| same.switch_point == entry.switch_point)
    };
    let before = own.timeline_id.saturating_sub(1);
    let is_begin_known = before == 0 || [own, other].iter().all(|status| status.history_entry(before).is_some());
    !own.system_id.is_empty()
        && own.system_id == other.system_id
        && own.timeline_id == other.timeline_id
        && is_begin_known
        && own.timelines_history.iter().all(is_alike)
}

/// Adds the steps after which a running standby can be promoted with this configuration. Until then it follows its
/// upstream, or the standby that is ahead.
pub(crate) fn prepare_promotion(
    observed: &ObservedState<'_>,
    target: &TargetDb,
    config: &ServerConfig,
    steps: &mut Vec<Step>,
) {
    let is_tried = observed.process.catch_up_tried.as_ref() == Some(&target.db);
    let ahead = observed.ahead.filter(|_| !is_tried);
    if ahead.is_none() && !target.is_synchronous_master() {
        return;
    }
    let current = observed.process.current.as_ref();
    let followed = current.and_then(|current| current.upstream.clone());
    let mut config = ServerConfig {
        upstream: ahead.map(|ahead| Upstream::from(&ahead.standby)).or(followed),
        ..config.clone()
    };
    if ahead.is_some() {
        // A promotion while a WAL receiver streams is delayed until so long after the last one failed (xlogrecovery.c,
        // WaitForWALToBecomeAvailable), 5 s by default.
        config.set_unless_given(WAL_RETRIEVE_RETRY_INTERVAL, "100ms");
    }
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
