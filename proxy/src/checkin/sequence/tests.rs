//! The order of the steps, by the rules of fencing F-1, F-2 and proxy P-3: whole check-ins against a scripted store.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use store::{Entry, Revision, StoreError};

use super::*;
use crate::checkin::resolve::network_facts;

const SENT_AT: Boottime = Boottime::from_nanos(1_000);
const READ_AT: Boottime = Boottime::from_nanos(500);

/// Returns cluster data that name the master at this address, for the proxy `me` and with this generation.
fn data(host: &str, generation: i64, enabled: &str) -> String {
    format!(
        r#"{{"formatVersion":1,"changeTime":"2026-01-01T00:00:00Z",
            "cluster":{{"uid":"c","generation":1,"changeTime":"2026-01-01T00:00:00Z",
                "spec":{{"initMode":"new","proxyTimeout":"15s"}},"status":{{"phase":"normal","master":"db1"}}}},
            "keepers":{{}},
            "dbs":{{"db1":{{"uid":"db1","generation":1,"changeTime":"0001-01-01T00:00:00Z",
                "spec":{{"keeperUID":"k1","requestTimeout":"10s"}},
                "status":{{"healthy":true,"listenAddress":"{host}","port":"5432"}}}}}},
            "proxy":{{"generation":{generation},"changeTime":"0001-01-01T00:00:00Z",
                "spec":{{"masterDbUid":"db1","enabledProxies":["{enabled}"]}},"status":{{}}}}}}"#
    )
}

fn master_a() -> String {
    data("10.0.0.1", 7, "me")
}

fn master_b() -> String {
    data("10.0.0.2", 9, "me")
}

