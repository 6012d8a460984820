//! Why an operation on the instance failed. What follows from it is decided by the callers.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::previous_data::ClearError;
use crate::postgres::data::walker::FileSystemHung;
use crate::postgres::programs::command::{CommandError, explain};
use crate::postgres::programs::pg_control::ControlError;
use crate::postgres::restore_error::RestoreError;
use crate::postgres::server::port::ListenError;

/// Why an operation on the instance failed.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Its port is in use.
    #[error(transparent)]
    Port(#[from] ListenError),
    /// Old data could not be moved or removed.
    #[error(transparent)]
    Clear(#[from] ClearError),
    /// A file system does not answer.
    #[error(transparent)]
    FileSystemHung(#[from] FileSystemHung),
    /// A server is running on PGDATA where none may.
    #[error("a server (process {pid}) runs on {}", data.display())]
    ServerRunning {
        /// Its process id.
        pid: i32,
        /// PGDATA.
        data: PathBuf,
    },
    /// A process that uses PGDATA does not end.
    #[error(
        "process {pid} ({program}) uses {} and does not exit: stop it, the keeper changes nothing before",
        data.display()
    )]
    PgDataInUse {
        /// Its process id.
        pid: i32,
        /// Its program.
        program: String,
        /// PGDATA.
        data: PathBuf,
    },
    /// The lock file names a process that uses PGDATA and may be its server.
    #[error(
        "postmaster.pid names process {pid}, which runs in {} but was started at another time than the file records: \
         stop it, or remove the file if it is not PostgreSQL", data.display()
    )]
    Locked {
        /// Its process id.
        pid: i32,
        /// PGDATA.
        data: PathBuf,
    },
    /// The permit expired before the server was launched.
    #[error("{action}: the permit has expired")]
    PermitExpired { action: &'static str },
    /// No server is running where one must.
    #[error("no server runs on {}", data.display())]
    NotRunning {
        /// PGDATA.
        data: PathBuf,
    },
    /// The server ended.
    #[error("{action}: the server ended{}{}", exit_status_text(*status), explain(tail))]
    Ended {
        action: &'static str,
        status: Option<ExitStatus>,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// The time limit was exceeded; a server may still be running.
    #[error("{action}: not done within {limit:?}")]
    Timeout { action: &'static str, limit: Duration },
    /// The program could not be run, or a signal could not be sent.
    #[error("{action}")]
    Process {
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A restored backup cannot be used.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Recovery is paused until the server is restarted with higher parameters.
    #[error("recovery is paused, because parameters are lower than those of the server that was backed up, or by hand")]
    RecoveryPaused,
    /// The control file could not be read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl InstanceError {
    /// Returns what an operator can do, if this error has a remedy of its own.
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Port(failed) => Some(failed.remedy()),
            Self::RecoveryPaused => Some(
                "raise the parameters that PostgreSQL's log names with `stolonctl update`: the keeper then continues the \
                 recovery; do not pause the replay by hand",
            ),
            _ => None,
        }
    }

    /// Whether an examination of restored data that failed like this shows that they cannot be used. Otherwise they could
    /// not be examined (keeper 12.13.5), or another restore would bring the same.
    pub fn proves_unusable(&self) -> bool {
        match self {
            Self::Restore(
                RestoreError::ControlUnknown(_) | RestoreError::Programs(_) | RestoreError::TargetBeforeBackup { .. },
            ) => false,
            Self::Restore(_) => true,
            Self::File(failed) => failed.proves_damage(),
            _ => false,
        }
    }

    /// Whether restored data are newer than the recovery target.
    pub fn is_target_before_backup(&self) -> bool {
        matches!(self, Self::Restore(RestoreError::TargetBeforeBackup { .. }))
    }

    /// Whether a file system does not answer, which proves nothing about the data or the server (keeper 12.13.5).
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::FileSystemHung(_) => true,
            Self::File(failed) | Self::Port(ListenError::File(failed)) | Self::Clear(ClearError::File(failed)) => {
                failed.unanswered().is_some()
            }
            _ => false,
        }
    }
}

fn exit_status_text(status: Option<ExitStatus>) -> String {
    status.map(|status| format!(" ({status})")).unwrap_or_default()
}
