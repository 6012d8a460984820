//! A switchover that does not come to its end: what it waits for, what it is refused and given up for, and what that leaves
//! (extensions ).

use std::time::Duration;

use super::cluster::{Setup, base, db_uid, db2_elected, initializing, synchronous};
use super::standby_clusters::standby_cluster;
use super::switchover::{ID, ask, checkpointed, closed, give, ordered, put, received, report, round, stopped};
use crate::{Condition, Note, OrderFate, Plan, RequestFate, SwitchoverReason, Unfit};
use model::{KeeperOrder, KeeperUid, OrderKind, Problem, Role, SwitchoverState};

fn keeper(uid: &str) -> KeeperUid {
    uid.into()
}

/// Returns why a plan ends the switchover, which leaves neither a request nor an order.
fn ended(setup: &mut Setup) -> (SwitchoverState, SwitchoverReason) {
    let master = setup.data.master_uid().cloned();
    let plan = round(setup);
    assert!(
        setup.seen.switchover.is_none() && setup.seen.orders.is_empty(),
        "{:?}",
        plan.conditions
    );
    assert_eq!(
        plan.next.master_uid(),
        master.as_ref(),
        "nobody is elected in the same write"
    );
    let reasons = plan.notes.iter().filter_map(|note| match note {
        Note::SwitchoverRefused { reason, .. } | Note::SwitchoverAborted { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let reasons: Vec<_> = reasons.collect();
    assert_eq!(reasons.len(), 1, "{:?}", plan.notes);
    let report = report(&plan);
    assert_eq!((report.id.as_str(), report.reason), (ID, reasons[0].to_string()));
    (report.state, reasons[0].clone())
}

/// Returns why a switchover is refused once `change` has been made.
#[track_caller]
fn refused(to: Option<&str>, change: impl FnOnce(&mut Setup)) -> SwitchoverReason {
    let mut setup = ask(base(3), to);
    change(&mut setup);
    let (state, reason) = ended(&mut setup);
    assert_eq!(state, SwitchoverState::Refused);
    reason
}

/// Returns what a switchover waits for once `change` has been made.
#[track_caller]
fn waits(to: Option<&str>, change: impl FnOnce(&mut Setup)) -> SwitchoverReason {
    let mut setup = ask(base(3), to);
    change(&mut setup);
    let plan = round(&mut setup);
    assert!(
        setup.seen.switchover.is_some() && setup.seen.orders.is_empty(),
        "{:?}",
        plan.notes
    );
    let reason = plan.notes.iter().find_map(|note| match note {
        Note::SwitchoverWaits { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let reason = reason.unwrap();
    assert_eq!(report(&plan).state, SwitchoverState::Waiting);
    assert_eq!(report(&plan).reason, reason.to_string());
    reason
}

fn target(uid: &str, why: Unfit) -> SwitchoverReason {
    SwitchoverReason::Target {
        keeper: keeper(uid),
        why,
    }
}

// ---- step 0

#[test]
fn a_switchover_is_refused_when_the_master_cannot_be_stopped() {
    type Case = (fn(&mut Setup), SwitchoverReason);
    let cases: [Case; 8] = [
        (
            |setup| setup.info("keeper1").orders = false,
            SwitchoverReason::NoOrders {
                keeper: keeper("keeper1"),
            },
        ),
        (
            |setup| setup.info("keeper1").leaving = true,
            SwitchoverReason::MasterLeaving,
        ),
        (
            |setup| setup.info("keeper1").stopping = "other".to_owned(),
            SwitchoverReason::MasterNotHealthy,
        ),
        (
            |setup| setup.state("keeper1").healthy = false,
            SwitchoverReason::MasterNotHealthy,
        ),
        (
            |setup| drop(setup.seen.keepers.remove("keeper1")),
            SwitchoverReason::MasterKeeperGone,
        ),
        (
            |setup| setup.spec().fail_interval = Some(model::GoDuration::from_secs(3)),
            SwitchoverReason::FailIntervalTooShort,
        ),
        (
            |setup| setup.proxy().spec.master_db_uid = db_uid(""),
            SwitchoverReason::NotAnnounced,
        ),
        (
            |setup| setup.keeper_status("keeper1").force_fail = true,
            SwitchoverReason::FailedByHand {
                keeper: keeper("keeper1"),
            },
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refused(None, change), expected);
    }
}

#[test]
fn a_keeper_that_was_named_is_refused_with_its_reason() {
    type Case = (&'static str, fn(&mut Setup), Unfit);
    let cases: [Case; 8] = [
        ("keeper9", |_| {}, Unfit::NoDb),
        ("keeper1", |_| {}, Unfit::IsMaster),
        ("keeper3", |setup| setup.info("keeper3").leaving = true, Unfit::Leaving),
        (
            "keeper3",
            |setup| setup.state("keeper3").healthy = false,
            Unfit::NotHealthy,
        ),
        (
            "keeper3",
            |setup| drop(setup.seen.keepers.remove("keeper3")),
            Unfit::NotHealthy,
        ),
        (
            "keeper3",
            |setup| setup.info("keeper3").can_be_master = Some(false),
            Unfit::MayNotBeMaster,
        ),
        (
            "keeper3",
            |setup| setup.state("keeper3").system_id = "other".to_owned(),
            Unfit::OtherData,
        ),
        (
            "keeper3",
            |setup| setup.info("keeper3").problems = vec![Problem::new("replication", "no WAL", "")],
            Unfit::NotStreaming,
        ),
    ];
    for (to, change, why) in cases {
        assert_eq!(refused(Some(to), change), target(to, why));
    }
    assert_eq!(
        refused(Some("keeper3"), |setup| setup.keeper_status("keeper3").force_fail =
            true),
        target("keeper3", Unfit::FailedByHand)
    );
}

#[test]
fn a_switchover_to_anybody_names_what_is_wrong_with_each() {
    assert_eq!(
        refused(None, |setup| {
            setup.info("keeper2").can_be_master = Some(false);
            setup.state("keeper3").healthy = false;
        }),
        SwitchoverReason::NoTarget(vec![
            (keeper("keeper2"), Unfit::MayNotBeMaster),
            (keeper("keeper3"), Unfit::NotHealthy),
        ])
    );
    let mut alone = ask(base(1), None);
    assert_eq!(ended(&mut alone).1, SwitchoverReason::NoTarget(Vec::new()));
}

#[test]
fn a_switchover_waits_for_what_passes_by_itself() {
    assert_eq!(
        waits(Some("keeper3"), |setup| {
            setup.state("keeper1").xlog_pos = model::Lsn(1 << 30);
        }),
        target(
            "keeper3",
            Unfit::TooFarBehind {
                at: model::Lsn(800),
                master: model::Lsn(1 << 30)
            }
        )
    );
    assert_eq!(
        waits(Some("keeper3"), |setup| setup.db("db3").generation = 2),
        target("keeper3", Unfit::Converging)
    );
    assert_eq!(
        waits(None, |setup| setup.db("db1").generation = 2),
        SwitchoverReason::MasterConverging
    );
    assert_eq!(
        waits(Some("keeper2"), |setup| {
            (setup.db("db3").spec.role, setup.db("db3").spec.follow_config) = (Role::Master, None);
        }),
        SwitchoverReason::FormerMasterKept {
            keeper: keeper("keeper3")
        }
    );
}

#[test]
fn clusters_without_a_master_of_their_own_have_no_switchover() {
    let mut standby = ask(standby_cluster(2), None);
    assert_eq!(ended(&mut standby).1, SwitchoverReason::StandbyCluster);
    let mut empty = initializing();
    empty.keeper("keeper1");
    let mut empty = ask(empty, None);
    give(&mut empty, OrderKind::Stop, false);
    let plan = round(&mut empty);
    assert_eq!(report(&plan).state, SwitchoverState::Refused);
    assert!(empty.seen.switchover.is_none() && empty.seen.orders.is_empty());
}

// ---- later steps

/// Returns why a switchover at each of the steps is given up once `change` has been made.
#[track_caller]
fn given_up(steps: &[fn(Setup) -> Setup], change: impl Fn(&mut Setup)) -> SwitchoverReason {
    let mut reasons = steps.iter().map(|step| {
        let mut setup = step(ask(base(3), Some("keeper2")));
        change(&mut setup);
        let (state, reason) = ended(&mut setup);
        assert_eq!(state, SwitchoverState::Aborted);
        reason
    });
    let first = reasons.next().unwrap();
    assert!(reasons.all(|reason| reason == first), "{first}");
    first
}

const ALL: [fn(Setup) -> Setup; 4] = [checkpointed, closed, ordered, stopped];

#[test]
fn a_switchover_is_given_up_at_each_step_when_what_it_needs_is_gone() {
    assert_eq!(
        given_up(&ALL, |setup| drop(setup.seen.keepers.remove("keeper2"))),
        target("keeper2", Unfit::NotHealthy)
    );
    assert_eq!(
        given_up(&ALL, |setup| setup.info("keeper2").leaving = true),
        target("keeper2", Unfit::Leaving)
    );
    assert_eq!(
        given_up(&ALL, |setup| drop(setup.seen.keepers.remove("keeper1"))),
        SwitchoverReason::MasterKeeperGone
    );
    assert_eq!(
        given_up(&ALL, |setup| setup.info("keeper1").leaving = true),
        SwitchoverReason::MasterLeaving
    );
    assert_eq!(
        given_up(&ALL, |setup| setup.keeper_status("keeper1").force_fail = true),
        SwitchoverReason::FailedByHand {
            keeper: keeper("keeper1")
        }
    );
    assert_eq!(
        given_up(&ALL, |setup| setup.keeper_status("keeper2").force_fail = true),
        target("keeper2", Unfit::FailedByHand)
    );
}

#[test]
fn a_master_that_fails_by_itself_ends_the_switchover() {
    assert_eq!(
        given_up(&ALL[..3], |setup| setup.state("keeper1").healthy = false),
        SwitchoverReason::MasterNotHealthy
    );
    assert_eq!(
        given_up(&ALL[3..], |setup| {
            setup.info("keeper1").stopped.as_mut().unwrap().clean = false;
        }),
        SwitchoverReason::NotClean
    );
    assert_eq!(
        given_up(&ALL[3..], |setup| {
            setup.info("keeper1").stopped.as_mut().unwrap().lsn = None;
        }),
        SwitchoverReason::NotClean
    );
    assert_eq!(
        given_up(&ALL[2..], |setup| setup.proxy().spec.master_db_uid = db_uid("db1")),
        SwitchoverReason::AnnouncedAgain
    );
}

/// Another standby may take the place of one that fails, when none was named.
#[test]
fn a_switchover_to_anybody_goes_on_while_one_standby_is_left() {
    let mut setup = received(stopped(ask(base(3), None)), "db3", 1_100);
    setup.seen.keepers.remove("keeper2");
    let plan = round(&mut setup);
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db3")));
}

// ---- what an end leaves

#[test]
fn the_old_master_is_announced_again_once_it_runs() {
    let mut setup = ordered(ask(base(3), None));
    setup.state("keeper1").healthy = false;
    ended(&mut setup);
    let announced = |plan: &Plan| plan.next.proxied_master().map(|(uid, _)| uid.to_string());
    assert_eq!(announced(&round(&mut setup)), None);
    setup.state("keeper1").healthy = true;
    assert_eq!(announced(&round(&mut setup)).as_deref(), Some("db1"));
}

#[test]
fn orders_without_a_request_are_deleted_and_the_switchover_is_reported_as_given_up() {
    let mut setup = ordered(ask(base(3), None));
    round(&mut setup);
    setup.seen.switchover = None;
    let (state, reason) = ended(&mut setup);
    assert_eq!(
        (state, reason),
        (SwitchoverState::Aborted, SwitchoverReason::RequestGone)
    );
}

#[test]
fn orders_of_another_switchover_another_db_or_another_keeper_are_deleted() {
    let order = |switchover: &str, db: &str| {
        Some(KeeperOrder {
            switchover: switchover.to_owned(),
            db: db_uid(db),
            order: OrderKind::Stop,
        })
    };
    for (keeper, order) in [
        ("keeper2", order(ID, "db1")),
        ("keeper9", order(ID, "db1")),
        ("keeper2", None),
    ] {
        let mut setup = checkpointed(ask(base(3), None));
        put(&mut setup, keeper, order, true);
        round(&mut setup);
        let left: Vec<_> = setup.seen.orders.keys().map(KeeperUid::as_str).collect();
        assert_eq!(left, ["keeper1"]);
    }
    // the one of the master's own keeper is replaced by that of this switchover, or deleted with it
    for order in [order("s0", "db1"), order(ID, "db0"), None] {
        let mut setup = ask(base(3), None);
        put(&mut setup, "keeper1", order.clone(), false);
        let plan = round(&mut setup);
        let of_master = setup.seen.orders["keeper1"].order.clone().unwrap();
        assert_eq!(
            (of_master.switchover.as_str(), of_master.order),
            (ID, OrderKind::Checkpoint)
        );
        let about_orders = plan
            .conditions
            .iter()
            .filter(|condition| matches!(condition, Condition::Order { .. }));
        assert_eq!(about_orders.count(), 1, "{:?}", plan.conditions);
        let mut refused = ask(base(3), Some("keeper9"));
        put(&mut refused, "keeper1", order, false);
        ended(&mut refused);
    }
}

/// First the switchover ends, then the rules for failures apply (extensions ).
#[test]
fn nobody_is_elected_after_a_failure_before_request_and_orders_are_gone() {
    let failed = || {
        let mut setup = synchronous(3, &["db2"], &["db2"]);
        setup.silent("keeper1").unhealthy("db1");
        setup.derive_infos();
        setup
    };
    let mut requested = failed();
    requested.seen.switchover = ask(base(3), None).seen.switchover;
    assert_eq!(ended(&mut requested).1, SwitchoverReason::MasterKeeperGone);
    assert_eq!(round(&mut requested).next.master_uid(), Some(&db_uid("db2")));
    // after an order failInterval counts from its end
    let mut ordered = failed();
    give(&mut ordered, OrderKind::Stop, false);
    for _ in 0..3 {
        assert_eq!(round(&mut ordered).next.master_uid(), Some(&db_uid("db1")));
        assert!(ordered.seen.orders.is_empty());
    }
    for _ in 0..5 {
        ordered.now = ordered.now + Duration::from_secs(4);
        round(&mut ordered);
    }
    assert_eq!(ordered.data.master_uid(), Some(&db_uid("db2")));
}

/// They affect nobody.
#[test]
fn orders_of_unknown_keepers_are_deleted_and_hold_nothing_up() {
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.silent("keeper1").unhealthy("db1");
    setup.derive_infos();
    for number in 0..32 {
        put(&mut setup, &format!("unknown{number}"), None, false);
    }
    let plan = round(&mut setup);
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    assert!(setup.seen.orders.is_empty(), "{:?}", plan.conditions);
}

/// The flag is kept, and acts in the round after (extensions ).
#[test]
fn failkeeper_ends_the_switchover_first() {
    for uid in ["keeper1", "keeper2"] {
        let mut setup = checkpointed(ask(base(3), Some("keeper2")));
        setup.keeper_status(uid).force_fail = true;
        ended(&mut setup);
        let kept = setup.keeper_status(uid).clone();
        assert!(kept.force_fail && kept.healthy);
        let plan = round(&mut setup);
        assert!(!plan.next.keepers()[uid].status.force_fail);
        assert!(!plan.next.keepers()[uid].status.healthy);
    }
    // one that does not take part fails at once
    let mut setup = checkpointed(ask(base(3), Some("keeper2")));
    setup.keeper_status("keeper3").force_fail = true;
    let plan = round(&mut setup);
    assert!(!plan.next.keepers()["keeper3"].status.force_fail && setup.seen.switchover.is_some());
}

/// The master leaves in order while it is to be stopped: the rules for that apply once the switchover is over.
#[test]
fn a_master_that_leaves_is_replaced_as_after_any_orderly_shutdown() {
    let mut setup = received(stopped(ask(base(3), None)), "db2", 1_100);
    setup.info("keeper1").leaving = true;
    assert_eq!(ended(&mut setup).1, SwitchoverReason::MasterLeaving);
    assert_eq!(round(&mut setup).next.master_uid(), Some(&db_uid("db2")));
}

#[test]
fn a_switchover_whose_elected_db_fails_is_reported_as_given_up() {
    let mut setup = received(stopped(ask(base(3), None)), "db2", 1_100);
    round(&mut setup);
    let mut other = setup.clone();
    db2_elected(&mut other);
    other.cluster().status.master = db_uid("db3");
    other.db("db3").spec.role = Role::Master;
    other.db("db3").spec.follow_config = None;
    let plan = other.plan().unwrap();
    let reason = SwitchoverReason::OtherElected {
        keeper: keeper("keeper3"),
    };
    assert_eq!(report(&plan).state, SwitchoverState::Aborted);
    assert_eq!(report(&plan).reason, reason.to_string());
}

#[test]
fn an_end_deletes_the_request_that_was_read_and_no_other() {
    let mut setup = stopped(ask(base(3), None));
    setup.info("keeper1").leaving = true;
    let plan = setup.plan().unwrap();
    let order = &setup.seen.orders["keeper1"];
    assert_eq!(
        plan.conditions,
        [
            Condition::Switchover {
                revision: super::switchover::REQUEST,
                fate: RequestFate::Deleted
            },
            Condition::Order {
                keeper: keeper("keeper1"),
                revision: Some(order.revision),
                fate: OrderFate::Deleted
            }
        ]
    );
}
