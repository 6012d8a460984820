//! What one run of the model explores: its bounds, its programs, and which rules are replaced by what.

/// What replaces a rule of `docs/design/synchronous.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Change {
    /// Any good standby may be elected (synchronous SY-1).
    ElectAnyone,
    /// Members of the wanted set may be elected (synchronous SY-1).
    ElectWanted,
    /// Members of the known set may be elected (synchronous SY-1).
    ElectKnown,
    /// Members of the wanted set that are reported may be elected (synchronous SY-1).
    ElectReported,
    /// Members of the wanted set that are known or reported may be elected (synchronous SY-1).
    ElectKnownOrReported,
    /// The known set is not cut when the wanted set shrinks (synchronous SY-5).
    KnownNotCut,
    /// A standby counts as reported although it may lack WAL below the mark (synchronous SY-3).
    UnmarkedReports,
    /// The mark is taken, and the generation recorded, before the names are in force (synchronous SY-4).
    MarkBeforeInForce,
    /// The generation is recorded before the names are in force, the mark taken afterwards (synchronous SY-4).
    RecordBeforeInForce,
    /// The sets are changed on a report of another generation (synchronous SY-3, SY-5).
    OtherGeneration,
    /// The gate opens by reports without the mark (synchronous SY-11).
    GateWithoutMark,
    /// A started master lets clients in at once (synchronous SY-11).
    NoGate,
    /// A server whose process was killed starts again by itself (synchronous SY-11).
    ServerRestartsItself,
    /// An elected master starts with an empty list of names (synchronous SY-6).
    EmptyListAfterElection,
    /// No fake name stands for missing standbys (synchronous SY-6).
    NoFakeName,
    /// After an election the fake name is used only when nobody else is wanted (synchronous SY-6).
    FakeOnlyWhenEmpty,
    /// The known set of an elected db stays as it was (synchronous SY-6).
    KnownOfElectedKept,
    /// Standbys run without names, which are set after the promotion (synchronous SY-7).
    NamesAfterPromotion,
    /// A master is published before it is healthy and converged (synchronous SY-8).
    PublishUnconverged,
    /// Other master-type dbs may be kept at the publication (synchronous SY-8).
    KeepOldMasters,
    /// An operator's choice is made while proxies may still forward (synchronous SY-20).
    OverrideWhileForwarding,
    /// Only an old master on a timeline of the elected one's history may be elected (synchronous SY-9).
    GoBackToAncestor,
    /// Only an old master on the recorded timeline of the elected one may be elected (synchronous SY-9).
    GoBackOnSameTimeline,
    /// No old master is elected (synchronous SY-9).
    NeverGoBack,
    /// An old master may be elected while proxies may still forward (synchronous SY-9).
    GoBackWhileForwarding,
    /// An old master may be elected although the elected one was published (synchronous SY-9).
    GoBackAfterPublication,
    /// Elections take place while proxies may still forward to an unpublished master's address (synchronous SY-10).
    ElectWhileForwarding,
    /// A planned election does not ask for the position of the stop (synchronous SY-2).
    PlannedWithoutLsn,
    /// A planned election does not ask for a clean stop (synchronous SY-2).
    PlannedWithoutClean,
    /// A planned election takes only members of E (synchronous SY-2).
    PlannedWithinE,
    /// After a shutdown that was not clean, any good standby may be elected at once (synchronous SY-12).
    UncleanShutdownAnyone,
    /// A start as master, and a promotion, need no permit (extensions ).
    NoPermit,
    /// Elections are not conditional on the infos that they are based on (extensions ).
    UnconditionalElections,
    /// The keeper of an old master lets it run (extensions ).
    OldMasterRuns,
    /// A member is replaced in one write (synchronous SY-5).
    NoMerge,
    /// The set may become smaller than the minimum although failed members exist.
    NoAddingBack,
    /// A master is published while proxies may still forward to another (fencing F-6).
    PublishWhileForwarding,
    /// A switchover begins although an old master is not yet removed.
    SwitchoverWithOldMasters,
    /// A master is published while the switchover's key exists.
    PublishDuringSwitchover,
}

