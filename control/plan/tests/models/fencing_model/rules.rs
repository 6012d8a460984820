//! The rules of fencing 3, each with what replaces it when it is switched off.

/// Which rules are in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) gate: Gate,
    pub(super) lease_from: LeaseFrom,
    pub(super) check_in: CheckIn,
    pub(super) copies: Copies,
    pub(super) wait: Wait,
    pub(super) elections: Elections,
    pub(super) reads: Reads,
}

/// Whether a proxy repeats its announcement while the response is missing, and how it treats the responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    /// It does not.
    None,
    /// A response counts from the sending of its own copy, and only while the same would be announced.
    OwnSending,
    /// A response counts from the sending of the last copy.
    LastSending,
    /// A response counts although another announcement has been sent since.
    NeverDiscarded,
}

/// When the sentinel may elect while "no master" stands (fencing F-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elections {
    /// Once it could publish, too.
    AfterTheWait,
    /// At any time.
    AnyTime,
}

/// When a proxy checks whether it may forward bytes (fencing F-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Between reading bytes and writing them.
    AfterTaking,
    /// Before it reads them.
    BeforeTaking,
    /// Never: a separate timer closes the route when the lease has ended.
    TimerOnly,
}

/// What a lease is counted from (fencing F-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseFrom {
    /// Before the request that brings it was sent.
    Sending,
    /// When its response is processed.
    Answer,
}

/// How a proxy announces itself (fencing F-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckIn {
    /// Only against the revision that it read.
    Conditional,
    /// Unconditionally.
    Blind,
    /// Conditional, but a closed route is announced before forwarding has stopped.
    AnnouncedFirst,
}

/// What ends the sentinel's wait for a proxy that has not acknowledged (fencing F-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A lease has passed since "no master" was written.
    Lease,
    /// It was silent for two leases, as in Go stolon.
    Silence,
    /// Also: a lease has passed since its last info, read together with "no master".
    LeaseOfInfo,
    /// The same, with infos that may have been read before "no master" was written.
    LeaseOfEarlierInfo,
}

impl Wait {
    /// Ticks of silence that the sentinel takes for the end of a proxy's lease.
    pub(super) fn silence(self, lease: u8) -> Option<u8> {
        match self {
            Self::Lease => None,
            Self::Silence => Some(2 * lease),
            Self::LeaseOfInfo | Self::LeaseOfEarlierInfo => Some(lease),
        }
    }
}

/// What a proxy's read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    Linearizable,
    MayBeStale,
}

/// All rules of fencing 3, on a store that may even return stale reads.
pub(super) const ALL_RULES: Rules = Rules {
    gate: Gate::AfterTaking,
    lease_from: LeaseFrom::Sending,
    check_in: CheckIn::Conditional,
    copies: Copies::None,
    wait: Wait::Lease,
    elections: Elections::AfterTheWait,
    reads: Reads::MayBeStale,
};

/// The same with repeated announcements.
pub(super) const OVERLAPPING: Rules = Rules {
    copies: Copies::OwnSending,
    ..ALL_RULES
};
