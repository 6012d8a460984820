//! Rejoin (keeper 6.7): whether the local data lie on the source's history, so that the instance can follow it as it
//! is, or have to be rewound or copied. The steps that follow are in `initialise::resync`.

use std::fmt;

use model::Lsn;

use crate::reconcile::DataRole;
use crate::reconcile::rewind::{NoRewind, RewindFacts, RewindNeed, rewind_need};
use crate::wal_segment::{SEGMENT_BYTES, WalSegment};

/// A timeline that ended, and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    pub timeline: u64,
    /// Where the next timeline begins.
    pub switch_point: Lsn,
}

/// End of the data of a stopped instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEnd {
    pub system_id: String,
    pub state: EndState,
    pub timeline: u64,
    /// End of its WAL.
    pub position: Lsn,
    /// All timelines before its own, oldest first.
    pub history: Vec<Fork>,
    /// `wal_log_hints` or data checksums are on, so that the WAL has every changed block (pg_rewind's manual page).
    pub logs_hint_bits: bool,
}

/// State of a stopped instance according to its control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    /// "shut down": a master after a clean shutdown.
    ShutDown,
    /// "shut down in recovery": a standby after a clean shutdown.
    ShutDownInRecovery,
    /// Anything else: it crashed or is running.
    Unclean,
}

/// The instance that a new standby starts from, as probed just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    pub system_id: String,
    pub timeline: u64,
    pub position: Lsn,
    /// Its complete history, oldest first.
    pub history: Vec<Fork>,
    /// Name of the oldest WAL segment that it still has; `None` when it was not reported.
    pub oldest_segment: Option<String>,
}

/// Why the old data cannot be used and everything is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyReason {
    NoData,
    /// They come from an initialisation that did not complete.
    Incomplete,
    /// They were tried and did not stream.
    DidNotStream,
    /// They were not rewound: pg_rewind, or the crash recovery before it, failed.
    NotRewound,
    /// They belong to another database cluster.
    OtherSystem,
    /// Their end cannot be determined: they were read and are damaged (keeper 6.7).
    NoEnd,
    /// They were not shut down cleanly.
    NotShutDown,
    /// Their history is not a prefix of the source's.
    OtherHistory,
    /// They extend past the point where the source's timeline branched off theirs.
    PastTheFork,
    /// They were written by a master on the source's own timeline, where the same timeline number proves nothing
    /// (extensions ).
    MasterOfTheSameTimeline,
    /// They are ahead of the source.
    Ahead,
    /// The source no longer has the WAL that follows them.
    WalGone,
}

impl CopyReason {
    /// Returns the reason for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoData => "there are no old data",
            Self::Incomplete => "the old data are incomplete",
            Self::DidNotStream => "the old data could not be made to stream",
            Self::NotRewound => "the old data could not be rewound",
            Self::OtherSystem => "the old data belong to another database cluster",
            Self::NoEnd => "the end of the old data cannot be determined",
            Self::NotShutDown => "the old data were not shut down cleanly",
            Self::OtherHistory => "the old data have another history",
            Self::PastTheFork => "the old data extend past the point where the source left their timeline",
            Self::MasterOfTheSameTimeline => "the old data were a master's on the source's timeline",
            Self::Ahead => "the old data are ahead of the source",
            Self::WalGone => "the source no longer has the WAL from the end of the old data on",
        }
    }
}

impl fmt::Display for CopyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the data of a stopped instance become those of a standby of its source: the cheapest way that is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoin {
    /// They lie on the source's history: the instance follows it as it is.
    Reuse {
        /// Their end.
        end: Lsn,
    },
    /// A master crashed, and its data can be rewound after their crash recovery.
    Recover,
    /// They have left the source's history, and pg_rewind can bring them back.
    Rewind,
    /// Everything is copied.
    Copy {
        why: CopyReason,
        /// Why they are not rewound, if that is wanted and could help.
        no_rewind: Option<NoRewind>,
    },
}

