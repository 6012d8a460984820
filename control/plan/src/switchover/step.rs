//! The next step of a switchover, from what was read (extensions X-2). How it changes the plan is left to `switchover`.

use std::time::Duration;

use crate::elect::usable::CleanEnd;
use crate::report::KeeperReport;
use crate::switchover::target::{self, LagCheck};
use crate::switchover_reason::SwitchoverReason;
use crate::view::PlanView;
use base::clock::Boottime;
use model::{Db, DbUid, KeeperOrder, OrderKind, SwitchoverRequest, SwitchoverState};

/// How long a keeper may take to begin what it is ordered to do. Clients wait meanwhile.
const ORDER_START_LIMIT: Duration = Duration::from_secs(10);
/// How long the stop of the master may take. A fast shutdown cannot be taken back, so giving up earlier would not serve
/// clients earlier; it waits for WAL senders up to PostgreSQL's `wal_sender_timeout`, which is 60 s by default.
const STOP_LIMIT: Duration = Duration::from_secs(70);
/// How long after the stop of the master somebody may take to report all that it wrote. Keepers observe their standbys
/// for as long (extensions ), and after that nobody receives any more.
const RECEIVE_LIMIT: Duration = Duration::from_secs(10);

/// A switchover that is requested, and its order as far as there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct LiveSwitchover<'a> {
    pub(super) request: &'a SwitchoverRequest,
    /// The revision of its put.
    pub(super) revision: i64,
    pub(super) master: &'a DbUid,
    pub(super) db: &'a Db,
    /// The order of the master's keeper, if it is about this switchover and this db.
    pub(super) order: Option<&'a KeeperOrder>,
    /// It is under the lease of this leader.
    pub(super) is_own: bool,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SwitchoverAction {
    /// It waits for something, until this time at the latest.
    Wait {
        state: SwitchoverState,
        reason: Option<SwitchoverReason>,
        until: Option<Boottime>,
    },
    /// The master's keeper is given this order, again under the lease of a new leader.
    Order(OrderKind),
    /// The proxies are closed.
    CloseProxies,
    /// A standby that has received everything up to here is elected, or waited for until then.
    Elect { end: CleanEnd, until: Boottime },
    /// It ends before anything was changed.
    Refuse(SwitchoverReason),
    /// It ends, and the master stays.
    Abort(SwitchoverReason),
}

/// Returns the next step.
pub(super) fn next_step(view: &PlanView<'_>, live: LiveSwitchover<'_>) -> SwitchoverAction {
    let is_open = view.is_announced(live.master);
    match live.order.map(|order| &order.order) {
        None if is_open => begin(view, live),
        None if has_taken_order(view, live) => order_stop(view, SwitchoverState::Stopping),
        None => SwitchoverAction::Refuse(SwitchoverReason::NotAnnounced),
        Some(OrderKind::Checkpoint) if is_open => after_checkpoint(view, live),
        Some(OrderKind::Checkpoint) => after_closing(view, live),
        Some(OrderKind::Stop) if !is_open => after_stop(view, live),
        Some(OrderKind::Stop) => SwitchoverAction::Abort(SwitchoverReason::AnnouncedAgain),
        // only by hand
        Some(OrderKind::Other(_)) => SwitchoverAction::Abort(SwitchoverReason::OrderNotTaken),
    }
}

fn wait(state: SwitchoverState, reason: Option<SwitchoverReason>) -> SwitchoverAction {
    SwitchoverAction::Wait {
        state,
        reason,
        until: None,
    }
}

fn report<'v>(view: &'v PlanView<'_>, live: LiveSwitchover<'_>) -> Option<&'v KeeperReport> {
    view.report_of(live.db).filter(|report| report.key_exists)
}

/// Returns whether the master's keeper is stopping it on an order of this switchover, which ended with its leader.
fn has_taken_order(view: &PlanView<'_>, live: LiveSwitchover<'_>) -> bool {
    report(view, live).is_some_and(|report| report.info.stopping == live.request.id && !report.info.leaving)
}

/// Step 0: both dbs are checked, and the master's keeper is ordered to run a checkpoint.
fn begin(view: &PlanView<'_>, live: LiveSwitchover<'_>) -> SwitchoverAction {
    match check(view, live, LagCheck::Limited) {
        Ok(()) => SwitchoverAction::Order(OrderKind::Checkpoint),
        Err(reason) if reason.is_passing() => wait(SwitchoverState::Waiting, Some(reason)),
        Err(reason) => SwitchoverAction::Refuse(reason),
    }
}

/// Step 1: waits for the checkpoint, and until standbys have received it. Clients do not notice, so only the request's
/// lease limits it. Then the proxies are closed.
fn after_checkpoint(view: &PlanView<'_>, live: LiveSwitchover<'_>) -> SwitchoverAction {
    let checked = check(view, live, LagCheck::Limited);
    if let Err(reason) = &checked
        && !reason.is_passing()
    {
        return SwitchoverAction::Abort(reason.clone());
    }
    if !live.is_own {
        return SwitchoverAction::Order(OrderKind::Checkpoint);
    }
    let published = report(view, live).map(|report| &report.info);
    let Some(info) = published.filter(|info| info.checkpointed == live.request.id) else {
        return wait(SwitchoverState::Checkpoint, checked.err());
    };
    let to = live.request.to.as_ref();
    let received = || target::check_received(view, to, (live.master, live.db), &info.checkpoint_received);
    match checked.and_then(|()| received()) {
        Ok(()) => SwitchoverAction::CloseProxies,
        Err(reason) => wait(SwitchoverState::Checkpoint, Some(reason)),
    }
}

