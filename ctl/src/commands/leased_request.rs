//! Writes and withdraws a request to the leading sentinel: a key of its own under a lease, so that it never outlives the
//! command by long. What is requested is left to the commands.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use base::clock::Boottime;
use base::{Chain, Clock};
use model::GoDuration;
use store::{Revision, Store, StoreError, Txn, TxnOutcome};

/// A request to be written.
pub(super) struct LeasedRequest<'a> {
    /// What is requested, for messages: `failover`.
    pub(super) what: &'a str,
    pub(super) key: &'a str,
    pub(super) value: String,
    /// Conditions besides the one that the key does not exist.
    pub(super) conditions: Txn,
    /// How long it may stay.
    pub(super) timeout: Duration,
}

/// Returns the timeout that was typed, if it is one of the accepted ones.
pub(super) fn check_timeout(
    given: Option<GoDuration>,
    accepted: RangeInclusive<Duration>,
) -> anyhow::Result<Option<Duration>> {
    let Some(given) = given else { return Ok(None) };
    let timeout = given.to_std();
    let (min, max) = (GoDuration::from(*accepted.start()), GoDuration::from(*accepted.end()));
    ensure!(
        accepted.contains(&timeout),
        "--timeout {given} is out of range: choose one between {min} and {max}"
    );
    Ok(Some(timeout))
}

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
    /// A condition did not hold, or another request is there.
    Conflict,
}

impl LeasedRequest<'_> {
    /// Writes the request if its conditions hold and there is no other one.
    pub(super) async fn write(self, store: &Store, clock: &Clock) -> anyhow::Result<RequestOutcome> {
        let at = clock.now();
        // etcd counts whole seconds.
        let ttl = Duration::from_secs(self.timeout.as_secs() + u64::from(self.timeout.subsec_nanos() > 0));
        let granted = store.grant(ttl).await;
        let granted = granted.with_context(|| format!("cannot request the {}", self.what))?;
        let txn = self
            .conditions
            .if_absent(self.key)
            .put_leased(self.key, self.value, granted.lease);
        let written = store.commit(txn).await;
        if let Ok(TxnOutcome::Committed(committed)) = written {
            return Ok(RequestOutcome::Written(WrittenRequest {
                revision: committed.revision,
                at,
                timeout: self.timeout,
            }));
        }
        // Also ends a request whose write got no response.
        let revoked = store.revoke(granted.lease).await;
        match written {
            Ok(_) => Ok(RequestOutcome::Conflict),
            Err(error) => Err(failed_write(self.what, &error, revoked.is_ok(), ttl)),
        }
    }
}

fn failed_write(what: &str, error: &StoreError, is_withdrawn: bool, ttl: Duration) -> anyhow::Error {
    let cause = Chain(error);
    if !error.is_outcome_unknown() {
        anyhow!("cannot request the {what}: {cause}: it is not requested")
    } else if is_withdrawn {
        anyhow!(
            "cannot request the {what}: {cause}: if it was requested all the same, it is withdrawn now; `stolonctl \
             status` shows whether it was carried out before that"
        )
    } else {
        anyhow!(
            "cannot request the {what}: {cause}: if it is requested all the same, it ends after {}",
            GoDuration::from(ttl)
        )
    }
}

/// Deletes the request. Returns false if it is gone already, or another one is there.
pub(super) async fn withdraw(store: &Store, key: &str, written: WrittenRequest) -> Result<bool, StoreError> {
    let txn = Txn::new().if_unchanged(key, written.revision).delete(key);
    Ok(store.commit(txn).await?.committed().is_some())
}
