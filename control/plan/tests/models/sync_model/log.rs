//! A minimal WAL: its entries, its timeline, and comparisons. Who writes and receives it is left to `servers` and
//! `keepers`.

/// WAL entries in order, three bits each below a marker, the newest one lowest. An entry is a write of a client, by its
/// number from 1, or a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Log(pub(super) u16);

/// Entries from here on are promotions, each with a number of its own. Equal numbers of timelines are left out.
const PROMOTION: u16 = 3;

impl Log {
    pub(super) const EMPTY: Self = Self(1);
    /// Writes that the model can tell apart.
    pub(super) const WRITES: u8 = 2;
    /// Promotions that it can tell apart.
    pub(super) const PROMOTIONS: u8 = 5;
    /// The longest log.
    pub(super) const LONGEST: u8 = 5;

    pub(super) fn end(self) -> u8 {
        ((15 - self.0.leading_zeros()) / 3) as u8
    }

    fn push(self, entry: u16) -> Self {
        assert!(self.end() < Self::LONGEST, "the bounds are small enough for the WAL");
        Self(self.0 << 3 | entry)
    }

    /// The log after a client's write.
    pub(super) fn write(self, number: u8) -> Self {
        self.push(number.into())
    }

    /// The log after a promotion.
    pub(super) fn promote(self, number: u8) -> Self {
        self.push(PROMOTION + u16::from(number))
    }

    /// The first entries, up to a position.
    pub(super) fn first(self, end: u8) -> Self {
        Self(self.0 >> (3 * (self.end().saturating_sub(end))))
    }

    pub(super) fn is_prefix_of(self, other: Self) -> bool {
        self.end() <= other.end() && other.first(self.end()) == self
    }

    /// What both have before they differ.
    pub(super) fn common(self, other: Self) -> Self {
        let mut end = self.end().min(other.end());
        while self.first(end) != other.first(end) {
            end -= 1;
        }
        self.first(end)
    }

    fn entries(self) -> impl Iterator<Item = u16> {
        (0..self.end()).rev().map(move |at| self.0 >> (3 * at) & 7)
    }

    /// The clients' writes in it, a bit each.
    pub(super) fn writes(self) -> u8 {
        let writes = self.entries().filter(|entry| *entry < PROMOTION);
        writes.fold(0, |writes, entry| writes | 1 << (entry - 1))
    }

    /// Its timeline: the number of its last promotion, from 1; 0 without one.
    pub(super) fn timeline(self) -> u8 {
        let last = self.entries().filter(|entry| *entry >= PROMOTION).last();
        last.map_or(0, |entry| (entry - PROMOTION + 1) as u8)
    }

    /// The timeline before its last promotion.
    pub(super) fn earlier_timeline(self) -> u8 {
        let mut end = self.end();
        while end > 0 && self.first(end).timeline() == self.timeline() {
            end -= 1;
        }
        self.first(end).timeline()
    }

    /// Whether a timeline is its own or one of those before.
    pub(super) fn has_timeline(self, timeline: u8) -> bool {
        (0..=self.end()).any(|end| self.first(end).timeline() == timeline)
    }
}
