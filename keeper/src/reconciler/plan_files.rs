//! What a plan, and what follows it at once, needs of the instance's files. They are read together: each read wakes
//! another thread, which wakes this one. What they mean is left to `reconcile`.

use std::path::{Path, PathBuf};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::file_status;
use crate::postgres::data::links;
use crate::postgres::instance::{Instance, LocalRole as FileRole};

/// The files of the instance at the time of a plan.
#[derive(Debug)]
pub(super) struct PlanFiles {
    /// The role that they show.
    pub(super) role: FileRole,
    /// The server's lock file reports that it accepts connections, or cannot be read.
    pub(super) reports_ready: bool,
    /// Locations of the tablespaces; none if they cannot be read.
    pub(super) tablespaces: Vec<PathBuf>,
    /// The password file of `primary_conninfo` need not be written, or was not looked at.
    pub(super) is_passfile_current: bool,
}

impl PlanFiles {
    /// Reads the files; `with_passfile`: also the password file, which a standby needs.
    pub(super) async fn read(instance: &Instance, with_passfile: bool) -> Result<Self, FileError> {
        let config = with_passfile.then(|| instance.config().clone());
        let read = move |data: &Path| {
            Ok(Self {
                role: FileRole::of(data)?,
                reports_ready: file_status::reports_ready(data).unwrap_or(true),
                tablespaces: links::locations(data).unwrap_or_default(),
                is_passfile_current: config.is_none_or(|config| config.is_passfile_current()),
            })
        };
        instance.access().read(read).await
    }
}
