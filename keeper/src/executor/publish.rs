//! Steps whose result other programs read in the store: the permit to become master, the acceptance of an order, the
//! end of a stopped instance's data, and how far a restart for parameters is. Writing the info is left to `crate::publish`.

use std::sync::Arc;

use model::{BootUuid, ClusterUid, DbUid, KeeperUid, RestartState, SettingsInfo, Stopped};
use store::Entry;
use tracing::info;

use crate::cluster_data::cluster_data_state;
use crate::context::KeeperContext;
use crate::executor::{StepContext, StepError};
use crate::local::state::LocalState;
use crate::metrics::Metrics;
use crate::postgres::instance::Instance;
use crate::postgres::programs::wal_end::{self, WalEndError};
use crate::publish::{Due, PermitResponse, Publisher};
use crate::reconcile::{
    AcceptedOrder, Desired, Goal, ProcessState, RestartNeed, desired_state, desired_under_order, fingerprint,
};

/// Publishes results of steps.
#[derive(Debug)]
pub(super) struct PublishSteps {
    me: KeeperUid,
    boot: BootUuid,
    publisher: Arc<Publisher>,
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    metrics: Arc<Metrics>,
}

impl PublishSteps {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            me: context.me.clone(),
            boot: context.boot.clone(),
            publisher: Arc::clone(&context.publisher),
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            metrics: Arc::clone(&context.metrics),
        }
    }

    /// Saves the cluster uid, which the info carries from now on.
    pub(super) async fn save_cluster(&self, cluster: &ClusterUid) -> Result<(), StepError> {
        let (local, saved) = (Arc::clone(&self.local), cluster.clone());
        self.instance
            .access()
            .write(move |_| local.save_cluster(&saved))
            .await?;
        self.publisher
            .change(Due::Now, |report| report.cluster = cluster.clone());
        Ok(())
    }

    /// Publishes that the instance of this db is stopped, and how.
    pub(super) async fn publish_stopped(&self, db: &DbUid, process: &mut ProcessState) -> Result<(), StepError> {
        let stopped = read_stopped(&self.instance).await?;
        info!(%db, clean = stopped.clean, "publishing that our db is stopped");
        self.publisher.change(Due::Now, |report| {
            report.stopped = Some(stopped);
            if let Some(state) = &mut report.state {
                state.healthy = false;
            }
        });
        process.published_stopped = Some(db.clone());
        Ok(())
    }

    /// Withdraws the publication that the instance is stopping or stopped.
    pub(super) fn withdraw_stopped(&self, process: &mut ProcessState) {
        (process.published_stopped, process.accepted_order) = (None, None);
        self.publisher.change(Due::Now, |report| {
            report.stopping.clear();
            report.stopped = None;
        });
    }

    /// Accepts an order to stop, if the order and the desired state that follows from it still hold (extensions ).
    pub(super) async fn accept_order(
        &self,
        order: &AcceptedOrder,
        context: &StepContext<'_>,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        let is_unchanged = |entry: Option<&Entry>| {
            let data = cluster_data_state(entry);
            let desired = desired_state(&data, &self.me, &self.boot);
            desired_under_order(desired, &data, context.order) == *context.desired
        };
        let accepted = self
            .publisher
            .accept_order(context.revisions, &order.switchover, is_unchanged);
        let accepted = accepted.await;
        if accepted.is_err() {
            // It may be published all the same; the next publication corrects that.
            self.publisher.change(Due::Now, |_| {});
        }
        match accepted? {
            PermitResponse::Granted(_) => {
                info!(db = %order.db, switchover = order.switchover, "accepted the order to stop postgres");
                (process.published_stopped, process.accepted_order) = (None, Some(order.clone()));
                Ok(())
            }
            PermitResponse::Refused => Err(StepError::OrderChanged),
        }
    }

    /// Requests the permit on this revision of the cluster data; its validity counts from before the request
    /// (extensions ).
    pub(super) async fn request_permit(
        &self,
        context: &mut StepContext<'_>,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        let desired = context.desired;
        let is_unchanged = |entry: Option<&Entry>| {
            let state = cluster_data_state(entry);
            desired_state(&state, &self.me, &self.boot) == *desired
        };
        match self
            .publisher
            .permit(context.revisions.cluster_data, is_unchanged)
            .await?
        {
            PermitResponse::Granted(sent) => {
                context.permit.grant(sent);
                (process.published_stopped, process.accepted_order) = (None, None);
                Ok(())
            }
            PermitResponse::Refused => Err(StepError::PermitRefused(self.me.clone())),
        }
    }

    /// Publishes whether parameters are pending restart, for operators and the other keepers.
    pub(super) fn publish_restart_need(&self, need: RestartNeed, has_reverted: bool, desired: &Desired) {
        let state = match need {
            RestartNeed::NotProbed => return,
            RestartNeed::Pending => RestartState::Pending,
            RestartNeed::Nothing | RestartNeed::CanWait if has_reverted => RestartState::Refused,
            RestartNeed::Nothing | RestartNeed::CanWait => RestartState::Applied,
        };
        self.metrics.set_needs_restart(need != RestartNeed::Nothing);
        self.publish_restart_state(desired, state);
    }

    /// Publishes the progress of applying the desired parameters.
    pub(super) fn publish_restart_state(&self, desired: &Desired, state: RestartState) {
        let Goal::Run(target) = &desired.goal else { return };
        let settings = Some(SettingsInfo {
            fingerprint: fingerprint(target),
            state,
        });
        if self.publisher.report().settings != settings {
            self.publisher.change(Due::Now, |report| report.settings = settings);
        }
    }
}

/// Returns the end of a stopped instance's data (extensions ).
pub async fn read_stopped(instance: &Instance) -> Result<Stopped, WalEndError> {
    let config = instance.config();
    let end = wal_end::wal_end(instance.programs(), instance.access(), config.request_timeout).await?;
    Ok(Stopped {
        clean: end.is_clean(),
        lsn: end.position,
        timeline_id: end.timeline,
    })
}
