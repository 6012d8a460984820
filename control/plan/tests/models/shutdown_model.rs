//! An exhaustive model of orderly shutdowns, switchovers and elections (extensions, sentinel C-12, keeper I20):
//! keepers that are killed, shut down, paused and started again, requests that arrive late, infos that expire, and
//! sentinels that read, decide and write with any delay in between. Every order of the steps of all processes is
//! explored, within small bounds.
//!
//! The claims are the negations of `state::Violation`: no acknowledged write is lost by an election after an orderly
//! shutdown, nor by electing a former master, except for what sentinel C-12 discards; a failed master loses at most
//! what no other db had received; no instance starts as master without being the master; no election takes place over a
//! master that is back; no order stops a master under its clients; a request for a switchover replaces only the master
//! that it was made for, and none once it is gone. One case is allowed because the rules leave it open: a keeper that reported for failInterval
//! that its master is unhealthy, and was permitted to start it just before another one was elected.
//!
//! Not modelled, because other tests prove it or the claims do not need it: what proxies do to keep their lease
//! (`fencing_model`; here a route opens only to the master in the data, and a master is announced only while no route
//! is open); time (any keeper may be considered silent at any moment; its permit has expired by then, extensions
//! any request and any order may end at any moment; that a master counts as failed for the time of its order is
//! an event of its own); synchronous replication. Replication is asynchronous: a standby receives an entry at any time or
//! never.
//!
//! A sentinel's write needs leadership and the revision read (fencing F-7). So at most one of the plans of several
//! sentinels can be applied, and a plan is dropped when the next one is made. Without the guard two are kept. The put of
//! an order leaves the cluster data as they are: one that is late is kept beside the plans.

mod keepers;
mod sentinels;
mod state;
mod switchover_rows;
mod switchovers;
mod wal;

use std::collections::HashSet;

use state::{Event, ModelState, Next, Violation};

/// The rules that prevent lost writes: all of them, or all but some.
#[derive(Debug, Clone, Copy)]
struct Rules {
    without: &'static [Rule],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A keeper's put of its info is conditional on its own last known put (extensions ).
    ConditionalPuts,
    /// A put of `stopped` is never conditional on the absence of an info: that may be true again much later (extensions
    ///
    StoppedNeedsAnInfo,
    /// A start as master, and a promotion, need a permit (extensions ).
    Permit,
    /// A db with role master that is not the master is kept stopped (extensions, keeper I20).
    OldMasterStaysStopped,
    /// An election is conditional on the infos that it is based on (extensions ).
    ConditionalElections,
    /// An immediate election requires a clean stop (extensions ).
    CleanStop,
    /// And a standby that has received everything that the master wrote (extensions ).
    ReceivedAll,
    /// And is on the master's timeline (extensions, sentinel C-10).
    SameTimeline,
    /// A sentinel writes only as leader, and only on the revision that it has read (fencing F-7).
    LeaderGuard,
    /// Proxies are closed before a former master is elected (extensions, fencing F-6).
    ClosedFirst,
    /// A master that failed after it was announced is not treated like one that clients could not write to (extensions
    ///
    OnlyUnpublished,
    /// A former master is at most maxStandbyLag, which is 0 here, behind a failed one on its timeline that is converged
    /// (extensions ).
    LagAfterConvergence,
    /// The db in the proxy section counts as announced, whether or not a proxy is enabled (extensions ).
    NamedIsPublished,
    /// After the announcement, a former master is elected only while the record has little more than the promotion
    /// (sentinel C-12).
    OnlyLittle,
    /// The order of a switchover is accepted only while it exists (extensions ).
    AcceptNeedsOrder,
    /// And only for the master (extensions ).
    AcceptNeedsMaster,
    /// And only while no master is announced (extensions ).
    AcceptNeedsClosed,
    /// A keeper that has an order gets no permit (extensions ).
    PermitNeedsNoOrder,
    /// The stop is ordered only once no proxy forwards (extensions X-2, step 2).
    OrderOnceClosed,
    /// The put of an order depends on the request (extensions ).
    OrderOnRequest,
    /// And on the cluster data (extensions ).
    OrderOnData,
    /// And on the order that it replaces (extensions ).
    OrderOnOrder,
    /// A switchover begins only while no former master is left (extensions X-2, step 0).
    NoFormerMaster,
    /// The election of a switchover depends on its request (extensions X-2, step 5).
    SwitchOnRequest,
    /// And on its order (extensions X-2, step 5).
    SwitchOnOrder,
    /// And on the info of the old master's keeper (extensions, step 5).
    SwitchOnInfo,
    /// And deletes the request (extensions X-2, step 5).
    SwitchDeletesRequest,
    /// And the order (extensions X-2, step 5).
    SwitchDeletesOrder,
    /// Nobody else is elected while a request or an order exists (extensions ).
    NobodyElectedMeanwhile,
    /// While its keeper has an order, neither silence nor a stopped instance counts as an error (extensions ).
    OrderTimeIsNoError,
    /// Nor does a generation that is not applied (extensions ).
    OrderTimeIsNoDelay,
    /// No master is announced while a request or an order exists (extensions ).
    HeldMeanwhile,
    /// A master that its keeper is stopping on an order is not announced (extensions ).
    AnnounceNotStopping,
    /// Nor one that is leaving, stopped, or not reported running (extensions ).
    AnnounceOnlyRunning,
    /// The announcement after an order depends on the keeper's info (extensions ).
    AnnounceOnInfo,
}

