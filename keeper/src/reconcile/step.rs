//! A plan: steps in their order, and what comes after them.

use control::model::{ClusterUid, DbUid, NewConfig};

use crate::external_dirs::{ClearRequest, ExternalDir};
use crate::reconcile::{HoldReason, LocalDb, LogMessage, ServerConfig, SlotChange, Upstream};

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub struct ReconcilePlan {
    /// To be done in this order.
    pub steps: Vec<Step>,
    /// What comes after the last step.
    pub next: NextAction,
}

/// What comes after the steps of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextAction {
    /// What was seen is no longer so: look again and plan again, in the same pass.
    PlanAgain,
    /// Ask the server, and plan again.
    ProbeServer,
    /// Ask the instance to copy from, once it has the slot, and plan again.
    ProbeSource(Upstream),
    /// The pass is complete.
    Done,
    /// The pass ends without having done what the orders say.
    Hold(HoldReason),
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Say it in the log.
    Log(LogMessage),
    /// Save the cluster uid (`keeperstate`).
    SaveCluster(ClusterUid),
    /// Save the local db (`dbstate`), durably, before what follows.
    SaveDb(LocalDb),
    /// Stop the instance (fast) and wait for it.
    Stop,
    /// Publish that the instance of this db is stopped, and how.
    PublishStopped(DbUid),
    /// Move whole data aside until new ones are complete, or remove them; remove what is half made.
    ClearData(ClearRequest),
    /// Make an empty database cluster.
    Initdb(NewConfig),
    /// Start for the time of the initialisation only, out of clients' reach.
    StartTemporarily(ServerConfig),
    /// Wait until the instance takes connections.
    WaitReady,
    /// Read the configured parameters and save them as those of the initialisation.
    ReadInitParameters,
    /// Set up superuser and replication role.
    SetUpRoles,
    /// Copy the data of this instance; its tablespaces and WAL go to these places.
    BaseBackup(Upstream, Vec<ExternalDir>),
    /// Make the data those of a standby.
    MarkStandby,
    /// The data of this db are complete: a failure after this does not throw them away.
    MarkComplete(DbUid),
    /// Ask the store whether this instance may become a master now.
    Permit,
    /// Start the instance.
    Start(StartAs, ServerConfig),
    /// Wait until the instance streams, or give its old data up.
    WaitStreaming(DbUid),
    /// Promote the running standby.
    Promote,
    /// Create or drop a replication slot.
    Slot(SlotChange),
    /// Write the configuration and make the server read it.
    Reload(ServerConfig),
    /// Restart the instance (fast).
    Restart(StartAs, ServerConfig),
    /// Whether some parameter waits for a restart, to be reported.
    ReportRestart(RestartNeed),
    /// The orders are carried out: record their generation.
    SaveApplied(LocalDb),
}

/// Whether some parameter waits for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartNeed {
    /// None does.
    Nothing,
    /// Some do.
    Pending,
    /// One does that is worth no restart, so that nobody has to wait for ours.
    CanWait,
    /// The server was not asked since it got the parameters.
    NotProbed,
}

/// How an instance is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAs {
    /// Without recovery settings; needs a permit.
    Master,
    /// As a standby.
    Standby,
}

impl ReconcilePlan {
    /// Nothing to do but to wait for other orders.
    pub fn hold(why: HoldReason) -> Self {
        Self {
            steps: vec![Step::Log(LogMessage::OnHold(why.clone()))],
            next: NextAction::Hold(why),
        }
    }
}

impl Step {
    /// Whether the step changes something, so that a pass that has it is told (keeper 15.0 rule 5).
    pub fn has_effect(&self) -> bool {
        !matches!(self, Self::Log(_) | Self::ReportRestart(_))
    }

    /// Whether the step may take so long that other orders are better obeyed before it ends (keeper W3).
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Self::Initdb(_) | Self::WaitReady | Self::BaseBackup(..) | Self::WaitStreaming(_)
        )
    }

    /// Whether the pass goes on when the step fails (keeper R23, R24, S5, 11.3).
    pub fn may_fail(&self) -> bool {
        matches!(self, Self::Reload(_) | Self::Restart(..) | Self::Slot(_))
    }
}
