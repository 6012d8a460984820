//! Timeline and end of the WAL of a running instance, from its own files. Needs no login; SQL queries are in
//! `client::sql`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use model::Lsn;

use crate::postgres::data::access::DataAccess;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::history::{self, Ancestor, HistoryFileError};
use crate::postgres::data::wal_layout::{WalLayout, segment_name};
use crate::postgres::data::wal_segments::wal_files;
use crate::postgres::programs::command::CommandError;
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control::{self, ControlError, ControlFile};
use crate::postgres::programs::wal_end::{self, WalEndError};
use crate::wal_segment::WalSegment;

/// Why a position is unknown.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The end of the WAL.
    #[error(transparent)]
    WalEnd(#[from] WalEndError),
    /// `pg_wal` cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A history file.
    #[error("read the history of timeline {timeline}")]
    History {
        /// The timeline.
        timeline: u64,
        /// Why not.
        source: HistoryFileError,
    },
    /// The history file of the current timeline is missing.
    #[error("the history file of timeline {timeline} is not there")]
    NoHistory {
        /// The timeline.
        timeline: u64,
    },
}

/// A timeline and its ancestors, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Its number.
    pub id: u64,
    /// All its ancestors.
    pub history: Vec<Ancestor>,
}

impl Timeline {
    /// Returns where it began; the start of all WAL for the first timeline.
    fn fork(&self) -> Lsn {
        self.history.last().map_or(Lsn(0), |ancestor| ancestor.switch_point)
    }
}

/// Returns the timeline of an instance whose WAL ends at `position` and whose control file has the timeline `known`;
/// `names` are those of [`wal_files`].
///
/// The control file is written periodically, and a standby may have switched to a later timeline since. That timeline's
/// history file alone proves nothing: it is fetched before its WAL, and a standby that is past the fork never follows.
/// The segment that contains the position proves it: WAL is written only for the followed timeline.
pub fn timeline_at(
    data: &Path,
    names: &[String],
    known: u64,
    position: Lsn,
    layout: WalLayout,
) -> Result<Timeline, PositionError> {
    let last_byte = Lsn(position.0.saturating_sub(1));
    for timeline in later_timelines(data, names, known)? {
        let segment = data.join("pg_wal").join(segment_name(timeline.id, last_byte, layout));
        if position > timeline.fork() && segment.exists() {
            return Ok(timeline);
        }
    }
    timeline_by_id(data, known)
}

/// Returns timeline and end of the WAL of a running instance that does not answer queries.
///
/// The files contain at least what the server reports as flushed or received.
pub async fn end_of_wal(
    programs: &Programs,
    access: &DataAccess,
    limit: Duration,
) -> Result<(ControlFile, Timeline, Lsn), PositionError> {
    let data = access.data();
    let control = pg_control::read(programs, data, limit).await?;
    let (known, layout) = (control.current_timeline(), control.layout);
    for (timeline, segments) in access.read(move |data| candidates(data, known, layout)).await? {
        let mut end = None;
        for segment in segments {
            let found = wal_end::end_of_records(programs, access, timeline.id, segment, layout, limit).await;
            end = match unless_timeout(found)? {
                Some(found) => end.max(found),
                // The control file is a lower bound: a server is not unhealthy because its WAL takes long to read.
                None => return from_control_file(access, control).await,
            };
        }
        if let Some(end) = end.filter(|end| *end > timeline.fork()) {
            return Ok((control, timeline, end));
        }
    }
    from_control_file(access, control).await
}

/// Returns the timelines that the WAL may end on, latest first, each with the start positions of its newest segments.
fn candidates(data: &Path, known: u64, layout: WalLayout) -> Result<Vec<(Timeline, Vec<Lsn>)>, PositionError> {
    let names = wal_files(data)?;
    let mut timelines = later_timelines(data, &names, known)?;
    timelines.push(timeline_by_id(data, known)?);
    let with_segments = |timeline: Timeline| {
        let segments = newest_segments(data, &names, timeline.id, layout);
        (timeline, segments)
    };
    Ok(timelines.into_iter().map(with_segments).collect())
}

/// Returns timeline and a lower bound of the end of the WAL from the control file.
async fn from_control_file(
    access: &DataAccess,
    control: ControlFile,
) -> Result<(ControlFile, Timeline, Lsn), PositionError> {
    let end = control.checkpoint.max(control.minimum_recovery_end);
    let known = control.current_timeline();
    let timeline = access.read(move |data| timeline_by_id(data, known)).await?;
    Ok((control, timeline, end))
}

/// Maps a timeout of reading the WAL to `None`.
fn unless_timeout(found: Result<Option<Lsn>, WalEndError>) -> Result<Option<Option<Lsn>>, WalEndError> {
    match found {
        Err(WalEndError::Run(CommandError::Timeout { .. })) => Ok(None),
        found => found.map(Some),
    }
}

