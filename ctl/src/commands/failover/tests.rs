//! Whether a failover is refused, what is printed, and which steps follow, on cluster data without a store.

use base::Chain;
use model::{
    CheckedClusterData, ClusterData, FollowConfig, KeeperInfo, Lsn, Role, Stopped, TimelineHistory, Timestamp,
};

use super::assess::{FailoverReport, assess};
use super::progress::{Abort, FailoverStep, Progress};
use super::*;

/// A minute and a half after the master's keeper was last healthy.
const WALL: &str = "2024-05-06T07:06:42Z";

/// Master k1 is gone, k2 was in sync and is gone, k3 is older.
const LOST: &str = r#"{"formatVersion":1,
    "cluster":{"uid":"c1","spec":{"initMode":"new","synchronousReplication":true,"minSynchronousStandbys":1},"status":{"phase":"normal","master":"d1"}},
    "keepers":{
        "k1":{"uid":"k1","status":{"lastHealthyTime":"2024-05-06T07:05:12Z"}},
        "k2":{"uid":"k2","status":{"lastHealthyTime":"2024-05-06T04:05:12Z"}},
        "k3":{"uid":"k3","status":{"healthy":true,"lastHealthyTime":"2024-05-06T07:06:40Z"}},
        "k4":{"uid":"k4","status":{"healthy":true}}},
    "dbs":{
        "d1":{"uid":"d1","generation":2,"spec":{"keeperUID":"k1","role":"master","synchronousReplication":true,"synchronousStandbys":["d2","d9"]},
            "status":{"currentGeneration":2,"systemID":"7","timelineID":1,"xLogPos":83886408,"synchronousStandbys":["d2"]}},
        "d2":{"uid":"d2","generation":2,"spec":{"keeperUID":"k2","role":"standby","followConfig":{"type":"internal","dbuid":"d1"}},
            "status":{"currentGeneration":2,"systemID":"7","timelineID":1,"xLogPos":83886000}},
        "d3":{"uid":"d3","generation":2,"spec":{"keeperUID":"k3","role":"standby","followConfig":{"type":"internal","dbuid":"d1"}},
            "status":{"healthy":true,"currentGeneration":2,"systemID":"7","timelineID":1,"xLogPos":67108864}}},
    "proxy":{"generation":3,"spec":{"masterDbUid":"d1","enabledProxies":[]}}}"#;

fn lost() -> CheckedClusterData {
    let data = ClusterData::parse(LOST.as_bytes()).unwrap().unwrap();
    data.check().unwrap()
}

fn assessed(checked: &CheckedClusterData) -> FailoverReport {
    assess(checked, &[], &"k3".into()).unwrap()
}

fn wall() -> Timestamp {
    WALL.parse().unwrap()
}

/// Returns the text for cluster data that `change` has changed.
fn report(change: impl FnOnce(&mut CheckedClusterData)) -> String {
    let mut checked = lost();
    change(&mut checked);
    text::report(&assessed(&checked), wall())
}

#[test]
fn what_may_be_missing_is_printed() {
    let expected = "\
Master to be replaced: keeper k1, db d1
  keeper not healthy since 2024-05-06T07:05:12Z, 1 min 30 s ago
  last known position 0/5000148 on timeline 1
New master: keeper k3, db d3
  position 0/4000000 on timeline 1
  16777544 bytes behind the last known position of the master
  the master may have written more than is known; all that the new one lacks is lost
Synchronous replication, at least 1 standby:
  commits wait for: keeper k2, keeper not healthy since 2024-05-06T04:05:12Z, 3 h 1 min ago
  commits wait for: db d9, which is gone
  known to be in sync: keeper k2, keeper not healthy since 2024-05-06T04:05:12Z, 3 h 1 min ago
Others that have more, and are copied again from the new master:
  keeper k2: 0/4FFFFB0 on timeline 1, keeper not healthy since 2024-05-06T04:05:12Z, 3 h 1 min ago

";
    assert_eq!(report(|_| {}), expected);
}

#[test]
fn without_synchronous_replication_the_sets_are_left_out() {
    let text = report(|checked| {
        let dbs = checked.data.dbs_mut();
        dbs.get_mut("d1").unwrap().spec.synchronous_replication = false;
        dbs.remove("d2");
        checked.data.keepers_mut().get_mut("k1").unwrap().status.healthy = true;
    });
    let expected = "\
Master to be replaced: keeper k1, db d1
  keeper healthy, PostgreSQL not
  last known position 0/5000148 on timeline 1
New master: keeper k3, db d3
  position 0/4000000 on timeline 1
  16777544 bytes behind the last known position of the master
  the master may have written more than is known; all that the new one lacks is lost

";
    assert_eq!(text, expected);
}

