//! The control file of a data directory, read with pg_controldata, and the end of a stopped instance's WAL.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use model::Lsn;

use crate::postgres::config::conf::StandbyMinimums;
use crate::postgres::data::file_error::FileError;
use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;
use crate::postgres::programs::installation::Programs;

/// Why the control file or the end of the WAL is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// pg_controldata or pg_waldump failed.
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
        /// The data directory.
        data: String,
        /// The warning of pg_controldata.
        warning: String,
    },
    /// A WAL segment cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The record at this position is not a shutdown checkpoint.
    #[error("no record of a shutdown checkpoint at {at}")]
    NoCheckpoint {
        /// Position of the checkpoint in the control file.
        at: Lsn,
    },
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
    /// Timeline of that checkpoint.
    pub timeline: u64,
    /// Position up to which a standby must replay to be consistent; 0 on a master.
    pub minimum_recovery_end: Lsn,
    /// Timeline of that position; 0 on a master.
    pub minimum_recovery_timeline: u64,
    /// Minimum parameters of a standby (keeper 8.7).
    pub minimums: StandbyMinimums,
    /// Layout of the WAL.
    pub layout: WalLayout,
}

/// Sizes of WAL segments and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalLayout {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
}

impl ControlFile {
    /// Parses the output of pg_controldata in the locale C.
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
            timeline: number("Latest checkpoint's TimeLineID")?,
            minimum_recovery_end: lsn("Minimum recovery ending location")?,
            minimum_recovery_timeline: number("Min recovery ending loc's timeline")?,
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

/// Reads the control file of a data directory.
pub async fn read(programs: &Programs, data: &Path, limit: Duration) -> Result<ControlFile, ControlError> {
    let mut command = environment::command(&programs.path("pg_controldata"));
    command.env("LC_ALL", "C").arg("-D").arg(data);
    let printed = command::output(command, limit).await?;
    if let Some(warning) = printed.lines().find(|line| line.starts_with("WARNING")) {
        return Err(ControlError::Damaged {
            data: data.display().to_string(),
            warning: warning.to_owned(),
        });
    }
    ControlFile::parse(&printed)
}

/// End of a stopped instance's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEnd {
    /// Its control file.
    pub control: ControlFile,
    /// Its timeline.
    pub timeline: u64,
    /// End of its WAL; `None` without a clean shutdown.
    pub position: Option<Lsn>,
}

impl WalEnd {
    /// Whether it was shut down cleanly.
    pub fn is_clean(&self) -> bool {
        self.position.is_some()
    }
}

/// Returns the end of a stopped instance's data.
///
/// A master's WAL ends after the record of its shutdown checkpoint (extensions ): the control file has its start,
/// the record its length. A standby's ends where its received WAL ends, which it replays at its next start.
pub async fn wal_end(programs: &Programs, data: &Path, limit: Duration) -> Result<WalEnd, ControlError> {
    let control = read(programs, data, limit).await?;
    let timeline = control.current_timeline();
    let position = match control.state {
        ControlState::ShutDown => Some(end_of_checkpoint(data, &control)?),
        ControlState::ShutDownInRecovery => Some(end_of_received(programs, data, &control, limit).await?),
        ControlState::InProduction
        | ControlState::CrashRecovery
        | ControlState::ArchiveRecovery
        | ControlState::Other => None,
    };
    Ok(WalEnd {
        control,
        timeline,
        position,
    })
}

/// Returns the end of the shutdown checkpoint's record, read from the WAL.
fn end_of_checkpoint(data: &Path, control: &ControlFile) -> Result<Lsn, ControlError> {
    let at = control.checkpoint;
    let path = data
        .join("pg_wal")
        .join(segment_name(control.timeline, at, control.layout));
    // A record begins with its whole length (access/xlogrecord.h, xl_tot_len), which never spans two pages, since
    // records begin at multiples of 8.
    let mut length = [0; 4];
    let offset = at.0 % control.layout.segment_bytes;
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut length, offset))
        .map_err(|source: io::Error| FileError::new("read", path)(source))?;
    let length = u64::from(u32::from_ne_bytes(length));
    // A header of 24 bytes, and checkpoint data of less than 100 bytes in all majors.
    if !(24..1024).contains(&length) {
        return Err(ControlError::NoCheckpoint { at });
    }
    Ok(end_of_record(at, length, control.layout))
}

/// Returns the end of the last complete record that a standby has; at least the position at which it is consistent.
async fn end_of_received(
    programs: &Programs,
    data: &Path,
    control: &ControlFile,
    limit: Duration,
) -> Result<Lsn, ControlError> {
    let known = control.minimum_recovery_end;
    let timeline = control.current_timeline();
    let end = end_of_records(programs, data, timeline, known, control.layout, limit).await?;
    Ok(end.map_or(known, |end| end.max(known)))
}

