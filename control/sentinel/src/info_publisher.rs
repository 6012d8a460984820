//! Publishes the sentinel's info and keeps it under a lease (sentinel M-1, store S-20). When there is something to publish
//! is left to the loop.

use std::time::Duration;

use base::Chain;
use model::{SentinelInfo, SentinelUid, SwitchoverReport, to_compact};
use store::{LeaseId, Store, StoreError, info_ttl};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{debug, error};

/// How often the lease is renewed before the info is written again: a minute at the default sleepInterval. The info changes
/// only with a switchover, and etcd neither logs a renewal nor writes it to disk; but a key that somebody has deleted must
/// come back.
const RENEWALS: u32 = 11;

/// The running task.
#[derive(Debug)]
pub(crate) struct SentinelInfoPublisher {
    content: watch::Sender<InfoContent>,
    task: JoinHandle<()>,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct InfoContent {
    /// How often; `None`: nothing is published.
    interval: Option<Duration>,
    switchover: Option<SwitchoverReport>,
}

impl SentinelInfoPublisher {
    /// Starts the task, which publishes nothing before an interval is set. Must be called within a tokio runtime.
    pub(crate) fn start(store: Store, uid: SentinelUid) -> Self {
        let (content, contents) = watch::channel(InfoContent::default());
        Self {
            content,
            task: tokio::spawn(publish_info(store, uid, contents)),
        }
    }

    /// Sets the interval; a changed one causes a publication at once. `None`: nothing is published, because there is no
    /// valid cluster data.
    pub(crate) fn set_interval(&self, interval: Option<Duration>) {
        self.content.send_if_modified(|current| {
            let is_new = current.interval != interval;
            current.interval = interval;
            is_new
        });
    }

    /// Sets how far the last switchover is that this sentinel leads; a change is published at once (extensions X-2).
    pub(crate) fn set_switchover(&self, report: &SwitchoverReport) {
        self.content.send_if_modified(|current| {
            let is_new = current.switchover.as_ref() != Some(report);
            if is_new {
                current.switchover = Some(report.clone());
            }
            is_new
        });
    }

    /// Ends the task. The info stays until its lease expires.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

async fn publish_info(store: Store, uid: SentinelUid, mut contents: watch::Receiver<InfoContent>) {
    let key = store.keys().sentinel_info(uid.as_str());
    let mut publication = Publication::default();
    let mut failing = false;
    loop {
        let InfoContent { interval, switchover } = contents.borrow_and_update().clone();
        let uid = uid.clone();
        let value = to_compact(&SentinelInfo {
            uid,
            switchover,
            switchovers: true,
        });
        if let Some(interval) = interval {
            match publication
                .continue_for(&store, &key, &value, interval.saturating_mul(2))
                .await
            {
                Ok(()) => failing = false,
                Err(error) if failing => debug!(error = %Chain(&error), "cannot update sentinel info"),
                Err(error) => {
                    error!(error = %Chain(&error), "cannot update sentinel info");
                    failing = true;
                }
            }
        }
        let interval_elapsed = async {
            match interval {
                Some(interval) => sleep(interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interval_elapsed => {}
            changed = contents.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// The published info.
#[derive(Debug, Default)]
struct Publication {
    value: String,
    held: Option<HeldLease>,
}

/// The lease of the info.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeldLease {
    lease: LeaseId,
    /// The TTL that was requested.
    ttl: Duration,
    /// How often it was renewed.
    renewals: u32,
}

impl Publication {
    /// Makes the info persist for `wanted`, or the minimum, from now on.
    async fn continue_for(
        &mut self,
        store: &Store,
        key: &str,
        value: &str,
        wanted: Duration,
    ) -> Result<(), StoreError> {
        let ttl = info_ttl(wanted);
        if let Some(held) = self.renewable(value, ttl)
            && store.renew(held.lease).await?
        {
            self.renewed();
            return Ok(());
        }
        let lease = store.put_leased(key, value, ttl).await?;
        self.written(value, lease, ttl);
        Ok(())
    }

    /// Returns the lease whose renewal is enough; `None`: the info must be written.
    fn renewable(&self, value: &str, ttl: Duration) -> Option<HeldLease> {
        let held = self.held.filter(|_| self.value == value);
        held.filter(|held| held.ttl == ttl && held.renewals < RENEWALS)
    }

    fn renewed(&mut self) {
        if let Some(held) = &mut self.held {
            held.renewals += 1;
        }
    }

    fn written(&mut self, value: &str, lease: LeaseId, ttl: Duration) {
        value.clone_into(&mut self.value);
        self.held = Some(HeldLease {
            lease,
            ttl,
            renewals: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(20);

    fn written_under(lease: i64) -> Publication {
        let mut publication = Publication::default();
        publication.written("info", LeaseId(lease), TTL);
        publication
    }

    #[test]
    fn an_info_is_written_again_after_some_renewals() {
        let mut publication = written_under(1);
        for _ in 0..RENEWALS {
            assert_eq!(publication.renewable("info", TTL).unwrap().lease, LeaseId(1));
            publication.renewed();
        }
        assert_eq!(publication.renewable("info", TTL), None);
        publication.written("info", LeaseId(2), TTL);
        assert_eq!(publication.renewable("info", TTL).unwrap().lease, LeaseId(2));
    }

    #[test]
    fn an_info_is_written_at_first_and_when_it_or_its_ttl_has_changed() {
        assert_eq!(Publication::default().renewable("info", TTL), None);
        assert_eq!(written_under(1).renewable("info", TTL + Duration::from_secs(1)), None);
        assert_eq!(written_under(1).renewable("other", TTL), None);
    }
}
