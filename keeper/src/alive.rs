//! The liveness key (beyond ): while it exists the keeper counts as alive, and no other process with its uid acts.
//! One beat a second renews its lease; the main loop gives the beat, so that a loop that hangs is not taken for alive.
//! When a starting process may take the key is left to `claim`.

use std::time::Duration;

use control::model::{BootUuid, KeeperUid};
use control::store::{LeaseId, Outcome, Revision, Store, StoreError, Txn};

/// Life of the key without a beat.
pub const TTL: Duration = Duration::from_secs(3);
/// From beat to beat.
pub const PERIOD: Duration = Duration::from_secs(1);

/// One process's liveness key.
#[derive(Debug)]
pub struct Alive {
    store: Store,
    key: String,
    boot: BootUuid,
    lease: Option<LeaseId>,
}

/// Whose the key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Ours.
    Us,
    /// That of another process with our uid.
    Other(BootUuid),
}

/// The key as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The process that holds it.
    pub boot: BootUuid,
    revision: Revision,
}

impl Alive {
    /// Makes no key yet.
    pub fn new(store: &Store, uid: &KeeperUid, boot: BootUuid) -> Self {
        let key = store.keys().alive(uid.as_str());
        Self {
            store: store.clone(),
            key,
            boot,
            lease: None,
        }
    }

    /// Name of the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether this is our process.
    pub fn is_ours(&self, boot: &BootUuid) -> bool {
        *boot == self.boot
    }

    /// Renews the key's lease, or makes the key when it is not there. A key of another process is left alone.
    pub async fn beat(&mut self) -> Result<Holder, StoreError> {
        // A beat that takes longer than the key lives is of no use to anybody.
        let store = self.store.limited(TTL);
        if let Some(lease) = self.lease {
            if store.renew(lease).await? {
                return Ok(Holder::Us);
            }
            self.lease = None;
        }
        let found = self.look_in(&store).await?;
        match &found {
            Some(found) if found.boot != self.boot => Ok(Holder::Other(found.boot.clone())),
            _ => match self.take_in(&store, found.as_ref()).await? {
                true => Ok(Holder::Us),
                // Somebody was faster: another process, or an earlier request of ours.
                false => Ok(match self.look_in(&store).await? {
                    Some(found) if found.boot != self.boot => Holder::Other(found.boot),
                    _ => Holder::Us,
                }),
            },
        }
    }

    /// Reads the key.
    pub async fn look(&self) -> Result<Option<Found>, StoreError> {
        self.look_in(&self.store).await
    }

    /// Takes the key if it still is as it was found: of two that try, exactly one succeeds.
    pub async fn take(&mut self, found: Option<&Found>) -> Result<bool, StoreError> {
        let store = self.store.clone();
        self.take_in(&store, found).await
    }

    async fn look_in(&self, store: &Store) -> Result<Option<Found>, StoreError> {
        let entry = store.get(&self.key).await?;
        Ok(entry.map(|entry| Found {
            boot: BootUuid::from(String::from_utf8_lossy(&entry.value).into_owned()),
            revision: entry.mod_revision,
        }))
    }

    async fn take_in(&mut self, store: &Store, found: Option<&Found>) -> Result<bool, StoreError> {
        let condition = match found {
            None => Txn::new().if_absent(&self.key),
            Some(found) => Txn::new().if_unchanged(&self.key, found.revision),
        };
        let granted = store.grant(TTL).await?;
        let put = condition.put_leased(&self.key, self.boot.as_str(), granted.lease);
        let taken = matches!(store.commit(put).await?, Outcome::Committed(_));
        if taken {
            self.lease = Some(granted.lease);
        }
        Ok(taken)
    }

    /// Takes the key away, within `limit`: only a keeper that leaves does (beyond ).
    pub async fn end(&mut self, limit: Duration) -> Result<(), StoreError> {
        match self.lease.take() {
            Some(lease) => self.store.limited(limit).revoke(lease).await,
            None => Ok(()),
        }
    }
}
