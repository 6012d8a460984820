//! The lease of the orders that this sentinel gives as leader (extensions ). It ends soon after the leadership: only a
//! round that leads renews it. Which orders there are is left to `plan`.

use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock};
use plan::{Condition, Plan, order_ttl};
use store::{LeaseId, Store, StoreError};
use tracing::debug;

/// The lease is renewed after this part of its TTL.
const RENEWALS_PER_TTL: u32 = 3;

/// The lease, while there is one.
#[derive(Debug)]
pub(crate) struct OrderLease {
    store: Store,
    clock: Clock,
    held: Option<HeldOrderLease>,
}

#[derive(Debug, Clone, Copy)]
struct HeldOrderLease {
    lease: LeaseId,
    ttl: Duration,
    /// Just before it was last renewed.
    renewed: Boottime,
}

impl OrderLease {
    pub(crate) fn new(store: Store, clock: Clock) -> Self {
        Self {
            store,
            clock,
            held: None,
        }
    }

    /// Returns the lease under which the orders of this sentinel are, if it has given any.
    pub(crate) fn id(&self) -> Option<LeaseId> {
        self.held.map(|held| held.lease)
    }

    /// Renews the lease while an order stays, and returns it for those that the plan puts; none when it puts none. `left` is
    /// what is left of the election's lease: without that nothing is sent. The duration of the requests is added to
    /// `own_requests`.
    pub(crate) async fn keep_for(
        &mut self,
        plan: &Plan,
        fail_interval: Duration,
        left: Duration,
        own_requests: &mut Duration,
    ) -> Result<Option<LeaseId>, StoreError> {
        let puts_order = plan.conditions.iter().any(Condition::puts_order);
        if left.is_zero() || !(puts_order || plan.keeps_order) {
            return Ok(None);
        }
        let began = self.clock.now();
        let lease = if puts_order {
            self.for_order(order_ttl(fail_interval), left).await.map(Some)
        } else {
            // What the plan writes does not depend on it; the next round tries again.
            if let Err(error) = self.renew_if_due(left).await {
                debug!(error = %Chain(&error), "cannot renew the lease of an order");
            }
            Ok(None)
        };
        *own_requests += self.clock.now().since(began);
        lease
    }

    /// Returns a lease for another order: the one that is held, renewed, or a new one. The requests must be sent within
    /// `limit`.
    async fn for_order(&mut self, ttl: Duration, limit: Duration) -> Result<LeaseId, StoreError> {
        if self.held.is_some_and(|held| held.ttl == ttl) {
            self.renew(limit).await?;
        } else {
            self.held = None;
        }
        if let Some(held) = self.held {
            return Ok(held.lease);
        }
        let renewed = self.clock.now();
        let lease = self.store.sent_within(limit).grant(ttl).await?.lease;
        self.held = Some(HeldOrderLease { lease, ttl, renewed });
        Ok(lease)
    }

    /// Renews the lease if a part of its TTL has passed. The request must be sent within `limit`.
    async fn renew_if_due(&mut self, limit: Duration) -> Result<(), StoreError> {
        let now = self.clock.now();
        let is_due = |held: HeldOrderLease| now.since(held.renewed) >= held.ttl / RENEWALS_PER_TTL;
        match self.held {
            Some(held) if is_due(held) => self.renew(limit).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn renew(&mut self, limit: Duration) -> Result<(), StoreError> {
        let renewed = self.clock.now();
        let Some(held) = self.held else {
            return Ok(());
        };
        // One that has expired took its orders with it.
        let exists = self.store.sent_within(limit).renew(held.lease).await?;
        self.held = exists.then_some(HeldOrderLease { renewed, ..held });
        Ok(())
    }
}
