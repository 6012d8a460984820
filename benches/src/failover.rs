//! One failure of a cluster, and what its clients saw of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use control::clock::Boottime;
use control::model::ClusterData;
use control::store::{KeyRange, Watch};
use stolon_tests::cluster::{Cluster, LONG_TIMEOUT, Profile, error_text};
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::tcp_relay::{Direction, NetworkCondition};
use stolon_tests::wait::{eventually, now};
use stolon_tests::writers::{Writers, lost_rows};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The clients that insert without pause.
pub const CLIENTS: usize = 8;
/// How many more rows each client commits before the cluster counts as recovered.
const ROWS_WHEN_RECOVERED: i64 = 20;
/// PostgreSQL's request for TLS, which every server answers with one byte before anything else (manual 55.2.9).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureEvent {
    /// SIGKILL of the master's keeper and of every process of its PostgreSQL.
    Kill9,
    /// SIGTERM of the master's keeper.
    Term,
    /// SIGKILL of the master's postmaster only.
    Pgkill,
    /// SIGSTOP of the master's keeper and of every process of its PostgreSQL.
    Freeze,
    /// SIGKILL of the leading sentinel, and a second later as `Kill9`.
    Brain,
    /// etcd stopped for half of the proxy timeout.
    StoreHalf,
    /// etcd stopped for twice the proxy timeout.
    StoreDouble,
    /// Nothing happens.
    Nothing,
}

impl FailureEvent {
    /// All in which something happens.
    pub const ALL: [Self; 7] = [
        Self::Kill9,
        Self::Term,
        Self::Pgkill,
        Self::Freeze,
        Self::Brain,
        Self::StoreHalf,
        Self::StoreDouble,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill9 => "kill9",
            Self::Term => "term",
            Self::Pgkill => "pgkill",
            Self::Freeze => "freeze",
            Self::Brain => "brain",
            Self::StoreHalf => "store-half",
            Self::StoreDouble => "store-double",
            Self::Nothing => "nothing",
        }
    }

    /// Whether another master is what should come of it.
    fn fails_over(self) -> bool {
        matches!(self, Self::Kill9 | Self::Term | Self::Freeze | Self::Brain)
    }
}

impl fmt::Display for FailureEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cluster of a run, and how its programs reach the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// The intervals.
    pub profile: Profile,
    /// proxyCheckInterval and proxyTimeout, where they are others than the profile's.
    pub proxy_intervals: Option<(Duration, Duration)>,
    /// Sentinels of the cluster.
    pub sentinels: usize,
    /// Keepers of the cluster.
    pub keepers: usize,
    /// The delay of what the store sends.
    pub store: StoreDelay,
    /// How long the cluster is watched where nothing happens.
    pub observe_for: Duration,
}

/// How late the programs get what the store sends. It is delayed once the cluster stands, and what is sent meanwhile is
/// not held up: several requests may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreDelay {
    /// They reach etcd directly.
    Direct,
    /// Over three endpoints, all of them so late.
    All(Duration),
    /// Over three endpoints, one of them so late.
    One(Duration),
}

/// How long a cluster runs on a slow store before something happens to it.
const SLOW_STORE_WARM_UP: Duration = Duration::from_secs(20);

/// What one run gave.
#[derive(Debug, Clone)]
pub struct FailoverOutcome {
    /// From the event to the proxy section that names another master, as etcd has it.
    pub published: Option<Duration>,
    /// Requests a second that etcd was sent by all programs, where nothing happened.
    pub store_requests: Option<f64>,
    /// How often sentinels found that they do not lead any more.
    pub leaderships_lost: usize,
    /// The gap of the median client.
    pub gap_median: Duration,
    /// The longest gap of any client.
    pub gap_longest: Duration,
    /// Acknowledged rows that are not there afterwards.
    pub rows_lost: i64,
    /// Rows acknowledged in all.
    pub rows: i64,
    /// Errors that clients met, by text.
    pub errors: BTreeMap<String, u64>,
    /// Whether another master was elected.
    pub failed_over: bool,
    /// From the arrival of the proxy section that names the new master to the first byte through the proxy.
    pub commit_to_byte: Option<Duration>,
    /// From etcd's first answer after an outage to the first row of the last client that had been cut off.
    pub after_store: Option<Duration>,
}

