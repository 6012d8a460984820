//! The infos that keepers, proxies and sentinels publish about themselves, each under a lease.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    BootUuid, ClusterUid, DbUid, InfoUid, KeeperUid, Lsn, PostgresBinaryVersion, Problem, ProxyUid, SentinelUid,
    SwitchoverReport, TimelineHistory, is_zero, string_enum,
};

/// A keeper's info (data-model 8.1). Go stolon ignores the fields after `canBeSynchronousReplica` (extensions 1 and 8).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeeperInfo {
    /// New at each publication.
    #[serde(rename = "infoUID", skip_serializing_if = "is_zero")]
    pub info_uid: InfoUid,
    /// The keeper.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: KeeperUid,
    /// The cluster that the keeper belongs to; infos of another cluster are ignored.
    #[serde(rename = "clusterUID", skip_serializing_if = "is_zero")]
    pub cluster_uid: ClusterUid,
    /// This keeper process.
    #[serde(rename = "bootUUID", skip_serializing_if = "is_zero")]
    pub boot_uuid: BootUuid,
    /// The version of its PostgreSQL programs.
    pub postgres_binary_version: PostgresBinaryVersion,
    /// The instance; absent until its state has been read.
    #[serde(skip_serializing_if = "is_zero")]
    pub postgres_state: Option<PostgresState>,
    /// Whether it may be elected.
    #[serde(skip_serializing_if = "is_zero")]
    pub can_be_master: Option<bool>,
    /// Whether commits may wait for it.
    #[serde(skip_serializing_if = "is_zero")]
    pub can_be_synchronous_replica: Option<bool>,
    /// The keeper renews a liveness key (extensions ).
    #[serde(skip_serializing_if = "is_zero")]
    pub liveness_key: bool,
    /// The keeper is in an orderly shutdown (extensions ).
    #[serde(skip_serializing_if = "is_zero")]
    pub leaving: bool,
    /// The id of the switchover on whose order the instance is being stopped, or is stopped (extensions ).
    #[serde(skip_serializing_if = "is_zero")]
    pub stopping: String,
    /// The instance of the assigned db is stopped at this position (extensions ).
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: Option<Stopped>,
    /// Whether the instance runs with the cluster's parameters; absent until that is known, and in infos of Go stolon.
    #[serde(skip_serializing_if = "is_zero")]
    pub settings: Option<SettingsInfo>,
    /// Problems that an operator has to fix.
    #[serde(skip_serializing_if = "is_zero")]
    pub problems: Vec<Problem>,
    /// The assigned db whose data this keeper does not have, so it needs a new db. Empty when it has the data.
    #[serde(skip_serializing_if = "is_zero")]
    pub data_lost: DbUid,
    /// The keeper acts on the orders of a switchover (extensions X-2).
    #[serde(skip_serializing_if = "is_zero")]
    pub orders: bool,
    /// The id of the switchover whose ordered checkpoint is complete (extensions X-2).
    #[serde(skip_serializing_if = "is_zero")]
    pub checkpointed: String,
    /// After that checkpoint: whether each connected standby has received the WAL up to its end.
    #[serde(skip_serializing_if = "is_zero")]
    pub checkpoint_received: BTreeMap<DbUid, bool>,
}

impl KeeperInfo {
    /// Returns whether the keeper or its instance is shutting down or stopped (extensions ).
    pub fn is_leaving_or_stopped(&self) -> bool {
        self.leaving || !self.stopping.is_empty() || self.stopped.is_some()
    }
}

/// Whether an instance runs with the parameters that need a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SettingsInfo {
    /// Identifies the set of desired parameters.
    pub fingerprint: String,
    /// Whether the instance runs with this set.
    pub state: RestartState,
}

impl SettingsInfo {
    /// Returns whether the instance is being restarted now.
    pub fn is_restarting(&self) -> bool {
        self.state == RestartState::Restarting
    }
}

