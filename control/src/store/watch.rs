//! Watching keys: an alarm clock for loops. A watch resumes by itself after a lost connection, a compaction or a
//! stream that fell silent; what it may have missed it says, and its reader then reads everything again.

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

use super::{Connection, Entry, KeyRange, Revision, Store, classify_error, header_revision};
use crate::clock::Boottime;

/// A stream that says nothing for so long is asked whether it still works.
const PROGRESS_REQUEST_AFTER: Duration = Duration::from_secs(10);
/// How often a standing watch looks whether another connection has become much faster than its own.
const LATENCY_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses between two attempts to watch again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// More changed keys, or more bytes of values, than this wait for no reader: it is told to read everything.
const CHANGES_MAX: usize = 4096;
const CHANGES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What has changed since the reader last looked; of each key only the last change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// By key.
    pub keys: BTreeMap<String, KeyChange>,
    /// Something may have been missed: read everything again.
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
    /// What the key holds now; nothing when it was deleted or has expired.
    pub entry: Option<Entry>,
    /// The revision of the change.
    pub revision: Revision,
    /// When we learnt of it.
    pub arrived: Boottime,
}

/// A standing watch of some keys and prefixes; ends when dropped.
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
    /// Waits until something has changed, and takes it. Safe to cancel: what is not taken stays.
    pub async fn changed(&self) -> Changes {
        loop {
            if let Some(changes) = self.take() {
                return changes;
            }
            self.pending.changed.notified().await;
        }
    }

    /// Takes what has changed, without waiting.
    pub fn take(&self) -> Option<Changes> {
        Some(std::mem::take(&mut *self.pending.lock())).filter(|changes| !changes.is_empty())
    }
}

impl Store {
    /// Watches these targets from just after a revision that was read, or from now on; the latter begins with a
    /// gap, once the watch stands. Must be called within a tokio runtime.
    pub fn watch(&self, targets: Vec<KeyRange>, after: Option<Revision>) -> Watch {
        let inbox = Arc::new(PendingChanges::default());
        let watched = targets
            .into_iter()
            .map(|target| WatchedRange {
                range: target,
                seen: after,
            })
            .collect();
        let task = tokio::spawn(keep_watching(self.clone(), watched, Arc::clone(&inbox))).abort_handle();
        Watch { pending: inbox, task }
    }
}

/// A target, and the revision up to which its changes are known.
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

/// Watches for ever; each round is one stream on one connection.
async fn keep_watching(store: Store, mut watched: Vec<WatchedRange>, inbox: Arc<PendingChanges>) {
    let mut pause = BACKOFF_MIN;
    loop {
        let link = store.connections.ready().await;
        let mut stood = false;
        let why = watch_once(&store, &link, &mut watched, &inbox, &mut stood).await;
        debug!(%why, "watch ended, watching again");
        pause = if stood {
            BACKOFF_MIN
        } else {
            (pause * 2).min(BACKOFF_MAX)
        };
        sleep(pause).await;
    }
}

/// Watches until the stream ends, or another connection is much faster, and returns the reason.
async fn watch_once(
    store: &Store,
    link: &Connection,
    watched: &mut [WatchedRange],
    inbox: &PendingChanges,
    stood: &mut bool,
) -> String {
    let limit = store.timeout;
    let received = link.received();
    let mut stream = match timeout(limit, open(link, watched)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return classify_error(&error).1.to_string(),
        Err(_) => {
            if link.received() == received {
                link.close("no answer to a watch");
            }
            return "no answer in time".to_owned();
        }
    };
    let mut asked = false;
    // made once: a watch that gets a message each moment looks around, too
    let mut left_behind = std::pin::pin!(until_much_slower(store, link));
    loop {
        let patience = if asked { limit } else { PROGRESS_REQUEST_AFTER };
        let received = link.received();
        let message = tokio::select! {
            biased;
            () = &mut left_behind => return "another connection is much faster".to_owned(),
            message = timeout(patience, stream.message()) => message,
        };
        match message {
            Ok(Ok(Some(message))) => {
                asked = false;
                *stood |= message.created();
                if let Err(why) = apply_response(&message, watched, inbox) {
                    return why;
                }
            }
            Ok(Ok(None)) => return "stream ended".to_owned(),
            Ok(Err(error)) => return classify_error(&error).1.to_string(),
            Err(_) if !asked => {
                asked = true;
                if timeout(limit, stream.request_progress()).await.is_err() {
                    return "stream takes no request".to_owned();
                }
            }
            Err(_) => {
                if link.received() == received {
                    link.close("watch fell silent");
                }
                return "stream fell silent".to_owned();
            }
        }
    }
}

/// Waits until another connection is so much faster that the watch should move there.
async fn until_much_slower(store: &Store, link: &Connection) {
    loop {
        sleep(LATENCY_CHECK_INTERVAL).await;
        if store.connections.is_much_slower(link) {
            return;
        }
    }
}

async fn open(link: &Connection, watched: &[WatchedRange]) -> Result<WatchStream, etcd_client::Error> {
    let mut requests = watched.iter().zip(1..).map(|(watched, id)| {
        // a start of 0 means now; ours are the indexes plus one, since an id of 0 means any
        let start = watched.seen.map_or(0, |seen| seen.0 + 1);
        let options = WatchOptions::new().with_start_revision(start).with_watch_id(id);
        match &watched.range {
            KeyRange::Key(key) => (key.clone(), options),
            KeyRange::Prefix(prefix) => (prefix.clone(), options.with_prefix()),
        }
    });
    let (key, options) = requests.next().unwrap_or_default();
    let mut client = link.client.watch_client().max_decoding_message_size(usize::MAX);
    let mut stream = client.watch(key, Some(options)).await?;
    for (key, options) in requests {
        stream.watch(key, Some(options)).await?;
    }
    Ok(stream)
}

/// Notes what a message says; an error ends the stream.
#[expect(
    clippy::disallowed_methods,
    reason = "the arrival of a change is measured where it arrives"
)]
fn apply_response(message: &WatchResponse, watched: &mut [WatchedRange], inbox: &PendingChanges) -> Result<(), String> {
    let index = usize::try_from(message.watch_id() - 1).ok();
    let Some(target) = index.and_then(|index| watched.get_mut(index)) else {
        if message.canceled() {
            // one of ours was refused before it had its id
            return Err(format!("watch cancelled: {}", message.cancel_reason()));
        }
        return Ok(()); // the answer to a question after progress concerns no single target
    };
    if message.canceled() {
        // compacted, or the server has no leader: what follows is watched from now on, and the reader reads
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
                inbox.set_gap();
            }
            Some(seen) if header < seen => {
                // a store that began anew: nothing would come before it has as many revisions as the old one had
                target.seen = None;
                return Err(format!("the store is at revision {header}, where {seen} was seen"));
            }
            Some(_) => {}
        }
        return Ok(());
    }
    let arrived = Boottime::now();
    let mut last = target.seen.unwrap_or_default();
    let changed = message.events().iter().filter_map(|event| {
        let kv = event.kv()?;
        let revision = Revision(kv.mod_revision());
        last = last.max(revision);
        let now = (event.event_type() == EventType::Put).then(|| Entry::from(kv));
        Some((
            String::from_utf8_lossy(kv.key()).into_owned(),
            KeyChange {
                entry: now,
                revision,
                arrived,
            },
        ))
    });
    let changed: Vec<_> = changed.collect();
    target.seen = Some(last);
    if !changed.is_empty() {
        inbox.add(changed.into_iter());
    }
    Ok(())
}
