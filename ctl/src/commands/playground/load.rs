//! A client of the proxy that commits one row after another, and notes for how long it was not served.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::clock::Boottime;
use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

use super::now;

/// How long a connect or a commit may take before the client tries anew.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two tries to connect, so that a closed door is not hammered on.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// What the client stats.
#[derive(Debug, Clone, Default)]
pub(super) struct LoadStats {
    /// The rows whose commit was acknowledged: one run of numbers a connection.
    pub(super) acknowledged: Vec<RangeInclusive<i64>>,
    /// The longest time between two acknowledgements.
    pub(super) longest_gap: Duration,
    /// When the last commit was acknowledged.
    pub(super) last_commit: Option<Boottime>,
}

/// The running client; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    stats: Arc<Mutex<LoadStats>>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts inserting into the table `gap (id bigint)`.
    pub(super) fn start(config: Config) -> Self {
        let stats = Arc::new(Mutex::new(LoadStats::default()));
        let task = tokio::spawn(insert_rows(config, Arc::clone(&stats)));
        Self { stats, task }
    }

    /// What it has stats so far.
    pub(super) fn stats(&self) -> LoadStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn insert_rows(config: Config, stats: Arc<Mutex<LoadStats>>) {
    let mut id = 0_i64;
    loop {
        if let Ok(Ok((client, connection))) = tokio::time::timeout(REQUEST_TIMEOUT, config.connect(NoTls)).await {
            // its error is the client's, too
            let connection = tokio::spawn(async { drop(connection.await) });
            // a number is never tried twice: an unacknowledged commit may have happened
            loop {
                id += 1;
                let sql = format!("insert into gap values ({id})");
                if !matches!(
                    tokio::time::timeout(REQUEST_TIMEOUT, client.batch_execute(&sql)).await,
                    Ok(Ok(()))
                ) {
                    break;
                }
                record_commit(&stats, id, now());
            }
            connection.abort();
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
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
