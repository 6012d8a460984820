//! The key of one keeper's info: its known revision and its lease. What is published and when is left to `publish`.

use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use model::{KeeperInfo, KeeperUid, from_slice};
use store::{CommitOrRead, KeyRange, LeaseId, Revision, Snapshot, Store, StoreError, Txn, info_ttl};
use tracing::debug;

/// Known state of the info's key.
#[derive(Debug)]
pub(super) struct InfoKey {
    uid: KeeperUid,
    clock: Clock,
    known: KnownRevision,
    lease: Option<KeeperInfoLease>,
}

/// A put of the info.
pub(super) struct InfoPut {
    /// The info as JSON.
    pub(super) info: String,
    /// Expected revision of the key.
    pub(super) revision: Revision,
    /// Further conditions.
    pub(super) conditions: Txn,
    /// What to read on a conflict.
    pub(super) read: Vec<KeyRange>,
}

/// Result of a put.
pub(super) enum PutOutcome {
    /// Written; when the request was sent.
    Put(Boottime),
    /// A condition was not met.
    Conflict {
        /// Revision of the info's key.
        found: Revision,
        read: Snapshot,
    },
}

impl InfoKey {
    pub(super) fn new(uid: KeeperUid, clock: Clock) -> Self {
        Self {
            uid,
            clock,
            known: KnownRevision::Unknown,
            lease: None,
        }
    }

    /// Returns the revision that the next put depends on.
    pub(super) async fn revision(&mut self, store: &Store) -> Result<Revision, StoreError> {
        if let KnownRevision::At(revision) = self.known {
            return Ok(revision);
        }
        let found = store.get(&store.keys().keeper_info(self.uid.as_str())).await?;
        let revision = found.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
        let earlier = found.and_then(|entry| from_slice::<KeeperInfo>(&entry.value).ok());
        debug!(%revision, boot = earlier.map(|info| info.boot_uuid.to_string()), "own info read");
        self.known = KnownRevision::At(revision);
        Ok(revision)
    }

    /// Sends one put with its conditions. On a conflict, returns what the next put starts from.
    pub(super) async fn put(
        &mut self,
        store: &Store,
        put: InfoPut,
        interval: Duration,
    ) -> Result<PutOutcome, StoreError> {
        let key = store.keys().keeper_info(self.uid.as_str());
        let (lease, is_new) = self.lease(store, interval).await?;
        // The result is unknown until the response arrives, and also when this future is dropped.
        self.known = KnownRevision::Unknown;
        let sent = self.clock.now();
        let txn = put
            .conditions
            .if_unchanged(&key, put.revision)
            .put_leased(&key, put.info, lease.id);
        let mut read = put.read;
        read.push(KeyRange::Key(key));
        let commit = store.commit_or_read(txn, &read);
        let outcome = match is_new {
            true => commit.await,
            false => {
                let (outcome, renewed) = tokio::join!(commit, store.renew(lease.id));
                self.lease = match renewed {
                    Ok(true) => Some(KeeperInfoLease { renewed: sent, ..lease }),
                    Ok(false) => None,
                    Err(_) => Some(lease),
                };
                outcome
            }
        };
        match outcome {
            Ok(CommitOrRead::Committed(committed)) => {
                self.known = KnownRevision::At(committed.revision);
                Ok(PutOutcome::Put(sent))
            }
            Ok(CommitOrRead::Read(mut read)) => {
                let found = read.found.pop().and_then(|mut found| found.pop());
                let found = found.map_or(Revision::ABSENT, |entry| entry.mod_revision);
                self.known = KnownRevision::At(found);
                Ok(PutOutcome::Conflict { found, read })
            }
            Err(error) => {
                if !error.is_outcome_unknown() {
                    // the lease may be unknown to the store
                    self.lease = None;
                    self.known = KnownRevision::At(put.revision);
                }
                Err(error)
            }
        }
    }

    /// Returns the lease for a put that is sent now, and whether it is new.
    async fn lease(&mut self, store: &Store, interval: Duration) -> Result<(KeeperInfoLease, bool), StoreError> {
        let ttl = ttl(interval);
        let now = self.clock.now();
        if let Some(lease) = self.lease.filter(|lease| lease.is_usable(ttl, now)) {
            return Ok((lease, false));
        }
        let granted = store.grant(ttl).await?;
        let lease = KeeperInfoLease {
            id: granted.lease,
            ttl,
            renewed: now,
        };
        self.lease = Some(lease);
        Ok((lease, true))
    }
}

/// Returns the TTL of the info's lease: twice the interval, so that the key outlives the delay between two publications
/// (store S-21).
pub(super) fn ttl(interval: Duration) -> Duration {
    info_ttl(interval.saturating_mul(2))
}

/// Lease of the info. It is renewed together with each put, so that its age equals that of the info (sentinel E-6)
/// without an extra request before the put.
#[derive(Debug, Clone, Copy)]
struct KeeperInfoLease {
    id: LeaseId,
    ttl: Duration,
    /// When the last answered grant or renewal was sent.
    renewed: Boottime,
}

impl KeeperInfoLease {
    /// Whether a put and a renewal that are sent now reach the lease before it expires.
    fn is_usable(self, ttl: Duration, now: Boottime) -> bool {
        self.ttl == ttl && now.since(self.renewed) < ttl / 2
    }
}

/// Revision of the info's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownRevision {
    /// The result of a request is unknown, or none was sent yet: read the key first (extensions ).
    Unknown,
    /// Revision of its last put, or [`Revision::ABSENT`].
    At(Revision),
}
