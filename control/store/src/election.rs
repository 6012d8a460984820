//! The election of the leading sentinel, in the layout of the etcd client library's "concurrency" election (store 6),
//! so that sentinels of Go stolon can take part. What a leader does is left to `sentinel`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{GetOptions, SortOrder, SortTarget, TxnOp};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use base::Chain;
use base::clock::Boottime;

use crate::entry::{Entry, KeyRange, LeaseId, Revision};
use crate::error::StoreError;
use crate::kv::read_all;
use crate::session::ElectionSession;
use crate::store::Store;
use crate::txn::Txn;

pub use crate::election_ttl::TTL;

/// Delays after a failed campaign (store E-10).
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Maximum wait for the store at exit (store E-8, best effort).
const REVOKE_TIMEOUT: Duration = Duration::from_millis(500);
/// A waiting candidate reads again after this time, whatever its watch reports (store 7: polling as a fallback).
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Whether this process leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Taking part in the election, or about to.
    #[default]
    Candidate,
    /// Leading.
    Leader(Leader),
}

impl Leadership {
    /// Returns what a leader needs for its writes, if this process leads.
    pub fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leader(leader) => Some(leader),
            Self::Candidate => None,
        }
    }
}

/// A leadership: the conditions of a leader's writes (fencing F-7, store C-9).
#[derive(Debug, Clone)]
pub struct Leader {
    /// The election key.
    pub key: String,
    /// The revision at which it was created.
    pub create_revision: Revision,
    /// Number of leaderships won so far, including this one (sentinel L-5).
    pub count: u64,
    lease_end: Arc<AtomicU64>,
}

impl Leader {
    /// Returns until when the leadership is certainly valid, from the keepalives confirmed so far. It is updated by
    /// later ones.
    pub fn lease_end(&self) -> Boottime {
        Boottime::from_nanos(self.lease_end.load(Ordering::Acquire))
    }

    /// Makes a transaction conditional on the election key, as every write of a leader is (fencing F-7).
    #[must_use]
    pub fn guard(&self, txn: Txn) -> Txn {
        txn.if_created_at(&self.key, self.create_revision)
    }
}

/// Leaderships are equal when they were won by the same key; their end is not compared.
impl PartialEq for Leader {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.create_revision, self.count) == (&other.key, other.create_revision, other.count)
    }
}

impl Eq for Leader {}

/// A running candidacy. Dropping it ends it as [`Election::stop`] does, without waiting.
#[derive(Debug)]
pub struct Election {
    state: watch::Receiver<Leadership>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Election {
    /// Takes part in the election under this uid, repeatedly. Must be called within a tokio runtime.
    pub fn start(store: Store, uid: &str) -> Self {
        let (publish, state) = watch::channel(Leadership::Candidate);
        let stop = CancellationToken::new();
        let candidate = Candidate {
            store,
            uid: uid.to_owned(),
            publish,
            stop: stop.clone(),
            won: 0,
            stale: Vec::new(),
        };
        let task = tokio::spawn(candidate.campaign_loop());
        Self {
            state,
            stop: stop.drop_guard(),
            task,
        }
    }

    /// Returns whether this process leads; changes with the leadership, not with each keepalive.
    pub fn state(&self) -> watch::Receiver<Leadership> {
        self.state.clone()
    }

    /// Ends the candidacy and deletes the key at once (store E-8, E-9). Takes half a second at most.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!(%error, "the election task panicked");
        }
    }
}

struct Candidate {
    store: Store,
    uid: String,
    publish: watch::Sender<Leadership>,
    stop: CancellationToken,
    won: u64,
    /// Leases of a previous session that are possibly not revoked yet.
    stale: Vec<LeaseId>,
}

/// Why a campaign ended without an error.
#[derive(Debug)]
enum CampaignEnd {
    Stopped,
    SessionLost,
    KeyLost,
}

