//! The handle to the store: every request that the programs make. How a request is sent is left to `requester`.

use std::fmt;
use std::time::Duration;

use base::Clock;

use crate::config::StoreConfig;
use crate::entry::{Entry, KeyRange, LeaseId, Revision, Snapshot};
use crate::error::StoreError;
use crate::keys::Keys;
use crate::lease::{LeaseGrant, LeaseTtl};
use crate::requester::Requester;
use crate::txn::{CommitOrRead, Txn, TxnOutcome};
use crate::watch::Watch;
use crate::{kv, lease, txn, watch};

/// A handle to the store for one cluster. Clones share their connections.
#[derive(Clone)]
pub struct Store {
    requester: Requester,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("endpoints", &self.requester.config().endpoints)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Returns a handle that connects at its first request; never fails because etcd is unreachable. The clock measures
    /// latencies and the validity of an election lease; timeouts are tokio's.
    pub fn new(config: StoreConfig, clock: Clock) -> Self {
        Self {
            requester: Requester::new(config, clock),
        }
    }

    /// Returns the cluster's keys.
    pub fn keys(&self) -> &Keys {
        self.requester.keys()
    }

    /// Returns the clock that the handle was made with.
    pub(crate) fn clock(&self) -> &Clock {
        self.requester.clock()
    }

    /// Returns what sends the requests, for those of the election.
    pub(crate) fn requester(&self) -> &Requester {
        &self.requester
    }

    /// Returns the timeout of each request.
    pub fn timeout(&self) -> Duration {
        self.requester.timeout()
    }

    /// Returns the recently measured latency of the fastest connection; zero while unknown.
    pub fn latency(&self) -> Duration {
        self.requester.connections().latency()
    }

    /// Returns a handle with a shorter timeout of each request; a longer one has no effect.
    #[must_use]
    pub fn with_timeout(&self, limit: Duration) -> Self {
        Self {
            requester: self.requester.with_timeout(limit),
        }
    }

    /// Returns a handle whose requests are not sent once they have waited for a connection for longer than this
    /// (fencing F-7). The timeout of requests that are sent is unchanged.
    #[must_use]
    pub fn sent_within(&self, limit: Duration) -> Self {
        Self {
            requester: self.requester.sent_within(limit),
        }
    }

    /// Reads one key, linearizably. None when it does not exist.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut read = self.snapshot(&[KeyRange::Key(key.to_owned())]).await?;
        Ok(read.take_one(0))
    }

    /// Reads all keys with this prefix, which ends with a slash, in ascending order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let mut read = self.snapshot(&[KeyRange::Prefix(prefix.to_owned())]).await?;
        Ok(read.take(0))
    }

    /// Reads several keys and prefixes in one transaction, linearizably (sentinel E-2).
    pub async fn snapshot(&self, ranges: &[KeyRange]) -> Result<Snapshot, StoreError> {
        kv::snapshot(&self.requester, ranges).await
    }

    /// Puts a key without a lease, and returns its revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision, StoreError> {
        kv::put(&self.requester, key, value.into(), None).await
    }

    /// Puts a key under a new lease, and returns the lease (store 2, "put with TTL": two requests, each with its own
    /// timeout).
    ///
    /// The TTL is truncated to whole seconds; [`info_ttl`](crate::info_ttl) returns the TTL of an info.
    pub async fn put_leased(&self, key: &str, value: impl Into<Vec<u8>>, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.grant(ttl).await?.lease;
        kv::put(&self.requester, key, value.into(), Some(lease)).await?;
        Ok(lease)
    }

    /// Requests a lease of this many whole seconds, or of the maximum.
    ///
    /// Repeated when the outcome is unknown: a lease without keys expires (store S-31).
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseGrant, StoreError> {
        lease::grant(&self.requester, ttl).await
    }

    /// Requests a lease with an id chosen by the caller, see [`LeaseId::from_random`].
    ///
    /// A renewal, or a put under it, may be sent before the response; one that arrives before the grant fails because
    /// there is no lease.
    pub async fn grant_as(&self, lease: LeaseId, ttl: Duration) -> Result<(), StoreError> {
        lease::grant_as(&self.requester, lease, ttl).await
    }

    /// Renews the lease to its full TTL. Returns false when the lease has expired.
    ///
    /// The TTL restarts some time between request and response: count from before the call.
    pub async fn renew(&self, lease: LeaseId) -> Result<bool, StoreError> {
        lease::renew(&self.requester, lease).await
    }

    /// Revokes the lease and deletes its keys. A lease that has expired already is not an error.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        lease::revoke(&self.requester, lease).await
    }

    /// Returns the remaining time of a lease; none when it has expired.
    pub async fn remaining(&self, lease: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        lease::remaining(&self.requester, lease).await
    }

    /// Executes a transaction, once.
    ///
    /// After [`StoreError::Unanswered`] it is unknown whether it was applied (store S-32).
    pub async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        Ok(match self.commit_or_read(txn, &[]).await? {
            CommitOrRead::Committed(committed) => TxnOutcome::Committed(committed),
            CommitOrRead::Read(_) => TxnOutcome::Conflict,
        })
    }

    /// Executes a transaction, once. If a condition does not hold, reads these ranges at the same revision, so that the
    /// next attempt needs no separate read.
    pub async fn commit_or_read(&self, txn: Txn, ranges: &[KeyRange]) -> Result<CommitOrRead, StoreError> {
        txn::commit_or_read(&self.requester, txn, ranges).await
    }

    /// Watches these ranges from just after a revision that was read, or from now on; the latter begins with a gap once
    /// the watch is established. Must be called within a tokio runtime.
    pub fn watch(&self, ranges: Vec<KeyRange>, after: Option<Revision>) -> Watch {
        watch::watch(self.requester.clone(), ranges, after)
    }
}
