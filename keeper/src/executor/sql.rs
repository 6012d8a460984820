//! Steps that query or change the running server with SQL: roles, initial parameters, replication slots, streaming.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use model::DbUid;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::args::Config;
use crate::context::KeeperContext;
use crate::executor::StepError;
use crate::local::state::LocalState;
use crate::monitor::Monitor;
use crate::postgres::client::roles;
use crate::postgres::instance::Instance;
use crate::problems::{KeeperProblemKind, Problems};
use crate::reconcile::{AheadStandby, ProcessState, ReconcilePlan, SlotChange, Step};

/// Time limit until an instance with its old data streams (keeper 6.7).
const STREAM_LIMIT: Duration = Duration::from_secs(10);
/// Interval of checking the WAL receiver, and what it has received.
const STREAM_POLL: Duration = Duration::from_millis(20);
/// The same while the login is refused.
const STREAM_POLL_REFUSED: Duration = Duration::from_secs(1);
/// Time limit of a wait for another standby's WAL: an elected standby lacks little, and clients wait. PostgreSQL streams
/// from the start of the segment (16 MiB by default).
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);
/// Time limit of that wait without a WAL receiver: after a failed connect PostgreSQL tries again after
/// `wal_retrieve_retry_interval`, which may be longer if the spec sets it.
const NO_RECEIVER_LIMIT: Duration = Duration::from_millis(500);

/// Queries the server of one instance.
#[derive(Debug)]
pub(super) struct SqlSteps {
    config: Arc<Config>,
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    monitor: Arc<Monitor>,
    problems: Arc<Problems>,
    /// The parameters of data that are being adopted.
    previous: Option<BTreeMap<String, String>>,
    /// Failing changes of slots, and why.
    failing_slots: BTreeMap<String, String>,
}

