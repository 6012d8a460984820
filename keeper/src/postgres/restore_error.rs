//! Why what a restore command has restored cannot be used. Restoring is in `restore`.

use std::path::PathBuf;

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
    /// The control file cannot be read.
    #[error("the restored data are damaged")]
    Control(#[source] ControlError),
    /// The version of the programs is unknown.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
}
