//! An operator's request for a failover (synchronous SY-20): what it takes, in which steps it is carried out, and when it
//! is refused.

use std::time::Duration;

use super::cluster::{HOUR, Setup, base, check, db_uid, keeper_of, synchronous, uids};
use crate::{Condition, FailoverRefusal, Note, Plan, RequestFate};
use model::{FailoverRequest, Lsn, Role, Stopped, Timestamp, UnfitData};

/// The revision of the request.
const REVISION: i64 = 50;

/// Asks for a failover from db1 to this keeper.
fn ask(setup: &mut Setup, to: &str) {
    let request = FailoverRequest {
        id: "r1".to_owned(),
        to: to.into(),
        master: db_uid("db1"),
        accept_data_loss: true,
        requested_at: Timestamp::default(),
    };
    setup.seen.failover = Some((request, REVISION));
}

/// The complete copies are lost: master db1 and db2, which was in sync, are silent; db3 is older.
fn lost() -> Setup {
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.at("db1", 1, 900).at("db2", 1, 890).at("db3", 1, 100);
    setup.silent("keeper1").silent("keeper2");
    setup.unhealthy("db1").unhealthy("db2");
    setup
}

/// The same with a request, and with proxies that have closed.
fn closed() -> Setup {
    let mut setup = lost();
    ask(&mut setup, "keeper3");
    setup.proxy().spec.master_db_uid = db_uid("");
    setup
}

/// Asynchronous: every standby is too far behind.
fn behind() -> Setup {
    let mut setup = base(3);
    setup.at("db1", 1, 1 << 30).at("db2", 1, 200).at("db3", 1, 100);
    setup.silent("keeper1").unhealthy("db1");
    setup
}

