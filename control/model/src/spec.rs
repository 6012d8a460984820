//! The cluster spec: as stored, with every field optional, and the effective spec, with defaults filled in.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec_names::field_names;
use crate::{
    ExistingConfig, GoDuration, InvalidSpec, Json, NewConfig, PitrConfig, StandbyConfig, is_zero, string_enum,
};

/// failInterval of a spec without one (data-model 4).
pub(super) const DEFAULT_FAIL_INTERVAL: GoDuration = GoDuration::from_secs(20);

/// Maximum lag in bytes of WAL behind the last known position of the master with which an asynchronous standby may be
/// elected.
///
/// This is the value that Go stolon uses, not the 1 MiB of its manual (data-model 4.1, field 13).
pub const DEFAULT_MAX_STANDBY_LAG: u32 = 1_232_896;

string_enum!(
    /// How a cluster is initialised (data-model 4.1, field 20).
    InitMode {
        /// A new, empty database cluster (`initdb`).
        New = "new",
        /// The existing instance of a keeper.
        Existing = "existing",
        /// Restore of a backup, by a command.
        Pitr = "pitr",
    }
);

string_enum!(
    /// The role of an instance or of a whole cluster.
    Role {
        /// Accepts writes.
        Master = "master",
        /// Follows another instance.
        Standby = "standby",
        /// Unknown; used in metrics only.
        Undefined = "undefined",
    }
);

string_enum!(
    /// From which addresses the superuser and the replication role may connect (keeper 9).
    AccessMode {
        /// From any address.
        All = "all",
        /// From the addresses of the other instances only.
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
    /// Unset and empty differ: unset admits every user with a password, empty adds no line.
    #[serde(rename = "pgHBA")]
    pub pg_hba: Option<Vec<String>>,
    pub automatic_pg_restart: Option<bool>,
}

/// The effective spec: validated, every default filled in. Everything after the reading of cluster data uses this type.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Interval of the checks of sentinel and keeper, and of a keeper's publications.
    pub sleep_interval: Duration,
    /// Timeout of requests to PostgreSQL.
    pub request_timeout: Duration,
    /// How long a db may take to apply its spec when no copy or recovery is involved.
    pub convergence_timeout: Duration,
    /// How long a new instance may take to initialise.
    pub init_timeout: Duration,
    /// How long a standby may take to synchronise, or a recovery to end; zero: no limit.
    pub sync_timeout: Duration,
    /// How long an instance may take to accept connections after a start; zero: no limit.
    pub db_wait_ready_timeout: Duration,
    /// Duration of continuous errors after which a keeper or db counts as unhealthy.
    pub fail_interval: Duration,
    /// Time without health after which a keeper without db is removed.
    pub dead_keeper_removal_interval: Duration,
    /// Interval of a proxy's check-ins.
    pub proxy_check_interval: Duration,
    /// A proxy without a successful check-in for this long drops its connections.
    pub proxy_timeout: Duration,
    /// Number of standbys that slots and senders are provided for.
    pub max_standbys: u16,
    /// Wanted number of standbys (sentinel N-19).
    pub max_standbys_per_sender: u16,
    /// Bytes of lag with which an asynchronous standby may be elected.
    pub max_standby_lag: u32,
    /// Whether commits wait for standbys.
    pub synchronous_replication: bool,
    /// Minimum number of standbys that a commit waits for.
    pub min_synchronous_standbys: u16,
    /// Maximum number of standbys that a commit waits for.
    pub max_synchronous_standbys: u16,
    /// Extra `max_wal_senders`.
    pub additional_wal_senders: u16,
    /// Extra physical slots on the master, named without the `stolon_` prefix.
    pub additional_master_replication_slots: Option<Vec<String>>,
    /// Whether a diverged instance is rewound instead of copied, where possible.
    pub use_pgrewind: bool,
    /// How the cluster is initialised.
    pub init_mode: InitMode,
    /// Whether the parameters of the initialised instance are copied into `pg_parameters`.
    pub merge_pg_parameters: bool,
    /// Whether the cluster accepts writes or follows another cluster.
    pub role: Role,
    /// For init mode `new`.
    pub new_config: Option<NewConfig>,
    /// For init mode `pitr`.
    pub pitr_config: Option<PitrConfig>,
    /// For init mode `existing`.
    pub existing_config: Option<ExistingConfig>,
    /// For role `standby`.
    pub standby_config: Option<StandbyConfig>,
    /// From which addresses the superuser and the replication role may connect.
    pub default_su_repl_access_mode: AccessMode,
    /// PostgreSQL parameters, plain unquoted values.
    pub pg_parameters: BTreeMap<String, String>,
    /// Extra lines of `pg_hba.conf`; unset and empty differ.
    pub pg_hba: Option<Vec<String>>,
    /// Whether an instance is restarted for parameters that need it.
    pub automatic_pg_restart: bool,
}

impl Default for Spec {
    /// Returns all defaults, with init mode `new`.
    fn default() -> Self {
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            ..ClusterSpec::default()
        };
        spec.resolve().expect("the defaults are valid")
    }
}

/// Which fields `stolonctl spec` prints (cli 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecFields {
    /// What the operator set.
    Set,
    /// Every field, defaults filled in.
    All,
}

impl ClusterSpec {
    /// Returns the spec with every unset field that has a default set to it (data-model P-3).
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
        default(&mut spec.fail_interval, DEFAULT_FAIL_INTERVAL);
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

    /// Returns the effective spec: validated, defaults filled in. Durations out of range are replaced by the nearest
    /// allowed values, see [`clamped`](Self::clamped).
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

    /// Returns the JSON that `stolonctl spec` prints (cli 12). An empty list is printed, so that feeding the output
    /// back does not turn it into an unset one, which for `pgHBA` would admit every user.
    pub fn display_json(&self, fields: SpecFields) -> Json {
        let Json::Object(mut members) = Json::of(&match fields {
            SpecFields::Set => self.clone(),
            SpecFields::All => self.with_defaults(),
        }) else {
            unreachable!("a struct is written as an object");
        };
        match fields {
            SpecFields::Set => {
                members.retain(|(_, value)| *value != Json::Null);
                Json::Object(members)
            }
            SpecFields::All => {
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
