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
const UNDER_WAY_MAX: usize = 6;

/// One process's liveness key.
#[derive(Debug)]
pub struct Alive {
    key: Arc<Key>,
    under_way: JoinSet<()>,
}

#[derive(Debug)]
struct Key {
    store: Store,
    name: String,
    boot: BootUuid,
    state: Mutex<State>,
}

/// Whose the key is, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is not ours.
    None,
    /// It is being looked at, or put, by a beat.
    Making,
    /// It is ours, under this lease.
    Ours(LeaseId),
    /// It is that of another process.
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
        let key = Key {
            store: store.clone(),
            name: store.keys().alive(uid.as_str()),
            boot,
            state: Mutex::new(State::None),
        };
        Self {
            key: Arc::new(key),
            under_way: JoinSet::new(),
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
            State::Other(boot) => Some(boot.clone()),
            _ => None,
        }
    }

    /// Renews the key's lease, or makes the key when it is not there; does not wait for the store. A key of another
    /// process is left alone. Must be called within a tokio runtime.
    pub fn beat(&mut self) {
        while self.under_way.try_join_next().is_some() {}
        if self.under_way.len() >= UNDER_WAY_MAX {
            return;
        }
        let key = Arc::clone(&self.key);
        let lease = match &mut *self.key.lock() {
            State::Ours(lease) => Some(*lease),
            State::Making => return,
            state @ (State::None | State::Other(_)) => {
                *state = State::Making;
                None
            }
        };
        self.under_way.spawn(async move {
            let beaten = match lease {
                Some(lease) => key.renew(lease).await,
                None => key.make().await,
            };
            if let Err(error) = beaten {
                debug!(error = %Chain(&error), "could not renew the liveness key");
            }
        });
    }

    /// Reads the key.
    pub async fn look(&self) -> Result<Option<Found>, StoreError> {
        self.key.look().await
    }

    /// Takes the key if it still is as it was found: of two that try, exactly one succeeds.
    pub async fn take(&mut self, found: Option<&Found>) -> Result<bool, StoreError> {
        let lease = LeaseId::choose();
        let taken = self.key.put_under(lease, found).await?;
        if taken {
            *self.key.lock() = State::Ours(lease);
        }
        Ok(taken)
    }

    /// Takes the key away, within `limit`: only a keeper that leaves does (beyond ).
    pub async fn end(&mut self, limit: Duration) -> Result<(), StoreError> {
        self.under_way.abort_all();
        let state = std::mem::replace(&mut *self.key.lock(), State::None);
        match state {
            State::Ours(lease) => self.key.store.limited(limit).revoke(lease).await,
            _ => Ok(()),
        }
    }
}

impl Key {
    /// Renews the lease; when the store does not know it any more, the key is made again.
    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        if self.store.renew(lease).await? {
            return Ok(());
        }
        {
            let mut state = self.lock();
            if *state != State::Ours(lease) {
                return Ok(());
            }
            *state = State::Making;
        }
        self.make().await
    }

    /// Looks whose the key is, and takes it unless it is another process's. Ends the state `Making`.
    async fn make(&self) -> Result<(), StoreError> {
        let made = self.try_to_make().await;
        *self.lock() = made.as_ref().map_or(State::None, Clone::clone);
        made.map(drop)
    }

    async fn try_to_make(&self) -> Result<State, StoreError> {
        let found = self.look().await?;
        match &found {
            Some(found) if found.boot != self.boot => Ok(State::Other(found.boot.clone())),
            _ => {
                let lease = LeaseId::choose();
                let is_taken = self.put_under(lease, found.as_ref()).await?;
                // Where somebody was faster, another process or an earlier request of ours, the next beat looks again.
                Ok(if is_taken { State::Ours(lease) } else { State::None })
            }
        }
    }

    async fn look(&self) -> Result<Option<Found>, StoreError> {
        let entry = self.store.get(&self.name).await?;
        Ok(entry.map(|entry| Found {
            boot: BootUuid::from(String::from_utf8_lossy(&entry.value).into_owned()),
            revision: entry.mod_revision,
        }))
    }

    /// Puts the key under a new lease if it still is as it was found. The lease's id is chosen here, so that it is renewed
    /// while its grant and the put are not answered yet.
    async fn put_under(&self, lease: LeaseId, found: Option<&Found>) -> Result<bool, StoreError> {
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
            never = self.keep(lease) => match never {},
        }
    }

    /// Renews a lease once a period, without waiting for answers.
    async fn keep(&self, lease: LeaseId) -> Infallible {
        let mut renewals = JoinSet::new();
        loop {
            sleep(PERIOD).await;
            while renewals.try_join_next().is_some() {}
            if renewals.len() < UNDER_WAY_MAX {
                let store = self.store.clone();
                // what fails here fails the put as well
                renewals.spawn(async move { store.renew(lease).await.is_ok() });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
