//! How long a stop on the order of a switchover is of use (extensions ). Whether to stop is decided by `reconcile`.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use model::{KeeperUid, SwitchoverRequest, from_slice};
use store::{KeyRange, Store};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::context::KeeperContext;
use crate::executor::read_stopped;
use crate::postgres::instance::Instance;
use crate::reconcile::{AcceptedOrder, Goal, StopReason};

/// Interval of looking whether the switchover is over.
const POLL: Duration = Duration::from_secs(1);

/// Looks whether a switchover is over while its order to stop is carried out.
#[derive(Debug)]
pub(super) struct OrderedStop {
    me: KeeperUid,
    store: Store,
    instance: Arc<Instance>,
}

impl OrderedStop {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            me: context.me.clone(),
            store: context.store.clone(),
            instance: Arc::clone(&context.instance),
        }
    }

    /// Returns once a stop that this goal requires waits for nothing that is needed; never for another goal.
    ///
    /// After its shutdown checkpoint a server only waits until its standbys have received that, up to
    /// `wal_sender_timeout`. The master is wanted back as soon as its switchover is over: with a suspended standby it would
    /// be down for longer than failInterval, and that standby would be elected without what it lacks.
    pub(super) async fn unneeded(&self, goal: &Goal) {
        let Goal::Stop(StopReason::Ordered(order)) = goal else {
            return pending().await;
        };
        loop {
            sleep(POLL).await;
            if self.is_over(order).await && self.is_checkpoint_written().await {
                info!(db = %order.db, switchover = order.switchover, "the switchover is over, not waiting for standbys");
                return;
            }
        }
    }

    /// Returns whether neither an order nor the request of the switchover exists. While the request does, another sentinel
    /// may order the stop again and go on (extensions ).
    async fn is_over(&self, order: &AcceptedOrder) -> bool {
        let keys = self.store.keys();
        let ranges = [keys.order(self.me.as_str()), keys.switchover()].map(KeyRange::Key);
        match self.store.snapshot(&ranges).await {
            Ok(mut read) => {
                let request = read.take_one(1);
                let request = request.and_then(|entry| from_slice::<SwitchoverRequest>(&entry.value).ok());
                read.take_one(0).is_none() && request.is_none_or(|request| request.id != order.switchover)
            }
            Err(error) => {
                debug!(error = %Chain(&error), "could not read whether the switchover is over");
                false
            }
        }
    }

    /// Returns whether the data are complete: the server may then be stopped in any way.
    async fn is_checkpoint_written(&self) -> bool {
        read_stopped(&self.instance).await.is_ok_and(|stopped| stopped.clean)
    }
}
