//! The state of the playground's cluster in the store, as its steps and its live status need it.

use anyhow::Context;
use model::{ClusterData, DbUid, Lsn, Role};
use store::Store;

/// The cluster at one moment.
#[derive(Debug, Default)]
pub(super) struct PlaygroundView {
    /// Number of sentinels that campaign; the oldest one leads.
    pub(super) candidates: usize,
    /// Uid of the leading sentinel.
    pub(super) leader: Option<String>,
    /// Each keeper with its db, by uid.
    pub(super) keepers: Vec<KeeperView>,
    /// Keeper of the elected master.
    pub(super) master: Option<String>,
    /// Keeper of the db that proxies send clients to.
    pub(super) proxied: Option<String>,
}

#[derive(Debug)]
pub(super) struct KeeperView {
    pub(super) uid: String,
    pub(super) healthy: bool,
    pub(super) db: Option<DbView>,
}

#[derive(Debug)]
pub(super) struct DbView {
    pub(super) role: Role,
    pub(super) healthy: bool,
    pub(super) converged: bool,
    pub(super) address: String,
    pub(super) position: Lsn,
    pub(super) follows: Option<String>,
}

impl PlaygroundView {
    /// Returns the db of a healthy keeper if it is healthy, has this role and has converged to the sentinel's spec.
    pub(super) fn converged_db(&self, uid: &str, role: &Role) -> Option<&DbView> {
        let keeper = self.keepers.iter().find(|keeper| keeper.uid == uid && keeper.healthy)?;
        keeper
            .db
            .as_ref()
            .filter(|db| db.healthy && db.converged && db.role == *role)
    }
}

/// Reads it from the store.
pub(super) async fn read_view(store: &Store) -> anyhow::Result<PlaygroundView> {
    let keys = store.keys();
    let mut candidates = store.list(&keys.election()).await?;
    candidates.sort_by_key(|entry| entry.create_revision);
    let mut view = PlaygroundView {
        candidates: candidates.len(),
        leader: candidates
            .first()
            .map(|entry| String::from_utf8_lossy(&entry.value).into_owned()),
        ..PlaygroundView::default()
    };
    let Some(entry) = store.get(&keys.cluster_data()).await? else {
        return Ok(view);
    };
    let Some(data) = ClusterData::parse(&entry.value).context("read cluster data")? else {
        return Ok(view);
    };
    let keeper_of = |uid: &DbUid| data.dbs().get(uid).map(|db| db.spec.keeper_uid.to_string());
    view.master = data.master_uid().and_then(keeper_of);
    view.proxied = data.proxied_master().map(|(_, db)| db.spec.keeper_uid.to_string());
    view.keepers = data
        .keepers()
        .iter()
        .map(|(uid, keeper)| KeeperView {
            uid: uid.to_string(),
            healthy: keeper.status.healthy,
            db: data.db_of_keeper(uid).map(|(_, db)| DbView {
                role: db.spec.role.clone(),
                healthy: db.status.healthy,
                converged: db.is_converged(),
                address: format!("{}:{}", db.status.listen_address, db.status.port),
                position: db.status.xlog_pos,
                follows: db
                    .spec
                    .follow_config
                    .as_ref()
                    .and_then(|follow| keeper_of(&follow.db_uid)),
            }),
        })
        .collect();
    Ok(view)
}

/// Returns the live status of the cluster, one line for each keeper and one for the proxy.
pub(super) async fn status_lines(store: &Store) -> Vec<String> {
    let view = match read_view(store).await {
        Ok(view) => view,
        Err(error) => return vec![format!("the store does not answer: {error:#}")],
    };
    let ahead = view
        .keepers
        .iter()
        .filter_map(|keeper| keeper.db.as_ref())
        .map(|db| db.position)
        .max();
    let row = |keeper: &KeeperView| {
        let Some(db) = &keeper.db else {
            return format!("  {:10} no instance", keeper.uid);
        };
        let role = db.role.to_string();
        let health = if keeper.healthy && db.healthy {
            "healthy"
        } else {
            "failed"
        };
        let detail = match &db.follows {
            Some(master) => {
                format!(
                    "follows {master}, {} bytes behind",
                    ahead.map_or(0, |ahead| db.position.bytes_behind(ahead)).max(0)
                )
            }
            None => String::new(),
        };
        format!("  {:10} {role:8} {health:8} {:16} {detail}", keeper.uid, db.address)
    };
    let mut lines: Vec<String> = view.keepers.iter().map(row).collect();
    lines.push(match (&view.proxied, &view.leader) {
        (Some(master), Some(leader)) => format!("  proxy → {master}; sentinel {leader} leads"),
        (Some(master), None) => format!("  proxy → {master}; no sentinel leads"),
        (None, _) => "  proxy → no master".to_owned(),
    });
    lines
}
