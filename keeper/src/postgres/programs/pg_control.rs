//! The control file of a PGDATA, read with pg_controldata. The end of the WAL is in `wal_end`.

use std::path::Path;
use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use model::Lsn;

use crate::postgres::config::conf::StandbyMinimums;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::wal_layout::WalLayout;
use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;
use crate::postgres::programs::installation::Programs;

/// Why the control file is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// pg_controldata failed.
    #[error(transparent)]
    Run(#[from] CommandError),
    /// Its output has no such entry.
    #[error("the output of pg_controldata has no {what}")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// The file is damaged.
    #[error("the control file of {data} is damaged: {warning}")]
    Damaged {
        /// PGDATA.
        data: String,
        /// The warning of pg_controldata.
        warning: String,
    },
}

impl ControlError {
    /// Whether the file was read and is damaged. Any other failure, such as a program that did not end in time, proves
    /// nothing about the data (keeper 12.13.5).
    pub const fn proves_damage(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }

    /// Whether pg_controldata exited with a failure, rather than being killed: it has read the file, which is damaged, or
    /// failed to read it, see `check_readable`.
    pub fn is_exit(&self) -> bool {
        matches!(self, Self::Run(CommandError::Failed { status, .. }) if status.code().is_some())
    }
}

/// State of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// A master after a clean shutdown.
    ShutDown,
    /// A standby after a clean shutdown.
    ShutDownInRecovery,
    /// It accepts writes, or crashed while it did.
    InProduction,
    /// In crash recovery, or crashed during it.
    CrashRecovery,
    /// A standby, or one that crashed.
    ArchiveRecovery,
    /// Starting up or shutting down, or crashed meanwhile.
    Other,
}

/// Contents of the control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// State of the instance.
    pub state: ControlState,
    /// System identifier.
    pub system_id: u64,
    /// Start of the record of the latest checkpoint.
    pub checkpoint: Lsn,
    /// Where a recovery from that checkpoint begins.
    pub redo: Lsn,
    /// Timeline of that checkpoint.
    pub timeline: u64,
    /// Time of that checkpoint, in seconds since 1970, if it was printed.
    pub checkpoint_time: Option<i64>,
    /// Position up to which a standby must replay to be consistent; 0 on a master.
    pub minimum_recovery_end: Lsn,
    /// Timeline of that position; 0 on a master.
    pub minimum_recovery_timeline: u64,
    /// `wal_log_hints` is on.
    pub wal_log_hints: bool,
    /// Data checksums are on.
    pub has_checksums: bool,
    /// Minimum parameters of a standby (keeper 8.7).
    pub minimums: StandbyMinimums,
    /// Layout of the WAL.
    pub layout: WalLayout,
}

impl ControlFile {
    /// Parses the output of pg_controldata in the locale C and in UTC.
    pub fn parse(printed: &str) -> Result<Self, ControlError> {
        let text = |key: &'static str| {
            let value = |line: &str| {
                line.strip_prefix(key)?
                    .strip_prefix(':')
                    .map(|value| value.trim().to_owned())
            };
            printed
                .lines()
                .find_map(value)
                .ok_or(ControlError::Missing { what: key })
        };
        let number = |key| {
            text(key)?
                .parse::<u64>()
                .map_err(|_| ControlError::Missing { what: key })
        };
        let small = |key| {
            text(key)?
                .parse::<u32>()
                .map_err(|_| ControlError::Missing { what: key })
        };
        let lsn = |key| Lsn::parse(&text(key)?).ok_or(ControlError::Missing { what: key });
        Ok(Self {
            state: match text("Database cluster state")?.as_str() {
                "shut down" => ControlState::ShutDown,
                "shut down in recovery" => ControlState::ShutDownInRecovery,
                "in production" => ControlState::InProduction,
                "in crash recovery" => ControlState::CrashRecovery,
                "in archive recovery" => ControlState::ArchiveRecovery,
                _ => ControlState::Other,
            },
            system_id: number("Database system identifier")?,
            checkpoint: lsn("Latest checkpoint location")?,
            redo: lsn("Latest checkpoint's REDO location")?,
            timeline: number("Latest checkpoint's TimeLineID")?,
            checkpoint_time: text("Time of latest checkpoint")
                .ok()
                .and_then(|time| unix_seconds(&time)),
            minimum_recovery_end: lsn("Minimum recovery ending location")?,
            minimum_recovery_timeline: number("Min recovery ending loc's timeline")?,
            wal_log_hints: text("wal_log_hints setting")? == "on",
            has_checksums: small("Data page checksum version")? != 0,
            minimums: StandbyMinimums {
                max_connections: small("max_connections setting")?,
                max_worker_processes: small("max_worker_processes setting")?,
                max_wal_senders: small("max_wal_senders setting")?,
                max_prepared_transactions: small("max_prepared_xacts setting")?,
                max_locks_per_transaction: small("max_locks_per_xact setting")?,
            },
            layout: WalLayout {
                segment_bytes: number("Bytes per WAL segment")?,
                page_bytes: number("WAL block size")?,
            },
        })
    }

    /// Returns the timeline of the instance.
    pub fn current_timeline(&self) -> u64 {
        match self.state {
            ControlState::ShutDownInRecovery | ControlState::ArchiveRecovery => {
                self.minimum_recovery_timeline.max(self.timeline)
            }
            ControlState::ShutDown | ControlState::InProduction | ControlState::CrashRecovery | ControlState::Other => {
                self.timeline
            }
        }
    }
}

