//! Causes one failure in a cluster and measures its effect on clients.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use base::clock::Boottime;
use model::ClusterData;
use stolon_tests::cluster::{Cluster, Profile, error_text};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::tcp_relay::{Direction, NetworkCondition};
use stolon_tests::wait::{eventually, now};
use stolon_tests::writers::{WriterStats, Writers, lost_rows};
use store::{KeyRange, Watch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::http::get_metrics;

/// How many clients insert rows without pause.
pub const CLIENTS: usize = 8;
/// How many more rows each client commits before the cluster counts as recovered.
const ROWS_WHEN_RECOVERED: i64 = 20;
/// SSLRequest, which every server answers with one byte (PostgreSQL manual 55.2.10).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The failure.
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
    /// SIGKILL of the leading sentinel, and a second later `Kill9`.
    Brain,
    /// SIGTERM of the synchronous standby's keeper, while another standby can take its place.
    StandbyTerm,
    /// SIGKILL of the synchronous standby's keeper and of every process of its PostgreSQL, while another standby can take
    /// its place.
    StandbyKill9,
    /// etcd stopped for half of the proxy timeout.
    StoreHalf,
    /// etcd stopped for twice the proxy timeout.
    StoreDouble,
    /// No failure.
    Nothing,
}

impl FailureEvent {
    /// All events except `Nothing` and those of a synchronous standby.
    pub const ALL: [Self; 7] = [
        Self::Kill9,
        Self::Term,
        Self::Pgkill,
        Self::Freeze,
        Self::Brain,
        Self::StoreHalf,
        Self::StoreDouble,
    ];

    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill9 => "kill9",
            Self::Term => "term",
            Self::Pgkill => "pgkill",
            Self::Freeze => "freeze",
            Self::Brain => "brain",
            Self::StandbyTerm => "standby-term",
            Self::StandbyKill9 => "standby-kill9",
            Self::StoreHalf => "store-half",
            Self::StoreDouble => "store-double",
            Self::Nothing => "nothing",
        }
    }

    /// Returns whether it happens to a synchronous standby.
    pub fn needs_synchronous_standby(self) -> bool {
        matches!(self, Self::StandbyTerm | Self::StandbyKill9)
    }

    /// Returns whether it should cause a failover.
    fn fails_over(self) -> bool {
        matches!(self, Self::Kill9 | Self::Term | Self::Freeze | Self::Brain)
    }
}

impl fmt::Display for FailureEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cluster of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// The intervals of the spec.
    pub profile: Profile,
    /// proxyCheckInterval and proxyTimeout, in place of the profile's.
    pub proxy_intervals: Option<(Duration, Duration)>,
    /// How many sentinels.
    pub sentinels: usize,
    /// How many keepers.
    pub keepers: usize,
    /// Minimum and maximum of synchronous standbys; `None`: asynchronous replication.
    pub synchronous: Option<(u16, u16)>,
    /// The delay of the store's answers.
    pub store: StoreDelay,
    /// How long to observe the cluster with the event `Nothing`.
    pub observe_for: Duration,
}

/// The delay of everything that the store sends, from the time when the cluster runs. A delayed answer does not hold up
/// the next one: several requests may be in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreDelay {
    /// The programs connect to etcd directly.
    Direct,
    /// Three endpoints, each with this delay.
    All(Duration),
    /// Three endpoints, one of them with this delay.
    One(Duration),
}

impl Scenario {
    /// Returns whether commits wait as long as one keeper is away, so that a failover alone serves no client.
    pub fn needs_all_keepers(&self) -> bool {
        self.synchronous
            .is_some_and(|(min, _)| usize::from(min) + 1 >= self.keepers)
    }
}

/// How long a cluster runs on a slow store before the event.
const SLOW_STORE_WARM_UP: Duration = Duration::from_secs(20);

/// The result of one run.
#[derive(Debug, Clone)]
pub struct FailoverOutcome {
    /// From the event to the commit in etcd that announces another master.
    pub published: Option<Duration>,
    /// Requests per second to etcd by all programs, with the event `Nothing`.
    pub store_requests: Option<f64>,
    /// How often a sentinel lost its leadership.
    pub leaderships_lost: usize,
    /// The gap of the median client.
    pub gap_median: Duration,
    /// The longest gap of any client.
    pub gap_longest: Duration,
    /// Acknowledged rows that are missing afterwards.
    pub rows_lost: i64,
    /// All acknowledged rows.
    pub rows: i64,
    /// Errors of clients, by text.
    pub errors: BTreeMap<String, u64>,
    /// Whether another master was elected.
    pub failed_over: bool,
    /// From the arrival of the announcement of the new master to the first byte through the proxy.
    pub commit_to_byte: Option<Duration>,
    /// From etcd's first response after an outage to the first row of the last client that was disconnected.
    pub after_store: Option<Duration>,
}

