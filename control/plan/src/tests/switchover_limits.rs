//! The limits of a switchover: how long clients wait, and from when on a stopped master counts as failed (extensions,
//!

use std::time::Duration;

use super::cluster::{Setup, base, db_uid};
use super::switchover::{apply, ask, checkpointed, give, ordered, received, report, round, stopped};
use crate::{Note, Plan, SwitchoverReason};
use model::{OrderKind, SwitchoverState};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn clients_wait_only_so_long_for_an_order_to_be_taken_and_for_the_rest_of_the_wal() {
    // the keepers are there, and publish nothing new, or the same again
    let after = |mut setup: Setup, rounds: u64, publish: bool| {
        for keeper in ["keeper1", "keeper2", "keeper3"] {
            setup.info(keeper).liveness_key = true;
            let boot = setup.info(keeper).boot_uuid.clone();
            setup.seen.liveness_keys.insert(keeper.into(), boot);
        }
        round(&mut setup);
        for _ in 1..rounds {
            setup.now = setup.now + Duration::from_secs(4);
            match publish {
                true => round(&mut setup),
                false => setup.round(),
            };
            assert!(setup.seen.switchover.is_some());
        }
        setup.now = setup.now + Duration::from_secs(4);
        setup
    };
    let steps: [fn(Setup) -> Setup; 2] = [ordered, stopped];
    for (step, reason) in steps
        .into_iter()
        .zip([SwitchoverReason::OrderNotTaken, SwitchoverReason::NotReceived])
    {
        for publish in [false, true] {
            let early = after(step(ask(base(3), None)), 2, publish).plan().unwrap();
            assert!(early.conditions.is_empty(), "{:?}", early.notes);
            let late = after(step(ask(base(3), None)), 3, publish).plan().unwrap();
            let why = late.notes.iter().find_map(|note| match note {
                Note::SwitchoverAborted { reason, .. } => Some(reason),
                _ => None,
            });
            assert_eq!(why, Some(&reason), "{publish}");
        }
    }
}

/// Returns why a plan gives the switchover up.
fn given_up_for(plan: &Plan) -> Option<&SwitchoverReason> {
    plan.notes.iter().find_map(|note| match note {
        Note::SwitchoverAborted { reason, .. } => Some(reason),
        _ => None,
    })
}

/// A master that has begun to stop has a longer limit, however often its keeper publishes that.
#[test]
fn clients_wait_only_so_long_for_a_stop_that_has_begun() {
    let mut setup = ordered(ask(base(3), None));
    setup.info("keeper1").stopping = super::switchover::ID.to_owned();
    let began = setup.now;
    round(&mut setup);
    while setup.now.since(began) < 69 * SECOND {
        setup.now = setup.now + 4 * SECOND;
        assert_eq!(given_up_for(&round(&mut setup)), None, "{:?}", setup.now.since(began));
    }
    setup.now = setup.now + 4 * SECOND;
    assert_eq!(given_up_for(&round(&mut setup)), Some(&SwitchoverReason::StopTooLong));
    assert!(setup.seen.switchover.is_none() && setup.seen.orders.is_empty());
}

#[test]
fn a_stopped_master_is_no_failure_until_fail_interval_after_its_order() {
    let mut setup = ordered(ask(base(3), None));
    setup.state("keeper1").healthy = false;
    setup
        .memory
        .db_errors
        .insert(db_uid("db1"), setup.now.before(Duration::from_secs(100)));
    let plan = round(&mut setup);
    assert!(setup.seen.orders.is_empty() && plan.next.dbs()["db1"].status.healthy);
    let ended_at = setup.memory.ordered["keeper1"];
    assert_eq!(setup.memory.db_errors["db1"], ended_at);
    let plan = round(&mut setup);
    assert!(plan.next.dbs()["db1"].status.healthy, "without the order, too");
    assert_eq!(setup.memory.db_errors["db1"], ended_at);
}

/// A generation that was raised while the master was stopped counts from the end of its order, under a new leader, too: the
/// master can apply it only then.
#[test]
fn a_generation_of_a_stopped_master_counts_from_the_end_of_its_order() {
    for is_new_leader in [false, true] {
        let mut setup = ordered(ask(base(3), None));
        setup.state("keeper1").healthy = false;
        setup.info("keeper1").stopping = super::switchover::ID.to_owned();
        round(&mut setup);
        setup.db("db1").generation += 1;
        if is_new_leader {
            setup.memory = crate::Memory::default();
            setup.leadership += 1;
            give(&mut setup, OrderKind::Stop, false);
        }
        let began = setup.now;
        while setup.now.since(began) < 60 * SECOND {
            setup.now = setup.now + 4 * SECOND;
            round(&mut setup);
        }
        assert!(!setup.seen.orders.is_empty());
        // the request is withdrawn
        setup.seen.switchover = None;
        let plan = round(&mut setup);
        assert_eq!(report(&plan).state, SwitchoverState::Aborted);
        for _ in 0..4 {
            setup.now = setup.now + 4 * SECOND;
            let plan = round(&mut setup);
            assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")), "{:?}", plan.notes);
        }
    }
}

