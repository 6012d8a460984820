//! Our info in the store, and the lease that it hangs on. When it is put, and what a failure means, is the check-in's
//! business.

use std::time::Duration;

use control::clock::Boottime;
use control::model::{InfoUid, ProxyInfo, short_uid, to_compact};
use control::store::{Attempt, LeaseId, Revision, StoreError, Target, Txn, info_ttl};

use super::copies::Content;
use super::document::Document;
use super::{CheckIn, Failed, now, random};

/// Ids of leases that follow each other differ by 2^40 at most: 62 bits of chance, less these.
const LEASE_ID_STEP_SHIFT: u32 = 22;

/// The lease of the store that our info hangs on. It is renewed apart from the check-ins, so that none waits for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct InfoLease {
    pub(super) id: LeaseId,
    ttl: Duration,
    renewed: Boottime,
}

impl InfoLease {
    /// Whether an info put now stays for longer than the check-in is good for, however the next ones go: the sentinel
    /// does not wait for a proxy whose info is gone (sentinel P-1).
    ///
    /// Its time to live is twice the proxyTimeout at least, and more than half of it has to be left: the sentinel takes
    /// our clock for right within 1 % (fencing F-6).
    fn outlives_a_check_in(self, now: Boottime) -> bool {
        now.since(self.renewed) < self.ttl / 20 * 9
    }

    /// Whether it should be renewed: a renewal and two check-ins of two answers each end before it is of no use.
    fn is_due(self, latency: Duration, now: Boottime) -> bool {
        now.since(self.renewed) >= (self.ttl / 4).saturating_sub(latency.saturating_mul(5))
    }
}

/// What came of a publication.
pub(super) enum Publication {
    /// It stands in the store; the lease runs from this time.
    Done(Boottime),
    /// Nothing was published: the cluster data have changed to these.
    Changed(Document),
}

impl CheckIn {
    /// Publishes our info if the cluster data are still those of this revision.
    pub(super) async fn publish(
        &mut self,
        cluster_data: &str,
        revision: Revision,
        generation: i64,
        timeout: Duration,
        limit: Duration,
    ) -> Result<Publication, Failed> {
        let started = now();
        // fencing F-2: the greater of the two, and of the first one alone, since nothing was forwarded before it
        let announced = self.in_force.map_or(timeout, |in_force| timeout.max(in_force.timeout));
        let lease = self.info_lease(announced, limit).await?;
        let content = Content {
            revision,
            generation,
            timeout: announced,
            lease: lease.id,
        };
        self.published = Some(generation);
        let left = limit.saturating_sub(now().since(started));
        let mut copies = std::mem::take(&mut self.copies);
        let answer = copies
            .answer(content, left, now, |sent| {
                // sent under a lease that ends sooner, the info would be gone while we still forward
                lease
                    .outlives_a_check_in(sent)
                    .then(|| self.copy(cluster_data, content, left))
            })
            .await;
        self.copies = copies;
        match answer {
            Ok((sent, Attempt::Committed(_))) => Ok(Publication::Done(sent)),
            Ok((_, Attempt::Read(mut read))) => Ok(Publication::Changed(Document::found(read.take_one(0)))),
            Err(Some(err)) => {
                if matches!(err, StoreError::Refused { .. }) {
                    self.lease = None; // it may be what the store does not know any more
                }
                Err(err.into())
            }
            Err(None) => Err(Failed::Late(limit)),
        }
    }

