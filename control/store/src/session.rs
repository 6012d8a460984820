//! A candidate's session: a lease, its renewals, and the time until which it is certainly valid. On a slow store the
//! candidate's key is moved to a longer lease. Leadership is left to `election`.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::election_ttl::{LatencyWindow, SAMPLE_INTERVAL, TtlChange, is_acceptable, ttl_for};
use crate::entry::{LeaseId, Revision};
use crate::error::StoreError;
use crate::lease::LeaseGrant;
use crate::store::Store;
use crate::txn::{Txn, TxnOutcome};
use base::Chain;
use base::clock::Boottime;

/// Leadership counts as lost this long before the lease can expire (store E-13).
const MARGIN: Duration = Duration::from_millis(500);
/// Maximum number of renewals in flight.
const RENEWALS_MAX: usize = 8;
/// A sample of the latency that is due within this time is taken with a renewal, which wakes the program in any case.
const SAMPLE_LEAD: Duration = Duration::from_millis(50);
/// Maximum number of leases requested until one fits the store.
const LEASE_GRANTS_MAX: u32 = 3;

/// The candidate's key, once it exists.
#[derive(Debug)]
struct CandidateKey {
    key: String,
    create_revision: Revision,
    uid: String,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    id: LeaseId,
    /// The TTL that is counted on.
    ttl: Duration,
    /// The requested TTL; longer than the one counted on while the key is being moved to a shorter lease. The store may
    /// grant more.
    requested: Duration,
    since: Boottime,
}

/// One session.
#[derive(Debug)]
pub(super) struct ElectionSession {
    lease: Mutex<Lease>,
    /// The lease that the candidate's key is being moved to: the key may have it already.
    next_lease: Mutex<Option<LeaseId>>,
    /// Until when the session is certainly valid, in nanoseconds of the boottime clock; 0 once closed.
    lease_end: Arc<AtomicU64>,
    candidate_key: OnceLock<CandidateKey>,
}

impl ElectionSession {
    /// Opens a session with a lease that fits the store's latency.
    pub(super) async fn open(store: &Store) -> Result<Self, StoreError> {
        let known = store.latency();
        let mut wanted = ttl_for(known);
        let mut fastest = Some(known).filter(|known| !known.is_zero());
        let mut left = LEASE_GRANTS_MAX;
        loop {
            let since = store.clock().now();
            let LeaseGrant { lease: id, ttl } = store.grant(wanted).await?;
            left -= 1;
            // The request has measured the store, better than what was known before: one slow response is not
            // representative.
            let took = store.clock().now().since(since);
            let latency = fastest.map_or(took, |fastest| fastest.min(took));
            fastest = Some(latency);
            let fitting = ttl_for(latency);
            if left > 0 && !is_acceptable(fitting, wanted, ttl) {
                wanted = fitting; // request another lease; this one expires
                continue;
            }
            let lease = Lease {
                id,
                ttl,
                requested: wanted,
                since,
            };
            let session = Self {
                lease: Mutex::new(lease),
                next_lease: Mutex::new(None),
                lease_end: Arc::new(AtomicU64::new(0)),
                candidate_key: OnceLock::new(),
            };
            session.renewed(since, ttl);
            return Ok(session);
        }
    }

    /// Returns the lease of the session.
    pub(super) fn lease(&self) -> LeaseId {
        self.lock().id
    }

    /// Returns every lease that the candidate's key may have: more than one while it is being moved.
    pub(super) fn leases(&self) -> Vec<LeaseId> {
        let next = *self.lock_next_lease();
        std::iter::once(self.lease()).chain(next).collect()
    }

