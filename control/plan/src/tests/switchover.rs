//! A switchover that is carried out, step by step, also by another leader (extensions X-2; synchronous SY-14).

use std::time::Duration;

use super::cluster::{Setup, base, db_uid, keeper_of, synchronous, uids};
use crate::{Condition, Note, ObservedOrder, OrderFate, Plan, RequestFate, Urgency, order_ttl};
use model::{DbUid, KeeperOrder, OrderKind, Stopped, SwitchoverReport, SwitchoverRequest, SwitchoverState, Timestamp};

/// The revision of the request.
pub(super) const REQUEST: i64 = 50;
/// The revision of the first order.
const ORDER: i64 = 60;
/// The id of the request.
pub(super) const ID: &str = "s1";

/// A switchover from db1 is requested, to this keeper or to any. Every standby is fit.
pub(super) fn ask(mut setup: Setup, to: Option<&str>) -> Setup {
    for (position, uid) in [1_000, 900, 800].into_iter().zip(["db1", "db2", "db3"]) {
        if setup.data.dbs().contains_key(&db_uid(uid)) {
            setup.at(uid, 1, position);
        }
    }
    setup.derive_infos();
    setup.info("keeper1").orders = true;
    let request = SwitchoverRequest {
        id: ID.to_owned(),
        to: to.map(Into::into),
        requested_at: Timestamp::default(),
    };
    setup.seen.switchover = Some((request, REQUEST));
    setup
}

/// Gives the master's keeper an order of this switchover.
pub(super) fn give(setup: &mut Setup, order: OrderKind, is_own: bool) {
    let order = KeeperOrder {
        switchover: ID.to_owned(),
        db: db_uid("db1"),
        order,
    };
    put(setup, "keeper1", Some(order), is_own);
}

pub(super) fn put(setup: &mut Setup, keeper: &str, order: Option<KeeperOrder>, is_own: bool) {
    let last = setup.seen.orders.values().map(|order| order.revision).max();
    let observed = ObservedOrder {
        revision: last.map_or(ORDER, |last| last + 1),
        order,
        is_own,
    };
    setup.seen.orders.insert(keeper.into(), observed);
}

/// The keeper of the master has run the checkpoint.
pub(super) fn checkpointed(mut setup: Setup) -> Setup {
    give(&mut setup, OrderKind::Checkpoint, true);
    publish_checkpoint(&mut setup);
    setup
}

/// The keeper of the master publishes that the checkpoint is complete, and all standbys have received it.
fn publish_checkpoint(setup: &mut Setup) {
    let standbys = setup.data.dbs().keys().filter(|uid| uid.as_str() != "db1").cloned();
    let received = standbys.map(|uid| (uid, true)).collect();
    let info = setup.info("keeper1");
    (info.checkpointed, info.checkpoint_received) = (ID.to_owned(), received);
}

/// The proxies are closed for the switchover.
pub(super) fn closed(setup: Setup) -> Setup {
    let mut setup = checkpointed(setup);
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy().generation += 1;
    setup
}

/// The keeper of the master is ordered to stop it.
pub(super) fn ordered(setup: Setup) -> Setup {
    let mut setup = closed(setup);
    give(&mut setup, OrderKind::Stop, true);
    setup
}

/// The master was stopped, with its WAL up to 1,100.
pub(super) fn stopped(setup: Setup) -> Setup {
    let mut setup = ordered(setup);
    setup.info("keeper1").stopping = ID.to_owned();
    setup.stopped("keeper1", 1, 1_100);
    setup
}

/// A standby reports that it has received the WAL up to here.
pub(super) fn received(mut setup: Setup, uid: &str, position: u64) -> Setup {
    setup.state(keeper_of(uid).as_str()).xlog_pos = model::Lsn(position);
    setup
}

/// Plans on new reports, writes and remembers, with what the write does to request and orders.
pub(super) fn round(setup: &mut Setup) -> Plan {
    for (uid, observed) in &mut setup.seen.keepers {
        observed.info.info_uid = format!("{uid}-{:?}", setup.now).as_str().into();
    }
    let plan = setup.round();
    apply(setup, &plan);
    plan
}

/// Does to request and orders what the write of a plan does.
pub(super) fn apply(setup: &mut Setup, plan: &Plan) {
    for condition in &plan.conditions {
        match condition {
            Condition::Switchover {
                fate: RequestFate::Deleted,
                ..
            } => setup.seen.switchover = None,
            Condition::Order { keeper, fate, .. } => match fate {
                OrderFate::Kept => {}
                OrderFate::Deleted => drop(setup.seen.orders.remove(keeper)),
                OrderFate::Put(order) => put(setup, keeper.as_str(), Some(order.clone()), true),
            },
            _ => {}
        }
    }
}