/// Returns the timelines after `known` that descend from it and whose history files exist, latest first.
fn later_timelines(data: &Path, names: &[String], known: u64) -> Result<Vec<Timeline>, PositionError> {
    let mut ids: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_suffix(".history"))
        .filter(|number| number.len() == 8)
        .filter_map(|number| u64::from_str_radix(number, 16).ok())
        .filter(|id| *id > known)
        .collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let mut later = Vec::new();
    for id in ids {
        let timeline = timeline_by_id(data, id)?;
        if timeline.history.iter().any(|ancestor| ancestor.timeline == known) {
            later.push(timeline);
        }
    }
    Ok(later)
}

/// Returns a timeline with its history from the history file.
pub(crate) fn timeline_by_id(data: &Path, id: u64) -> Result<Timeline, PositionError> {
    let history = history::read_history(data, id).map_err(|source| PositionError::History { timeline: id, source })?;
    let history = history.ok_or(PositionError::NoHistory { timeline: id })?;
    Ok(Timeline { id, history })
}

/// Maximum number of segments that are read to find the end of the WAL: the server creates some in advance, which are
/// empty.
const SEGMENTS_MAX: usize = 3;

/// Returns the start positions of the most recently written segments of a timeline.
fn newest_segments(data: &Path, names: &[String], timeline: u64, layout: WalLayout) -> Vec<Lsn> {
    let dir = data.join("pg_wal");
    let mut written: Vec<(SystemTime, Lsn)> = names
        .iter()
        .filter_map(|name| {
            let start = segment_start(name, timeline, layout)?;
            // A segment that was removed meanwhile was not the last one.
            let modified = dir
                .join(name)
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()?;
            Some((modified, start))
        })
        .collect();
    written.sort_unstable_by(|a, b| b.cmp(a));
    written.into_iter().take(SEGMENTS_MAX).map(|(_, start)| start).collect()
}

/// Returns the start position of a segment file of this timeline; `None` for other files.
fn segment_start(name: &str, timeline: u64, layout: WalLayout) -> Option<Lsn> {
    let segment = WalSegment::parse(name, layout.segment_bytes).filter(|segment| segment.timeline == timeline)?;
    segment.number.checked_mul(layout.segment_bytes).map(Lsn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::data::wal_layout::LAYOUT;

    fn data(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join("pg_wal").join(name), content).unwrap();
        }
        dir
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], known: u64, position: u64, expected: u64) {
        let dir = data(files);
        let timeline = timeline_at(
            dir.path(),
            &wal_files(dir.path()).unwrap(),
            known,
            Lsn(position),
            LAYOUT,
        )
        .unwrap();
        assert_eq!(timeline.id, expected, "{files:?}");
    }

    const TWO: (&str, &str) = ("00000002.history", "1\t0/3000100\tno recovery target specified\n");

    #[test]
    fn a_history_file_alone_does_not_change_the_timeline() {
        let first = ("000000010000000000000003", "");
        let second = ("000000020000000000000003", "");
        check(&[first], 1, 0x300_0200, 1);
        // past the fork on the old timeline: it cannot follow
        check(&[first, TWO], 1, 0x300_0200, 1);
        check(&[first, second, TWO], 1, 0x300_0200, 2);
        // all of the old timeline and nothing of the next one
        check(&[first, second, TWO], 1, 0x300_0100, 1);
        check(&[second, TWO], 2, 0x300_0100, 2);
    }

    #[test]
    fn a_foreign_branch_is_not_followed() {
        let other = ("00000003.history", "2\t0/3000000\tx\n");
        check(&[("000000030000000000000003", ""), other], 1, 0x300_0200, 1);
        let third = ("00000003.history", "1\t0/3000100\tx\n2\t0/3000180\tx\n");
        check(&[("000000030000000000000003", ""), TWO, third], 1, 0x300_0200, 3);
    }

    #[test]
    fn a_position_at_the_end_of_a_segment_lies_in_that_segment() {
        check(&[("000000020000000000000003", ""), TWO], 1, 0x400_0000, 2);
        check(&[("000000020000000000000004", ""), TWO], 1, 0x400_0000, 1);
    }

    #[test]
    fn wal_that_takes_too_long_to_read_is_no_failure() {
        let late = WalEndError::Run(CommandError::Timeout {
            program: "pg_waldump".into(),
            limit: Duration::from_secs(1),
        });
        assert!(matches!(unless_timeout(Err(late)), Ok(None)));
        assert!(matches!(unless_timeout(Ok(None)), Ok(Some(None))));
        let damaged = WalEndError::NoCheckpoint { at: Lsn(1) };
        assert!(unless_timeout(Err(damaged)).is_err());
    }

    #[test]
    fn a_timeline_without_its_history_is_an_error() {
        let dir = data(&[]);
        let missing = timeline_at(dir.path(), &[], 2, Lsn(1), LAYOUT).unwrap_err();
        assert!(matches!(missing, PositionError::NoHistory { timeline: 2 }));
    }

    #[test]
    fn segments_begin_at_the_position_in_their_names() {
        let start = |name| segment_start(name, 2, LAYOUT);
        assert_eq!(start("000000020000000100000003"), Some(Lsn(0x1_0300_0000)));
        assert_eq!(start("000000010000000100000003"), None);
        assert_eq!(start("000000020000000100000003.partial"), None);
        assert_eq!(start("00000002.history"), None);
        assert_eq!(start("ÄÄÄÄ00000000000000000000"), None);
    }
}
