//! The election of the leading sentinel, in the layout of the etcd client library's "concurrency" election
//! (store 6), so that sentinels of the reference may stand against ours.

use super::{Entry, Revision, Store, StoreError};

/// Who leads, as any reader sees it: the oldest candidate (store E-11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The value of its key: the sentinel's uid.
    pub uid: String,
    /// Its key.
    pub key: String,
    /// The revision at which it stood up.
    pub create_revision: Revision,
}

/// Looks up who leads; nobody is a normal state.
pub async fn leader(store: &Store) -> Result<Option<Holder>, StoreError> {
    let candidates = store.list(&store.keys().election()).await?;
    let oldest = candidates.into_iter().min_by_key(|candidate| candidate.create_revision);
    Ok(oldest.map(
        |Entry {
             key,
             value,
             create_revision,
             ..
         }| Holder {
            uid: String::from_utf8_lossy(&value).into_owned(),
            key,
            create_revision,
        },
    ))
}
