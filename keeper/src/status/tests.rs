//! What pages and systemd get, for each assignment and observation.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::metrics::{StandbyLag, UpstreamLag};

const FAIL_INTERVAL: Duration = Duration::from_secs(20);

fn at(seconds: u64) -> Boottime {
    Boottime::from_nanos(seconds * 1_000_000_000)
}

fn assigned(role: AssignedRole, read: u64) -> Assignment {
    Assignment {
        role,
        revision: Revision(7),
        recorded: at(read),
        read: at(read),
        limit: FAIL_INTERVAL,
    }
}

fn sample(role: MetricRole) -> InstanceSample {
    InstanceSample {
        healthy: true,
        role: Some(role),
        timeline: Some(3),
        ..InstanceSample::default()
    }
}

fn streaming(lag: Option<u64>) -> InstanceSample {
    InstanceSample {
        upstream: Some(UpstreamLag {
            is_streaming: true,
            replay_bytes: lag,
            ..UpstreamLag::default()
        }),
        ..sample(MetricRole::Standby)
    }
}

fn running(role: AssignedRole, sample: InstanceSample) -> StatusState {
    StatusState {
        phase: KeeperPhase::Running,
        assigned: Some(assigned(role, 100)),
        sample,
        ..StatusState::default()
    }
}

fn standby_of(keeper: &str) -> AssignedRole {
    AssignedRole::Standby(Some(keeper.into()))
}

/// Returns which of the three pages are 200 at 101 s, and the line.
fn pages(state: &StatusState) -> (String, String) {
    let now = at(101);
    let is_ok = |name: &'static str, reason: Option<String>| reason.is_none().then_some(name);
    let ok = [
        is_ok("ready", state.why_not_ready(now)),
        is_ok("primary", state.why_not_primary(now)),
        is_ok("standby", state.why_not_standby(None)),
    ];
    (
        ok.into_iter().flatten().collect::<Vec<_>>().join(" "),
        state.to_string(),
    )
}

#[track_caller]
fn check(state: &StatusState, ok: &str, line: &str) {
    assert_eq!(pages(state), (ok.to_owned(), line.to_owned()));
}

#[test]
fn an_instance_is_what_both_the_cluster_data_and_the_observation_say() {
    let standbys = |streaming: &[bool]| {
        let lag = |is_streaming: &bool| StandbyLag {
            is_streaming: *is_streaming,
            ..StandbyLag::default()
        };
        let standbys = streaming.iter().map(lag).enumerate();
        InstanceSample {
            standbys: Some(standbys.map(|(at, lag)| (format!("keeper{at}"), lag)).collect()),
            ..sample(MetricRole::Master)
        }
    };
    let master = |sample| running(AssignedRole::Master, sample);
    let standby = |sample| running(standby_of("keeper0"), sample);
    check(
        &master(standbys(&[true, true])),
        "ready primary",
        "master, 2 standbys streaming",
    );
    check(
        &master(standbys(&[true, false])),
        "ready primary",
        "master, 1 standby streaming",
    );
    check(
        &standby(streaming(Some(0))),
        "ready standby",
        "standby of keeper0, 0 bytes behind",
    );
    check(
        &standby(streaming(None)),
        "ready standby",
        "standby of keeper0, streaming",
    );
    check(
        &standby(sample(MetricRole::Standby)),
        "ready",
        "standby of keeper0, not streaming",
    );
    check(&standby(InstanceSample::default()), "", "no instance answers");
    // It was elected and is not promoted yet; it was replaced and is not stopped yet.
    check(&master(streaming(Some(0))), "", "standby, 0 bytes behind");
    check(&standby(standbys(&[])), "", "master, 0 standbys streaming");
    let former_master = AssignedRole::Nothing("the db is a former master");
    check(
        &running(former_master, standbys(&[])),
        "",
        "master, 0 standbys streaming",
    );
    let unhealthy = InstanceSample {
        healthy: false,
        ..standbys(&[true])
    };
    check(&master(unhealthy), "", "no instance answers");
    for phase in [KeeperPhase::Starting, KeeperPhase::Stopping] {
        let state = StatusState {
            phase,
            ..master(standbys(&[]))
        };
        check(&state, "", "master, 0 standbys streaming");
    }
}