fn no_master() -> String {
    master_a()
        .replace(r#""masterDbUid":"db1""#, r#""masterDbUid":"""#)
        .replace(r#""generation":7"#, r#""generation":8"#)
}

/// Returns these cluster data at a revision that is their proxy generation, to recognize them by.
fn document(text: Option<&str>, read_at: Option<Boottime>) -> Document {
    let entry = text.map(|text| {
        let generation = text.split(r#""proxy":{"generation":"#).nth(1).unwrap_or("1,");
        let revision = Revision(generation.split(',').next().unwrap().parse().unwrap());
        Entry {
            key: "clusterdata".to_owned(),
            value: text.as_bytes().to_vec(),
            mod_revision: revision,
            create_revision: revision,
            lease: None,
        }
    });
    match read_at {
        Some(read_at) => Document::read(entry, read_at),
        None => Document::from_entry(entry),
    }
}

/// A check-in: where it starts, and what the store and the clocks answer.
struct Case {
    cached: Option<Document>,
    open: Option<OpenEndpoint>,
    applied: Option<CheckInTiming>,
    /// What is read, if anything is.
    stored: Option<String>,
    /// The responses to publishing. After them, it succeeds.
    answers: VecDeque<Result<PublishOutcome, CheckInError>>,
    /// The number of the comparison at which the clocks have jumped.
    jump: Option<usize>,
}

impl Case {
    /// Clients are forwarded to A, which is the master in the cached cluster data.
    fn forwarding() -> Self {
        Self {
            cached: Some(document(Some(&master_a()), None)),
            open: Some(OpenEndpoint {
                endpoint: Some(MasterEndpoint {
                    host: "10.0.0.1".to_owned(),
                    port: 5432,
                }),
                address: ([10, 0, 0, 1], 5432).into(),
            }),
            applied: Some(CheckInTiming::default()),
            stored: Some(master_a()),
            answers: VecDeque::new(),
            jump: None,
        }
    }

    /// The first check-in of a proxy.
    fn first(stored: Option<String>) -> Self {
        Self {
            cached: None,
            open: None,
            applied: None,
            stored,
            ..Self::forwarding()
        }
    }

    fn answering(mut self, answers: impl IntoIterator<Item = Result<PublishOutcome, CheckInError>>) -> Self {
        self.answers = answers.into_iter().collect();
        self
    }
}

fn changed_to(text: &str) -> Result<PublishOutcome, CheckInError> {
    Ok(PublishOutcome::Changed(document(Some(text), None)))
}

fn unanswered() -> Result<PublishOutcome, CheckInError> {
    let source = None;
    let (request, limit) = ("write".to_owned(), Duration::from_secs(1));
    Err(StoreError::Unanswered { request, limit, source }.into())
}

/// Runs the check-in, and returns its steps and its end, with the revision that the next one may decide on.
fn run(case: Case) -> String {
    let mut case = case;
    let (mut compared, mut steps) = (0, Vec::new());
    let mut sequence = CheckInSequence::new(
        ProxyUid::from("me"),
        "clusterdata".to_owned(),
        case.applied,
        case.open.take(),
        case.cached.take(),
    );
    let mut perform = |sequence: &mut CheckInSequence| -> Result<CheckInResult, CheckInError> {
        loop {
            let step = sequence.next_step();
            steps.push(name(&step));
            match step {
                CheckInStep::CompareClocks => {
                    compared += 1;
                    sequence.clocks_compared(case.jump == Some(compared))?;
                }
                CheckInStep::Read => sequence.read(document(case.stored.as_deref(), Some(READ_AT)))?,
                CheckInStep::Resolve(master) => {
                    let address = master.map(|(_, endpoint)| {
                        let host = endpoint.host.replace("name-of-", "10.0.0.");
                        SocketAddr::new(host.parse().unwrap(), endpoint.port)
                    });
                    let network = network_facts(([127, 0, 0, 1], 5432).into(), address);
                    sequence.resolved(&network, address.map(MasterAddress::Confirmed));
                }
                CheckInStep::Publish(_) => {
                    let published = Ok(PublishOutcome::Published(SENT_AT));
                    if sequence
                        .published(case.answers.pop_front().unwrap_or(published))?
                        .is_some()
                    {
                        steps.push("failed".to_owned());
                    }
                }
                CheckInStep::Done(result) => return Ok(result),
                _ => {}
            }
        }
    };
    let result = perform(&mut sequence);
    if let Err(err) = result {
        steps.push(err.to_string());
    }
    match sequence.into_reusable() {
        Some(document) => steps.push(format!("keep {}", document.revision.0)),
        None => steps.push("read next".to_owned()),
    }
    steps.join("; ")
}

fn name(step: &CheckInStep) -> String {
    match step {
        CheckInStep::CompareClocks => "clocks".to_owned(),
        CheckInStep::Read => "read".to_owned(),
        CheckInStep::Listen(_) => "listen".to_owned(),
        CheckInStep::StopForwarding => "STOP".to_owned(),
        CheckInStep::Resolve(_) => "resolve".to_owned(),
        CheckInStep::DiscardRequests => "discard".to_owned(),
        CheckInStep::EndMasterChange => "end change".to_owned(),
        CheckInStep::ReadKeepersWithData => "keepers".to_owned(),
        CheckInStep::Report(_) => "report".to_owned(),
        CheckInStep::Publish(content) => format!("publish {}", content.generation),
        CheckInStep::Open(granted) => {
            let start = if granted.lease_start == SENT_AT { "sent" } else { "read" };
            match &granted.route {
                Route::Open { master, .. } => format!("open {} since {start}", master.ip()),
                Route::Closed(_) => format!("closed since {start}"),
            }
        }
        CheckInStep::Done(result) => format!("{result:?}"),
    }
}

fn check(case: Case, expected: &str) {
    assert_eq!(run(case), expected);
}

#[test]
fn unchanged_cluster_data_are_published_without_being_read() {
    check(
        Case::forwarding(),
        "clocks; resolve; report; publish 7; clocks; open 10.0.0.1 since sent; Good; keep 7",
    );
}

#[test]
fn the_first_check_in_reads_listens_and_publishes_before_it_opens() {
    check(
        Case::first(Some(master_a())),
        "clocks; read; listen; resolve; report; publish 7; clocks; open 10.0.0.1 since sent; Good; keep 7",
    );
}

// fencing F-1
#[test]
fn forwarding_stops_before_the_newer_generation_is_published() {
    check(
        Case::forwarding().answering([changed_to(&no_master())]),
        "clocks; resolve; report; publish 7; \
         clocks; resolve; STOP; report; publish 8; clocks; closed since sent; Good; keep 8",
    );
    check(
        Case::forwarding().answering([changed_to(&master_b())]),
        "clocks; resolve; report; publish 7; \
         clocks; resolve; STOP; report; publish 9; clocks; open 10.0.0.2 since sent; Good; keep 9",
    );
}

// proxy P-6
#[test]
fn a_master_with_another_name_stops_forwarding_before_the_name_is_looked_up() {
    check(
        Case {
            cached: Some(document(Some(&data("name-of-2", 9, "me")), None)),
            ..Case::forwarding()
        },
        "clocks; STOP; resolve; report; publish 9; clocks; open 10.0.0.2 since sent; Good; keep 9",
    );
}

#[test]
fn a_proxy_that_is_not_enabled_stops_and_publishes() {
    check(
        Case {
            cached: Some(document(Some(&data("10.0.0.1", 7, "other")), None)),
            ..Case::forwarding()
        },
        "clocks; resolve; STOP; report; publish 7; clocks; closed since sent; Good; keep 7",
    );
}

// fencing F-2: answers that are still missing are ignored when nothing is announced
#[test]
fn a_decision_that_publishes_nothing_discards_requests_and_rests_on_a_read() {
    check(
        Case {
            cached: Some(document(None, None)),
            stored: None,
            ..Case::forwarding()
        },
        "clocks; resolve; STOP; discard; end change; keepers; report; \
         clocks; read; listen; resolve; discard; end change; keepers; report; clocks; closed since read; Good; read next",
    );
}

#[test]
fn data_that_must_not_be_used_stop_forwarding_and_renew_nothing() {
    let unusable = master_a().replace(r#""formatVersion":1"#, r#""formatVersion":2"#);
    check(
        Case {
            cached: None,
            stored: Some(unusable),
            ..Case::forwarding()
        },
        "clocks; read; listen; resolve; STOP; discard; end change; report; Unusable; read next",
    );
}

// proxy P-3: the route stays until its lease ends
#[test]
fn data_that_cannot_be_decoded_and_a_silent_store_leave_the_route_alone() {
    check(
        Case::forwarding().answering([changed_to("no document")]),
        "clocks; resolve; report; publish 7; clocks; decode clusterdata; read next",
    );
    let steps = run(Case::forwarding().answering([unanswered()]));
    assert!(steps.starts_with("clocks; resolve; report; publish 7; "), "{steps}");
    assert!(steps.ends_with("; keep 7") && !steps.contains("STOP"), "{steps}");
}

// proxy P-3
#[test]
fn without_a_master_a_failure_to_publish_is_only_logged() {
    check(
        Case::first(Some(no_master())).answering([unanswered()]),
        "clocks; read; listen; resolve; report; publish 8; failed; clocks; closed since read; Good; keep 8",
    );
    check(
        Case {
            cached: Some(document(Some(&no_master()), None)),
            stored: Some(no_master()),
            ..Case::forwarding()
        }
        .answering([unanswered()]),
        "clocks; resolve; STOP; report; publish 8; \
         clocks; read; listen; resolve; report; publish 8; clocks; closed since sent; Good; keep 8",
    );
}

// fencing section 1
#[test]
fn a_jump_before_the_decision_closes_and_one_after_publishing_fails_the_check_in() {
    let jump_at = |jump| Case {
        jump: Some(jump),
        cached: Some(document(Some(&master_b()), None)),
        ..Case::forwarding()
    };
    // The route is closed by the comparison, so there is nothing left to stop.
    check(
        jump_at(1),
        "clocks; resolve; report; publish 9; clocks; open 10.0.0.2 since sent; Good; keep 9",
    );
    check(
        jump_at(2),
        "clocks; resolve; STOP; report; publish 9; clocks; the wall clock jumped during the check-in; read next",
    );
}

// fencing F-2
#[test]
fn the_greater_of_the_old_and_the_new_timeout_is_published_and_the_new_one_granted() {
    for (applied, published) in [(None, 15), (Some(3), 15), (Some(60), 60)] {
        let applied = applied.map(|seconds| CheckInTiming {
            timeout: Duration::from_secs(seconds),
            ..CheckInTiming::default()
        });
        let mut sequence = CheckInSequence::new(
            ProxyUid::from("me"),
            "clusterdata".to_owned(),
            applied,
            None,
            Some(document(Some(&master_a()), None)),
        );
        let (mut timeouts, address) = (Vec::new(), ([10, 0, 0, 1], 5432).into());
        loop {
            match sequence.next_step() {
                CheckInStep::CompareClocks => sequence.clocks_compared(false).unwrap(),
                CheckInStep::Resolve(_) => sequence.resolved(
                    &network_facts(([127, 0, 0, 1], 5432).into(), Some(address)),
                    Some(MasterAddress::Confirmed(address)),
                ),
                CheckInStep::Publish(content) => {
                    timeouts.push(content.timeout.as_secs());
                    sequence.published(Ok(PublishOutcome::Published(SENT_AT))).unwrap();
                }
                CheckInStep::Open(granted) => timeouts.push(granted.timeout.as_secs()),
                CheckInStep::Done(_) => break,
                _ => {}
            }
        }
        assert_eq!(timeouts, [published, 15]);
    }
}
