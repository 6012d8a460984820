//! Watches of keys, which start the rounds of the loops. A watch resumes after a lost connection, a compaction or a
//! silent stream. If it may have missed changes it reports a gap, and its reader reads everything again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tracing::debug;

use base::clock::Boottime;

use crate::client_error::classify_error;
use crate::connections::Connection;
use crate::entry::{Entry, KeyRange, Revision};
use crate::etcd_types::{entry, header_revision};
use crate::requester::Requester;

/// A stream that is silent for this long is sent a progress request.
const PROGRESS_REQUEST_AFTER: Duration = Duration::from_secs(10);
/// Interval in which a watch checks whether another connection has become much faster.
const LATENCY_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Delays between two attempts to watch.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Maximum number of changed keys, and bytes of values, kept for a reader; above it they are dropped and a gap is
/// reported.
const CHANGES_MAX: usize = 4096;
const CHANGES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The changes since the last call; of each key only the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// By key.
    pub keys: BTreeMap<String, KeyChange>,
    /// Changes may have been missed: read everything again.
    pub gap: bool,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.gap
    }
}

/// The last change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The current entry; none when the key was deleted or has expired.
    pub entry: Option<Entry>,
    /// The revision of the change.
    pub revision: Revision,
    /// When it arrived.
    pub arrived: Boottime,
}

/// A watch of some keys and prefixes; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    pending: Arc<PendingChanges>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct PendingChanges {
    changes: Mutex<Changes>,
    changed: Notify,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Waits for changes and takes them. Cancel-safe: nothing is lost.
    pub async fn changed(&self) -> Changes {
        loop {
            if let Some(changes) = self.take() {
                return changes;
            }
            self.pending.changed.notified().await;
        }
    }

    /// Takes the changes without waiting.
    pub fn take(&self) -> Option<Changes> {
        Some(std::mem::take(&mut *self.pending.lock())).filter(|changes| !changes.is_empty())
    }
}

/// Starts a watch of these ranges. Must be called within a tokio runtime.
pub(crate) fn watch(requester: Requester, ranges: Vec<KeyRange>, after: Option<Revision>) -> Watch {
    let pending = Arc::new(PendingChanges::default());
    let watched = ranges
        .into_iter()
        .map(|range| WatchedRange { range, seen: after })
        .collect();
    let task = tokio::spawn(keep_watching(requester, watched, Arc::clone(&pending))).abort_handle();
    Watch { pending, task }
}

/// A range, and the revision up to which its changes are known.
struct WatchedRange {
    range: KeyRange,
    seen: Option<Revision>,
}

impl PendingChanges {
    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_gap(&self) {
        self.lock().gap = true;
        self.changed.notify_one();
    }

    fn add(&self, changed: impl Iterator<Item = (String, KeyChange)>) {
        let mut changes = self.lock();
        changes.keys.extend(changed);
        let values = changes.keys.values().filter_map(|change| change.entry.as_ref());
        let bytes: usize = values.map(|entry| entry.value.len()).sum();
        if changes.keys.len() > CHANGES_MAX || bytes > CHANGES_BYTES_MAX {
            *changes = Changes {
                keys: BTreeMap::new(),
                gap: true,
            };
        }
        drop(changes);
        self.changed.notify_one();
    }
}

/// Watches until aborted; each iteration is one stream on one connection.
async fn keep_watching(requester: Requester, mut watched: Vec<WatchedRange>, pending: Arc<PendingChanges>) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let connection = requester.connections().ready().await;
        let mut established = false;
        let why = watch_once(&requester, &connection, &mut watched, &pending, &mut established).await;
        debug!(%why, "watch ended, watching again");
        requester.metrics().watch_restarts.increment(1);
        backoff = if established {
            BACKOFF_MIN
        } else {
            (backoff * 2).min(BACKOFF_MAX)
        };
        sleep(backoff).await;
    }
}

