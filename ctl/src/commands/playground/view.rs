//! The state of the playground's cluster in the store, as its steps and its live status need it.

use anyhow::Context;
use model::{ClusterData, ClusterView, DbView, KeeperView, Role};
use store::Store;

/// The cluster at one moment.
#[derive(Debug, Default)]
pub(super) struct PlaygroundView {
    /// Number of sentinels that campaign; the oldest one leads.
    pub(super) candidates: usize,
    /// Uid of the leading sentinel.
    pub(super) leader: Option<String>,
    /// The keepers, the master and where clients go.
    pub(super) cluster: ClusterView,
}

impl PlaygroundView {
    /// Returns the db of a healthy keeper if it is healthy, has this role and has converged to the sentinel's spec.
    pub(super) fn converged_db(&self, uid: &str, role: &Role) -> Option<&DbView> {
        let mut keepers = self.cluster.keepers.iter();
        let keeper = keepers.find(|keeper| keeper.uid.as_str() == uid && keeper.healthy)?;
        keeper
            .db
            .as_ref()
            .filter(|db| db.healthy && db.is_converged() && db.role == *role)
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
    view.cluster = ClusterView::of(&data);
    Ok(view)
}

/// Returns the live status of the cluster, one line for each keeper and one for the proxy.
pub(super) async fn status_lines(store: &Store) -> Vec<String> {
    let view = match read_view(store).await {
        Ok(view) => view,
        Err(error) => return vec![format!("the store does not answer: {error:#}")],
    };
    let ahead = view
        .cluster
        .keepers
        .iter()
        .filter_map(|keeper| keeper.db.as_ref())
        .map(|db| db.position)
        .max();
    let row = |keeper: &KeeperView| {
        let Some(db) = &keeper.db else {
            return format!("  {:10} no instance", keeper.uid.as_str());
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
        let address = db.address.as_deref().unwrap_or(":");
        format!("  {:10} {role:8} {health:8} {address:16} {detail}", keeper.uid.as_str())
    };
    let mut lines: Vec<String> = view.cluster.keepers.iter().map(row).collect();
    lines.push(match (&view.cluster.proxied, &view.leader) {
        (Some(master), Some(leader)) => format!("  proxy → {master}; sentinel {leader} leads"),
        (Some(master), None) => format!("  proxy → {master}; no sentinel leads"),
        (None, _) => "  proxy → no master".to_owned(),
    });
    lines
}