/// Starts a cluster, lets the clients write, does the event, and measures until all clients are served again.
///
/// # Errors
///
/// The clients are not served before, or the rows cannot be counted afterwards.
///
/// # Panics
///
/// When the cluster does not come up or does not recover in time.
pub async fn run(event: FailureEvent, setting: Scenario) -> anyhow::Result<FailoverOutcome> {
    let profile = setting.profile;
    let mut cluster = start(setting).await;
    let through = cluster.sql_config("proxy0");
    Writers::create_table(&SqlClient::connect(&through).await?).await?;
    let writers = Writers::start(&through, CLIENTS);
    wait_rows(&writers, 100).await;
    let old_server = cluster.postmaster("keeper0").context("the master runs")?;
    slow_down(setting.store, &cluster).await;

    let watch = cluster
        .store
        .watch(vec![KeyRange::Key(cluster.store.keys().cluster_data())], None);
    let first_byte = FirstByteProbe::start(cluster.port("proxy0"));
    let errors_before: u64 = writers.stats().iter().flat_map(|met| met.errors.values()).sum();
    writers.reset_gaps();
    let began = now();
    let mut store_requests = None;
    let store_back = match event {
        FailureEvent::Nothing => {
            store_requests = Some(count_requests(&cluster, setting.observe_for).await?);
            None
        }
        event => cause(event, profile, &mut cluster).await,
    };

    let limit = profile.fail_interval() * 4 + LONG_TIMEOUT;
    let commit = if event.fails_over() {
        Some(wait_published(&watch, limit).await?)
    } else {
        None
    };
    if event == FailureEvent::Pgkill {
        eventually("another postmaster", limit, async || {
            cluster
                .postmaster("keeper0")
                .filter(|pid| *pid != old_server)
                .ok_or("none yet")
        })
        .await;
    }
    wait_rows(&writers, ROWS_WHEN_RECOVERED).await;
    let after_store = store_back.and_then(|back| {
        let first = writers
            .stats()
            .iter()
            .filter_map(|met| met.first_resumed_after(back))
            .max();
        first.map(|first| first.since(back))
    });
    let commit_to_byte = commit.and_then(|commit| first_byte.first_after(commit));

    let met = writers.stop();
    let mut gaps: Vec<Duration> = met.iter().map(|met| met.longest_gap).collect();
    gaps.sort_unstable();
    let mut errors = BTreeMap::new();
    for (text, times) in met.iter().flat_map(|met| &met.errors) {
        *errors.entry(text.clone()).or_default() += times;
    }
    let sql = cluster.connect("proxy0").await;
    let leaderships_lost = (0..setting.sentinels)
        .map(|number| cluster.process(&format!("sentinel{number}")).log())
        .map(|log| log.matches("sentinel leadership lost").count())
        .sum();
    let dropped = errors.values().sum::<u64>() - errors_before;
    if event == FailureEvent::Nothing {
        ensure!(
            cluster.postmaster("keeper0") == Some(old_server),
            "the server was started again"
        );
        eprintln!("{dropped} errors of clients while nothing happened");
    }
    Ok(FailoverOutcome {
        published: commit.map(|commit| commit.since(began)),
        store_requests,
        leaderships_lost,
        gap_median: median(&gaps),
        gap_longest: gaps.last().copied().unwrap_or_default(),
        rows_lost: lost_rows(&sql, &met).await?,
        rows: met.iter().map(stolon_tests::writers::WriterStats::rows).sum(),
        errors,
        failed_over: cluster.master().await? != "keeper0",
        commit_to_byte,
        after_store,
    })
}

async fn start(setting: Scenario) -> Cluster {
    let mut builder = Cluster::builder(setting.profile)
        .sentinels(setting.sentinels)
        .keepers(setting.keepers)
        .endpoints(if setting.store == StoreDelay::Direct { 0 } else { 3 });
    if let Some((check_interval, timeout)) = setting.proxy_intervals {
        builder = builder
            .with("proxyCheckInterval", format!("{}ms", check_interval.as_millis()))
            .with("proxyTimeout", format!("{}ms", timeout.as_millis()));
    }
    builder.start().await
}

async fn slow_down(store: StoreDelay, cluster: &Cluster) {
    let (delay, count) = match store {
        StoreDelay::Direct => return,
        StoreDelay::All(delay) => (delay, cluster.relays.len()),
        StoreDelay::One(delay) => (delay, 1),
    };
    for relay in cluster.relays.iter().take(count) {
        relay.set(Direction::ToClient, NetworkCondition::Delay(delay));
    }
    tokio::time::sleep(SLOW_STORE_WARM_UP).await;
}

/// Lets the cluster be, and counts what etcd is asked meanwhile.
async fn count_requests(cluster: &Cluster, time: Duration) -> anyhow::Result<f64> {
    let (before, began) = (requests_started(&cluster.etcd.address()).await?, now());
    tokio::time::sleep(time).await;
    let count = requests_started(&cluster.etcd.address()).await? - before;
    Ok(count / now().since(began).as_secs_f64())
}