/// Parses a time that pg_controldata prints in the locale C and in UTC: `Tue Dec  1 07:08:09 2026`.
fn unix_seconds(printed: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = printed.split_ascii_whitespace().collect();
    let [_, month, day, time, year] = words.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().zip(1..).find(|(name, _)| *name == month)?.1;
    let date = Date::new(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    let time: Time = time.parse().ok()?;
    Some(Offset::UTC.to_timestamp(date.to_datetime(time)).ok()?.as_second())
}

/// Fails if the bytes of the control file cannot be read. pg_controldata fails then, and also for a file that is damaged.
pub(crate) fn check_readable(data: &Path) -> Result<(), FileError> {
    let path = data.join("global/pg_control");
    std::fs::read(&path).map(drop).map_err(FileError::new("read", path))
}

/// Reads the control file of a PGDATA.
pub async fn read(programs: &Programs, data: &Path, limit: Duration) -> Result<ControlFile, ControlError> {
    let mut command = environment::command(&programs.path("pg_controldata"));
    command.env("LC_ALL", "C").env("TZ", "UTC").arg("-D").arg(data);
    let (printed, messages) = command::output_and_messages(command, limit).await?;
    // Up to PostgreSQL 16 a part of the output, from 17 on a message of the program.
    let mut lines = printed.lines().chain(messages.iter().map(String::as_str));
    let warning = lines.find(|line| line.starts_with("WARNING") || line.starts_with("pg_controldata: warning"));
    if let Some(warning) = warning {
        return Err(ControlError::Damaged {
            data: data.display().to_string(),
            warning: warning.to_owned(),
        });
    }
    ControlFile::parse(&printed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::instance::test_instance;

    const LAYOUT: WalLayout = WalLayout {
        segment_bytes: 16 << 20,
        page_bytes: 8192,
    };

    const PRINTED: &str = "\
pg_control version number:            1300
Database system identifier:           7711151038867408618
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       1
Latest checkpoint's PrevTimeLineID:   1
Time of latest checkpoint:            Tue Dec  1 07:08:09 2026
Minimum recovery ending location:     1/3000148
Min recovery ending loc's timeline:   2
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              47
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
WAL block size:                       8192
Bytes per WAL segment:                16777216
Data page checksum version:           0
";

    #[test]
    fn the_output_of_pg_controldata_is_parsed() {
        let control = ControlFile::parse(PRINTED).unwrap();
        assert_eq!(control.state, ControlState::ShutDownInRecovery);
        assert_eq!(control.system_id, 7_711_151_038_867_408_618);
        assert_eq!(control.checkpoint, Lsn(0x300_0060));
        assert_eq!(control.minimum_recovery_end, Lsn(0x1_0300_0148));
        assert_eq!(control.current_timeline(), 2);
        assert_eq!(control.minimums.max_wal_senders, 47);
        assert_eq!((control.wal_log_hints, control.has_checksums), (true, false));
        assert_eq!(control.layout, LAYOUT);
        assert_eq!(control.checkpoint_time, Some(1_796_108_889));
        for unknown in [
            "",
            "Dec  1 07:08:09 2026",
            "Di Dez  1 07:08:09 2026",
            "Tue Dec 32 07:08:09 2026",
        ] {
            assert_eq!(unix_seconds(unknown), None, "{unknown:?}");
        }
        for (text, state) in [
            ("in production", ControlState::InProduction),
            ("in crash recovery", ControlState::CrashRecovery),
            ("in archive recovery", ControlState::ArchiveRecovery),
            ("shutting down", ControlState::Other),
            ("starting up", ControlState::Other),
        ] {
            let printed = PRINTED.replace("shut down in recovery", text);
            assert_eq!(ControlFile::parse(&printed).unwrap().state, state, "{text}");
        }
        assert!(matches!(
            ControlFile::parse("nonsense"),
            Err(ControlError::Missing { .. })
        ));
    }

    /// PostgreSQL 17 and later print the warning on standard error.
    #[tokio::test]
    async fn a_warning_means_damage_on_every_major() {
        let limit = Duration::from_secs(60);
        for warning in [
            "echo 'WARNING: Calculated CRC checksum does not match value stored in file.'",
            "echo 'pg_controldata: warning: calculated CRC checksum does not match' >&2",
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("printed"), PRINTED).unwrap();
            let print = format!("cat {}", dir.path().join("printed").display());
            let instance = test_instance(dir.path(), "pg_controldata", &format!("{warning}\n{print}"), limit);
            let read = read(instance.programs(), dir.path(), limit).await;
            assert!(matches!(read, Err(ControlError::Damaged { .. })), "{read:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("global")).unwrap();
        std::fs::write(dir.path().join("global/pg_control"), [0; 8192]).unwrap();
        let programs = Programs::find(None, std::env::var_os("PATH").as_deref(), None).unwrap();
        let read = read(&programs, dir.path(), limit).await;
        assert!(matches!(read, Err(ControlError::Damaged { .. })), "{read:?}");
    }
}
