//! Why a step failed, and what is logged about it.

use std::time::Duration;

use model::{KeeperUid, Lsn};
use store::StoreError;

use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::client::upstream::UpstreamError;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::walker::FileSystemHung;
use crate::postgres::programs::installation::ProgramsError;
use crate::postgres::programs::wal_end::WalEndError;
use crate::postgres::rewind::RewindError;
use crate::postgres::server::error::InstanceError;
use crate::reconcile::Step;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    WalEnd(#[from] WalEndError),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The store refused the permit: read the cluster data again.
    #[error("the cluster data have changed, or the store has the key orders/{0}")]
    PermitRefused(KeeperUid),
    /// The store refused the acceptance of an order to stop: read the cluster data and the order again.
    #[error("the cluster data or the order have changed")]
    OrderChanged,
    /// There is no permit, or it has expired: the store answered late, or what followed took long.
    #[error("there is no permit to be a master, or half of failInterval has passed since it was requested")]
    PermitExpired,
    /// The server ended during its start, possibly because of its configuration.
    #[error("the configuration kept the instance from starting")]
    Configuration(#[source] InstanceError),
    /// Reading or changing directories makes no progress.
    #[error(transparent)]
    FileSystemHung(#[from] FileSystemHung),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Rewind(#[from] RewindError),
    /// The source no longer has the WAL from which a rewound instance would replay.
    #[error("the source no longer has the WAL from {0} on, which a rewound instance needs")]
    WalGone(Lsn),
    /// The source has made a checkpoint, and its control file still has an older timeline.
    #[error("the control file of the source has timeline {timeline} instead of {expected} after a checkpoint")]
    SourceBehind { timeline: u64, expected: u64 },
    /// The rewound instance asks for WAL that the source has removed.
    #[error("the source no longer has the WAL that the rewound instance asks for")]
    NeededWalGone,
    /// `synchronous_standby_names` is not in force on a standby to be promoted.
    #[error("commits after a promotion would not wait: synchronous_standby_names is not in force after {0:?}")]
    StandbyNamesNotConfirmed(Duration),
    /// The rewound instance has stopped replaying before it accepts connections.
    #[error("the rewound instance has replayed nothing for {0:?}")]
    RecoveryStalled(Duration),
    /// The instance with its old data does not stream.
    #[error("the instance does not stream from the followed db within {0:?}")]
    DoesNotStream(Duration),
    /// The server refuses the query whether it streams.
    #[error("cannot find out whether the kept data stream: {0}")]
    StreamUnknown(ServerRefusal),
}

impl StepError {
    /// Whether reading the cluster data and planning again may be sufficient.
    pub fn should_plan_again(&self) -> bool {
        matches!(
            self,
            Self::PermitRefused(_)
                | Self::OrderChanged
                | Self::PermitExpired
                | Self::Configuration(_)
                | Self::Instance(InstanceError::PermitExpired { .. })
        )
    }

    /// Whether a file system does not answer, which proves nothing about the data or the server (keeper 12.13.5).
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::FileSystemHung(_) => true,
            Self::File(failed) => failed.unanswered().is_some(),
            Self::Instance(failed) | Self::Rewind(RewindError::Instance(failed)) => failed.is_unanswered(),
            _ => false,
        }
    }

    /// Whether a restart that failed like this is still under way (keeper R24.4): it is retried with less of the
    /// configuration, its server is still starting or ended while starting, or it is unknown how far it has got.
    pub fn leaves_restart_under_way(&self) -> bool {
        self.is_unanswered()
            || matches!(
                self,
                Self::Configuration(_) | Self::Instance(InstanceError::Timeout { .. } | InstanceError::Ended { .. })
            )
    }
}

