//! Refuses a request to the leading sentinel while another one is stored. Writing requests is left to `leased_request`.

use anyhow::anyhow;
use model::{FailoverRequest, GoDuration, SwitchoverRequest, from_slice};
use store::keys::Keys;
use store::{Entry, KeyRange, Snapshot, Store};

/// The requests that exclude each other, as they were read.
#[derive(Debug)]
pub(super) struct StoredRequests {
    switchover: Option<Entry>,
    failover: Option<Entry>,
}

impl StoredRequests {
    /// What [`Self::take`] takes, in this order.
    pub(super) fn ranges(keys: &Keys) -> [KeyRange; 2] {
        [KeyRange::Key(keys.switchover()), KeyRange::Key(keys.failover_request())]
    }

    /// Takes them from a snapshot whose targets have [`Self::ranges`] from `first` on.
    pub(super) fn take(snapshot: &mut Snapshot, first: usize) -> Self {
        Self {
            switchover: snapshot.take_one(first),
            failover: snapshot.take_one(first + 1),
        }
    }

    /// Refuses to request anything while there is one of them: the error has what it is, when it ends, and how to end it.
    pub(super) async fn ensure_none(&self, store: &Store) -> anyhow::Result<()> {
        if let Some(entry) = &self.switchover {
            return Err(refusal(store, entry, described_switchover(entry)).await);
        }
        if let Some(entry) = &self.failover {
            return Err(refusal(store, entry, described_failover(entry)).await);
        }
        Ok(())
    }
}

fn described_switchover(entry: &Entry) -> Option<String> {
    let request = from_slice::<SwitchoverRequest>(&entry.value).ok()?;
    let to = request.to.map(|to| format!(" to keeper {to}")).unwrap_or_default();
    let (at, id) = (request.requested_at, request.id);
    Some(format!("a switchover{to} was requested already, at {at} (id {id})"))
}

fn described_failover(entry: &Entry) -> Option<String> {
    let request = from_slice::<FailoverRequest>(&entry.value).ok()?;
    let (to, at) = (request.to, request.requested_at);
    Some(format!("a failover to keeper {to} was requested already, at {at}"))
}

async fn refusal(store: &Store, other: &Entry, described: Option<String>) -> anyhow::Error {
    let key = &other.key;
    let Some(lease) = other.lease else {
        // Written by hand: the sentinel does not carry it out, since nothing would end it.
        return anyhow!(
            "{key} exists without a lease: it is ignored, and it does not expire: delete it with `etcdctl del {key}`"
        );
    };
    let what = described.unwrap_or_else(|| format!("{key} exists and cannot be read"));
    let left = store.remaining(lease).await.ok().flatten();
    let within = left.map(|left| format!(", in {} at the latest", GoDuration::from(left.remaining)));
    anyhow!(
        "{what}: wait until it has ended{}, or withdraw it with `etcdctl del {key}`",
        within.unwrap_or_default()
    )
}