/// Watches until the stream ends, or another connection is much faster. Returns the reason.
async fn watch_once(
    requester: &Requester,
    connection: &Connection,
    watched: &mut [WatchedRange],
    pending: &PendingChanges,
    established: &mut bool,
) -> String {
    let limit = requester.timeout();
    let received = connection.received();
    let mut stream = match timeout(limit, open(connection, watched)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return classify_error(&error).1.to_string(),
        Err(_) => {
            if connection.received() == received {
                connection.close("no response to a watch");
            }
            return "no response in time".to_owned();
        }
    };
    let mut progress_requested = false;
    // created once, so that the check also runs on a watch with frequent messages
    let mut much_slower = std::pin::pin!(until_much_slower(requester, connection));
    loop {
        let message_timeout = if progress_requested {
            limit
        } else {
            PROGRESS_REQUEST_AFTER
        };
        let received = connection.received();
        let message = tokio::select! {
            biased;
            () = &mut much_slower => return "another connection is much faster".to_owned(),
            message = timeout(message_timeout, stream.message()) => message,
        };
        match message {
            Ok(Ok(Some(message))) => {
                progress_requested = false;
                *established |= message.created();
                if let Err(why) = apply_response(&message, requester.clock().now(), watched, pending) {
                    return why;
                }
            }
            Ok(Ok(None)) => return "stream ended".to_owned(),
            Ok(Err(error)) => return classify_error(&error).1.to_string(),
            Err(_) if !progress_requested => {
                progress_requested = true;
                if timeout(limit, stream.request_progress()).await.is_err() {
                    return "progress request timed out".to_owned();
                }
            }
            Err(_) => {
                if connection.received() == received {
                    connection.close("no response on the watch stream");
                }
                return "no response on the watch stream".to_owned();
            }
        }
    }
}

/// Waits until another connection is much faster than this one; forever, when there is one endpoint only.
async fn until_much_slower(requester: &Requester, connection: &Connection) {
    if requester.config().endpoints.len() < 2 {
        return std::future::pending().await;
    }
    loop {
        sleep(LATENCY_CHECK_INTERVAL).await;
        if requester.connections().is_much_slower(connection) {
            return;
        }
    }
}

async fn open(connection: &Connection, watched: &[WatchedRange]) -> Result<WatchStream, etcd_client::Error> {
    let mut requests = watched.iter().zip(1..).map(|(watched, id)| {
        // a start of 0 means now; the ids are the indexes plus one, since an id of 0 lets the server choose
        let start = watched.seen.map_or(0, |seen| seen.0 + 1);
        let options = WatchOptions::new().with_start_revision(start).with_watch_id(id);
        match &watched.range {
            KeyRange::Key(key) => (key.clone(), options),
            KeyRange::Prefix(prefix) => (prefix.clone(), options.with_prefix()),
        }
    });
    let (key, options) = requests.next().unwrap_or_default();
    let mut client = connection.client().watch_client().max_decoding_message_size(usize::MAX);
    let mut stream = client.watch(key, Some(options)).await?;
    for (key, options) in requests {
        stream.watch(key, Some(options)).await?;
    }
    Ok(stream)
}

/// Applies a message to the pending changes; an error ends the stream.
fn apply_response(
    message: &WatchResponse,
    arrived: Boottime,
    watched: &mut [WatchedRange],
    pending: &PendingChanges,
) -> Result<(), String> {
    let index = usize::try_from(message.watch_id() - 1).ok();
    let Some(target) = index.and_then(|index| watched.get_mut(index)) else {
        if message.canceled() {
            // one of the watches was refused before it had an id
            return Err(format!("watch cancelled: {}", message.cancel_reason()));
        }
        return Ok(()); // the response to a progress request is not about one range
    };
    if message.canceled() {
        // compacted, or the server has no leader: watch from now on, and the reader reads everything
        target.seen = None;
        return Err(format!(
            "watch of {} cancelled: {}",
            target.range,
            message.cancel_reason()
        ));
    }
    let header = header_revision(message.header());
    if message.created() {
        match target.seen {
            None => {
                target.seen = Some(header);
                pending.set_gap();
            }
            Some(seen) if header < seen => {
                // a store that was set up again: its revisions would have to pass the old ones first
                target.seen = None;
                return Err(format!("the store is at revision {header}, where {seen} was seen"));
            }
            Some(_) => {}
        }
        return Ok(());
    }
    let changed = changes_of(message, arrived);
    let newest = changed.iter().map(|(_, change)| change.revision).max();
    target.seen = Some(target.seen.unwrap_or_default().max(newest.unwrap_or_default()));
    if !changed.is_empty() {
        pending.add(changed.into_iter());
    }
    Ok(())
}

/// Returns the changes of a message, in their order.
fn changes_of(message: &WatchResponse, arrived: Boottime) -> Vec<(String, KeyChange)> {
    let events = message.events().iter();
    events
        .filter_map(|event| {
            let kv = event.kv()?;
            let change = KeyChange {
                entry: (event.event_type() == EventType::Put).then(|| entry(kv)),
                revision: Revision(kv.mod_revision()),
                arrived,
            };
            Some((String::from_utf8_lossy(kv.key()).into_owned(), change))
        })
        .collect()
}