/// Returns what a plan orders the master's keeper to do.
fn order_in(plan: &Plan) -> Option<OrderKind> {
    plan.conditions.iter().find_map(|condition| match condition {
        Condition::Order {
            keeper,
            fate: OrderFate::Put(order),
            ..
        } => {
            assert_eq!((keeper.as_str(), order.db.as_str()), ("keeper1", "db1"));
            assert_eq!(order.switchover, ID);
            let kept = Condition::Switchover {
                revision: REQUEST,
                fate: RequestFate::Kept,
            };
            assert!(plan.conditions.contains(&kept), "{:?}", plan.conditions);
            Some(order.order.clone())
        }
        _ => None,
    })
}

fn master(plan: &Plan) -> &str {
    plan.next.master_uid().map_or("", DbUid::as_str)
}

fn announced(plan: &Plan) -> &str {
    let section = plan.next.proxy.as_ref();
    section.map_or("", |section| section.spec.master_db_uid.as_str())
}

pub(super) fn report(plan: &Plan) -> SwitchoverReport {
    plan.switchover.clone().unwrap_or_default()
}

fn state(plan: &Plan) -> SwitchoverState {
    assert_eq!(report(plan).id, ID);
    report(plan).state
}

/// One switchover from the request to the announcement, with every report that it waits for.
#[test]
fn the_master_is_stopped_in_order_and_replaced_by_a_standby_that_has_everything() {
    let mut setup = ask(base(3), None);
    setup.proxy_seen("p1", 1);
    // 1: nothing happens to clients before the checkpoint is done
    let plan = round(&mut setup);
    assert_eq!(
        (order_in(&plan), announced(&plan)),
        (Some(OrderKind::Checkpoint), "db1")
    );
    assert_eq!(
        (state(&plan), report(&plan).to.as_str()),
        (SwitchoverState::Checkpoint, "keeper2")
    );
    let plan = round(&mut setup);
    assert_eq!((order_in(&plan), announced(&plan)), (None, "db1"));
    // 2
    publish_checkpoint(&mut setup);
    let plan = round(&mut setup);
    assert_eq!((order_in(&plan), announced(&plan)), (None, ""));
    assert_eq!(state(&plan), SwitchoverState::ClosingProxies);
    let plan = round(&mut setup);
    assert_eq!((order_in(&plan), announced(&plan)), (None, ""), "p1 may still forward");
    // 3
    let acknowledged = setup.proxy().generation;
    setup.proxy_seen("p1", acknowledged);
    let plan = round(&mut setup);
    assert_eq!(
        (order_in(&plan), state(&plan)),
        (Some(OrderKind::Stop), SwitchoverState::Stopping)
    );
    setup.info("keeper1").stopping = ID.to_owned();
    let plan = round(&mut setup);
    assert_eq!((order_in(&plan), state(&plan)), (None, SwitchoverState::Stopping));
    // 4
    setup.stopped("keeper1", 1, 1_100);
    let plan = round(&mut setup);
    assert_eq!((master(&plan), state(&plan)), ("db1", SwitchoverState::Receiving));
    // 5
    setup = received(setup, "db2", 1_100);
    let plan = round(&mut setup);
    assert_eq!((master(&plan), announced(&plan)), ("db2", ""));
    assert_eq!(
        (state(&plan), report(&plan).to.as_str()),
        (SwitchoverState::Promoting, "keeper2")
    );
    assert!(setup.seen.switchover.is_none() && setup.seen.orders.is_empty());
    assert!(plan.conditions.contains(&Condition::KeeperInfo {
        key: "keeper1".to_owned(),
        revision: Some(7),
    }));
    // 6
    setup.state("keeper2").generation = 2;
    let plan = round(&mut setup);
    assert_eq!((master(&plan), announced(&plan)), ("db2", "db2"), "{:?}", plan.notes);
    assert_eq!(state(&plan), SwitchoverState::Done);
    assert_eq!(
        round(&mut setup).switchover,
        plan.switchover,
        "it stays for the command that asks"
    );
}

