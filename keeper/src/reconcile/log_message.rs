//! What a pass says, in the order in which it says it (keeper 15). How a line is written is left to the loop.

use control::model::{DbUid, KeeperUid, Lsn};

use crate::reconcile::{CopyReason, HoldReason, StopReason, Upstream};

/// Something that a pass says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogMessage {
    /// The orders are not carried out, and why.
    OnHold(HoldReason),
    /// The instance is kept down, and why.
    KeptStopped(StopReason),
    /// A begun initialisation did not complete: its data go, or are copied over.
    Incomplete {
        /** The db that was being made. */
        db: DbUid,
    },
    /// The data belong to another db than the one assigned (keeper R13).
    DbDiffers {
        /** Locally. */
        local: DbUid,
        /** In the cluster data. */
        wanted: DbUid,
    },
    /// Init mode `new` begins.
    Initializing,
    /// Init mode `resync` begins.
    Resyncing,
    /// There is no database cluster in PGDATA.
    NotInitialized,
    /// The old data are kept: they lie on the source's history.
    Rejoining {
        /** Where they end. */
        end: Lsn,
    },
    /// A full copy begins, and why the old data will not do.
    Copying {
        /** From here. */
        from: Upstream,
        /** Because of this. */
        why: CopyReason,
    },
    /// The copy is complete.
    Synced,
    /// Role asked for: master (keeper M1).
    RoleMaster,
    /// It is one already (keeper M4).
    AlreadyMaster,
    /// Role asked for: standby (keeper S1).
    RoleStandby {
        /** Whom it follows. */
        followed: DbUid,
    },
    /// It is one already.
    AlreadyStandby,
    /// The followed instance is found elsewhere.
    UpstreamChanged {
        /** Now here. */
        to: Upstream,
    },
    /// One parameter changed.
    ParameterChanged(ParameterChange),
    /// Summary of R20: parameters changed.
    ParametersChanged,
    /// Summary of R20: nothing changed.
    ParametersUnchanged,
    /// Summary of R22: lines changed.
    HbaChanged,
    /// Summary of R22: nothing changed.
    HbaUnchanged,
    /// Replay is paused for want of a restart (keeper 8.7).
    ReplayPaused,
    /// A restart is due and wanted (keeper R24).
    RestartDue,
    /// A restart is due and wanted, and another instance restarts first.
    RestartAfter {
        /** Of this keeper. */
        keeper: KeeperUid,
    },
}

/// A changed parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterChange {
    /// Its name.
    pub name: String,
    /// The value that was; absent: not configured.
    pub old: Option<String>,
    /// The value that will be; absent: no longer configured.
    pub new: Option<String>,
}
