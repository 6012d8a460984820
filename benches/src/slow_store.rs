//! Measurements on a slow store: how long a failover takes when the store answers late, and whether a healthy cluster
//! is disturbed. Each row has a limit.

use std::time::Duration;

use anyhow::{Context, ensure};
use stolon_tests::cluster::Profile;

use self::Limit::{Published, Undisturbed};
use crate::failover::StoreDelay::{All, One};
use crate::failover::{FailoverOutcome, FailureEvent, Scenario, StoreDelay, run};

/// One row: the delay of the store, and the limit.
struct Row {
    store: StoreDelay,
    profile: Profile,
    proxy_intervals: Option<(Duration, Duration)>,
    limit: Limit,
}

/// The limit of a row.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The master is killed: another one is announced at most this long after failInterval.
    Published(Duration),
    /// No event for this long: no client is disconnected, nothing fails over, no server is restarted.
    Undisturbed(Duration),
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[rustfmt::skip]
const ROWS: [Row; 7] = [
    row(One(millis(3000)), Profile::Default, None, Published(millis(2500))),
    row(One(millis(3000)), Profile::Short, None, Published(millis(2500))),
    row(All(millis(1100)), Profile::Short, None, Published(millis(12_000))),
    row(All(millis(1400)), Profile::Default, None, Published(millis(12_000))),
    row(All(millis(3000)), Profile::Default, None, Published(millis(30_000))),
    row(One(millis(6000)), Profile::Default, Some((millis(1000), millis(3000))), Undisturbed(millis(300_000))),
    row(All(millis(3000)), Profile::Default, None, Undisturbed(millis(600_000))),
];

const fn row(store: StoreDelay, profile: Profile, proxy_intervals: Option<(Duration, Duration)>, limit: Limit) -> Row {
    Row {
        store,
        profile,
        proxy_intervals,
        limit,
    }
}

/// Measures the rows, or one of them, and prints the table.
///
/// # Errors
///
/// A row exceeds its limit or cannot be measured.
pub async fn measure(only: Option<u8>, runs: u32) -> anyhow::Result<()> {
    let mut table = vec![
        "| row | store | timers | limit | measured | leadership lost | requests/s |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    let mut violations = Vec::new();
    for (number, row) in (1u8..).zip(&ROWS) {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let mut outcomes = Vec::new();
        for run in 1..=runs {
            let outcome = run_row(row).await.with_context(|| format!("row {number}, run {run}"))?;
            eprintln!("row {number}, run {run}: {}", row.measured(&outcome));
            violations.extend(
                row.violation(&outcome)
                    .map(|violation| format!("row {number}: {violation}")),
            );
            outcomes.push(outcome);
        }
        table.push(row.line(number, &outcomes));
    }
    println!("{}", table.join("\n"));
    ensure!(violations.is_empty(), "{}", violations.join("; "));
    Ok(())
}

async fn run_row(row: &Row) -> anyhow::Result<FailoverOutcome> {
    let (event, observe_for) = match row.limit {
        Limit::Published(_) => (FailureEvent::Kill9, Duration::ZERO),
        Limit::Undisturbed(time) => (FailureEvent::Nothing, time),
    };
    let setting = Scenario {
        profile: row.profile,
        proxy_intervals: row.proxy_intervals,
        sentinels: 1,
        keepers: 2,
        synchronous: None,
        store: row.store,
        observe_for,
    };
    Box::pin(run(event, setting)).await
}

impl Row {
    fn violation(&self, outcome: &FailoverOutcome) -> Option<String> {
        if outcome.leaderships_lost > 0 {
            return Some(format!("leadership was lost {} times", outcome.leaderships_lost));
        }
        match self.limit {
            Limit::Published(after) => {
                let limit = self.profile.fail_interval() + after;
                let late = outcome.published.is_none_or(|published| published > limit);
                late.then(|| format!("{:?} is longer than {limit:?}", outcome.published))
            }
            Limit::Undisturbed(_) => {
                let errors: u64 = outcome.errors.values().sum();
                let disturbed = errors > 0 || outcome.failed_over;
                disturbed.then(|| format!("{errors} errors of clients, another master: {}", outcome.failed_over))
            }
        }
    }

    fn measured(&self, outcome: &FailoverOutcome) -> String {
        match self.limit {
            Limit::Published(_) => outcome
                .published
                .map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64())),
            Limit::Undisturbed(_) => format!("{} clients disconnected", outcome.errors.values().sum::<u64>()),
        }
    }

    fn line(&self, number: u8, outcomes: &[FailoverOutcome]) -> String {
        let store = match self.store {
            StoreDelay::Direct => "direct".to_owned(),
            StoreDelay::All(delay) => format!("every response after {} s", delay.as_secs_f64()),
            StoreDelay::One(delay) => format!("one endpoint of three answers after {} s", delay.as_secs_f64()),
        };
        let timers = match (self.profile, self.proxy_intervals) {
            (_, Some(_)) => "proxyTimeout 3 s, proxyCheckInterval 1 s",
            (Profile::Short, None) => "sleepInterval 1 s, failInterval 5 s",
            _ => "default",
        };
        let limit = match self.limit {
            Limit::Published(after) => format!("failInterval + {} s", after.as_secs_f64()),
            Limit::Undisturbed(time) => format!("undisturbed for {} min", time.as_secs() / 60),
        };
        let measured: Vec<String> = outcomes.iter().map(|outcome| self.measured(outcome)).collect();
        let lost: usize = outcomes.iter().map(|outcome| outcome.leaderships_lost).sum();
        let rates: Vec<String> = outcomes
            .iter()
            .filter_map(|outcome| Some(format!("{:.1}", outcome.store_requests?)))
            .collect();
        format!(
            "| {number} | {store} | {timers} | {limit} | {} | {lost} | {} |",
            measured.join(", "),
            rates.join(", ")
        )
    }
}