/// Every write that changes only an order or the request has to be written at once.
#[test]
fn orders_are_written_at_once_and_renewed_before_they_end() {
    let mut setup = ask(base(3), None);
    let plan = round(&mut setup);
    assert_eq!(
        (plan.urgency, plan.keeps_order),
        (Urgency::Immediate, false),
        "its lease is new"
    );
    let plan = round(&mut setup);
    assert_eq!((plan.urgency, plan.keeps_order), (Urgency::Periodic, true));
    let ttl = order_ttl(Duration::from_secs(20));
    assert_eq!(ttl, Duration::from_secs(5));
    assert!(plan.wake_at.is_some_and(|at| at.since(setup.now) <= ttl / 3));
    assert_eq!(order_ttl(Duration::from_secs(6)), Duration::from_secs(3));
    assert_eq!(order_ttl(Duration::ZERO), Duration::from_secs(2));
}

#[test]
fn the_keeper_that_was_named_gets_the_master_and_no_other() {
    let setup = stopped(ask(base(3), Some("keeper3")));
    let plan = round(&mut received(setup.clone(), "db2", 1_100));
    assert_eq!((master(&plan), state(&plan)), ("db1", SwitchoverState::Receiving));
    let setup = received(received(setup, "db2", 1_200), "db3", 1_100);
    assert_eq!(master(&round(&mut setup.clone())), "db3");
}

#[test]
fn the_most_advanced_standby_is_elected_when_none_was_named() {
    let setup = stopped(ask(base(3), None));
    let both = received(received(setup.clone(), "db2", 1_100), "db3", 1_200);
    assert_eq!(master(&round(&mut both.clone())), "db3");
    let one = received(setup, "db3", 1_100);
    assert_eq!(master(&round(&mut one.clone())), "db3");
}

#[test]
fn a_standby_without_everything_is_not_elected() {
    let setup = stopped(ask(base(3), None));
    let lacking = |setup: Setup| {
        let plan = round(&mut setup.clone());
        assert_eq!((master(&plan), state(&plan)), ("db1", SwitchoverState::Receiving));
        assert!(!setup.seen.orders.is_empty(), "the master stays stopped");
    };
    lacking(received(setup.clone(), "db2", 1_099));
    // everything, but of another timeline than the master was stopped on
    let mut other = received(setup, "db2", 1_100);
    other.stopped("keeper1", 2, 1_100);
    lacking(other);
}

#[test]
fn proxies_that_may_still_forward_hold_up_the_order_and_the_election() {
    let mut setup = closed(ask(base(3), None));
    setup.proxy_seen("p1", 1);
    let plan = round(&mut setup);
    assert_eq!((order_in(&plan), state(&plan)), (None, SwitchoverState::ClosingProxies));
    assert_eq!(
        report(&plan).reason,
        "proxy p1 may still forward, for proxyTimeout at most: check that it runs and reaches etcd"
    );
    let mut setup = received(stopped(ask(base(3), None)), "db2", 1_100);
    setup.proxy_seen("p1", 1);
    assert_eq!(master(&round(&mut setup)), "db1");
    setup.proxy_seen("p1", 2);
    assert_eq!(master(&round(&mut setup)), "db2");
}

/// A standby that lacks what it was in sync for is not elected, and one that was not in sync is, once it has everything
/// (synchronous SY-2, SY-14).
#[test]
fn a_synchronous_master_is_replaced_by_who_has_everything_in_sync_or_not() {
    let setup = stopped(ask(synchronous(3, &["db2"], &["db2"]), None));
    let in_sync = received(setup.clone(), "db2", 1_099);
    assert_eq!(master(&round(&mut in_sync.clone())), "db1");
    let plan = round(&mut received(in_sync, "db3", 1_100));
    assert_eq!(master(&plan), "db3");
    let elected = &plan.next.dbs()["db3"];
    assert_eq!(elected.spec.synchronous_standbys, uids(&["db2"]));
    assert_eq!(elected.status.synchronous_standbys, uids(&[]));
    // min = 0, and no commit waited for anybody
    let mut nobody = stopped(ask(synchronous(2, &[], &[]), None));
    nobody.spec().min_synchronous_standbys = Some(0);
    nobody.db("db1").spec.external_synchronous_standbys = Some(Vec::new());
    assert_eq!(master(&round(&mut received(nobody, "db2", 1_100))), "db2");
}

#[test]
fn another_leader_goes_on_with_each_step_and_takes_the_order_over() {
    type Case = (fn(Setup) -> Setup, OrderKind, OrderKind);
    let cases: [Case; 3] = [
        (checkpointed, OrderKind::Checkpoint, OrderKind::Checkpoint),
        (closed, OrderKind::Checkpoint, OrderKind::Checkpoint),
        (stopped, OrderKind::Stop, OrderKind::Stop),
    ];
    for (step, of_former, expected) in cases {
        let mut setup = received(step(ask(base(3), None)), "db2", 1_100);
        give(&mut setup, of_former, false);
        setup.leadership += 1;
        let first = round(&mut setup);
        assert_eq!(
            (master(&first), first.conditions.len()),
            ("db1", 0),
            "a first run waits"
        );
        let plan = round(&mut setup);
        assert_eq!(
            (order_in(&plan), master(&plan)),
            (Some(expected), "db1"),
            "{:?}",
            plan.notes
        );
        assert!(setup.seen.orders.values().all(|order| order.is_own));
    }
}