impl SqlSteps {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            config: Arc::clone(&context.config),
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            monitor: Arc::clone(&context.monitor),
            problems: Arc::clone(&context.problems),
            previous: None,
            failing_slots: BTreeMap::new(),
        }
    }

    /// Reads the configured parameters and saves them as those of the initialisation.
    pub(super) async fn read_init_parameters(&self) -> Result<(), StepError> {
        let parameters = self.instance.sql().configured().await?;
        let local = Arc::clone(&self.local);
        let save = move |_: &Path| local.save_init_parameters(parameters);
        self.instance.access().write(save).await?;
        Ok(())
    }

    /// Reads the configured parameters of the data that are being adopted.
    pub(super) async fn read_previous_parameters(&mut self) -> Result<(), StepError> {
        self.previous = None;
        self.previous = Some(self.instance.sql().configured().await?);
        Ok(())
    }

    /// Returns the parameters that were just read, once.
    pub(super) fn take_previous_parameters(&mut self) -> Option<BTreeMap<String, String>> {
        self.previous.take()
    }

    /// Sets up superuser and replication role.
    pub(super) async fn set_up_roles(&self) -> Result<(), StepError> {
        roles::set_up(self.instance.sql(), &self.config.superuser, &self.config.replication).await?;
        // A login refused before its role existed is no longer a problem.
        self.monitor.request_logins();
        Ok(())
    }

    /// Creates or drops a slot. A failure is also recorded for `report_slots`.
    pub(super) async fn change_slot(&mut self, change: &SlotChange) -> Result<(), StepError> {
        let (slot, action, done) = match change {
            SlotChange::Drop(slot) => {
                info!(%slot, "dropping replication slot");
                (slot, "drop", self.instance.sql().drop_slot(slot).await)
            }
            SlotChange::Create(slot) => {
                info!(%slot, "creating replication slot");
                (slot, "create", self.instance.sql().create_slot(slot).await)
            }
        };
        match &done {
            Ok(()) => {
                self.failing_slots.remove(slot);
            }
            Err(error) => {
                let why = format!("could not {action} replication slot {slot}: {}", Chain(error));
                self.failing_slots.insert(slot.clone(), why);
            }
        }
        Ok(done?)
    }

    /// Reports failed slot changes that are still part of this plan.
    pub(super) fn report_slots(&mut self, plan: &ReconcilePlan) {
        let is_planned = |slot: &String| {
            plan.steps.iter().any(|step| match step {
                Step::Slot(SlotChange::Drop(name) | SlotChange::Create(name)) => name == slot,
                _ => false,
            })
        };
        self.failing_slots.retain(|slot, _| is_planned(slot));
        const REMEDY: &str = "drop an unused replication slot, or end the WAL sender that uses this one; if \
                              max_replication_slots waits for a restart, restart the instance";
        let problems = self.failing_slots.values();
        let problems = problems
            .map(|why| KeeperProblemKind::Configuration.problem(why, REMEDY))
            .collect();
        self.problems.set(KeeperProblemKind::Configuration, "slots", problems);
    }

    /// Waits until the instance of `db` streams, or gives up its old data.
    pub(super) async fn wait_streaming(&self, db: &DbUid, process: &mut ProcessState) -> Result<(), StepError> {
        let streams = self.wait_for_receiver().await;
        if streams.as_ref().is_err_and(proves_rejoin_impossible) {
            process.rejoin_failed = Some(db.clone());
        }
        streams
    }

    /// Waits for another standby's WAL until a limit passes. The promotion follows in any case (synchronous SY-21).
    pub(super) async fn catch_up(&self, ahead: &AheadStandby) {
        let (keeper, lsn) = (&ahead.standby.keeper, ahead.lsn);
        let began = self.instance.clock().now();
        let mut last_receiver = began;
        let mut flushed = None;
        loop {
            let now = self.instance.clock().now();
            if let Ok(Some(standby)) = self.instance.sql().standby().await {
                flushed = standby.flushed();
                if standby.receiver.is_some() {
                    last_receiver = now;
                }
            }
            if ahead.is_reached(flushed) {
                return info!(%keeper, %lsn, "received the other standby's WAL");
            }
            if now.since(began) >= CATCH_UP_LIMIT || now.since(last_receiver) >= NO_RECEIVER_LIMIT {
                break;
            }
            sleep(STREAM_POLL).await;
        }
        let received = flushed.map(tracing::field::display);
        warn!(%keeper, %lsn, received, "other standby's WAL not received in time, promoting without it");
    }

    /// Waits until the WAL receiver streams (keeper 6.7).
    async fn wait_for_receiver(&self) -> Result<(), StepError> {
        let mut refusal = None;
        let streams = async {
            loop {
                match self.instance.sql().standby().await {
                    Ok(Some(standby)) if standby.receiver.as_ref().is_some_and(|receiver| receiver.is_streaming) => {
                        return;
                    }
                    Ok(_) => refusal = None,
                    Err(failed) => refusal = failed.refusal().or(refusal.take()),
                }
                if refusal.is_none() {
                    sleep(STREAM_POLL).await;
                } else {
                    // The new password may be in WAL that is not replayed yet. Each attempt is a line in the server's
                    // log.
                    sleep(STREAM_POLL_REFUSED).await;
                    self.instance.sql().forget_refusals();
                }
            }
        };
        let is_in_time = timeout(STREAM_LIMIT, streams).await.is_ok();
        match refusal {
            _ if is_in_time => Ok(()),
            None => Err(StepError::DoesNotStream(STREAM_LIMIT)),
            Some(refusal) => Err(StepError::StreamUnknown(refusal)),
        }
    }
}

/// Whether the failure proves that the old data cannot be used. A refused login proves nothing about them.
fn proves_rejoin_impossible(failed: &StepError) -> bool {
    matches!(failed, StepError::DoesNotStream(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::refusal::ServerRefusal;
    use crate::reconcile::NextAction;
    use crate::start::test_context;

    /// Rule: keeper S5, 11.3. The round counts and logs it, and goes on.
    #[tokio::test]
    async fn a_change_of_a_slot_that_fails_is_an_error_and_a_problem_while_it_is_planned() {
        let dir = tempfile::tempdir().unwrap();
        let context = test_context(dir.path());
        let mut steps = SqlSteps::new(&context);
        let change = SlotChange::Create("stolon_b".into());
        let failed = steps.change_slot(&change).await; // no server runs
        assert!(matches!(failed, Err(StepError::Sql(_))), "{failed:?}");
        let step = Step::Slot(change);
        assert!(step.may_fail());
        let problems = || context.publisher.report().problems.clone();
        let mut plan = ReconcilePlan {
            steps: vec![step],
            next: NextAction::Done,
        };
        steps.report_slots(&plan);
        let found = problems();
        assert!(found.len() == 1 && found[0].text.contains("stolon_b"), "{found:?}");
        plan.steps.clear();
        steps.report_slots(&plan);
        assert_eq!(problems(), []);
    }

    #[test]
    fn a_refused_login_does_not_prove_that_old_data_are_unusable() {
        assert!(proves_rejoin_impossible(&StepError::DoesNotStream(STREAM_LIMIT)));
        let refusal = ServerRefusal::new("28P01", "password authentication failed").unwrap();
        assert!(!proves_rejoin_impossible(&StepError::StreamUnknown(refusal)));
    }
}