impl Rules {
    fn has(self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }
}

/// How often each unlimited event may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bounds {
    /// Writes of clients.
    writes: u8,
    /// Crashes and signals.
    faults: u8,
    /// Masters considered failed for failInterval.
    failures_found: u8,
    /// Requests of keepers, and puts of orders, that time out and may still arrive.
    late_requests: u8,
    /// Infos that expire.
    expiries: u8,
    /// Times that the last proxy disappears.
    proxy_losses: u8,
    /// Requests for a switchover.
    switchovers: u8,
    /// Changes of the master's spec.
    spec_changes: u8,
}

impl<const KEEPERS: usize> ModelState<KEEPERS> {
    /// Returns all next states.
    fn next(&self, rules: Rules) -> Next<KEEPERS> {
        let mut next = Vec::new();
        for keeper in 0..KEEPERS {
            self.faults(keeper, &mut next);
            self.requests(keeper, rules, &mut next);
            self.reconcile_steps(keeper, rules, &mut next);
            self.replication(keeper, &mut next);
        }
        self.clients(&mut next);
        self.sentinels(rules, &mut next);
        next
    }
}

/// A sequence of events that leads to a violation.
struct Trace {
    violation: Violation,
    events: Vec<Event>,
}

/// Explores every reachable state. Returns their number, or the shortest trace to a violation that `matches`. Other
/// violations are ignored.
fn explore<const KEEPERS: usize>(
    rules: Rules,
    start: ModelState<KEEPERS>,
    matches: impl Fn(Violation) -> bool,
) -> Result<usize, Trace> {
    let mut known = HashSet::from([start]);
    let mut states = vec![(start, ("", 0), 0)];
    let mut at = 0;
    while at < states.len() {
        let state = states[at].0;
        for (event, mut after) in state.next(rules) {
            if let Some(violation) = after.violation.take().filter(|violation| matches(*violation)) {
                let mut events = vec![event];
                while at != 0 {
                    events.push(states[at].1);
                    at = states[at].2;
                }
                events.reverse();
                return Err(Trace { violation, events });
            }
            if known.insert(after) {
                states.push((after, event, at));
            }
        }
        at += 1;
    }
    Ok(states.len())
}

fn render(trace: &Trace) -> String {
    let lines = trace
        .events
        .iter()
        .map(|(what, keeper)| format!("\n  keeper {keeper} {what}"));
    format!("{:?}:{}", trace.violation, lines.collect::<String>())
}

fn holds<const KEEPERS: usize>(start: ModelState<KEEPERS>) {
    holds_without(&[], start);
}

