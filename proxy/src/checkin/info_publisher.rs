//! Publishes the proxy info under a lease of the store. When it is published, and what a failure means, is left to the
//! check-in.

use std::time::Duration;

use base::RandomBytes;
use base::clock::Boottime;
use model::{InfoUid, ProxyInfo, short_uid, to_compact};
use store::{CommitOrRead, KeyRange, LeaseId, Revision, StoreError, Txn, info_ttl};

use super::document::Document;
use super::requests::Publication;
use super::{CheckIn, CheckInError, now, random_bytes};

/// Consecutive lease ids differ by at most 2^40: 62 random bits less these.
const LEASE_ID_STEP_SHIFT: u32 = 22;

/// The lease of the store that the proxy info is attached to. It is renewed in the background, so that no check-in
/// waits for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProxyInfoLease {
    pub(super) id: LeaseId,
    ttl: Duration,
    renewed_at: Boottime,
}

impl ProxyInfoLease {
    /// Whether an info put now outlives the check-in's own lease, even if no renewal succeeds: the sentinel does not
    /// wait for a proxy whose info is gone (sentinel P-1).
    ///
    /// Its TTL is at least twice the proxyTimeout, and more than half of it must be left: the sentinel assumes that our
    /// clock is right within 1 % (fencing F-6).
    fn outlives_a_check_in(self, now: Boottime) -> bool {
        now.since(self.renewed_at) < self.ttl / 20 * 9
    }

    /// Whether it should be renewed now: a renewal and two check-ins of two answers each must fit in before it is too
    /// old to publish under.
    fn needs_renewal(self, latency: Duration, now: Boottime) -> bool {
        now.since(self.renewed_at) >= (self.ttl / 4).saturating_sub(latency.saturating_mul(5))
    }
}

/// The result of publishing.
pub(super) enum PublishOutcome {
    /// The store has the info. The check-in's lease begins at this time.
    Published(Boottime),
    /// Nothing was published, because the cluster data have changed to these.
    Changed(Document),
}

impl CheckIn {
    /// Publishes the info, if the cluster data still have this revision.
    pub(super) async fn publish(
        &mut self,
        cluster_data: &str,
        revision: Revision,
        generation: i64,
        timeout: Duration,
        limit: Duration,
    ) -> Result<PublishOutcome, CheckInError> {
        let started = now();
        // The greater of the old and the new timeout (fencing F-2). Without an old one nothing has been forwarded yet,
        // so the new one will do.
        let published_timeout = self
            .applied_timing
            .map_or(timeout, |applied| timeout.max(applied.timeout));
        let lease = self.info_lease(published_timeout, limit).await?;
        let publication = Publication {
            revision,
            generation,
            timeout: published_timeout,
            lease: lease.id,
        };
        self.published_generation = Some(generation);
        let left = limit.saturating_sub(now().since(started));
        let mut requests = std::mem::take(&mut self.requests);
        let answer = requests
            .send_until_answered(publication, left, now, |sent| {
                // Under a lease that ends sooner, the info would be gone while we still forward.
                lease
                    .outlives_a_check_in(sent)
                    .then(|| self.publish_request(cluster_data, publication, left))
            })
            .await;
        self.requests = requests;
        match answer {
            Ok((sent, CommitOrRead::Committed(_))) => Ok(PublishOutcome::Published(sent)),
            Ok((_, CommitOrRead::Read(mut read))) => {
                let current = Document::from_entry(read.take_one(0));
                if current.revision != revision {
                    return Ok(PublishOutcome::Changed(current));
                }
                // The condition on the lease failed. The next check-in takes a later one than the info has.
                self.info_lease = None;
                self.last_lease = self.last_lease.max(read.take_one(1).and_then(|info| info.lease));
                Err(CheckInError::LaterLease)
            }
            Err(Some(err)) => {
                if matches!(err, StoreError::Refused { .. }) {
                    self.info_lease = None; // the store may not have it any more
                }
                Err(err.into())
            }
            Err(None) => Err(CheckInError::TimedOut(limit)),
        }
    }

