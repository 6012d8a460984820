//! Writes the cluster data: a plan as leader, or the first data of a cluster. Each write is conditional on what was
//! read; what to write is left to `plan` and the loop.

use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock};
use model::{CheckedClusterData, ClusterData, ClusterSpec, ClusterUid, CreationRecord, Timestamp, to_compact};
use plan::{Condition, OrderFate, Plan, RequestFate, Urgency};
use store::election::Leader;
use store::{LeaseId, Revision, Store, StoreError, Txn, TxnOutcome};
use tracing::{debug, error, info, warn};

use crate::decode::DecodedSnapshot;
use crate::stale_reads::StaleReads;

/// The writes of this sentinel.
#[derive(Debug)]
pub(crate) struct DataWriter {
    store: Store,
    clock: Clock,
    last: Option<LastWrite>,
    stale_reads: StaleReads,
}

#[derive(Debug, Clone, Copy)]
struct LastWrite {
    at: Boottime,
    revision: Revision,
    urgency: Urgency,
}

/// The cluster data that a plan was made from, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedFrom<'a> {
    pub(crate) data: &'a CheckedClusterData,
    pub(crate) revision: Revision,
    /// The time just before the read was sent.
    pub(crate) began: Boottime,
    /// The lease of the orders that the plan puts.
    pub(crate) order_lease: Option<LeaseId>,
}

impl DataWriter {
    pub(crate) fn new(store: Store, clock: Clock) -> Self {
        Self {
            store,
            clock,
            last: None,
            stale_reads: StaleReads::default(),
        }
    }

    /// Writes a plan as leader (fencing F-7) and returns when it was written; none when a condition does not hold. The
    /// duration of the request is added to `own_requests`.
    pub(crate) async fn write_plan(
        &mut self,
        leader: &Leader,
        read: PlannedFrom<'_>,
        plan: &Plan,
        own_requests: &mut Duration,
    ) -> Result<Option<Boottime>, StoreError> {
        let txn = self.conditional_write(leader, read, plan);
        // What was read may be as old as the time since then, which must be less than what is left of the lease. A
        // request that waits for a connection is sent later, so that wait is limited, too.
        let sent = self.clock.now();
        let left = leader.lease_end().since(sent).saturating_sub(sent.since(read.began));
        if left.is_zero() {
            self.record_unsent_write(sent, read.data.spec.fail_interval);
            return Ok(None);
        }
        self.stale_reads.reset();
        let outcome = self.store.sent_within(left).commit(txn).await;
        *own_requests += self.clock.now().since(sent);
        let Some(revision) = outcome?.committed() else {
            return Ok(None);
        };
        let at = self.clock.now();
        self.last = Some(LastWrite {
            at,
            revision,
            urgency: plan.urgency,
        });
        Ok(Some(at))
    }

    /// Returns the transaction: this sentinel leads, and nothing that the plan depends on has changed since the read.
    fn conditional_write(&self, leader: &Leader, read: PlannedFrom<'_>, plan: &Plan) -> Txn {
        let keys = self.store.keys();
        let data = keys.cluster_data();
        let mut txn = leader.guard(Txn::new()).if_unchanged(&data, read.revision);
        for condition in &plan.conditions {
            txn = match condition {
                Condition::KeeperInfo { key, revision } => {
                    let revision = revision.map_or(Revision::ABSENT, Revision);
                    txn.if_unchanged(&keys.keeper_info(key), revision)
                }
                Condition::FailoverRequest { revision, fate } => {
                    with_request(txn, &keys.failover_request(), *revision, *fate)
                }
                Condition::Switchover { revision, fate } => with_request(txn, &keys.switchover(), *revision, *fate),
                Condition::Order { keeper, revision, fate } => {
                    let key = keys.order(keeper.as_str());
                    let txn = txn.if_unchanged(&key, revision.map_or(Revision::ABSENT, Revision));
                    match (fate, read.order_lease) {
                        (OrderFate::Deleted, _) => txn.delete(&key),
                        (OrderFate::Put(order), Some(lease)) => txn.put_leased(&key, to_compact(order), lease),
                        // An order without a lease could outlive its leader.
                        (OrderFate::Put(_), None) | (OrderFate::Kept, _) => txn,
                    }
                }
            };
        }
        txn.put(&data, to_compact(&plan.next))
    }

    fn record_unsent_write(&mut self, now: Boottime, fail_interval: Duration) {
        debug!("what was read is too old for what is left of the election lease");
        if self.stale_reads.record_unsent_write(now, fail_interval) {
            warn!(
                latency = ?self.store.latency(),
                "no cluster data could be written for failInterval: the store's responses are too slow for the election \
                 lease, so no failover is possible; check etcd's latency"
            );
        }
    }

    /// Returns when a periodic write is due, at this minimum interval; none before the first write.
    pub(crate) fn periodic_write_due(&self, interval: Duration) -> Option<Boottime> {
        self.last.map(|last| last.at + interval)
    }

    /// Returns whether a change is this sentinel's own last write and a periodic one, which needs no other round.
    pub(crate) fn is_own_periodic_write(&self, key: &str, revision: Revision) -> bool {
        self.last.is_some_and(|last| {
            last.urgency == Urgency::Periodic && last.revision == revision && key == self.store.keys().cluster_data()
        })
    }

    /// Records that this sentinel does not lead.
    pub(crate) fn end_leadership(&mut self) {
        self.stale_reads.reset();
    }

    /// Creates the first cluster data (sentinel B-1, B-3), unless a keeper has published since the read. Any sentinel
    /// may, whether or not it leads.
    pub(crate) async fn create(&self, spec: ClusterSpec, uid: ClusterUid, decoded: &DecodedSnapshot) {
        info!("writing initial cluster data");
        let now = Timestamp::from_unix_nanos(self.clock.wall());
        let data = ClusterData::initial(uid.clone(), now, spec);
        let keys = self.store.keys();
        let key = keys.cluster_data();
        let mut txn = Txn::new().if_unchanged(&key, decoded.revision);
        if decoded.observations.keeper_keys.is_empty() {
            txn = txn.if_none_below(&keys.keeper_infos());
        }
        let txn = txn
            .put(&key, to_compact(&data))
            .put(&keys.created(), to_compact(&CreationRecord::by_sentinel(uid)));
        match self.store.commit(txn).await {
            Ok(TxnOutcome::Committed(_)) => {}
            Ok(TxnOutcome::Conflict) => {
                info!("a sentinel has written the initial cluster data, or a keeper has appeared")
            }
            Err(error) => error!(error = %Chain(&error), "cannot create the cluster data"),
        }
    }
}

/// Adds the condition that the request of an operator is as it was read, and its deletion if it is done.
fn with_request(txn: Txn, key: &str, revision: i64, fate: RequestFate) -> Txn {
    let txn = txn.if_unchanged(key, Revision(revision));
    match fate {
        RequestFate::Kept => txn,
        RequestFate::Deleted => txn.delete(key),
    }
}
