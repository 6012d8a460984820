//! A switchover: the master is stopped in order, and a standby that has received everything replaces it (extensions X-2;
//! synchronous SY-14). The steps are a function of what was read (`switchover/step`), so a new leader goes on with them.
//! Elections after a failure are left to `elect`.

mod step;
mod target;

use crate::condition::{Condition, OrderFate, RequestFate};
use crate::draft::Draft;
use crate::elect::ordered::elect_after_ordered_stop;
use crate::elect::usable::CleanEnd;
use crate::memory::SwitchoverProgress;
use crate::note::Note;
use crate::proxies;
use crate::switchover::step::{LiveSwitchover, SwitchoverAction, next_step};
use crate::switchover::target::LagCheck;
use crate::switchover_reason::SwitchoverReason;
use crate::switchover_view::order_ttl;
use crate::view::PlanView;
use base::clock::Boottime;
use model::{Db, DbUid, KeeperOrder, KeeperUid, OrderKind, SwitchoverReport, SwitchoverRequest, SwitchoverState};

/// What a switchover leaves to the other decisions of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SwitchoverRound {
    /// There is no request and no order: everything.
    Absent,
    /// Nobody else is elected, and no master is announced (extensions ).
    Held,
    /// It has elected a db.
    Elected,
}

/// Takes the next step of a switchover, if one is requested, and deletes the orders that belong to none.
pub(crate) fn advance(draft: &mut Draft, view: &PlanView<'_>, master: &DbUid, db: &Db) -> SwitchoverRound {
    if !view.switchover.is_live(view.before) {
        delete_orders(draft, view, None);
        return SwitchoverRound::Absent;
    }
    // A first run uses statuses that another leader recorded: the next round looks at the reports.
    if view.first_run {
        return SwitchoverRound::Held;
    }
    let Some(live) = requested(view, master, db) else {
        delete_orders(draft, view, None);
        return SwitchoverRound::Held;
    };
    delete_orders(draft, view, live.order.map(|_| &db.spec.keeper_uid));
    take_step(draft, view, live)
}

/// Ends a switchover of a cluster that has no master yet.
pub(crate) fn refuse_without_master(draft: &mut Draft, view: &PlanView<'_>) {
    delete_orders(draft, view, None);
    if let Some((request, revision)) = view.switchover.request {
        end(
            draft,
            view,
            (request, *revision),
            SwitchoverState::Refused,
            SwitchoverReason::NotInitialised,
        );
    }
}

/// Returns how far the switchover is after this round; it was known to be at `known` before. Adds what the decisions of
/// the round mean for it to the draft.
pub(crate) fn follow_up(draft: &mut Draft, view: &PlanView<'_>) -> Option<SwitchoverProgress> {
    let known = view.memory.switchover.as_ref();
    if draft.switchover.is_none() {
        let known = known?;
        draft.switchover = Some(match followed_up(draft, view, known) {
            Some((state, reason)) => end_report(draft, &known.report, state, reason),
            None => known.report.clone(),
        });
    }
    let report = draft.switchover.clone()?;
    let same = known.filter(|known| known.report.id == report.id && known.report.state == report.state);
    let since = same.map_or(view.now, |known| known.since);
    let known = known.filter(|known| known.report.id == report.id);
    let master = known.map_or_else(|| view.data.master_uid().cloned(), |known| Some(known.master.clone()));
    let master = master.unwrap_or_default();
    Some(SwitchoverProgress { report, since, master })
}

fn requested<'v>(view: &'v PlanView<'_>, master: &'v DbUid, db: &'v Db) -> Option<LiveSwitchover<'v>> {
    let (request, revision) = view.switchover.request?;
    let observed = view.switchover.orders.get(&db.spec.keeper_uid);
    let order = observed.and_then(|observed| observed.order.as_ref());
    Some(LiveSwitchover {
        request,
        revision: *revision,
        master,
        db,
        order: order.filter(|order| order.switchover == request.id && order.db == *master),
        is_own: observed.is_some_and(|observed| observed.is_own),
    })
}

