//! The desired state of one keeper's instance, from the cluster data: the checks before a round acts (keeper R1 to R10, R27)
//! and the db that it must run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::external_dirs::Obstacle;
use crate::reconcile::{AcceptedOrder, AdoptionRefusal, CopyDelay, InvalidDbSpec, RecordedIdentity, WrongSource};
use model::{
    AccessMode, ArchiveRecoverySettings, BootUuid, CheckedClusterData, ClusterData, ClusterUid, Db, DbSpec, DbUid,
    FollowType, KeeperUid, NotSupported, Role, Spec, StandbySettings, UNUSABLE_DATA_REMEDY, support,
};

/// Result of reading the cluster data.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterDataState {
    /// The store did not answer.
    Unavailable,
    /// The key is absent, or holds `null`.
    Absent,
    /// It cannot be decoded, with the reason.
    Unusable(String),
    /// Its `formatVersion` is not supported.
    UnsupportedFormat(u64),
    /// Usable cluster data.
    Valid(Box<CheckedClusterData>),
}

/// Desired state of this keeper's instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The cluster; `None` when the data cannot be used.
    pub cluster: Option<ClusterUid>,
    pub goal: Goal,
}

/// What the keeper has to do with its instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// Leave the instance as it is (keeper I7).
    Hold(HoldReason),
    /// Keep the instance stopped (keeper I8, I20).
    Stop(StopReason),
    /// Run this db.
    Run(Box<TargetDb>),
}

/// Why the instance is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldReason {
    /// The cluster data could not be read (keeper R1).
    StoreUnavailable,
    /// The store has no cluster data (keeper R2).
    NoClusterData,
    /// They cannot be decoded, or their spec is invalid (keeper R4).
    Unusable(String),
    /// Their format version is not supported (keeper R3).
    UnsupportedFormat(u64),
    /// They belong to another cluster than the local database, and no operator gave up the local one.
    OtherCluster {
        /// The local cluster; empty when unknown.
        own: ClusterUid,
        /// That of the cluster data.
        other: ClusterUid,
    },
    /// The sentinel has not listed this keeper yet (keeper R8).
    NotListed,
    /// They use something that this version does not support.
    NotSupported(&'static str),
    /// The data of the db are missing, and creating them was not requested (keeper I5).
    DataLost,
    /// The init mode is unknown to this version.
    UnknownInitMode(String),
    /// The role is unknown to this version.
    UnknownRole(String),
    /// The spec of the assigned db contradicts itself.
    InvalidSpec(InvalidDbSpec),
    /// The followed db is not in the cluster data.
    FollowedDbMissing,
    /// A master cannot become a standby in place (keeper I3).
    MasterCannotFollow,
    /// PGDATA holds nothing that can be started (keeper R18, role undefined).
    NoUsableData,
    /// What answers at the address of the followed db is another instance, or cannot be verified yet.
    WrongSource(MemberUpstream, WrongSource),
    /// The existing data may not be adopted.
    CannotAdopt(AdoptionRefusal),
    /// A server runs on PGDATA that no keeper has started.
    ForeignServer {
        /// Its process id.
        pid: i32,
    },
    /// A directory that a copy would write into may not be emptied.
    Obstacle(PathBuf, Obstacle),
    /// Copies have failed, and the next attempt is not due yet.
    CopyFailed(CopyDelay),
    /// Restoring or recovering a backup has failed, and the next attempt is not due yet.
    RestoreFailed(CopyDelay),
    /// The keeper's orders key exists: no master is started or promoted before it is gone (extensions ).
    Ordered,
}

impl HoldReason {
    /// Returns what an operator can do about it; `None` if there is nothing to fix, or if the reason itself has the remedy.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::StoreUnavailable | Self::Unusable(_) | Self::NotListed | Self::Ordered => return None,
            Self::NoClusterData => {
                "put the cluster data back from a backup with `stolonctl clusterdata write --yes -f FILE`; `stolonctl init` gives the \
                 databases up"
            }
            Self::UnsupportedFormat(_) => UNUSABLE_DATA_REMEDY,
            Self::OtherCluster { .. } => {
                "check --cluster-name, --store-endpoints and --store-prefix; if they are right, put the cluster data of the \
                 keeper's cluster back with `stolonctl clusterdata write --yes -f FILE`, or discard the keeper's database: with `stolonctl init` of this version while the keeper runs, or by \
                 removing its data directory"
            }
            Self::NotSupported(_) => "change the cluster spec with stolonctl update",
            Self::DataLost | Self::NoUsableData => {
                "give this keeper back the --data-dir (or the volume) that holds its data; if they are lost, wait for the \
                 sentinel, which gives a standby, or a master with a standby to take over, another db"
            }
            Self::UnknownInitMode(_) | Self::UnknownRole(_) => "run the same version of all programs",
            Self::InvalidSpec(why) => why.remedy(),
            Self::FollowedDbMissing | Self::MasterCannotFollow => {
                "remove this keeper with `stolonctl removekeeper`: the sentinel lists it again and gives it another db, \
                 whose data follow the master's"
            }
            Self::WrongSource(_, why) => why.remedy(),
            Self::CannotAdopt(why) => why.remedy(),
            Self::ForeignServer { .. } => "stop that server, and see that nothing starts it again",
            Self::Obstacle(_, why) => why.remedy(),
            Self::CopyFailed(_) => "see the keeper's log for the cause",
            Self::RestoreFailed(_) => {
                "see the problem beside this one and the keeper's log for the cause; another backup or target needs \
                 `stolonctl init`"
            }
        })
    }
}

