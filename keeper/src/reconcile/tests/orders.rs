//! Orders of a switchover (extensions X-2): when an instance is stopped, kept stopped and started again.

use model::{KeeperOrder, OrderKind, ProxySection, ProxySpec};

use super::*;

impl FakeKeeper {
    fn ordered(mut self, kind: OrderKind) -> Self {
        self.order = StoredOrder::Usable(KeeperOrder {
            switchover: "s1".into(),
            db: "A".into(),
            order: kind,
        });
        self
    }

    fn order_is_gone(mut self) -> Self {
        self.order = StoredOrder::Absent;
        self
    }

    /// The proxies are sent to this db.
    fn announced(mut self, db: &str) -> Self {
        let spec = ProxySpec {
            master_db_uid: db.into(),
            ..ProxySpec::default()
        };
        let proxy = ProxySection {
            spec,
            ..ProxySection::default()
        };
        self.data.as_mut().expect("the case has cluster data").proxy = Some(proxy);
        self
    }
}

const STOPPED: &str = "accept s1; stop; publish A stopped; done";

#[test]
fn an_order_to_stop_is_accepted_before_the_server_is_stopped_and_its_end_published() {
    check(fake().ordered(OrderKind::Stop), STOPPED);
    check(fake().announced("").ordered(OrderKind::Stop), STOPPED);
    let synchronous = fake().synchronous(&["B"]);
    check(synchronous.ordered(OrderKind::Stop), STOPPED);
}

/// A restarted keeper, or one whose server was killed, publishes how the data ended, on this order.
#[test]
fn a_stopped_instance_stays_stopped_and_the_order_is_answered() {
    check(
        fake().stopped().ordered(OrderKind::Stop),
        "accept s1; publish A stopped; done",
    );
    let mut of_another = fake().stopped().ordered(OrderKind::Stop);
    of_another.known.published_stopped = Some("A".into());
    of_another.known.accepted_order = Some(AcceptedOrder {
        db: "A".into(),
        switchover: "s0".into(),
    });
    check(of_another, "accept s1; publish A stopped; done");
}

#[test]
fn without_the_acceptance_nothing_is_stopped() {
    let mut fake = fake().ordered(OrderKind::Stop).failing("accept");
    assert_eq!(fake.round(), "accept s1; failed at accept s1");
    assert!(fake.running);
    fake.failing_steps.clear();
    check(fake, STOPPED);
}

/// Rule: extensions. Whatever a sentinel orders: only the master, only while no master is announced, and only our
/// own db.
#[test]
fn an_order_that_does_not_hold_stops_nothing() {
    check(fake().announced("A").ordered(OrderKind::Stop), "done");
    check(fake().standby().ordered(OrderKind::Stop), "done");
    let mut of_other_db = fake().ordered(OrderKind::Stop);
    of_other_db.order = StoredOrder::Usable(KeeperOrder {
        switchover: "s1".into(),
        db: "A0".into(),
        order: OrderKind::Stop,
    });
    check(of_other_db, "done");
    let mut unusable = fake();
    unusable.order = StoredOrder::Unusable;
    check(unusable, "done");
    // another one is the master: that decides, not the order
    let old_master = fake().status_master("B").ordered(OrderKind::Stop);
    check(old_master, "stop; publish A stopped; done");
    let mut lost = fake().ordered(OrderKind::Stop).no_data();
    assert_eq!(lost.round(), "hold Ordered");
    let mut incomplete = fake().ordered(OrderKind::Stop).local_db("A", true);
    assert_eq!(incomplete.round(), "hold Ordered");
}

/// Rule: extensions. The store would refuse the permit.
#[test]
fn while_any_order_exists_no_master_is_started_or_promoted() {
    let mut unusable = fake().stopped();
    unusable.order = StoredOrder::Unusable;
    let announced = fake().stopped().announced("A");
    let mut promoted = fake().ordered(OrderKind::Checkpoint);
    promoted.local.data = DataState::Present(DataRole::Standby);
    let mut restarted = fake()
        .cluster_spec(|spec| spec.automatic_pg_restart = Some(true))
        .ordered(OrderKind::Checkpoint);
    restarted.facts.restart_pending = true;
    restarted.known.checkpoint_for = Some("s1".into());
    for mut fake in [
        unusable,
        announced.clone().ordered(OrderKind::Stop),
        announced.ordered(OrderKind::Checkpoint),
        promoted.clone(),
        restarted,
    ] {
        let result = fake.round();
        assert!(
            result.ends_with("hold Ordered") && !result.contains("start"),
            "{result}"
        );
        assert!(fake.order_is_gone().round().ends_with("done"));
    }
    check(
        fake().standby().stopped().ordered(OrderKind::Stop),
        "start Standby following host-k2:5432; done",
    );
}

