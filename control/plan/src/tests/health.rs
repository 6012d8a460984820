//! Freshness and health over time (sentinel 3 with E-3 to E-6, extensions ).

use std::time::Duration;

use super::cluster::{Setup, WALL, base, check, db_uid, described, initializing};
use super::describe::describe;
use crate::{Plan, Urgency};
use base::clock::Boottime;
use model::{BootUuid, KeeperInfo, KeeperUid, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A cluster over time, with the infos as they are stored.
struct Watch {
    setup: Setup,
    began: Boottime,
    /// The keepers that go on publishing.
    publishing: Vec<&'static str>,
}

impl Watch {
    /// A cluster in steady state in which a round has just read a new info of every keeper.
    fn steady(dbs: u32) -> Self {
        let mut setup = base(dbs);
        let began = setup.now;
        setup.round();
        Self::from(setup, began)
    }

    /// A cluster with a first round at this time.
    fn from(mut setup: Setup, began: Boottime) -> Self {
        setup.infos_follow = false;
        setup.now = began;
        let publishing = vec!["keeper2"];
        Self {
            setup,
            began,
            publishing,
        }
    }

    fn info(&mut self, keeper: &str) -> &mut KeeperInfo {
        self.setup.info(keeper)
    }

    fn publish(&mut self, keeper: &str) {
        let info = self.info(keeper);
        info.info_uid = format!("{}+", info.info_uid).as_str().into();
    }

    fn healthy(&self, keeper: &str) -> bool {
        self.setup.data.keepers()[keeper].status.healthy
    }

    fn round(&mut self, at: Duration) -> Plan {
        self.setup.now = self.began + at;
        let plan = self.setup.round();
        self.setup.now = self.began + at;
        plan
    }

    /// Checks one round at a time after the beginning.
    #[track_caller]
    fn at(&mut self, at: Duration, expected: &str) -> Plan {
        let before = self.setup.data.clone();
        let plan = self.round(at);
        let text = described(&before, &plan, self.setup.now, expected);
        assert_eq!(text.join("; "), expected, "{:?}", plan.notes);
        plan
    }

    /// Checks rounds at most a second apart, as the loop makes them, up to a time: when what is decided, and the
    /// reasons and details of the last one.
    #[track_caller]
    fn until(&mut self, end: Duration, expected: &str) {
        let mut text = Vec::new();
        loop {
            let at = (self.setup.now.since(self.began) + SECOND).min(end);
            for keeper in self.publishing.clone() {
                self.publish(keeper);
            }
            let before = self.setup.data.clone();
            let plan = self.round(at);
            let (does, _) = describe(&before, &plan);
            if !does.is_empty() {
                text.push(format!("{at:?}: {}", does.join(", ")));
            }
            if at == end {
                let last = described(&before, &plan, self.setup.now, expected).into_iter();
                text.extend(last.skip(does.len()).filter(|text| text != "nothing"));
                break;
            }
        }
        let text = if text.is_empty() {
            "nothing".to_owned()
        } else {
            text.join("; ")
        };
        assert_eq!(text, expected);
    }
}

/// What follows once keeper1 counts as failed.
const FAILOVER: &str = "keeper1 unhealthy, db1 unhealthy, elects db2";
/// The reasons in the rounds after it.
const AFTER: &str = "keeper1 is silent; db2 is not announced yet";

#[test]
fn a_silent_keeper_fails_once_sleep_interval_and_fail_interval_have_passed() {
    // sentinel E-3, X58, X59
    let mut watch = Watch::steady(2);
    // it looks again just when the time is over
    watch.until(25 * SECOND, "keeper1 is silent; wake in 1ms");
    let plan = watch.at(
        25 * SECOND + MILLI,
        "keeper1 unhealthy; db1 unhealthy; elects db2; keeper1 is silent",
    );
    assert_eq!(plan.urgency, Urgency::Immediate);
    // a new info makes it healthy at once
    watch.publish("keeper1");
    watch.at(26 * SECOND, "keeper1 healthy; db1 healthy; db2 is not announced yet");
}

#[test]
fn a_fresh_keeper_has_no_missing_info_note() {
    Watch::steady(2).at(5 * SECOND, "wake in 1ms");
}

#[test]
fn time_without_the_store_does_not_count() {
    // sentinel E-3
    let mut watch = Watch::steady(2);
    watch.at(120 * SECOND, "nothing");
    // what follows counts again
    watch.until(146 * SECOND, &format!("146s: {FAILOVER}; keeper1 is silent"));

    // the same silence of keeper1 while the store answers
    let mut watch = Watch::steady(2);
    watch.until(
        120 * SECOND,
        &format!("26s: {FAILOVER}; keeper1 is silent; no eligible master; db2 is not announced yet"),
    );
    assert!(watch.healthy("keeper2"));
}

/// keeper1's last info arrived half a second after the last read, as a watch reported; then no read until `now`.
fn info_just_before_an_outage(watch: &mut Watch, now: Duration) {
    watch.publish("keeper1");
    watch.setup.seen.keepers.get_mut("keeper1").unwrap().age = now.saturating_sub(MILLI * 500);
}

#[test]
fn time_without_the_store_does_not_count_for_an_info_that_arrived_just_before_it() {
    // sentinel E-3: a keeper without a liveness key
    let end = 120 * SECOND;
    let mut watch = Watch::steady(2);
    info_just_before_an_outage(&mut watch, end);
    watch.at(end, "nothing");
    // what follows counts again
    watch.until(end + 26 * SECOND, &format!("146s: {FAILOVER}; keeper1 is silent"));

    // one whose last info reported PostgreSQL unhealthy
    let mut watch = Watch::steady(2);
    watch.setup.state("keeper1").healthy = false;
    info_just_before_an_outage(&mut watch, end);
    watch.at(end, "nothing");

    // the same while the store answers
    let mut watch = Watch::steady(2);
    watch.setup.state("keeper1").healthy = false;
    watch.publish("keeper1");
    watch.until(22 * SECOND, "22s: db1 unhealthy, elects db2; keeper1 is silent");
}

#[test]
fn the_time_of_own_writes_to_a_slow_store_counts() {
    // sleepInterval 1 s, responses after 3 s: a write and a read in each round
    let fails_after = |busy: Duration| {
        let mut watch = Watch::steady(2);
        watch.setup.spec().sleep_interval = Some(SECOND.into());
        (1..=40_u32).find(|round| {
            (watch.setup.seen.latency, watch.setup.seen.own_requests) = (3 * SECOND, busy);
            watch.publish("keeper2");
            watch.round(7 * SECOND * *round);
            !watch.healthy("keeper1")
        })
    };
    assert!(fails_after(3 * SECOND).is_some_and(|rounds| rounds <= 7));
    assert_eq!(fails_after(Duration::ZERO), None, "readings should have come meanwhile");
}

#[test]
fn slow_reads_do_not_make_infos_younger() {
    // as slow as the previous ones: the info counts from its arrival
    let mut watch = Watch::steady(2);
    for round in 1..=3 {
        watch.setup.seen.latency = 3 * SECOND;
        watch.publish("keeper1");
        watch.publish("keeper2");
        watch.at(5 * SECOND * round, "nothing");
    }
    watch.publish("keeper1");
    watch.setup.seen.keepers.get_mut("keeper1").unwrap().age = 3 * SECOND;
    watch.at(20 * SECOND, "nothing");
    let since = watch.setup.memory.history.keepers[&KeeperUid::from("keeper1")].since;
    assert_eq!(since, watch.began + 17 * SECOND);
}

/// keeper1 renews a liveness key from the beginning on.
fn with_liveness_key() -> Watch {
    let mut watch = Watch::steady(2);
    let info = watch.info("keeper1");
    info.liveness_key = true;
    info.boot_uuid = BootUuid::from("boot");
    has_liveness_key(&mut watch, "boot");
    watch.publish("keeper1");
    watch
}

fn has_liveness_key(watch: &mut Watch, boot: &str) {
    let keys = &mut watch.setup.seen.liveness_keys;
    keys.insert("keeper1".into(), BootUuid::from(boot));
}

/// The only thing that is new of it.
const BOOT: &str = "1s: keeper1: bootUUID boot";

#[test]
fn a_keeper_with_a_liveness_key_is_reporting_whatever_the_age_of_its_info() {
    // extensions
    with_liveness_key().until(60 * SECOND, BOOT);
}

#[test]
fn a_keeper_whose_liveness_key_has_gone_fails_fail_interval_after_its_last_renewal() {
    // extensions
    let mut watch = with_liveness_key();
    watch.until(60 * SECOND, BOOT);
    watch.setup.seen.liveness_keys.clear();
    watch.at(61 * SECOND, "keeper1 is silent");
    watch.until(78 * SECOND, "keeper1 is silent");
    watch.until(78 * SECOND + MILLI, &format!("78.001s: {FAILOVER}; keeper1 is silent"));
}

#[test]
fn the_liveness_key_of_another_process_does_not_count_for_this_info() {
    let mut watch = with_liveness_key();
    watch.until(10 * SECOND, BOOT);
    has_liveness_key(&mut watch, "next life");
    // its info is as old as it is
    watch.until(30 * SECOND, &format!("27s: {FAILOVER}; {AFTER}"));
}

/// A new leader, whose first run finds an info of keeper1 as old as a lease.
fn new_leader(liveness_key: bool) -> Watch {
    let mut setup = base(2);
    setup.info("keeper1").liveness_key = liveness_key;
    setup.memory = crate::Memory::default();
    setup.seen.keepers.get_mut("keeper1").unwrap().age = 15 * SECOND;
    let now = setup.now;
    first_run(&mut setup, now);
    Watch::from(setup, now)
}

#[test]
fn a_new_leader_counts_from_the_age_of_the_lease() {
    // sentinel E-6
    let mut watch = new_leader(false);
    // sleepInterval and failInterval after its publication
    watch.until(10 * SECOND, "keeper1 is silent");
    watch.until(10 * SECOND + MILLI, &format!("10.001s: {FAILOVER}; keeper1 is silent"));
}

/// A first run without anything remembered, unlike those of the other tests.
fn first_run(setup: &mut Setup, now: Boottime) {
    setup.infos_follow = false;
    setup.now = now;
    let checked = setup.checked();
    let input = crate::PlanInput {
        data: &checked,
        observations: &setup.seen,
        memory: &setup.memory,
        leadership: setup.leadership,
        now,
        wall: WALL,
    };
    let mut uid = || "unused".to_owned();
    let plan = crate::plan(
        &input,
        &mut crate::Entropy {
            uid: &mut uid,
            number: 0,
        },
    )
    .unwrap();
    setup.data = plan.next.clone();
    setup.memory = plan.memory;
}

#[test]
fn a_new_leader_that_finds_no_liveness_key_counts_without_sleep_interval() {
    // extensions
    let failed = format!("5.001s: {FAILOVER}; keeper1 is silent");
    new_leader(true).until(5 * SECOND + MILLI, &failed);
}

#[test]
fn reads_made_before_the_leadership_count() {
    // sentinel 18.3: reads during another sentinel's leadership count
    let mut watch = with_liveness_key();
    let checked = watch.setup.checked();
    let mut memory = crate::Memory::default();
    for round in 0..4 {
        memory = memory.after_read(&watch.setup.seen, &checked, watch.began + round * SECOND);
    }
    watch.setup.seen.liveness_keys.clear();
    watch.setup.memory = memory.after_read(&watch.setup.seen, &checked, watch.began + 4 * SECOND);
    watch.round(5 * SECOND);
    // failInterval after the last renewal, which was at 1 s
    watch.until(21 * SECOND + MILLI, &format!("21.001s: {FAILOVER}; keeper1 is silent"));
}

/// Row X55 (sentinel 15.5).
#[test]
fn infos_of_another_cluster_are_ignored() {
    // INV-28
    let mut setup = initializing();
    setup.keeper("keeper1");
    setup.info("keeper1").cluster_uid = "another".into();
    setup.data.keepers_mut().clear();
    assert_eq!(setup.plan().unwrap_err(), crate::PlanError::NoKeepers);
}

/// Rows X56, X57 (sentinel 15.5).
#[test]
fn a_keeper_found_in_a_first_run_is_registered_with_its_next_info() {
    let mut setup = base(1);
    let now = setup.now;
    setup.keeper("keeper2");
    setup.info("keeper2").boot_uuid = BootUuid::from("boot");
    setup.data.keepers_mut().remove("keeper2");
    setup.memory = crate::Memory::default();
    first_run(&mut setup, now);
    let mut watch = Watch::from(setup, now);
    watch.at(SECOND, "nothing");
    watch.publish("keeper2");
    // and gets a db in the same round
    let plan = watch.at(2 * SECOND, "registers keeper2; adds db2 on keeper2, a copy of db1");
    assert_eq!(plan.next.keepers()["keeper2"].status.boot_uuid, BootUuid::from("boot"));
}

#[test]
fn a_leaving_keeper_is_not_registered() {
    // sentinel H-6
    for leaving in [true, false] {
        let mut setup = base(1);
        setup.keeper("keeper2");
        let info = setup.info("keeper2");
        info.leaving = leaving;
        info.stopped = (!leaving).then(Default::default);
        setup.data.keepers_mut().remove("keeper2");
        check(&mut setup, "nothing");
    }
}

#[test]
fn the_boot_uuid_of_a_restarted_keeper_is_recorded_at_once() {
    // sentinel H-8, 19.6
    let mut watch = Watch::steady(2);
    watch.info("keeper1").boot_uuid = BootUuid::from("again");
    watch.publish("keeper1");
    let plan = watch.at(SECOND, "keeper1: bootUUID again");
    assert_eq!(plan.urgency, Urgency::Immediate);
}

#[test]
fn a_db_reported_under_another_uid_or_not_at_all_fails_although_its_keeper_is_running() {
    // sentinel H-12
    let fails = |change: fn(&mut KeeperInfo), why: &str| {
        let mut watch = Watch::steady(2);
        watch.publishing = vec!["keeper1", "keeper2"];
        change(watch.info("keeper1"));
        watch.until(22 * SECOND, &format!("22s: db1 unhealthy, elects db2; {why}"));
    };
    fails(
        |info| info.postgres_state.as_mut().unwrap().uid = db_uid("other"),
        "keeper1 reports other",
    );
    fails(|info| info.postgres_state = None, "keeper1 reports no db");
}

#[test]
fn a_db_on_an_unknown_keeper_is_unhealthy() {
    // sentinel H-16
    let mut setup = base(2);
    setup.data.keepers_mut().remove("keeper2");
    setup.info("keeper1");
    check(&mut setup, "db2 unhealthy; keeper2 is silent");
}

#[test]
fn positions_and_times_are_no_decisions_and_a_changed_address_is_one() {
    // sentinel E-9
    let mut watch = Watch::steady(2);
    watch.setup.state("keeper1").xlog_pos.0 += 1_000;
    watch.publish("keeper1");
    let plan = watch.at(SECOND, "nothing");
    assert_eq!(plan.urgency, Urgency::Periodic);
    watch.setup.state("keeper1").port = "5433".to_owned();
    watch.publish("keeper1");
    let plan = watch.at(2 * SECOND, "db1: port 5433");
    assert_eq!(plan.urgency, Urgency::Immediate);
}

#[test]
fn last_healthy_time_is_the_wall_clocks() {
    // sentinel H-11
    let mut setup = base(1);
    setup.round();
    assert_eq!(setup.keeper_status("keeper1").last_healthy_time, WALL);
    setup.keeper_status("keeper1").last_healthy_time = Timestamp::ZERO;
    setup.silent("keeper1");
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.keepers()["keeper1"].status.last_healthy_time, WALL);
}
