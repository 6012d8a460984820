//! A plan: steps in order, and what follows them.

use model::{ClusterUid, DbUid, NewConfig};

use crate::external_dirs::{ClearRequest, ExternalDir};
use crate::reconcile::{
    AcceptedOrder, AheadStandby, HoldReason, LocalDb, LogMessage, MemberUpstream, ServerConfig, SlotChange, SourceFacts,
};

/// Steps to execute, and what follows them.
#[derive(Debug, Clone, PartialEq)]
pub struct ReconcilePlan {
    /// To be executed in this order.
    pub steps: Vec<Step>,
    /// What follows the last step.
    pub next: NextAction,
}

/// What follows the steps of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextAction {
    /// The steps changed what was observed: observe and plan again in the same round.
    PlanAgain,
    /// Probe the server, and plan again.
    ProbeServer,
    /// Probe the instance to copy from, once it has the slot, and plan again.
    ProbeSource(MemberUpstream),
    /// The round is complete.
    Done,
    /// The round ends without having reached the desired state.
    Hold(HoldReason),
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Log a message.
    Log(LogMessage),
    /// Save the cluster uid (`keeperstate`).
    SaveCluster(ClusterUid),
    /// Save the local db (`dbstate`) durably before the steps that follow.
    SaveDb(LocalDb),
    /// Stop the instance (fast shutdown) and wait for its end.
    Stop,
    /// Publish that the instance of this db is stopped, and how.
    PublishStopped(DbUid),
    /// Begin a checkpoint for this switchover, and publish its end.
    Checkpoint(String),
    /// Publish that the instance is stopping on this order, if the order and what it depends on still hold.
    AcceptOrder(AcceptedOrder),
    /// Withdraw the publication that the instance is stopping or stopped.
    WithdrawStopped,
    /// Set complete data aside until new ones are complete, or remove them; remove incomplete data.
    ClearData(ClearRequest),
    /// Keep copies of the configuration files that the data came with.
    KeepOriginalFiles,
    /// Run initdb.
    Initdb(NewConfig),
    /// Start for the initialisation only, unreachable for clients.
    StartTemporarily(ServerConfig),
    /// Restore the backup with the command of the db's spec.
    RestoreBackup,
    /// Start the recovery of the restored data, unreachable for clients.
    StartRecovery(ServerConfig),
    /// Wait until the recovery is complete.
    WaitRecovered,
    /// Wait until the instance accepts connections.
    WaitReady,
    /// Read the configured parameters and save them as those of the initialisation.
    ReadInitParameters,
    /// Read the configured parameters of the data that are being adopted.
    ReadPreviousParameters,
    /// Save the db of adopted data with the parameters just read (`dbstate`).
    SaveAdopted(LocalDb),
    /// Set up superuser and replication role.
    SetUpRoles,
    /// Copy the data of this instance with pg_basebackup, tablespaces and WAL into these directories.
    BaseBackup(MemberUpstream, Vec<ExternalDir>),
    /// Run the crash recovery of a master's data, without clients.
    Recover,
    /// Let pg_rewind check against this source whether it can rewind the data. Changes nothing but
    /// postgresql.auto.conf, which is removed.
    CheckRewind(MemberUpstream, SourceFacts),
    /// Rewind the data with pg_rewind to the history of this source.
    Rewind(MemberUpstream),
    /// Create `standby.signal`.
    MarkStandby,
    /// The data of this db are complete: a later failure does not discard them.
    MarkComplete(DbUid),
    /// Request the permit to become master from the store.
    Permit,
    /// Start the instance.
    Start(StartAs, ServerConfig),
    /// Wait until the rewound instance of this db has replayed what it needs to accept connections, or give up its data.
    WaitRewound(DbUid),
    /// Wait until the instance streams, or give up its old data.
    WaitStreaming(DbUid),
    /// Wait until every process of the server makes commits wait for these names.
    ConfirmStandbyNames(String),
    /// Wait for another standby's WAL, for a limited time.
    CatchUp(AheadStandby),
    /// Promote the running standby, and write this configuration.
    Promote(ServerConfig),
    /// Create or drop a replication slot.
    Slot(SlotChange),
    /// Write the configuration and reload the server.
    Reload(ServerConfig),
    /// Restart the instance (fast shutdown).
    Restart(StartAs, ServerConfig),
    /// Report whether a parameter is pending restart.
    ReportRestart(RestartNeed),
    /// The desired state is reached: save its generation.
    SaveApplied(LocalDb),
}

