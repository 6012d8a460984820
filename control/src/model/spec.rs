//! The cluster spec: what the operator asked for (stored, every field optional) and what is in force (resolved).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::patch::field_names;
use crate::model::{GoDuration, InvalidSpec, Json, KeeperUid, is_zero, known_texts};

/// Lag, in bytes of WAL behind the last known master position, past which an asynchronous standby is not elected.
///
/// Not the 1 MiB of the reference's manual but the value it really uses (data-model 4.1, field 13): a spec that omits
/// the field means this.
pub const DEFAULT_MAX_STANDBY_LAG: u32 = 1_232_896;

known_texts!(
    /// How a cluster comes into being (data-model 4.1, field 20).
    InitMode {
        /// An empty database cluster.
        New = "new",
        /// The instance that a keeper already has.
        Existing = "existing",
        /// A backup, restored by a command.
        Pitr = "pitr",
    }
);

known_texts!(
    /// What an instance, or a whole cluster, is there for.
    Role {
        /// Takes writes.
        Master = "master",
        /// Follows another instance.
        Standby = "standby",
        /// Not known; only in metrics.
        Undefined = "undefined",
    }
);

known_texts!(
    /// From where superuser and replication role may connect (keeper 9).
    AccessMode {
        /// From everywhere.
        All = "all",
        /// From the other instances only.
        Strict = "strict",
    }
);

/// The spec as stored: an unset field means its default, which is applied when the spec is used and never stored
/// (data-model 4.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are described once, at Spec")]
pub struct ClusterSpec {
    #[serde(skip_serializing_if = "is_zero")]
    pub sleep_interval: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub request_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub convergence_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub init_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub sync_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub db_wait_ready_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub fail_interval: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_keeper_removal_interval: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub proxy_check_interval: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub proxy_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_standbys: Option<u16>,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_standbys_per_sender: Option<u16>,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_standby_lag: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    pub synchronous_replication: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    pub min_synchronous_standbys: Option<u16>,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_synchronous_standbys: Option<u16>,
    pub additional_wal_senders: Option<u16>,
    pub additional_master_replication_slots: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub use_pgrewind: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    pub init_mode: Option<InitMode>,
    #[serde(skip_serializing_if = "is_zero")]
    pub merge_pg_parameters: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    pub role: Option<Role>,
    #[serde(skip_serializing_if = "is_zero")]
    pub new_config: Option<NewConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    pub pitr_config: Option<PitrConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    pub existing_config: Option<ExistingConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    pub standby_config: Option<StandbyConfig>,
    #[serde(rename = "defaultSUReplAccessMode", skip_serializing_if = "is_zero")]
    pub default_su_repl_access_mode: Option<AccessMode>,
    #[serde(skip_serializing_if = "is_zero")]
    pub pg_parameters: BTreeMap<String, String>,
    /// Unset and empty differ: unset lets every user in with a password, empty adds no line.
    #[serde(rename = "pgHBA")]
    pub pg_hba: Option<Vec<String>>,
    pub automatic_pg_restart: Option<bool>,
}

/// How `initdb` makes a new database cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewConfig {
    /// `initdb --locale`; empty: the keeper's environment decides.
    #[serde(skip_serializing_if = "is_zero")]
    pub locale: String,
    /// `initdb --encoding`; empty: the locale decides.
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
    /// Shell command that restores the data directory; `%d` is its path, `%%` a percent sign.
    #[serde(skip_serializing_if = "is_zero")]
    pub data_restore_command: String,
    /// Where archived WAL comes from.
    #[serde(skip_serializing_if = "is_zero")]
    pub archive_recovery_settings: Option<ArchiveRecoverySettings>,
    /// Where recovery ends.
    #[serde(skip_serializing_if = "is_zero")]
    pub recovery_target_settings: Option<RecoveryTargetSettings>,
}

/// Which instance a cluster adopts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExistingConfig {
    /// The keeper that has it.
    #[serde(rename = "keeperUID", skip_serializing_if = "is_zero")]
    pub keeper_uid: KeeperUid,
}

/// What a standby cluster follows.
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

/// How a standby streams; each text goes into PostgreSQL's parameter of the same name.
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

