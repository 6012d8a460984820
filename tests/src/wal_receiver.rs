//! The WAL receiver of a standby, which a test suspends so that the standby lags.

use crate::cluster::Cluster;
use crate::deadlines::SHORT_TIMEOUT;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// A suspended WAL receiver.
#[derive(Debug)]
pub struct SuspendedReceiver(u32);

impl SuspendedReceiver {
    /// Suspends the WAL receiver of a keeper's standby, once it streams: the server's shutdown waits
    /// for no other.
    pub async fn of(cluster: &Cluster, standby: &str) -> Self {
        let receiver = eventually(format!("a WAL receiver of {standby}"), SHORT_TIMEOUT, async || {
            let pid = cluster
                .query(
                    standby,
                    "select pid from pg_stat_wal_receiver where status = 'streaming'",
                )
                .await?;
            pid.parse::<u32>().map_err(|error| error.to_string())
        });
        let pid = receiver.await;
        process::send_signal(pid, Signal::STOP);
        Self(pid)
    }

    /// Lets it go on, unless it has been killed.
    pub fn resume(&self) {
        process::send_signal(self.0, Signal::CONT);
    }
}