    /// Returns the time until which the session is certainly valid; it is updated with each renewal.
    pub(super) fn shared_lease_end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lease_end)
    }

    /// Records that the candidate's key exists: from now on the session can move it to another lease.
    pub(super) fn entered(&self, key: &str, create_revision: Revision, uid: &str) {
        let entered = CandidateKey {
            key: key.to_owned(),
            create_revision,
            uid: uid.to_owned(),
        };
        // a session has one key, set once
        let _ = self.candidate_key.set(entered);
    }

    /// Ends the validity of the session.
    pub(super) fn close(&self) {
        self.lease_end.store(0, Ordering::Release);
    }

    /// Renews the lease until it is no longer certainly valid (store E-6, E-13).
    ///
    /// Renewals are timed from the sending of the last one and do not wait for its response, so a session stays valid
    /// as long as responses arrive, however late.
    pub(super) async fn keep_alive(&self, store: &Store) {
        let mut renewals = Renewals::default();
        let mut moving: Option<Pin<Box<dyn Future<Output = Option<Lease>> + Send + '_>>> = None;
        let mut sent = self.lock().since;
        let mut window = LatencyWindow::default();
        // not reset by other events: renewals and their responses may be more frequent
        let mut next_sample = sent + SAMPLE_INTERVAL;
        loop {
            let now = store.clock().now();
            let left = self.lease_end().since(now);
            if left.is_zero() {
                return;
            }
            let lease = *self.lock();
            let due = sent + renewal_interval(lease.ttl, renewals.is_empty());
            tokio::select! {
                biased;
                Some(answer) = renewals.join_next(), if !renewals.is_empty() => match answer {
                    Ok((id, at, Ok(true))) if id == lease.id => self.renewed(at, lease.ttl),
                    Ok((id, _, Ok(false))) if id == lease.id => return,
                    // of the previous lease
                    Ok((_, _, Ok(_))) => {}
                    Ok((_, _, Err(error))) => debug!(error = %Chain(&error), "could not renew the election lease"),
                    Err(error) => debug!(%error, "the task that renews the election lease failed"),
                },
                moved = finished(&mut moving) => {
                    moving = None;
                    if let Some(longer) = moved {
                        self.finish_move(longer);
                    }
                }
                () = sleep(due.since(now)), if renewals.len() < RENEWALS_MAX => {
                    sent = store.clock().now();
                    next_sample = sample_after_renewal(next_sample, sent);
                    let store = store.clone();
                    renewals.spawn(async move { (lease.id, sent, store.renew(lease.id).await) });
                }
                () = sleep(next_sample.since(now).min(left)) => {
                    let now = store.clock().now();
                    if next_sample <= now {
                        next_sample = now + SAMPLE_INTERVAL;
                        window.sample(store.latency());
                        if moving.is_none() {
                            moving = self.start_move(store, lease, &mut window, now);
                        }
                    }
                }
            }
        }
    }

    /// Starts the move to another lease, if one is due.
    fn start_move<'s>(
        &'s self,
        store: &Store,
        lease: Lease,
        window: &mut LatencyWindow,
        now: Boottime,
    ) -> Option<Pin<Box<dyn Future<Output = Option<Lease>> + Send + 's>>> {
        let entered = self.candidate_key.get()?;
        let change = window.due_change(lease.ttl, lease.requested)?;
        let (TtlChange::Lengthen(wanted) | TtlChange::Shorten(wanted)) = change;
        if matches!(change, TtlChange::Shorten(_)) {
            window.restart();
            // The key may have the shorter lease before the response arrives, so only that is counted on. A failed move
            // is repeated later.
            let mut lease = self.lock();
            lease.ttl = wanted.min(lease.ttl);
            drop(lease);
            self.lease_end
                .fetch_min(valid_until(now, wanted).as_nanos(), Ordering::AcqRel);
        }
        let store = store.clone();
        Some(Box::pin(async move {
            match self.change_lease(&store, entered, wanted).await {
                Ok(moved) => moved,
                Err(error) => {
                    debug!(error = %Chain(&error), "could not change the election lease");
                    None
                }
            }
        }))
    }

    fn finish_move(&self, lease: Lease) {
        info!(ttl = ?lease.ttl, "changed the TTL of the election lease");
        *self.lock() = lease;
        *self.lock_next_lease() = None;
        // the end is that of the new lease, which may be the shorter one
        self.lease_end
            .store(valid_until(lease.since, lease.ttl).as_nanos(), Ordering::Release);
    }

    /// Records the response to a renewal sent at this time.
    fn renewed(&self, sent: Boottime, ttl: Duration) {
        // responses may arrive out of order
        self.lease_end
            .fetch_max(valid_until(sent, ttl).as_nanos(), Ordering::AcqRel);
    }

    fn lease_end(&self) -> Boottime {
        Boottime::from_nanos(self.lease_end.load(Ordering::Acquire))
    }

    fn lock(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_next_lease(&self) -> MutexGuard<'_, Option<LeaseId>> {
        self.next_lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the candidate's key to another lease. Its creation revision stays, and with it the candidate's position
    /// and the condition of a leader's writes.
    ///
    /// If it is unknown whether the key was moved, the new lease is revoked: a put that arrives later is then refused,
    /// and a key that was moved already is deleted, which ends the leadership (`election`).
    async fn change_lease(
        &self,
        store: &Store,
        entered: &CandidateKey,
        wanted: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let former = *self.lock_next_lease();
        if let Some(former) = former {
            // of a move that failed
            store.revoke(former).await?;
            *self.lock_next_lease() = None;
        }
        let mut since = store.clock().now();
        let LeaseGrant { lease: id, ttl } = store.grant(wanted).await?;
        // before the put is sent, so that a session that ends meanwhile revokes this lease, too
        *self.lock_next_lease() = Some(id);
        let change = Txn::new()
            .if_created_at(&entered.key, entered.create_revision)
            .put_leased(&entered.key, entered.uid.as_str(), id);
        let committing = store.commit(change);
        tokio::pin!(committing);
        let outcome = loop {
            tokio::select! {
                outcome = &mut committing => break outcome,
                // the response may take as long as the TTL
                () = sleep(ttl / 3) => {
                    let sent = store.clock().now();
                    if let Ok(true) = store.renew(id).await {
                        since = sent;
                    }
                }
            }
        };
        match outcome {
            Ok(TxnOutcome::Committed(_)) => Ok(Some(Lease {
                id,
                ttl,
                requested: wanted,
                since,
            })),
            Ok(TxnOutcome::Conflict) => {
                store.revoke(id).await?;
                *self.lock_next_lease() = None;
                Ok(None)
            }
            Err(error) => {
                store.revoke(id).await?;
                *self.lock_next_lease() = None;
                Err(error)
            }
        }
    }
}

