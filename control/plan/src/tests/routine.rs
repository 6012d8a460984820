//! Infos that may be published again without another round (sentinel E-1).

use super::cluster::{Setup, base, db_uid, initializing, synchronous};
use crate::{Observations, Observed, RoutineInfos, Urgency};
use model::{BootUuid, KeeperInfo, KeeperUid, Lsn, Problem, ProxyInfo, ProxyUid};

/// Makes a cluster.
type MakeSetup = fn() -> Setup;

/// A cluster in which nothing is to be decided: keepers with liveness keys, and an enabled proxy.
fn settled(mut setup: Setup) -> Setup {
    setup.proxy_seen("p1", 1);
    setup.proxy().spec.enabled_proxies = vec!["p1".into()];
    setup.derive_infos();
    for (uid, observed) in &mut setup.seen.keepers {
        observed.info.liveness_key = true;
        let boot = observed.info.boot_uuid.clone();
        setup.seen.liveness_keys.insert(uid.clone(), boot);
    }
    setup
}

fn routine(setup: &mut Setup) -> RoutineInfos {
    setup.plan().unwrap().routine_infos()
}

/// The next info of a keeper, which differs from the last one by a change.
fn next_info(setup: &Setup, keeper: &str, change: impl FnOnce(&mut KeeperInfo)) -> KeeperInfo {
    let mut info = setup.seen.keepers[&KeeperUid::from(keeper)].info.clone();
    info.info_uid = "next".into();
    change(&mut info);
    info
}

fn advance(info: &mut KeeperInfo) {
    info.postgres_state.as_mut().unwrap().xlog_pos = Lsn(5_000);
}

/// Whether the next info of keeper2 needs no round in this cluster when only its position differs.
fn is_routine(mut setup: Setup) -> bool {
    let routine = routine(&mut setup);
    routine.is_keeper_repetition("keeper2", &next_info(&setup, "keeper2", advance))
}