/// Checks that the claims hold also without these rules: others cover them.
fn holds_without<const KEEPERS: usize>(without: &'static [Rule], start: ModelState<KEEPERS>) {
    let bounds = start.left;
    match explore(Rules { without }, start, |_| true) {
        Ok(states) => eprintln!("holds without {without:?} in all of {states} states of {KEEPERS} keepers, {bounds:?}"),
        Err(trace) => panic!("without {without:?} there is {}", render(&trace)),
    }
}

/// Checks that a violation is found without these rules.
fn is_needed<const KEEPERS: usize>(without: &'static [Rule], start: ModelState<KEEPERS>, expected: Violation) {
    match explore(Rules { without }, start, |violation| violation == expected) {
        Ok(states) => panic!("without {without:?} no {expected:?} is found in all of {states} states"),
        Err(trace) => eprintln!("without {without:?} there is {}", render(&trace)),
    }
}

const ONE_WRITE: Bounds = Bounds {
    writes: 1,
    faults: 0,
    failures_found: 0,
    late_requests: 0,
    expiries: 0,
    proxy_losses: 0,
    switchovers: 0,
    spec_changes: 0,
};

#[test]
fn an_orderly_shutdown_loses_nothing_with_crashes_and_late_requests() {
    holds(ModelState::<2>::start(Bounds {
        faults: 2,
        late_requests: 1,
        ..ONE_WRITE
    }));
}

#[test]
fn an_orderly_shutdown_loses_nothing_when_infos_expire() {
    holds(ModelState::<2>::start(Bounds {
        faults: 1,
        late_requests: 1,
        expiries: 2,
        ..ONE_WRITE
    }));
}

#[test]
fn an_orderly_shutdown_loses_nothing_with_three_keepers() {
    holds(ModelState::<3>::start(Bounds {
        writes: 2,
        faults: 1,
        ..ONE_WRITE
    }));
}

#[test]
fn orderly_shutdowns_with_failures_lose_only_what_a_failure_may() {
    holds(ModelState::<2>::start(Bounds {
        faults: 1,
        failures_found: 1,
        late_requests: 1,
        ..ONE_WRITE
    }));
}

#[test]
fn electing_a_former_master_discards_no_more_than_allowed() {
    holds(ModelState::<2>::start(Bounds {
        failures_found: 3,
        proxy_losses: 1,
        ..ONE_WRITE
    }));
    holds(ModelState::<2>::after_fallback(Bounds {
        faults: 1,
        failures_found: 1,
        proxy_losses: 1,
        ..ONE_WRITE
    }));
}

#[test]
#[ignore = "takes ten minutes and gigabytes, optimised; to be run when a rule changes"]
fn all_claims_hold_in_larger_bounds() {
    let starts = [
        Bounds {
            faults: 2,
            failures_found: 2,
            ..ONE_WRITE
        },
        Bounds {
            faults: 1,
            failures_found: 2,
            late_requests: 1,
            ..ONE_WRITE
        },
        Bounds {
            writes: 2,
            faults: 2,
            failures_found: 1,
            ..ONE_WRITE
        },
        Bounds {
            faults: 2,
            late_requests: 1,
            expiries: 2,
            ..ONE_WRITE
        },
    ];
    for bounds in starts {
        holds(ModelState::<2>::start(bounds));
    }
    holds(ModelState::<2>::after_fallback(Bounds {
        writes: 2,
        faults: 1,
        failures_found: 2,
        proxy_losses: 1,
        ..ONE_WRITE
    }));
    holds(ModelState::<3>::start(Bounds {
        faults: 1,
        failures_found: 1,
        ..ONE_WRITE
    }));
    holds(ModelState::<3>::start(Bounds {
        failures_found: 2,
        ..ONE_WRITE
    }));
}

#[test]
fn without_conditional_puts_a_late_shutdown_info_replaces_a_master_that_is_back() {
    // extensions
    let bounds = Bounds {
        faults: 1,
        late_requests: 1,
        ..ONE_WRITE
    };
    is_needed(
        &[Rule::ConditionalPuts],
        ModelState::<2>::start(bounds),
        Violation::LostByElection,
    );
}