/// The calls that etcd has begun to serve since its start, by its own metrics.
async fn requests_started(etcd: &str) -> anyhow::Result<f64> {
    let mut socket = TcpStream::connect(etcd).await?;
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let counters = answer
        .lines()
        .filter(|line| line.starts_with("grpc_server_started_total{"));
    let counts = counters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}

/// The middle one of sorted durations, the lower of two; zero when there are none.
pub fn median(sorted: &[Duration]) -> Duration {
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default()
}

/// Does it; gives when etcd answered again, where it was stopped.
async fn cause(event: FailureEvent, profile: Profile, cluster: &mut Cluster) -> Option<Boottime> {
    match event {
        FailureEvent::Kill9 => cluster.kill_keeper_and_postgres("keeper0"),
        FailureEvent::Term => cluster.process("keeper0").signal(Signal::TERM),
        FailureEvent::Pgkill => cluster.kill_postmaster("keeper0"),
        FailureEvent::Freeze => cluster.freeze("keeper0"),
        FailureEvent::Brain => {
            let leader = eventually("a leading sentinel", LONG_TIMEOUT, async || {
                cluster.leading_sentinel().await.map_err(error_text)
            })
            .await;
            cluster.process(&leader).kill();
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.kill_keeper_and_postgres("keeper0");
        }
        FailureEvent::StoreHalf | FailureEvent::StoreDouble => {
            let timeout = profile.proxy_timeout();
            // the fast profile's half is 1 s, the longest outage that costs no connection there
            let away = match (event, profile) {
                (FailureEvent::StoreDouble, _) => timeout * 2,
                (_, Profile::Fast) => Duration::from_secs(1),
                _ => timeout / 2,
            };
            let start = now();
            cluster.etcd.kill();
            // starting takes some of the time that it is to be away
            let remaining = away.saturating_sub(now().since(start) + Duration::from_millis(250));
            tokio::time::sleep(remaining).await;
            return Some(cluster.restart_etcd().await);
        }
        FailureEvent::Nothing => {}
    }
    None
}

/// Waits until every client has committed so many more rows.
async fn wait_rows(writers: &Writers, rows: i64) {
    let before: Vec<i64> = writers
        .stats()
        .iter()
        .map(stolon_tests::writers::WriterStats::rows)
        .collect();
    eventually("all clients to be served", LONG_TIMEOUT, async || {
        let met = writers.stats();
        let hungry = met
            .iter()
            .zip(&before)
            .filter(|(met, before)| met.rows() < *before + rows)
            .count();
        if hungry == 0 {
            Ok(())
        } else {
            Err(format!("{hungry} are not"))
        }
    })
    .await;
}

/// Waits for the proxy section that names another master than `keeper0`, and gives when it arrived.
async fn wait_published(watch: &Watch, limit: Duration) -> anyhow::Result<Boottime> {
    let arrived = async {
        loop {
            for change in watch.changed().await.keys.into_values() {
                let Some(entry) = change.entry else { continue };
                let Some(data) = ClusterData::parse(&entry.value)? else {
                    continue;
                };
                if data
                    .proxied_master()
                    .is_some_and(|(_, db)| db.spec.keeper_uid.as_str() != "keeper0")
                {
                    return anyhow::Ok(change.arrived);
                }
            }
        }
    };
    tokio::time::timeout(limit, arrived)
        .await
        .context("no other master is published")?
}

/// Knocks at the proxy all the time and notes when a server's byte came through.
struct FirstByteProbe {
    seen: std::sync::Arc<std::sync::Mutex<Vec<Boottime>>>,
    task: JoinHandle<()>,
}

impl FirstByteProbe {
    /// How many bytes are remembered: the newest.
    const REMEMBERED: usize = 100_000;

    fn start(port: u16) -> Self {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let seen = std::sync::Arc::clone(&seen);
            async move {
                loop {
                    let knock = tokio::time::timeout(Duration::from_millis(500), request_byte(port));
                    if let Ok(Ok(())) = knock.await {
                        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        if seen.len() == Self::REMEMBERED {
                            seen.drain(..Self::REMEMBERED / 2);
                        }
                        seen.push(now());
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        Self { seen, task }
    }

    /// From `commit` to the first byte after it.
    fn first_after(&self, commit: Boottime) -> Option<Duration> {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.iter().find(|at| **at >= commit).map(|at| at.since(commit))
    }
}

impl Drop for FirstByteProbe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn request_byte(port: u16) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    ensure!(socket.read(&mut answer).await? == 1, "closed");
    Ok(())
}