impl Rejoin {
    /// Returns a copy of data that pg_rewind cannot help.
    pub const fn copy(why: CopyReason) -> Self {
        Self::Copy { why, no_rewind: None }
    }
}

/// Returns how data that end at `own` and would start in `role` can follow `source` (keeper 6.2, 6.7). `rewind` is
/// `None` when pg_rewind is not wanted.
pub fn rejoin(own: &DataEnd, role: DataRole, source: &SourceFacts, rewind: Option<&RewindFacts>) -> Rejoin {
    let Err(why) = check_rejoin(own, source) else {
        return Rejoin::Reuse { end: own.position };
    };
    let need = rewind.map_or(Ok(None), |facts| rewind_need(why, own, role, source, facts));
    match need {
        Ok(Some(RewindNeed::Rewind)) => Rejoin::Rewind,
        Ok(Some(RewindNeed::Recovery)) => Rejoin::Recover,
        Ok(None) => Rejoin::copy(why),
        Err(no_rewind) => Rejoin::Copy {
            why,
            no_rewind: Some(no_rewind),
        },
    }
}

/// Checks whether data that end at `own` can follow `source` without a copy (keeper 6.7, K1 to K4).
///
/// # Errors
/// Returns the first condition that is not met.
fn check_rejoin(own: &DataEnd, source: &SourceFacts) -> Result<(), CopyReason> {
    if own.system_id.is_empty() || own.system_id != source.system_id {
        return Err(CopyReason::OtherSystem); // K1
    }
    if own.state == EndState::Unclean {
        return Err(CopyReason::NotShutDown); // K2
    }
    // A clean shutdown alone is not enough: the end must lie on the history that the source follows.
    check_history(own, source)?;
    match &source.oldest_segment {
        Some(oldest) if has_segment_of(oldest, own.position) => Ok(()),
        _ => Err(CopyReason::WalGone), // K4
    }
}

/// Checks that the end lies on the source's history (keeper K3).
fn check_history(own: &DataEnd, source: &SourceFacts) -> Result<(), CopyReason> {
    if source.history.get(..own.history.len()) != Some(own.history.as_slice()) {
        return Err(CopyReason::OtherHistory);
    }
    // The entry after the common prefix is where the source left our timeline; without one both are on the same.
    match source.history.get(own.history.len()) {
        Some(fork) if fork.timeline != own.timeline => Err(CopyReason::OtherHistory),
        Some(fork) if own.position > fork.switch_point => Err(CopyReason::PastTheFork),
        Some(_) => Ok(()),
        None if own.timeline != source.timeline => Err(CopyReason::OtherHistory),
        None if own.state == EndState::ShutDown => Err(CopyReason::MasterOfTheSameTimeline),
        None if own.position > source.position => Err(CopyReason::Ahead),
        None => Ok(()),
    }
}