/// Starts a cluster and the clients, causes the event, and measures until all clients are served again.
///
/// # Errors
///
/// The clients are not served before the event, or the rows cannot be counted afterwards.
///
/// # Panics
///
/// The cluster does not start or does not recover in time.
pub async fn run(event: FailureEvent, setting: Scenario) -> anyhow::Result<FailoverOutcome> {
    let profile = setting.profile;
    let mut cluster = start(setting).await;
    let through = cluster.sql_config("proxy0");
    Writers::create_table(&SqlClient::connect(&through).await?).await?;
    let writers = Writers::start(&through, CLIENTS);
    writers.wait_each_client_commits(100).await;
    let standby = match setting.synchronous {
        Some(_) => Some(wait_standby_known_in_sync(&cluster).await),
        None => None,
    };
    let old_server = cluster.postmaster("keeper0").context("the master runs")?;
    slow_down(setting.store, &cluster).await;

    let watch = cluster
        .store
        .watch(vec![KeyRange::Key(cluster.store.keys().cluster_data())], None);
    let first_byte = FirstByteProbe::start(cluster.port("proxy0"));
    let errors_before: u64 = writers.stats().iter().flat_map(|stats| stats.errors.values()).sum();
    writers.reset_gaps();
    let began = now();
    let mut store_requests = None;
    let store_back = match event {
        FailureEvent::Nothing => {
            store_requests = Some(count_requests(&cluster, setting.observe_for).await?);
            None
        }
        event if event.needs_synchronous_standby() => {
            stop_standby(
                event,
                &mut cluster,
                standby.as_deref().context("no synchronous standby")?,
            );
            None
        }
        event => cause(event, profile, &mut cluster).await,
    };

    let limit = profile.fail_interval() * 4 + LONG_TIMEOUT;
    let commit = if event.fails_over() {
        Some(wait_other_announced(&watch, limit).await?)
    } else {
        None
    };
    if commit.is_some() && setting.needs_all_keepers() {
        bring_back(event, &mut cluster).await;
    }
    if event == FailureEvent::Pgkill {
        wait_other_postmaster(&cluster, old_server, limit).await;
    }
    writers.wait_each_client_commits(ROWS_WHEN_RECOVERED).await;
    let after_store = store_back.and_then(|back| time_to_resume(&writers, back));
    let commit_to_byte = commit.and_then(|commit| first_byte.first_after(commit));

    let stats = writers.stop();
    let mut gaps: Vec<Duration> = stats.iter().map(|stats| stats.longest_gap).collect();
    gaps.sort_unstable();
    let errors = errors_by_text(&stats);
    let sql = cluster.connect("proxy0").await;
    let dropped = errors.values().sum::<u64>() - errors_before;
    if event == FailureEvent::Nothing {
        ensure!(
            cluster.postmaster("keeper0") == Some(old_server),
            "the server was restarted"
        );
        eprintln!("{dropped} errors of clients without an event");
    }
    Ok(FailoverOutcome {
        published: commit.map(|commit| commit.since(began)),
        store_requests,
        leaderships_lost: count_lost_leaderships(&mut cluster, setting.sentinels),
        gap_median: median(&gaps),
        gap_longest: gaps.last().copied().unwrap_or_default(),
        rows_lost: lost_rows(&sql, &stats).await?,
        rows: stats.iter().map(WriterStats::rows).sum(),
        errors,
        failed_over: cluster.master().await? != "keeper0",
        commit_to_byte,
        after_store,
    })
}

/// Brings back the keeper of the old master, as a standby.
async fn bring_back(event: FailureEvent, cluster: &mut Cluster) {
    match event {
        FailureEvent::Freeze => cluster.thaw("keeper0"),
        FailureEvent::Term => {
            cluster.process("keeper0").exit_status(LONG_TIMEOUT).await;
            cluster.start("keeper0");
        }
        _ => cluster.start("keeper0"),
    }
}

/// Returns how long after `back` the last client that was disconnected had its first row.
fn time_to_resume(writers: &Writers, back: Boottime) -> Option<Duration> {
    let stats = writers.stats();
    let resumed = stats.iter().filter_map(|stats| stats.first_resumed_after(back));
    resumed.max().map(|last| last.since(back))
}

/// Returns how often each error happened to a client.
fn errors_by_text(stats: &[WriterStats]) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for (text, times) in stats.iter().flat_map(|stats| &stats.errors) {
        *errors.entry(text.clone()).or_default() += times;
    }
    errors
}