/// Whether a parameter is pending restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartNeed {
    /// No parameter is.
    Nothing,
    /// At least one is.
    Pending,
    /// One is that needs no restart yet, so that other instances need not wait for this one.
    CanWait,
    /// The server was not probed since it read the parameters.
    NotProbed,
}

/// Role in which an instance is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAs {
    /// Without recovery settings; requires a permit.
    Master,
    /// As a standby.
    Standby,
}

impl ReconcilePlan {
    /// Returns a plan without actions that logs `why` and waits for another desired state.
    pub fn hold(why: HoldReason) -> Self {
        Self {
            steps: vec![Step::Log(LogMessage::OnHold(why.clone()))],
            next: NextAction::Hold(why),
        }
    }
}

impl Step {
    /// Whether the step changes something, so that the messages of its round are logged (keeper 15.0 rule 5).
    pub fn has_effect(&self) -> bool {
        !matches!(self, Self::Log(_) | Self::ReportRestart(_))
    }

    /// Whether the step may take so long that a changed desired state must interrupt it (keeper W3).
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Self::ClearData(_)
                | Self::Initdb(_)
                | Self::RestoreBackup
                | Self::WaitRecovered
                | Self::WaitReady
                | Self::BaseBackup(..)
                | Self::Recover
                | Self::CheckRewind(..)
                | Self::Rewind(_)
                | Self::WaitRewound(_)
                | Self::WaitStreaming(_)
                | Self::ConfirmStandbyNames(_)
                | Self::CatchUp(_)
        )
    }

    /// Returns the name of the step in metrics; steps that cannot fail have one together.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::SaveCluster(_) => "save_cluster",
            Self::SaveDb(_) | Self::SaveAdopted(_) => "save_db",
            Self::Stop => "stop",
            Self::PublishStopped(_) => "publish_stopped",
            Self::AcceptOrder(_) => "accept_order",
            Self::ClearData(_) => "clear_data",
            Self::Initdb(_) => "initdb",
            Self::RestoreBackup => "restore_backup",
            Self::WaitRecovered => "wait_recovered",
            Self::StartTemporarily(_) | Self::StartRecovery(_) | Self::Start(..) => "start",
            Self::WaitReady => "wait_ready",
            Self::KeepOriginalFiles => "keep_original_files",
            Self::ReadInitParameters | Self::ReadPreviousParameters => "read_init_parameters",
            Self::SetUpRoles => "set_up_roles",
            Self::BaseBackup(..) => "base_backup",
            Self::Recover => "recover",
            Self::CheckRewind(..) => "check_rewind",
            Self::Rewind(_) => "rewind",
            Self::MarkStandby => "mark_standby",
            Self::Permit => "permit",
            Self::WaitRewound(_) => "wait_rewound",
            Self::WaitStreaming(_) => "wait_streaming",
            Self::ConfirmStandbyNames(_) => "confirm_names",
            Self::Promote(_) => "promote",
            Self::Slot(_) => "slot",
            Self::Reload(_) => "reload",
            Self::Restart(..) => "restart",
            Self::SaveApplied(_) => "save_applied",
            Self::Log(_)
            | Self::MarkComplete(_)
            | Self::ReportRestart(_)
            | Self::Checkpoint(_)
            | Self::CatchUp(_)
            | Self::WithdrawStopped => "other",
        }
    }

    /// Whether the round continues when the step fails (keeper R23, R24, S5, 11.3).
    pub fn may_fail(&self) -> bool {
        matches!(self, Self::Reload(_) | Self::Restart(..) | Self::Slot(_))
    }
}
