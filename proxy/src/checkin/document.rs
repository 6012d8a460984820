//! The cluster data that a check-in decides on, and where they come from. What they mean is left to `route`.

use std::time::Duration;

use control::clock::Boottime;
use control::store::{Change, Changes, Entry, Revision, StoreError};

use super::{CheckIn, now};

/// What is under the key of the cluster data, at one revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    value: Option<Vec<u8>>,
    /// The revision of its last put.
    pub(super) revision: Revision,
    /// When the reading of this check-in was sent that brought it; none for what was known before.
    pub(super) read_at: Option<Boottime>,
}

impl Document {
    /// One that was found where no reading was asked for.
    pub(super) fn found(entry: Option<Entry>) -> Self {
        Self {
            revision: entry.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision),
            value: entry.map(|entry| entry.value),
            read_at: None,
        }
    }

    /// Its bytes; none when the key is absent.
    pub(super) fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The same for a later check-in, which has not read it.
    pub(super) fn as_known(&self) -> Self {
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
        let entry = self.store.limited(limit).get(&self.store.keys().cluster_data()).await?;
        Ok(Document {
            read_at: Some(read_at),
            ..Document::found(entry)
        })
    }

    /// Takes over what a watch has brought. A watch may lag behind, so nothing follows from it but what the next
    /// transaction is tried on.
    pub(super) fn take_over(&mut self, changes: &Changes) {
        let Some(Change { now: Some(entry), .. }) = changes.keys.get(&self.store.keys().cluster_data()) else {
            return;
        };
        let is_newer = |known: &Document| known.revision < entry.mod_revision;
        if self.known.as_ref().is_some_and(is_newer) {
            self.known = Some(Document::found(Some(entry.clone())));
        }
    }
}