#[test]
fn an_info_with_another_position_alone_is_routine_and_every_other_change_is_not() {
    let mut setup = settled(base(3));
    let routine = routine(&mut setup);
    for keeper in ["keeper1", "keeper2"] {
        assert!(routine.is_keeper_repetition(keeper, &next_info(&setup, keeper, advance)));
    }
    let changes: [fn(&mut KeeperInfo); 9] = [
        |info| info.leaving = true,
        |info| info.boot_uuid = "other".into(),
        |info| info.postgres_state = None,
        |info| info.can_be_master = Some(false),
        |info| info.problems = vec![Problem::new("login", "refused", "set the password")],
        |info| info.postgres_state.as_mut().unwrap().healthy = false,
        |info| info.postgres_state.as_mut().unwrap().generation = 2,
        |info| info.postgres_state.as_mut().unwrap().synchronous_standbys = Some(vec![db_uid("db3")]),
        |info| info.postgres_state.as_mut().unwrap().older_wal_file = "000000010000000000000009".to_owned(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let info = next_info(&setup, "keeper2", change);
        assert!(!routine.is_keeper_repetition("keeper2", &info), "change {number}");
    }
    let info = next_info(&setup, "keeper2", advance);
    assert!(!routine.is_keeper_repetition("keeper9", &info), "another key");
}

#[test]
fn positions_matter_while_something_is_to_be_decided() {
    assert!(is_routine(settled(base(3))));
    assert!(is_routine(settled(synchronous(3, &["db2"], &["db2"]))));
    let cases: [(&str, MakeSetup); 5] = [
        ("another timeline", || {
            let mut setup = base(3);
            setup.at("db3", 1, 1_000).at("db1", 2, 1_000).at("db2", 2, 1_000);
            settled(setup)
        }),
        ("a standby whose data are not proven to be in sync", || {
            settled(synchronous(3, &["db2"], &[]))
        }),
        ("a master that is not announced", || {
            let mut setup = settled(base(3));
            setup.proxy().spec.master_db_uid = db_uid("");
            setup.info("keeper1").postgres_state.as_mut().unwrap().generation = 0;
            setup
        }),
        ("a master that has left", || {
            let mut setup = settled(base(3));
            setup.stopped("keeper1", 0, 9_000).leaving = true;
            setup
        }),
        ("a master that has failed", || {
            let mut setup = settled(base(3));
            setup.unhealthy("db1").state("keeper1").healthy = false;
            setup
        }),
    ];
    for (what, setup) in cases {
        assert!(!is_routine(setup()), "{what}");
    }
    let mut setup = initializing();
    setup.keeper("keeper2");
    assert!(!is_routine(settled(setup)), "no master yet");
}

#[test]
fn an_info_is_routine_only_while_its_keeper_is_known_to_live() {
    let without = |change: fn(&mut Setup)| {
        let mut setup = settled(base(3));
        change(&mut setup);
        is_routine(setup)
    };
    let keeper2 = || KeeperUid::from("keeper2");
    assert!(without(|_| {}));
    assert!(
        !without(|setup| setup.info("keeper2").liveness_key = false),
        "its age decides about its health"
    );
    assert!(!without(|setup| drop(
        setup.seen.liveness_keys.remove(&KeeperUid::from("keeper2"))
    )));
    let other = BootUuid::from("other");
    let mut setup = settled(base(3));
    setup.seen.liveness_keys.insert(keeper2(), other);
    assert!(!is_routine(setup), "another process of the keeper");
    let mut setup = settled(base(3));
    setup.data.keepers_mut().remove(&keeper2());
    setup.data.dbs_mut().remove(&db_uid("db2"));
    setup.db("db1").spec.followers = super::cluster::uids(&["db3"]);
    let registered = setup.plan().unwrap();
    assert_eq!(registered.urgency, Urgency::Immediate);
    assert_eq!(registered.routine_infos(), RoutineInfos::default(), "it is registered");
}

#[test]
fn a_sentinel_that_has_just_started_knows_no_routine() {
    let mut setup = settled(base(3));
    let checked = setup.checked();
    let follow = |memory: &crate::Memory, seen: &Observations| memory.after_read(seen, &checked, setup.now);
    let first = follow(&crate::Memory::default(), &setup.seen);
    let next = next_info(&setup, "keeper2", advance);
    let is_routine =
        |memory: &crate::Memory| RoutineInfos::of(&checked.data, memory).is_keeper_repetition("keeper2", &next);
    assert!(!is_routine(&first), "the age of what it found is unknown");
    let observed = setup.seen.keepers.get_mut(&KeeperUid::from("keeper2")).unwrap();
    *observed = Observed {
        info: next.clone(),
        ..observed.clone()
    };
    assert!(is_routine(&follow(&first, &setup.seen)));
}

#[test]
fn an_enabled_proxy_that_repeats_its_info_is_routine() {
    let repeats = |setup: &mut Setup, change: fn(&mut ProxyInfo)| {
        let routine = routine(setup);
        let mut info = setup.seen.proxies[&ProxyUid::from("p1")].info.clone();
        info.info_uid = "next".into();
        change(&mut info);
        routine.is_proxy_repetition("p1", &info)
    };
    let mut setup = settled(base(2));
    assert!(repeats(&mut setup, |_| {}));
    assert!(!repeats(&mut setup, |info| info.generation = 2));
    assert!(!repeats(&mut setup, |info| info.proxy_timeout += 1));
    assert!(!repeats(&mut setup, |info| info.stopped = true));
    assert!(!repeats(&mut setup, |info| info.uid = "p2".into()), "another key");
    setup.proxy().spec.enabled_proxies.clear();
    assert!(!repeats(&mut setup, |_| {}), "it is enabled in this round");
}

/// Sentinel H-6: the info of a keeper that has died and was removed may have been put after the last round.
#[test]
fn a_removed_keeper_does_not_register_by_an_info_that_started_no_round() {
    for is_repetition in [true, false] {
        let mut setup = settled(base(3));
        setup.round();
        let info = next_info(&setup, "keeper3", advance);
        setup.seen.keepers.get_mut(&KeeperUid::from("keeper3")).unwrap().info = info;
        let removed = setup
            .data
            .db_of_keeper(&"keeper3".into())
            .map(|(uid, _)| uid.clone())
            .unwrap();
        setup.data.keepers.as_mut().unwrap().remove(&KeeperUid::from("keeper3"));
        setup.data.dbs.as_mut().unwrap().remove(&removed);
        if is_repetition {
            let key = setup.seen.keepers[&KeeperUid::from("keeper3")].key.clone();
            setup.seen.repeated_keepers.insert(key);
        }
        let plan = setup.plan().unwrap();
        let is_registered = plan.next.keepers().contains_key(&KeeperUid::from("keeper3"));
        assert_eq!(is_registered, !is_repetition, "{:?}", plan.notes);
    }
}