/// Returns why the request is refused.
#[track_caller]
fn refusal(setup: &mut Setup) -> FailoverRefusal {
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")), "{:?}", plan.notes);
    assert!(plan.conditions.is_empty(), "{:?}", plan.conditions);
    let proxied = |data: &model::ClusterData| data.proxy.clone().unwrap_or_default();
    assert_eq!(proxied(&plan.next).generation, proxied(&setup.data).generation);
    let refusals = plan.notes.iter().filter_map(|note| match note {
        Note::FailoverRefused { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let mut refusals: Vec<_> = refusals.collect();
    assert_eq!(refusals.len(), 1, "{:?}", plan.notes);
    refusals.remove(0)
}

fn requires_request(plan: &Plan, fate: RequestFate) -> bool {
    plan.conditions.contains(&Condition::FailoverRequest {
        revision: REVISION,
        fate,
    })
}

#[test]
fn without_a_request_nobody_is_elected() {
    check(
        &mut lost(),
        "keeper1 is silent; keeper2 is silent; only db2 was in sync; no eligible master",
    );
}

#[test]
fn the_proxies_are_closed_first_and_then_the_older_copy_is_elected() {
    let mut setup = lost();
    ask(&mut setup, "keeper3");
    setup.proxy_seen("p1", 1);
    let first = setup.round();
    assert_eq!(first.next.master_uid(), Some(&db_uid("db1")));
    assert!(requires_request(&first, RequestFate::Kept) && first.next.proxied_master().is_none());
    // no election while a proxy may still forward (fencing F-6)
    let waiting = setup.round();
    assert_eq!(waiting.next.master_uid(), Some(&db_uid("db1")));
    assert!(
        waiting
            .notes
            .iter()
            .any(|note| matches!(note, Note::ElectionWaitsForProxies { .. }))
    );
    setup.proxy_seen("p1", 2);
    let elected = setup.plan().unwrap();
    assert_eq!(elected.next.master_uid(), Some(&db_uid("db3")), "{:?}", elected.notes);
    assert!(requires_request(&elected, RequestFate::Deleted));
    let infos = elected.conditions.iter().filter_map(|condition| match condition {
        Condition::KeeperInfo { key, revision } => Some((key.as_str(), *revision)),
        _ => None,
    });
    assert_eq!(infos.collect::<Vec<_>>(), [("keeper3", Some(7)), ("keeper1", None)]);
}

#[test]
fn the_elected_db_starts_with_the_sets_of_every_election() {
    check(
        &mut closed(),
        "elects db3; db3 waits for db2; in sync with db3: nobody; keeper1 is silent; keeper2 is silent; \
         as requested for keeper3",
    );
    let mut setup = closed();
    setup.spec().min_synchronous_standbys = Some(2);
    setup.spec().max_synchronous_standbys = Some(2);
    let plan = setup.plan().unwrap();
    let elected = &plan.next.dbs()[&db_uid("db3")];
    assert_eq!(
        elected.spec.external_synchronous_standbys,
        Some(vec!["stolonfakestandby".to_owned()])
    );
    assert_eq!(elected.status.synchronous_standbys, uids(&[]));
}

#[test]
fn another_leader_carries_it_out() {
    let mut setup = lost();
    ask(&mut setup, "keeper3");
    setup.round();
    setup.leadership += 1;
    // its first run uses the statuses as they are stored
    let plans = [setup.round(), setup.round()];
    assert_eq!(
        setup.data.master_uid(),
        Some(&db_uid("db3")),
        "{:?}",
        plans.map(|plan| plan.notes)
    );
}

#[test]
fn a_request_that_is_gone_in_between_elects_nobody() {
    let mut setup = lost();
    ask(&mut setup, "keeper3");
    setup.round();
    setup.seen.failover = None;
    for _ in 0..3 {
        let plan = setup.round();
        assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")));
        assert!(plan.next.proxied_master().is_none());
    }
    // a master that is back is announced again
    for uid in ["db1", "db2"] {
        setup.keeper_status(keeper_of(uid).as_str()).healthy = true;
        setup.db(uid).status.healthy = true;
    }
    setup.memory.db_errors.clear();
    let plan = setup.plan().unwrap();
    assert_eq!(
        plan.next.proxied_master().map(|(uid, _)| uid.as_str()),
        Some("db1"),
        "{:?}",
        plan.notes
    );
}

#[test]
fn a_request_does_nothing_while_the_master_is_usable() {
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    ask(&mut setup, "keeper3");
    check(&mut setup, "nothing");
}

#[test]
fn a_standby_that_may_be_elected_by_the_rules_comes_first() {
    let mut setup = synchronous(3, &["db2"], &["db2"]);
    setup.silent("keeper1").unhealthy("db1");
    ask(&mut setup, "keeper3");
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    // also one of an asynchronous master, which is near enough
    let mut setup = behind();
    setup.at("db2", 1, 1 << 30);
    ask(&mut setup, "keeper3");
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db2")));
    assert!(
        plan.conditions
            .iter()
            .all(|condition| matches!(condition, Condition::KeeperInfo { .. }))
    );
}

#[test]
fn a_standby_of_an_asynchronous_master_is_elected_however_far_behind_it_is() {
    let mut setup = behind();
    ask(&mut setup, "keeper3");
    let first = setup.round();
    assert_eq!(first.next.master_uid(), Some(&db_uid("db1")));
    assert!(first.next.proxied_master().is_none() && requires_request(&first, RequestFate::Kept));
    let plan = setup.plan().unwrap();
    assert_eq!(
        plan.next.master_uid(),
        Some(&db_uid("db3")),
        "not db2: {:?}",
        plan.notes
    );
}

#[test]
fn a_standby_on_a_higher_timeline_than_the_record_of_the_master_is_elected() {
    let mut setup = closed();
    setup.at("db3", 2, 100);
    setup.left_timeline_1("db3", 90);
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db3")), "{:?}", plan.notes);
}

#[test]
fn a_standby_on_a_lower_timeline_is_refused() {
    let mut setup = closed();
    setup.at("db1", 2, 900);
    assert_eq!(
        refusal(&mut setup),
        FailoverRefusal::Unfit(UnfitData::LowerTimeline {
            own: 1,
            highest: 2,
            keeper: keeper_of("db1")
        })
    );
    // whoever has the higher one
    let mut setup = closed();
    setup.at("db2", 3, 900);
    assert_eq!(
        refusal(&mut setup),
        FailoverRefusal::Unfit(UnfitData::LowerTimeline {
            own: 1,
            highest: 3,
            keeper: keeper_of("db2")
        })
    );
}

#[test]
fn a_request_is_about_one_master_and_one_other_keeper() {
    let with = |change: fn(&mut FailoverRequest)| {
        let mut setup = lost();
        ask(&mut setup, "keeper3");
        change(&mut setup.seen.failover.as_mut().unwrap().0);
        refusal(&mut setup)
    };
    assert_eq!(
        with(|request| request.master = db_uid("db2")),
        FailoverRefusal::OtherMaster
    );
    assert_eq!(
        with(|request| request.master = db_uid("")),
        FailoverRefusal::OtherMaster
    );
    assert_eq!(with(|request| request.to = "keeper1".into()), FailoverRefusal::IsMaster);
    assert_eq!(with(|request| request.to = "nosuch".into()), FailoverRefusal::NoDb);
    assert_eq!(
        with(|request| request.accept_data_loss = false),
        FailoverRefusal::LossNotAccepted
    );
    assert_eq!(with(|request| request.to = "keeper2".into()), FailoverRefusal::Failed);
}

#[test]
fn the_keeper_has_to_be_there_and_to_report_complete_data() {
    let with = |change: fn(&mut Setup)| {
        let mut setup = lost();
        ask(&mut setup, "keeper3");
        change(&mut setup);
        refusal(&mut setup)
    };
    assert_eq!(
        with(|setup| setup.keeper_status("keeper3").force_fail = true),
        FailoverRefusal::Failed
    );
    assert_eq!(
        with(|setup| {
            setup.unhealthy("db3");
        }),
        FailoverRefusal::Failed
    );
    // unhealthy for less than failInterval
    assert_eq!(
        with(|setup| setup.state("keeper3").healthy = false),
        FailoverRefusal::NotReported
    );
    assert_eq!(
        with(|setup| setup.info("keeper3").leaving = true),
        FailoverRefusal::Leaving
    );
    assert_eq!(
        with(|setup| {
            setup.stopped("keeper3", 1, 100);
        }),
        FailoverRefusal::Leaving
    );
    assert_eq!(
        with(|setup| setup.state("keeper3").uid = db_uid("old")),
        FailoverRefusal::NotReported
    );
    assert_eq!(
        with(|setup| setup.db("db3").status.current_generation = 0),
        FailoverRefusal::Unfit(UnfitData::Incomplete)
    );
    assert_eq!(
        with(|setup| setup.db("db3").status.system_id = "other".to_owned()),
        FailoverRefusal::Unfit(UnfitData::OtherSystem)
    );
    assert_eq!(
        with(|setup| setup.keeper_status("keeper3").can_be_master = Some(false)),
        FailoverRefusal::Unfit(UnfitData::MayNotBeMaster)
    );
}

#[test]
fn an_old_report_is_not_enough() {
    let mut setup = lost();
    ask(&mut setup, "keeper3");
    setup.derive_infos();
    let _ = setup.round();
    setup.now = setup.now + Duration::from_secs(6);
    setup.proxy().spec.master_db_uid = db_uid("db1");
    assert_eq!(refusal(&mut setup), FailoverRefusal::NotReported);
}

#[test]
fn a_former_master_that_is_kept_may_be_asked_for() {
    // db1 replaced db3 and was announced; too much has been written for going back by the rules
    let with = |change: fn(&mut Setup)| {
        let mut setup = behind();
        setup.at("db1", 2, 1 << 30);
        setup.at("db2", 1, 50).silent("keeper2").unhealthy("db2");
        setup.left_timeline_1("db1", 60);
        let former = &mut setup.db("db3").spec;
        (former.role, former.follow_config) = (Role::Master, None);
        setup.stopped("keeper3", 1, 100);
        ask(&mut setup, "keeper3");
        change(&mut setup);
        setup
    };
    let mut setup = with(|_| {});
    setup.round();
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db3")), "{:?}", plan.notes);
    let mut other_timeline = with(|setup| {
        setup.info("keeper3").stopped = Some(Stopped {
            clean: true,
            lsn: Some(Lsn(100)),
            timeline_id: 2,
        });
    });
    assert_eq!(refusal(&mut other_timeline), FailoverRefusal::NotReported);
    assert_eq!(
        refusal(&mut with(|setup| setup.info("keeper3").leaving = true)),
        FailoverRefusal::Leaving
    );
}

#[test]
fn another_former_master_is_not_made_a_candidate_by_closing_the_proxies() {
    let mut setup = lost();
    ask(&mut setup, "keeper3");
    let former = &mut setup.db("db2").spec;
    (former.role, former.follow_config) = (Role::Master, None);
    let keeper = keeper_of("db2");
    let expected = FailoverRefusal::Unfit(UnfitData::FormerMasterKept { keeper });
    assert_eq!(refusal(&mut setup), expected);
}

#[test]
fn a_master_that_is_only_in_doubt_keeps_its_time() {
    // sentinel N-4: elected just now, and its keeper is there
    let mut setup = closed();
    setup.keeper_status("keeper1").healthy = true;
    setup.leadership += 1;
    let _ = setup.round();
    setup.memory.db_errors.insert(db_uid("db1"), setup.now.before(HOUR));
    let plan = setup.plan().unwrap();
    assert_eq!(plan.next.master_uid(), Some(&db_uid("db1")), "{:?}", plan.notes);
}
