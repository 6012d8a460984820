//! The cluster data that a check-in decides on, as read or cached. What they mean is left to `route`.

use base::clock::Boottime;
use store::{Entry, Revision};

/// The value of the cluster data key at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    value: Option<Vec<u8>>,
    /// The revision of its last put.
    pub(super) revision: Revision,
    /// When this check-in sent the request that read it; `None` for cached data.
    pub(super) read_at: Option<Boottime>,
}

impl Document {
    /// Returns what a request that was sent at this time has read.
    pub(super) fn read(entry: Option<Entry>, read_at: Boottime) -> Self {
        Self {
            read_at: Some(read_at),
            ..Self::from_entry(entry)
        }
    }

    /// Returns a document that no request of this check-in has read.
    pub(super) fn from_entry(entry: Option<Entry>) -> Self {
        Self {
            revision: entry.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision),
            value: entry.map(|entry| entry.value),
            read_at: None,
        }
    }

    /// Returns its bytes; `None` if the key is absent.
    pub(super) fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// Returns the same document for the cache.
    pub(super) fn without_read_time(&self) -> Self {
        Self {
            read_at: None,
            ..self.clone()
        }
    }
}
