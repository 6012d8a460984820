//! The check of a finished plan sees each fault that a decision about a switchover could make (extensions ).

use super::cluster::{Setup, WALL, base, db_uid, keeper_of};
use super::switchover::{REQUEST, ask, checkpointed, closed, give, ordered, put, received, stopped};
use crate::check::check;
use crate::check::transition::Transition;
use crate::{Condition, OrderFate, Plan, RequestFate};
use model::{KeeperOrder, OrderKind};

/// Returns the rules that the plan for a setup breaks once `fault` has changed it, each once.
fn broken(setup: &Setup, fault: impl FnOnce(&mut Plan)) -> String {
    let mut setup = setup.clone();
    let mut plan = setup.plan().unwrap();
    fault(&mut plan);
    let checked = setup.checked();
    let memory = setup.memory.after_read(&setup.seen, &checked, setup.now);
    let mut rules: Vec<&str> = check(&Transition {
        before: &setup.data,
        derived: &setup.data,
        next: &plan.next,
        conditions: &plan.conditions,
        failover: None,
        switchover: setup.seen.switchover.as_ref(),
        orders: &setup.seen.orders,
        spec: &checked.spec,
        memory: &memory,
        first_run: false,
        now: setup.now,
        wall: WALL,
    })
    .iter()
    .map(|violation| violation.rule)
    .collect();
    rules.dedup();
    rules.join(" ")
}

/// Nothing is decided on these data.
fn no_plan(plan: &mut Plan, setup: &Setup) {
    plan.next = setup.data.clone();
    plan.conditions.clear();
}

#[test]
fn an_order_belongs_to_the_request_and_to_the_master() {
    let setup = ask(base(3), None);
    assert_eq!(broken(&setup, |_| {}), "");
    let changed = |change: fn(&mut KeeperOrder)| {
        broken(&setup, |plan| {
            for condition in &mut plan.conditions {
                if let Condition::Order {
                    fate: OrderFate::Put(order),
                    ..
                } = condition
                {
                    change(order);
                }
            }
        })
    };
    assert_eq!(changed(|order| order.switchover = "s0".to_owned()), "X-2.5");
    assert_eq!(changed(|order| order.db = db_uid("db2")), "X-2.5");
    assert_eq!(
        changed(|order| order.order = OrderKind::Stop),
        "X-2.4",
        "the master is announced"
    );
    // on condition of the request and of the order that it replaces
    let without_request = |plan: &mut Plan| {
        plan.conditions
            .retain(|condition| !matches!(condition, Condition::Switchover { .. }));
    };
    assert_eq!(broken(&setup, without_request), "X-2.5");
    let of_another = |plan: &mut Plan| {
        for condition in &mut plan.conditions {
            if let Condition::Order { keeper, .. } = condition {
                *keeper = keeper_of("db2");
            }
        }
    };
    assert_eq!(broken(&setup, of_another), "X-2.5");
    let mut with_order = setup.clone();
    put(&mut with_order, "keeper1", None, false);
    let whatever_it_is = |plan: &mut Plan| {
        for condition in &mut plan.conditions {
            if let Condition::Order { revision, .. } = condition {
                *revision = None;
            }
        }
    };
    assert_eq!(broken(&with_order, whatever_it_is), "X-2.5");
}

#[test]
fn a_master_is_ordered_to_stop_only_once_no_proxy_may_forward_to_it() {
    let setup = closed(ask(base(3), None));
    assert_eq!(broken(&setup, |_| {}), "");
    let mut forwarding = setup.clone();
    forwarding.proxy_seen("p1", 1);
    let plan = setup.clone().plan().unwrap();
    assert_eq!(broken(&forwarding, |other| *other = plan), "X-2.4");
    // the order of the leader before may be put again
    let mut again = ordered(ask(base(3), None));
    give(&mut again, OrderKind::Stop, false);
    again.proxy_seen("p1", 1);
    assert_eq!(broken(&again, |_| {}), "");
}