#[test]
fn a_shutdown_info_conditional_on_no_info_arrives_when_there_is_none_again() {
    // extensions
    let bounds = Bounds {
        faults: 1,
        late_requests: 1,
        expiries: 2,
        ..ONE_WRITE
    };
    is_needed(
        &[Rule::StoppedNeedsAnInfo],
        ModelState::<2>::start(bounds),
        Violation::LostByElection,
    );
}

#[test]
fn without_a_permit_a_paused_keeper_starts_a_master_that_was_replaced() {
    // extensions; after an orderly shutdown the new boot uuid has to be recorded first, which protects as well
    // (keeper R10)
    let bounds = Bounds {
        faults: 1,
        failures_found: 1,
        ..ONE_WRITE
    };
    is_needed(
        &[Rule::Permit],
        ModelState::<2>::start(bounds),
        Violation::StartedWithoutBeingMaster,
    );
}

#[test]
fn an_old_master_that_is_not_kept_stopped_goes_on_acknowledging() {
    // extensions, keeper I20
    let bounds = Bounds { faults: 1, ..ONE_WRITE };
    let start = ModelState::<2>::start(bounds);
    is_needed(
        &[Rule::OldMasterStaysStopped],
        start,
        Violation::StartedWithoutBeingMaster,
    );
    is_needed(
        &[Rule::OldMasterStaysStopped],
        start,
        Violation::AcknowledgedAfterElection,
    );
}

#[test]
fn an_unconditional_election_misses_the_old_masters_new_info() {
    // extensions
    let bounds = Bounds {
        faults: 1,
        failures_found: 1,
        ..ONE_WRITE
    };
    let start = ModelState::<2>::start(bounds);
    is_needed(&[Rule::ConditionalElections], start, Violation::ElectedOnStaleInfo);
    is_needed(
        &[Rule::ConditionalElections],
        start,
        Violation::StartedWithoutBeingMaster,
    );
}

#[test]
fn an_orderly_shutdown_counts_only_after_a_clean_stop_and_for_standbys_with_all_wal() {
    // extensions
    let bounds = Bounds { faults: 2, ..ONE_WRITE };
    let start = ModelState::<2>::start(bounds);
    is_needed(&[Rule::CleanStop], start, Violation::LostByElection);
    is_needed(&[Rule::ReceivedAll], start, Violation::LostByElection);
}

#[test]
fn a_position_on_another_timeline_does_not_count() {
    // extensions
    let bounds = Bounds { faults: 1, ..ONE_WRITE };
    is_needed(
        &[Rule::SameTimeline],
        ModelState::<3>::standby_of_old_timeline(bounds),
        Violation::LostByElection,
    );
}

#[test]
fn without_the_leader_guard_a_deposed_sentinel_overwrites_later_decisions() {
    // fencing F-7
    let bounds = Bounds {
        faults: 1,
        failures_found: 1,
        ..ONE_WRITE
    };
    is_needed(
        &[Rule::LeaderGuard],
        ModelState::<2>::start(bounds),
        Violation::ForwardedToAnother,
    );
}

#[test]
fn a_former_master_is_elected_only_while_no_client_writes_to_the_current_one() {
    // extensions, fencing F-6
    let bounds = Bounds {
        failures_found: 2,
        ..ONE_WRITE
    };
    is_needed(
        &[Rule::ClosedFirst],
        ModelState::<2>::start(bounds),
        Violation::AcknowledgedAfterElection,
    );
    // sentinel C-12
    is_needed(
        &[Rule::OnlyLittle],
        ModelState::<2>::start(bounds),
        Violation::LostByElection,
    );
    let bounds = Bounds {
        failures_found: 1,
        proxy_losses: 1,
        ..ONE_WRITE
    };
    is_needed(
        &[Rule::OnlyUnpublished],
        ModelState::<2>::after_fallback(bounds),
        Violation::LostByElection,
    );
    is_needed(
        &[Rule::NamedIsPublished],
        ModelState::<2>::after_fallback(bounds),
        Violation::LostByElection,
    );
}
