//! The proxy section of cluster data, which applies to all proxies.

use serde::{Deserialize, Serialize};

use crate::{DbUid, ProxyUid, Timestamp, is_zero};

/// The proxy section of cluster data (data-model 7.3).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxySection {
    /// Never set; kept when read.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: String,
    /// One more whenever the sentinel changes master or enabled proxies; 0: nothing announced yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the sentinel last changed this object.
    pub change_time: Timestamp,
    /// What is announced.
    pub spec: ProxySpec,
    /// Always empty.
    pub status: ProxyStatus,
}

/// What is announced to proxies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxySpec {
    /// The db to send clients to; empty: none, close all connections.
    #[serde(skip_serializing_if = "is_zero")]
    pub master_db_uid: DbUid,
    /// The proxies that may do so, sorted.
    #[serde(skip_serializing_if = "is_zero")]
    pub enabled_proxies: Vec<ProxyUid>,
}

/// Proxies report nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProxyStatus {}
