//! Conditions of the store under which a plan may be written. That they hold is checked in the transaction of the
//! write.

use model::{KeeperOrder, KeeperUid};

/// A condition of the store, besides those of every leader's write (fencing F-7), under which a plan may be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// This keeper's info is unchanged since it was read. If it has published anything since, the plan is
    /// made again (extensions ).
    KeeperInfo {
        /// The name of the info: its key after the prefix of all keeper infos.
        key: String,
        /// The revision of its last put; none: the key must not exist.
        revision: Option<i64>,
    },
    /// The operator's request for a failover is as it was read (synchronous SY-20).
    FailoverRequest {
        /// The revision of its put.
        revision: i64,
        /// What the write does with it.
        fate: RequestFate,
    },
    /// The operator's request for a switchover is as it was read (extensions X-2).
    Switchover {
        /// The revision of its put.
        revision: i64,
        /// What the write does with it.
        fate: RequestFate,
    },
    /// The order of a keeper is as it was read (extensions ).
    Order {
        /// The keeper.
        keeper: KeeperUid,
        /// The revision of its put; none: there is no order.
        revision: Option<i64>,
        /// What the write does with it.
        fate: OrderFate,
    },
}

impl Condition {
    /// Returns whether the write puts an order, which needs a lease.
    pub fn puts_order(&self) -> bool {
        matches!(
            self,
            Self::Order {
                fate: OrderFate::Put(_),
                ..
            }
        )
    }

    /// Returns whether the write changes the key that this is about.
    pub(crate) fn changes_key(&self) -> bool {
        match self {
            Self::KeeperInfo { .. } => false,
            Self::FailoverRequest { fate, .. } | Self::Switchover { fate, .. } => *fate == RequestFate::Deleted,
            Self::Order { fate, .. } => *fate != OrderFate::Kept,
        }
    }
}

/// What a write does with the request of an operator that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestFate {
    /// It stays: there is more to do.
    Kept,
    /// It is deleted: it has been done.
    Deleted,
}

/// What a write does with the order of a keeper that it depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrderFate {
    /// It stays as it is.
    Kept,
    /// It is deleted.
    Deleted,
    /// This one is put in its place, under the lease of this leader's orders.
    Put(KeeperOrder),
}
