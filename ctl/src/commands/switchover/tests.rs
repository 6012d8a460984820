//! Which switchovers are not requested, and which steps follow, on cluster data without a store.

use base::Chain;
use model::{ClusterData, DbUid, ProxyInfo, Role, SwitchoverReport, SwitchoverState};

use super::progress::{SwitchoverFailure, SwitchoverReading, SwitchoverStep};
use super::*;

/// Master k1 with the standby of k2; k3 has no db.
const CLUSTER: &str = r#"{"formatVersion":1,
    "cluster":{"uid":"c1","spec":{"initMode":"new"},"status":{"phase":"normal","master":"d1"}},
    "keepers":{"k1":{"uid":"k1"},"k2":{"uid":"k2"},"k3":{"uid":"k3"}},
    "dbs":{
        "d1":{"uid":"d1","spec":{"keeperUID":"k1","role":"master"}},
        "d2":{"uid":"d2","spec":{"keeperUID":"k2","role":"standby","followConfig":{"type":"internal","dbuid":"d1"}}}},
    "proxy":{"generation":3,"spec":{"masterDbUid":"d1","enabledProxies":["p1","p2"]}}}"#;

fn cluster() -> CheckedClusterData {
    let data = ClusterData::parse(CLUSTER.as_bytes()).unwrap().unwrap();
    data.check().unwrap()
}

fn keeper(uid: &str, orders: bool) -> KeeperInfo {
    KeeperInfo {
        uid: uid.into(),
        orders,
        ..KeeperInfo::default()
    }
}

fn arguments(to: Option<&str>, timeout: Option<&str>) -> Result<(Option<KeeperUid>, Duration), String> {
    let args = Args {
        to: to.map(ToOwned::to_owned),
        timeout: timeout.map(|text| text.parse().unwrap()),
        arguments: Vec::new(),
    };
    check_arguments(&args).map_err(|error| Chain(error.as_ref()).to_string())
}

#[test]
fn the_timeout_is_bounded_and_the_keeper_may_be_left_out() {
    assert_eq!(arguments(None, None).unwrap(), (None, Duration::from_secs(30)));
    assert_eq!(arguments(Some("k2"), Some("1s")).unwrap().0, Some("k2".into()));
    assert_eq!(arguments(None, Some("10m")).unwrap().1, TIMEOUT_MAX);
    for wrong in ["0", "0s", "999ms", "-1s", "10m1s"] {
        let text = arguments(None, Some(wrong)).unwrap_err();
        assert!(text.contains("out of range: choose one between 1s and 10m0s"), "{text}");
    }
    assert!(arguments(Some(""), None).unwrap_err().contains("--to is empty"));
}

#[test]
fn what_the_leading_sentinel_cannot_begin_is_not_requested() {
    let able = [keeper("k1", true), keeper("k2", false)];
    let refused = |infos: &[KeeperInfo], leader: Leader, to: Option<&str>| {
        let to = to.map(KeeperUid::from);
        check_cluster(&cluster(), infos, leader, to.as_ref()).unwrap_err()
    };
    let to = |to: &str| refused(&able, Leader::Able, Some(to));
    assert_eq!(to("nosuch"), "keeper doesn't exist: nosuch");
    assert_eq!(to("k1"), "keeper k1 has the master already");
    assert!(to("k3").starts_with("keeper k3 has no db"));
    assert!(refused(&able, Leader::None, None).starts_with("no sentinel leads"));
    let text = refused(&able, Leader::Unable("s1".to_owned()), None);
    assert!(
        text.starts_with("sentinel s1 leads, and it is of Go stolon") && text.contains("SIGTERM"),
        "{text}"
    );
    let text = refused(&able, Leader::Unknown("s1".to_owned()), Some("k2"));
    assert!(text.starts_with("sentinel s1 leads and has not published"), "{text}");
    let text = refused(&[keeper("k1", false)], Leader::Able, None);
    assert!(
        text.starts_with("keeper k1 has the master, and it is of Go stolon") && text.contains("SIGTERM"),
        "{text}"
    );
    let text = refused(&able[1..], Leader::Able, None);
    assert!(
        text.starts_with("keeper k1, which has the master, does not report"),
        "{text}"
    );
    let mut initializing = cluster();
    initializing.data.cluster.as_mut().unwrap().status.phase = Phase::Initializing;
    let text = check_cluster(&initializing, &able, Leader::Able, None).unwrap_err();
    assert!(text.contains("not initialised yet"), "{text}");
    for to in [None, Some("k2".into())] {
        assert!(check_cluster(&cluster(), &able, Leader::Able, to.as_ref()).is_ok());
    }
}

#[test]
fn standbys_that_have_not_reported_their_db_are_warned_about() {
    let mut data = cluster().data;
    for db in data.dbs_mut().values_mut() {
        db.status.current_generation = 3;
    }
    assert_eq!(unreported_keepers(&data), []);
    data.dbs_mut()
        .get_mut(&DbUid::from("d2"))
        .unwrap()
        .status
        .current_generation = 0;
    assert_eq!(unreported_keepers(&data), ["k2".into()]);
}

