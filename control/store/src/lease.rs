//! Leases: grant, renew, revoke, query; `Store` describes what each does. Renewal in time is left to the callers.

use std::time::Duration;

use etcd_client::LeaseGrantOptions;

use crate::entry::LeaseId;
use crate::error::StoreError;
use crate::metrics::Operation;
use crate::requester::{Requester, RetryPolicy};

/// Minimum TTL of an info (store S-20, S-21).
pub const INFO_TTL_MIN: Duration = Duration::from_secs(20);

/// Maximum TTL that etcd grants, in seconds (its `lease/lessor.go`); it refuses more.
const TTL_MAX: i64 = 9_000_000_000;

/// The error of etcd when a lease with this id exists (its `api/v3rpc/rpctypes/error.go`).
const LEASE_EXISTS: &str = "lease already exists";

/// A granted lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Its id.
    pub lease: LeaseId,
    /// Its TTL, which may be more than was requested (store S-23).
    pub ttl: Duration,
}

/// The TTL of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTtl {
    /// The granted TTL.
    pub granted: Duration,
    /// The remaining time, truncated to whole seconds by etcd (sentinel E-6).
    pub remaining: Duration,
}

/// Returns the TTL of an info that should exist for this long: whole seconds, at least 20 s (store S-20).
pub fn info_ttl(wanted: Duration) -> Duration {
    Duration::from_secs(wanted.as_secs()).max(INFO_TTL_MIN)
}

pub(crate) async fn grant(requester: &Requester, ttl: Duration) -> Result<LeaseGrant, StoreError> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(TTL_MAX).clamp(1, TTL_MAX);
    requester
        .send(
            Operation::Lease,
            "request a lease".to_owned(),
            RetryPolicy::Always,
            |connection| async move {
                let answer = connection.client().lease_client().grant(seconds, None).await?;
                Ok(LeaseGrant {
                    lease: LeaseId(answer.id()),
                    ttl: whole_seconds(answer.ttl()),
                })
            },
        )
        .await
        .inspect(|_| requester.record_write())
}

pub(crate) async fn grant_as(requester: &Requester, lease: LeaseId, ttl: Duration) -> Result<(), StoreError> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(TTL_MAX).clamp(1, TTL_MAX);
    let request = format!("request lease {lease}");
    requester
        .send(
            Operation::Lease,
            request,
            RetryPolicy::Always,
            |connection| async move {
                let options = LeaseGrantOptions::new().with_id(lease.0);
                match connection.client().lease_client().grant(seconds, Some(options)).await {
                    // a repetition of this request arrived first
                    Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains(LEASE_EXISTS) => Ok(()),
                    other => other.map(drop),
                }
            },
        )
        .await
        .inspect(|()| requester.record_write())
}

pub(crate) async fn renew(requester: &Requester, lease: LeaseId) -> Result<bool, StoreError> {
    requester
        .send(
            Operation::Lease,
            format!("renew lease {lease}"),
            RetryPolicy::Always,
            |connection| async move { connection.renew(lease).await },
        )
        .await
}

pub(crate) async fn revoke(requester: &Requester, lease: LeaseId) -> Result<(), StoreError> {
    requester
        .send(
            Operation::Lease,
            format!("revoke lease {lease}"),
            RetryPolicy::Always,
            |connection| async move {
                match connection.client().lease_client().revoke(lease.0).await {
                    Err(etcd_client::Error::GRpcStatus(status)) if status.code() == tonic::Code::NotFound => Ok(()),
                    other => other.map(drop),
                }
            },
        )
        .await
}

pub(crate) async fn remaining(requester: &Requester, lease: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
    requester
        .send(
            Operation::Lease,
            format!("query lease {lease}"),
            RetryPolicy::Always,
            |connection| async move {
                let answer = connection.client().lease_client().time_to_live(lease.0, None).await?;
                let (granted, remaining) = (whole_seconds(answer.granted_ttl()), whole_seconds(answer.ttl()));
                Ok((answer.ttl() >= 0).then_some(LeaseTtl { granted, remaining }))
            },
        )
        .await
}

fn whole_seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_of_an_info_is_at_least_twenty_seconds_and_truncated() {
        // store S-20 and corner case 3
        let ttl = |millis| info_ttl(Duration::from_millis(millis)).as_secs();
        assert_eq!((ttl(5_000), ttl(25_900), ttl(2 * 25_900)), (20, 25, 51));
    }

    #[test]
    fn an_info_outlives_one_interval_of_any_length() {
        for interval in [
            Duration::ZERO,
            Duration::from_millis(10_999),
            Duration::from_secs(1 << 33),
            Duration::from_secs(u64::MAX),
        ] {
            assert!(info_ttl(interval.saturating_mul(2)) >= interval);
        }
    }
}
