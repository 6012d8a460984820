//! Publishes the proxy info under a lease of the store. When it is published, and what a failure means, is left to the
//! check-in.

use std::time::Duration;

use base::clock::Boottime;
use base::{Clock, RandomBytes};
use model::{InfoUid, ProxyInfo, ProxyUid, short_uid, to_compact};
use store::{CommitOrRead, KeyRange, LeaseId, Store, StoreError, Txn, info_ttl};
use tokio::task::JoinHandle;

use super::document::Document;
use super::error::CheckInError;
use super::requests::{Publication, PublishRequests};
use super::step::{InfoContent, PublishOutcome};

/// Consecutive lease ids differ by at most 2^40: 62 random bits less these.
const LEASE_ID_STEP_SHIFT: u32 = 22;

/// The proxy info in the store: its lease, and the requests that publish it.
#[derive(Debug)]
pub(super) struct InfoPublisher {
    store: Store,
    me: ProxyUid,
    clock: Clock,
    random: RandomBytes,
    lease: Option<ProxyInfoLease>,
    /// Id of the lease that was requested last.
    last_lease: Option<LeaseId>,
    /// When the renewal of the lease was requested, and its result.
    renewal: Option<(Boottime, JoinHandle<Result<bool, StoreError>>)>,
    requests: PublishRequests,
    /// The generation that was last published, or may have been.
    published_generation: Option<i64>,
}

/// The lease of the store that the proxy info is attached to. It is renewed in the background, so that no check-in
/// waits for it.
#[derive(Debug, Clone, Copy)]
struct ProxyInfoLease {
    id: LeaseId,
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

    /// Whether it should be renewed now: a renewal and two check-ins of two responses each must fit in before it is too
    /// old to publish under.
    fn needs_renewal(self, latency: Duration, now: Boottime) -> bool {
        now.since(self.renewed_at) >= (self.ttl / 4).saturating_sub(latency.saturating_mul(5))
    }
}

impl InfoPublisher {
    pub(super) fn new(store: Store, me: ProxyUid, clock: Clock, random: RandomBytes) -> Self {
        Self {
            store,
            me,
            clock,
            random,
            lease: None,
            last_lease: None,
            renewal: None,
            requests: PublishRequests::default(),
            published_generation: None,
        }
    }

    /// Publishes the info, if the cluster data still have the revision of `content`. Takes at most `limit`.
    pub(super) async fn publish(
        &mut self,
        content: InfoContent,
        limit: Duration,
    ) -> Result<PublishOutcome, CheckInError> {
        let started = self.clock.now();
        let lease = self.lease(content.timeout, limit).await?;
        let publication = Publication {
            revision: content.revision,
            generation: content.generation,
            timeout: content.timeout,
            lease: lease.id,
        };
        self.published_generation = Some(content.generation);
        let left = limit.saturating_sub(self.clock.now().since(started));
        // Taken out, so that they end with a check-in that is dropped.
        let mut requests = std::mem::take(&mut self.requests);
        let answer = requests
            .send_until_answered(
                publication,
                left,
                || self.clock.now(),
                |sent| {
                    // Under a lease that ends sooner, the info would be gone while we still forward.
                    lease.outlives_a_check_in(sent).then(|| self.request(publication, left))
                },
            )
            .await;
        self.requests = requests;
        match answer {
            Ok((sent, CommitOrRead::Committed(_))) => Ok(PublishOutcome::Published(sent)),
            Ok((_, CommitOrRead::Read(mut read))) => {
                let current = Document::from_entry(read.take_one(0));
                if current.revision != content.revision {
                    return Ok(PublishOutcome::Changed(current));
                }
                // The condition on the lease failed. The next check-in takes a later one than the info has.
                self.lease = None;
                self.last_lease = self.last_lease.max(read.take_one(1).and_then(|info| info.lease));
                Err(CheckInError::LaterLease)
            }
            Err(Some(err)) => {
                if matches!(err, StoreError::Refused { .. }) {
                    self.lease = None; // the store may not have it any more
                }
                Err(err.into())
            }
            Err(None) => Err(CheckInError::TimedOut(limit)),
        }
    }

    /// Ignores the responses to all requests that are still to come.
    pub(super) fn discard_requests(&mut self) {
        self.requests.discard();
    }

    /// Whether an info was published, or may have been.
    pub(super) fn may_have_published(&self) -> bool {
        self.published_generation.is_some()
    }