#[test]
fn another_timeline_is_shown_with_the_position_where_it_was_left() {
    let left = |uid: &'static str, timeline_id: u64| {
        move |checked: &mut CheckedClusterData| {
            let status = &mut checked.data.dbs_mut().get_mut(uid).unwrap().status;
            status.timeline_id = 2;
            status.timelines_history = vec![TimelineHistory {
                timeline_id,
                switch_point: Lsn(0x3_000_000),
                reason: String::new(),
            }];
        }
    };
    let line = |text: &str| text.lines().nth(5).unwrap().trim().to_owned();
    assert_eq!(
        line(&report(left("d3", 1))),
        "another timeline: it lacks what the master wrote on timeline 1 since 0/3000000"
    );
    assert_eq!(
        line(&report(left("d3", 7))),
        "another timeline: how much it lacks is not known"
    );
    // a former master goes on on its own timeline
    let former = report(|checked| {
        left("d1", 1)(checked);
        let spec = &mut checked.data.dbs_mut().get_mut("d3").unwrap().spec;
        (spec.role, spec.follow_config) = (Role::Master, None);
    });
    assert_eq!(
        line(&former),
        "another timeline: it lacks what was written since timeline 1 was left at 0/3000000"
    );
}

#[test]
fn names_are_printed_as_what_they_are() {
    let text = report(|checked| {
        let mut keeper = checked.data.keepers()["k1"].clone();
        keeper.uid = "k\u{1b}[2J".into();
        checked.data.keepers_mut().insert(keeper.uid.clone(), keeper);
        checked.data.dbs_mut().get_mut("d1").unwrap().spec.keeper_uid = "k\u{1b}[2J".into();
    });
    assert!(
        text.starts_with("Master to be replaced: keeper k\\u{1b}[2J, db d1\n"),
        "{text}"
    );
}

#[test]
fn what_cannot_become_the_master_is_refused() {
    let refused = |to: &str, change: &dyn Fn(&mut CheckedClusterData)| {
        let mut checked = lost();
        change(&mut checked);
        assess(&checked, &[], &to.into()).unwrap_err()
    };
    let nothing = |_: &mut CheckedClusterData| {};
    assert_eq!(refused("nosuch", &nothing), "keeper doesn't exist: nosuch");
    assert!(refused("k4", &nothing).starts_with("keeper k4 has no db"));
    assert_eq!(refused("k1", &nothing), "keeper k1 has the master already");
    assert!(refused("k2", &nothing).starts_with("keeper k2 is not healthy: start it"));
    let master_is_healthy = |checked: &mut CheckedClusterData| {
        checked.data.keepers_mut().get_mut("k1").unwrap().status.healthy = true;
        checked.data.dbs_mut().get_mut("d1").unwrap().status.healthy = true;
    };
    let text = refused("k3", &master_is_healthy);
    assert!(
        text.starts_with("the master is healthy: keeper k1 has it; to hand it over, "),
        "{text}"
    );
    let soon_after_an_election = |checked: &mut CheckedClusterData| {
        master_is_healthy(checked);
        let dbs = checked.data.dbs_mut();
        dbs.get_mut("d1").unwrap().generation = 3;
        dbs.get_mut("d3").unwrap().status.current_generation = 0;
    };
    let text = refused("k3", &soon_after_an_election);
    assert!(
        text.contains("its data are not complete") && text.ends_with("wait a few seconds"),
        "{text}"
    );
    let target = |change: &'static dyn Fn(&mut model::Db)| {
        refused("k3", &|checked| change(checked.data.dbs_mut().get_mut("d3").unwrap()))
    };
    assert!(target(&|db| db.status.current_generation = 0).contains("its data are not complete"));
    assert!(target(&|db| db.status.healthy = false).contains("PostgreSQL of keeper k3 is not healthy"));
    assert!(target(&|db| db.status.system_id = "8".to_owned()).contains("of another database cluster"));
    let cannot_be_master = |checked: &mut CheckedClusterData| {
        checked.data.keepers_mut().get_mut("k3").unwrap().status.can_be_master = Some(false);
    };
    assert!(refused("k3", &cannot_be_master).contains("--can-be-master=false"));
    let ahead = |checked: &mut CheckedClusterData| checked.data.dbs_mut().get_mut("d2").unwrap().status.timeline_id = 4;
    let text = refused("k3", &ahead);
    assert!(text.contains("timeline 1, and keeper k2 has timeline 4"), "{text}");
    let other_former_master = |checked: &mut CheckedClusterData| {
        let spec = &mut checked.data.dbs_mut().get_mut("d2").unwrap().spec;
        (spec.role, spec.follow_config) = (Role::Master, None);
    };
    let text = refused("k3", &other_former_master);
    assert!(text.contains("`stolonctl removekeeper k2`"), "{text}");
    let initializing = |checked: &mut CheckedClusterData| {
        checked.data.cluster.as_mut().unwrap().status.phase = model::Phase::Initializing;
    };
    assert!(refused("k3", &initializing).contains("not initialised yet"));
}

