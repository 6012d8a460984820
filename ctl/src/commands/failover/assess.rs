//! Whether a failover to a keeper can be requested, and what may be missing then. Pure; the leading sentinel decides by
//! the same conditions, on what is there at that time (synchronous SY-20).

use std::time::Duration;

use model::{CheckedClusterData, ClusterData, Db, DbStatus, DbUid, KeeperInfo, KeeperUid, Lsn, Phase, Timestamp};

/// A failover that can be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailoverReport {
    pub(super) master: RecordedDb,
    pub(super) target: RecordedDb,
    pub(super) missing: Missing,
    /// Other dbs that are ahead of the target.
    pub(super) ahead: Vec<RecordedDb>,
    pub(super) sets: Option<SyncSets>,
    /// The proxies are sent to a master now.
    pub(super) proxies_open: bool,
    /// How long proxies may need to close.
    pub(super) proxies_closed_within: Duration,
}

/// A db with its last recorded position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordedDb {
    pub(super) keeper: KeeperUid,
    pub(super) db: DbUid,
    pub(super) position: Lsn,
    pub(super) timeline: u64,
    pub(super) state: DbCondition,
}

/// Whether a db can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DbCondition {
    Healthy,
    /// The master: it has not applied its spec, so it was not promoted, or not in time.
    NotConverged,
    /// Its keeper reports, and its PostgreSQL does not run well.
    PostgresFailed,
    /// Its keeper was last healthy then.
    KeeperFailed(Timestamp),
}

/// What the target is known to lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Bytes up to the last known position of the master, on the same timeline; 0 or negative when it is ahead.
    Bytes(i128),
    /// The target left the master's timeline at this position.
    LeftTimeline { timeline: u64, at: Lsn },
    /// The master left the target's timeline at this position.
    MasterLeftTimeline { timeline: u64, at: Lsn },
    /// The timelines differ, and no history shows where they parted.
    Unknown,
}

/// Whose flush the commits of the master waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyncSets {
    pub(super) min: u16,
    pub(super) wanted: Vec<Member>,
    pub(super) known: Vec<Member>,
}

/// A member of a set; none for a db that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) db: DbUid,
    pub(super) found: Option<(KeeperUid, DbCondition)>,
}

/// Returns what may be missing after a failover to a keeper.
///
/// # Errors
/// Why it cannot be requested, with what to do.
pub(super) fn assess(
    checked: &CheckedClusterData,
    infos: &[KeeperInfo],
    to: &KeeperUid,
) -> Result<FailoverReport, String> {
    let data = &checked.data;
    if checked.cluster().status.phase != Phase::Normal {
        return Err("the cluster is not initialised yet: there is no master that could have failed".to_owned());
    }
    let master = data.master_uid().and_then(|uid| data.dbs().get_key_value(uid));
    let (master_uid, master) = master.ok_or("the cluster data name no master db that they hold")?;
    let (uid, db) = find_target(checked, to, master_uid)?;
    let mut of_master = recorded(checked, master_uid, master);
    if of_master.state == DbCondition::Healthy && master.is_converged() {
        return Err(format!(
            "the master is healthy: keeper {0} has it; to hand it over, stop that keeper with SIGTERM, or use \
             `stolonctl failkeeper {0}`",
            of_master.keeper
        ));
    }
    if of_master.state == DbCondition::Healthy {
        of_master.state = DbCondition::NotConverged;
    }
    check_target(checked, infos, uid, db, master)?;
    let target = recorded(checked, uid, db);
    let others = data
        .dbs()
        .iter()
        .filter(|(other, _)| *other != uid && *other != master_uid);
    let is_ahead = |other: &RecordedDb| (other.timeline, other.position) > (target.timeline, target.position);
    let ahead = others
        .map(|(uid, db)| recorded(checked, uid, db))
        .filter(is_ahead)
        .collect();
    let proxy = data.proxy.as_ref();
    Ok(FailoverReport {
        missing: missing(&master.status, &db.status),
        master: of_master,
        target,
        ahead,
        sets: master.spec.synchronous_replication.then(|| sync_sets(checked, master)),
        proxies_open: proxy.is_some_and(|proxy| !proxy.spec.master_db_uid.is_empty()),
        // Those of Go stolon may forward for twice their timeout (fencing F-6).
        proxies_closed_within: checked.spec.proxy_timeout.saturating_mul(2),
    })
}

/// Returns the db of the keeper that is asked for.
fn find_target<'d>(
    checked: &'d CheckedClusterData,
    to: &KeeperUid,
    master: &DbUid,
) -> Result<(&'d DbUid, &'d Db), String> {
    if !checked.data.keepers().contains_key(to) {
        return Err(format!("keeper doesn't exist: {to}"));
    }
    let found = checked.data.db_of_keeper(to);
    let (uid, db) =
        found.ok_or_else(|| format!("keeper {to} has no db: it has no data that could become the master's"))?;
    if uid == master {
        return Err(format!("keeper {to} has the master already"));
    }
    Ok((uid, db))
}

