//! Computes the status of the cluster from a snapshot of the store. Pure.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    ClusterData, ClusterView, DbUid, FailoverRequest, KeeperInfo, KeeperUid, KeeperView, Problem, ProxyInfo, ProxyUid,
    RestartState, SentinelInfo, SentinelUid, Spec, SwitchoverRequest, Timestamp,
};
use serde::Serialize;

/// The whole status; its fields are those of the JSON form (cli 14.2).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status {
    pub(super) sentinels: Vec<SentinelRow>,
    pub(super) proxies: Vec<ProxyRow>,
    pub(super) keepers: Vec<KeeperRow>,
    pub(super) cluster: ClusterSummary,
    /// Requests of operators that are under way. The field is absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) requests: Vec<RequestRow>,
    /// Problems that an operator has to fix. The field is absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<ProblemRow>,
    /// The replication tree from the master down; only in the text form.
    #[serde(skip)]
    pub(super) tree: Vec<TreeRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct SentinelRow {
    pub(super) uid: SentinelUid,
    pub(super) leader: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ProxyRow {
    pub(super) uid: ProxyUid,
    pub(super) generation: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct KeeperRow {
    pub(super) uid: String,
    pub(super) listen_address: String,
    pub(super) healthy: bool,
    pub(super) pg_healthy: bool,
    pub(super) pg_wanted_generation: i64,
    pub(super) pg_current_generation: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ClusterSummary {
    pub(super) available: bool,
    /// Empty without a master, and if the document does not contain its db.
    pub(super) master_keeper_uid: String,
    /// Empty without a master.
    pub(super) master_db_uid: String,
}

/// A switchover or a failover that an operator has requested.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RequestRow {
    /// `switchover` or `failover`.
    pub(super) kind: &'static str,
    /// The keeper that is to have the master, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<KeeperUid>,
    pub(super) requested_at: Timestamp,
    /// The step that the leading sentinel, or else an earlier leader, has published (extensions X-2); empty if none has.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) step: String,
    /// What that step waits for, or what keeps the request from being carried out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) waits_for: String,
}

/// A problem, of a keeper or of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ProblemRow {
    /// The keeper that reports it; absent for a problem of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keeper: Option<String>,
    /// The cluster data have the keeper as unhealthy, so this is its last report and may be outdated.
    #[serde(rename = "old", skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_old: bool,
    #[serde(flatten)]
    pub(super) problem: Problem,
}

/// One db of the tree: a line of the text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeRow {
    /// The characters that draw the tree, before the keeper's uid.
    pub(super) tree_prefix: String,
    pub(super) keeper_uid: String,
    pub(super) is_master: bool,
}

/// Computes the status (cli 14.1). What a broken document names but does not contain is shown as missing.
pub(super) fn build(
    leader: Option<&str>,
    sentinels: Vec<SentinelInfo>,
    proxies: Vec<ProxyInfo>,
    data: &ClusterData,
) -> Status {
    let mut sentinels: Vec<SentinelRow> = sentinels
        .into_iter()
        .map(|info| SentinelRow {
            leader: leader == Some(info.uid.as_str()),
            uid: info.uid,
        })
        .collect();
    sentinels.sort_by(|a, b| a.uid.cmp(&b.uid));
    // Of two infos with the same uid the later one counts (store S-11).
    let proxies: BTreeMap<ProxyUid, i64> = proxies.into_iter().map(|info| (info.uid, info.generation)).collect();
    let master = data.master_uid();
    let view = ClusterView::of(data);
    Status {
        sentinels,
        proxies: proxies
            .into_iter()
            .map(|(uid, generation)| ProxyRow { uid, generation })
            .collect(),
        keepers: view.keepers.iter().map(keeper_row).collect(),
        cluster: ClusterSummary {
            available: data.cluster.is_some() && data.dbs.is_some(),
            master_keeper_uid: view.master.unwrap_or_default().to_string(),
            master_db_uid: master.map(ToString::to_string).unwrap_or_default(),
        },
        requests: Vec::new(),
        problems: Vec::new(),
        tree: tree_rows(data),
    }
}

/// A request, and how it is stored.
pub(super) struct StoredRequest<T> {
    pub(super) request: T,
    pub(super) key: String,
    /// It has a lease. Without one it is not carried out.
    pub(super) expires: bool,
}

impl<T> StoredRequest<T> {
    /// Returns what keeps it from being carried out, otherwise `waits_for`.
    fn ignored_or(&self, waits_for: String) -> String {
        match self.expires {
            true => waits_for,
            false => format!(
                "ignored, since it has no lease: delete it with `etcdctl del {}`",
                self.key
            ),
        }
    }
}

/// Returns the requests that are in the store, with the step of the switchover as a sentinel has published it.
pub(super) fn requests(
    switchover: Option<StoredRequest<SwitchoverRequest>>,
    failover: Option<StoredRequest<FailoverRequest>>,
    sentinels: &[SentinelInfo],
    leader: Option<&str>,
) -> Vec<RequestRow> {
    let switchover = switchover.map(|stored| {
        let reports = sentinels.iter().filter_map(|info| {
            let report = info.switchover.as_ref()?;
            (report.id == stored.request.id).then_some((leader == Some(info.uid.as_str()), report))
        });
        let report = reports.max_by_key(|(leads, _)| *leads).map(|(_, report)| report);
        RequestRow {
            kind: "switchover",
            step: report.map(|report| report.state.to_string()).unwrap_or_default(),
            waits_for: stored.ignored_or(report.map(|report| report.reason.clone()).unwrap_or_default()),
            to: stored.request.to,
            requested_at: stored.request.requested_at,
        }
    });
    let failover = failover.map(|stored| RequestRow {
        kind: "failover",
        step: String::new(),
        waits_for: stored.ignored_or(String::new()),
        to: Some(stored.request.to),
        requested_at: stored.request.requested_at,
    });
    switchover.into_iter().chain(failover).collect()
}