/// Step 2: once no proxy forwards any more, the master's keeper is ordered to stop it.
fn after_closing(view: &PlanView<'_>, live: LiveSwitchover<'_>) -> SwitchoverAction {
    if let Err(reason) = check(view, live, LagCheck::Ignored)
        && !reason.is_passing()
    {
        return SwitchoverAction::Abort(reason);
    }
    if !live.is_own {
        return SwitchoverAction::Order(OrderKind::Checkpoint);
    }
    order_stop(view, SwitchoverState::ClosingProxies)
}

/// Orders the stop, unless a proxy may still forward.
fn order_stop(view: &PlanView<'_>, waiting: SwitchoverState) -> SwitchoverAction {
    let proxies = &view.proxies.may_still_forward;
    if proxies.is_empty() {
        return SwitchoverAction::Order(OrderKind::Stop);
    }
    let proxies = proxies.clone();
    wait(waiting, Some(SwitchoverReason::ProxiesMayForward { proxies }))
}

/// Steps 3 and 4: the stop of the master is waited for, and then the standby that has received everything.
fn after_stop(view: &PlanView<'_>, live: LiveSwitchover<'_>) -> SwitchoverAction {
    let Some(report) = report(view, live) else {
        return SwitchoverAction::Abort(SwitchoverReason::MasterKeeperGone);
    };
    if let Err(reason) = check_running(view, live, report) {
        return SwitchoverAction::Abort(reason);
    }
    if !live.is_own {
        return SwitchoverAction::Order(OrderKind::Stop);
    }
    let Some(stopped) = &report.info.stopped else {
        return after_order(view, live, report);
    };
    // Another process of the keeper is recorded first, as it would be for a permit (extensions ).
    let known = view.before.keepers().get(&live.db.spec.keeper_uid);
    let is_recorded = known.is_some_and(|keeper| keeper.status.boot_uuid == report.info.boot_uuid);
    if !is_recorded || !view.proxies.may_still_forward.is_empty() {
        return wait_for_stop(view, live, STOP_LIMIT, SwitchoverReason::StopTooLong);
    }
    match stopped.lsn.filter(|_| stopped.clean) {
        Some(lsn) => SwitchoverAction::Elect {
            end: CleanEnd {
                lsn,
                timeline: stopped.timeline_id,
            },
            until: since(view, live, &SwitchoverState::Receiving) + RECEIVE_LIMIT,
        },
        None => SwitchoverAction::Abort(SwitchoverReason::NotClean),
    }
}

/// Checks that the old master's keeper and a standby are still there.
fn check_running(view: &PlanView<'_>, live: LiveSwitchover<'_>, report: &KeeperReport) -> Result<(), SwitchoverReason> {
    let keeper = live.db.spec.keeper_uid.clone();
    if view.keeper_of(live.db).is_some_and(|keeper| keeper.status.force_fail) {
        return Err(SwitchoverReason::FailedByHand { keeper });
    }
    // Then the rules for an orderly shutdown of the keeper hold (extensions ).
    if report.info.leaving {
        return Err(SwitchoverReason::MasterLeaving);
    }
    // One that has reported the stop is not needed any more.
    if !report.is_keeper_running && report.info.stopped.is_none() {
        return Err(SwitchoverReason::MasterKeeperGone);
    }
    match target::find(view, live.request.to.as_ref(), live.master, live.db, LagCheck::Ignored) {
        Err(reason) if !reason.is_passing() => Err(reason),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Waits for the stop of a master whose keeper has the order.
fn after_order(view: &PlanView<'_>, live: LiveSwitchover<'_>, report: &KeeperReport) -> SwitchoverAction {
    if report.info.stopping == live.request.id {
        return wait_for_stop(view, live, STOP_LIMIT, SwitchoverReason::StopTooLong);
    }
    if !report.reports_healthy(live.master) {
        return SwitchoverAction::Abort(SwitchoverReason::MasterNotHealthy);
    }
    wait_for_stop(view, live, ORDER_START_LIMIT, SwitchoverReason::OrderNotTaken)
}

/// Waits in step 3, for this long after the order at most.
fn wait_for_stop(
    view: &PlanView<'_>,
    live: LiveSwitchover<'_>,
    limit: Duration,
    too_long: SwitchoverReason,
) -> SwitchoverAction {
    let until = since(view, live, &SwitchoverState::Stopping) + limit;
    if view.now > until {
        return SwitchoverAction::Abort(too_long);
    }
    SwitchoverAction::Wait {
        state: SwitchoverState::Stopping,
        reason: None,
        until: Some(until),
    }
}

/// Returns since when the switchover is at this step; a keeper that publishes the same again changes nothing about that.
fn since(view: &PlanView<'_>, live: LiveSwitchover<'_>, state: &SwitchoverState) -> Boottime {
    let known = view.memory.switchover.as_ref().filter(|progress| {
        let report = &progress.report;
        report.id == live.request.id && report.state == *state
    });
    known.map_or(view.now, |progress| progress.since)
}

fn check(view: &PlanView<'_>, live: LiveSwitchover<'_>, lag: LagCheck) -> Result<(), SwitchoverReason> {
    let target = target::find(view, live.request.to.as_ref(), live.master, live.db, lag);
    let master = target::check_master(view, live.master, live.db);
    // What does not pass by itself is the reason that counts.
    match (master, target) {
        (Err(master), Err(target)) if master.is_passing() && !target.is_passing() => Err(target),
        (Err(master), _) => Err(master),
        (Ok(()), target) => target.map(drop),
    }
}