    /// Publishes that the proxy has stopped (extensions ), if it has published before. `left` returns the time
    /// that is left for it.
    pub(super) async fn publish_stopped(
        &self,
        timeout: Duration,
        left: impl Fn() -> Duration,
    ) -> Result<(), StoreError> {
        let Some(generation) = self.published_generation else {
            return Ok(());
        };
        let lease = match &self.lease {
            Some(lease) => lease.id,
            None => {
                let ttl = info_ttl(timeout.saturating_mul(2));
                self.store.with_timeout(left()).grant(ttl).await?.lease
            }
        };
        let info = ProxyInfo {
            stopped: true,
            ..self.info(generation, timeout)
        };
        let key = self.store.keys().proxy_info(self.me.as_str());
        let txn = Txn::new().put_leased(&key, to_compact(&info), lease);
        self.store.with_timeout(left()).commit(txn).await.map(drop)
    }

    /// Applies the result of a finished renewal, and renews the lease in the background when a quarter of its TTL has
    /// passed; sooner on a slow store, so that no check-in has to request a new lease first.
    pub(super) async fn maintain_lease(&mut self) {
        self.finish_renewal().await;
        let (latency, now) = (self.store.latency(), self.clock.now());
        let Some(lease) = self.lease.filter(|lease| lease.needs_renewal(latency, now)) else {
            return;
        };
        if self.renewal.is_none() {
            let store = self.store.clone();
            let renewal = tokio::spawn(async move { store.renew(lease.id).await });
            self.renewal = Some((now, renewal));
        }
    }

    async fn finish_renewal(&mut self) {
        let Some((requested_at, renewal)) = self.renewal.take_if(|(_, renewal)| renewal.is_finished()) else {
            return;
        };
        match (renewal.await, &mut self.lease) {
            (Ok(Ok(true)), Some(lease)) => lease.renewed_at = requested_at,
            (Ok(Ok(false)), _) => self.lease = None,
            _ => {} // the next renewal is due already
        }
    }

    /// Returns the lease for the info (proxy P-3, store S-20): the current one, or a new one if the TTL has changed or
    /// the current one may have expired.
    async fn lease(&mut self, timeout: Duration, limit: Duration) -> Result<ProxyInfoLease, StoreError> {
        let (ttl, now) = (info_ttl(timeout.saturating_mul(2)), self.clock.now());
        let is_usable = |lease: &ProxyInfoLease| lease.ttl == ttl && lease.outlives_a_check_in(now);
        if let Some(lease) = self.lease.filter(is_usable) {
            return Ok(lease);
        }
        let id = later_lease(self.last_lease, &self.random);
        self.last_lease = Some(id);
        let renewed_at = self.clock.now();
        self.store.with_timeout(limit).grant_as(id, ttl).await?;
        self.renewal = None;
        let lease = ProxyInfoLease { id, ttl, renewed_at };
        self.lease = Some(lease);
        Ok(lease)
    }

    /// Returns one request that publishes, to be sent.
    ///
    /// The store refuses it once the info is attached to a later lease. Otherwise a delayed request could attach the
    /// info to its older lease, whose end would remove it while later answers still let us forward.
    fn request(
        &self,
        publication: Publication,
        limit: Duration,
    ) -> impl Future<Output = Result<CommitOrRead, StoreError>> + Send + use<> {
        let cluster_data = self.store.keys().cluster_data();
        let key = self.store.keys().proxy_info(self.me.as_str());
        let info = self.info(publication.generation, publication.timeout);
        let txn = Txn::new()
            .if_unchanged(&cluster_data, publication.revision)
            .if_lease_id_at_most(&key, publication.lease)
            .put_leased(&key, to_compact(&info), publication.lease);
        // A response that takes longer is useless. A request that cannot be sent in time makes room for a later one.
        let store = self.store.with_timeout(publication.timeout).sent_within(limit / 10 * 9);
        let targets = [KeyRange::Key(cluster_data), KeyRange::Key(key)];
        async move { store.commit_or_read(txn, &targets).await }
    }

    fn info(&self, generation: i64, timeout: Duration) -> ProxyInfo {
        ProxyInfo {
            info_uid: InfoUid::from(short_uid(self.random.bytes())),
            uid: self.me.clone(),
            generation,
            proxy_timeout: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            fenced: true,
            stopped: false,
        }
    }
}

/// Returns a random id, which is unused with high probability and greater than the last one, so that later leases have
/// greater ids.
fn later_lease(last: Option<LeaseId>, random: &RandomBytes) -> LeaseId {
    let random = LeaseId::from_random(random.bytes()).0;
    let later = last.and_then(|last| last.0.checked_add(1 + (random >> LEASE_ID_STEP_SHIFT)));
    // Halved, which leaves room for millions of later ids. After the greatest one, the store refuses the info until the
    // former one has expired.
    LeaseId(later.unwrap_or(random >> 1 | 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_has_a_greater_id_than_the_one_before() {
        let (mut last, random) = (None, RandomBytes::system());
        for _ in 0..100_000 {
            let next = later_lease(last, &random);
            assert!(last.is_none_or(|last| next > last) && next.0 > 0);
            last = Some(next);
        }
        assert!(later_lease(Some(LeaseId(i64::MAX)), &random).0 > 0);
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
