//! A keeper in the cluster data.

use serde::{Deserialize, Serialize};

use crate::{BootUuid, KeeperUid, Timestamp, is_zero};

/// A keeper that has published an info for this cluster (data-model 7.1).
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
    /// What the sentinel last recorded of it.
    pub status: KeeperStatus,
}

/// Keepers have no spec of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeeperSpec {}

/// The state of a keeper, as the sentinel last recorded it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeeperStatus {
    /// The sentinel's assessment.
    #[serde(skip_serializing_if = "is_zero")]
    pub healthy: bool,
    /// When it was last found healthy, on the wall clock.
    pub last_healthy_time: Timestamp,
    /// The boot UUID of the keeper process last recorded. A keeper does not start PostgreSQL before its own is recorded
    /// here.
    #[serde(rename = "bootUUID", skip_serializing_if = "is_zero")]
    pub boot_uuid: BootUuid,
    /// The version of its PostgreSQL programs.
    pub postgres_binary_version: PostgresBinaryVersion,
    /// Set by `stolonctl failkeeper`, cleared by the sentinel.
    #[serde(skip_serializing_if = "is_zero")]
    pub force_fail: bool,
    /// Whether it may be elected; unset, as in infos of older keepers, counts as true.
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