#[test]
fn no_order_is_left_without_a_request() {
    let mut gone = checkpointed(ask(base(3), None));
    gone.seen.switchover = None;
    assert_eq!(broken(&gone, |_| {}), "");
    assert_eq!(broken(&gone, |plan| plan.conditions.clear()), "X-2.5");
    // nor when the request is deleted
    let mut ended = ordered(ask(base(3), None));
    ended.info("keeper1").leaving = true;
    assert_eq!(broken(&ended, |_| {}), "");
    assert_eq!(broken(&ended, |plan| plan.conditions.truncate(1)), "X-2.5");
    let other_request = |plan: &mut Plan| {
        plan.conditions[0] = Condition::Switchover {
            revision: REQUEST - 1,
            fate: RequestFate::Deleted,
        };
    };
    assert_eq!(broken(&ended, other_request), "X-2.5");
}

#[test]
fn no_master_is_announced_while_there_is_a_request_or_an_order() {
    let announce = |setup: &Setup| {
        broken(setup, |plan| {
            no_plan(plan, setup);
            let proxy = plan.next.proxy.as_mut().unwrap();
            (proxy.spec.master_db_uid, proxy.generation) = (db_uid("db1"), proxy.generation + 1);
        })
    };
    let mut setup = closed(ask(base(3), None));
    assert_eq!(announce(&setup), "X-2.7");
    setup.seen.orders.clear();
    assert_eq!(announce(&setup), "X-2.7");
    setup.seen.switchover = None;
    assert_eq!(announce(&setup), "");
}

#[test]
fn nobody_is_elected_while_there_is_a_request_or_an_order() {
    let mut failed = base(3);
    failed.unhealthy("db1");
    let election = failed.clone().plan().unwrap();
    let mut setup = failed.clone();
    setup.derive_infos();
    give(&mut setup, OrderKind::Checkpoint, true);
    let orders_deleted = |plan: &mut Plan| {
        let of_orders = std::mem::take(&mut plan.conditions);
        *plan = election.clone();
        plan.conditions.extend(of_orders);
    };
    assert_eq!(broken(&setup, orders_deleted), "X-2.6");
}

/// What the election of a switchover breaks, once something is taken away from what it is based on.
#[test]
fn a_switchover_elects_who_has_everything_after_a_clean_stop_on_its_order() {
    let mut setup = received(stopped(ask(base(3), Some("keeper2"))), "db2", 1_100);
    // the statuses have what the reports have
    setup.at("db2", 1, 1_100);
    let plan = setup.clone().plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    let with = |change: &dyn Fn(&mut Setup)| {
        let mut setup = setup.clone();
        change(&mut setup);
        broken(&setup, |other| *other = plan.clone())
    };
    assert_eq!(with(&|_| {}), "");
    let refused = "INV-7 X-2.6";
    assert_eq!(with(&|setup| setup.at("db2", 1, 1_099).derive_infos()), refused);
    assert_eq!(
        with(&|setup| setup.info("keeper1").leaving = true),
        "X-2.6",
        "that of X-1.6"
    );
    assert_eq!(with(&|setup| setup.info("keeper1").boot_uuid = "other".into()), refused);
    let stop = |change: fn(&mut model::Stopped)| with(&|setup| change(setup.info("keeper1").stopped.as_mut().unwrap()));
    assert_eq!(stop(|stopped| stopped.clean = false), refused);
    assert_eq!(stop(|stopped| stopped.lsn = None), refused);
    assert_eq!(stop(|stopped| stopped.timeline_id = 2), refused);
    assert_eq!(
        with(&|setup| setup.seen.switchover.as_mut().unwrap().0.to = Some(keeper_of("db3"))),
        refused
    );
    assert_eq!(with(&|setup| setup.seen.switchover = None), "INV-7 X-2.5 X-2.6");
    assert_eq!(
        with(&|setup| give(setup, OrderKind::Checkpoint, true)),
        "INV-7 X-2.5 X-2.6"
    );
    let without = |index: usize| broken(&setup, |plan| drop(plan.conditions.remove(index)));
    let conditions = &plan.conditions;
    let at = |is: fn(&Condition) -> bool| conditions.iter().position(is).unwrap();
    let request = at(|condition| matches!(condition, Condition::Switchover { .. }));
    let order = at(|condition| matches!(condition, Condition::Order { .. }));
    let info = at(|condition| matches!(condition, Condition::KeeperInfo { .. }));
    assert_eq!(without(request), refused);
    assert_eq!(without(order), "INV-7 X-2.5 X-2.6");
    assert_eq!(without(info), "X-1.5");
}
