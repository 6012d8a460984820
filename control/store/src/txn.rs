//! Transactions: conditions, and writes that are applied when all of them hold (store 4).

use etcd_client::{Compare, CompareOp, PutOptions, TxnOp};

use crate::entry::{KeyRange, LeaseId, Revision, Snapshot};
use crate::error::StoreError;
use crate::etcd_types::{entries, header_revision, kv, read_op};
use crate::metrics::Operation;
use crate::requester::{Requester, RetryPolicy, check_size};

/// A conditional write, to be passed to [`Store::commit`](crate::Store::commit).
#[derive(Debug, Clone, Default)]
pub struct Txn {
    compares: Vec<Compare>,
    ops: Vec<TxnOp>,
    names: Vec<String>,
    bytes: usize,
}

impl Txn {
    /// Returns a transaction without conditions and writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the condition that the key's last put has this revision; [`Revision::ABSENT`]: that it does not exist.
    #[must_use]
    pub fn if_unchanged(mut self, key: &str, mod_revision: Revision) -> Self {
        self.compares
            .push(Compare::mod_revision(key, CompareOp::Equal, mod_revision.0));
        self
    }

    /// Adds the condition that the key does not exist (store 4.1).
    #[must_use]
    pub fn if_absent(mut self, key: &str) -> Self {
        self.compares.push(Compare::create_revision(key, CompareOp::Equal, 0));
        self
    }

    /// Adds the condition that no key has this prefix.
    #[must_use]
    pub fn if_none_below(mut self, prefix: &str) -> Self {
        self.compares
            .push(Compare::create_revision(prefix, CompareOp::Equal, 0).with_prefix());
        self
    }

    /// Adds the condition that the key exists.
    #[must_use]
    pub fn if_exists(mut self, key: &str) -> Self {
        self.compares.push(Compare::create_revision(key, CompareOp::Greater, 0));
        self
    }

    /// Adds the condition that the key exists and was created at this revision (fencing F-7, store C-9).
    #[must_use]
    pub fn if_created_at(mut self, key: &str, create_revision: Revision) -> Self {
        self.compares
            .push(Compare::create_revision(key, CompareOp::Equal, create_revision.0));
        self
    }

    /// Adds the condition that the key has no lease with a greater id than this, or does not exist. The order of ids
    /// is that of the leases only for a writer that gives each new lease a greater id, as a proxy does.
    #[must_use]
    pub fn if_lease_id_at_most(mut self, key: &str, lease: LeaseId) -> Self {
        let greater = lease.0.saturating_add(1);
        self.compares.push(Compare::lease(key, CompareOp::Less, greater));
        self
    }

    /// Adds a put without a lease.
    #[must_use]
    pub fn put(self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.put_with(key, value.into(), None)
    }

    /// Adds a put under a lease, see [`Store::grant`](crate::Store::grant).
    #[must_use]
    pub fn put_leased(self, key: &str, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.put_with(key, value.into(), Some(PutOptions::new().with_lease(lease.0)))
    }

    /// Adds the deletion of a key, if it exists.
    #[must_use]
    pub fn delete(mut self, key: &str) -> Self {
        self.names.push(format!("delete {key}"));
        self.ops.push(TxnOp::delete(key, None));
        self
    }

    fn put_with(mut self, key: &str, value: Vec<u8>, options: Option<PutOptions>) -> Self {
        self.names.push(format!("write {key}"));
        self.bytes += key.len() + value.len();
        self.ops.push(TxnOp::put(key, value, options));
        self
    }
}

/// The outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All conditions held and everything was written.
    Committed(Committed),
    /// A condition did not hold; nothing was written (store C-1, *key modified*).
    Conflict,
}

/// A committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The revision of all its puts (store C-2).
    pub revision: Revision,
}

/// The outcome of a transaction that reads when a condition does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOrRead {
    /// All conditions held and everything was written.
    Committed(Committed),
    /// A condition did not hold; nothing was written, and this was read instead.
    Read(Snapshot),
}

impl TxnOutcome {
    /// Returns the revision of the write, if it was committed.
    pub fn committed(self) -> Option<Revision> {
        match self {
            Self::Committed(Committed { revision }) => Some(revision),
            Self::Conflict => None,
        }
    }
}

/// Executes a transaction, once; reads these ranges if a condition does not hold.
pub(crate) async fn commit_or_read(
    requester: &Requester,
    txn: Txn,
    ranges: &[KeyRange],
) -> Result<CommitOrRead, StoreError> {
    let request = txn.names.join(", ");
    check_size(&request, txn.bytes)?;
    let puts = txn.bytes > 0;
    let reads: Vec<TxnOp> = ranges.iter().map(read_op).collect();
    requester
        .send(Operation::Txn, request, RetryPolicy::OnlyIfUnsent, |connection| {
            let txn = etcd_client::Txn::new()
                .when(txn.compares.clone())
                .and_then(txn.ops.clone())
                .or_else(reads.clone());
            async move {
                let answer = kv(connection.client()).txn(txn).await?;
                let revision = header_revision(answer.header());
                Ok(if answer.succeeded() {
                    CommitOrRead::Committed(Committed { revision })
                } else {
                    let found = answer.op_responses().iter().map(entries).collect();
                    CommitOrRead::Read(Snapshot { revision, found })
                })
            }
        })
        .await
        .inspect(|outcome| {
            if puts && matches!(outcome, CommitOrRead::Committed(_)) {
                requester.record_write();
            }
        })
}
