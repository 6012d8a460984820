//! The WAL receiver of a standby, which a test waits for, or suspends so that the standby lags.

use crate::cluster::{Cluster, check};
use crate::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use crate::process::{self, Signal};
use crate::wait::eventually;

/// Waits until this master's only standby streams. After a restart of either that takes a moment.
pub async fn wait_only_standby_streams(cluster: &Cluster, master: &str) {
    let count = "select count(*) from pg_stat_replication where state = 'streaming'";
    eventually(format!("a standby to stream from {master}"), LONG_TIMEOUT, async || {
        let streaming = cluster.query(master, count).await?;
        check(streaming == "1", || streaming)
    })
    .await;
}

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

    /// Ends it before it reads anything more.
    pub fn end(&self) {
        process::send_signal(self.0, Signal::TERM);
        process::send_signal(self.0, Signal::CONT);
    }
}