/// Where recovery ends; each text goes into PostgreSQL's parameter of the same name.
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

/// The spec in force: validated, every default filled in. Past the reading of cluster data only this one travels.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Pause between two checks of sentinel and keeper, and a keeper's publication period.
    pub sleep_interval: Duration,
    /// Limit of requests to PostgreSQL.
    pub request_timeout: Duration,
    /// How long a db may take to reach a wanted state when nothing long is expected.
    pub convergence_timeout: Duration,
    /// How long a new instance may take to initialise.
    pub init_timeout: Duration,
    /// How long a standby may take to synchronise, or a recovery to end; zero: no limit.
    pub sync_timeout: Duration,
    /// How long an instance may take to accept connections after a start; zero: no limit.
    pub db_wait_ready_timeout: Duration,
    /// Time of continuous errors before a keeper or db counts as unhealthy.
    pub fail_interval: Duration,
    /// Age after which an unhealthy keeper without db is forgotten.
    pub dead_keeper_removal_interval: Duration,
    /// Pause between two check-ins of a proxy.
    pub proxy_check_interval: Duration,
    /// A proxy without a successful check-in for so long drops its connections.
    pub proxy_timeout: Duration,
    /// Capacity for standbys: slots and senders.
    pub max_standbys: u16,
    /// How many standbys one instance feeds.
    pub max_standbys_per_sender: u16,
    /// Bytes of lag that an asynchronous standby may have to be electable.
    pub max_standby_lag: u32,
    /// Whether commits wait for standbys.
    pub synchronous_replication: bool,
    /// The fewest standbys that a commit waits for.
    pub min_synchronous_standbys: u16,
    /// The most standbys that a commit waits for.
    pub max_synchronous_standbys: u16,
    /// Extra `max_wal_senders`.
    pub additional_wal_senders: u16,
    /// Extra physical slots on the master, named without the `stolon_` prefix.
    pub additional_master_replication_slots: Option<Vec<String>>,
    /// Whether a diverged instance is rewound before it is copied.
    pub use_pgrewind: bool,
    /// How the cluster comes into being.
    pub init_mode: InitMode,
    /// Whether the instance's own parameters go into `pg_parameters` after initialisation.
    pub merge_pg_parameters: bool,
    /// Whether the cluster takes writes or follows another one.
    pub role: Role,
    /// For init mode `new`.
    pub new_config: Option<NewConfig>,
    /// For init mode `pitr`.
    pub pitr_config: Option<PitrConfig>,
    /// For init mode `existing`.
    pub existing_config: Option<ExistingConfig>,
    /// For role `standby`.
    pub standby_config: Option<StandbyConfig>,
    /// From where superuser and replication role may connect.
    pub default_su_repl_access_mode: AccessMode,
    /// PostgreSQL parameters, plain unquoted values.
    pub pg_parameters: BTreeMap<String, String>,
    /// Extra lines of `pg_hba.conf`; unset and empty differ.
    pub pg_hba: Option<Vec<String>>,
    /// Whether an instance is restarted for parameters that need it.
    pub automatic_pg_restart: bool,
}

impl Default for Spec {
    /// Every default, with init mode `new`.
    fn default() -> Self {
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            ..ClusterSpec::default()
        };
        spec.resolve().expect("the defaults are valid")
    }
}

/// Which fields a printed spec shows (cli 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// What the operator set.
    Set,
    /// Every field, defaults filled in.
    All,
}

