//! The versions of the cluster data: the sentinel's elections and announcements.

/// A version of the cluster data, which is its revision. The first announces the first master.
pub(super) type Version = u8;

/// One write of the sentinel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// Elects another master, which is not announced: proxies must not forward.
    Elect,
    /// Announces the current master.
    Publish,
}

/// All writes of the sentinel so far, which define every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct History {
    writes: u8,
    /// One bit for each write, the first one lowest: whether it was an election.
    elections: u8,
}

/// The number of a master since the start. Masters alternate between two addresses.
pub(super) type Reign = u8;

impl History {
    pub(super) fn version(self) -> Version {
        self.writes
    }

    /// The master of a version.
    pub(super) fn reign(self, version: Version) -> Reign {
        let until = (1_u8 << version) - 1;
        u8::try_from((self.elections & until).count_ones()).unwrap()
    }

    /// Returns the master that a version announces.
    pub(super) fn published(self, version: Version) -> Option<Reign> {
        let closed = version > 0 && self.elections >> (version - 1) & 1 == 1;
        (!closed).then(|| self.reign(version))
    }

    /// Returns the version since which there is no announced master.
    pub(super) fn closed_since(self) -> Option<Version> {
        let published = (0..=self.writes).rfind(|version| self.published(*version).is_some())?;
        (published < self.writes).then_some(published + 1)
    }

    pub(super) fn after(self, write: Write) -> Self {
        let elected = u8::from(write == Write::Elect);
        Self {
            writes: self.writes + 1,
            elections: self.elections | elected << self.writes,
        }
    }
}

/// Whether two masters are at the same address.
pub(super) fn same_address(one: Reign, other: Reign) -> bool {
    one % 2 == other % 2
}