/// Checks that the data of a db can become the master's: healthy, complete, of this cluster, and never on a lower
/// timeline as a standby.
fn check_target(
    checked: &CheckedClusterData,
    infos: &[KeeperInfo],
    uid: &DbUid,
    db: &Db,
    master: &Db,
) -> Result<(), String> {
    let (keeper, status) = (&db.spec.keeper_uid, &db.status);
    if status.current_generation <= 0 {
        return Err(format!(
            "keeper {keeper} has no complete data: they were never made, or are being copied"
        ));
    }
    let info = infos.iter().find(|info| info.uid == *keeper);
    let is_kept_stopped = db.is_master_type() && info.is_some_and(|info| info.stopped.is_some() && !info.leaving);
    match recorded(checked, uid, db).state {
        DbCondition::Healthy | DbCondition::NotConverged => {}
        DbCondition::PostgresFailed if is_kept_stopped => {}
        DbCondition::PostgresFailed => {
            return Err(format!(
                "the PostgreSQL of keeper {keeper} is not healthy: see `stolonctl status` and its log"
            ));
        }
        DbCondition::KeeperFailed(_) => {
            return Err(format!(
                "keeper {keeper} is not healthy: start it, and wait until it is"
            ));
        }
    }
    if info.is_some_and(|info| info.is_leaving_or_stopped()) && !is_kept_stopped {
        return Err(format!("keeper {keeper} is stopping"));
    }
    if status.system_id != master.status.system_id {
        return Err(format!(
            "the data of keeper {keeper} are of another database cluster than the master's"
        ));
    }
    if db.is_master_type() {
        return Ok(());
    }
    let keeper_status = checked.data.keepers().get(keeper).map(|keeper| &keeper.status);
    if keeper_status.is_some_and(|status| status.can_be_master == Some(false)) {
        return Err(format!("keeper {keeper} cannot be master (--can-be-master=false)"));
    }
    let same_system = checked
        .data
        .dbs()
        .values()
        .filter(|other| other.status.system_id == status.system_id);
    match same_system.max_by_key(|other| other.status.timeline_id) {
        Some(highest) if highest.status.timeline_id > status.timeline_id => Err(format!(
            "keeper {keeper} has a standby on timeline {}, and keeper {} has timeline {}: promoted, it would make a \
             second timeline with the same number, and copies of both could be mixed up",
            status.timeline_id, highest.spec.keeper_uid, highest.status.timeline_id
        )),
        _ => Ok(()),
    }
}

fn recorded(checked: &CheckedClusterData, uid: &DbUid, db: &Db) -> RecordedDb {
    RecordedDb {
        keeper: db.spec.keeper_uid.clone(),
        db: uid.clone(),
        position: db.status.xlog_pos,
        timeline: db.status.timeline_id,
        state: condition(&checked.data, db),
    }
}

/// Returns whether a db can be reached.
pub(super) fn condition(data: &ClusterData, db: &Db) -> DbCondition {
    let keeper = data.keepers().get(&db.spec.keeper_uid);
    match keeper {
        Some(keeper) if keeper.status.healthy && db.status.healthy => DbCondition::Healthy,
        Some(keeper) if keeper.status.healthy => DbCondition::PostgresFailed,
        Some(keeper) => DbCondition::KeeperFailed(keeper.status.last_healthy_time),
        None => DbCondition::KeeperFailed(Timestamp::default()),
    }
}

/// Returns what a db is known to lack of what the master wrote.
fn missing(master: &DbStatus, target: &DbStatus) -> Missing {
    let (of_master, own) = (master.timeline_id, target.timeline_id);
    if own == of_master {
        return Missing::Bytes(target.xlog_pos.bytes_behind(master.xlog_pos));
    }
    let (later, timeline) = if own > of_master {
        (target, of_master)
    } else {
        (master, own)
    };
    match later.history_entry(timeline).map(|entry| entry.switch_point) {
        Some(at) if own > of_master => Missing::LeftTimeline { timeline, at },
        Some(at) => Missing::MasterLeftTimeline { timeline, at },
        None => Missing::Unknown,
    }
}

fn sync_sets(checked: &CheckedClusterData, master: &Db) -> SyncSets {
    let member = |db: &DbUid| Member {
        db: db.clone(),
        found: checked
            .data
            .dbs()
            .get(db)
            .map(|of| (of.spec.keeper_uid.clone(), condition(&checked.data, of))),
    };
    let members = |list: &Option<Vec<DbUid>>| list.iter().flatten().map(member).collect();
    SyncSets {
        min: checked.spec.min_synchronous_standbys,
        wanted: members(&master.spec.synchronous_standbys),
        known: members(&master.status.synchronous_standbys),
    }
}
