//! Whether a failover to a keeper can be requested, and what may be missing then. Pure. The leading sentinel makes the
//! same check of the data (`model::check_requested_data`), and decides on the infos of that time whether the keeper is there
//! (synchronous SY-20).

use std::time::Duration;

use model::{
    CheckedClusterData, ClusterData, Db, DbStatus, DbUid, KeeperInfo, KeeperUid, Lsn, Phase, Timestamp, UnfitData,
    check_requested_data,
};

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
    pub(super) state: DbHealth,
}

/// Health of a db and its keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DbHealth {
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
    pub(super) found: Option<(KeeperUid, DbHealth)>,
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
    if of_master.state == DbHealth::Healthy && master.is_converged() {
        return Err(format!(
            "the master is healthy: keeper {0} has it; to hand it over, use `stolonctl switchover --to {to}`, or \
             `stolonctl failkeeper {0}`",
            of_master.keeper
        ));
    }
    if of_master.state == DbHealth::Healthy {
        of_master.state = DbHealth::NotConverged;
    }
    let fitness = check_requested_data(data, master_uid, uid);
    let is_incomplete = fitness == Err(UnfitData::Incomplete);
    check_target(data, infos, db, fitness).map_err(|why| match of_master.state {
        // Soon after an election the old master's new data are always incomplete.
        DbHealth::NotConverged if is_incomplete => format!(
            "{why}; the master, of keeper {}, is healthy and has not applied its spec yet: wait a few seconds",
            of_master.keeper
        ),
        _ => why,
    })?;
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

/// Checks that the keeper of a db is there, and that its data can become the master's; `fitness` is whether they can.
fn check_target(
    data: &ClusterData,
    infos: &[KeeperInfo],
    db: &Db,
    fitness: Result<(), UnfitData>,
) -> Result<(), String> {
    let keeper = &db.spec.keeper_uid;
    let cannot = |why: UnfitData| format!("keeper {keeper} cannot become the master: {why}");
    // A keeper that is copying is not healthy either: the copy is the reason.
    if fitness == Err(UnfitData::Incomplete) {
        return Err(cannot(UnfitData::Incomplete));
    }
    let info = infos.iter().find(|info| info.uid == *keeper);
    let is_kept_stopped = db.is_master_type() && info.is_some_and(|info| info.stopped.is_some() && !info.leaving);
    match db_health(data, db) {
        DbHealth::Healthy | DbHealth::NotConverged => {}
        DbHealth::PostgresFailed if is_kept_stopped => {}
        DbHealth::PostgresFailed => {
            return Err(format!(
                "the PostgreSQL of keeper {keeper} is not healthy: see `stolonctl status` and its log"
            ));
        }
        DbHealth::KeeperFailed(_) => {
            return Err(format!(
                "keeper {keeper} is not healthy: start it, and wait until it is"
            ));
        }
    }
    if info.is_some_and(|info| info.is_leaving_or_stopped()) && !is_kept_stopped {
        return Err(format!("keeper {keeper} is stopping"));
    }
    fitness.map_err(cannot)
}

fn recorded(checked: &CheckedClusterData, uid: &DbUid, db: &Db) -> RecordedDb {
    RecordedDb {
        keeper: db.spec.keeper_uid.clone(),
        db: uid.clone(),
        position: db.status.xlog_pos,
        timeline: db.status.timeline_id,
        state: db_health(&checked.data, db),
    }
}

/// Returns the health of a db and its keeper.
pub(super) fn db_health(data: &ClusterData, db: &Db) -> DbHealth {
    let keeper = data.keepers().get(&db.spec.keeper_uid);
    match keeper {
        Some(keeper) if keeper.status.healthy && db.status.healthy => DbHealth::Healthy,
        Some(keeper) if keeper.status.healthy => DbHealth::PostgresFailed,
        Some(keeper) => DbHealth::KeeperFailed(keeper.status.last_healthy_time),
        None => DbHealth::KeeperFailed(Timestamp::default()),
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
            .map(|of| (of.spec.keeper_uid.clone(), db_health(&checked.data, of))),
    };
    let members = |list: &Option<Vec<DbUid>>| list.iter().flatten().map(member).collect();
    SyncSets {
        min: checked.spec.min_synchronous_standbys,
        wanted: members(&master.spec.synchronous_standbys),
        known: members(&master.status.synchronous_standbys),
    }
}
