//! What keepers, proxies and sentinels publish of themselves, under a lease.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    BootUuid, ClusterUid, DbUid, InfoUid, KeeperUid, Lsn, PostgresBinaryVersion, Problem, ProxyUid, SentinelUid,
    TimelineHistory, is_zero, known_texts,
};

/// A keeper's info (data-model 8.1), with the announcements of beyond 1 and 8 behind the fields that every reader knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeeperInfo {
    /// New at each publication.
    #[serde(rename = "infoUID", skip_serializing_if = "is_zero")]
    pub info_uid: InfoUid,
    /// The keeper.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: KeeperUid,
    /// The cluster it believes to belong to; infos of another cluster are ignored.
    #[serde(rename = "clusterUID", skip_serializing_if = "is_zero")]
    pub cluster_uid: ClusterUid,
    /// This keeper process.
    #[serde(rename = "bootUUID", skip_serializing_if = "is_zero")]
    pub boot_uuid: BootUuid,
    /// The version of its PostgreSQL programs.
    pub postgres_binary_version: PostgresBinaryVersion,
    /// The instance; absent until it was looked at.
    #[serde(skip_serializing_if = "is_zero")]
    pub postgres_state: Option<PostgresState>,
    /// Whether it may be elected.
    #[serde(skip_serializing_if = "is_zero")]
    pub can_be_master: Option<bool>,
    /// Whether commits may wait for it.
    #[serde(skip_serializing_if = "is_zero")]
    pub can_be_synchronous_replica: Option<bool>,
    /// The keeper keeps a liveness key (beyond ).
    #[serde(skip_serializing_if = "is_zero")]
    pub liveness_key: bool,
    /// The keeper is leaving on purpose (beyond ).
    #[serde(skip_serializing_if = "is_zero")]
    pub leaving: bool,
    /// It has begun to obey this order to stop (beyond ).
    #[serde(skip_serializing_if = "is_zero")]
    pub stopping: String,
    /// The instance of the assigned db is down, and this is where it stands (beyond ).
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: Option<Stopped>,
    /// How far the instance is with the cluster's parameters; absent until that is known, and from Go stolon's keepers.
    #[serde(skip_serializing_if = "is_zero")]
    pub settings: Option<SettingsInfo>,
    /// What an operator has to fix; absent when there is nothing.
    #[serde(skip_serializing_if = "is_zero")]
    pub problems: Vec<Problem>,
    /// The assigned db whose data the keeper does not have: it needs another db. Empty: it has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub data_lost: DbUid,
}

/// How far an instance is with parameters that need a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SettingsInfo {
    /// Tells one set of wanted parameters from another.
    pub fingerprint: String,
    /// How far it is with this set.
    pub state: RestartState,
}

impl SettingsInfo {
    /// Whether the instance restarts now.
    pub fn is_restarting(&self) -> bool {
        self.state == RestartState::Restarting
    }
}

known_texts!(
    /// How far an instance is with a set of parameters.
    RestartState {
        /// It runs with them.
        Applied = "applied",
        /// Some of them wait for a restart.
        Pending = "pending",
        /// It is being restarted for them.
        Restarting = "restarting",
        /// It did not start with them, and runs with those before.
        Refused = "refused",
    }
);

/// Where a stopped instance stands (beyond ).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stopped {
    /// Shut down in order; false when killed, crashed or hurried.
    pub clean: bool,
    /// The end of the shutdown checkpoint's record; absent unless clean.
    #[serde(skip_serializing_if = "is_zero")]
    pub lsn: Option<Lsn>,
    /// The timeline it stopped on.
    #[serde(rename = "timelineID", skip_serializing_if = "is_zero")]
    pub timeline_id: u64,
}

/// A PostgreSQL instance as its keeper sees it (data-model 8.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresState {
    /// The db that the keeper's data belong to.
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
    /// Every probe up to the timeline history succeeded (keeper I11).
    #[serde(skip_serializing_if = "is_zero")]
    pub healthy: bool,
    /// PostgreSQL's system identifier, decimal.
    #[serde(rename = "systemID", skip_serializing_if = "is_zero")]
    pub system_id: String,
    /// The timeline it is on.
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
    /// The standbys that PostgreSQL shows as `sync`; unset when it could not be asked.
    pub synchronous_standbys: Option<Vec<DbUid>>,
    /// Name of the oldest WAL file still there.
    #[serde(skip_serializing_if = "is_zero")]
    pub older_wal_file: String,
}

/// A proxy's info (data-model 8.3), with the announcements of fencing F-6 and beyond.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyInfo {
    /// New at each publication.
    #[serde(rename = "infoUID", skip_serializing_if = "is_zero")]
    pub info_uid: InfoUid,
    /// The proxy.
    #[serde(rename = "UID")]
    pub uid: ProxyUid,
    /// The generation of the proxy section that it obeys; 0 when there is none.
    #[serde(rename = "Generation")]
    pub generation: i64,
    /// The timeout in force, in nanoseconds: the one stored duration that is a number (data-model D-6).
    #[serde(rename = "ProxyTimeout")]
    pub proxy_timeout: i64,
    /// It checks its lease at every forward, so that one lease after "no master" it carries nothing (fencing F-6).
    #[serde(skip_serializing_if = "is_zero")]
    pub fenced: bool,
    /// It has closed its connections and ends.
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: bool,
}

/// A sentinel's info (data-model 8.2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SentinelInfo {
    /// The sentinel.
    #[serde(rename = "UID")]
    pub uid: SentinelUid,
}
