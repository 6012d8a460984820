//! The parts of a spec about initialisation and recovery: new database clusters, backups, existing instances and
//! upstreams of standby clusters. When each applies is left to `spec` and `validate`.

use serde::{Deserialize, Serialize};

use crate::{KeeperUid, is_zero};

/// How `initdb` initialises a new database cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewConfig {
    /// `initdb --locale`; empty: from the keeper's environment.
    #[serde(skip_serializing_if = "is_zero")]
    pub locale: String,
    /// `initdb --encoding`; empty: from the locale.
    #[serde(skip_serializing_if = "is_zero")]
    pub encoding: String,
    /// `initdb --data-checksums`.
    #[serde(skip_serializing_if = "is_zero")]
    pub data_checksums: bool,
}

/// How a backup is restored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PitrConfig {
    /// Shell command that restores PGDATA; `%d` is its path, `%%` a percent sign.
    #[serde(skip_serializing_if = "is_zero")]
    pub data_restore_command: String,
    /// Where archived WAL comes from.
    #[serde(skip_serializing_if = "is_zero")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
    /// Where recovery ends.
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_settings: Option<RecoveryTargetSettings>,
}

/// Which existing instance a cluster is initialised from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExistingConfig {
    /// The keeper that has it.
    #[serde(rename = "keeperUID", skip_serializing_if = "is_zero")]
    pub keeper_uid: KeeperUid,
}

/// The upstream of a standby cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StandbyConfig {
    /// The primary to stream from.
    #[serde(skip_serializing_if = "is_zero")]
    pub standby_settings: Option<StandbySettings>,
    /// The archive to read from.
    #[serde(skip_serializing_if = "is_zero")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
}

/// Streaming settings of a standby; each value becomes PostgreSQL's parameter of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StandbySettings {
    /// `primary_conninfo`
    #[serde(skip_serializing_if = "is_zero")]
    pub primary_conninfo: String,
    /// `primary_slot_name`
    #[serde(skip_serializing_if = "is_zero")]
    pub primary_slot_name: String,
    /// `recovery_min_apply_delay`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_min_apply_delay: String,
}

/// Where archived WAL comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveRecoverySettings {
    /// `restore_command`
    #[serde(skip_serializing_if = "is_zero")]
    pub restore_command: String,
}

/// Recovery target; each value becomes PostgreSQL's parameter of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryTargetSettings {
    /// `recovery_target`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target: String,
    /// `recovery_target_lsn`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_lsn: String,
    /// `recovery_target_name`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_name: String,
    /// `recovery_target_time`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_time: String,
    /// `recovery_target_xid`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_xid: String,
    /// `recovery_target_timeline`
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_timeline: String,
}
