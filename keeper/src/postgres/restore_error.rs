//! Why what a restore command has restored cannot be used. Restoring is in `restore`.

use std::path::PathBuf;

use model::Timestamp;

use crate::postgres::programs::installation::ProgramsError;
use crate::postgres::programs::pg_control::ControlError;

/// Why a command that ended without a failure has not restored a backup.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no complete database cluster.
    #[error(
        "the restore command ended without a failure and has restored no database cluster: {} is missing; %d in the \
         command is the directory to restore into",
        missing.display()
    )]
    Incomplete {
        /// The first missing file.
        missing: PathBuf,
    },
    /// It is of another major version.
    #[error("the restored data are of PostgreSQL {found}, and the keeper's programs are of {programs}")]
    OtherMajor { found: u32, programs: u32 },
    /// The control file was read and is damaged.
    #[error("the restored data are damaged")]
    Damaged(#[source] ControlError),
    /// The control file was not read, which proves nothing about the data (keeper 12.13.5).
    #[error("could not read the control file of the restored data, which are kept meanwhile")]
    ControlUnknown(#[source] ControlError),
    /// The recovery target is a time before the backup.
    #[error(
        "recoveryTargetTime {target} is before the restored backup, whose latest checkpoint was at {checkpoint}: initialise the \
         cluster again (`stolonctl init`) with an older backup, a later time, or, for the state of this backup, recoveryTarget \
         immediate"
    )]
    TargetBeforeBackup {
        /// As in the spec.
        target: String,
        /// When the latest checkpoint in the backup was made.
        checkpoint: Timestamp,
    },
    /// `pg_wal` is a link, as in the server that was backed up: its WAL may be there.
    #[error(
        "the restored {} is a link to {}, where the WAL of the server that was backed up may be: restore it as a \
         directory",
        link.display(),
        target.display()
    )]
    LinkedWal {
        /// The link.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A tablespace is where another server's is.
    #[error(
        "the restored tablespace {} is in use by {program} (process {pid}): restore it into another directory",
        location.display()
    )]
    TablespaceInUse {
        /// Its directory.
        location: PathBuf,
        /// The name of a process that uses it.
        program: String,
        /// Its id.
        pid: i32,
    },
    /// The version of the programs is unknown.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
}
