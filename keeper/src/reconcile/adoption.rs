//! Adoption (keeper 5.2): whether the data in PGDATA may become those of a db with init mode `existing`. They are never
//! removed, and nothing in them is changed before they are accepted. The steps that follow are in
//! `initialise::existing`.

use std::fmt;

use crate::reconcile::DataState;

/// Data that are not of this db yet, as they lie in PGDATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingData {
    /// Major version of the data; `None` without a `PG_VERSION`.
    pub major: Option<u32>,
    /// Major version of the keeper's programs.
    pub programs_major: u32,
    /// Contents of the control file; an error text if it cannot be read. Read only when the majors are equal.
    pub control: Result<ExistingControl, String>,
    /// A file that shows that a backup was put here and has not been recovered: `recovery.signal` or `backup_label`.
    pub unfinished_restore: Option<&'static str>,
}

/// What the control file of existing data records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingControl {
    pub system_id: String,
    /// The last server was a standby.
    pub is_of_standby: bool,
}

/// Why existing data are not adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdoptionRefusal {
    /// PGDATA is empty, or not a complete database cluster.
    NoDatabase,
    /// A copy or an initialisation of this keeper was not completed.
    Incomplete,
    /// They are of another major version than the programs.
    OtherMajor { data: Option<u32>, programs: u32 },
    /// The control file cannot be read.
    Unreadable(String),
    /// The keeper has reported another database cluster for this db.
    OtherSystem { recorded: String, found: String },
    /// They are a standby's.
    Standby,
    /// A backup that has not been recovered; this file shows it.
    UnfinishedRestore(&'static str),
}

impl AdoptionRefusal {
    /// Returns what an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoDatabase | Self::Incomplete => {
                "stop this keeper and put a complete database cluster there, or initialise with another initMode or \
                 another existingConfig.keeperUID"
            }
            Self::OtherMajor { .. } => {
                "give the keeper the programs of that version with --pg-bin-path, or upgrade the data"
            }
            Self::Unreadable(_) => "fix the error above; the data are left as they are",
            Self::OtherSystem { .. } => "give this keeper back the data that it has reported, or initialise again",
            Self::Standby => {
                "name the keeper of the master in existingConfig.keeperUID, or promote these data first (stop this \
                 keeper, start the server by hand, pg_ctl promote)"
            }
            Self::UnfinishedRestore(_) => "recover the backup first, or use initMode pitr",
        }
    }
}

impl fmt::Display for AdoptionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDatabase => f.write_str("there is no complete database cluster"),
            Self::Incomplete => f.write_str("the data come from a copy or an initialisation that was not completed"),
            Self::OtherMajor {
                data: Some(data),
                programs,
            } => write!(
                f,
                "the data are of PostgreSQL {data}, and the keeper's programs are of {programs}"
            ),
            Self::OtherMajor { data: None, programs } => {
                write!(
                    f,
                    "the data have no version, and the keeper's programs are of PostgreSQL {programs}"
                )
            }
            Self::Unreadable(why) => write!(f, "the control file cannot be read: {why}"),
            Self::OtherSystem { recorded, found } => write!(
                f,
                "the system identifier of the data is {found}, and the one recorded for this db is {recorded}"
            ),
            Self::Standby => f.write_str("the data are a standby's"),
            Self::UnfinishedRestore(file) => {
                write!(f, "the data are a backup that was not recovered: {file} is in them")
            }
        }
    }
}

/// Checks whether existing data may be adopted. `recorded` is the system identifier recorded for the db, empty for
/// none; `is_incomplete` is whether this keeper began to create the data and did not complete them.
///
/// # Errors
/// Returns the first condition that is not met.
pub fn check_adoption(
    state: DataState,
    is_incomplete: bool,
    existing: &ExistingData,
    recorded: &str,
) -> Result<(), AdoptionRefusal> {
    use crate::reconcile::DataRole;
    if is_incomplete {
        return Err(AdoptionRefusal::Incomplete);
    }
    let DataState::Present(role) = state else {
        return Err(AdoptionRefusal::NoDatabase);
    };
    if existing.major != Some(existing.programs_major) {
        return Err(AdoptionRefusal::OtherMajor {
            data: existing.major,
            programs: existing.programs_major,
        });
    }
    let control = existing
        .control
        .as_ref()
        .map_err(|why| AdoptionRefusal::Unreadable(why.clone()))?;
    if !recorded.is_empty() && recorded != control.system_id {
        return Err(AdoptionRefusal::OtherSystem {
            recorded: recorded.to_owned(),
            found: control.system_id.clone(),
        });
    }
    // Without its signal file a standby would start on the timeline of its master.
    if role == DataRole::Standby || control.is_of_standby {
        return Err(AdoptionRefusal::Standby);
    }
    match existing.unfinished_restore {
        Some(file) => Err(AdoptionRefusal::UnfinishedRestore(file)),
        None => Ok(()),
    }
}
