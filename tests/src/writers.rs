//! Clients that commit one row after another without pause, and their statistics: gaps in service, acknowledged rows,
//! and errors.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::clock::Boottime;
use tokio::task::JoinHandle;
use tokio_postgres::Config;

use crate::cluster::{Cluster, check};
use crate::deadlines::LONG_TIMEOUT;
use crate::sql::SqlClient;
use crate::wait::{eventually, now};

/// The pause before a client connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// How many resumptions are kept.
const RESUMED_MAX: usize = 1000;

/// The statistics of one client.
#[derive(Debug, Clone, Default)]
pub struct WriterStats {
    /// The rows whose commit was acknowledged, as ranges of ids.
    pub acknowledged: Vec<RangeInclusive<i64>>,
    /// The longest time between two acknowledgements since the last [`Writers::reset_gaps`].
    pub longest_gap: Duration,
    /// When the last commit was acknowledged.
    pub last: Option<Boottime>,
    /// When commits were acknowledged after an error, the newest last; the oldest are dropped.
    pub resumed: Vec<Boottime>,
    /// The number of errors, by text.
    pub errors: BTreeMap<String, u64>,
}

impl WriterStats {
    /// Returns the number of acknowledged rows.
    pub fn rows(&self) -> i64 {
        self.acknowledged.iter().map(|run| run.end() - run.start() + 1).sum()
    }

    /// Returns when the client was first served again after an error, at or after `earliest`.
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

/// The running clients, which stop when this is dropped.
#[derive(Debug)]
pub struct Writers {
    clients: Vec<(Arc<Mutex<WriterStats>>, JoinHandle<()>)>,
}

impl Writers {
    /// Creates the table `writers` that [`Self::start`] inserts into.
    ///
    /// # Errors
    ///
    /// The statement fails.
    pub async fn create_table(sql: &SqlClient) -> anyhow::Result<()> {
        sql.run("create table writers (client int, id bigint, primary key (client, id))")
            .await
    }

    /// Makes the table, starts `clients` clients of a proxy, and waits until they are served.
    ///
    /// # Panics
    ///
    /// The table cannot be made.
    pub async fn through(cluster: &Cluster, proxy: &str, clients: usize) -> Self {
        let table = Self::create_table(&cluster.connect(proxy).await).await;
        table.expect("the proxy leads to a master");
        let writers = Self::start(&cluster.sql_config(proxy), clients);
        writers.wait_each_client_commits(10).await;
        writers
    }

    /// Starts `clients` clients of the server at `config`.
    pub fn start(config: &Config, clients: usize) -> Self {
        let clients = (0..clients).map(|number| {
            let stats = Arc::new(Mutex::new(WriterStats::default()));
            let task = tokio::spawn(write_loop(config.clone(), number, Arc::clone(&stats)));
            (stats, task)
        });
        Self {
            clients: clients.collect(),
        }
    }

    /// Returns the statistics of each client so far.
    pub fn stats(&self) -> Vec<WriterStats> {
        self.clients
            .iter()
            .map(|(stats, _)| stats.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Returns the number of rows acknowledged so far, of all clients.
    pub fn rows(&self) -> i64 {
        self.stats().iter().map(WriterStats::rows).sum()
    }

    /// Waits until each client has committed this many more rows.
    pub async fn wait_each_client_commits(&self, rows: i64) {
        let before: Vec<i64> = self.stats().iter().map(WriterStats::rows).collect();
        eventually("all clients to be served", LONG_TIMEOUT, async || {
            let behind = self
                .stats()
                .iter()
                .zip(&before)
                .filter(|(stats, before)| stats.rows() < *before + rows)
                .count();
            check(behind == 0, || format!("{behind} are not"))
        })
        .await;
    }

    /// Resets the longest gaps and the errors.
    pub fn reset_gaps(&self) {
        for (stats, _) in &self.clients {
            let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats.longest_gap = Duration::ZERO;
            stats.errors.clear();
        }
    }

    /// Stops the clients and returns their statistics, including a gap that has not ended.
    pub fn stop(self) -> Vec<WriterStats> {
        for (_, task) in &self.clients {
            task.abort();
        }
        let mut stats = self.stats();
        for stats in &mut stats {
            let gap = stats.last.map(|last| now().since(last)).unwrap_or_default();
            stats.longest_gap = stats.longest_gap.max(gap);
        }
        stats
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for (_, task) in &self.clients {
            task.abort();
        }
    }
}

/// Returns how many acknowledged rows are not in the table.
///
/// # Errors
///
/// The table cannot be read.
pub async fn lost_rows(sql: &SqlClient, stats: &[WriterStats]) -> anyhow::Result<i64> {
    let mut lost = 0;
    for (client, stats) in stats.iter().enumerate() {
        for run in &stats.acknowledged {
            let (first, last) = (run.start(), run.end());
            let query =
                format!("select count(*) from writers where client = {client} and id between {first} and {last}");
            let found: i64 = sql.value(&query).await?.parse()?;
            lost += last - first + 1 - found;
        }
    }
    Ok(lost)
}

async fn write_loop(config: Config, client: usize, stats: Arc<Mutex<WriterStats>>) {
    let mut id = 0_i64;
    loop {
        if let Err(error) = write_until_error(&config, client, &mut id, &stats).await {
            let text = error.root_cause().to_string();
            let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
            *stats.errors.entry(text).or_default() += 1;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn write_until_error(
    config: &Config,
    client: usize,
    id: &mut i64,
    stats: &Mutex<WriterStats>,
) -> anyhow::Result<()> {
    let sql = SqlClient::connect(config).await?;
    loop {
        // An id is never tried twice: a commit without an acknowledgement may have happened.
        *id += 1;
        let statement = format!("insert into writers values ({client}, {id})");
        sql.run(&statement).await?;
        stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .acknowledge(*id, now());
    }
}

/// Returns how many rows that were acknowledged after `earlier` was taken are not in the table.
///
/// # Errors
///
/// The table cannot be read.
pub async fn lost_rows_after(sql: &SqlClient, earlier: &[WriterStats], stats: &[WriterStats]) -> anyhow::Result<i64> {
    let mut later = stats.to_vec();
    for (later, earlier) in later.iter_mut().zip(earlier) {
        let known = earlier.acknowledged.last().map_or(0, |run| *run.end());
        later.acknowledged.retain_mut(|run| {
            *run = (*run.start()).max(known + 1)..=*run.end();
            !run.is_empty()
        });
    }
    lost_rows(sql, &later).await
}
