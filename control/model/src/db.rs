//! A db: one PostgreSQL instance assigned to one keeper.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ArchiveRecoverySettings, DbUid, GoDuration, KeeperUid, Lsn, NewConfig, PitrConfig, Role, StandbyConfig,
    StandbySettings, Timestamp, is_zero, string_enum,
};

/// One incarnation of an instance on a keeper; a new copy is always a new db (data-model 7.2).
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
    /// The state that its keeper must establish.
    pub spec: DbSpec,
    /// What its keeper last reported.
    pub status: DbStatus,
}

/// The desired state of a db.
///
/// Unset and empty lists differ: a needless change between the two would raise the generation (data-model G-1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DbSpec {
    /// The keeper that runs this db; a keeper has at most one.
    #[serde(rename = "keeperUID", skip_serializing_if = "is_zero")]
    pub keeper_uid: KeeperUid,
    /// Timeout of requests to PostgreSQL; `null` in the document is an error (data-model J-9).
    pub request_timeout: GoDuration,
    /// Number of standbys that slots and senders are provided for.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_standbys: u16,
    /// Whether commits wait for standbys.
    #[serde(skip_serializing_if = "is_zero")]
    pub synchronous_replication: bool,
    /// Whether a diverged instance is rewound instead of copied, where possible.
    #[serde(skip_serializing_if = "is_zero")]
    pub use_pgrewind: bool,
    /// Extra `max_wal_senders`.
    pub additional_wal_senders: u16,
    /// Extra physical slots, without the `stolon_` prefix; unset on standbys.
    pub additional_replication_slots: Option<Vec<String>>,
    /// How PGDATA is initialised; `none` once that is done.
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
    /// The upstream; unset on a master.
    #[serde(skip_serializing_if = "is_zero")]
    pub follow_config: Option<FollowConfig>,
    /// The dbs that follow this one, sorted; always set once the sentinel has written it.
    pub followers: Option<Vec<DbUid>>,
    /// Whether the parameters of the existing `postgresql.conf` are kept, during initialisation.
    #[serde(skip_serializing_if = "is_zero")]
    pub include_previous_config: bool,
    /// The standbys that commits wait for; unset when synchronous replication is off.
    pub synchronous_standbys: Option<Vec<DbUid>>,
    /// Further standby names that commits wait for; unset when synchronous replication is off.
    pub external_synchronous_standbys: Option<Vec<String>>,
}

impl DbStatus {
    /// Returns the entry of the timeline history for a timeline, if it holds one.
    pub fn history_entry(&self, timeline: u64) -> Option<&TimelineHistory> {
        self.timelines_history
            .iter()
            .find(|entry| entry.timeline_id == timeline)
    }
}

impl Db {
    /// Returns whether its keeper has applied the current generation (sentinel 1.1).
    pub fn is_converged(&self) -> bool {
        self.status.current_generation == self.generation
    }

    /// Returns whether it is a master, or the first db of a standby cluster (sentinel 1.1).
    pub fn is_master_type(&self) -> bool {
        match self.spec.role {
            Role::Master => true,
            Role::Standby => self.follows(&FollowType::External),
            Role::Undefined | Role::Other(_) => false,
        }
    }

    /// Returns whether it is a standby of another db of this cluster (sentinel 1.1).
    pub fn is_standby_type(&self) -> bool {
        self.spec.role == Role::Standby && self.follows(&FollowType::Internal)
    }

    fn follows(&self, kind: &FollowType) -> bool {
        let follow = self.spec.follow_config.as_ref();
        follow.is_some_and(|follow| follow.kind == *kind)
    }
}

impl DbSpec {
    /// Removes everything that makes commits wait for standbys.
    pub fn clear_synchronous(&mut self) {
        self.synchronous_replication = false;
        self.synchronous_standbys = None;
        self.external_synchronous_standbys = None;
    }
}

string_enum!(
    /// How PGDATA of an instance is initialised.
    DbInitMode {
        /// Not at all: it is initialised already.
        None = "none",
        /// The keeper uses the PGDATA that it has.
        Existing = "existing",
        /// `initdb`.
        New = "new",
        /// Restore of a backup, by a command.
        Pitr = "pitr",
        /// Copy of the followed db.
        Resync = "resync",
    }
);

string_enum!(
    /// Where the followed instance is.
    FollowType {
        /// In this cluster.
        Internal = "internal",
        /// Outside of it: this db is the first of a standby cluster.
        External = "external",
    }
);

/// The upstream of a db.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FollowConfig {
    /// Inside or outside of this cluster.
    #[serde(rename = "type", skip_serializing_if = "is_zero")]
    pub kind: FollowType,
    /// The followed db, when internal.
    #[serde(rename = "dbuid", skip_serializing_if = "is_zero")]
    pub db_uid: DbUid,
    /// Streaming settings, when external.
    #[serde(skip_serializing_if = "is_zero")]
    pub standby_settings: Option<StandbySettings>,
    /// Archive settings, when external.
    #[serde(skip_serializing_if = "is_zero")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
}

impl FollowConfig {
    /// Returns the configuration to follow another cluster; without settings an empty one (sentinel N-31).
    pub fn external(upstream: Option<&StandbyConfig>) -> Self {
        Self {
            kind: FollowType::External,
            standby_settings: upstream.and_then(|upstream| upstream.standby_settings.clone()),
            archive_recovery_settings: upstream.and_then(|upstream| upstream.archive_recovery_settings.clone()),
            ..Self::default()
        }
    }

    /// Returns the configuration to follow a db of this cluster.
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
    /// The sentinel's assessment.
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
    /// The current timeline.
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
    /// Name of the oldest WAL file in `pg_wal`.
    #[serde(skip_serializing_if = "is_zero")]
    pub older_wal_file: String,
}

/// One timeline switch, as in PostgreSQL's timeline history files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimelineHistory {
    /// The timeline that was left.
    #[serde(rename = "timelineID", skip_serializing_if = "is_zero")]
    pub timeline_id: u64,
    /// Where it was left.
    #[serde(skip_serializing_if = "is_zero")]
    pub switch_point: Lsn,
    /// PostgreSQL's text.
    #[serde(skip_serializing_if = "is_zero")]
    pub reason: String,
}
