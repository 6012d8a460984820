//! The check of a finished plan sees each fault that a decision could make: a plan that changes nothing is changed by
//! hand, and the broken invariants are compared.

use std::time::Duration;

use super::cluster::{NOW, Setup, WALL, base, db_uid, keeper_of};
use crate::check::check;
use crate::check::transition::Transition;
use crate::{Condition, Observations};
use model::{ClusterData, FollowConfig, Phase, ProxyUid, Role};

/// Returns the rules that the setup's cluster data break once `fault` has changed them, each once.
fn broken_on(setup: &mut Setup, conditions: &[Condition], fault: impl FnOnce(&mut ClusterData)) -> String {
    // Fills in the infos and the history.
    let _ = setup.plan();
    let before = setup.data.clone();
    let checked = setup.checked();
    let memory = setup.memory.after_read(&setup.seen, &checked, setup.now);
    let mut next = before.clone();
    fault(&mut next);
    // As the planner raises them.
    for (uid, db) in next.dbs_mut() {
        let changed = before.dbs().get(uid).is_some_and(|was| was.spec != db.spec);
        db.generation += i64::from(changed);
    }
    let mut rules: Vec<&str> = check(&Transition {
        before: &before,
        derived: &before,
        next: &next,
        conditions,
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

#[track_caller]
fn breaks(mut setup: Setup, rules: &str, fault: impl FnOnce(&mut ClusterData)) {
    assert_eq!(broken_on(&mut setup, &[], fault), rules);
}

/// Elects db2, as the planner writes it.
fn elect_db2(next: &mut ClusterData) {
    next.cluster.as_mut().unwrap().status.master = db_uid("db2");
    next.dbs_mut().get_mut(&db_uid("db1")).unwrap().spec.followers = Some(Vec::new());
    let elected = &mut next.dbs_mut().get_mut(&db_uid("db2")).unwrap().spec;
    (elected.role, elected.follow_config) = (Role::Master, None);
    let proxy = next.proxy.as_mut().unwrap();
    proxy.generation += i64::from(!proxy.spec.master_db_uid.is_empty());
    proxy.spec.master_db_uid = db_uid("");
}

/// The condition that the info of a keeper is as it was read.
fn unchanged(keeper: &str, revision: i64) -> Condition {
    Condition::KeeperInfo {
        key: keeper.to_owned(),
        revision: Some(revision),
    }
}

/// The base with a failed master.
fn failed_master() -> Setup {
    let mut setup = base(3);
    setup.unhealthy("db1");
    setup
}

#[test]
fn a_plan_that_changes_nothing_breaks_nothing() {
    breaks(base(3), "", |_| {});
}

#[test]
fn the_document_keeps_its_master_spec_and_phase() {
    breaks(base(2), "INV-30", |next| {
        next.cluster.as_mut().unwrap().uid = "c2".into()
    });
    breaks(base(2), "INV-30", |next| next.cluster.as_mut().unwrap().spec = None);
    breaks(base(2), "INV-30", |next| {
        next.cluster.as_mut().unwrap().status.phase = Phase::Initializing
    });
    breaks(base(3), "INV-2 INV-21", |next| {
        next.dbs_mut().get_mut(&db_uid("db3")).unwrap().spec.keeper_uid = keeper_of("db2");
        next.dbs_mut().get_mut(&db_uid("db3")).unwrap().generation += 1;
    });
}

#[test]
fn proxies_are_sent_to_the_master_by_way_of_nobody_once_all_have_closed() {
    breaks(base(2), "INV-3 INV-4 INV-22", |next| {
        next.proxy.as_mut().unwrap().spec.master_db_uid = db_uid("db2");
    });
    breaks(base(2), "INV-6 INV-22", |next| {
        next.proxy.as_mut().unwrap().spec.enabled_proxies = vec![ProxyUid::from("p1")];
    });
    let mut closed = base(2);
    closed.proxy().spec.master_db_uid = db_uid("");
    closed.proxy_seen("p1", 0);
    breaks(closed, "INV-5", |next| {
        let proxy = next.proxy.as_mut().unwrap();
        (proxy.spec.master_db_uid, proxy.generation) = (db_uid("db1"), proxy.generation + 1);
    });
}

#[test]
fn an_election_is_needed_and_on_condition_of_the_old_masters_info() {
    let elected = |mut setup: Setup, conditions: &[Condition]| broken_on(&mut setup, conditions, elect_db2);
    assert_eq!(elected(failed_master(), &[unchanged("keeper1", 7)]), "");
    assert_eq!(elected(base(3), &[unchanged("keeper1", 7)]), "INV-7");
    assert_eq!(elected(failed_master(), &[]), "X-1.5");
    assert_eq!(elected(failed_master(), &[unchanged("keeper1", 6)]), "X-1.5");
}

#[test]
fn an_election_takes_the_best_db_that_is_eligible() {
    let with = |change: fn(&mut Setup)| {
        let mut setup = failed_master();
        change(&mut setup);
        broken_on(&mut setup, &[unchanged("keeper1", 7)], elect_db2)
    };
    assert_eq!(
        with(|setup| setup.db("db2").status.system_id = "other".to_owned()),
        "INV-8"
    );
    assert_eq!(with(|setup| setup.db("db2").status.current_generation = 0), "INV-8");
    assert_eq!(
        with(|setup| setup.keeper("keeper2").status.can_be_master = Some(false)),
        "INV-8"
    );
    assert_eq!(
        with(|setup| setup.db("db1").status.xlog_pos = model::Lsn(1 << 30)),
        "INV-9"
    );
    assert_eq!(with(|setup| setup.db("db3").status.xlog_pos = model::Lsn(1)), "INV-11");
}

#[test]
fn an_election_waits_for_proxies_and_changes_nothing_else() {
    let mut setup = failed_master();
    setup.proxy().spec.master_db_uid = db_uid("");
    setup.proxy_seen("p1", 0);
    assert_eq!(broken_on(&mut setup, &[unchanged("keeper1", 7)], elect_db2), "F-10");
    let also = |fault: fn(&mut ClusterData)| {
        broken_on(&mut failed_master(), &[unchanged("keeper1", 7)], |next| {
            elect_db2(next);
            fault(next);
        })
    };
    let follow_new = |next: &mut ClusterData| {
        let spec = &mut next.dbs_mut().get_mut(&db_uid("db3")).unwrap().spec;
        spec.follow_config = Some(FollowConfig::internal(db_uid("db2")));
    };
    assert_eq!(also(follow_new), "INV-12");
    assert_eq!(
        also(|next| drop(next.dbs_mut().remove(&db_uid("db3")))),
        "INV-12 INV-20"
    );
}

#[test]
fn a_db_is_removed_for_a_reason_and_never_the_master() {
    let remove_db3 = |next: &mut ClusterData| {
        next.dbs_mut().remove(&db_uid("db3"));
        next.dbs_mut().get_mut(&db_uid("db1")).unwrap().spec.followers = Some(vec![db_uid("db2")]);
    };
    breaks(base(3), "INV-20", remove_db3);
    let mut other_system = base(3);
    other_system.db("db1").status.system_id = "1".to_owned();
    other_system.db("db3").status.system_id = "2".to_owned();
    breaks(other_system.clone(), "", remove_db3);
    // not while the master is in doubt
    other_system.info("keeper1").leaving = true;
    breaks(other_system, "INV-20", remove_db3);
}

#[test]
fn a_db_changes_its_role_only_by_being_elected() {
    breaks(base(3), "INV-23 INV-25", |next| {
        let spec = &mut next.dbs_mut().get_mut(&db_uid("db3")).unwrap().spec;
        (spec.role, spec.follow_config) = (Role::Master, None);
    });
    breaks(base(3), "INV-24", |next| {
        next.dbs_mut()
            .get_mut(&db_uid("db3"))
            .unwrap()
            .spec
            .synchronous_standbys = Some(Vec::new());
    });
}

#[test]
fn a_keeper_is_removed_only_once_it_is_dead_and_free() {
    breaks(base(2), "INV-2 INV-26", |next| {
        drop(next.keepers_mut().remove(&keeper_of("db2")))
    });
    let mut marked = base(2);
    marked.keeper("keeper2").status.force_fail = true;
    breaks(marked, "INV-27", |_| {});
}

#[test]
fn a_report_is_current_until_sleep_interval_has_passed() {
    let mut setup = base(2);
    let _ = setup.plan();
    let spec = setup.checked();
    let memory = setup.memory.after_read(&setup.seen, &spec, NOW);
    let current_at = |after: Duration| {
        let data = &setup.data;
        let transition = Transition {
            before: data,
            derived: data,
            next: data,
            conditions: &[],
            spec: &spec.spec,
            memory: &memory,
            first_run: false,
            now: NOW + after,
            wall: WALL,
        };
        let reports = crate::report::collect(&memory.history, &spec.spec, NOW + after);
        let master = &data.dbs()[&db_uid("db1")];
        let rechecked = transition.is_reported_healthy(&db_uid("db1"), master);
        assert_eq!(rechecked, reports[&keeper_of("db1")].reports_healthy(&db_uid("db1")));
        rechecked
    };
    assert!(current_at(Duration::from_secs(5)));
    assert!(!current_at(Duration::from_millis(5_001)));
    assert_ne!(setup.seen, Observations::default());
}