#[test]
fn a_keeper_that_stops_is_refused_and_a_former_master_that_is_kept_stopped_is_not() {
    let stopped = KeeperInfo {
        uid: "k3".into(),
        stopped: Some(Stopped::default()),
        ..KeeperInfo::default()
    };
    let leaving = KeeperInfo {
        leaving: true,
        ..stopped.clone()
    };
    let mut checked = lost();
    let refused = |checked: &CheckedClusterData, info: &KeeperInfo| {
        assess(checked, std::slice::from_ref(info), &"k3".into()).unwrap_err()
    };
    assert_eq!(refused(&checked, &stopped), "keeper k3 is stopping");
    let db = checked.data.dbs_mut().get_mut("d3").unwrap();
    (db.spec.role, db.spec.follow_config) = (Role::Master, None);
    db.status.healthy = false;
    assert!(assess(&checked, &[stopped], &"k3".into()).is_ok());
    assert!(refused(&checked, &leaving).contains("not healthy"));
}

fn arguments(to: Option<&str>, accept: bool, timeout: Option<&str>) -> Result<(KeeperUid, Option<Duration>), String> {
    let args = Args {
        to: to.map(ToOwned::to_owned),
        accept_data_loss: accept.then_some(Switch(true)),
        timeout: timeout.map(|text| text.parse().unwrap()),
        yes: None,
        arguments: Vec::new(),
    };
    check_arguments(&args).map_err(|error| Chain(error.as_ref()).to_string())
}

#[test]
fn both_options_are_required_and_the_timeout_is_bounded() {
    for (text, option) in [
        (arguments(None, true, None).unwrap_err(), "--to KEEPER required"),
        (arguments(Some(""), true, None).unwrap_err(), "--to KEEPER required"),
        (
            arguments(Some("k3"), false, None).unwrap_err(),
            "--accept-data-loss required",
        ),
    ] {
        assert!(
            text.starts_with(option) && text.contains("`stolonctl failkeeper`"),
            "{text}"
        );
    }
    assert_eq!(arguments(Some("k3"), true, None).unwrap(), ("k3".into(), None));
    let limit = |text: &str| arguments(Some("k3"), true, Some(text));
    assert_eq!(limit("5s").unwrap().1, Some(TIMEOUT_MIN));
    for wrong in ["4999ms", "0", "-1s", "10m1s"] {
        assert!(limit(wrong).unwrap_err().contains("between 5s and 10m0s"), "{wrong}");
    }
}

/// Changes the document as the sentinel does at an election of d3.
fn elect(data: &mut ClusterData) {
    data.cluster.as_mut().unwrap().status.master = "d3".into();
    data.proxy.as_mut().unwrap().spec.master_db_uid = "".into();
    let spec = &mut data.dbs_mut().get_mut("d3").unwrap().spec;
    (spec.role, spec.follow_config) = (Role::Master, None);
}

#[test]
fn each_step_is_seen_once() {
    let mut data = lost().data;
    let mut progress = Progress::of(&assessed(&lost()));
    assert_eq!(progress.observe(Some(&data), true), Ok(vec![]));
    data.proxy.as_mut().unwrap().spec.master_db_uid = "".into();
    assert_eq!(
        progress.observe(Some(&data), true),
        Ok(vec![FailoverStep::ProxiesClosed])
    );
    assert_eq!(progress.observe(Some(&data), true), Ok(vec![]));
    elect(&mut data);
    assert_eq!(progress.observe(Some(&data), false), Ok(vec![FailoverStep::Elected]));
    assert_eq!(progress.observe(Some(&data), false), Ok(vec![]));
    data.proxy.as_mut().unwrap().spec.master_db_uid = "d3".into();
    assert_eq!(progress.observe(Some(&data), false), Ok(vec![FailoverStep::Announced]));
    // all at once, when nothing was read in between
    let mut progress = Progress::of(&assessed(&lost()));
    let all = vec![
        FailoverStep::ProxiesClosed,
        FailoverStep::Elected,
        FailoverStep::Announced,
    ];
    assert_eq!(progress.observe(Some(&data), false), Ok(all));
}

#[test]
fn a_failover_ends_when_nothing_more_can_be_expected() {
    let observe = |change: &dyn Fn(&mut ClusterData), has_request: bool| {
        let mut data = lost().data;
        change(&mut data);
        Progress::of(&assessed(&lost()))
            .observe(Some(&data), has_request)
            .unwrap_err()
    };
    assert_eq!(observe(&|_| {}, false), Abort::RequestGone);
    let back = |data: &mut ClusterData| {
        data.keepers_mut().get_mut("k1").unwrap().status.healthy = true;
        data.dbs_mut().get_mut("d1").unwrap().status.healthy = true;
    };
    assert_eq!(observe(&back, true), Abort::MasterIsBack);
    let other = |data: &mut ClusterData| data.cluster.as_mut().unwrap().status.master = "d2".into();
    assert_eq!(observe(&other, true), Abort::OtherElected("k2".into()));
    let mut progress = Progress::of(&assessed(&lost()));
    assert_eq!(progress.observe(None, true), Err(Abort::NoClusterData));
    // elected, and replaced by the old master
    let mut data = lost().data;
    elect(&mut data);
    progress.observe(Some(&data), false).unwrap();
    assert_eq!(
        progress.observe(Some(&lost().data), false),
        Err(Abort::OtherElected("k1".into()))
    );
    assert_eq!(
        data.dbs()["d2"].spec.follow_config,
        Some(FollowConfig::internal("d1".into()))
    );
}
