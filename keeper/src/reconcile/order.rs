//! Orders of a switchover (extensions X-2): what they change of the desired state, and the steps that carry them out.
//! Whether an order still holds when it is accepted is left to the store, in one transaction.

use model::{DbUid, KeeperOrder, OrderKind};

use crate::reconcile::{
    ClusterDataState, DataState, Desired, Goal, HoldReason, LogMessage, NextAction, ObservedState, ReconcilePlan,
    ServerProbe, ServerState, Step, StopReason, TargetDb, TargetRole,
};

/// What this keeper's orders key holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoredOrder {
    /// It does not exist.
    #[default]
    Absent,
    /// Its value is not an order of a known kind. Nothing is done on it, and no master is started while it exists.
    Unusable,
    /// An order.
    Usable(KeeperOrder),
}

/// An order to stop that this process has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedOrder {
    /// The db that is stopped.
    pub db: DbUid,
    /// The id of the switchover.
    pub switchover: String,
}

impl StoredOrder {
    /// Returns the order of this kind about this db, if it is one.
    fn of_kind(&self, kind: &OrderKind, db: &DbUid) -> Option<&KeeperOrder> {
        match self {
            Self::Usable(order) if order.order == *kind && order.db == *db => Some(order),
            Self::Absent | Self::Unusable | Self::Usable(_) => None,
        }
    }
}

/// Returns the desired state under an order. Our db is stopped on an order only while it is the master and no master is
/// announced: clients must not be connected to it (extensions ).
pub fn desired_under_order(desired: Desired, data: &ClusterDataState, order: &StoredOrder) -> Desired {
    let (Goal::Run(target), ClusterDataState::Valid(checked)) = (&desired.goal, data) else {
        return desired;
    };
    let is_announced = checked
        .data
        .proxy
        .as_ref()
        .is_some_and(|proxy| !proxy.spec.master_db_uid.is_empty());
    let stop = order.of_kind(&OrderKind::Stop, &target.db);
    let Some(order) = stop.filter(|_| target.role == TargetRole::Master && !is_announced) else {
        return desired;
    };
    let accepted = AcceptedOrder {
        db: target.db.clone(),
        switchover: order.switchover.clone(),
    };
    Desired {
        goal: Goal::Stop(StopReason::Ordered(accepted)),
        ..desired
    }
}

/// Returns the steps of an order to stop. The order is accepted before every stop; and by a process that finds the server
/// stopped, so that what it publishes is known to be the response to this order. The instance stays stopped as long as
/// the order exists.
pub(crate) fn stop_as_ordered(observed: &ObservedState<'_>, order: &AcceptedOrder) -> ReconcilePlan {
    let local = observed.local;
    let is_ours = local.db.uid == order.db && !local.db.initializing && local.data != DataState::Absent;
    if !is_ours {
        return ReconcilePlan::hold(HoldReason::Ordered);
    }
    let mut steps = vec![Step::Log(LogMessage::KeptStopped(StopReason::Ordered(order.clone())))];
    let is_running = *observed.server != ServerState::Down;
    let is_accepted = observed.process.accepted_order.as_ref() == Some(order);
    let is_published = observed.process.published_stopped.as_ref() == Some(&order.db);
    if is_running || !is_accepted {
        steps.push(Step::AcceptOrder(order.clone()));
    }
    if is_running {
        steps.push(Step::Stop);
    }
    if is_running || !is_accepted || !is_published {
        steps.push(Step::PublishStopped(order.db.clone()));
    }
    ReconcilePlan {
        steps,
        next: NextAction::Done,
    }
}

/// Returns the plan with what an order changes of it. While an order exists, no master is started or promoted, since the
/// store would refuse the permit; and an order to make a checkpoint is carried out beside the rest.
pub(crate) fn under_order(observed: &ObservedState<'_>, target: &TargetDb, plan: ReconcilePlan) -> ReconcilePlan {
    if *observed.order == StoredOrder::Absent {
        return plan;
    }
    let mut plan = match plan.steps.contains(&Step::Permit) {
        true => ReconcilePlan::hold(HoldReason::Ordered),
        false => plan,
    };
    let checkpoint = observed.order.of_kind(&OrderKind::Checkpoint, &target.db);
    let is_master = target.role == TargetRole::Master;
    let answers = matches!(observed.server, ServerState::Up(ServerProbe::Answered(_)));
    if let Some(order) = checkpoint.filter(|_| is_master && answers)
        && observed.process.checkpoint_for.as_ref() != Some(&order.switchover)
    {
        plan.steps.insert(0, Step::Checkpoint(order.switchover.clone()));
    }
    plan
}

/// Withdraws the publication that the instance is stopping, when it runs as master and no order asks for the stop any
/// more.
pub(crate) fn withdraw_acceptance(observed: &ObservedState<'_>, steps: &mut Vec<Step>) {
    if observed.process.accepted_order.is_some() {
        steps.push(Step::WithdrawStopped);
    }
}