/// Returns the problems that keepers of this cluster report, or that their infos show, sorted by keeper; those of all
/// keepers without cluster data.
pub(super) fn problems(infos: &[KeeperInfo], cluster: Option<(&ClusterData, &Spec)>) -> Vec<ProblemRow> {
    let (data, spec) = cluster.unzip();
    let cluster = data.and_then(|data| data.cluster.as_ref()).map(|cluster| &cluster.uid);
    let of_cluster = infos
        .iter()
        .filter(|info| data.is_none() || Some(&info.cluster_uid) == cluster);
    let is_unhealthy = |uid| {
        let keeper = data.and_then(|data| data.keepers().get(uid));
        keeper.is_some_and(|keeper| !keeper.status.healthy)
    };
    let mut problems: Vec<ProblemRow> = of_cluster
        .flat_map(|info| {
            let reported = info.problems.iter().take(Problem::COUNT_MAX).map(Problem::printable);
            let waits = spec.and_then(|spec| waits_for_restart(info, spec));
            reported.chain(waits).map(|problem| (&info.uid, problem))
        })
        .map(|(uid, problem)| ProblemRow {
            keeper: Some(uid.to_string()),
            is_old: is_unhealthy(uid),
            problem,
        })
        .collect();
    problems.sort_by(|a, b| (&a.keeper, &a.problem).cmp(&(&b.keeper, &b.problem)));
    problems
}

/// Returns the problem of an instance whose parameters wait for a restart. With automaticPgRestart the keeper itself reports
/// what keeps it from restarting.
fn waits_for_restart(info: &KeeperInfo, spec: &Spec) -> Option<Problem> {
    let is_pending = matches!(&info.settings, Some(settings) if settings.state == RestartState::Pending);
    let runs = info.postgres_state.as_ref().is_some_and(|state| state.healthy) && !info.is_leaving_or_stopped();
    (is_pending && runs && !spec.automatic_pg_restart).then(|| {
        Problem::new(
            "configuration",
            "parameters wait for a restart of PostgreSQL (`select name from pg_settings where pending_restart`)",
            "restart the standbys' keepers, then `stolonctl switchover`; values that are only lowered take effect on the master \
             first: restart its keeper in place, then the standbys' keepers; or set automaticPgRestart (`stolonctl update --patch`)",
        )
    })
}

fn keeper_row(keeper: &KeeperView) -> KeeperRow {
    let db = keeper.db.as_ref();
    let unknown = || "(unknown)".to_owned();
    KeeperRow {
        uid: keeper.uid.to_string(),
        listen_address: db.map_or_else(
            || "(no db assigned)".to_owned(),
            |db| db.address.clone().unwrap_or_else(unknown),
        ),
        healthy: keeper.healthy,
        pg_healthy: db.is_some_and(|db| db.healthy),
        pg_wanted_generation: db.map_or(0, |db| db.wanted_generation),
        pg_current_generation: db.map_or(0, |db| db.current_generation),
    }
}

/// Depth of the tree that is drawn; real clusters are far below it.
const TREE_LEVELS_MAX: usize = 64;

/// Returns the dbs from the master down, depth first, followers in stored order (cli 14.3).
///
/// Each db is drawn once. In a broken document several dbs may name the same follower, or a db may follow itself; the
/// number of paths through it can be exponential.
fn tree_rows(data: &ClusterData) -> Vec<TreeRow> {
    let mut branches = Vec::new();
    if let Some(master) = data.master_uid() {
        push_subtree(data, master, None, "", &mut BTreeSet::new(), 0, &mut branches);
    }
    branches
}

/// Appends a db and its followers. `place` is whether the db is the last of its parent's followers, `None` for the
/// root. `drawn` are the dbs that the tree already has.
fn push_subtree<'a>(
    data: &'a ClusterData,
    uid: &'a DbUid,
    place: Option<bool>,
    prefix: &str,
    drawn: &mut BTreeSet<&'a DbUid>,
    level: usize,
    branches: &mut Vec<TreeRow>,
) {
    let Some(db) = data.dbs().get(uid) else {
        return;
    };
    if level > TREE_LEVELS_MAX || !drawn.insert(uid) {
        return;
    }
    let branch = match place {
        None => "",
        Some(true) => "└─",
        Some(false) => "├─",
    };
    branches.push(TreeRow {
        tree_prefix: format!("{prefix}{branch}"),
        keeper_uid: db.spec.keeper_uid.to_string(),
        is_master: data.master_uid() == Some(uid),
    });
    let prefix = match place {
        None => String::new(),
        Some(true) => format!("{prefix}  "),
        Some(false) => format!("{prefix}│ "),
    };
    let followers = db.spec.followers.as_deref().unwrap_or_default();
    for (number, follower) in followers.iter().enumerate() {
        // "last" also counts followers that do not exist
        push_subtree(
            data,
            follower,
            Some(number + 1 == followers.len()),
            &prefix,
            drawn,
            level + 1,
            branches,
        );
    }
}
