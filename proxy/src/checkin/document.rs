//! The cluster data that a check-in decides on, as read or cached. What they mean is left to `route`.

use std::time::Duration;

use base::clock::Boottime;
use store::{Changes, Entry, KeyChange, Revision, StoreError};

use super::{CheckIn, now};

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
    /// Returns a document that no request of this check-in has read.
    pub(super) fn from_entry(entry: Option<Entry>) -> Self {
        Self {
            revision: entry.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision),
            value: entry.map(|entry| entry.value),
            read_at: None,
        }
    }

    /// Its bytes; `None` if the key is absent.
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

impl CheckIn {
    /// Reads the cluster data.
    pub(super) async fn read(&self, limit: Duration) -> Result<Document, StoreError> {
        let read_at = now();
        let entry = self
            .store
            .with_timeout(limit)
            .get(&self.store.keys().cluster_data())
            .await?;
        Ok(Document {
            read_at: Some(read_at),
            ..Document::from_entry(entry)
        })
    }

    /// Puts newer cluster data from the watch into the cache. A watch may lag behind, so nothing depends on them but
    /// which revision the next transaction is compared with.
    pub(super) fn cache_changes(&mut self, changes: &Changes) {
        let Some(KeyChange { entry: Some(entry), .. }) = changes.keys.get(&self.store.keys().cluster_data()) else {
            return;
        };
        let is_newer = |cached: &Document| cached.revision < entry.mod_revision;
        if self.cached.as_ref().is_some_and(is_newer) {
            self.cached = Some(Document::from_entry(Some(entry.clone())));
        }
    }
}