string_enum!(
    /// Whether an instance runs with a set of parameters.
    RestartState {
        /// It runs with them.
        Applied = "applied",
        /// Some of them wait for a restart.
        Pending = "pending",
        /// It is being restarted for them.
        Restarting = "restarting",
        /// It did not start with them and runs with the previous ones.
        Refused = "refused",
    }
);

/// The position of a stopped instance (extensions ).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stopped {
    /// Whether it was a fast or smart shutdown; false after an immediate shutdown, a kill or a crash.
    pub clean: bool,
    /// The end of the shutdown checkpoint record; absent unless clean.
    #[serde(skip_serializing_if = "is_zero")]
    pub lsn: Option<Lsn>,
    /// The timeline it stopped on.
    #[serde(rename = "timelineID", skip_serializing_if = "is_zero")]
    pub timeline_id: u64,
}

/// A PostgreSQL instance as its keeper reports it (data-model 8.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresState {
    /// The db that the keeper's PGDATA belongs to.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: DbUid,
    /// The generation completely applied; 0: none yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// Advertised address.
    #[serde(skip_serializing_if = "is_zero")]
    pub listen_address: String,
    /// Advertised port, a text.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: String,
    /// All queries up to the timeline history succeeded (keeper I11).
    #[serde(skip_serializing_if = "is_zero")]
    pub healthy: bool,
    /// PostgreSQL's system identifier, decimal.
    #[serde(rename = "systemID", skip_serializing_if = "is_zero")]
    pub system_id: String,
    /// The current timeline.
    #[serde(rename = "timelineID", skip_serializing_if = "is_zero")]
    pub timeline_id: u64,
    /// Position in the write-ahead log: flushed on a master, received or replayed on a standby.
    #[serde(rename = "xLogPos", skip_serializing_if = "is_zero")]
    pub xlog_pos: Lsn,
    /// The last two entries of its timeline history, at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub timelines_history: Vec<TimelineHistory>,
    /// Configured parameters, without the managed ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub pg_parameters: BTreeMap<String, String>,
    /// The standbys that PostgreSQL reports as `sync`; unset when the query failed.
    pub synchronous_standbys: Option<Vec<DbUid>>,
    /// Name of the oldest WAL file in `pg_wal`.
    #[serde(skip_serializing_if = "is_zero")]
    pub older_wal_file: String,
    /// Each of `synchronous_standbys` has flushed all that commits under earlier names could have been acknowledged for
    /// (synchronous SY-3). Go stolon ignores it and never sets it.
    #[serde(skip_serializing_if = "is_zero")]
    pub sync_marked: bool,
}

/// A proxy's info (data-model 8.3). Go stolon ignores `fenced` and `stopped` (fencing F-6, extensions ).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyInfo {
    /// New at each publication.
    #[serde(rename = "infoUID", skip_serializing_if = "is_zero")]
    pub info_uid: InfoUid,
    /// The proxy.
    #[serde(rename = "UID")]
    pub uid: ProxyUid,
    /// The generation of the proxy section that it applies; 0 when there is none.
    #[serde(rename = "Generation")]
    pub generation: i64,
    /// The effective proxyTimeout in nanoseconds, the only stored duration that is a number (data-model D-6).
    #[serde(rename = "ProxyTimeout")]
    pub proxy_timeout: i64,
    /// It checks its lease whenever it forwards, so that one lease after "no master" was written it forwards nothing
    /// (fencing F-6).
    #[serde(skip_serializing_if = "is_zero")]
    pub fenced: bool,
    /// It has closed its connections and is exiting.
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: bool,
}

/// A sentinel's info (data-model 8.2). Go stolon ignores all but `UID` (extensions X-2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SentinelInfo {
    /// The sentinel.
    #[serde(rename = "UID")]
    pub uid: SentinelUid,
    /// The last switchover that this sentinel has led.
    #[serde(skip_serializing_if = "is_zero")]
    pub switchover: Option<SwitchoverReport>,
    /// The sentinel leads switchovers. Go stolon's never set it.
    #[serde(skip_serializing_if = "is_zero")]
    pub switchovers: bool,
}