#[test]
fn a_switchover_that_is_given_up_starts_the_master_with_a_permit() {
    let mut stopped = fake().ordered(OrderKind::Stop);
    assert_eq!(stopped.round(), STOPPED);
    let mut again = stopped.order_is_gone();
    assert_eq!(again.round(), "permit; start Master; wait; done");
    assert_eq!(
        (&again.known.published_stopped, &again.known.accepted_order),
        (&None, &None)
    );

    // synchronous SY-11
    let mut stopped = fake().synchronous(&["B"]).ordered(OrderKind::Stop);
    assert_eq!(stopped.round(), STOPPED);
    assert_eq!(
        stopped.order_is_gone().round(),
        "permit; start Master without clients; wait; done"
    );
}

/// The stop has failed, and the order is gone.
#[test]
fn a_master_that_runs_on_is_no_longer_published_as_stopping() {
    let mut fake = fake().ordered(OrderKind::Stop).failing("stop");
    assert_eq!(fake.round(), "accept s1; stop; failed at stop");
    assert!(fake.running);
    fake.failing_steps.clear();
    let mut refusing = fake.clone().order_is_gone();
    refusing.refuses = true;
    check(fake.order_is_gone(), "withdraw; done");
    check(refusing, "withdraw; done");
}

/// The control file cannot be read for now.
#[test]
fn an_end_that_cannot_be_read_is_not_published_and_read_again() {
    let mut fake = fake().ordered(OrderKind::Stop).failing("publish");
    assert_eq!(
        fake.round(),
        "accept s1; stop; publish A stopped; failed at publish A stopped"
    );
    assert_eq!(fake.round(), "publish A stopped; failed at publish A stopped");
    let mut given_up = fake.clone().order_is_gone();
    assert_eq!(given_up.round(), "permit; start Master; wait; done");
    fake.failing_steps.clear();
    check(fake.clone(), "publish A stopped; done");
    // by the next switchover
    fake.order = StoredOrder::Usable(KeeperOrder {
        switchover: "s2".into(),
        db: "A".into(),
        order: OrderKind::Stop,
    });
    check(fake, "accept s2; publish A stopped; done");
}

/// The stop outlives the order. It is not known how long the server takes; it is never started before it has ended.
#[test]
fn a_stop_whose_order_has_vanished_is_completed_before_the_master_starts_again() {
    let mut fake = fake().ordered(OrderKind::Stop).failing("stop");
    assert_eq!(fake.round(), "accept s1; stop; failed at stop");
    fake.failing_steps.clear();
    fake.answers = false;
    let mut waiting = fake.order_is_gone().failing("wait");
    assert_eq!(waiting.round(), "wait; failed at wait");
    assert!(waiting.known.accepted_order.is_some(), "it is still stopping");
    waiting.failing_steps.clear();
    (waiting.running, waiting.answers) = (false, true);
    check(waiting, "permit; start Master; wait; done");
}

/// The server was left by the killed process, and may still be shutting down.
#[test]
fn a_keeper_that_was_killed_after_it_accepted_an_order_begins_anew() {
    let mut killed = fake().ordered(OrderKind::Stop).failing("stop");
    assert_eq!(killed.round(), "accept s1; stop; failed at stop");
    killed.failing_steps.clear();
    killed.answers = false;
    killed.known = ProcessState::default();

    let mut unacknowledged = killed.clone();
    let keepers = unacknowledged.data.as_mut().expect("there").keepers_mut();
    keepers.get_mut(&KeeperUid::from(ME)).expect("there").status.boot_uuid = "earlier".into();
    check(unacknowledged, "stop; done");

    check(killed.clone(), STOPPED);
    let mut without_order = killed.order_is_gone().stopped();
    without_order.answers = true;
    check(without_order, "permit; start Master; wait; done");
}

#[test]
fn an_ordered_checkpoint_is_begun_once_and_changes_nothing_else() {
    let mut fake = fake().announced("A").ordered(OrderKind::Checkpoint);
    check(fake.clone(), "checkpoint s1; done");
    fake.known.checkpoint_for = Some("s0".into());
    check(fake, "checkpoint s1; done");
}
