//! What the store holds, as it is read: revisions, keys with their values, ranges of keys. Reading is left to `store`.

use std::fmt;

/// A revision of the store. Revisions grow with every write, whatever key it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of a key that does not exist.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease id; printed as in the names of election keys, in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl LeaseId {
    /// Makes an id from random bytes: 62 random bits, so that a collision with an existing lease is negligible.
    pub fn from_random(random: [u8; 8]) -> Self {
        Self(i64::from_ne_bytes(random) & (i64::MAX >> 1) | 1)
    }
}

/// A key with its value, as read at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key. Invalid UTF-8 is replaced.
    pub key: String,
    /// The exact bytes.
    pub value: Vec<u8>,
    /// Changes with every put.
    pub mod_revision: Revision,
    /// Stays until the key is deleted or expires.
    pub create_revision: Revision,
    /// The lease of the key, if any.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// Returns the part of the key after this prefix; the whole key when it does not begin with it.
    pub fn name(&self, prefix: &str) -> &str {
        self.key.strip_prefix(prefix).unwrap_or(&self.key)
    }
}

/// The keys to read or watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Key(String),
    /// All keys with this prefix.
    Prefix(String),
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// The result of a read at one revision (sentinel E-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision of the store at the read; a watch from here on misses nothing.
    pub revision: Revision,
    /// The entries of each requested range, in the order of the request; those of a prefix in ascending order.
    pub found: Vec<Vec<Entry>>,
}

impl Snapshot {
    /// Takes the entries of the range with this index; a single key has one at most.
    pub fn take(&mut self, index: usize) -> Vec<Entry> {
        self.found.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    /// Takes the entry of a range that is a single key.
    pub fn take_one(&mut self, index: usize) -> Option<Entry> {
        self.take(index).pop()
    }
}
