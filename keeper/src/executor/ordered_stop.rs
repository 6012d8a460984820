//! How long a stop on the order of a switchover waits for standbys (extensions ), and for whom it may wait. Whether to
//! stop is decided by `reconcile`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use model::{KeeperUid, SwitchoverRequest, from_slice};
use store::{KeyRange, Store};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::context::KeeperContext;
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::postgres::server::wal_senders;
use crate::reconcile::{AcceptedOrder, Goal, StopReason};

/// Interval of looking whether the switchover is over.
const POLL: Duration = Duration::from_secs(1);
/// A shutdown that takes no longer than this number of intervals is usual.
const USUAL_POLLS: u32 = 2;

/// Looks whether a switchover is over while its order to stop is carried out.
#[derive(Debug)]
pub(super) struct OrderedStop {
    me: KeeperUid,
    store: Store,
    instance: Arc<Instance>,
    walker: Walker,
}

impl OrderedStop {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            me: context.me.clone(),
            store: context.store.clone(),
            instance: Arc::clone(&context.instance),
            walker: Walker::default(),
        }
    }

    /// Ends what a stop that this goal requires waits for, once that is not needed any more.
    ///
    /// The master is wanted back as soon as its switchover is over: with a suspended standby it would be down for longer
    /// than failInterval, and that standby would be elected without what it lacks.
    pub(super) async fn hurry_if_over(&self, goal: &Goal) -> Infallible {
        let Goal::Stop(StopReason::Ordered(order)) = goal else {
            return pending().await;
        };
        let config = self.instance.config();
        let mut logged = BTreeSet::new();
        for polls in 1_u32.. {
            sleep(POLL).await;
            if self.is_over(order).await {
                break;
            }
            if polls > USUAL_POLLS
                && let Ok(Ok(found)) = timeout(POLL, wal_senders::connected(&config.data, &self.walker)).await
                && found != logged
            {
                let senders = found.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                warn!(
                    senders,
                    "postgres is still shutting down, and the receivers of these WAL senders must confirm everything \
                     before it ends"
                );
                logged = found;
            }
        }
        info!(db = %order.db, switchover = order.switchover, "the switchover is over, not waiting for standbys");
        wal_senders::end_repeatedly(&config.data, &self.walker).await
    }

    /// Returns whether neither an order nor the request of the switchover exists. While the request does, another sentinel
    /// may order the stop again and go on (extensions ).
    async fn is_over(&self, order: &AcceptedOrder) -> bool {
        let keys = self.store.keys();
        let ranges = [keys.order(self.me.as_str()), keys.switchover()].map(KeyRange::Key);
        match self.store.snapshot(&ranges).await {
            Ok(mut read) => {
                // One without a lease counts for nothing (data-model 8.6).
                let request = read.take_one(1).filter(|entry| entry.lease.is_some());
                let request = request.and_then(|entry| from_slice::<SwitchoverRequest>(&entry.value).ok());
                read.take_one(0).is_none() && request.is_none_or(|request| request.id != order.switchover)
            }
            Err(error) => {
                debug!(error = %Chain(&error), "could not read whether the switchover is over");
                false
            }
        }
    }
}
