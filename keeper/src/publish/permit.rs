//! The request of the permit to become master (extensions ): a put of the keeper's info on further conditions. How
//! long it is valid, and for what, is left to `executor::permit`.

use std::time::Duration;

use base::clock::Boottime;
use model::KeeperUid;
use store::{Entry, KeyRange, Revision, Store, StoreError, Txn};
use tracing::debug;

use crate::publish::info_key::{InfoKey, InfoPut, PutOutcome};

/// Attempts of a permit while only times and positions in the cluster data change.
const ATTEMPTS: usize = 8;

/// Result of requesting the permit (extensions ).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitResponse {
    /// The instance may become master, for half of failInterval from the sending of the granted request.
    Granted(Boottime),
    /// The cluster data have changed, or the keeper's orders key exists: read the cluster data again.
    Refused,
}

/// A request of the permit.
pub(super) struct PermitRequest<'a> {
    pub(super) store: &'a Store,
    /// The keeper that requests it.
    pub(super) keeper: &'a KeeperUid,
    /// Maximum time between two publications.
    pub(super) interval: Duration,
}

impl PermitRequest<'_> {
    /// Sends it. The permit is granted if the cluster data still have this revision and the keeper's orders key does not
    /// exist; the same transaction puts `info`.
    ///
    /// The leader writes times and positions at least once a sleepInterval. If the cluster data have changed,
    /// `is_unchanged` returns whether the desired state is still the same; then the permit is requested on the new
    /// revision.
    pub(super) async fn send(
        &self,
        key: &mut InfoKey,
        mut cluster_data: Revision,
        info: impl Fn() -> String,
        is_unchanged: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<PermitResponse, StoreError> {
        let keys = self.store.keys();
        let order = keys.order(self.keeper.as_str());
        let mut revision = key.revision(self.store).await?;
        for _ in 0..ATTEMPTS {
            let put = InfoPut {
                info: info(),
                revision,
                conditions: Txn::new()
                    .if_unchanged(&keys.cluster_data(), cluster_data)
                    .if_absent(&order),
                read: vec![KeyRange::Key(keys.cluster_data()), KeyRange::Key(order.clone())],
            };
            match key.put(self.store, put, self.interval).await? {
                PutOutcome::Put(sent) => return Ok(PermitResponse::Granted(sent)),
                PutOutcome::Conflict { found, mut read } => {
                    let data = read.take_one(0);
                    let now = data.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
                    // The sentinel writes times and positions all the time: a new revision alone must not refuse the
                    // permit.
                    let has_changed = now != cluster_data && !is_unchanged(data.as_ref());
                    if read.take_one(1).is_some() || has_changed {
                        return Ok(PermitResponse::Refused);
                    }
                    debug!(revision = %now, "only times and positions have changed, asking for the permit again");
                    (revision, cluster_data) = (found, now);
                }
            }
        }
        Ok(PermitResponse::Refused)
    }
}
