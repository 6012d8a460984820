//! The liveness key (beyond ): while it exists the keeper counts as alive, and no other process with its uid acts.
//! One beat a second renews its lease; the main loop gives the beat, so that a loop that hangs is not taken for alive. A
//! beat waits for no answer, so the key stays on a store whose answers take longer than its lease lives. When a starting
//! process may take the key is left to `claim`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::model::{BootUuid, KeeperUid};
use control::plan::{LIVENESS_PERIOD, LIVENESS_TTL};
use control::store::{LeaseId, Outcome, Revision, Store, StoreError, Txn};
use control::telemetry::Chain;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

/// Life of the key without a beat.
pub const TTL: Duration = LIVENESS_TTL;
/// From beat to beat.
pub const PERIOD: Duration = LIVENESS_PERIOD;
/// No more requests than this are under way at once: one a second, each for as long as the store's usual limit.
const IN_FLIGHT_MAX: usize = 6;

/// One process's liveness key.
#[derive(Debug)]
pub struct LivenessKey {
    key: Arc<LivenessInner>,
    in_flight: JoinSet<()>,
}

#[derive(Debug)]
struct LivenessInner {
    store: Store,
    name: String,
    boot: BootUuid,
    state: Mutex<KeyState>,
}

/// Whose the key is, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyState {
    /// It is not ours.
    NotOurs,
    /// It is being looked at, or put, by a beat.
    Acquiring,
    /// It is ours, under this lease.
    Ours(LeaseId),
    /// It is that of another process.
    Other(BootUuid),
}

/// The key as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKey {
    /// The process that holds it.
    pub boot: BootUuid,
    revision: Revision,
}

impl LivenessKey {
    /// Makes no key yet.
    pub fn new(store: &Store, uid: &KeeperUid, boot: BootUuid) -> Self {
        let key = LivenessInner {
            store: store.clone(),
            name: store.keys().alive(uid.as_str()),
            boot,
            state: Mutex::new(KeyState::NotOurs),
        };
        Self {
            key: Arc::new(key),
            in_flight: JoinSet::new(),
        }
    }

    /// Name of the key.
    pub fn key(&self) -> &str {
        &self.key.name
    }

    /// Whether this is our process.
    pub fn is_ours(&self, boot: &BootUuid) -> bool {
        *boot == self.key.boot
    }

    /// The other process whose key a beat has found, if one has.
    pub fn other(&self) -> Option<BootUuid> {
        match &*self.key.lock() {
            KeyState::Other(boot) => Some(boot.clone()),
            _ => None,
        }
    }

    /// Renews the key's lease, or makes the key when it is not there; does not wait for the store. A key of another
    /// process is left alone. Must be called within a tokio runtime.
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
            let beaten = match lease {
                Some(lease) => key.renew(lease).await,
                None => key.acquire().await,
            };
            if let Err(error) = beaten {
                debug!(error = %Chain(&error), "could not renew the liveness key");
            }
        });
    }

    /// Reads the key.
    pub async fn read(&self) -> Result<Option<FoundKey>, StoreError> {
        self.key.read().await
    }

    /// Takes the key if it still is as it was found: of two that try, exactly one succeeds.
    pub async fn take(&mut self, found: Option<&FoundKey>) -> Result<bool, StoreError> {
        let lease = LeaseId::choose();
        let taken = self.key.put_under(lease, found).await?;
        if taken {
            *self.key.lock() = KeyState::Ours(lease);
        }
        Ok(taken)
    }

    /// Takes the key away, within `limit`: only a keeper that leaves does (beyond ).
    pub async fn revoke(&mut self, limit: Duration) -> Result<(), StoreError> {
        self.in_flight.abort_all();
        let state = std::mem::replace(&mut *self.key.lock(), KeyState::NotOurs);
        match state {
            KeyState::Ours(lease) => self.key.store.limited(limit).revoke(lease).await,
            _ => Ok(()),
        }
    }
}

impl LivenessInner {
    /// Renews the lease; when the store does not know it any more, the key is made again.
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

    /// Looks whose the key is, and takes it unless it is another process's. Ends the state `Making`.
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
                let lease = LeaseId::choose();
                let is_taken = self.put_under(lease, found.as_ref()).await?;
                // Where somebody was faster, another process or an earlier request of ours, the next beat looks again.
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

    /// Puts the key under a new lease if it still is as it was found. The lease's id is chosen here, so that it is renewed
    /// while its grant and the put are not answered yet.
    async fn put_under(&self, lease: LeaseId, found: Option<&FoundKey>) -> Result<bool, StoreError> {
        let condition = match found {
            None => Txn::new().if_absent(&self.name),
            Some(found) => Txn::new().if_unchanged(&self.name, found.revision),
        };
        let put = condition.put_leased(&self.name, self.boot.as_str(), lease);
        let taken = async {
            self.store.grant_as(lease, TTL).await?;
            self.store.commit(put).await
        };
        tokio::select! {
            taken = taken => Ok(matches!(taken?, Outcome::Committed(_))),
            never = self.keep_renewing(lease) => match never {},
        }
    }

    /// Renews a lease once a period, without waiting for answers.
    async fn keep_renewing(&self, lease: LeaseId) -> Infallible {
        let mut renewals = JoinSet::new();
        loop {
            sleep(PERIOD).await;
            while renewals.try_join_next().is_some() {}
            if renewals.len() < IN_FLIGHT_MAX {
                let store = self.store.clone();
                // what fails here fails the put as well
                renewals.spawn(async move { store.renew(lease).await.is_ok() });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
