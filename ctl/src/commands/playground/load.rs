//! A client of the proxy that commits one row after another and measures how long it is not served.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use base::clock::Boottime;
use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

/// Timeout of a connect or a commit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay between two connects, so that a proxy that closes connections is not flooded.
const RECONNECT_DELAY: Duration = Duration::from_millis(10);

/// What the client has measured.
#[derive(Debug, Clone, Default)]
pub(super) struct LoadStats {
    /// The rows whose commit was acknowledged: one range of ids for each connection.
    pub(super) acknowledged: Vec<RangeInclusive<i64>>,
    /// Longest time between two acknowledgements.
    pub(super) longest_gap: Duration,
    /// Time of the last acknowledged commit.
    pub(super) last_commit: Option<Boottime>,
}

impl LoadStats {
    /// Returns the number of acknowledged rows.
    pub(super) fn acknowledged_rows(&self) -> i64 {
        self.acknowledged.iter().map(|run| run.end() - run.start() + 1).sum()
    }
}

/// The running client. It stops when this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    stats: Arc<Mutex<LoadStats>>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts inserting into the table `gap (id bigint)`.
    pub(super) fn start(config: Config, clock: Clock) -> Self {
        let stats = Arc::new(Mutex::new(LoadStats::default()));
        let task = tokio::spawn(insert_rows(config, clock, Arc::clone(&stats)));
        Self { stats, task }
    }

    /// Returns what it has measured so far.
    pub(super) fn stats(&self) -> LoadStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn insert_rows(config: Config, clock: Clock, stats: Arc<Mutex<LoadStats>>) {
    let mut id = 0_i64;
    loop {
        if let Ok(Ok((client, connection))) = tokio::time::timeout(REQUEST_TIMEOUT, config.connect(NoTls)).await {
            // Errors of the connection reach the client as well.
            let connection = tokio::spawn(async { drop(connection.await) });
            // An id is never inserted twice: a commit without acknowledgement may have succeeded.
            loop {
                id += 1;
                let sql = format!("insert into gap values ({id})");
                if !matches!(
                    tokio::time::timeout(REQUEST_TIMEOUT, client.batch_execute(&sql)).await,
                    Ok(Ok(()))
                ) {
                    break;
                }
                record_commit(&stats, id, clock.now());
            }
            connection.abort();
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

fn record_commit(stats: &Mutex<LoadStats>, id: i64, now: Boottime) {
    let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
    let gap = stats.last_commit.map(|last| now.since(last)).unwrap_or_default();
    stats.longest_gap = stats.longest_gap.max(gap);
    stats.last_commit = Some(now);
    match stats.acknowledged.last_mut() {
        Some(run) if *run.end() + 1 == id => *run = *run.start()..=id,
        _ => stats.acknowledged.push(id..=id),
    }
}
