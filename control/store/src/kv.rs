//! Reads of keys, and single puts. Conditional writes are left to `txn`.

use etcd_client::{PutOptions, TxnOp};

use crate::entry::{KeyRange, LeaseId, Revision, Snapshot};
use crate::error::StoreError;
use crate::etcd_types::{entries, header_revision, kv, read_op};
use crate::metrics::Operation;
use crate::requester::{Requester, RetryPolicy, check_size};

/// Reads several ranges at one revision.
pub(crate) async fn snapshot(requester: &Requester, ranges: &[KeyRange]) -> Result<Snapshot, StoreError> {
    let ops = ranges.iter().map(read_op).collect();
    read_all(requester, read_request(ranges), ops).await
}

/// Returns the name of a read in errors: the first two ranges at most.
fn read_request(ranges: &[KeyRange]) -> String {
    let names: Vec<String> = ranges.iter().take(2).map(ToString::to_string).collect();
    match ranges.len().saturating_sub(names.len()) {
        0 => format!("read {}", names.join(", ")),
        _ => format!("read {} and {} more", names[0], ranges.len() - 1),
    }
}

/// Reads in one transaction, linearizably. `request` names what is read, for errors.
pub(crate) async fn read_all(requester: &Requester, request: String, ops: Vec<TxnOp>) -> Result<Snapshot, StoreError> {
    requester
        .send(Operation::Read, request, RetryPolicy::Always, |connection| {
            let txn = etcd_client::Txn::new().and_then(ops.clone());
            async move {
                let answer = kv(connection.client()).txn(txn).await?;
                let found = answer.op_responses().iter().map(entries).collect();
                Ok(Snapshot {
                    revision: header_revision(answer.header()),
                    found,
                })
            }
        })
        .await
}

/// Puts a key, under a lease or none, and returns its revision.
pub(crate) async fn put(
    requester: &Requester,
    key: &str,
    value: Vec<u8>,
    lease: Option<LeaseId>,
) -> Result<Revision, StoreError> {
    let options = PutOptions::new().with_lease(lease.map_or(0, |lease| lease.0));
    let request = format!("write {key}");
    check_size(&request, key.len() + value.len())?;
    requester
        .send(Operation::Put, request, RetryPolicy::OnlyIfUnsent, |connection| {
            let (value, options) = (value.clone(), options.clone());
            async move {
                let answer = kv(connection.client()).put(key, value, Some(options)).await?;
                Ok(header_revision(answer.header()))
            }
        })
        .await
        .inspect(|_| requester.record_write())
}
