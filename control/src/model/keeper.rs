//! A keeper as the cluster data knows it.

use serde::{Deserialize, Serialize};

use crate::model::{BootUuid, KeeperUid, Timestamp, is_zero};

/// A keeper that has reported to this cluster (data-model 7.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keeper {
    /// Its key in the document.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: KeeperUid,
    /// 1, never changed.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the sentinel last changed this object.
    pub change_time: Timestamp,
    /// Always empty.
    pub spec: KeeperSpec,
    /// What is known of it.
    pub status: KeeperStatus,
}

/// Nothing is asked of a keeper itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeeperSpec {}

/// What is known of a keeper.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeeperStatus {
    /// The sentinel's verdict.
    #[serde(skip_serializing_if = "is_zero")]
    pub healthy: bool,
    /// When it was last found healthy, on the wall clock.
    pub last_healthy_time: Timestamp,
    /// The keeper process last seen; a keeper does not start PostgreSQL before its own stands here.
    #[serde(rename = "bootUUID", skip_serializing_if = "is_zero")]
    pub boot_uuid: BootUuid,
    /// The version of its PostgreSQL programs.
    pub postgres_binary_version: PostgresBinaryVersion,
    /// Set by `stolonctl failkeeper`, cleared by the sentinel.
    #[serde(skip_serializing_if = "is_zero")]
    pub force_fail: bool,
    /// Whether it may be elected; unset, as older keepers leave it, counts as true.
    #[serde(skip_serializing_if = "is_zero")]
    pub can_be_master: Option<bool>,
    /// Whether commits may wait for it; unset counts as true.
    #[serde(skip_serializing_if = "is_zero")]
    pub can_be_synchronous_replica: Option<bool>,
}

/// A version of PostgreSQL; 0 and 0 when unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresBinaryVersion {
    /// Such as 15.
    #[serde(rename = "Maj")]
    pub major: i64,
    /// Such as 6 in 15.6.
    #[serde(rename = "Min")]
    pub minor: i64,
}
