//! What the store has of a switchover: the operator's request, and the orders of keepers (extensions X-2). Reports of
//! keepers are in `report`, what follows is left to `switchover`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::observation::{Observations, ObservedOrder};
use model::{ClusterData, KeeperUid, SwitchoverRequest};

/// The longest lease of an order.
const ORDER_TTL_MAX: Duration = Duration::from_secs(5);
/// The shortest lease of an order: the leader has to have the time to renew it.
const ORDER_TTL_MIN: Duration = Duration::from_secs(2);

/// Returns the lease of an order: it ends soon after its leader, and before failInterval has passed (extensions ).
pub fn order_ttl(fail_interval: Duration) -> Duration {
    (fail_interval / 2).clamp(ORDER_TTL_MIN, ORDER_TTL_MAX)
}

/// The request and the orders that were read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SwitchoverView<'a> {
    /// The request, and its revision.
    pub(crate) request: Option<&'a (SwitchoverRequest, i64)>,
    pub(crate) orders: &'a BTreeMap<KeeperUid, ObservedOrder>,
}

impl<'a> SwitchoverView<'a> {
    pub(crate) fn of(observations: &'a Observations) -> Self {
        Self {
            request: observations.switchover.as_ref(),
            orders: &observations.orders,
        }
    }

    /// Returns whether there is a request, or an order of a keeper of this cluster; others affect nobody. While there is,
    /// no failure is acted upon, and no master is announced (extensions ).
    pub(crate) fn is_live(&self, data: &ClusterData) -> bool {
        self.request.is_some() || self.orders.keys().any(|keeper| data.keepers().contains_key(keeper))
    }

    /// Returns the keepers that take part: those with an order, that of the master and the one that is to replace it.
    pub(crate) fn keepers(&self, data: &ClusterData) -> Vec<KeeperUid> {
        let mut keepers: Vec<KeeperUid> = self.orders.keys().cloned().collect();
        if let Some((request, _)) = self.request {
            let master = data.master_uid().and_then(|uid| data.dbs().get(uid));
            keepers.extend(master.map(|db| db.spec.keeper_uid.clone()));
            keepers.extend(request.to.clone());
        }
        keepers
    }
}
