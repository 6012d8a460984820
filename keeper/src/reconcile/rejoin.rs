//! Nothing to copy (keeper 6.7): whether the data of an instance lie on another one's history, so that it can follow
//! as it is.

use std::fmt;

use control::model::Lsn;

/// Bytes of a WAL segment; other sizes are not known to the protocol (keeper 0, W27).
const SEGMENT_BYTES: u64 = 16 << 20;

/// A timeline that ended, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u64,
    /// Where the next one begins.
    pub switch_point: Lsn,
}

/// Where the data of a stopped instance end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEnd {
    /// PostgreSQL's system identifier.
    pub system_id: String,
    /// How it was stopped.
    pub state: EndState,
    /// Its timeline.
    pub timeline: u64,
    /// The end of what it has.
    pub position: Lsn,
    /// Its own history: every timeline before its own, oldest first.
    pub history: Vec<Fork>,
}

/// What a control file says about the end of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    /// "shut down": a master that stopped in order.
    ShutDown,
    /// "shut down in recovery": a standby that stopped in order.
    ShutDownInRecovery,
    /// Anything else: it crashed, or runs.
    Unclean,
}

/// The instance that a new standby starts from, as it answered just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// PostgreSQL's system identifier.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u64,
    /// Its position.
    pub position: Lsn,
    /// Its full history, oldest first.
    pub history: Vec<Fork>,
    /// Name of the oldest WAL segment that it still has; absent when it did not say.
    pub oldest_segment: Option<String>,
}

/// Why old data do not do, and everything has to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyReason {
    /// There are none.
    NoData,
    /// They are those of an initialisation that did not complete.
    Incomplete,
    /// They were tried, and did not stream.
    DidNotStream,
    /// They belong to another database cluster.
    OtherSystem,
    /// They were not stopped in order.
    NotShutDown,
    /// Their history is not the beginning of the source's.
    OtherHistory,
    /// They go on past the point where the source's timeline left theirs.
    PastTheFork,
    /// They were a master's on the source's own timeline: an equal number proves nothing (beyond ).
    MasterOfTheSameTimeline,
    /// They are ahead of the source.
    Ahead,
    /// The source no longer has the WAL from their end on.
    WalGone,
}

impl CopyReason {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoData => "there is nothing to keep",
            Self::Incomplete => "the old data were only half made",
            Self::DidNotStream => "the old data could not be made to stream",
            Self::OtherSystem => "the old data belong to another database cluster",
            Self::NotShutDown => "the old data were not stopped in order",
            Self::OtherHistory => "the old data have another history",
            Self::PastTheFork => "the old data go on past the point where the source left their timeline",
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

/// Whether the data that end at `own` only need to follow `source` (keeper 6.7, K1 to K4).
///
/// # Errors
/// The first condition that does not hold.
pub fn check_rejoin(own: &DataEnd, source: &SourceFacts) -> Result<(), CopyReason> {
    if own.system_id.is_empty() || own.system_id != source.system_id {
        return Err(CopyReason::OtherSystem); // K1
    }
    if own.state == EndState::Unclean {
        return Err(CopyReason::NotShutDown); // K2
    }
    check_history(own, source)?;
    match &source.oldest_segment {
        Some(oldest) if has_segment_of(oldest, own.position) => Ok(()),
        _ => Err(CopyReason::WalGone), // K4
    }
}

/// Whether the end lies on the source's history (keeper K3).
fn check_history(own: &DataEnd, source: &SourceFacts) -> Result<(), CopyReason> {
    if source.history.get(..own.history.len()) != Some(own.history.as_slice()) {
        return Err(CopyReason::OtherHistory);
    }
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

/// Whether a server whose oldest segment is `oldest` still has the one of `position`; the timeline in the name is
/// ignored, because a segment is copied to the new timeline when the timeline changes in it.
fn has_segment_of(oldest: &str, position: Lsn) -> bool {
    let numbers = oldest.get(8..16).zip(oldest.get(16..24)).filter(|_| oldest.len() == 24);
    let Some((Ok(high), Ok(low))) =
        numbers.map(|(high, low)| (u64::from_str_radix(high, 16), u64::from_str_radix(low, 16)))
    else {
        return false;
    };
    let per_high = (1 << 32) / SEGMENT_BYTES;
    high.saturating_mul(per_high).saturating_add(low) <= position.0 / SEGMENT_BYTES
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
    fn an_old_master_that_stopped_at_the_switch_point_follows_as_it_is() {
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
    fn the_same_timeline_will_do_for_a_standby_but_not_for_a_master() {
        // beyond: an equal number proves nothing for an instance that began that timeline itself.
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
        // The source skipped the timeline that we are on.
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
