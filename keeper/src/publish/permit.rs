//! A put of the keeper's info on condition of the cluster data and the keeper's orders key: the request of the permit to
//! become master (extensions ), and the acceptance of an order to stop. How long a permit is valid, and for
//! what, is left to `executor::permit`.

use std::time::Duration;

use base::clock::Boottime;
use model::KeeperUid;
use store::{Entry, KeyRange, Revision, Store, StoreError, Txn};
use tracing::debug;

use crate::publish::info_key::{InfoKey, InfoPut, PutOutcome};

/// Attempts while only times and positions in the cluster data change.
const ATTEMPTS: usize = 8;

/// Result of requesting the permit (extensions ), or of accepting an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitResponse {
    /// The instance may become master, for half of failInterval from the sending of the granted request; or the order is
    /// accepted.
    Granted(Boottime),
    /// The cluster data or the keeper's orders key have changed: read them again.
    Refused,
}

/// What a permit, or the acceptance of an order, depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitConditions {
    /// Revision of the cluster data as read.
    pub cluster_data: Revision,
    /// Revision of the keeper's orders key: [`Revision::ABSENT`] for a permit.
    pub order: Revision,
}

/// A request of the permit, or the acceptance of an order.
pub(super) struct PermitRequest<'a> {
    pub(super) store: &'a Store,
    /// The keeper that requests it.
    pub(super) keeper: &'a KeeperUid,
    /// Maximum time between two publications.
    pub(super) interval: Duration,
}

impl PermitRequest<'_> {
    /// Sends it. It is granted if the cluster data and the keeper's orders key still have these revisions; the same
    /// transaction puts `info`.
    ///
    /// The leader writes times and positions at least once a sleepInterval. If the cluster data have changed,
    /// `is_unchanged` returns whether the desired state is still the same; then the request is repeated on the new
    /// revision.
    pub(super) async fn send(
        &self,
        key: &mut InfoKey,
        conditions: PermitConditions,
        info: impl Fn() -> String,
        is_unchanged: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<PermitResponse, StoreError> {
        let keys = self.store.keys();
        let order = keys.order(self.keeper.as_str());
        let mut cluster_data = conditions.cluster_data;
        let mut revision = key.revision(self.store).await?;
        for _ in 0..ATTEMPTS {
            let put = InfoPut {
                info: info(),
                revision,
                conditions: Txn::new()
                    .if_unchanged(&keys.cluster_data(), cluster_data)
                    .if_unchanged(&order, conditions.order),
                read: vec![KeyRange::Key(keys.cluster_data()), KeyRange::Key(order.clone())],
            };
            match key.put(self.store, put, self.interval).await? {
                PutOutcome::Put(sent) => return Ok(PermitResponse::Granted(sent)),
                PutOutcome::Conflict { found, mut read } => {
                    let data = read.take_one(0);
                    let now = data.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
                    // The sentinel writes times and positions all the time: a new revision alone must not refuse it.
                    let has_changed = now != cluster_data && !is_unchanged(data.as_ref());
                    let ordered = read.take_one(1).map_or(Revision::ABSENT, |entry| entry.mod_revision);
                    if ordered != conditions.order || has_changed {
                        return Ok(PermitResponse::Refused);
                    }
                    debug!(revision = %now, "only times and positions have changed, asking again");
                    (revision, cluster_data) = (found, now);
                }
            }
        }
        Ok(PermitResponse::Refused)
    }
}
