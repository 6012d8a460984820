//! Publishes which standbys have received the checkpoint that a switchover ordered (extensions X-2). Making it is left to
//! `checkpoint`.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Chain, Clock};
use model::{DbUid, Lsn, strip_stolon_name};
use tokio::time::sleep;
use tracing::debug;

use crate::postgres::client::replication_state::WalSender;
use crate::postgres::instance::Instance;
use crate::publish::{Due, Publisher};

/// Interval of looking at the standbys, until something is published.
const FIRST_POLL: Duration = Duration::from_millis(50);
/// The same after that.
const POLL: Duration = Duration::from_millis(500);
/// After this time it is published that a standby has not received everything.
const REPORT_MISSING_AFTER: Duration = Duration::from_secs(1);

/// Publishes that the checkpoint is complete, and which standbys have received the WAL up to its end. A shutdown waits for
/// each that is connected, and the new master is one that has everything.
pub(super) async fn publish_receipt(clock: &Clock, instance: &Instance, publisher: &Publisher, switchover: &str) {
    let end = end_of_wal(instance).await;
    let mut published = None;
    let since = clock.now();
    loop {
        match instance.sql().wal_senders().await {
            Ok(senders) => {
                let received = received(&senders, end);
                let is_complete = !received.is_empty() && received.values().all(|received| *received);
                if (is_complete || clock.now().since(since) >= REPORT_MISSING_AFTER)
                    && published.as_ref() != Some(&received)
                {
                    published = Some(received.clone());
                    publisher.change(Due::Now, |report| {
                        switchover.clone_into(&mut report.checkpointed);
                        report.checkpoint_received = received;
                    });
                }
            }
            Err(error) => debug!(error = %Chain(&error), "cannot read the connected standbys"),
        }
        sleep(if published.is_some() { POLL } else { FIRST_POLL }).await;
    }
}

/// Returns the end of the WAL.
async fn end_of_wal(instance: &Instance) -> Lsn {
    loop {
        match instance.sql().position().await.map(|found| found.position) {
            Ok(Some(end)) => return end,
            Ok(None) => {}
            Err(error) => debug!(error = %Chain(&error), "cannot read the end of the WAL"),
        }
        sleep(FIRST_POLL).await;
    }
}

/// Returns for each connected standby of the cluster whether it has flushed the WAL up to `end`, by all its WAL senders. A
/// base backup, whose WAL comes over a second connection, is no standby yet.
fn received(senders: &[WalSender], end: Lsn) -> BTreeMap<DbUid, bool> {
    let mut found = BTreeMap::new();
    let is_backup = |name: &str| {
        let mut same_name = senders.iter().filter(|sender| sender.application_name == name);
        same_name.any(|sender| sender.is_backup)
    };
    for sender in senders {
        let is_receiving = sender.is_streaming || sender.flushed.is_some();
        let Some(db) = strip_stolon_name(&sender.application_name) else {
            continue;
        };
        if is_receiving && !is_backup(&sender.application_name) {
            let has_received = sender.flushed.is_some_and(|flushed| flushed >= end);
            *found.entry(DbUid::from(db)).or_insert(true) &= has_received;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(name: &str, is_streaming: bool, flushed: Option<u64>) -> WalSender {
        WalSender {
            application_name: name.to_owned(),
            is_sync: false,
            is_streaming,
            is_backup: false,
            flushed: flushed.map(Lsn),
            flush_lag: None,
            replay_lag: None,
            replay_seconds: 0.0,
        }
    }

    #[test]
    fn a_standby_has_received_the_checkpoint_when_all_its_senders_say_so() {
        let senders = [
            sender("stolon_a", true, Some(100)),
            sender("stolon_b", true, Some(99)),
            sender("stolon_c", false, Some(50)), // it catches up
            sender("stolon_d", true, Some(100)),
            sender("stolon_d", true, Some(70)), // an earlier connection of it
            sender("stolon_e", true, None),
            // a base backup, and its WAL
            WalSender {
                is_backup: true,
                ..sender("stolon_f", false, None)
            },
            sender("stolon_f", true, Some(1)),
            sender("pg_receivewal", true, Some(1)),
        ];
        let expected = [("a", true), ("b", false), ("c", false), ("d", false), ("e", false)];
        let expected = expected.map(|(db, has)| (DbUid::from(db), has));
        assert_eq!(received(&senders, Lsn(100)), BTreeMap::from(expected));
    }
}
