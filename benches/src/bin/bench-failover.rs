//! Starts a cluster, causes a failure, and measures the gap that clients see.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use benches::failover::{FailoverOutcome, FailureEvent, Scenario, StoreDelay, median, run};
use benches::interruption::until_signal;
use benches::random_faults::{self, RandomOptions};
use benches::rejoin;
use benches::slow_store;
use clap::{Parser, ValueEnum};
use model::GoDuration;
use serde_json::{Value, json};
use stolon_tests::cluster::Profile;

/// Measure what clients see when a part of the cluster fails
///
/// Each run starts its own cluster (etcd, two sentinels, keepers, a proxy) and 8 clients that insert rows through the
/// proxy without pause, one row per commit; it causes one event and waits until all clients are served again.
#[derive(Debug, Parser)]
struct Args {
    /// Event to cause (default: all, one after the other)
    #[arg(long = "event", value_enum)]
    events: Vec<EventName>,
    /// Intervals of the cluster (default: default and fast)
    #[arg(long = "profile", value_enum)]
    profiles: Vec<ProfileName>,
    /// Runs of each event; the table shows medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Number of sentinels
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    sentinels: u8,
    /// Delay of everything the store sends, over three endpoints (for example 1.4s)
    #[arg(long, value_parser = duration, conflicts_with = "slow_endpoint")]
    store_delay: Option<Duration>,
    /// Delay of what one of the store's three endpoints sends
    #[arg(long, value_parser = duration)]
    slow_endpoint: Option<Duration>,
    /// Time to observe a cluster with the event 'nothing'
    #[arg(long, value_parser = duration, default_value = "5m")]
    watched_for: Duration,
    /// Measure the seven slow-store scenarios instead, and fail when one exceeds its limit
    #[arg(long, conflicts_with_all = ["events", "profiles", "store_delay", "slow_endpoint"])]
    slow_store: bool,
    /// Measure only this slow-store scenario (1 to 7)
    #[arg(long, requires = "slow_store", value_parser = clap::value_parser!(u8).range(1..=7))]
    row: Option<u8>,
    /// Measure instead how long an old master with diverged data takes to come back, with pg_rewind and with a copy, and
    /// fail when pg_rewind exceeds its limit
    #[arg(long, conflicts_with_all = ["events", "profiles", "store_delay", "slow_endpoint", "slow_store"])]
    rejoin: bool,
    /// Size of the database of --rejoin
    #[arg(long, requires = "rejoin", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rejoin_mib: u32,
    /// Number of keepers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8))]
    keepers: u8,
    /// Replicate synchronously: minimum and maximum of synchronous standbys are 1
    #[arg(long)]
    sync: bool,
    /// Minimum of synchronous standbys
    #[arg(long, requires = "sync", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=1))]
    sync_min: u16,
    /// Number of faults of the event 'random'
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    faults: u32,
    /// Seed of the event 'random' (default: a new one, which is printed)
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures of every run to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Args {
    /// Returns minimum and maximum of synchronous standbys.
    fn synchronous(&self) -> Option<(u16, u16)> {
        self.sync.then_some((self.sync_min, 1))
    }

    fn random_options(&self) -> RandomOptions {
        RandomOptions {
            faults: usize::try_from(self.faults).unwrap_or(usize::MAX),
            keepers: usize::from(self.keepers),
            sentinels: usize::from(self.sentinels),
            synchronous: self.synchronous(),
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EventName {
    /// SIGKILL of the master's keeper and of every process of its PostgreSQL
    Kill9,
    /// SIGTERM of the master's keeper
    Term,
    /// SIGKILL of the master's postmaster
    Pgkill,
    /// SIGSTOP of the master's keeper and of every process of its PostgreSQL
    Freeze,
    /// SIGKILL of the leading sentinel, and a second later kill9
    Brain,
    /// etcd away for half of the proxy timeout
    StoreHalf,
    /// etcd away for twice the proxy timeout
    StoreDouble,
    /// SIGTERM of the synchronous standby's keeper (needs --sync and three keepers)
    StandbyTerm,
    /// SIGKILL of the synchronous standby's keeper and of every process of its PostgreSQL (needs --sync and three keepers)
    StandbyKill9,
    /// No event, for --watched-for
    Nothing,
    /// --faults random ones in one cluster (fast profile, two proxies); every acknowledged row is looked up at the end
    Random,
}

impl EventName {
    /// Returns the event; `None` for the random ones.
    fn event(self) -> Option<FailureEvent> {
        Some(match self {
            EventName::Kill9 => FailureEvent::Kill9,
            EventName::Term => FailureEvent::Term,
            EventName::Pgkill => FailureEvent::Pgkill,
            EventName::Freeze => FailureEvent::Freeze,
            EventName::Brain => FailureEvent::Brain,
            EventName::StoreHalf => FailureEvent::StoreHalf,
            EventName::StoreDouble => FailureEvent::StoreDouble,
            EventName::StandbyTerm => FailureEvent::StandbyTerm,
            EventName::StandbyKill9 => FailureEvent::StandbyKill9,
            EventName::Nothing => FailureEvent::Nothing,
            EventName::Random => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    /// The defaults: failInterval 20s
    Default,
    /// sleepInterval 1s, requestTimeout 2s, failInterval 4s, proxyCheckInterval 1s, proxyTimeout 3s
    Fast,
    /// sleepInterval 1s, failInterval 5s
    Short,
}

impl ProfileName {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fast => "fast",
            Self::Short => "short",
        }
    }

    fn profile(self) -> Profile {
        match self {
            Self::Default => Profile::Default,
            Self::Fast => Profile::Fast,
            Self::Short => Profile::Short,
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    until_signal(measure(Args::parse())).await
}

async fn measure(args: Args) -> anyhow::Result<()> {
    if args.slow_store {
        return slow_store::measure(args.row, args.runs).await;
    }
    if let [EventName::Random] = args.events.as_slice() {
        return random_faults::measure(args.random_options()).await;
    }
    if args.rejoin {
        return rejoin::measure(args.rejoin_mib, args.runs).await;
    }
    let events: Vec<FailureEvent> = match args.events.as_slice() {
        [] => FailureEvent::ALL.to_vec(),
        some => some
            .iter()
            .map(|name| name.event().context("'random' is measured alone"))
            .collect::<anyhow::Result<_>>()?,
    };
    let needs_standby = events.iter().find(|event| event.needs_synchronous_standby());
    if let Some(event) = needs_standby.filter(|_| !args.sync || args.keepers < 3) {
        bail!("the event '{event}' needs a synchronous standby and one that takes its place: --sync --keepers 3");
    }
    let profiles = match args.profiles.as_slice() {
        [] => vec![ProfileName::Default, ProfileName::Fast],
        some => some.to_vec(),
    };
    if args
        .synchronous()
        .is_some_and(|(min, _)| min + 1 >= u16::from(args.keepers))
    {
        println!(
            "With {} keepers and a minimum of {} synchronous standbys commits wait while one keeper is away: after a \
             failover the old master is started as soon as another one is announced, and the gap ends when it follows.",
            args.keepers, args.sync_min
        );
    }
    let mut runs = Vec::new();
    let mut table = vec![HEADER.to_owned(), RULE.to_owned()];
    for profile in profiles {
        for event in &events {
            let mut outcomes = Vec::new();
            for number in 1..=args.runs {
                let setting = Scenario {
                    profile: profile.profile(),
                    proxy_intervals: None,
                    sentinels: usize::from(args.sentinels),
                    keepers: usize::from(args.keepers),
                    synchronous: args.synchronous(),
                    store: match (args.store_delay, args.slow_endpoint) {
                        (Some(delay), _) => StoreDelay::All(delay),
                        (None, Some(delay)) => StoreDelay::One(delay),
                        (None, None) => StoreDelay::Direct,
                    },
                    observe_for: args.watched_for,
                };
                let outcome = Box::pin(run(*event, setting))
                    .await
                    .with_context(|| format!("{event}, {}, run {number}", profile.name()))?;
                eprintln!(
                    "{event} {} {number}/{}: {}",
                    profile.name(),
                    args.runs,
                    one_line(&outcome)
                );
                runs.push(as_json(*event, profile, &outcome));
                outcomes.push(outcome);
            }
            table.push(row(*event, profile, &outcomes));
        }
    }
    println!("{}", table.join("\n"));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&runs).context("write JSON")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Parses a duration as in a spec: "1.4s", "5m".
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: GoDuration = text.parse().map_err(|error| format!("{error}"))?;
    let nanos = u64::try_from(parsed.as_nanos()).map_err(|_| "a duration is not negative".to_owned())?;
    Ok(Duration::from_nanos(nanos))
}

const HEADER: &str = "| event | profile | gap of the median client (s) | longest gap (s) | rows lost (all runs) \
                      | errors per run | etcd commit to first byte (ms) | after etcd's return (s) |";
const RULE: &str = "|---|---|---|---|---|---|---|---|";

/// Returns one line of the table: medians over the runs; of the longest gap the maximum, of the lost rows the sum.
fn row(event: FailureEvent, profile: ProfileName, outcomes: &[FailoverOutcome]) -> String {
    let over = |pick: &dyn Fn(&FailoverOutcome) -> Option<Duration>| {
        let mut picked: Vec<Duration> = outcomes.iter().filter_map(pick).collect();
        picked.sort_unstable();
        (!picked.is_empty()).then(|| median(&picked))
    };
    let seconds = |time: Option<Duration>| time.map_or("–".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
    let gap = over(&|outcome| Some(outcome.gap_median));
    let longest = outcomes.iter().map(|outcome| outcome.gap_longest).max();
    let lost: i64 = outcomes.iter().map(|outcome| outcome.rows_lost).sum();
    let mut errors: Vec<u64> = outcomes.iter().map(|outcome| outcome.errors.values().sum()).collect();
    errors.sort_unstable();
    let errors = errors
        .get(errors.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default();
    let first_byte = over(&|outcome| outcome.commit_to_byte);
    let first_byte = first_byte.map_or("–".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1000.0));
    let after_store = seconds(over(&|outcome| outcome.after_store));
    format!(
        "| {event} | {} | {} | {} | {lost} | {errors} | {first_byte} | {after_store} |",
        profile.name(),
        seconds(gap),
        seconds(longest)
    )
}

fn one_line(outcome: &FailoverOutcome) -> String {
    let mut line = format!(
        "gap {:.2} s (longest {:.2} s), {} of {} rows lost",
        outcome.gap_median.as_secs_f64(),
        outcome.gap_longest.as_secs_f64(),
        outcome.rows_lost,
        outcome.rows
    );
    if let Some(time) = outcome.commit_to_byte {
        line.push_str(&format!(", commit to first byte {:.1} ms", time.as_secs_f64() * 1000.0));
    }
    if let Some(time) = outcome.published {
        line.push_str(&format!(", another master announced after {:.2} s", time.as_secs_f64()));
    }
    if let Some(rate) = outcome.store_requests {
        line.push_str(&format!(", {rate:.1} requests/s to etcd"));
    }
    if let Some(time) = outcome.after_store {
        line.push_str(&format!(", {:.2} s after etcd's return", time.as_secs_f64()));
    }
    line.push_str(if outcome.failed_over {
        ", another master"
    } else {
        ", the same master"
    });
    let errors: Vec<String> = outcome
        .errors
        .iter()
        .map(|(text, times)| format!("{times} × {text}"))
        .collect();
    if !errors.is_empty() {
        line.push_str(&format!("; errors: {}", errors.join("; ")));
    }
    line
}

fn as_json(event: FailureEvent, profile: ProfileName, outcome: &FailoverOutcome) -> Value {
    let errors: BTreeMap<&str, u64> = outcome
        .errors
        .iter()
        .map(|(text, times)| (text.as_str(), *times))
        .collect();
    json!({
        "event": event.name(),
        "profile": profile.name(),
        "gap_median_seconds": outcome.gap_median.as_secs_f64(),
        "gap_longest_seconds": outcome.gap_longest.as_secs_f64(),
        "rows": outcome.rows,
        "rows_lost": outcome.rows_lost,
        "errors": errors,
        "failed_over": outcome.failed_over,
        "commit_to_first_byte_seconds": outcome.commit_to_byte.map(|time| time.as_secs_f64()),
        "published_seconds": outcome.published.map(|time| time.as_secs_f64()),
        "store_requests_per_second": outcome.store_requests,
        "leaderships_lost": outcome.leaderships_lost,
        "after_store_seconds": outcome.after_store.map(|time| time.as_secs_f64()),
    })
}