/// Returns the log message of a failed step.
pub fn failure_message(step: &Step, failed: &StepError) -> &'static str {
    match step {
        // The port is checked before data are created, too.
        _ if matches!(failed, StepError::Instance(InstanceError::Port(_))) => "failed to start postgres",
        Step::Log(_)
        | Step::ReportRestart(_)
        | Step::MarkComplete(_)
        | Step::Checkpoint(_)
        | Step::CatchUp(_)
        | Step::WithdrawStopped => "could not continue",
        Step::SaveCluster(_) => "could not save the cluster uid",
        Step::SaveDb(_) | Step::SaveAdopted(_) | Step::SaveApplied(_) => "could not save the state of the local db",
        Step::Stop => "failed to stop postgres",
        Step::PublishStopped(_) => "could not find out how our db was stopped",
        Step::AcceptOrder(_) => "could not accept the order to stop",
        Step::ClearData(_) => "could not clear PGDATA",
        Step::KeepOriginalFiles => "could not keep copies of the configuration files",
        Step::RestoreBackup => "failed to restore the backup",
        Step::WaitRecovered => "failed to recover the restored backup",
        Step::Initdb(_) => "failed to initialize the database cluster",
        Step::StartTemporarily(_) | Step::StartRecovery(_) | Step::Start(..) => "failed to start postgres",
        Step::WaitReady => "postgres does not take connections",
        Step::ReadInitParameters | Step::ReadPreviousParameters => "could not read the configured parameters",
        Step::SetUpRoles => "could not set up the roles",
        Step::BaseBackup(..) => "failed to copy the followed db",
        // Nothing follows from a file system that does not answer: the data are not copied for it.
        Step::Recover if failed.is_unanswered() => "crash recovery for pg_rewind failed, retrying",
        Step::CheckRewind(..) if failed.is_unanswered() => "the check with pg_rewind failed, retrying",
        Step::Recover => "crash recovery for pg_rewind failed, copying the followed db instead",
        Step::CheckRewind(..) => "the old data cannot be rewound, copying the followed db instead",
        Step::Rewind(_) => "pg_rewind failed, copying the followed db instead",
        Step::MarkStandby => "could not create standby.signal",
        Step::Permit => "no permit to be master",
        Step::WaitRewound(_) => "the rewound data cannot be used, copying",
        Step::WaitStreaming(_) => "the old data cannot be used, copying",
        Step::ConfirmStandbyNames(_) => "not promoting postgres",
        Step::Promote(_) => "failed to promote postgres",
        Step::Slot(_) => "could not change a replication slot",
        Step::Reload(_) => "failed to reload postgres",
        Step::Restart(..) => "failed to restart postgres",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;
    use crate::postgres::server::port::ListenError;

    fn failed(kind: ErrorKind) -> FileError {
        FileError::new("write", "/data/postgresql.conf")(io::Error::from(kind))
    }

    /// Rule: keeper 12.13.5. The next round retries these steps, see `executor::rewind`.
    #[test]
    fn the_message_announces_a_copy_only_for_data_that_cannot_be_rewound() {
        let hung = StepError::FileSystemHung(FileSystemHung { path: "/data".into() });
        assert_eq!(
            failure_message(&Step::Recover, &hung),
            "crash recovery for pg_rewind failed, retrying"
        );
        let failed = StepError::NeededWalGone;
        assert!(failure_message(&Step::Recover, &failed).ends_with("copying the followed db instead"));
    }

    /// Rule: keeper R24.4. The server is down or starts while its files do not answer.
    #[test]
    fn a_restart_whose_files_do_not_answer_is_still_under_way() {
        let hung = || FileSystemHung { path: "/data".into() };
        let port = ListenError::File(hung().into());
        for unanswered in [
            StepError::File(hung().into()),
            StepError::FileSystemHung(hung()),
            StepError::Instance(InstanceError::File(hung().into())),
            StepError::Instance(InstanceError::FileSystemHung(hung())),
            StepError::Instance(InstanceError::Port(port)),
            StepError::File(failed(ErrorKind::TimedOut)),
        ] {
            assert!(unanswered.leaves_restart_under_way(), "{unanswered:?}");
        }
        for answered in [
            StepError::PermitExpired,
            StepError::File(failed(ErrorKind::PermissionDenied)),
            StepError::Instance(InstanceError::File(failed(ErrorKind::StorageFull))),
        ] {
            assert!(!answered.leaves_restart_under_way(), "{answered:?}");
        }
    }
}
