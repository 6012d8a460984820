//! A db: one PostgreSQL instance assigned to one keeper.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    ArchiveRecoverySettings, DbUid, GoDuration, KeeperUid, Lsn, NewConfig, PitrConfig, Role, StandbySettings,
    Timestamp, is_zero, known_texts,
};

/// One incarnation of an instance on a keeper; a fresh copy is always a new db (data-model 7.2).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Db {
    /// Its key in the document.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: DbUid,
    /// 1 at creation, one more whenever the spec changes.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the sentinel last changed this object.
    pub change_time: Timestamp,
    /// What its keeper has to make of it.
    pub spec: DbSpec,
    /// What its keeper last reported.
    pub status: DbStatus,
}

/// What a keeper has to make of a db.
///
/// Unset and empty lists differ: a needless change between the two would raise the generation (data-model G-1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DbSpec {
    /// The keeper that runs this db; a keeper has at most one.
    #[serde(rename = "keeperUID", skip_serializing_if = "is_zero")]
    pub keeper_uid: KeeperUid,
    /// Limit of requests to PostgreSQL; `null` in the document is an error (data-model J-9).
    pub request_timeout: GoDuration,
    /// Capacity for standbys.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_standbys: u16,
    /// Whether commits wait for standbys.
    #[serde(skip_serializing_if = "is_zero")]
    pub synchronous_replication: bool,
    /// Whether a diverged instance is rewound before it is copied.
    #[serde(skip_serializing_if = "is_zero")]
    pub use_pgrewind: bool,
    /// Extra `max_wal_senders`.
    pub additional_wal_senders: u16,
    /// Extra physical slots, without the `stolon_` prefix; unset on standbys.
    pub additional_replication_slots: Option<Vec<String>>,
    /// How the instance comes into being; `none` once it is there.
    #[serde(skip_serializing_if = "is_zero")]
    pub init_mode: DbInitMode,
    /// For init mode `new`.
    #[serde(skip_serializing_if = "is_zero")]
    pub new_config: Option<NewConfig>,
    /// For init mode `pitr`.
    #[serde(skip_serializing_if = "is_zero")]
    pub pitr_config: Option<PitrConfig>,
    /// PostgreSQL parameters, plain unquoted values.
    #[serde(skip_serializing_if = "is_zero")]
    pub pg_parameters: BTreeMap<String, String>,
    /// Extra lines of `pg_hba.conf`; unset and empty differ.
    #[serde(rename = "pgHBA")]
    pub pg_hba: Option<Vec<String>>,
    /// Master or standby.
    #[serde(skip_serializing_if = "is_zero")]
    pub role: Role,
    /// Whom it follows; unset on a master.
    #[serde(skip_serializing_if = "is_zero")]
    pub follow_config: Option<FollowConfig>,
    /// The dbs that follow this one, sorted; never unset once the sentinel has written it.
    pub followers: Option<Vec<DbUid>>,
    /// Whether the instance's own parameters are kept, during initialisation.
    #[serde(skip_serializing_if = "is_zero")]
    pub include_previous_config: bool,
    /// The standbys that commits wait for; unset when synchronous replication is off.
    pub synchronous_standbys: Option<Vec<DbUid>>,
    /// Further names that commits wait for; unset when synchronous replication is off.
    pub external_synchronous_standbys: Option<Vec<String>>,
}

known_texts!(
    /// How an instance comes into being.
    DbInitMode {
        /// It is there.
        None = "none",
        /// The keeper adopts the data it has.
        Existing = "existing",
        /// `initdb`.
        New = "new",
        /// A backup, restored by a command.
        Pitr = "pitr",
        /// A copy of the followed db.
        Resync = "resync",
    }
);

known_texts!(
    /// Where the followed instance is.
    FollowType {
        /// In this cluster.
        Internal = "internal",
        /// Outside: this db heads a standby cluster.
        External = "external",
    }
);

/// Whom a db follows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FollowConfig {
    /// Inside or outside of this cluster.
    #[serde(rename = "type", skip_serializing_if = "is_zero")]
    pub kind: FollowType,
    /// The followed db, when internal.
    #[serde(rename = "dbuid", skip_serializing_if = "is_zero")]
    pub db_uid: DbUid,
    /// How to stream, when external.
    #[serde(skip_serializing_if = "is_zero")]
    pub standby_settings: Option<StandbySettings>,
    /// Where archived WAL comes from, when external.
    #[serde(skip_serializing_if = "is_zero")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
}

impl FollowConfig {
    /// To follow a db of this cluster.
    pub fn internal(db_uid: DbUid) -> Self {
        Self {
            kind: FollowType::Internal,
            db_uid,
            ..Self::default()
        }
    }
}

/// What a keeper last reported of a db, and the standbys known to be in sync.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DbStatus {
    /// The sentinel's verdict.
    #[serde(skip_serializing_if = "is_zero")]
    pub healthy: bool,
    /// The generation that the keeper has completely applied; 0: none yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub current_generation: i64,
    /// Advertised address.
    #[serde(skip_serializing_if = "is_zero")]
    pub listen_address: String,
    /// Advertised port, a text.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: String,
    /// PostgreSQL's system identifier, decimal; the stored name is misspelled and stays so (data-model 7.2).
    #[serde(rename = "systemdID", skip_serializing_if = "is_zero")]
    pub system_id: String,
    /// The timeline it is on.
    #[serde(rename = "timelineID", skip_serializing_if = "is_zero")]
    pub timeline_id: u64,
    /// Position in the write-ahead log.
    #[serde(rename = "xLogPos", skip_serializing_if = "is_zero")]
    pub xlog_pos: Lsn,
    /// The last two entries of its timeline history, at most.
    #[serde(skip_serializing_if = "is_zero")]
    pub timelines_history: Vec<TimelineHistory>,
    /// Parameters in force, without the managed ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub pg_parameters: BTreeMap<String, String>,
    /// Standbys known to be in sync; unset when synchronous replication is off.
    pub synchronous_standbys: Option<Vec<DbUid>>,
    /// Name of the oldest WAL file still there.
    #[serde(skip_serializing_if = "is_zero")]
    pub older_wal_file: String,
}

/// One switch of timelines, as PostgreSQL's history files tell it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimelineHistory {
    /// The timeline that was left.
    #[serde(rename = "timelineID", skip_serializing_if = "is_zero")]
    pub timeline_id: u64,
    /// Where it was left.
    #[serde(skip_serializing_if = "is_zero")]
    pub switch_point: Lsn,
    /// PostgreSQL's own words.
    #[serde(skip_serializing_if = "is_zero")]
    pub reason: String,
}