#[test]
fn a_stop_whose_order_ended_with_its_leader_is_ordered_again() {
    let mut setup = stopped(ask(base(3), None));
    setup.seen.orders.clear();
    let mut forwarding = setup.clone();
    forwarding.proxy_seen("p1", 1);
    let plan = round(&mut forwarding);
    assert_eq!((order_in(&plan), announced(&plan)), (None, ""), "p1 may still forward");
    let plan = round(&mut setup);
    assert_eq!((order_in(&plan), announced(&plan)), (Some(OrderKind::Stop), ""));
    let plan = round(&mut received(setup, "db2", 1_100));
    assert_eq!(master(&plan), "db2");
}

#[test]
fn another_process_of_the_keeper_is_recorded_before_its_stop_counts() {
    let mut setup = received(stopped(ask(base(3), None)), "db2", 1_100);
    setup.info("keeper1").boot_uuid = "again".into();
    let plan = round(&mut setup);
    assert_eq!((master(&plan), state(&plan)), ("db1", SwitchoverState::Stopping));
    assert_eq!(master(&round(&mut setup)), "db2");
}

/// Its keeper is not needed any more. What it publishes makes the write fail (extensions ).
#[test]
fn a_master_whose_keeper_dies_after_the_stop_is_still_replaced() {
    let mut setup = received(stopped(ask(base(3), None)), "db2", 1_100);
    setup.info("keeper1").liveness_key = true;
    let info = setup.info("keeper1").clone();
    setup
        .seen
        .liveness_keys
        .insert("keeper1".into(), info.boot_uuid.clone());
    setup.round();
    setup.seen.liveness_keys.clear();
    setup.data = ask(base(3), None).data;
    setup.proxy().spec.master_db_uid = db_uid("");
    assert_eq!(master(&round(&mut setup)), "db2");
    assert!(info.stopped.is_some_and(|stopped: Stopped| stopped.clean));
}

/// The sets may change meanwhile (synchronous SY-14): commits wait for a standby that is there, until the master stops.
#[test]
fn the_sets_of_a_synchronous_master_go_on_changing() {
    for step in [checkpointed, closed, ordered] {
        let mut setup = step(ask(synchronous(3, &["db2"], &["db2"]), Some("keeper3")));
        setup.info("keeper2").leaving = true;
        let plan = round(&mut setup);
        assert_eq!(
            plan.next.dbs()["db1"].spec.synchronous_standbys,
            uids(&["db2", "db3"]),
            "{:?}",
            plan.notes
        );
        assert!(setup.seen.switchover.is_some());
    }
}

/// Closed proxies of a switchover are no sign of an election just made, which would delay the next one.
#[test]
fn another_leader_does_not_take_the_master_for_one_that_was_elected_just_now() {
    let mut setup = ordered(ask(base(3), None));
    setup.leadership += 1;
    round(&mut setup);
    assert_eq!(setup.memory.election, None);
    setup.seen = ask(base(3), None).seen;
    (setup.seen.switchover, setup.leadership) = (None, setup.leadership + 1);
    round(&mut setup);
    assert!(setup.memory.election.is_some());
}

#[test]
fn a_master_is_announced_on_condition_of_its_keepers_info_once_nothing_holds_it_back() {
    let condition = Condition::KeeperInfo {
        key: "keeper1".to_owned(),
        revision: Some(7),
    };
    let mut setup = closed(ask(base(3), None));
    setup.seen.switchover = None;
    let plan = round(&mut setup);
    assert_eq!(announced(&plan), "", "the order was there");
    let plan = round(&mut setup);
    assert_eq!(announced(&plan), "db1");
    assert!(plan.conditions.contains(&condition));
    // not while it is being stopped on an order that has ended
    let mut stopping = closed(ask(base(3), None));
    (stopping.seen.switchover, stopping.info("keeper1").stopping) = (None, ID.to_owned());
    for _ in 0..3 {
        let plan = round(&mut stopping);
        assert_eq!((announced(&plan), master(&plan)), ("", "db1"), "{:?}", plan.notes);
    }
    assert!(
        plan.notes
            .iter()
            .any(|note| matches!(note, Note::MasterAnnounced { .. }))
    );
}