fn tracker() -> SwitchoverTracker {
    SwitchoverTracker::new("d1".into(), "k1".into(), None)
}

/// Returns what is read while a sentinel reports this.
fn view(state: SwitchoverState) -> SwitchoverReading {
    let proxy = |uid: &str| ProxyInfo {
        uid: uid.into(),
        generation: 3,
        ..ProxyInfo::default()
    };
    SwitchoverReading {
        data: Some(cluster().data),
        has_request: true,
        report: Some(SwitchoverReport {
            id: "a".to_owned(),
            state,
            to: "k2".into(),
            reason: String::new(),
        }),
        proxies: vec![proxy("p1"), proxy("p2"), proxy("p9")],
    }
}

impl SwitchoverReading {
    fn because(mut self, reason: &str) -> Self {
        self.report.as_mut().unwrap().reason = reason.to_owned();
        self
    }

    fn announces(mut self, db: &str) -> Self {
        let section = self.data.as_mut().unwrap().proxy.as_mut().unwrap();
        section.spec.master_db_uid = db.into();
        section.generation += 1;
        self
    }

    fn elects(mut self, db: &str) -> Self {
        let data = self.data.as_mut().unwrap();
        data.cluster.as_mut().unwrap().status.master = db.into();
        data.dbs_mut().get_mut(&DbUid::from(db)).unwrap().spec.role = Role::Master;
        self
    }

    fn without_request(mut self) -> Self {
        self.has_request = false;
        self
    }
}

fn lines(progress: &mut SwitchoverTracker, view: &SwitchoverReading) -> String {
    let steps = progress.observe(view).unwrap();
    let lines: Vec<String> = steps
        .iter()
        .map(|step| progress.line(step, Duration::from_millis(1500)))
        .collect();
    lines.join("\n")
}

#[test]
fn each_step_is_printed_once_and_in_order() {
    let mut progress = tracker();
    let waiting = |why| view(SwitchoverState::Waiting).because(why);
    assert_eq!(lines(&mut progress, &waiting("k2 lags")), "    1.5 s  waiting: k2 lags");
    assert_eq!(lines(&mut progress, &waiting("k2 lags")), "");
    assert_eq!(
        lines(&mut progress, &waiting("k2\u{1b} starts")),
        "    1.5 s  waiting: k2\\u{1b} starts"
    );
    let checkpoint = view(SwitchoverState::Checkpoint);
    let text = "    1.5 s  the master writes a checkpoint: keeper k1";
    assert_eq!(lines(&mut progress, &checkpoint), text);
    let closing = view(SwitchoverState::ClosingProxies).announces("");
    assert_eq!(
        lines(&mut progress, &closing),
        "    1.5 s  the proxies close their connections"
    );
    let stopping = view(SwitchoverState::Stopping).announces("");
    assert_eq!(
        lines(&mut progress, &stopping),
        "    1.5 s  the master stops: keeper k1"
    );
    // a new leader begins again
    assert_eq!(lines(&mut progress, &closing), "");
    let receiving = view(SwitchoverState::Receiving).announces("");
    let text = "    1.5 s  the new master receives the rest of the WAL: keeper k2";
    assert_eq!(lines(&mut progress, &receiving), text);
    let elected = view(SwitchoverState::Promoting).announces("").elects("d2");
    assert_eq!(lines(&mut progress, &elected), "    1.5 s  elected: keeper k2");
    assert!(progress.is_elected() && !progress.is_announced());
    let announced = elected.announces("d2").without_request();
    let text = "    1.5 s  promoted and announced: keeper k2 has the master";
    assert_eq!(lines(&mut progress, &announced), text);
    let mut served = announced;
    for proxy in &mut served.proxies[..2] {
        proxy.generation = 5;
    }
    assert_eq!(
        lines(&mut progress, &served),
        "    1.5 s  the proxies connect clients to it"
    );
}

#[test]
fn steps_that_were_missed_are_left_out_and_a_stopped_proxy_is_not_waited_for() {
    let mut progress = tracker();
    let mut all = view(SwitchoverState::Done)
        .announces("d2")
        .elects("d2")
        .without_request();
    all.report = None;
    all.proxies[0].generation = 4;
    all.proxies[1].stopped = true;
    let expected = vec![
        SwitchoverStep::Elected,
        SwitchoverStep::Announced,
        SwitchoverStep::Serving,
    ];
    assert_eq!(progress.observe(&all), Ok(expected));
}