/// Whether a server whose oldest segment is `oldest` still has the segment of `position`. The timeline in the name is
/// ignored: when the timeline changes within a segment, the segment is copied to the new timeline.
pub fn has_segment_of(oldest: &str, position: Lsn) -> bool {
    let oldest = WalSegment::parse(oldest, SEGMENT_BYTES);
    oldest.is_some_and(|oldest| oldest.number <= position.0 / SEGMENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(timeline: u64, switch_point: u64) -> Fork {
        Fork {
            timeline,
            switch_point: Lsn(switch_point),
        }
    }

    fn old_master() -> DataEnd {
        DataEnd {
            system_id: "7".into(),
            state: EndState::ShutDown,
            timeline: 1,
            position: Lsn(0x300_00a0),
            history: Vec::new(),
            logs_hint_bits: false,
        }
    }

    fn promoted() -> SourceFacts {
        SourceFacts {
            system_id: "7".into(),
            timeline: 2,
            position: Lsn(0x300_8000),
            history: vec![fork(1, 0x300_00a0)],
            oldest_segment: Some("000000010000000000000001".into()),
        }
    }

    fn check(own: DataEnd, source: SourceFacts, expected: Result<(), CopyReason>) {
        assert_eq!(check_rejoin(&own, &source), expected, "{own:?} {source:?}");
    }

    #[test]
    fn an_old_master_that_stopped_at_the_switch_point_follows_without_a_copy() {
        check(old_master(), promoted(), Ok(()));
        check(
            DataEnd {
                position: Lsn(0x300_0028),
                ..old_master()
            },
            promoted(),
            Ok(()),
        );
    }

    #[test]
    fn one_byte_past_the_switch_point_is_another_branch() {
        check(
            DataEnd {
                position: Lsn(0x300_00a1),
                ..old_master()
            },
            promoted(),
            Err(CopyReason::PastTheFork),
        );
    }

    #[test]
    fn a_crashed_or_foreign_instance_is_copied_over() {
        check(
            DataEnd {
                state: EndState::Unclean,
                ..old_master()
            },
            promoted(),
            Err(CopyReason::NotShutDown),
        );
        check(
            DataEnd {
                system_id: "8".into(),
                ..old_master()
            },
            promoted(),
            Err(CopyReason::OtherSystem),
        );
        check(
            DataEnd {
                system_id: String::new(),
                ..old_master()
            },
            promoted(),
            Err(CopyReason::OtherSystem),
        );
    }

    #[test]
    fn the_same_timeline_is_sufficient_for_a_standby_but_not_for_a_master() {
        // The same timeline number proves nothing for an instance that started that timeline itself (extensions ).
        let own = DataEnd {
            timeline: 2,
            history: vec![fork(1, 0x300_00a0)],
            ..old_master()
        };
        check(own.clone(), promoted(), Err(CopyReason::MasterOfTheSameTimeline));
        let standby = DataEnd {
            state: EndState::ShutDownInRecovery,
            ..own
        };
        check(standby.clone(), promoted(), Ok(()));
        check(
            DataEnd {
                position: Lsn(0x300_8001),
                ..standby
            },
            promoted(),
            Err(CopyReason::Ahead),
        );
    }

    #[test]
    fn histories_are_compared_entry_by_entry() {
        let own = DataEnd {
            timeline: 2,
            history: vec![fork(1, 0x300_00a8)],
            ..old_master()
        };
        check(own, promoted(), Err(CopyReason::OtherHistory));
        let longer = DataEnd {
            timeline: 3,
            history: vec![fork(1, 0x300_00a0), fork(2, 0x300_9000)],
            ..old_master()
        };
        check(longer, promoted(), Err(CopyReason::OtherHistory));
        // The source skipped our timeline.
        let skipped = SourceFacts {
            timeline: 3,
            history: vec![fork(1, 0x300_00a0)],
            ..promoted()
        };
        let on_two = DataEnd {
            timeline: 2,
            history: vec![fork(1, 0x300_00a0)],
            ..old_master()
        };
        check(on_two, skipped, Err(CopyReason::OtherHistory));
    }

    #[test]
    fn data_whose_wal_the_source_has_dropped_are_copied_again() {
        let gone = SourceFacts {
            oldest_segment: Some("000000020000000000000004".into()),
            ..promoted()
        };
        check(old_master(), gone, Err(CopyReason::WalGone));
        let exactly = SourceFacts {
            oldest_segment: Some("000000020000000000000003".into()),
            ..promoted()
        };
        check(old_master(), exactly, Ok(()));
        check(
            old_master(),
            SourceFacts {
                oldest_segment: None,
                ..promoted()
            },
            Err(CopyReason::WalGone),
        );
        check(
            old_master(),
            SourceFacts {
                oldest_segment: Some("x".into()),
                ..promoted()
            },
            Err(CopyReason::WalGone),
        );
    }

    #[test]
    fn segments_are_counted_across_the_four_gigabyte_border() {
        assert!(has_segment_of("0000000100000001000000FF", Lsn(0x2_0000_0000)));
        assert!(!has_segment_of("000000010000000200000001", Lsn(0x2_0000_0000)));
    }
}