    /// Returns one request that publishes, to be sent.
    ///
    /// The store rejects it once the info is attached to a later lease. Otherwise a delayed request could attach the
    /// info to its older lease, whose end would remove it while later answers still let us forward.
    fn publish_request(
        &self,
        cluster_data: &str,
        publication: Publication,
        limit: Duration,
    ) -> impl Future<Output = Result<CommitOrRead, StoreError>> + Send + use<> {
        let key = self.store.keys().proxy_info(self.me.as_str());
        let info = self.info(publication.generation, publication.timeout);
        let txn = Txn::new()
            .if_unchanged(cluster_data, publication.revision)
            .if_leased_no_later(&key, publication.lease)
            .put_leased(&key, to_compact(&info), publication.lease);
        // An answer that takes longer is useless. A request that cannot be sent in time makes room for a later one.
        let store = self.store.with_timeout(publication.timeout).sent_within(limit / 10 * 9);
        let targets = [KeyRange::Key(cluster_data.to_owned()), KeyRange::Key(key)];
        async move { store.commit_or_read(txn, &targets).await }
    }

    pub(super) fn info(&self, generation: i64, timeout: Duration) -> ProxyInfo {
        ProxyInfo {
            info_uid: InfoUid::from(short_uid(random_bytes())),
            uid: self.me.clone(),
            generation,
            proxy_timeout: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            fenced: true,
            stopped: false,
        }
    }

    /// Returns the lease for the info (proxy P-3, store S-20): the current one, or a new one if the TTL has changed or
    /// the current one may have expired.
    async fn info_lease(&mut self, timeout: Duration, limit: Duration) -> Result<ProxyInfoLease, StoreError> {
        let ttl = info_ttl(timeout.saturating_mul(2));
        if let Some(lease) = self
            .info_lease
            .filter(|lease| lease.ttl == ttl && lease.outlives_a_check_in(now()))
        {
            return Ok(lease);
        }
        let id = later_lease(self.last_lease);
        self.last_lease = Some(id);
        let renewed_at = now();
        self.store.with_timeout(limit).grant_as(id, ttl).await?;
        self.lease_renewal = None;
        let lease = ProxyInfoLease { id, ttl, renewed_at };
        self.info_lease = Some(lease);
        Ok(lease)
    }

    /// Renews the lease in the background when a quarter of its TTL has passed; sooner on a slow store, so that no
    /// check-in has to request a new lease first.
    pub(super) fn renew_info_lease(&mut self) {
        let latency = self.store.latency();
        let Some(lease) = self.info_lease.filter(|lease| lease.needs_renewal(latency, now())) else {
            return;
        };
        if self.lease_renewal.is_none() {
            let store = self.store.clone();
            self.lease_renewal = Some((now(), tokio::spawn(async move { store.renew(lease.id).await })));
        }
    }

    /// Applies the result of a finished renewal.
    pub(super) async fn finish_lease_renewal(&mut self) {
        let Some((requested_at, renewal)) = self.lease_renewal.take_if(|(_, renewal)| renewal.is_finished()) else {
            return;
        };
        match (renewal.await, &mut self.info_lease) {
            (Ok(Ok(true)), Some(lease)) => lease.renewed_at = requested_at,
            (Ok(Ok(false)), _) => self.info_lease = None,
            _ => {} // the next renewal is due already
        }
    }
}

/// Returns a random id, which is unused with high probability and greater than the last one, so that later leases have
/// greater ids.
fn later_lease(last: Option<LeaseId>) -> LeaseId {
    let random = LeaseId::from_random(RandomBytes::system().bytes()).0;
    let later = last.and_then(|last| last.0.checked_add(1 + (random >> LEASE_ID_STEP_SHIFT)));
    // Halved, which leaves room for millions of later ids. After the greatest one, the store rejects the info until the
    // former one has expired.
    LeaseId(later.unwrap_or(random >> 1 | 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_has_a_greater_id_than_the_one_before() {
        let mut last = None;
        for _ in 0..100_000 {
            let next = later_lease(last);
            assert!(last.is_none_or(|last| next > last) && next.0 > 0);
            last = Some(next);
        }
        assert!(later_lease(Some(LeaseId(i64::MAX))).0 > 0);
    }

    #[test]
    fn a_published_info_outlives_the_forwarding_that_it_allows() {
        // The sentinel ignores a proxy whose info is gone (sentinel P-1), whatever that proxy's own lease is.
        for timeout in [1, 3, 10, 15, 60, 3600].map(Duration::from_secs) {
            let lease = ProxyInfoLease {
                id: LeaseId(1),
                ttl: info_ttl(timeout * 2),
                renewed_at: Boottime::from_nanos(1_000_000_000),
            };
            let gone = lease.renewed_at + lease.ttl;
            let checked_in = (0..100)
                .map(|part| lease.renewed_at + lease.ttl * part / 100)
                .rfind(|at| lease.outlives_a_check_in(*at))
                .unwrap();
            assert!(checked_in + timeout.mul_f64(1.01) < gone, "{timeout:?}");
        }
    }
}
