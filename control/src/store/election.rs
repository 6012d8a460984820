//! The election of the leading sentinel, in the layout of the etcd client library's "concurrency" election
//! (store 6), so that sentinels of the reference may stand against ours. What a leader does is `sentinel`'s business.

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

use super::{Entry, KeyRange, LeaseId, Revision, Store, StoreError, Txn, session::EtcdSession};
use crate::{clock::Boottime, telemetry::Chain};

pub use super::session::TTL;

/// Pauses after a failed campaign (store E-10).
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// On the way out nobody waits longer than this for the store (store E-8, best effort).
const REVOKE_TIMEOUT: Duration = Duration::from_millis(500);
/// A waiting candidate looks again after so long, whatever its watch says (store 7: polling as a fallback).
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Whether we lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Standing for election, or about to.
    #[default]
    Candidate,
    /// Leading.
    Leader(Leader),
}

impl Leadership {
    /// What a leader needs for its writes, if we lead.
    pub fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leader(leader) => Some(leader),
            Self::Candidate => None,
        }
    }
}

/// A leadership won: what a leader's writes are conditional on (fencing F-7, store C-9).
#[derive(Debug, Clone)]
pub struct Leader {
    /// Our election key.
    pub key: String,
    /// The revision at which it was created.
    pub create_revision: Revision,
    /// How many leaderships this election has won so far, this one included (sentinel L-5).
    pub count: u64,
    lease_end: Arc<AtomicU64>,
}

impl Leader {
    /// Until when we surely lead, as far as the keepalives answered by now tell. It moves on by itself.
    pub fn lease_end(&self) -> Boottime {
        Boottime::from_nanos(self.lease_end.load(Ordering::Acquire))
    }

    /// Makes a transaction conditional on our election key, as every write of a leader is (fencing F-7).
    #[must_use]
    pub fn guard(&self, txn: Txn) -> Txn {
        txn.if_created_at(&self.key, self.create_revision)
    }
}

/// Two leaderships are the same when they were won by the same key; how long they last is not compared.
impl PartialEq for Leader {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.create_revision, self.count) == (&other.key, other.create_revision, other.count)
    }
}

impl Eq for Leader {}

/// A candidacy under way. Dropping it ends it as [`Election::stop`] does, without waiting.
#[derive(Debug)]
pub struct Election {
    state: watch::Receiver<Leadership>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Election {
    /// Stands for election under this uid, again and again. Must be called within a tokio runtime.
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

    /// Whether we lead; changes when that changes, not with each keepalive.
    pub fn state(&self) -> watch::Receiver<Leadership> {
        self.state.clone()
    }

    /// Ends the candidacy: others see the key go at once (store E-8, E-9). Takes half a second at most.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!(%error, "election ended badly");
        }
    }
}

