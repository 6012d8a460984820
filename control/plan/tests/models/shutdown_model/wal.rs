//! A minimal WAL: its entries, its timeline, and comparisons. Writing is left to `keepers`.

/// WAL entries in order, four bits each. A write has its own number, below [`PROMOTION`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Log(pub(super) u32);

/// Entries from here on are the promotion of a keeper.
pub(super) const PROMOTION: u32 = 8;
/// Number of entries that C-12 discards: the promotion itself.
pub(super) const LITTLE: u32 = 1;

impl Log {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) fn end(self) -> u32 {
        (35 - self.0.leading_zeros()) / 4
    }

    pub(super) fn push(self, entry: u32) -> Self {
        assert!(self.end() < 8, "the bounds are small enough for the WAL");
        Self(self.0 << 4 | entry)
    }

    /// The first `end` entries.
    pub(super) fn first(self, end: u32) -> Self {
        Self(self.0.checked_shr(4 * self.end().saturating_sub(end)).unwrap_or(0))
    }

    pub(super) fn entries(self) -> impl Iterator<Item = u32> {
        (1..=self.end()).map(move |end| self.first(end).0 & 15)
    }

    pub(super) fn is_prefix_of(self, other: Self) -> bool {
        other.first(self.end()) == self
    }

    /// The writes in it, a bit each.
    pub(super) fn writes(self) -> u8 {
        self.entries()
            .filter(|entry| *entry < PROMOTION)
            .fold(0, |writes, entry| writes | 1 << entry)
    }

    pub(super) fn timeline(self) -> u32 {
        1 + u32::try_from(self.entries().filter(|entry| *entry >= PROMOTION).count()).unwrap()
    }

    /// Returns the position at which a timeline ended.
    pub(super) fn switch_of(self, timeline: u32) -> Option<u32> {
        (1..=self.end())
            .find(|end| self.first(*end).timeline() > timeline)
            .map(|end| end - 1)
    }

    /// Whether a db with these data can belong to the cluster of a master with those (sentinel C-6, C-7).
    pub(super) fn is_valid_for(self, master: Self) -> bool {
        let same_branch = self.is_prefix_of(master) || master.is_prefix_of(self);
        same_branch && self.timeline() <= master.timeline()
    }
}