impl Change {
    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// How keepers of Go stolon differ from ours.
const REFERENCE_KEEPER: u64 = Change::UnmarkedReports.bit()
    | Change::MarkBeforeInForce.bit()
    | Change::GateWithoutMark.bit()
    | Change::ServerRestartsItself.bit()
    | Change::NamesAfterPromotion.bit()
    | Change::NoPermit.bit()
    | Change::OldMasterRuns.bit();

/// A program of ours or of Go stolon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Ours,
    GoStolon,
}

/// How often each fault may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Faults {
    /// A keeper is killed, with its server or without.
    pub(super) crashes: u8,
    /// A server is killed.
    pub(super) kills: u8,
    /// A keeper is suspended for any time.
    pub(super) pauses: u8,
    /// A keeper gets SIGTERM.
    pub(super) terms: u8,
    /// A host is lost for good.
    pub(super) hosts_lost: u8,
    /// A switchover is asked for.
    pub(super) switchovers: u8,
    /// A keeper that is up is considered failed in one round.
    pub(super) slow: u8,
    /// An info of a keeper of Go stolon arrives late.
    pub(super) late: u8,
    /// An operator chooses a master that may lack acknowledged commits (synchronous SY-20).
    pub(super) overrides: u8,
}

/// What a run starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The wanted set is full and known.
    Settled,
    /// Synchronous replication has just been switched on: no standby is wanted yet, and commits wait.
    SwitchedOn,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    pub(super) keepers: u8,
    pub(super) writes: u8,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) faults: Faults,
    pub(super) start: Start,
    /// The replaced rules, a bit each.
    pub(super) changes: u64,
    /// The keepers of Go stolon, a bit each.
    pub(super) reference_keepers: u8,
    /// Whether the names that a keeper of Go stolon writes are in force before it reports them. It does not wait for that.
    pub(super) prompt_reloads: bool,
    /// Whether a sentinel of Go stolon may lead, too.
    pub(super) reference_sentinel: bool,
    /// Whether what clients read counts as acknowledged.
    pub(super) with_reads: bool,
    /// Whether S0 is claimed.
    pub(super) with_s0: bool,
    /// Whether E must always be a part of what the running master waits for.
    pub(super) check_names: bool,
    /// Whether elected standbys take WAL from other standbys (SY-21).
    pub(super) catches_up: bool,
}

impl Config {
    /// All rules but SY-21, three keepers, one write, one synchronous standby.
    pub(super) const ALL_RULES: Self = Self {
        keepers: 3,
        writes: 1,
        min: 1,
        max: 1,
        faults: Faults {
            crashes: 0,
            kills: 0,
            pauses: 0,
            terms: 0,
            hosts_lost: 0,
            switchovers: 0,
            slow: 0,
            late: 0,
            overrides: 0,
        },
        start: Start::Settled,
        changes: 0,
        reference_keepers: 0,
        prompt_reloads: true,
        reference_sentinel: false,
        with_reads: true,
        with_s0: true,
        check_names: false,
        catches_up: false,
    };

    pub(super) const fn faults(faults: Faults) -> Self {
        Self {
            faults,
            ..Self::ALL_RULES
        }
    }

    pub(super) const fn with(self, change: Change) -> Self {
        Self {
            changes: self.changes | change.bit(),
            ..self
        }
    }

    pub(super) const fn size(self, min: u32, max: u32) -> Self {
        Self { min, max, ..self }
    }

    pub(super) const fn has(&self, change: Change) -> bool {
        self.changes & change.bit() != 0
    }

    /// Whether a keeper works as if a rule were replaced.
    pub(super) const fn keeper_has(&self, keeper: usize, change: Change) -> bool {
        let make = if self.is_reference(keeper) { REFERENCE_KEEPER } else { 0 };
        (self.changes | make) & change.bit() != 0
    }

    pub(super) const fn is_reference(&self, keeper: usize) -> bool {
        self.reference_keepers >> keeper & 1 == 1
    }
}