#[test]
fn a_master_whose_keeper_has_not_read_the_cluster_data_for_fail_interval_is_no_primary() {
    let state = running(AssignedRole::Master, sample(MetricRole::Master));
    assert_eq!(state.why_not_primary(at(119)), None);
    let reason = state.why_not_primary(at(120)).unwrap();
    assert!(
        reason.starts_with("the cluster data were last read 20 s ago"),
        "{reason}"
    );
    assert_eq!(state.why_not_ready(at(120)), Some(reason));
}

#[test]
fn a_standby_is_usable_up_to_the_lag_that_is_asked_for() {
    let lags = |lag, limit| running(standby_of("a"), streaming(lag)).why_not_standby(limit);
    assert_eq!(lags(Some(100), None), None);
    assert_eq!(lags(Some(100), Some(100)), None);
    assert_eq!(
        lags(Some(101), Some(100)).unwrap(),
        "it is 101 bytes behind, more than 100"
    );
    assert!(lags(None, Some(100)).is_some(), "unknown is too much");
    let status = status().0;
    *status.state() = running(standby_of("a"), streaming(Some(1 << 20)));
    let page = |query: &'static str| status.standby_page(HttpQuery::from(query)).status;
    assert_eq!(page(""), HttpStatus::Ok);
    assert_eq!(page("lag=1MB"), HttpStatus::Ok);
    assert_eq!(page("lag=1023kB"), HttpStatus::Unavailable);
    assert_eq!(page("lag=1"), HttpStatus::BadRequest);
    assert!(
        status
            .standby_page(HttpQuery::from("lag=x"))
            .body
            .contains("kB, MB, GB")
    );
}

fn status() -> (KeeperHealth, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&now);
    let clock = Clock::custom(move || at(read.load(Ordering::Relaxed)));
    (KeeperHealth::new(clock), now)
}

fn stop() -> Desired {
    Desired {
        cluster: None,
        goal: Goal::Stop(StopReason::NoDb),
    }
}

fn unavailable() -> Desired {
    Desired {
        cluster: None,
        goal: Goal::Hold(HoldReason::StoreUnavailable),
    }
}

/// Records each (revision, sent) with the desired state at the time; returns the known revision, and when it was read.
fn after(
    known: Assignment,
    desired: &Desired,
    revision: i64,
    sent: Option<u64>,
    now: u64,
) -> (i64, AssignedRole, Boottime) {
    let source = DesiredSource {
        revision: Revision(revision),
        sent: sent.map(at),
    };
    let found = assignment(desired, source, Some(known), at(now)).unwrap();
    (found.revision.0, found.role, found.read)
}

#[test]
fn an_older_read_or_event_does_not_bring_back_a_role() {
    let master = || assigned(AssignedRole::Master, 100);
    let stopped = AssignedRole::Nothing("no db is assigned to this keeper");
    let (new, old) = ((8, stopped.clone(), at(100)), (7, AssignedRole::Master, at(100)));
    // An event counts if it is newer, and is no read.
    assert_eq!(after(master(), &stop(), 8, None, 110), new);
    assert_eq!(after(master(), &stop(), 7, None, 110), old);
    assert_eq!(after(master(), &stop(), 6, None, 110), old);
    // A read that was sent before the known state was recorded may be older; a later one is not, even of a new store.
    assert_eq!(after(master(), &stop(), 6, Some(99), 110), old);
    assert_eq!(after(master(), &stop(), 6, Some(101), 110), (6, stopped, at(101)));
    // A store that does not answer changes nothing.
    assert_eq!(after(master(), &unavailable(), 0, Some(101), 110), old);
}
