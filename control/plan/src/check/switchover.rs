//! A switchover, recomputed from its request, its orders and the report of the old master's keeper: what may be written
//! while it is under way, and when it may elect (extensions ). What holds for every election is left to
//! `election`.

use crate::check::transition::{Transition, announced, master, phase};
use crate::check::violations::Violations;
use crate::condition::{Condition, OrderFate, RequestFate};
use model::{Db, DbUid, KeeperOrder, KeeperUid, OrderKind, Phase, Stopped};

/// Checks what a plan does while there is a request or an order, and with both of them.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    check_request(transition, violations);
    for condition in transition.conditions {
        let Condition::Order { keeper, revision, fate } = condition else {
            continue;
        };
        let read = transition.orders.get(keeper).map(|observed| observed.revision);
        violations.require(*revision == read, "X-2.5", || {
            format!("the order of {keeper} is changed whatever it is")
        });
        if let OrderFate::Put(order) = fate {
            check_order(transition, keeper, order, violations);
        }
    }
    let keepers = transition.before.keepers();
    let has_order = transition.orders.keys().any(|keeper| keepers.contains_key(keeper));
    let is_live = transition.switchover.is_some() || has_order;
    if !is_live || phase(transition.before) != Some(&Phase::Normal) {
        return;
    }
    let (old, new) = (&master(transition.derived), &master(transition.next));
    let dbs = transition.derived.dbs();
    let by_switchover = match (dbs.get(old), dbs.get(new)) {
        (Some(was), Some(is)) => is_switchover(transition, (old, was), (new, is)),
        _ => false,
    };
    violations.require(old == new || by_switchover, "X-2.6", || {
        format!("{new} is elected while a switchover is under way that does not elect it")
    });
    let is_announced_now = announced(transition.before).is_empty() && !announced(transition.next).is_empty();
    violations.require(!is_announced_now, "X-2.7", || {
        format!("{new} is announced while a switchover is under way")
    });
}

/// Checks that a request is deleted together with all orders, and that no order is left without one.
fn check_request(transition: &Transition<'_>, violations: &mut Violations) {
    let about_request = transition.conditions.iter().filter_map(|condition| match condition {
        Condition::Switchover { revision, fate } => Some((*revision, *fate)),
        _ => None,
    });
    let read = transition.switchover.map(|(_, revision)| *revision);
    let mut is_ended = transition.switchover.is_none();
    for (revision, fate) in about_request {
        violations.require(Some(revision) == read, "X-2.5", || {
            "a switchover is gone on with whatever is requested".to_owned()
        });
        is_ended |= fate == RequestFate::Deleted;
    }
    let is_deleted = |keeper: &KeeperUid| {
        let deletes = |condition: &Condition| matches!(condition, Condition::Order { keeper: of, fate: OrderFate::Deleted, .. } if of == keeper);
        transition.conditions.iter().any(deletes)
    };
    let left = transition.orders.keys().find(|keeper| !is_deleted(keeper));
    let may_stay = !is_ended || transition.first_run;
    violations.require(may_stay || left.is_none(), "X-2.5", || {
        format!("the order of {left:?} is left without a switchover")
    });
}

/// Checks that an order belongs to the switchover and to the master, and that it is stopped only once no proxy may
/// forward to it.
fn check_order(transition: &Transition<'_>, keeper: &KeeperUid, order: &KeeperOrder, violations: &mut Violations) {
    let uid = master(transition.before);
    let of_master = transition.before.dbs().get(&uid).map(|db| &db.spec.keeper_uid);
    let is_requested = transition.switchover.is_some_and(|(request, revision)| {
        let kept = Condition::Switchover {
            revision: *revision,
            fate: RequestFate::Kept,
        };
        request.id == order.switchover && transition.conditions.contains(&kept)
    });
    let is_right = is_requested && order.db == uid && of_master == Some(keeper) && uid == master(transition.next);
    violations.require(is_right, "X-2.5", || {
        format!("{keeper} is ordered to {} {} without need", order.order, order.db)
    });
    let read = transition
        .orders
        .get(keeper)
        .and_then(|observed| observed.order.as_ref());
    let names_none = announced(transition.before).is_empty() && announced(transition.next).is_empty();
    // A new leader may put the same order again.
    let is_closed = names_none && (transition.forwarding_proxies().is_empty() || read == Some(order));
    violations.require(order.order != OrderKind::Stop || is_closed, "X-2.4", || {
        format!(
            "{keeper} is ordered to stop {} while proxies may forward to it",
            order.db
        )
    });
}

/// Returns whether a switchover elects exactly this db: the order of the old master's keeper and the request are deleted
/// with it, clients may not have written since it was stopped, and the elected one has everything (X-2, step 5).
pub(super) fn is_switchover(
    transition: &Transition<'_>,
    (old_uid, old): (&DbUid, &Db),
    (uid, db): (&DbUid, &Db),
) -> bool {
    let Some((request, revision)) = transition.switchover else {
        return false;
    };
    let keeper = &old.spec.keeper_uid;
    let Some(observed) = transition.orders.get(keeper) else {
        return false;
    };
    let ordered = KeeperOrder {
        switchover: request.id.clone(),
        db: old_uid.clone(),
        order: OrderKind::Stop,
    };
    let is_ordered = observed.order.as_ref() == Some(&ordered);
    let ends = [
        Condition::Switchover {
            revision: *revision,
            fate: RequestFate::Deleted,
        },
        Condition::Order {
            keeper: keeper.clone(),
            revision: Some(observed.revision),
            fate: OrderFate::Deleted,
        },
    ];
    let is_ended = ends.iter().all(|condition| transition.conditions.contains(condition));
    let is_closed = announced(transition.before).is_empty() && transition.forwarding_proxies().is_empty();
    let asks_for_this = request.to.as_ref().is_none_or(|to| *to == db.spec.keeper_uid);
    is_ordered && is_ended && is_closed && asks_for_this && uid != old_uid && {
        let stopped = stopped_on_order(transition, old);
        stopped.is_some_and(|stopped| {
            let reached = stopped.lsn.is_some_and(|lsn| db.status.xlog_pos >= lsn);
            stopped.clean && reached && stopped.timeline_id == db.status.timeline_id && db.is_standby_type()
        })
    }
}

/// Returns how the master was stopped, as the process of its keeper has reported it that the cluster data name. One that
/// is leaving has another reason.
fn stopped_on_order<'a>(transition: &'a Transition<'_>, old: &Db) -> Option<&'a Stopped> {
    let known = transition.info_of(old).filter(|known| known.key_exists)?;
    let info = &known.last.info;
    let boot = &transition.before.keepers().get(&old.spec.keeper_uid)?.status.boot_uuid;
    info.stopped
        .as_ref()
        .filter(|_| !info.leaving && info.boot_uuid == *boot)
}
