//! Writes and withdraws the request of a failover. It hangs on a lease, so it never outlives the command by long.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use base::clock::Boottime;
use base::{Chain, Clock};
use model::{FailoverRequest, to_compact};
use store::{Revision, Store, StoreError, Txn, TxnOutcome};

/// A request that is in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct WrittenRequest {
    /// Its revision.
    pub(super) revision: Revision,
    /// Just before its lease was asked for.
    pub(super) at: Boottime,
    /// How long it may stay.
    pub(super) timeout: Duration,
}

/// The outcome of an attempt to write a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestOutcome {
    Written(WrittenRequest),
    /// The cluster data have changed since they were read, or another request is there.
    Conflict,
}

/// Writes the request if the cluster data are at `revision` and there is no other request.
pub(super) async fn write(
    store: &Store,
    clock: &Clock,
    request: &FailoverRequest,
    revision: Revision,
    timeout: Duration,
) -> anyhow::Result<RequestOutcome> {
    let at = clock.now();
    // etcd counts whole seconds.
    let ttl = Duration::from_secs(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0));
    let granted = store.grant(ttl).await.context("cannot request the failover")?;
    let keys = store.keys();
    let key = keys.failover_request();
    let txn = Txn::new()
        .if_unchanged(&keys.cluster_data(), revision)
        .if_absent(&key)
        .put_leased(&key, to_compact(request), granted.lease);
    let written = store.commit(txn).await;
    if let Ok(TxnOutcome::Committed(committed)) = written {
        return Ok(RequestOutcome::Written(WrittenRequest {
            revision: committed.revision,
            at,
            timeout,
        }));
    }
    // Also ends a request whose write got no response.
    let revoked = store.revoke(granted.lease).await;
    match written {
        Ok(_) => Ok(RequestOutcome::Conflict),
        Err(error) => Err(failed_write(&error, revoked.is_ok(), ttl)),
    }
}

fn failed_write(error: &StoreError, is_withdrawn: bool, ttl: Duration) -> anyhow::Error {
    let cause = Chain(error);
    if !error.is_outcome_unknown() {
        anyhow!("cannot request the failover: {cause}: it is not requested")
    } else if is_withdrawn {
        anyhow!(
            "cannot request the failover: {cause}: if it was requested all the same, it is withdrawn now; `stolonctl \
             status` shows whether it was carried out before that"
        )
    } else {
        anyhow!("cannot request the failover: {cause}: if it is requested all the same, it ends after {ttl:?}")
    }
}

/// Deletes the request. Returns false if it is gone already, or another one is there.
pub(super) async fn withdraw(store: &Store, written: WrittenRequest) -> Result<bool, StoreError> {
    let key = store.keys().failover_request();
    let txn = Txn::new().if_unchanged(&key, written.revision).delete(&key);
    Ok(store.commit(txn).await?.committed().is_some())
}
