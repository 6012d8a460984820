//! The liveness key (extensions ): while it exists the keeper counts as alive, and no other process with its uid
//! acts. Its lease is renewed once a second by the main loop, so that a hanging loop does not count as alive. A renewal
//! does not wait for the response, so that the key persists on a store whose responses take longer than its lease.
//! Acquiring the key at the start is in `liveness_claim`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Chain, RandomBytes};
use model::{BootUuid, KeeperUid, LIVENESS_PERIOD, LIVENESS_TTL};
use store::{LeaseId, Revision, Store, StoreError, Txn, TxnOutcome};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::debug;

/// Maximum requests in flight: one a second, each for as long as the store's usual timeout.
const IN_FLIGHT_MAX: usize = 6;

/// The liveness key of one process.
#[derive(Debug)]
pub struct LivenessKey {
    key: Arc<LivenessInner>,
    in_flight: JoinSet<()>,
}

/// What the key's requests in flight share.
#[derive(Debug)]
struct LivenessInner {
    store: Store,
    name: String,
    boot: BootUuid,
    random: RandomBytes,
    state: Mutex<KeyState>,
}

/// Holder of the key, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyState {
    /// This process does not hold it.
    NotOurs,
    /// A renewal is reading or writing it.
    Acquiring,
    /// This process holds it under this lease.
    Ours(LeaseId),
    /// Another process holds it.
    Other(BootUuid),
}

/// The key as read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKey {
    /// Its holder.
    pub boot: BootUuid,
    revision: Revision,
}

impl LivenessKey {
    /// Does not write the key: `take` or the first renewal does.
    pub fn new(store: &Store, uid: &KeeperUid, boot: BootUuid, random: RandomBytes) -> Self {
        let key = LivenessInner {
            store: store.clone(),
            name: store.keys().liveness_key(uid.as_str()),
            boot,
            random,
            state: Mutex::new(KeyState::NotOurs),
        };
        Self {
            key: Arc::new(key),
            in_flight: JoinSet::new(),
        }
    }

    /// Returns the name of the key.
    pub fn key(&self) -> &str {
        &self.key.name
    }

    /// Whether `boot` is this process.
    pub fn is_ours(&self, boot: &BootUuid) -> bool {
        *boot == self.key.boot
    }

    /// Returns the other process that holds the key, if a renewal has found one.
    pub fn other(&self) -> Option<BootUuid> {
        match &*self.key.lock() {
            KeyState::Other(boot) => Some(boot.clone()),
            _ => None,
        }
    }

    /// Renews the key's lease, or writes the key if it is missing, without waiting for the store. A key of another
    /// process is not changed. Must be called within a Tokio runtime.
    pub fn renew(&mut self) {
        while self.in_flight.try_join_next().is_some() {}
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return;
        }
        let key = Arc::clone(&self.key);
        let lease = match &mut *self.key.lock() {
            KeyState::Ours(lease) => Some(*lease),
            KeyState::Acquiring => return,
            state @ (KeyState::NotOurs | KeyState::Other(_)) => {
                *state = KeyState::Acquiring;
                None
            }
        };
        self.in_flight.spawn(async move {
            let renewed = match lease {
                Some(lease) => key.renew(lease).await,
                None => key.acquire().await,
            };
            if let Err(error) = renewed {
                debug!(error = %Chain(&error), "could not renew the liveness key");
            }
        });
    }

    pub async fn read(&self) -> Result<Option<FoundKey>, StoreError> {
        self.key.read().await
    }

    /// Takes the key if it is unchanged since `found`: of two competing processes exactly one succeeds.
    pub async fn take(&mut self, found: Option<&FoundKey>) -> Result<bool, StoreError> {
        let lease = LeaseId::from_random(self.key.random.bytes());
        let taken = self.key.put_under(lease, found).await?;
        if taken {
            *self.key.lock() = KeyState::Ours(lease);
        }
        Ok(taken)
    }

    /// Revokes the key's lease within `limit`. Only a leaving keeper does this (extensions ).
    pub async fn revoke(&mut self, limit: Duration) -> Result<(), StoreError> {
        self.in_flight.abort_all();
        let state = std::mem::replace(&mut *self.key.lock(), KeyState::NotOurs);
        match state {
            KeyState::Ours(lease) => self.key.store.with_timeout(limit).revoke(lease).await,
            _ => Ok(()),
        }
    }
}

impl LivenessInner {
    /// Renews the lease; writes the key again if the lease has expired.
    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        if self.store.renew(lease).await? {
            return Ok(());
        }
        {
            let mut state = self.lock();
            if *state != KeyState::Ours(lease) {
                return Ok(());
            }
            *state = KeyState::Acquiring;
        }
        self.acquire().await
    }

    /// Takes the key unless another process holds it. Ends the state `Acquiring`.
    async fn acquire(&self) -> Result<(), StoreError> {
        let made = self.try_acquire().await;
        *self.lock() = made.as_ref().map_or(KeyState::NotOurs, Clone::clone);
        made.map(drop)
    }

    async fn try_acquire(&self) -> Result<KeyState, StoreError> {
        let found = self.read().await?;
        match &found {
            Some(found) if found.boot != self.boot => Ok(KeyState::Other(found.boot.clone())),
            _ => {
                let lease = LeaseId::from_random(self.random.bytes());
                let is_taken = self.put_under(lease, found.as_ref()).await?;
                // On a conflict with another process, or with an earlier request of this one, the next renewal reads
                // the key again.
                Ok(if is_taken {
                    KeyState::Ours(lease)
                } else {
                    KeyState::NotOurs
                })
            }
        }
    }

    async fn read(&self) -> Result<Option<FoundKey>, StoreError> {
        let entry = self.store.get(&self.name).await?;
        Ok(entry.map(|entry| FoundKey {
            boot: BootUuid::from(String::from_utf8_lossy(&entry.value).into_owned()),
            revision: entry.mod_revision,
        }))
    }

    /// Writes the key under a new lease if it is unchanged since `found`. The client chooses the lease's id, so that it
    /// can renew the lease before its grant is answered.
    async fn put_under(&self, lease: LeaseId, found: Option<&FoundKey>) -> Result<bool, StoreError> {
        let condition = match found {
            None => Txn::new().if_absent(&self.name),
            Some(found) => Txn::new().if_unchanged(&self.name, found.revision),
        };
        let put = condition.put_leased(&self.name, self.boot.as_str(), lease);
        let taken = async {
            self.store.grant_as(lease, LIVENESS_TTL).await?;
            self.store.commit(put).await
        };
        tokio::select! {
            taken = taken => Ok(matches!(taken?, TxnOutcome::Committed(_))),
            never = self.keep_renewing(lease) => match never {},
        }
    }

    /// Renews a lease once a period, without waiting for responses.
    async fn keep_renewing(&self, lease: LeaseId) -> Infallible {
        let mut renewals = JoinSet::new();
        loop {
            sleep(LIVENESS_PERIOD).await;
            while renewals.try_join_next().is_some() {}
            if renewals.len() < IN_FLIGHT_MAX {
                let store = self.store.clone();
                // a failure here fails the put as well
                renewals.spawn(async move { store.renew(lease).await.is_ok() });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the liveness key forever beside other work, which a store that does not answer must not delay (extensions
///
pub async fn renew_forever(liveness_key: &mut LivenessKey) {
    let mut renewal = interval(LIVENESS_PERIOD);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewal.tick().await;
        // A key of another process is detected by the loop's own renewals before it acts.
        liveness_key.renew();
    }
}