impl Candidate {
    async fn campaign_loop(mut self) {
        let (mut backoff, mut start_logged) = (BACKOFF_MIN, false);
        loop {
            if !std::mem::replace(&mut start_logged, true) {
                info!("Trying to acquire sentinels leadership");
            }
            let won_before = self.won;
            let end = self.campaign().await;
            if self.won != won_before {
                (backoff, start_logged) = (BACKOFF_MIN, false);
            }
            match end {
                Ok(CampaignEnd::Stopped) => return,
                Ok(why) => debug!(?why, "campaign ended"),
                // the request has waited for the store already, and `connections` logs that it is unreachable
                Err(error @ StoreError::Unreachable { .. }) => {
                    debug!(error = %Chain(&error), "cannot campaign, the store is unreachable")
                }
                Err(error) => {
                    error!(error = %Chain(&error), "election loop error");
                    start_logged = false;
                    if self.stop.run_until_cancelled(sleep(backoff)).await.is_none() {
                        return;
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Runs one session, from its lease to its end. Whatever ends it, the lease is revoked, so that no stale key delays
    /// other candidates (store E-8, E-9, E-10). If the store is unreachable, it is revoked before the next session.
    async fn campaign(&mut self) -> Result<CampaignEnd, StoreError> {
        let stop = self.stop.clone();
        let Some(session) = stop.run_until_cancelled(self.open_session()).await else {
            return Ok(CampaignEnd::Stopped);
        };
        let session = session?;
        let store = self.store.clone();
        let end = tokio::select! {
            () = stop.cancelled() => Ok(CampaignEnd::Stopped),
            () = session.keep_alive(&store) => Ok(CampaignEnd::SessionLost),
            end = self.campaign_in_session(&session) => end,
        };
        session.close();
        self.stale = session.leases();
        if self.publish.send_replace(Leadership::Candidate) != Leadership::Candidate {
            info!("sentinel leadership lost");
        }
        match timeout(REVOKE_TIMEOUT, revoke_all(&store, &self.stale)).await {
            Ok(Ok(())) => self.stale.clear(),
            Ok(Err(error)) => debug!(error = %Chain(&error), "could not revoke the election lease"),
            Err(_) => debug!("could not revoke the election lease in time"),
        }
        end
    }

    async fn open_session(&mut self) -> Result<ElectionSession, StoreError> {
        revoke_all(&self.store, &self.stale).await?;
        self.stale.clear();
        let session = ElectionSession::open(&self.store).await?;
        self.stale = session.leases();
        Ok(session)
    }

    /// Puts the candidate key, waits for all older candidates to go, then leads until the own key is deleted (store
    /// E-2, E-3).
    async fn campaign_in_session(&mut self, session: &ElectionSession) -> Result<CampaignEnd, StoreError> {
        let lease = session.lease();
        let key = self.store.keys().candidate(lease);
        let enter = Txn::new().if_absent(&key).put_leased(&key, self.uid.as_str(), lease);
        let create_revision = match self.store.commit(enter).await {
            Ok(outcome) => outcome.committed(),
            // the lease is new, so only this process can have put a key of this name
            Err(error) if error.is_outcome_unknown() => None,
            Err(error) => return Err(error),
        };
        let create_revision = match create_revision {
            Some(revision) => revision,
            None => match self.store.get(&key).await? {
                Some(entry) if entry.value == self.uid.as_bytes() => entry.create_revision,
                _ => return Ok(CampaignEnd::KeyLost),
            },
        };
        session.entered(&key, create_revision, &self.uid);
        loop {
            let older = read_older_candidates(&self.store, &key, create_revision).await?;
            if !older.own_key_exists {
                return Ok(CampaignEnd::KeyLost);
            }
            let Some(predecessor) = older.predecessor else {
                self.become_leader(session, key.clone(), create_revision);
                self.until_key_gone(&key, create_revision, older.revision).await;
                return Ok(CampaignEnd::KeyLost);
            };
            debug!(predecessor = %predecessor.key, "waiting for an older candidate to go");
            let watch = self
                .store
                .watch(vec![KeyRange::Key(predecessor.key)], Some(older.revision));
            // read again, whatever happened
            let _ = timeout(POLL_INTERVAL, watch.changed()).await;
        }
    }

    fn become_leader(&mut self, session: &ElectionSession, key: String, create_revision: Revision) {
        self.won += 1;
        info!("sentinel leadership acquired");
        let leader = Leader {
            key,
            create_revision,
            count: self.won,
            lease_end: session.shared_lease_end(),
        };
        self.publish.send_replace(Leadership::Leader(leader));
    }

    /// Waits until the own key is gone: it was deleted, or the lease expired (store 10, corner case 11).
    async fn until_key_gone(&self, key: &str, create_revision: Revision, after: Revision) {
        let watch = self.store.watch(vec![KeyRange::Key(key.to_owned())], Some(after));
        loop {
            watch.changed().await;
            match self.store.get(key).await {
                Ok(Some(entry)) if entry.create_revision == create_revision => {}
                Ok(_) => return,
                // a store that does not respond is handled by the end of the session
                Err(error) => debug!(error = %Chain(&error), "could not read the own election key"),
            }
        }
    }
}

/// Revokes leases concurrently. Returns the first error once each was tried.
async fn revoke_all(store: &Store, leases: &[LeaseId]) -> Result<(), StoreError> {
    let Some((first, rest)) = leases.split_first() else {
        return Ok(());
    };
    let (first, rest) = tokio::join!(store.revoke(*first), Box::pin(revoke_all(store, rest)));
    first.and(rest)
}

/// The candidates before this one.
struct OlderCandidates {
    /// The youngest of the older candidates.
    predecessor: Option<Entry>,
    /// Whether the candidate's own key is still the one it created.
    own_key_exists: bool,
    revision: Revision,
}

async fn read_older_candidates(
    store: &Store,
    key: &str,
    create_revision: Revision,
) -> Result<OlderCandidates, StoreError> {
    let prefix = store.keys().election();
    let older = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Create, SortOrder::Descend)
        .with_limit(1)
        .with_max_create_revision(create_revision.0 - 1);
    let ops = vec![TxnOp::get(prefix.as_str(), Some(older)), TxnOp::get(key, None)];
    let mut read = read_all(store.requester(), format!("read {prefix}*"), ops).await?;
    let (predecessor, own) = (read.take_one(0), read.take_one(1));
    let own_key_exists = own.is_some_and(|own| own.create_revision == create_revision);
    Ok(OlderCandidates {
        predecessor,
        own_key_exists,
        revision: read.revision,
    })
}

/// Returns the leader of all candidates below [`Keys::election`](crate::Keys::election): the oldest. None is a normal
/// state (store E-11).
pub fn elected_sentinel(candidates: Vec<Entry>) -> Option<ElectedSentinel> {
    let oldest = candidates
        .into_iter()
        .min_by_key(|candidate| candidate.create_revision)?;
    Some(ElectedSentinel {
        uid: String::from_utf8_lossy(&oldest.value).into_owned(),
        key: oldest.key,
        create_revision: oldest.create_revision,
    })
}

/// The leading sentinel, as read from the election keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectedSentinel {
    /// The sentinel's uid, the value of its key.
    pub uid: String,
    /// Its key.
    pub key: String,
    /// The revision at which it became a candidate.
    pub create_revision: Revision,
}
