//! The end of an instance's WAL: of a stopped one by its control file, of any by reading records with pg_waldump.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use model::Lsn;

use crate::postgres::data::access::DataAccess;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::wal_layout::{WalLayout, end_of_record, segment_name};
use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control::{self, ControlError, ControlFile, ControlState};

/// Why the end of the WAL is unknown.
#[derive(Debug, thiserror::Error)]
pub enum WalEndError {
    /// The control file is unknown.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// pg_waldump failed.
    #[error(transparent)]
    Run(#[from] CommandError),
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

impl WalEndError {
    /// Whether the data were read and are damaged, so that they have no end. Any other failure, such as a program that
    /// did not end in time, proves nothing about them (keeper 12.13.5).
    pub fn proves_damage(&self) -> bool {
        match self {
            Self::NoCheckpoint { .. } => true,
            Self::Control(failed) => failed.proves_damage(),
            Self::File(failed) => failed.proves_damage(),
            Self::Run(_) => false,
        }
    }
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
pub async fn wal_end(programs: &Programs, access: &DataAccess, limit: Duration) -> Result<WalEnd, WalEndError> {
    let data = access.data();
    let control = pg_control::read(programs, data, limit).await?;
    let timeline = control.current_timeline();
    let position = match control.state {
        ControlState::ShutDown => Some(end_of_checkpoint(access, &control).await?),
        ControlState::ShutDownInRecovery => Some(end_of_received(programs, access, &control, limit).await?),
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
async fn end_of_checkpoint(access: &DataAccess, control: &ControlFile) -> Result<Lsn, WalEndError> {
    let (at, layout) = (control.checkpoint, control.layout);
    let segment = segment_name(control.timeline, at, layout);
    let length =
        access.read(move |data| record_length(&data.join("pg_wal").join(segment), at.0 % layout.segment_bytes));
    let length = u64::from(length.await?);
    // A header of 24 bytes, and checkpoint data of less than 100 bytes in all majors.
    if !(24..1024).contains(&length) {
        return Err(WalEndError::NoCheckpoint { at });
    }
    Ok(end_of_record(at, length, layout))
}

/// Returns the first field of a record, its whole length (access/xlogrecord.h, xl_tot_len). It never spans two pages,
/// since records begin at multiples of 8.
fn record_length(segment: &Path, offset: u64) -> Result<u32, FileError> {
    let mut length = [0; 4];
    File::open(segment)
        .and_then(|file| file.read_exact_at(&mut length, offset))
        .map_err(FileError::new("read", segment))?;
    Ok(u32::from_ne_bytes(length))
}

/// Returns the end of the last complete record that a standby has; at least the position at which it is consistent.
async fn end_of_received(
    programs: &Programs,
    access: &DataAccess,
    control: &ControlFile,
    limit: Duration,
) -> Result<Lsn, WalEndError> {
    let known = control.minimum_recovery_end;
    let timeline = control.current_timeline();
    let end = end_of_records(programs, access, timeline, known, control.layout, limit).await?;
    Ok(end.map_or(known, |end| end.max(known)))
}

/// Returns the end of the last complete record of a timeline from `start` on, found with pg_waldump; `None` when there
/// is none.
pub(crate) async fn end_of_records(
    programs: &Programs,
    access: &DataAccess,
    timeline: u64,
    start: Lsn,
    layout: WalLayout,
    limit: Duration,
) -> Result<Option<Lsn>, WalEndError> {
    // Without an end pg_waldump waits 5 s for the first missing segment: with -f it could still appear
    // (bin/pg_waldump/pg_waldump.c, WALDumpOpenSegment).
    let until = access.read(move |data| end_of_segments(data, timeline, start, layout));
    let Some(until) = until.await? else { return Ok(None) };
    let mut command = environment::command(&programs.path("pg_waldump"));
    command.env("LC_ALL", "C").arg("-p").arg(access.data().join("pg_wal"));
    command
        .arg("-t")
        .arg(timeline.to_string())
        .arg("-s")
        .arg(start.to_string())
        .arg("-e")
        .arg(until.to_string());
    let mut end = None;
    let reading = command::run(command, |line| end = end_of_waldump_line(line, layout).max(end));
    match tokio::time::timeout(limit, reading).await {
        // pg_waldump always fails at the first place without a record; one that was killed has not got there.
        Ok(Ok(())) => Ok(end),
        Ok(Err(CommandError::Failed { status, .. })) if status.code().is_some() => Ok(end),
        Ok(Err(failed)) => Err(failed.into()),
        Err(_) => Err(CommandError::Timeout {
            program: programs.path("pg_waldump"),
            limit,
        }
        .into()),
    }
}

/// Returns the end of the segments that exist from `start` on without a gap; `None` when the one with `start` is
/// missing.
fn end_of_segments(data: &Path, timeline: u64, start: Lsn, layout: WalLayout) -> Result<Option<Lsn>, FileError> {
    let mut end = None;
    let mut segment = start.0 - start.0 % layout.segment_bytes;
    loop {
        let path = data.join("pg_wal").join(segment_name(timeline, Lsn(segment), layout));
        if !path.try_exists().map_err(FileError::new("look at", path))? {
            return Ok(end);
        }
        segment += layout.segment_bytes;
        end = Some(Lsn(segment));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::data::wal_layout::LAYOUT;

    #[test]
    fn records_are_read_up_to_the_first_missing_segment() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let end = |start| end_of_segments(dir.path(), 1, Lsn(start), LAYOUT).unwrap();
        assert_eq!(end(0x300_0028), None);
        for name in [
            "000000010000000000000003",
            "0000000100000000000000FF",
            "000000010000000100000000",
        ] {
            std::fs::write(dir.path().join("pg_wal").join(name), "").unwrap();
        }
        assert_eq!(end(0x300_0028), Some(Lsn(0x400_0000)));
        assert_eq!(end(0x400_0000), None, "the next one is not there yet");
        assert_eq!(end(0xFF00_0000), Some(Lsn(0x1_0100_0000)));
        assert_eq!(end_of_segments(dir.path(), 2, Lsn(0x300_0028), LAYOUT).unwrap(), None);
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
}
