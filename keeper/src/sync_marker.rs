//! Takes the mark beside the loop, because a checkpoint can take minutes, and finds roles and databases whose commits
//! do not wait. What the results mean is left to `synchronous`.

use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::postgres::client::sql::NamesShown;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::instance::Instance;
use crate::synchronous::{CommitLevel, MarkTask, SyncReplication};

/// Interval of querying a server that does not accept connections, or does not show the names yet.
const POLL: Duration = Duration::from_millis(50);
/// Delay after a failed query.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Time limit of a checkpoint; after it another one is begun.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);
/// Interval of reading the settings of roles and databases whose commits do not wait.
const COMMIT_LEVEL_INTERVAL: Duration = Duration::from_secs(30);

/// Queries one server for what synchronous replication depends on.
#[derive(Debug)]
pub struct SyncMarker {
    instance: Arc<Instance>,
    synchronous: Arc<SyncReplication>,
}

impl SyncMarker {
    pub fn new(instance: Arc<Instance>, synchronous: Arc<SyncReplication>) -> Self {
        Self { instance, synchronous }
    }

    /// Never returns.
    pub async fn run(&self) {
        tokio::join!(self.take_marks(), self.report_commit_levels());
    }

    async fn take_marks(&self) {
        let mut state = self.synchronous.subscribe();
        let mut is_failing = false;
        loop {
            let task = match state.wait_for(|state| state.task().is_some()).await {
                Ok(state) => state.task(),
                Err(_) => return std::future::pending().await, // the sender belongs to `synchronous`
            };
            let Some(task) = task else { continue };
            let found = tokio::select! {
                found = self.query(&task) => found,
                // Abandoning a query cancels it: the checkpoint is for other names.
                _ = state.wait_for(|state| !state.is_current(&task)) => continue,
            };
            match found {
                Ok(Some(found)) => {
                    is_failing = false;
                    self.synchronous.record(&task, &found);
                    if let NamesShown::Others(names) = found {
                        debug!(value = %names, wanted = %task.names, "synchronous_standby_names not reloaded yet");
                        sleep(POLL).await;
                    } else {
                        info!(value = %task.names, "synchronous_standby_names is in force");
                    }
                }
                Ok(None) => sleep(POLL).await,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!(error = %Chain(&error), "cannot confirm that synchronous_standby_names is in force");
                    }
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Queries the server once; `None`: it does not accept connections.
    async fn query(&self, task: &MarkTask) -> Result<Option<NamesShown>, SqlError> {
        if !self.instance.reports_ready().await.unwrap_or(false) {
            return Ok(None);
        }
        let limit = match task.needs_checkpoint {
            true => CHECKPOINT_LIMIT,
            false => self.instance.config().request_timeout,
        };
        let sql = self.instance.sql();
        let shown = sql.confirm_standby_names(&task.names, task.needs_checkpoint, limit);
        shown.await.map(Some)
    }

    async fn report_commit_levels(&self) {
        loop {
            let is_due =
                self.synchronous.is_synchronous_master() && self.instance.reports_ready().await.unwrap_or(false);
            match is_due {
                true => match self.instance.sql().commit_levels().await {
                    Ok(levels) => {
                        let levels = levels.into_iter().map(|(of, value)| CommitLevel { of, value });
                        self.synchronous.report_commit_levels(levels.collect());
                    }
                    Err(error) => debug!(error = %Chain(&error), "could not read the settings of synchronous_commit"),
                },
                false => self.synchronous.report_commit_levels(Vec::new()),
            }
            sleep(COMMIT_LEVEL_INTERVAL).await;
        }
    }
}
