//! Whether the data of a db can become the master's at an operator's request (synchronous SY-20). How old they are does not
//! matter: that is what the operator gives up. Whether its keeper is there is left to the programs.

use std::fmt;

use crate::{ClusterData, Db, DbUid, KeeperUid};

/// Why the data of a keeper cannot become the master's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnfitData {
    /// They were never complete, or are being copied.
    Incomplete,
    /// They are of another database cluster.
    OtherSystem,
    /// The keeper has `--can-be-master=false`.
    MayNotBeMaster,
    /// They are a standby's on a lower timeline than another db. Its promotion would make a second timeline with the same
    /// number, and other data could not be distinguished from its own (sentinel C-12).
    LowerTimeline {
        /// Their timeline.
        own: u64,
        /// The highest one in the cluster.
        highest: u64,
        /// The keeper that has it.
        keeper: KeeperUid,
    },
    /// Another former master is kept. With closed proxies it could be elected instead, although it may lack more
    /// (extensions; synchronous SY-9).
    FormerMasterKept {
        /// Its keeper.
        keeper: KeeperUid,
    },
}

/// Checks that the data of the db `requested` can replace those of the db `master`.
///
/// # Errors
/// The first reason against them. A db that the cluster data do not hold is incomplete.
pub fn check_requested_data(data: &ClusterData, master: &DbUid, requested: &DbUid) -> Result<(), UnfitData> {
    let dbs = data.dbs();
    let (Some(db), Some(master_db)) = (dbs.get(requested), dbs.get(master)) else {
        return Err(UnfitData::Incomplete);
    };
    if db.status.current_generation <= 0 || !(db.is_standby_type() || db.is_master_type()) {
        return Err(UnfitData::Incomplete);
    }
    if db.status.system_id != master_db.status.system_id {
        return Err(UnfitData::OtherSystem);
    }
    // A former master goes on as one, on its own timeline.
    if db.is_standby_type() {
        check_promotion(data, db)?;
    }
    match other_former_master(data, master, master_db, requested) {
        Some(keeper) => Err(UnfitData::FormerMasterKept { keeper }),
        None => Ok(()),
    }
}

/// Checks that a standby may be promoted.
fn check_promotion(data: &ClusterData, db: &Db) -> Result<(), UnfitData> {
    let keeper = data.keepers().get(&db.spec.keeper_uid);
    if keeper.is_some_and(|keeper| keeper.status.can_be_master == Some(false)) {
        return Err(UnfitData::MayNotBeMaster);
    }
    let same_system = data
        .dbs()
        .values()
        .filter(|other| other.status.system_id == db.status.system_id);
    let own = db.status.timeline_id;
    match same_system.max_by_key(|other| other.status.timeline_id) {
        Some(highest) if highest.status.timeline_id > own => Err(UnfitData::LowerTimeline {
            own,
            highest: highest.status.timeline_id,
            keeper: highest.spec.keeper_uid.clone(),
        }),
        _ => Ok(()),
    }
}

/// Returns the keeper of another former master that closed proxies would turn into a candidate, although clients have
/// written to the failed master since.
fn other_former_master(data: &ClusterData, master: &DbUid, master_db: &Db, requested: &DbUid) -> Option<KeeperUid> {
    let proxy = data.proxy.as_ref();
    if proxy.is_none_or(|proxy| proxy.spec.master_db_uid != *master) {
        return None;
    }
    let is_former = |uid: &DbUid, db: &Db| uid != master && uid != requested && db.is_master_type();
    let is_candidate =
        |db: &Db| master_db.spec.synchronous_replication || db.status.timeline_id == master_db.status.timeline_id;
    let mut dbs = data.dbs().iter();
    dbs.find(|(uid, db)| is_former(uid, db) && is_candidate(db))
        .map(|(_, db)| db.spec.keeper_uid.clone())
}

impl fmt::Display for UnfitData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("its data are not complete: they were never made, or are being copied"),
            Self::OtherSystem => f.write_str("its data are of another database cluster than the master's"),
            Self::MayNotBeMaster => f.write_str("it cannot be master (--can-be-master=false)"),
            Self::LowerTimeline { own, highest, keeper } => write!(
                f,
                "it has a standby on timeline {own}, and keeper {keeper} has timeline {highest}: promoted, it would make a \
                 second timeline with the same number, and copies of both could be mixed up"
            ),
            Self::FormerMasterKept { keeper } => write!(
                f,
                "the former master of keeper {keeper} is kept and could be elected instead: remove it first, with \
                 `stolonctl removekeeper {keeper}`"
            ),
        }
    }
}
