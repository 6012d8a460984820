//! A client of the proxy that commits one row after another, and notes for how long it was not served.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::clock::Boottime;
use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

use super::now;

/// How long a connect or a commit may take before the client tries anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two tries to connect, so that a closed door is not hammered on.
const KNOCK_EVERY: Duration = Duration::from_millis(10);

/// What the client met.
#[derive(Debug, Clone, Default)]
pub(super) struct Met {
    /// The rows whose commit was acknowledged: one run of numbers a connection.
    pub(super) acknowledged: Vec<RangeInclusive<i64>>,
    /// The longest time between two acknowledgements.
    pub(super) longest_gap: Duration,
    /// When the last commit was acknowledged.
    pub(super) last: Option<Boottime>,
}

/// The running client; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    met: Arc<Mutex<Met>>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts inserting into the table `gap (id bigint)`.
    pub(super) fn start(config: Config) -> Self {
        let met = Arc::new(Mutex::new(Met::default()));
        let task = tokio::spawn(insert_for_ever(config, Arc::clone(&met)));
        Self { met, task }
    }

    /// What it has met so far.
    pub(super) fn met(&self) -> Met {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn insert_for_ever(config: Config, met: Arc<Mutex<Met>>) {
    let mut id = 0_i64;
    loop {
        if let Ok(Ok((client, connection))) = tokio::time::timeout(PATIENCE, config.connect(NoTls)).await {
            // its error is the client's, too
            let connection = tokio::spawn(async { drop(connection.await) });
            // a number is never tried twice: an unacknowledged commit may have happened
            loop {
                id += 1;
                let sql = format!("insert into gap values ({id})");
                if !matches!(
                    tokio::time::timeout(PATIENCE, client.batch_execute(&sql)).await,
                    Ok(Ok(()))
                ) {
                    break;
                }
                note(&met, id, now());
            }
            connection.abort();
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

fn note(met: &Mutex<Met>, id: i64, now: Boottime) {
    let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
    let gap = met.last.map(|last| now.since(last)).unwrap_or_default();
    met.longest_gap = met.longest_gap.max(gap);
    met.last = Some(now);
    match met.acknowledged.last_mut() {
        Some(run) if *run.end() + 1 == id => *run = *run.start()..=id,
        _ => met.acknowledged.push(id..=id),
    }
}