fn take_step(draft: &mut Draft, view: &PlanView<'_>, live: LiveSwitchover<'_>) -> SwitchoverRound {
    // It is renewed as long as the order is there (extensions ).
    let renewal = view.now + order_ttl(view.spec.fail_interval) / 3;
    draft.deadlines.wake_after(live.order.map(|_| renewal), view.now);
    match next_step(view, live) {
        SwitchoverAction::Wait { state, reason, until } => {
            draft.deadlines.wake_after(until, view.now);
            wait(draft, view, live, state, reason);
        }
        SwitchoverAction::Order(kind) => put_order(draft, view, live, kind),
        SwitchoverAction::CloseProxies => {
            require_request(draft, live, RequestFate::Kept);
            require_order(draft, view, live, OrderFate::Kept);
            draft.note(Note::ClosingForSwitchover {
                db: live.master.clone(),
                switchover: live.request.id.clone(),
            });
            proxies::close(draft);
            set_report(draft, view, live, SwitchoverState::ClosingProxies, None);
        }
        SwitchoverAction::Elect { end, until } => return elect_or_wait(draft, view, live, end, until),
        SwitchoverAction::Refuse(reason) => {
            let request = (live.request, live.revision);
            end(draft, view, request, SwitchoverState::Refused, reason);
        }
        SwitchoverAction::Abort(reason) => {
            let request = (live.request, live.revision);
            end(draft, view, request, SwitchoverState::Aborted, reason);
        }
    }
    SwitchoverRound::Held
}

fn wait(
    draft: &mut Draft,
    view: &PlanView<'_>,
    live: LiveSwitchover<'_>,
    state: SwitchoverState,
    reason: Option<SwitchoverReason>,
) {
    if let Some(reason) = &reason {
        draft.note(Note::SwitchoverWaits {
            switchover: live.request.id.clone(),
            reason: reason.clone(),
        });
    }
    set_report(draft, view, live, state, reason);
}

/// Puts an order of the master's keeper, on condition that the switchover is still requested (extensions ).
fn put_order(draft: &mut Draft, view: &PlanView<'_>, live: LiveSwitchover<'_>, kind: OrderKind) {
    let state = match &kind {
        OrderKind::Stop => SwitchoverState::Stopping,
        _ if view.is_announced(live.master) => SwitchoverState::Checkpoint,
        _ => SwitchoverState::ClosingProxies,
    };
    draft.note(Note::Ordering {
        keeper: live.db.spec.keeper_uid.clone(),
        order: kind.clone(),
        switchover: live.request.id.clone(),
    });
    let order = KeeperOrder {
        switchover: live.request.id.clone(),
        db: live.master.clone(),
        order: kind,
    };
    require_request(draft, live, RequestFate::Kept);
    // It takes the place of an order of the same keeper that belongs to no switchover.
    draft.conditions.retain(
        |condition| !matches!(condition, Condition::Order { keeper, .. } if *keeper == live.db.spec.keeper_uid),
    );
    require_order(draft, view, live, OrderFate::Put(order));
    set_report(draft, view, live, state, None);
}

fn elect_or_wait(
    draft: &mut Draft,
    view: &PlanView<'_>,
    live: LiveSwitchover<'_>,
    stopped_at: CleanEnd,
    until: Boottime,
) -> SwitchoverRound {
    let to = live.request.to.as_ref();
    if let Some(keeper) = elect_after_ordered_stop(draft, view, (live.master, live.db), stopped_at, to) {
        require_request(draft, live, RequestFate::Deleted);
        require_order(draft, view, live, OrderFate::Deleted);
        draft.switchover = Some(SwitchoverReport {
            id: live.request.id.clone(),
            state: SwitchoverState::Promoting,
            to: keeper,
            reason: String::new(),
        });
        return SwitchoverRound::Elected;
    }
    if view.now > until {
        let request = (live.request, live.revision);
        end(
            draft,
            view,
            request,
            SwitchoverState::Aborted,
            SwitchoverReason::NotReceived,
        );
    } else {
        draft.deadlines.wake_after(until, view.now);
        wait(draft, view, live, SwitchoverState::Receiving, None);
    }
    SwitchoverRound::Held
}

/// Ends a switchover: request and orders are deleted in one write (extensions ).
fn end(
    draft: &mut Draft,
    view: &PlanView<'_>,
    (request, revision): (&SwitchoverRequest, i64),
    state: SwitchoverState,
    reason: SwitchoverReason,
) {
    let fate = RequestFate::Deleted;
    draft.require(Condition::Switchover { revision, fate });
    delete_orders(draft, view, None);
    let known = view.memory.switchover.as_ref().map(|known| &known.report);
    let known = known.filter(|known| known.id == request.id);
    let has_begun = known.is_some_and(|known| known.state != SwitchoverState::Waiting);
    let state = if has_begun { SwitchoverState::Aborted } else { state };
    let report = SwitchoverReport {
        id: request.id.clone(),
        to: request
            .to
            .clone()
            .or(known.map(|known| known.to.clone()))
            .unwrap_or_default(),
        ..SwitchoverReport::default()
    };
    draft.switchover = Some(end_report(draft, &report, state, Some(reason)));
}