impl ClusterSpec {
    /// The same spec with every unset field that has a default replaced by it (data-model P-3).
    #[must_use]
    pub fn with_defaults(&self) -> Self {
        fn default<T>(field: &mut Option<T>, value: T) {
            field.get_or_insert(value);
        }
        let secs = GoDuration::from_secs;
        let mut spec = self.clone();
        default(&mut spec.sleep_interval, secs(5));
        default(&mut spec.request_timeout, secs(10));
        default(&mut spec.convergence_timeout, secs(30));
        default(&mut spec.init_timeout, secs(5 * 60));
        default(&mut spec.sync_timeout, secs(0));
        default(&mut spec.db_wait_ready_timeout, secs(60));
        default(&mut spec.fail_interval, secs(20));
        default(&mut spec.dead_keeper_removal_interval, secs(48 * 3_600));
        default(&mut spec.proxy_check_interval, secs(5));
        default(&mut spec.proxy_timeout, secs(15));
        default(&mut spec.max_standbys, 20);
        default(&mut spec.max_standbys_per_sender, 3);
        default(&mut spec.max_standby_lag, DEFAULT_MAX_STANDBY_LAG);
        default(&mut spec.synchronous_replication, false);
        default(&mut spec.min_synchronous_standbys, 1);
        default(&mut spec.max_synchronous_standbys, 1);
        default(&mut spec.additional_wal_senders, 5);
        default(&mut spec.use_pgrewind, false);
        default(&mut spec.merge_pg_parameters, true);
        default(&mut spec.role, Role::Master);
        default(&mut spec.default_su_repl_access_mode, AccessMode::All);
        default(&mut spec.automatic_pg_restart, false);
        spec
    }

    /// Validates the spec and fills its defaults in: what is in force. Durations with which no cluster works count as
    /// the nearest that work, see [`clamped`](Self::clamped).
    ///
    /// # Errors
    /// The first rule of data-model 5 that the spec breaks.
    pub fn resolve(&self) -> Result<Spec, InvalidSpec> {
        let mut spec = self.with_defaults();
        spec.check_effective()?;
        spec.clamp();
        let filled = "with_defaults fills every field that has a default";
        let time = |duration: Option<GoDuration>| duration.expect(filled).to_std();
        Ok(Spec {
            sleep_interval: time(spec.sleep_interval),
            request_timeout: time(spec.request_timeout),
            convergence_timeout: time(spec.convergence_timeout),
            init_timeout: time(spec.init_timeout),
            sync_timeout: time(spec.sync_timeout),
            db_wait_ready_timeout: time(spec.db_wait_ready_timeout),
            fail_interval: time(spec.fail_interval),
            dead_keeper_removal_interval: time(spec.dead_keeper_removal_interval),
            proxy_check_interval: time(spec.proxy_check_interval),
            proxy_timeout: time(spec.proxy_timeout),
            max_standbys: spec.max_standbys.expect(filled),
            max_standbys_per_sender: spec.max_standbys_per_sender.expect(filled),
            max_standby_lag: spec.max_standby_lag.expect(filled),
            synchronous_replication: spec.synchronous_replication.expect(filled),
            min_synchronous_standbys: spec.min_synchronous_standbys.expect(filled),
            max_synchronous_standbys: spec.max_synchronous_standbys.expect(filled),
            additional_wal_senders: spec.additional_wal_senders.expect(filled),
            additional_master_replication_slots: spec.additional_master_replication_slots,
            use_pgrewind: spec.use_pgrewind.expect(filled),
            init_mode: spec
                .init_mode
                .expect("check_effective refuses a spec without init mode"),
            merge_pg_parameters: spec.merge_pg_parameters.expect(filled),
            role: spec.role.expect(filled),
            new_config: spec.new_config,
            pitr_config: spec.pitr_config,
            existing_config: spec.existing_config,
            standby_config: spec.standby_config,
            default_su_repl_access_mode: spec.default_su_repl_access_mode.expect(filled),
            pg_parameters: spec.pg_parameters,
            pg_hba: spec.pg_hba,
            automatic_pg_restart: spec.automatic_pg_restart.expect(filled),
        })
    }

    /// The spec as `stolonctl spec` shows it (cli 12): an empty list is shown, so that feeding the output back does not
    /// turn it into an unset one, which for `pgHBA` would let everybody in.
    pub fn shown(&self, shown: Shown) -> Json {
        let Json::Object(mut members) = Json::of(&match shown {
            Shown::Set => self.clone(),
            Shown::All => self.with_defaults(),
        }) else {
            unreachable!("a struct is written as an object");
        };
        match shown {
            Shown::Set => {
                members.retain(|(_, value)| *value != Json::Null);
                Json::Object(members)
            }
            Shown::All => {
                let value = |field: &str| {
                    members
                        .iter()
                        .find(|(name, _)| name == field)
                        .map(|(_, value)| value.clone())
                };
                let all = field_names().map(|field| (field.to_owned(), value(field).unwrap_or(Json::Null)));
                Json::Object(all.collect())
            }
        }
    }
}
