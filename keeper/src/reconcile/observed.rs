//! The snapshot that a plan is made from: desired state, local state and the server's answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use model::{ClusterUid, DbUid};

use crate::external_dirs::{ExternalDir, Obstacle};
use crate::reconcile::{
    AcceptedOrder, AheadStandby, DataEnd, Desired, ExistingData, RestartTurn, RewindFacts, SourceFacts, StoredOrder,
    Upstream,
};

/// Snapshot of everything that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct ObservedState<'a> {
    pub desired: &'a Desired,
    /// What the keeper's orders key holds.
    pub order: &'a StoredOrder,
    /// The keeper's data directory.
    pub local: &'a LocalFacts,
    /// The server, as far as it was probed.
    pub server: &'a ServerState,
    /// The configuration that the desired state asks for; `None` when no db is assigned.
    pub config: Option<&'a ServerConfig>,
    /// The hba lines that block client logins.
    pub own_hba: &'a [String],
    /// State of this process.
    pub process: &'a ProcessState,
    /// The data to adopt; `None` unless init mode `existing` asks for them.
    pub existing: Option<&'a ExistingData>,
    /// What a base backup would start from; `None` until the source was probed.
    pub copy: Option<&'a CopyFacts>,
    /// A standby with WAL that ours, which is to be promoted, lacks (synchronous SY-21). Not a part of the desired state:
    /// recorded positions change all the time, and decide nothing else.
    pub ahead: Option<&'a AheadStandby>,
}

/// State files of the keeper's data directory, and the state of PGDATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFacts {
    /// The last known cluster; empty before the first one (keeper 2.2).
    pub cluster: ClusterUid,
    /// Contents of `dbstate`.
    pub db: LocalDb,
    /// State of PGDATA.
    pub data: DataState,
    /// A file in PGDATA that no `dbstate` accounts for and that this keeper is not writing.
    pub unclaimed: Option<PathBuf>,
    /// Process id of a server that runs on PGDATA although no `dbstate` accounts for the data and no keeper of this
    /// directory has started it.
    pub foreign_server: Option<i32>,
}

/// Contents of `dbstate` (keeper 2.3), without the parameters read at initialisation, which plans do not need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalDb {
    /// The db that PGDATA belongs to; empty for none.
    pub uid: DbUid,
    /// The last generation that was applied completely; 0 for none.
    pub generation: i64,
    /// An initialisation was started and its round has not completed.
    pub initializing: bool,
}

/// State of PGDATA (keeper 12.2, R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataState {
    /// Missing, or not a complete database cluster.
    Absent,
    /// A database cluster that would start in this role.
    Present(DataRole),
}

/// The role that the files of an instance define.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRole {
    /// `standby.signal` does not exist.
    Master,
    /// `standby.signal` exists.
    Standby,
}

/// The server, as far as it was probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// No postmaster.
    Down,
    /// A postmaster is running.
    Up(ServerProbe),
}

/// Result of probing a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerProbe {
    /// It was not probed in this round.
    NotProbed,
    /// It does not accept connections, or does not answer.
    NoAnswer,
    /// It is running and refuses the keeper's login. Its facts are unknown; files and signals still reach it.
    Refused,
    /// It answered.
    Answered(ServerFacts),
}

/// Facts that a server reports about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// Names of its replication slots, without temporary ones (keeper Q3).
    pub slots: BTreeSet<String>,
    /// Those of them that the server has invalidated.
    pub invalidated_slots: BTreeSet<String>,
    /// Whether a parameter is pending restart (keeper Q7).
    pub restart_pending: bool,
    /// The only parameter pending restart is the number of slots, and no more slots are needed yet.
    pub restart_can_wait: bool,
    /// Whether this instance may restart now.
    pub turn: RestartTurn,
    /// Whether replay is paused (keeper 8.7).
    pub replay_paused: bool,
    /// The standbys in sync (synchronous SY-3); queried only while client logins are blocked.
    pub in_sync: BTreeSet<DbUid>,
}

/// A configuration: contents of the generated files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerConfig {
    /// Parameters, without those of recovery (keeper 8).
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf` (keeper 9).
    pub hba: Vec<String>,
    /// The instance that a standby follows (keeper 7).
    pub upstream: Option<Upstream>,
    /// The hba lines admit the keepers' users only (synchronous SY-11).
    pub blocks_client_logins: bool,
}

/// How long a standby waits between two attempts to connect.
pub(crate) const WAL_RETRIEVE_RETRY_INTERVAL: &str = "wal_retrieve_retry_interval";

impl ServerConfig {
    /// Sets a parameter that the cluster spec leaves unset.
    pub(crate) fn set_unless_given(&mut self, name: &str, value: &str) {
        self.parameters
            .entry(name.to_owned())
            .or_insert_with(|| value.to_owned());
    }
}

/// State that this process keeps between rounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessState {
    /// The configuration that the server last read, by a start or a reload (keeper 4).
    pub current: Option<ServerConfig>,
    /// The server was asked to reload, and it is not known whether it has read its files since.
    pub reload_unconfirmed: bool,
    /// The server was started with client logins blocked, and they still are (synchronous SY-11).
    pub logins_blocked: bool,
    /// The db whose data this process has completed; its round may not have completed yet.
    pub completed: Option<DbUid>,
    /// The db whose backup this process has restored; its recovery may not be complete.
    pub restored: Option<DbUid>,
    /// The db whose backup this process has restored without finding out whether it can be used: it is kept until then.
    pub unexamined: Option<DbUid>,
    /// The db whose old data were tried without a copy and did not stream (keeper 6.7).
    pub rejoin_failed: Option<DbUid>,
    /// The db that has waited for another standby's WAL (synchronous SY-21), and is promoted without another wait.
    pub catch_up_tried: Option<DbUid>,
    /// The db that the published info reports as stopped.
    pub published_stopped: Option<DbUid>,
    /// The order on which the published info reports our db as stopping.
    pub accepted_order: Option<AcceptedOrder>,
    /// The switchover for which a checkpoint was begun.
    pub checkpoint_for: Option<String>,
    /// The db for which pg_rewind, or what it needs, failed: it is not tried again.
    pub rewind_failed: Option<DbUid>,
    /// The db whose data this process has rewound completely; they have not streamed yet.
    pub rewound: Option<DbUid>,
    /// The last copy failed because the disk was full.
    pub ran_out_of_space: bool,
    /// Set while no copy may start.
    pub copy_delay: Option<CopyDelay>,
}

/// Copies have failed, and the next attempt is not due yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyDelay {
    /// Consecutive failed attempts.
    pub failures: u32,
    /// Time from the last attempt to the next one.
    pub delay: Duration,
}

/// What a base backup, or a rejoin without one, starts from (keeper 6.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFacts {
    /// End of the local data; `None` when there are none or it cannot be determined.
    pub own: Option<DataEnd>,
    /// The instance to copy from; the slot for this keeper exists there.
    pub source: SourceFacts,
    /// Directories outside PGDATA that a copy would write into, and what was found there.
    pub external_dirs: Vec<ExternalDir>,
    /// Size of the source's PGDATA in bytes, including its WAL unless that has a directory of its own; `None` when it
    /// was not reported.
    pub bytes: Option<u64>,
    /// What prevents a copy besides the external directories: a file system that is too small even without the old
    /// data, a file system mounted inside the data, or a directory that does not answer.
    pub obstacle: Option<(PathBuf, Obstacle)>,
    /// What pg_rewind depends on; `None` when the cluster does not ask for it.
    pub rewind: Option<RewindFacts>,
}
