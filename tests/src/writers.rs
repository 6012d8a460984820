//! Clients that commit one row after another without pause, and what they met: how long nobody served them, which
//! rows were acknowledged, what went wrong.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::clock::Boottime;
use tokio::task::JoinHandle;
use tokio_postgres::Config;

use crate::cluster::{LONG_TIMEOUT, check};
use crate::sql::SqlClient;
use crate::wait::{eventually, now};

/// The pause between two tries to connect, so that a closed door is not hammered on.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// So many resumptions are remembered.
const RESUMED_MAX: usize = 1000;

/// What one client met.
#[derive(Debug, Clone, Default)]
pub struct WriterStats {
    /// The rows whose commit was acknowledged, as runs of numbers.
    pub acknowledged: Vec<RangeInclusive<i64>>,
    /// The longest time between two acknowledgements since the last [`Writers::forget_gaps`].
    pub longest_gap: Duration,
    /// When the last commit was acknowledged.
    pub last: Option<Boottime>,
    /// When commits were acknowledged after an error, the newest last; the oldest are forgotten.
    pub resumed: Vec<Boottime>,
    /// How often which error was met, by its text.
    pub errors: BTreeMap<String, u64>,
}

impl WriterStats {
    /// How many rows were acknowledged.
    pub fn rows(&self) -> i64 {
        self.acknowledged.iter().map(|run| run.end() - run.start() + 1).sum()
    }

    /// When it was first served again, not before `earliest`; nothing when nothing broke.
    pub fn first_resumed_after(&self, earliest: Boottime) -> Option<Boottime> {
        self.resumed.iter().copied().find(|at| *at >= earliest)
    }

    fn acknowledge(&mut self, id: i64, now: Boottime) {
        let gap = self.last.map(|last| now.since(last)).unwrap_or_default();
        self.longest_gap = self.longest_gap.max(gap);
        self.last = Some(now);
        match self.acknowledged.last_mut() {
            Some(run) if *run.end() + 1 == id => *run = *run.start()..=id,
            _ => {
                self.acknowledged.push(id..=id);
                if self.resumed.len() == RESUMED_MAX {
                    self.resumed.remove(0);
                }
                self.resumed.push(now);
            }
        }
    }
}

/// The running clients; they stop when this is dropped.
#[derive(Debug)]
pub struct Writers {
    clients: Vec<(Arc<Mutex<WriterStats>>, JoinHandle<()>)>,
}

impl Writers {
    /// Makes the table `writers` that [`Self::start`] inserts into.
    ///
    /// # Errors
    ///
    /// The statement fails.
    pub async fn create_table(sql: &SqlClient) -> anyhow::Result<()> {
        sql.run("create table writers (client int, id bigint, primary key (client, id))")
            .await
    }

    /// Starts so many clients of the server at `config`.
    pub fn start(config: &Config, clients: usize) -> Self {
        let clients = (0..clients).map(|number| {
            let met = Arc::new(Mutex::new(WriterStats::default()));
            let task = tokio::spawn(write_loop(config.clone(), number, Arc::clone(&met)));
            (met, task)
        });
        Self {
            clients: clients.collect(),
        }
    }

    /// What each client has met so far.
    pub fn stats(&self) -> Vec<WriterStats> {
        self.clients
            .iter()
            .map(|(met, _)| met.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// The rows acknowledged so far, of all clients.
    pub fn rows(&self) -> i64 {
        self.stats().iter().map(WriterStats::rows).sum()
    }

    /// Waits until each of the clients has committed some more rows.
    pub async fn wait_served(&self) {
        let before: Vec<i64> = self.stats().iter().map(WriterStats::rows).collect();
        eventually("all clients to be served", LONG_TIMEOUT, async || {
            let behind = self
                .stats()
                .iter()
                .zip(&before)
                .filter(|(met, before)| met.rows() < *before + 10)
                .count();
            check(behind == 0, || format!("{behind} are not"))
        })
        .await;
    }

    /// Starts to measure gaps and errors anew.
    pub fn reset_gaps(&self) {
        for (met, _) in &self.clients {
            let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
            met.longest_gap = Duration::ZERO;
            met.errors.clear();
        }
    }

    /// Stops the clients and gives what they met, the gap that lasts until now included.
    pub fn stop(self) -> Vec<WriterStats> {
        for (_, task) in &self.clients {
            task.abort();
        }
        let mut met = self.stats();
        for met in &mut met {
            let gap = met.last.map(|last| now().since(last)).unwrap_or_default();
            met.longest_gap = met.longest_gap.max(gap);
        }
        met
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for (_, task) in &self.clients {
            task.abort();
        }
    }
}

/// The rows that were acknowledged and are not in the table, as `(client, how many)`.
///
/// # Errors
///
/// The table cannot be read.
pub async fn lost_rows(sql: &SqlClient, met: &[WriterStats]) -> anyhow::Result<i64> {
    let mut lost = 0;
    for (client, met) in met.iter().enumerate() {
        for run in &met.acknowledged {
            let (first, last) = (run.start(), run.end());
            let query =
                format!("select count(*) from writers where client = {client} and id between {first} and {last}");
            let found: i64 = sql.value(&query).await?.parse()?;
            lost += last - first + 1 - found;
        }
    }
    Ok(lost)
}

async fn write_loop(config: Config, client: usize, met: Arc<Mutex<WriterStats>>) {
    let mut id = 0_i64;
    loop {
        if let Err(error) = write_until_error(&config, client, &mut id, &met).await {
            let text = error.root_cause().to_string();
            let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
            *met.errors.entry(text).or_default() += 1;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn write_until_error(
    config: &Config,
    client: usize,
    id: &mut i64,
    met: &Mutex<WriterStats>,
) -> anyhow::Result<()> {
    let sql = SqlClient::connect(config).await?;
    loop {
        // a number is never tried twice: a commit that nobody acknowledged may have happened all the same
        *id += 1;
        let statement = format!("insert into writers values ({client}, {id})");
        sql.run(&statement).await?;
        met.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .acknowledge(*id, now());
    }
}

/// The rows that were acknowledged after `earlier` was taken and are not in the table.
///
/// # Errors
///
/// The table cannot be read.
pub async fn lost_rows_after(sql: &SqlClient, earlier: &[WriterStats], met: &[WriterStats]) -> anyhow::Result<i64> {
    let mut later = met.to_vec();
    for (later, earlier) in later.iter_mut().zip(earlier) {
        let known = earlier.acknowledged.last().map_or(0, |run| *run.end());
        later.acknowledged.retain_mut(|run| {
            *run = (*run.start()).max(known + 1)..=*run.end();
            !run.is_empty()
        });
    }
    lost_rows(sql, &later).await
}
