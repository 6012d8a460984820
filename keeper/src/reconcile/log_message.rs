//! Log messages of a round, in order (keeper 15). Writing them is left to `round_log`.

use std::collections::BTreeSet;

use model::{DbUid, KeeperUid, Lsn};

use crate::reconcile::{AheadStandby, CopyReason, HoldReason, MemberUpstream, NoRewind, StopReason, Upstream};

/// A log message of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogMessage {
    /// The instance is left as it is, and why.
    OnHold(HoldReason),
    /// The instance is kept stopped, and why.
    KeptStopped(StopReason),
    /// An initialisation did not complete; its data are not used.
    Incomplete {
        /// The db that was being created.
        db: DbUid,
    },
    /// The data belong to another db than the one assigned (keeper R13).
    DbDiffers {
        /// Local db.
        local: DbUid,
        /// Assigned db.
        wanted: DbUid,
    },
    /// Init mode `new` begins.
    Initializing,
    /// Init mode `existing` begins.
    Adopting,
    /// Init mode `pitr` begins, or begins anew.
    Restoring,
    /// The restored data are recovered.
    Recovering,
    /// Init mode `resync` begins.
    Resyncing,
    /// PGDATA holds no database cluster.
    NotInitialized,
    /// The old data lie on the source's history and are used without a copy.
    Rejoining {
        /// End of the old data.
        end: Lsn,
    },
    /// A base backup begins, and why the old data cannot be used.
    Copying {
        /// Source of the copy.
        from: MemberUpstream,
        why: CopyReason,
        /// Why they are not rewound, if that is wanted and could help.
        no_rewind: Option<NoRewind>,
    },
    /// The crash recovery of a master's data begins, so that they can be rewound.
    RecoveringToRewind,
    /// pg_rewind begins to change the data.
    Rewinding {
        /// Its source.
        to: MemberUpstream,
    },
    /// The standby receives another one's WAL before its promotion.
    CatchingUp(AheadStandby),
    /// The data are rewound.
    Rewound,
    /// The copy is complete.
    Synced,
    /// The requested role is master (keeper M1).
    RoleMaster,
    /// The instance is already a master (keeper M4).
    AlreadyMaster,
    /// The requested role is standby (keeper S1).
    RoleStandby {
        /// The db that it follows; `None` for one outside of this cluster.
        followed: Option<DbUid>,
    },
    /// The instance is already a standby.
    AlreadyStandby,
    /// The followed instance has another address.
    UpstreamChanged {
        /// Its new address and settings.
        to: Upstream,
    },
    /// A parameter changed.
    ParameterChanged(ParameterChange),
    /// Summary: parameters changed (keeper R20).
    ParametersChanged,
    /// Summary: parameters unchanged (keeper R20).
    ParametersUnchanged,
    /// Summary: hba lines changed (keeper R22).
    HbaChanged,
    /// Summary: hba lines unchanged (keeper R22).
    HbaUnchanged,
    /// Client logins are blocked until these standbys are in sync (keeper R21).
    LoginsBlocked { missing: BTreeSet<DbUid> },
    /// Clients may log in again (keeper R21).
    LoginsAllowed {
        /// Commits wait for standbys, all of which are in sync; otherwise none is required any more.
        waits: bool,
    },
    /// Replay is paused until a restart (keeper 8.7).
    ReplayPaused,
    /// A restart is due and allowed (keeper R24).
    RestartDue,
    /// A restart is due and allowed, and another instance restarts first.
    RestartAfter {
        /// Keeper of that instance.
        keeper: KeeperUid,
    },
}

/// A parameter that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterChange {
    pub name: String,
    /// Old value; `None`: not configured.
    pub old: Option<String>,
    /// New value; `None`: no longer configured.
    pub new: Option<String>,
}
