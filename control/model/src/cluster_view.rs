//! A summary of the cluster data: each keeper with its db, the master, and where clients go. How it is printed is
//! left to the programs.

use crate::{ClusterData, Db, DbUid, KeeperUid, Lsn, Role};

/// The cluster at one moment, from its cluster data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Each known keeper with its db, by uid.
    pub keepers: Vec<KeeperView>,
    /// The keeper of the master; none if no master is named or the document does not hold its db.
    pub master: Option<KeeperUid>,
    /// The keeper of the db that proxies send clients to.
    pub proxied: Option<KeeperUid>,
}

/// A keeper and its db.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperView {
    /// The keeper.
    pub uid: KeeperUid,
    /// The sentinel's assessment.
    pub healthy: bool,
    /// Its db, if it has one.
    pub db: Option<DbView>,
}

/// A db in the summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbView {
    /// Master or standby.
    pub role: Role,
    /// The sentinel's assessment.
    pub healthy: bool,
    /// The generation that its keeper has to apply.
    pub wanted_generation: i64,
    /// The generation that its keeper has applied.
    pub current_generation: i64,
    /// Advertised address and port; none before its keeper has reported one.
    pub address: Option<String>,
    /// Recorded position in the write-ahead log.
    pub position: Lsn,
    /// The keeper of the followed db.
    pub follows: Option<KeeperUid>,
}

impl ClusterView {
    /// Returns the view of a document, which may be a broken one: what it names but does not hold is none.
    pub fn of(data: &ClusterData) -> Self {
        let keeper_of = |uid: &DbUid| data.dbs().get(uid).map(|db| db.spec.keeper_uid.clone());
        let db_view = |db: &Db| DbView {
            role: db.spec.role.clone(),
            healthy: db.status.healthy,
            wanted_generation: db.generation,
            current_generation: db.status.current_generation,
            address: Some(&db.status.listen_address)
                .filter(|host| !host.is_empty())
                .map(|host| format!("{host}:{}", db.status.port)),
            position: db.status.xlog_pos,
            follows: db
                .spec
                .follow_config
                .as_ref()
                .and_then(|follow| keeper_of(&follow.db_uid)),
        };
        let keepers = data.keepers().iter().map(|(uid, keeper)| KeeperView {
            uid: uid.clone(),
            healthy: keeper.status.healthy,
            db: data.db_of_keeper(uid).map(|(_, db)| db_view(db)),
        });
        Self {
            keepers: keepers.collect(),
            master: data.master_uid().and_then(keeper_of),
            proxied: data.proxied_master().map(|(_, db)| db.spec.keeper_uid.clone()),
        }
    }
}

impl DbView {
    /// Returns whether its keeper has applied the current generation.
    pub fn is_converged(&self) -> bool {
        self.current_generation == self.wanted_generation
    }
}
