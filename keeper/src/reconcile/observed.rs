//! What a plan is made from: the orders, the local state and what the server says, taken together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use control::model::{ClusterUid, DbUid};

use crate::external_dirs::{ExternalDir, Obstacle};
use crate::reconcile::{DataEnd, Desired, RestartTurn, SourceFacts, Upstream};

/// Everything that a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// What the cluster data tell this keeper.
    pub desired: &'a Desired,
    /// What the data directory says.
    pub local: &'a LocalFacts,
    /// The server, as far as it was asked.
    pub server: &'a ServerState,
    /// The configuration that the orders mean; absent when they name no db.
    pub config: Option<&'a ServerConfig>,
    /// What this process remembers.
    pub process: &'a ProcessState,
    /// What a copy would start from; absent until it was asked for.
    pub copy: Option<&'a CopyFacts>,
}

/// What the data directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFacts {
    /// The cluster last seen; empty before the first time (keeper 2.2).
    pub cluster: ClusterUid,
    /// What `dbstate` says.
    pub db: LocalDb,
    /// What PGDATA is.
    pub data: DataState,
    /// Something in PGDATA that no `dbstate` claims, and that this keeper is not making.
    pub unclaimed: Option<PathBuf>,
}

/// What `dbstate` says (keeper 2.3), but for the parameters read at initialisation, which plans do not look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalDb {
    /// The db that PGDATA belongs to; empty: none.
    pub uid: DbUid,
    /// The generation that was last applied completely; 0: none.
    pub generation: i64,
    /// An initialisation was begun and its pass has not completed.
    pub initializing: bool,
}

/// What PGDATA is (keeper 12.2, R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataState {
    /// Not there, or not a complete database cluster.
    Absent,
    /// A database cluster that would start in this role.
    Present(DataRole),
}

/// The role that the files give an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRole {
    /// No `standby.signal`.
    Master,
    /// `standby.signal` is there.
    Standby,
}

/// The server, as far as it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// No postmaster.
    Down,
    /// A postmaster runs.
    Up(ServerProbe),
}

/// What a running server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerProbe {
    /// It was not asked.
    NotProbed,
    /// It does not take connections, or does not answer.
    NoAnswer,
    /// It lives, and lets us not in: nothing is known of it, and files and signals reach it.
    Refused,
    /// It answered.
    Answered(ServerFacts),
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// Names of its replication slots but temporary ones (keeper Q3).
    pub slots: BTreeSet<String>,
    /// Whether some parameter waits for a restart (keeper Q7).
    pub restart_pending: bool,
    /// All that waits for a restart is room for slots that nobody needs yet.
    pub restart_can_wait: bool,
    /// Whose turn it is to restart.
    pub turn: RestartTurn,
    /// Whether replay stands paused (keeper 8.7).
    pub replay_paused: bool,
}

/// A configuration: what the generated files hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerConfig {
    /// Parameters but those of recovery (keeper 8).
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf` (keeper 9).
    pub hba: Vec<String>,
    /// Whom a standby follows (keeper 7).
    pub upstream: Option<Upstream>,
}

/// What this process remembers from earlier passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessState {
    /// What was last written and made known to the server by a start or a reload (keeper 4).
    pub current: Option<ServerConfig>,
    /// The db whose data this process has completely made; its pass may not have completed yet.
    pub completed: Option<DbUid>,
    /// The db whose old data were tried as they are and did not stream (keeper 6.7).
    pub rejoin_failed: Option<DbUid>,
    /// The db that the published info calls stopped.
    pub published_stopped: Option<DbUid>,
    /// The last copy ended for want of room.
    pub lacked_room: bool,
    /// Why no copy is begun now.
    pub copy_pause: Option<CopyPause>,
}

/// Copies have failed, and the next attempt is not due yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyPause {
    /// Attempts that failed in a row.
    pub failures: u32,
    /// From the last attempt to the next one.
    pub pause: Duration,
}

/// What a copy, or its avoidance, starts from (keeper 6.7), asked for when it was needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFacts {
    /// Where the own data end; absent when there are none, or when that cannot be found out.
    pub own: Option<DataEnd>,
    /// The instance to copy from, whose slot for us exists.
    pub source: SourceFacts,
    /// Where a copy would write outside PGDATA, and what was found there.
    pub external_dirs: Vec<ExternalDir>,
    /// Size of the source's PGDATA in bytes, with its WAL unless that has a place of its own; absent when it did not
    /// report it.
    pub bytes: Option<u64>,
    /// What is in the way of a copy outside of these places: a file system that has no room for it, even without the old
    /// data, or one that is mounted in them, or a directory that does not answer.
    pub obstacle: Option<(PathBuf, Obstacle)>,
}
