//! The liveness key (beyond ): while it exists the keeper counts as alive. One beat a second renews its lease;
//! the main loop gives the beat, so that a loop that hangs is not taken for alive.

use std::time::Duration;

use control::model::{BootUuid, KeeperUid};
use control::store::{LeaseId, Store, StoreError, Txn};

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

impl Alive {
    /// Makes no key yet.
    pub fn new(store: &Store, uid: &KeeperUid, boot: BootUuid) -> Self {
        let key = store.keys().alive(uid.as_str());
        // A beat that takes longer than the key lives is of no use to anybody.
        Self {
            store: store.limited(TTL),
            key,
            boot,
            lease: None,
        }
    }

    /// Renews the key's lease, or makes the key when it is not there.
    pub async fn beat(&mut self) -> Result<(), StoreError> {
        if let Some(lease) = self.lease {
            if self.store.renew(lease).await? {
                return Ok(());
            }
            self.lease = None;
        }
        let granted = self.store.grant(TTL).await?;
        let put = Txn::new().put_leased(&self.key, self.boot.as_str(), granted.lease);
        self.store.commit(put).await?;
        self.lease = Some(granted.lease);
        Ok(())
    }

    /// Takes the key away, within `limit`: only a keeper that leaves does (beyond ).
    pub async fn end(&mut self, limit: Duration) -> Result<(), StoreError> {
        match self.lease.take() {
            Some(lease) => self.store.limited(limit).revoke(lease).await,
            None => Ok(()),
        }
    }
}