/// Why the instance must not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// No db is assigned (keeper R9).
    NoDb,
    /// The sentinel has not acknowledged this process yet (keeper R10).
    BootNotAcknowledged,
    /// It is a former master that is kept for its possible return (keeper R27, I20, extensions ).
    FormerMaster {
        /// Our db.
        db: DbUid,
        /// The master of the cluster.
        master: DbUid,
    },
    /// A switchover orders it (extensions ).
    Ordered(AcceptedOrder),
}

/// The keeper of another db.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherKeeper {
    pub keeper: KeeperUid,
    /// Its db is a standby.
    pub is_standby: bool,
}

/// The db to run, with everything that the cluster data have about it.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetDb {
    pub db: DbUid,
    pub generation: i64,
    pub spec: DbSpec,
    pub role: TargetRole,
    /// Recorded identity of the followed db. Its system identifier is the cluster's, so it is also compared with data to
    /// be adopted (keeper 5.2).
    pub recorded: RecordedIdentity,
    /// Advertised addresses of all other dbs, sorted, without duplicates and empty ones (keeper 9.2, 9.3).
    pub peer_addresses: Vec<String>,
    /// Keepers of all other dbs.
    pub other_keepers: Vec<OtherKeeper>,
    /// Hosts from which superuser and replication user may connect.
    pub access: AccessMode,
    /// Number of additional slots of this cluster's master. A standby reserves them too, so that it can be promoted
    /// without a restart.
    pub additional_slots: u32,
    /// Whether to restart automatically for parameters that are pending restart.
    pub automatic_restart: bool,
    /// Time limit until the instance accepts connections; zero: no limit.
    pub ready_timeout: Duration,
    /// Time limit for restoring a backup, and for recovering it; zero: no limit.
    pub sync_timeout: Duration,
    /// A permit to start as master is valid for half of this (extensions ).
    pub fail_interval: Duration,
    /// Commits on the cluster's master wait for standbys, or are to.
    pub synchronous_cluster: bool,
}

/// Role of the db to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetRole {
    /// The master of the cluster.
    Master,
    /// A standby of this upstream.
    Standby(Upstream),
    /// A standby whose followed db is not in the cluster data.
    NoUpstream,
    /// A standby of which the spec does not define whom it follows.
    UndefinedUpstream(InvalidDbSpec),
    /// A role that is unknown to this version.
    Other(String),
}

/// The instance that a standby follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// That of another db of this cluster.
    Member(MemberUpstream),
    /// One outside of this cluster.
    External(ExternalUpstream),
}

/// The upstream of a standby cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUpstream {
    /// The primary to stream from.
    pub standby: StandbySettings,
    /// The archive to read from.
    pub archive: Option<ArchiveRecoverySettings>,
}

impl From<&MemberUpstream> for Upstream {
    fn from(upstream: &MemberUpstream) -> Self {
        Self::Member(upstream.clone())
    }
}

/// A followed db, as recorded in the cluster data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberUpstream {
    pub db: DbUid,
    pub keeper: KeeperUid,
    /// Advertised address; empty until its keeper has published it.
    pub host: String,
    /// Advertised port.
    pub port: String,
    /// Stream through our slot there; false for the standby that is followed for a moment before a promotion.
    pub uses_slot: bool,
}

impl MemberUpstream {
    /// Returns a db as an upstream with our slot.
    pub(super) fn of(uid: &DbUid, db: &Db) -> Self {
        Self {
            db: uid.clone(),
            keeper: db.spec.keeper_uid.clone(),
            host: db.status.listen_address.clone(),
            port: db.status.port.clone(),
            uses_slot: true,
        }
    }
}

/// Returns the desired state of the instance of keeper `me` in its process `boot`.
pub fn desired_state(state: &ClusterDataState, me: &KeeperUid, boot: &BootUuid) -> Desired {
    let hold = |why| Desired {
        cluster: None,
        goal: Goal::Hold(why),
    };
    let checked = match state {
        ClusterDataState::Unavailable => return hold(HoldReason::StoreUnavailable),
        ClusterDataState::Absent => return hold(HoldReason::NoClusterData),
        ClusterDataState::Unusable(why) => return hold(HoldReason::Unusable(why.clone())),
        ClusterDataState::UnsupportedFormat(version) => return hold(HoldReason::UnsupportedFormat(*version)),
        ClusterDataState::Valid(checked) => checked,
    };
    Desired {
        cluster: Some(checked.cluster().uid.clone()),
        goal: goal(checked, me, boot),
    }
}