/// The write that elects may have no response. What the store holds then decides how the switchover has ended.
#[test]
fn an_election_whose_response_was_lost_is_no_abort() {
    let elects = || {
        let mut setup = received(stopped(ask(base(3), None)), "db2", 1_100);
        let plan = setup.plan().unwrap();
        assert_eq!(report(&plan).state, SwitchoverState::Promoting);
        let mut unsure = setup.clone();
        unsure.memory = setup.memory.clone().keeping_election_of(&plan.memory);
        (unsure, plan)
    };
    let end = |setup: &mut Setup| report(&round(setup)).state;
    // it was carried out
    let (mut setup, plan) = elects();
    apply(&mut setup, &plan);
    setup.data = plan.next.clone();
    assert_eq!(end(&mut setup), SwitchoverState::Promoting);
    // it was not, and is tried again
    let (mut setup, _) = elects();
    let again = round(&mut setup);
    assert_eq!(again.next.master_uid(), Some(&db_uid("db2")));
    assert_eq!(report(&again).state, SwitchoverState::Promoting);
    // it was not, and the request is gone
    let (mut setup, _) = elects();
    (setup.seen.switchover, setup.seen.orders) = Default::default();
    let plan = round(&mut setup);
    assert_eq!(report(&plan).state, SwitchoverState::Aborted);
    assert_eq!(report(&plan).reason, SwitchoverReason::RequestGone.to_string());
}

/// A shutdown waits for every standby that is connected, so clients are not made to wait for one that receives nothing.
#[test]
fn the_proxies_close_only_once_every_connected_standby_has_received_the_checkpoint() {
    let outcome = |to: Option<&str>, received: &[(&str, bool)]| {
        let mut setup = checkpointed(ask(base(3), to));
        setup.info("keeper3").can_be_master = Some(false);
        let received = received.iter().map(|(uid, has)| (db_uid(uid), *has)).collect();
        setup.info("keeper1").checkpoint_received = received;
        let report = report(&round(&mut setup));
        (report.state, report.reason)
    };
    let closes = (SwitchoverState::ClosingProxies, String::new());
    let waits = |reason: SwitchoverReason| (SwitchoverState::Checkpoint, reason.to_string());
    let lacks = |keeper: &str| {
        let (keepers, unknown) = (vec![keeper.into()], Vec::new());
        waits(SwitchoverReason::CheckpointNotReceived { keepers, unknown })
    };
    for to in [None, Some("keeper2")] {
        assert_eq!(outcome(to, &[("db2", true), ("db3", true)]), closes, "{to:?}");
        assert_eq!(outcome(to, &[("db2", true)]), closes, "{to:?}: db3 is not connected");
        assert_eq!(
            outcome(to, &[("db2", false), ("db3", true)]),
            lacks("keeper2"),
            "{to:?}"
        );
        assert_eq!(
            outcome(to, &[("db2", true), ("db3", false)]),
            lacks("keeper3"),
            "{to:?}"
        );
        let (keepers, unknown) = (Vec::new(), vec![db_uid("db9")]);
        let unknown = SwitchoverReason::CheckpointNotReceived { keepers, unknown };
        assert_eq!(outcome(to, &[("db2", true), ("db9", false)]), waits(unknown), "{to:?}");
    }
    // who has everything may not be the master, or is not the one that was named
    let not_connected = || SwitchoverReason::NotConnected {
        keeper: "keeper2".into(),
    };
    for received in [&[("db3", true)][..], &[]] {
        assert_eq!(outcome(None, received), waits(SwitchoverReason::NoElectableStandby));
        assert_eq!(outcome(Some("keeper2"), received), waits(not_connected()));
    }
}

/// The keeper still publishes what it did for an earlier switchover.
#[test]
fn the_checkpoint_of_another_switchover_does_not_count() {
    let mut setup = checkpointed(ask(base(3), None));
    setup.info("keeper1").checkpointed = "s0".to_owned();
    let report = report(&round(&mut setup));
    assert_eq!(
        (report.state, report.reason.as_str()),
        (SwitchoverState::Checkpoint, "")
    );
}