/// Returns how often a sentinel logged that it is not the leader any more.
fn count_lost_leaderships(cluster: &mut Cluster, sentinels: usize) -> usize {
    (0..sentinels)
        .map(|number| cluster.process(&format!("sentinel{number}")).log())
        .map(|log| log.matches("sentinel leadership lost").count())
        .sum()
}

/// Stops the keeper of the synchronous standby in the way of the event.
fn stop_standby(event: FailureEvent, cluster: &mut Cluster, keeper: &str) {
    if event == FailureEvent::StandbyKill9 {
        cluster.kill_keeper_and_postgres(keeper);
    } else {
        cluster.process(keeper).signal(Signal::TERM);
    }
}

/// Waits until a standby may be elected, and returns the uid of its keeper. Before that nobody is elected, if the master
/// fails (synchronous SY-1).
async fn wait_standby_known_in_sync(cluster: &Cluster) -> String {
    eventually("a standby known to be in sync", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(|error| error.to_string())?;
        let master = data
            .master_uid()
            .and_then(|uid| data.dbs().get(uid))
            .ok_or("no master")?;
        let known = &master.status.synchronous_standbys;
        match known.as_deref() {
            Some([standby, ..]) if *known == master.spec.synchronous_standbys => {
                let db = data.dbs().get(standby).ok_or("no db of the standby")?;
                Ok(db.spec.keeper_uid.to_string())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn start(setting: Scenario) -> Cluster {
    let mut builder = Cluster::builder(setting.profile)
        .sentinels(setting.sentinels)
        .keepers(setting.keepers)
        .synchronous(setting.synchronous)
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

/// Waits for `time` and returns the requests per second that etcd gets meanwhile.
async fn count_requests(cluster: &Cluster, time: Duration) -> anyhow::Result<f64> {
    let (before, began) = (requests_started(&cluster.etcd.address()).await?, now());
    tokio::time::sleep(time).await;
    let count = requests_started(&cluster.etcd.address()).await? - before;
    Ok(count / now().since(began).as_secs_f64())
}

/// Returns how many calls etcd has begun to serve since its start, by its metrics.
async fn requests_started(etcd: &str) -> anyhow::Result<f64> {
    let answer = get_metrics(etcd).await?;
    let counters = answer
        .lines()
        .filter(|line| line.starts_with("grpc_server_started_total{"));
    let counts = counters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}

/// Returns the median of sorted durations, the lower one of two; zero when there are none.
pub fn median(sorted: &[Duration]) -> Duration {
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default()
}

/// Causes the event; returns when etcd answered again, if it was stopped.
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
            // Starting etcd takes a part of the outage.
            let remaining = away.saturating_sub(now().since(start) + Duration::from_millis(250));
            tokio::time::sleep(remaining).await;
            return Some(cluster.restart_etcd().await);
        }
        FailureEvent::Nothing | FailureEvent::StandbyTerm | FailureEvent::StandbyKill9 => {}
    }
    None
}

/// Waits until the master's keeper has started another server than this one.
async fn wait_other_postmaster(cluster: &Cluster, old: u32, limit: Duration) {
    eventually("another postmaster", limit, async || {
        cluster
            .postmaster("keeper0")
            .filter(|pid| *pid != old)
            .ok_or("none yet")
    })
    .await;
}

/// Waits for the announcement of another master than `keeper0`'s, and returns when it arrived.
async fn wait_other_announced(watch: &Watch, limit: Duration) -> anyhow::Result<Boottime> {
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
        .context("no other master is announced")?
}

/// Connects to the proxy again and again, and records when a server's byte arrived.
struct FirstByteProbe {
    received: std::sync::Arc<std::sync::Mutex<Vec<Boottime>>>,
    task: JoinHandle<()>,
}

impl FirstByteProbe {
    /// How many times are kept: the newest.
    const KEPT: usize = 100_000;

    fn start(port: u16) -> Self {
        let received = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let received = std::sync::Arc::clone(&received);
            async move {
                loop {
                    let byte = tokio::time::timeout(Duration::from_millis(500), request_byte(port));
                    if let Ok(Ok(())) = byte.await {
                        let mut received = received.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        if received.len() == Self::KEPT {
                            received.drain(..Self::KEPT / 2);
                        }
                        received.push(now());
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        Self { received, task }
    }

    /// Returns the time from `commit` to the first byte after it.
    fn first_after(&self, commit: Boottime) -> Option<Duration> {
        let received = self.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        received.iter().find(|at| **at >= commit).map(|at| at.since(commit))
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