struct Candidate {
    store: Store,
    uid: String,
    publish: watch::Sender<Leadership>,
    stop: CancellationToken,
    won: u64,
    /// The leases of a session that may not be revoked yet.
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
        let (mut pause, mut announced) = (BACKOFF_MIN, false);
        loop {
            if !std::mem::replace(&mut announced, true) {
                info!("Trying to acquire sentinels leadership");
            }
            let won_before = self.won;
            let ended = self.campaign().await;
            if self.won != won_before {
                (pause, announced) = (BACKOFF_MIN, false);
            }
            match ended {
                Ok(CampaignEnd::Stopped) => return,
                Ok(why) => debug!(?why, "campaign ended"),
                // the request has waited for the store already, and the connections tell that it is away
                Err(error @ StoreError::Unreachable { .. }) => {
                    debug!(error = %Chain(&error), "no store to campaign in")
                }
                Err(error) => {
                    error!(error = %Chain(&error), "election loop error");
                    announced = false;
                    if self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// One session, from its lease to its end. Whatever ends it, the lease is revoked, so that no stale key of ours
    /// stands in others' way (store E-8, E-9, E-10); when the store cannot take that now, before the next session.
    async fn campaign(&mut self) -> Result<CampaignEnd, StoreError> {
        let stop = self.stop.clone();
        let Some(session) = stop.run_until_cancelled(self.open_session()).await else {
            return Ok(CampaignEnd::Stopped);
        };
        let session = session?;
        let store = self.store.clone();
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(CampaignEnd::Stopped),
            () = session.keep_alive(&store) => Ok(CampaignEnd::SessionLost),
            ended = self.campaign_in_session(&session) => ended,
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
        ended
    }

    async fn open_session(&mut self) -> Result<EtcdSession, StoreError> {
        revoke_all(&self.store, &self.stale).await?;
        self.stale.clear();
        let session = EtcdSession::open(&self.store).await?;
        self.stale = session.leases();
        Ok(session)
    }

    /// Enters, waits for all older candidates to go, then leads until the own key goes (store E-2, E-3).
    async fn campaign_in_session(&mut self, session: &EtcdSession) -> Result<CampaignEnd, StoreError> {
        let lease = session.lease();
        let key = self.store.keys().candidate(lease);
        let enter = Txn::new().if_absent(&key).put_leased(&key, self.uid.as_str(), lease);
        let mine = match self.store.commit(enter).await {
            Ok(outcome) => outcome.committed(),
            // the lease is fresh, so a key of this name can only be ours
            Err(error) if error.is_outcome_unknown() => None,
            Err(error) => return Err(error),
        };
        let mine = match mine {
            Some(revision) => revision,
            None => match self.store.get(&key).await? {
                Some(entry) if entry.value == self.uid.as_bytes() => entry.create_revision,
                _ => return Ok(CampaignEnd::KeyLost),
            },
        };
        session.entered(&key, mine, &self.uid);
        loop {
            let before_us = self.store.read_older_candidates(&key, mine).await?;
            if !before_us.own_key_exists {
                return Ok(CampaignEnd::KeyLost);
            }
            let Some(predecessor) = before_us.predecessor else {
                self.become_leader(session, key.clone(), mine);
                self.until_key_gone(&key, mine, before_us.revision).await;
                return Ok(CampaignEnd::KeyLost);
            };
            debug!(predecessor = %predecessor.key, "waiting for an older candidate to go");
            let watch = self
                .store
                .watch(vec![KeyRange::Key(predecessor.key)], Some(before_us.revision));
            // whatever happened, or nothing for long: look again
            let _ = timeout(POLL_INTERVAL, watch.changed()).await;
        }
    }

    fn become_leader(&mut self, session: &EtcdSession, key: String, create_revision: Revision) {
        self.won += 1;
        info!("sentinel leadership acquired");
        let leader = Leader {
            key,
            create_revision,
            count: self.won,
            lease_end: session.end_of_lease(),
        };
        self.publish.send_replace(Leadership::Leader(leader));
    }

    /// Waits until the own key is no more: someone deleted it, or the lease went (store 10, corner case 11).
    async fn until_key_gone(&self, key: &str, mine: Revision, after: Revision) {
        let watch = self.store.watch(vec![KeyRange::Key(key.to_owned())], Some(after));
        loop {
            watch.changed().await;
            match self.store.get(key).await {
                Ok(Some(entry)) if entry.create_revision == mine => {}
                Ok(_) => return,
                // the session's own end judges a store that does not answer
                Err(error) => debug!(error = %Chain(&error), "could not look at the own election key"),
            }
        }
    }
}

/// Revokes leases, all at the same time; returns the first error once each was tried.
async fn revoke_all(store: &Store, leases: &[LeaseId]) -> Result<(), StoreError> {
    let Some((first, rest)) = leases.split_first() else {
        return Ok(());
    };
    let (first, rest) = tokio::join!(store.revoke(*first), Box::pin(revoke_all(store, rest)));
    first.and(rest)
}

/// What stands before a candidate.
struct OlderCandidates {
    /// The youngest of the older candidates.
    predecessor: Option<Entry>,
    /// Whether the candidate's own key is still the one that it created.
    own_key_exists: bool,
    revision: Revision,
}

impl Store {
    async fn read_older_candidates(&self, key: &str, mine: Revision) -> Result<OlderCandidates, StoreError> {
        let prefix = self.keys().election();
        let older = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Descend)
            .with_limit(1)
            .with_max_create_revision(mine.0 - 1);
        let ops = vec![TxnOp::get(prefix.as_str(), Some(older)), TxnOp::get(key, None)];
        let mut read = self.read_all(format!("read {prefix}*"), ops).await?;
        let (predecessor, own) = (read.take_one(0), read.take_one(1));
        let still_standing = own.is_some_and(|own| own.create_revision == mine);
        Ok(OlderCandidates {
            predecessor,
            own_key_exists: still_standing,
            revision: read.revision,
        })
    }
}

/// Who leads, of all candidates below [`Keys::election`](super::Keys::election): the oldest. Nobody is a normal state
/// (store E-11).
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

/// Who leads, as any reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectedSentinel {
    /// The value of its key: the sentinel's uid.
    pub uid: String,
    /// Its key.
    pub key: String,
    /// The revision at which it stood up.
    pub create_revision: Revision,
}
