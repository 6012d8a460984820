//! The orders of keepers in the store, each under the lease of its leader (extensions ).

use std::collections::BTreeMap;
use std::time::Duration;

use base::clock::Boottime;
use model::{KeeperOrder, KeeperUid};

use super::keeper::SimOrder;
use crate::ObservedOrder;

/// The orders in the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders(BTreeMap<KeeperUid, StoredOrder>);

#[derive(Debug, Clone)]
struct StoredOrder {
    order: KeeperOrder,
    revision: i64,
    /// The leader whose lease it is under, and when that ends.
    leadership: u64,
    end: Boottime,
}

impl Orders {
    fn live(&self, now: Boottime) -> impl Iterator<Item = (&KeeperUid, &StoredOrder)> {
        self.0.iter().filter(move |(_, stored)| now < stored.end)
    }

    /// Returns the order that a keeper reads.
    pub(super) fn of(&self, keeper: &KeeperUid, is_closed: bool, now: Boottime) -> Option<SimOrder> {
        let (_, stored) = self.live(now).find(|(uid, _)| *uid == keeper)?;
        Some(SimOrder {
            order: stored.order.clone(),
            is_closed,
        })
    }

    /// Returns what a leader reads.
    pub(super) fn observed(&self, leadership: u64, now: Boottime) -> BTreeMap<KeeperUid, ObservedOrder> {
        let observed = |stored: &StoredOrder| ObservedOrder {
            revision: stored.revision,
            order: Some(stored.order.clone()),
            is_own: stored.leadership == leadership,
        };
        self.live(now)
            .map(|(uid, stored)| (uid.clone(), observed(stored)))
            .collect()
    }

    /// Returns the revision of the order of a keeper, if there is one.
    pub(super) fn revision(&self, keeper: &KeeperUid, now: Boottime) -> Option<i64> {
        let (_, stored) = self.live(now).find(|(uid, _)| *uid == keeper)?;
        Some(stored.revision)
    }

    pub(super) fn put(&mut self, keeper: KeeperUid, order: KeeperOrder, revision: i64, leadership: u64, end: Boottime) {
        let stored = StoredOrder {
            order,
            revision,
            leadership,
            end,
        };
        self.0.insert(keeper, stored);
    }

    pub(super) fn delete(&mut self, keeper: &KeeperUid) {
        self.0.remove(keeper);
    }

    /// Renews the lease of a leader, unless it has ended.
    pub(super) fn renew(&mut self, leadership: u64, now: Boottime, ttl: Duration) {
        let own = self.0.values_mut();
        for stored in own.filter(|stored| stored.leadership == leadership && now < stored.end) {
            stored.end = now + ttl;
        }
    }
}