#[test]
fn a_switchover_that_ended_has_a_reason_and_a_state() {
    let mut progress = tracker();
    let refused = view(SwitchoverState::Refused).because("no").without_request();
    assert_eq!(
        progress.observe(&refused),
        Err(SwitchoverFailure::Refused("no".to_owned()))
    );
    assert!(progress.has_ended());
    assert_eq!(
        progress.state(),
        "keeper k1 has the master, and the proxies are sent to it"
    );
    assert_eq!(progress.last_step(), None);

    progress
        .observe(&view(SwitchoverState::Stopping).announces(""))
        .unwrap();
    let last = progress.last_step().unwrap();
    assert!(
        last.starts_with("the last step was: the master stops: keeper k1; "),
        "{last}"
    );
    let aborted = view(SwitchoverState::Aborted).because("k2 is gone").announces("");
    assert_eq!(
        progress.observe(&aborted),
        Err(SwitchoverFailure::Aborted("k2 is gone".to_owned()))
    );
    assert!(
        progress
            .state()
            .starts_with("keeper k1 stays the master; the proxies are closed")
    );

    let mut progress = tracker();
    let elected = view(SwitchoverState::Promoting).announces("").elects("d2");
    progress.observe(&elected).unwrap();
    assert!(!progress.has_ended());
    assert!(
        progress
            .state()
            .starts_with("keeper k2 is elected and may still be announced")
    );
    // it has failed, and the old master is elected again (extensions X-2.9)
    assert_eq!(
        progress.observe(&view(SwitchoverState::Promoting).announces("d1")),
        Err(SwitchoverFailure::OtherElected("k1".into()))
    );
    assert_eq!(
        progress.state(),
        "keeper k1 has the master, and the proxies are sent to it"
    );

    let none = SwitchoverReading::default();
    assert_eq!(progress.observe(&none), Err(SwitchoverFailure::NoClusterData));
}

#[test]
fn another_keeper_than_the_chosen_one_is_no_success() {
    let elects_d2 = |state| {
        let mut other = view(state).announces("").elects("d2");
        other.report.as_mut().unwrap().to = "k3".into();
        other
    };
    let other_elected = Err(SwitchoverFailure::OtherElected("k2".into()));
    let named = |to: &str| SwitchoverTracker::new("d1".into(), "k1".into(), Some(to.into()));
    assert_eq!(
        named("k3").observe(&elects_d2(SwitchoverState::Stopping)),
        other_elected
    );
    assert_eq!(tracker().observe(&elects_d2(SwitchoverState::Promoting)), other_elected);
    // A report from before the election names the best standby of that time, which is another one now.
    let mut progress = tracker();
    progress.observe(&elects_d2(SwitchoverState::Stopping)).unwrap();
    assert!(progress.is_elected());
    assert!(named("k2").observe(&elects_d2(SwitchoverState::Stopping)).is_ok());
}

/// A new leader reports `refused` even for a switchover that its predecessor had begun.
#[test]
fn a_switchover_that_has_begun_is_given_up_and_not_refused() {
    let mut progress = tracker();
    let refused = view(SwitchoverState::Refused).because("why");
    let outcome = progress.clone().observe(&refused).unwrap_err();
    assert_eq!(outcome, SwitchoverFailure::Refused("why".to_owned()));
    progress
        .observe(&view(SwitchoverState::Waiting).because("first"))
        .unwrap();
    let outcome = progress.clone().observe(&refused).unwrap_err();
    assert_eq!(outcome, SwitchoverFailure::Refused("why".to_owned()));
    progress.observe(&view(SwitchoverState::Stopping)).unwrap();
    let outcome = progress.observe(&refused).unwrap_err();
    assert_eq!(outcome, SwitchoverFailure::Aborted("why".to_owned()));
}

#[test]
fn what_a_step_waits_for_is_printed_before_clients_wait_and_is_in_the_error() {
    let mut progress = tracker();
    assert_eq!(
        lines(&mut progress, &view(SwitchoverState::Checkpoint)),
        "    1.5 s  the master writes a checkpoint: keeper k1"
    );
    let waits = view(SwitchoverState::Checkpoint).because("keeper k2 has not received it");
    assert_eq!(
        lines(&mut progress, &waits),
        "    1.5 s  waiting: keeper k2 has not received it"
    );
    assert_eq!(lines(&mut progress, &waits), "");
    assert_eq!(
        progress.last_step().unwrap(),
        "the last step was: waiting: keeper k2 has not received it"
    );
    let other = view(SwitchoverState::Checkpoint).because("keeper k2: it is 1500 bytes behind");
    assert!(lines(&mut progress, &other).contains("1500 bytes"));
    let further = view(SwitchoverState::Checkpoint).because("keeper k2: it is 29000 bytes behind");
    assert_eq!(lines(&mut progress, &further), "");
    let closing = view(SwitchoverState::ClosingProxies).because("proxy p1 may still have open connections");
    assert_eq!(
        lines(&mut progress, &closing),
        "    1.5 s  the proxies close their connections"
    );
    assert_eq!(
        progress.last_step().unwrap(),
        "the last step was: the proxies close their connections; proxy p1 may still have open connections"
    );
    lines(&mut progress, &view(SwitchoverState::Stopping));
    assert_eq!(
        progress.last_step().unwrap(),
        "the last step was: the master stops: keeper k1; PostgreSQL waits for all receivers of its WAL, and the keeper's \
         log names them after a few seconds"
    );
}