/// Returns the end of the last complete record of a timeline from `start` on, found with pg_waldump; `None` when there
/// is none.
pub(crate) async fn end_of_records(
    programs: &Programs,
    data: &Path,
    timeline: u64,
    start: Lsn,
    layout: WalLayout,
    limit: Duration,
) -> Result<Option<Lsn>, ControlError> {
    let mut command = environment::command(&programs.path("pg_waldump"));
    command.env("LC_ALL", "C").arg("-p").arg(data.join("pg_wal"));
    command
        .arg("-t")
        .arg(timeline.to_string())
        .arg("-s")
        .arg(start.to_string());
    let mut end = None;
    let reading = command::run(command, |line| end = end_of_waldump_line(line, layout).max(end));
    match tokio::time::timeout(limit, reading).await {
        // pg_waldump always fails at the first place without a record.
        Ok(Ok(()) | Err(CommandError::Failed { .. })) => Ok(end),
        Ok(Err(failed)) => Err(failed.into()),
        Err(_) => Err(CommandError::Timeout {
            program: programs.path("pg_waldump"),
            limit,
        }
        .into()),
    }
}

/// Returns the end of a record from its line in the output of pg_waldump: `rmgr: … len (rec/tot): 24/ 24, … lsn:
/// 0/3000028, …`.
fn end_of_waldump_line(line: &str, layout: WalLayout) -> Option<Lsn> {
    let (_, rest) = line.split_once("len (rec/tot):")?;
    let (lengths, rest) = rest.split_once(',')?;
    let length = lengths.split_once('/')?.1.trim().parse().ok()?;
    let (_, rest) = rest.split_once("lsn:")?;
    let start = Lsn::parse(rest.split(',').next()?.trim())?;
    Some(end_of_record(start, length, layout))
}

/// Returns the end of a record of `length` bytes that begins at `start`. Its length is rounded up to a multiple of 8,
/// and each page that it enters has a header first, a longer one on a segment's first page (access/xlog_internal.h). An
/// end at a page boundary is the end of the page, as in the server.
fn end_of_record(start: Lsn, length: u64, layout: WalLayout) -> Lsn {
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;
    let mut position = start.0;
    let mut left = length.next_multiple_of(8);
    while left > 0 {
        if position % layout.page_bytes == 0 {
            position += if position % layout.segment_bytes == 0 {
                LONG_HEADER
            } else {
                SHORT_HEADER
            };
        }
        let taken = left.min(layout.page_bytes - position % layout.page_bytes);
        position += taken;
        left -= taken;
    }
    Lsn(position)
}

/// Returns the name of the segment file that contains a position.
pub fn segment_name(timeline: u64, position: Lsn, layout: WalLayout) -> String {
    let segment = position.0 / layout.segment_bytes;
    let per_high = (1 << 32) / layout.segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", segment / per_high, segment % per_high)
}

#[cfg(test)]
mod tests {
    use super::*;

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
Minimum recovery ending location:     1/3000148
Min recovery ending loc's timeline:   2
wal_level setting:                    replica
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              47
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
WAL block size:                       8192
Bytes per WAL segment:                16777216
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
        assert_eq!(control.layout, LAYOUT);
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

    #[test]
    fn the_end_of_a_record_includes_alignment_and_page_headers() {
        let end = |start, length| end_of_record(Lsn(start), length, LAYOUT).0;
        assert_eq!(
            end(0x300_0028, 114),
            0x300_00A0,
            "a shutdown checkpoint, rounded up to 120"
        );
        assert_eq!(end(0x300_1FF8, 114), 0x300_2000 + 24 + 112, "a header in the middle");
        assert_eq!(end(0x3FF_FFF8, 114), 0x400_0000 + 40 + 112, "the header of a segment");
        assert_eq!(end(0x300_1F88, 114), 0x300_2000, "the end of a page is the end");
        assert_eq!(
            end(0x300_0028, 20_000),
            0x300_0028 + 20_000 + 2 * 24,
            "more than a page"
        );
    }

    #[test]
    fn a_line_of_pg_waldump_contains_the_end_of_its_record() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, prev 0/02000060, \
                    desc: CHECKPOINT_SHUTDOWN redo 0/3000028; tli 1";
        assert_eq!(end_of_waldump_line(line, LAYOUT), Some(Lsn(0x300_00A0)));
        assert_eq!(
            end_of_waldump_line("pg_waldump: error: invalid record length", LAYOUT),
            None
        );
    }

    #[test]
    fn a_position_lies_in_its_segment() {
        assert_eq!(segment_name(2, Lsn(0x1_0300_0148), LAYOUT), "000000020000000100000003");
    }
}