/// Returns the report of a switchover that ends like this, and notes the end.
fn end_report(
    draft: &mut Draft,
    report: &SwitchoverReport,
    state: SwitchoverState,
    reason: Option<SwitchoverReason>,
) -> SwitchoverReport {
    let switchover = report.id.clone();
    let text = reason.as_ref().map(ToString::to_string).unwrap_or_default();
    match (&state, reason) {
        (SwitchoverState::Refused, Some(reason)) => draft.note(Note::SwitchoverRefused { switchover, reason }),
        (_, Some(reason)) => draft.note(Note::SwitchoverAborted { switchover, reason }),
        (_, None) => draft.note(Note::SwitchoverDone {
            switchover,
            keeper: report.to.clone(),
        }),
    }
    SwitchoverReport {
        state,
        reason: text,
        ..report.clone()
    }
}

/// Returns how a switchover has ended that this round has not taken a step of; none if it has not, or had before.
fn followed_up(
    draft: &Draft,
    view: &PlanView<'_>,
    known: &SwitchoverProgress,
) -> Option<(SwitchoverState, Option<SwitchoverReason>)> {
    let report = &known.report;
    if report.state.is_end() {
        return None;
    }
    let master = draft.next.master_uid();
    // Its write may have had no definite result.
    let is_elected = report.state == SwitchoverState::Promoting && master != Some(&known.master);
    if !is_elected {
        let gone = (SwitchoverState::Aborted, Some(SwitchoverReason::RequestGone));
        return view.switchover.request.is_none().then_some(gone);
    }
    let db = master.and_then(|uid| draft.next.dbs().get(uid));
    let keeper = db.map(|db| db.spec.keeper_uid.clone()).unwrap_or_default();
    if keeper != report.to {
        return Some((
            SwitchoverState::Aborted,
            Some(SwitchoverReason::OtherElected { keeper }),
        ));
    }
    (!draft.are_proxies_closed()).then_some((SwitchoverState::Done, None))
}

fn set_report(
    draft: &mut Draft,
    view: &PlanView<'_>,
    live: LiveSwitchover<'_>,
    state: SwitchoverState,
    reason: Option<SwitchoverReason>,
) {
    let to = live.request.to.clone();
    let known = || {
        let report = &view.memory.switchover.as_ref()?.report;
        (report.id == live.request.id).then(|| report.to.clone())
    };
    let best = || target::find(view, None, live.master, live.db, LagCheck::Ignored).ok();
    let to: Option<KeeperUid> = to.or_else(best).or_else(known);
    draft.switchover = Some(SwitchoverReport {
        id: live.request.id.clone(),
        state,
        to: to.unwrap_or_default(),
        reason: reason.map(|reason| reason.to_string()).unwrap_or_default(),
    });
}

fn require_request(draft: &mut Draft, live: LiveSwitchover<'_>, fate: RequestFate) {
    let revision = live.revision;
    draft.require(Condition::Switchover { revision, fate });
}

/// Requires that the order of the master's keeper, or that there is none, is as it was read.
fn require_order(draft: &mut Draft, view: &PlanView<'_>, live: LiveSwitchover<'_>, fate: OrderFate) {
    let keeper = live.db.spec.keeper_uid.clone();
    let revision = view.switchover.orders.get(&keeper).map(|observed| observed.revision);
    draft.require(Condition::Order { keeper, revision, fate });
}

/// Deletes all orders but that of `kept`.
fn delete_orders(draft: &mut Draft, view: &PlanView<'_>, kept: Option<&KeeperUid>) {
    for (keeper, observed) in view.switchover.orders {
        if Some(keeper) == kept {
            continue;
        }
        let deleted = Condition::Order {
            keeper: keeper.clone(),
            revision: Some(observed.revision),
            fate: OrderFate::Deleted,
        };
        if !draft.conditions.contains(&deleted) {
            draft.note(Note::DeletingOrder { keeper: keeper.clone() });
            draft.require(deleted);
        }
    }
}
