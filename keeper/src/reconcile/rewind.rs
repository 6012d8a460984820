//! Whether pg_rewind can bring old data back to the source's history (keeper 6.2), as a pure function. Running it is left
//! to `executor::rewind`; data that need neither it nor a copy are found by `rejoin`.

use std::fmt;
use std::path::PathBuf;

use crate::reconcile::{CopyReason, DataEnd, DataRole, SourceFacts};

/// What pg_rewind depends on besides the end of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewindFacts {
    /// The program is installed.
    pub has_program: bool,
    /// A place that pg_rewind would walk through and empty although it holds other things than the instance's own:
    /// a tablespace's location, foreign files beside the WAL, previous data, a mounted file system.
    pub outside: Option<PathBuf>,
}

/// Why the data are not rewound although the cluster asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRewind {
    /// The program is missing.
    NoProgram,
    /// Neither `wal_log_hints` nor data checksums were on: the WAL does not have all changed blocks.
    HintBitsNotLogged,
    /// There are tablespaces, foreign files, previous data or mount points, see [`RewindFacts::outside`].
    OutsidePgdata,
    /// The data are on the source's own timeline: pg_rewind compares timelines and would do nothing.
    SameTimeline,
    /// A standby crashed. Its crash recovery, which pg_rewind needs, is made in a single-user server, which refuses a
    /// standby ("standby mode is not supported by single-user servers").
    CrashedStandby,
    /// It, its check or the crash recovery before it failed for this db.
    Failed,
}

impl NoRewind {
    /// Returns the reason for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoProgram => "pg_rewind is not installed beside PostgreSQL's other programs",
            Self::HintBitsNotLogged => "wal_log_hints and data checksums were off when the data were written",
            Self::OutsidePgdata => {
                "the data are not in PGDATA alone: tablespaces, foreign files or a mounted file system"
            }
            Self::SameTimeline => "the old data are on the source's timeline",
            Self::CrashedStandby => "the old data are a standby's that crashed",
            Self::Failed => "pg_rewind, its check or the crash recovery before it failed",
        }
    }
}

impl fmt::Display for NoRewind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What brings data back to the source's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RewindNeed {
    /// pg_rewind.
    Rewind,
    /// Crash recovery first: pg_rewind reads the data of an instance that was shut down.
    Recovery,
}

/// Returns how pg_rewind can bring back data that cannot be used as they are because of `why`; `None` when it does not
/// help against that.
///
/// # Errors
/// Returns the first condition that is not met.
pub(super) fn rewind_need(
    why: CopyReason,
    own: &DataEnd,
    role: DataRole,
    source: &SourceFacts,
    facts: &RewindFacts,
) -> Result<Option<RewindNeed>, NoRewind> {
    let need = match why {
        CopyReason::PastTheFork | CopyReason::OtherHistory => RewindNeed::Rewind,
        CopyReason::MasterOfTheSameTimeline | CopyReason::Ahead => return Err(NoRewind::SameTimeline),
        CopyReason::NotShutDown if role == DataRole::Standby => return Err(NoRewind::CrashedStandby),
        CopyReason::NotShutDown => RewindNeed::Recovery,
        CopyReason::NoData
        | CopyReason::Incomplete
        | CopyReason::NoEnd
        | CopyReason::DidNotStream
        | CopyReason::NotRewound
        | CopyReason::OtherSystem
        | CopyReason::WalGone => return Ok(None),
    };
    if own.timeline == source.timeline {
        return Err(NoRewind::SameTimeline);
    }
    if !facts.has_program {
        return Err(NoRewind::NoProgram);
    }
    if !own.logs_hint_bits {
        return Err(NoRewind::HintBitsNotLogged);
    }
    if facts.outside.is_some() {
        return Err(NoRewind::OutsidePgdata);
    }
    Ok(Some(need))
}

#[cfg(test)]
mod tests {
    use model::Lsn;

    use super::*;
    use crate::reconcile::{EndState, Fork};

    fn own() -> DataEnd {
        DataEnd {
            system_id: "7".into(),
            state: EndState::ShutDown,
            timeline: 1,
            position: Lsn(0x400_0000),
            history: Vec::new(),
            logs_hint_bits: true,
        }
    }

    fn source() -> SourceFacts {
        SourceFacts {
            system_id: "7".into(),
            timeline: 2,
            position: Lsn(0x400_0000),
            history: vec![Fork {
                timeline: 1,
                switch_point: Lsn(0x300_00a0),
            }],
            oldest_segment: Some("000000010000000000000001".into()),
        }
    }

    fn facts() -> RewindFacts {
        RewindFacts {
            has_program: true,
            outside: None,
        }
    }

    fn need(why: CopyReason) -> Result<Option<RewindNeed>, NoRewind> {
        rewind_need(why, &own(), DataRole::Master, &source(), &facts())
    }

    #[test]
    fn only_data_that_left_the_source_s_history_are_rewound() {
        assert_eq!(need(CopyReason::PastTheFork), Ok(Some(RewindNeed::Rewind)));
        assert_eq!(need(CopyReason::OtherHistory), Ok(Some(RewindNeed::Rewind)));
        for no_help in [
            CopyReason::NoData,
            CopyReason::Incomplete,
            CopyReason::DidNotStream,
            CopyReason::OtherSystem,
            CopyReason::WalGone,
        ] {
            assert_eq!(need(no_help), Ok(None), "{no_help:?}");
        }
    }

    #[test]
    fn a_crashed_master_is_recovered_first_and_a_crashed_standby_is_copied() {
        assert_eq!(need(CopyReason::NotShutDown), Ok(Some(RewindNeed::Recovery)));
        let standby = rewind_need(CopyReason::NotShutDown, &own(), DataRole::Standby, &source(), &facts());
        assert_eq!(standby, Err(NoRewind::CrashedStandby));
        let diverged = rewind_need(CopyReason::PastTheFork, &own(), DataRole::Standby, &source(), &facts());
        assert_eq!(diverged, Ok(Some(RewindNeed::Rewind)));
    }

    /// pg_rewind ends with success and does nothing when the timelines are equal.
    #[test]
    fn data_on_the_source_s_timeline_are_never_rewound() {
        for same in [CopyReason::MasterOfTheSameTimeline, CopyReason::Ahead] {
            assert_eq!(need(same), Err(NoRewind::SameTimeline));
        }
        let source = SourceFacts {
            timeline: 1,
            ..source()
        };
        for why in [CopyReason::OtherHistory, CopyReason::NotShutDown] {
            let same = rewind_need(why, &own(), DataRole::Master, &source, &facts());
            assert_eq!(same, Err(NoRewind::SameTimeline), "{why:?}");
        }
    }

    #[test]
    fn nothing_is_rewound_without_the_program_logged_hint_bits_or_with_places_outside() {
        let with = |own: DataEnd, facts: RewindFacts| {
            [CopyReason::PastTheFork, CopyReason::NotShutDown]
                .map(|why| rewind_need(why, &own, DataRole::Master, &source(), &facts))
        };
        let missing = RewindFacts {
            has_program: false,
            ..facts()
        };
        assert_eq!(with(own(), missing), [Err(NoRewind::NoProgram); 2]);
        let not_logged = DataEnd {
            logs_hint_bits: false,
            ..own()
        };
        assert_eq!(with(not_logged, facts()), [Err(NoRewind::HintBitsNotLogged); 2]);
        let outside = RewindFacts {
            outside: Some("/ts".into()),
            ..facts()
        };
        assert_eq!(with(own(), outside), [Err(NoRewind::OutsidePgdata); 2]);
    }
}
