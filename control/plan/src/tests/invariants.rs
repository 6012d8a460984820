//! The check of a finished plan sees each fault that a decision could make: a plan that changes nothing is changed by
//! hand, and the broken invariants are compared.

use std::time::Duration;

use super::cluster::{NOW, Setup, WALL, base, db_uid, keeper_of, synchronous, uids};
use crate::check::check;
use crate::check::transition::Transition;
use crate::{Condition, Observations, RequestFate};
use model::{ClusterData, Db, FailoverRequest, FollowConfig, Phase, ProxyUid, Role, Stopped};

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
        failover: setup.seen.failover.as_ref(),
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
    assert_eq!(also(|next| drop(next.dbs_mut().remove(&db_uid("db3")))), "INV-12");
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
    // not while the master's keeper is leaving
    other_system.info("keeper1").leaving = true;
    breaks(other_system, "INV-20", remove_db3);
}

#[test]
fn a_db_changes_its_role_only_by_being_elected() {
    breaks(base(3), "INV-23 INV-25", |next| {
        let spec = &mut next.dbs_mut().get_mut(&db_uid("db3")).unwrap().spec;
        (spec.role, spec.follow_config) = (Role::Master, None);
    });
    breaks(base(3), "INV-19 INV-24", |next| {
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
            failover: None,
            switchover: None,
            orders: &setup.seen.orders,
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

// ---- synchronous replication

fn db<'a>(next: &'a mut ClusterData, uid: &str) -> &'a mut Db {
    next.dbs_mut().get_mut(uid).unwrap()
}

/// Sets the standbys that commits wait for, and those that are known to be in sync.
fn set(next: &mut ClusterData, uid: &str, wanted: &[&str], known: &[&str]) {
    let db = db(next, uid);
    db.spec.synchronous_standbys = uids(wanted);
    db.status.synchronous_standbys = uids(known);
}

/// db1 waits for db2, which is in sync; db3 is good.
fn in_sync() -> Setup {
    synchronous(3, &["db2"], &["db2"])
}

/// db1 is to wait for db3 too, which it reports as in sync.
fn growing() -> Setup {
    let mut setup = synchronous(3, &["db2", "db3"], &["db2"]);
    setup.spec().max_synchronous_standbys = Some(2);
    let state = setup.state("keeper1");
    (state.synchronous_standbys, state.sync_marked) = (uids(&["db2", "db3"]), true);
    setup
}

/// Elects db2 under synchronous replication, as the planner writes it.
fn elect_db2_in_sync(next: &mut ClusterData) {
    elect_db2(next);
    set(next, "db2", &["db1"], &[]);
    let spec = &mut db(next, "db2").spec;
    (spec.synchronous_replication, spec.external_synchronous_standbys) = (true, Some(Vec::new()));
}

#[test]
fn a_synchronous_election_takes_a_standby_that_was_in_sync() {
    let elected = |mut setup: Setup| {
        setup.unhealthy("db1");
        broken_on(&mut setup, &[unchanged("keeper1", 7)], elect_db2_in_sync)
    };
    assert_eq!(elected(in_sync()), "");
    // neither what is known nor what is wanted is enough
    assert_eq!(elected(synchronous(3, &["db2"], &[])), "INV-10");
    assert_eq!(elected(synchronous(3, &["db3"], &["db2", "db3"])), "INV-10");
    // a better one that was in sync is not passed over; one that was not may be
    let ahead = |wanted: &[&str]| {
        let mut setup = synchronous(3, wanted, wanted);
        setup.at("db1", 1, 9).at("db2", 1, 8).at("db3", 1, 9);
        elected(setup)
    };
    assert_eq!(ahead(&["db2"]), "");
    assert_eq!(ahead(&["db2", "db3"]), "INV-11");
    // the lag does not matter
    let mut behind = in_sync();
    behind.at("db1", 1, 1 << 40).at("db2", 1, 1);
    assert_eq!(elected(behind), "");
}

#[test]
fn a_synchronous_election_outside_the_set_needs_a_clean_stop_and_everything() {
    let left = |clean: bool, at: u64| {
        let mut setup = synchronous(3, &["db3"], &["db3"]);
        setup.at("db1", 1, 9).at("db2", 1, at).at("db3", 1, 1);
        let info = setup.info("keeper1");
        info.leaving = true;
        info.stopped = Some(Stopped {
            clean,
            lsn: Some(model::Lsn(9)),
            timeline_id: 1,
        });
        broken_on(&mut setup, &[unchanged("keeper1", 7)], |next| {
            elect_db2_in_sync(next);
            set(next, "db2", &["db3"], &[]);
        })
    };
    assert_eq!(left(true, 9), "");
    assert_eq!(left(true, 8), "INV-10");
    assert_eq!(left(false, 9), "INV-10");
}

#[test]
fn a_synchronous_master_is_elected_with_names_and_nobody_known() {
    let with = |fault: fn(&mut ClusterData)| {
        let mut setup = in_sync();
        setup.unhealthy("db1");
        broken_on(&mut setup, &[unchanged("keeper1", 7)], |next| {
            elect_db2_in_sync(next);
            fault(next);
        })
    };
    assert_eq!(with(|next| set(next, "db2", &[], &[])), "INV-18");
    assert_eq!(with(|next| set(next, "db2", &["db1"], &["db1"])), "SY-6");
    assert_eq!(with(|next| db(next, "db2").spec.clear_synchronous()), "SY-6");
    assert_eq!(with(|next| set(next, "db1", &[], &[])), "INV-19");
}

#[test]
fn a_standby_counts_as_in_sync_by_a_proof_only() {
    let known =
        |setup: Setup, rules: &str| breaks(setup, rules, |next| set(next, "db1", &["db2", "db3"], &["db2", "db3"]));
    known(growing(), "");
    // not reported; of another generation; no mark and a standby behind
    let mut silent = growing();
    silent.state("keeper1").synchronous_standbys = None;
    known(silent, "INV-13 INV-14");
    let mut earlier = growing();
    earlier.state("keeper1").generation = 0;
    known(earlier, "INV-13 INV-14");
    let mut unmarked = growing();
    unmarked.at("db1", 1, 9).at("db3", 1, 8).state("keeper1").sync_marked = false;
    let state = unmarked.state("keeper1");
    (state.xlog_pos, state.timeline_id) = (model::Lsn(9), 1);
    known(unmarked.clone(), "INV-13 INV-14");
    let state = unmarked.state("keeper3");
    (state.xlog_pos, state.timeline_id) = (model::Lsn(9), 1);
    known(unmarked, "");
    // one that was known before, under other names
    breaks(synchronous(3, &["db2"], &["db2", "db3"]), "INV-14", |next| {
        set(next, "db1", &["db2", "db3"], &["db2", "db3"]);
    });
    breaks(synchronous(3, &["db2"], &["db2", "db3"]), "INV-14", |next| {
        set(next, "db1", &["db2"], &["db2", "db3"]);
        db(next, "db1").spec.max_standbys = 1;
    });
}

#[test]
fn a_member_is_replaced_by_way_of_a_larger_set() {
    let mut failed = in_sync();
    failed.unhealthy("db2");
    breaks(failed.clone(), "", |next| set(next, "db1", &["db2", "db3"], &["db2"]));
    breaks(failed, "INV-15", |next| set(next, "db1", &["db3"], &[]));
    // or for no reason
    let mut two = synchronous(3, &["db2", "db3"], &["db2", "db3"]);
    two.spec().max_synchronous_standbys = Some(2);
    breaks(two.clone(), "INV-34", |next| set(next, "db1", &["db2"], &["db2"]));
    two.unhealthy("db3");
    breaks(two, "", |next| set(next, "db1", &["db2"], &["db2"]));
}

#[test]
fn the_set_changes_only_when_its_members_are_in_sync_or_lost() {
    let waiting = || {
        let mut setup = growing();
        setup.state("keeper1").synchronous_standbys = uids(&["db2"]);
        setup
    };
    breaks(waiting(), "INV-16", |next| set(next, "db1", &["db2"], &["db2"]));
    let mut lost = waiting();
    lost.info("keeper3").leaving = true;
    breaks(lost, "", |next| set(next, "db1", &["db2"], &["db2"]));
}

#[test]
fn commits_wait_for_a_name_that_nobody_has_exactly_while_standbys_are_missing() {
    let fake = |next: &mut ClusterData| {
        db(next, "db1").spec.external_synchronous_standbys = Some(vec!["stolonfakestandby".to_owned()]);
    };
    breaks(in_sync(), "INV-17", fake);
    let mut failed = in_sync();
    failed.unhealthy("db2");
    breaks(failed, "INV-17", |next| set(next, "db1", &[], &[]));
    let mut two = in_sync();
    two.spec().min_synchronous_standbys = Some(2);
    two.spec().max_synchronous_standbys = Some(2);
    breaks(two, "", fake);
}

#[test]
fn only_a_healthy_and_converged_master_changes_its_sets() {
    let mut unhealthy = in_sync();
    unhealthy.unhealthy("db1");
    breaks(unhealthy, "INV-19", |next| set(next, "db1", &["db2", "db3"], &["db2"]));
    let mut converging = in_sync();
    converging.db("db1").generation = 2;
    breaks(converging, "INV-19", |next| db(next, "db1").spec.clear_synchronous());
    // as the spec says
    breaks(in_sync(), "INV-19", |next| {
        db(next, "db1").spec.clear_synchronous();
        db(next, "db1").status.synchronous_standbys = None;
    });
    let mut off = in_sync();
    off.spec().synchronous_replication = Some(false);
    breaks(off, "", |next| {
        db(next, "db1").spec.clear_synchronous();
        db(next, "db1").status.synchronous_standbys = None;
    });
}

#[test]
fn only_a_good_standby_joins_the_set() {
    let joins = |change: fn(&mut Setup)| {
        let mut setup = in_sync();
        setup.spec().max_synchronous_standbys = Some(2);
        change(&mut setup);
        broken_on(&mut setup, &[], |next| set(next, "db1", &["db2", "db3"], &["db2"]))
    };
    assert_eq!(joins(|_| {}), "");
    assert_eq!(
        joins(|setup| {
            setup.unhealthy("db3");
        }),
        "INV-33"
    );
    assert_eq!(
        joins(|setup| {
            setup.at("db3", 2, 1);
        }),
        "INV-33"
    );
    assert_eq!(joins(|setup| setup.info("keeper3").leaving = true), "INV-33");
    assert_eq!(
        joins(|setup| setup.keeper_status("keeper3").can_be_synchronous_replica = Some(false)),
        "INV-33"
    );
}

#[test]
fn no_former_master_is_left_that_clients_may_have_overtaken() {
    let former = |uid: &str| {
        let mut setup = in_sync();
        let spec = &mut setup.db(uid).spec;
        (spec.role, spec.follow_config) = (Role::Master, None);
        setup.db("db1").spec.followers = uids(&["db2"]);
        setup
    };
    breaks(former("db3"), "SY-8", |_| {});
    let mut unannounced = former("db3");
    unannounced.proxy().spec.master_db_uid = db_uid("");
    breaks(unannounced.clone(), "", |_| {});
    let announce = |next: &mut ClusterData| {
        let proxy = next.proxy.as_mut().unwrap();
        (proxy.spec.master_db_uid, proxy.generation) = (db_uid("db1"), proxy.generation + 1);
    };
    breaks(unannounced.clone(), "SY-8", announce);
    // nor when synchronous replication begins
    unannounced.db("db1").spec.clear_synchronous();
    unannounced.db("db1").status.synchronous_standbys = None;
    breaks(unannounced.clone(), "SY-8", |next| {
        set(next, "db1", &["db2"], &[]);
        let spec = &mut db(next, "db1").spec;
        (spec.synchronous_replication, spec.external_synchronous_standbys) = (true, Some(Vec::new()));
    });
    // a master whose commits do not wait yet is not announced
    breaks(unannounced, "SY-8", announce);
    // and an election does not leave one beside the elected db
    let mut failed = former("db3");
    failed.unhealthy("db1");
    assert_eq!(
        broken_on(&mut failed, &[unchanged("keeper1", 7)], elect_db2_in_sync),
        "SY-8"
    );
}

#[test]
fn no_member_of_the_set_is_removed_for_the_number_of_standbys() {
    let mut enough = in_sync();
    enough.spec().max_standbys_per_sender = Some(1);
    let remove = |uid: &'static str, followers: &'static str| {
        move |next: &mut ClusterData| {
            next.dbs_mut().remove(uid);
            db(next, "db1").spec.followers = uids(&[followers]);
        }
    };
    breaks(enough.clone(), "", remove("db3", "db2"));
    breaks(enough, "INV-20", remove("db2", "db3"));
}

/// What an election of db2 at an operator's request breaks, once `change` has taken something away from it.
fn broken_by_request(change: impl FnOnce(&mut Setup, &mut Vec<Condition>)) -> String {
    let mut setup = synchronous(3, &["db3"], &["db3"]);
    setup.silent("keeper1").unhealthy("db1");
    setup.silent("keeper3").unhealthy("db3");
    setup.at("db1", 1, 9).at("db3", 1, 9).at("db2", 1, 5);
    setup.proxy().spec.master_db_uid = db_uid("");
    let request = FailoverRequest {
        id: "r".to_owned(),
        to: keeper_of("db2"),
        master: db_uid("db1"),
        accept_data_loss: true,
        requested_at: WALL,
    };
    setup.seen.failover = Some((request, 50));
    let absent = Condition::KeeperInfo {
        key: "keeper1".to_owned(),
        revision: None,
    };
    let mut conditions = vec![absent, unchanged("keeper2", 7), requested(50)];
    change(&mut setup, &mut conditions);
    broken_on(&mut setup, &conditions, |next| {
        elect_db2(next);
        db(next, "db2").spec.synchronous_replication = true;
        set(next, "db2", &["db3"], &[]);
    })
}

/// The condition that the operator's request is as it was read, and is deleted.
fn requested(revision: i64) -> Condition {
    Condition::FailoverRequest {
        revision,
        fate: RequestFate::Deleted,
    }
}

#[test]
fn an_election_outside_the_set_is_one_that_an_operator_asked_for() {
    assert_eq!(broken_by_request(|_, _| {}), "");
    let request = |change: fn(&mut FailoverRequest)| {
        broken_by_request(|setup, _| change(&mut setup.seen.failover.as_mut().unwrap().0))
    };
    assert_eq!(broken_by_request(|setup, _| setup.seen.failover = None), "INV-10 SY-20");
    assert_eq!(request(|request| request.to = keeper_of("db3")), "INV-10 SY-20");
    assert_eq!(request(|request| request.master = db_uid("db3")), "INV-10 SY-20");
    assert_eq!(request(|request| request.accept_data_loss = false), "INV-10");
    // on condition of the request and of the elected keeper's info
    assert_eq!(broken_by_request(|_, conditions| conditions.truncate(2)), "INV-10");
    assert_eq!(broken_by_request(|_, conditions| drop(conditions.remove(1))), "INV-10");
    assert_eq!(
        broken_by_request(|_, conditions| conditions[2] = requested(49)),
        "INV-10"
    );
}

#[test]
fn an_election_that_an_operator_asked_for_gives_up_nothing_else() {
    let with = |change: fn(&mut Setup)| broken_by_request(|setup, _| change(setup));
    // the proxies are open, or a proxy may still forward
    assert_eq!(with(|setup| setup.proxy().spec.master_db_uid = db_uid("db1")), "INV-10");
    assert_eq!(
        with(|setup| {
            setup.proxy_seen("p1", 0);
        }),
        "INV-10 F-10"
    );
    assert_eq!(
        with(|setup| setup.db("db2").status.system_id = "other".to_owned()),
        "INV-8 INV-10"
    );
    assert_eq!(
        with(|setup| setup.db("db2").status.current_generation = 0),
        "INV-8 INV-10"
    );
    assert_eq!(
        with(|setup| setup.keeper_status("keeper2").can_be_master = Some(false)),
        "INV-8 INV-10"
    );
    assert_eq!(with(|setup| setup.info("keeper2").leaving = true), "INV-10");
    assert_eq!(with(|setup| setup.state("keeper2").healthy = false), "INV-10");
    assert_eq!(
        with(|setup| {
            setup.at("db3", 2, 9);
        }),
        "INV-10"
    );
    // a standby that was in sync is there
    assert_eq!(
        with(|setup| {
            setup.keeper_status("keeper3").healthy = true;
            setup.db("db3").status.healthy = true;
            setup.memory.db_errors.remove("db3");
        }),
        "INV-11"
    );
}