    /// One copy of an announcement, to be sent.
    ///
    /// The store refuses it once the info hangs on a later lease: a copy that comes late would take the info along when
    /// its own lease ends, while answers to later copies still let us forward.
    fn copy(
        &self,
        cluster_data: &str,
        content: Content,
        limit: Duration,
    ) -> impl Future<Output = Result<Attempt, StoreError>> + Send + use<> {
        let key = self.store.keys().proxy_info(self.me.as_str());
        let info = self.info(content.generation, content.timeout);
        let txn = Txn::new()
            .if_unchanged(cluster_data, content.revision)
            .if_leased_no_later(&key, content.lease)
            .put_leased(&key, to_compact(&info), content.lease);
        // An answer that is older than this is of no use. One that cannot be sent now makes room for a later one.
        let store = self.store.limited(content.timeout).sent_within(limit / 10 * 9);
        let cluster_data = [Target::Key(cluster_data.to_owned())];
        async move { store.commit_or_read(txn, &cluster_data).await }
    }

    pub(super) fn info(&self, generation: i64, timeout: Duration) -> ProxyInfo {
        ProxyInfo {
            info_uid: InfoUid::from(short_uid(random())),
            uid: self.me.clone(),
            generation,
            proxy_timeout: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            fenced: true,
            stopped: false,
        }
    }

    /// The lease for our info (P-3, store S-20): the present one, or a new one when its time to live has to change or
    /// it may be gone.
    async fn info_lease(&mut self, timeout: Duration, limit: Duration) -> Result<InfoLease, StoreError> {
        let ttl = info_ttl(timeout.saturating_mul(2));
        if let Some(lease) = self
            .lease
            .filter(|lease| lease.ttl == ttl && lease.outlives_a_check_in(now()))
        {
            return Ok(lease);
        }
        let id = later_lease(self.last_lease);
        self.last_lease = Some(id);
        let renewed = now();
        self.store.limited(limit).grant_as(id, ttl).await?;
        self.renewal = None;
        let lease = InfoLease { id, ttl, renewed };
        self.lease = Some(lease);
        Ok(lease)
    }

    /// Renews the lease of our info in the background when a quarter of its time has passed; on a slow store so much
    /// sooner that no check-in has to ask for another lease first.
    pub(super) fn renew_info_lease(&mut self) {
        let latency = self.store.latency();
        let Some(lease) = self.lease.filter(|lease| lease.is_due(latency, now())) else {
            return;
        };
        if self.renewal.is_none() {
            let store = self.store.clone();
            self.renewal = Some((now(), tokio::spawn(async move { store.renew(lease.id).await })));
        }
    }

    /// Takes the result of a renewal, if there is one.
    pub(super) async fn settle_renewal(&mut self) {
        let Some((asked_at, renewal)) = self.renewal.take_if(|(_, renewal)| renewal.is_finished()) else {
            return;
        };
        match (renewal.await, &mut self.lease) {
            (Ok(Ok(true)), Some(lease)) => lease.renewed = asked_at,
            (Ok(Ok(false)), _) => self.lease = None,
            _ => {} // the next one is due already
        }
    }
}

/// An id that no lease has, by chance, and that is greater than the last one: the order of the ids is that of the leases.
fn later_lease(last: Option<LeaseId>) -> LeaseId {
    let random = LeaseId::choose().0;
    let later = last.and_then(|last| last.0.checked_add(1 + (random >> LEASE_ID_STEP_SHIFT)));
    // room for millions of later ones; past the end the store refuses the info until the former one is gone
    LeaseId(later.unwrap_or(random >> 1))
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
    fn an_info_put_under_a_lease_stays_for_longer_than_anything_is_forwarded_after_it() {
        // The sentinel drops a proxy whose info is gone (sentinel P-1), whatever that proxy's own lease says.
        for timeout in [1, 3, 10, 15, 60, 3600].map(Duration::from_secs) {
            let lease = InfoLease {
                id: LeaseId(1),
                ttl: info_ttl(timeout * 2),
                renewed: Boottime::from_nanos(1_000_000_000),
            };
            let gone = lease.renewed + lease.ttl;
            let checked_in = (0..100)
                .map(|part| lease.renewed + lease.ttl * part / 100)
                .rfind(|at| lease.outlives_a_check_in(*at))
                .unwrap();
            assert!(checked_in + timeout.mul_f64(1.01) < gone, "{timeout:?}");
        }
    }
}