fn goal(checked: &CheckedClusterData, me: &KeeperUid, boot: &BootUuid) -> Goal {
    let CheckedClusterData { data, spec } = checked;
    let master = &checked.cluster().status.master;
    let Some(keeper) = data.keepers().get(me) else {
        return Goal::Hold(HoldReason::NotListed);
    };
    // A keeper without a db was removed from the cluster, or its db was replaced: its instance must not serve clients.
    let Some((uid, db)) = data.db_of_keeper(me) else {
        return Goal::Stop(StopReason::NoDb);
    };
    // Checked before the boot uuid: a spec that needs a newer version must not stop a running instance.
    if let Err(NotSupported(what)) = support::spec(spec) {
        return Goal::Hold(HoldReason::NotSupported(what));
    }
    // Until the sentinel has acknowledged this process, the cluster data describe its predecessor, and the sentinel may
    // be electing another master.
    if keeper.status.boot_uuid != *boot {
        return Goal::Stop(StopReason::BootNotAcknowledged);
    }
    // Two masters must never run: only the db that the cluster status names may be one.
    if db.spec.role == Role::Master && uid != master {
        return Goal::Stop(StopReason::FormerMaster {
            db: uid.clone(),
            master: master.clone(),
        });
    }
    Goal::Run(Box::new(TargetDb {
        db: uid.clone(),
        generation: db.generation,
        role: role(data, db),
        recorded: recorded(data, db, master),
        peer_addresses: peer_addresses(data, uid),
        other_keepers: other_keepers(data, uid),
        spec: db.spec.clone(),
        access: spec.default_su_repl_access_mode.clone(),
        additional_slots: additional_slots(spec),
        automatic_restart: spec.automatic_pg_restart,
        ready_timeout: spec.db_wait_ready_timeout,
        sync_timeout: spec.sync_timeout,
        fail_interval: spec.fail_interval,
        synchronous_cluster: spec.synchronous_replication || is_synchronous(data, master),
    }))
}

fn is_synchronous(data: &ClusterData, db: &DbUid) -> bool {
    data.dbs().get(db).is_some_and(|db| db.spec.synchronous_replication)
}

fn additional_slots(spec: &Spec) -> u32 {
    let names: BTreeSet<&String> = spec.additional_master_replication_slots.iter().flatten().collect();
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}

fn role(data: &ClusterData, db: &Db) -> TargetRole {
    match &db.spec.role {
        Role::Master => TargetRole::Master,
        Role::Standby => standby(data, db),
        other => TargetRole::Other(other.as_str().to_owned()),
    }
}

fn standby(data: &ClusterData, db: &Db) -> TargetRole {
    let Some(follow) = &db.spec.follow_config else {
        return TargetRole::UndefinedUpstream(InvalidDbSpec::NoFollowConfig);
    };
    let upstream = match &follow.kind {
        FollowType::Internal => match data.dbs().get(&follow.db_uid) {
            Some(followed) => Upstream::Member(MemberUpstream::of(&follow.db_uid, followed)),
            None => return TargetRole::NoUpstream,
        },
        FollowType::External => Upstream::External(ExternalUpstream {
            standby: follow.standby_settings.clone().unwrap_or_default(),
            archive: follow.archive_recovery_settings.clone(),
        }),
        other => {
            return TargetRole::UndefinedUpstream(InvalidDbSpec::UnknownFollowType(other.as_str().to_owned()));
        }
    };
    TargetRole::Standby(upstream)
}

/// Returns the recorded identity of the followed db. The system identifier is the same in the whole cluster, so the
/// master's serves when the followed db has none yet.
fn recorded(data: &ClusterData, db: &Db, master: &DbUid) -> RecordedIdentity {
    let follow = db.spec.follow_config.as_ref();
    let followed = follow.and_then(|follow| data.dbs().get(&follow.db_uid));
    let system_ids = [followed, data.dbs().get(master)].into_iter().flatten();
    RecordedIdentity {
        system_id: system_ids
            .map(|db| db.status.system_id.clone())
            .find(|id| !id.is_empty())
            .unwrap_or_default(),
        timeline: followed.map_or(0, |db| db.status.timeline_id),
    }
}

fn other_keepers(data: &ClusterData, own: &DbUid) -> Vec<OtherKeeper> {
    let others = data.dbs().iter().filter(|(uid, _)| *uid != own);
    others
        .map(|(_, db)| OtherKeeper {
            keeper: db.spec.keeper_uid.clone(),
            is_standby: db.spec.role == Role::Standby,
        })
        .collect()
}

fn peer_addresses(data: &ClusterData, own: &DbUid) -> Vec<String> {
    let others = data
        .dbs()
        .iter()
        .filter(|(uid, _)| *uid != own)
        .map(|(_, db)| db.status.listen_address.clone());
    others
        .filter(|address| !address.is_empty())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
