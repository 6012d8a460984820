//! Leases: what a key's life hangs on.

use std::{fmt, time::Duration};

use etcd_client::LeaseGrantOptions;

use super::{RetryPolicy, Store, StoreError, etcd_fault::RequestKind};

/// No info lives shorter than this (store S-20, S-21).
pub const INFO_TTL_MIN: Duration = Duration::from_secs(20);

/// The longest that etcd grants, in seconds (its `lease/lessor.go`); it refuses more.
const TTL_MAX: i64 = 9_000_000_000;

/// What etcd-client says when a keepalive is answered with a TTL of zero (its `rpc/lease.rs`).
const LEASE_NOT_FOUND: &str = "lease not found";

/// What etcd says when a lease of this id was granted before (its `api/v3rpc/rpctypes/error.go`).
const LEASE_EXISTS: &str = "lease already exists";

/// A lease of the store; printed as in the names of election keys, in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl LeaseId {
    /// An id that no lease has: one of 2^62, by chance.
    pub fn random() -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system has random bytes, see getrandom(2)");
        Self(i64::from_ne_bytes(random) & (i64::MAX >> 1) | 1)
    }
}

/// A lease that the store has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Its id.
    pub lease: LeaseId,
    /// Its time to live, which may be more than was asked for (store S-23).
    pub ttl: Duration,
}

/// How long a lease still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTtl {
    /// Its whole time to live.
    pub granted: Duration,
    /// What is left of it, cut to whole seconds by etcd (sentinel E-6).
    pub remaining: Duration,
}

/// The TTL to ask for an info that is wanted to live this long: whole seconds, 20 s or more (store S-20).
pub fn info_ttl(wanted: Duration) -> Duration {
    Duration::from_secs(wanted.as_secs()).max(INFO_TTL_MIN)
}

impl Store {
    /// Asks for a lease of this many whole seconds, or of the most that there is.
    ///
    /// Sent again when nobody knows what became of it: a lease without keys runs out by itself (store S-31).
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseGrant, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(TTL_MAX).clamp(1, TTL_MAX);
        self.request("ask for a lease".to_owned(), RetryPolicy::Always, |client| async move {
            let answer = client.lease_client().grant(seconds, None).await?;
            Ok(LeaseGrant {
                lease: LeaseId(answer.id()),
                ttl: whole_seconds(answer.ttl()),
            })
        })
        .await
        .inspect(|_| self.connections.etcd_faults.record_success(RequestKind::Write))
    }

    /// The same for an id that was chosen here, see [`LeaseId::choose`].
    ///
    /// A renewal, or a put under it, may be sent before this is answered; one that arrives before the grant finds no lease.
    pub async fn grant_as(&self, lease: LeaseId, ttl: Duration) -> Result<(), StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(TTL_MAX).clamp(1, TTL_MAX);
        let ask = format!("ask for lease {lease}");
        self.request(ask, RetryPolicy::Always, |client| async move {
            let options = LeaseGrantOptions::new().with_id(lease.0);
            match client.lease_client().grant(seconds, Some(options)).await {
                // a copy of this request was quicker
                Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains(LEASE_EXISTS) => Ok(()),
                other => other.map(drop),
            }
        })
        .await
        .inspect(|()| self.connections.etcd_faults.record_success(RequestKind::Write))
    }

    /// Gives the lease its whole granted time to live again; false when the lease is gone.
    ///
    /// The new time runs from some moment between the call and the answer: count from before the call.
    pub async fn renew(&self, lease: LeaseId) -> Result<bool, StoreError> {
        self.request(
            format!("renew lease {lease}"),
            RetryPolicy::Always,
            |client| async move {
                // opening the stream sends one keepalive and waits for its answer
                match client.lease_client().keep_alive(lease.0).await {
                    Ok(_streams) => Ok(true),
                    Err(etcd_client::Error::LeaseKeepAliveError(why)) if why == LEASE_NOT_FOUND => Ok(false),
                    Err(error) => Err(error),
                }
            },
        )
        .await
    }

    /// Ends the lease, and with it every key that hangs on it. A lease that is gone already is no error.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.request(
            format!("revoke lease {lease}"),
            RetryPolicy::Always,
            |client| async move {
                match client.lease_client().revoke(lease.0).await {
                    Err(etcd_client::Error::GRpcStatus(status)) if status.code() == tonic::Code::NotFound => Ok(()),
                    other => other.map(drop),
                }
            },
        )
        .await
    }

    /// How long the lease still lives; nothing when it is gone.
    pub async fn remaining(&self, lease: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        self.request(
            format!("look at lease {lease}"),
            RetryPolicy::Always,
            |client| async move {
                let answer = client.lease_client().time_to_live(lease.0, None).await?;
                let (granted, remaining) = (whole_seconds(answer.granted_ttl()), whole_seconds(answer.ttl()));
                Ok((answer.ttl() >= 0).then_some(LeaseTtl { granted, remaining }))
            },
        )
        .await
    }
}

fn whole_seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_lives_twenty_seconds_or_what_is_wanted_without_its_fraction() {
        // store S-20 and corner case 3
        let ttl = |millis| info_ttl(Duration::from_millis(millis)).as_secs();
        assert_eq!((ttl(5_000), ttl(25_900), ttl(2 * 25_900)), (20, 25, 51));
    }
}