/// Renewals in flight: the lease, the time of sending, and the result.
type Renewals = JoinSet<(LeaseId, Boottime, Result<bool, StoreError>)>;

/// Returns the time from the last renewal to the next: shorter while a response is missing, so that a late or lost one
/// does not end the session.
fn renewal_interval(ttl: Duration, is_answered: bool) -> Duration {
    if is_answered { ttl / 5 } else { ttl / 6 }
}

/// Returns when the next sample of the latency is taken, after a renewal that is sent now.
fn sample_after_renewal(next_sample: Boottime, sent: Boottime) -> Boottime {
    if next_sample.before(SAMPLE_LEAD) <= sent {
        sent
    } else {
        next_sample
    }
}

/// Returns until when a lease granted or renewed at `sent` is counted on.
fn valid_until(sent: Boottime, ttl: Duration) -> Boottime {
    sent + ttl.saturating_sub(MARGIN.min(ttl / 4))
}

/// Waits for the end of a move; forever, when there is none.
async fn finished<T>(moving: &mut Option<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> T {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election_ttl::TTL;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn the_lease_of_a_slow_store_is_long_enough_for_a_read_and_the_sending_of_a_write() {
        // fencing F-7, at the worst moment: just before the next renewal is answered
        for latency in (0..=4000).map(|millis| millis * MILLI) {
            let ttl = ttl_for(latency);
            let end = valid_until(Boottime::default(), ttl);
            let next_answer = Boottime::default() + renewal_interval(ttl, true) + latency;
            assert!(end.since(next_answer) > latency, "{latency:?} {ttl:?}");
        }
    }

    #[test]
    fn a_sample_that_is_due_soon_is_taken_with_a_renewal() {
        let at = |millis: u64| Boottime::from_nanos(millis * 1_000_000);
        assert_eq!(sample_after_renewal(at(1_030), at(1_000)), at(1_000));
        assert_eq!(sample_after_renewal(at(990), at(1_000)), at(1_000));
        assert_eq!(sample_after_renewal(at(1_500), at(1_000)), at(1_500));
    }

    #[test]
    fn a_short_lease_survives_the_latencies_that_it_is_used_for() {
        // the store becomes slow while the TTL is the short one
        for latency in [1400, 3000].map(|millis| millis * MILLI) {
            let end = valid_until(Boottime::default(), TTL);
            let next_answer = Boottime::default() + renewal_interval(TTL, true) + latency;
            assert!(next_answer < end, "{latency:?}");
        }
    }
}
