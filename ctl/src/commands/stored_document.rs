//! Reads and changes the cluster data for the commands: present, of a supported format, with a valid spec. Changes are
//! written against the revision that was read. What a command changes is left to its file.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base::clock::Boottime;
use base::{Chain, Clock};
use model::{
    CheckedClusterData, ClusterData, JsonError, Stored, UNREADABLE_DATA_REMEDY, UNUSABLE_DATA_REMEDY, Unusable,
    support, to_compact,
};
use store::{Entry, Revision, Store, Txn, TxnOutcome};

use super::stored_keepers::{self, StoredKeepers};

/// Reads and validates the cluster data (cli 6.2). Also returns the revision of its last write.
pub(super) async fn read(store: &Store) -> anyhow::Result<(CheckedClusterData, Revision)> {
    match read_unchecked(store).await? {
        (Some(data), revision) => Ok((data.check().map_err(|why| unusable(&why))?, revision)),
        (None, _) => bail!("{}", stored_keepers::read(store).await?.no_cluster_data_error()),
    }
}

/// Validates a value that has been read (cli 6.2). `known` explains an absent or undecodable value.
pub(super) fn check(entry: Option<&Entry>, known: &StoredKeepers) -> anyhow::Result<CheckedClusterData> {
    match Stored::decode(entry.map(|entry| entry.value.as_slice())) {
        Stored::Absent => bail!("{}", known.no_cluster_data_error()),
        Stored::Undecodable(error) => {
            let key = entry.map(|entry| entry.key.as_str()).unwrap_or_default();
            bail!("{}{}", undecodable(key, &error), known.keepers_clause())
        }
        Stored::Unusable { why, .. } => Err(unusable(&why)),
        Stored::Usable(checked) => Ok(*checked),
    }
}

/// Reads the cluster data without validating its spec. Returns `None` if the key is absent or holds `null` (store C-5).
/// Without a key the revision is [`Revision::ABSENT`].
pub(super) async fn read_unchecked(store: &Store) -> anyhow::Result<(Option<ClusterData>, Revision)> {
    let entry = store
        .get(&store.keys().cluster_data())
        .await
        .context("cannot get cluster data")?;
    let Some(entry) = entry else {
        return Ok((None, Revision::ABSENT));
    };
    match Stored::decode(Some(&entry.value)).into_document() {
        Ok(data) => Ok((data, entry.mod_revision)),
        // The decode error must be printed even if the keepers cannot be read.
        Err(error) => bail!(
            "{}{}",
            undecodable(&entry.key, &error),
            stored_keepers::read(store).await.unwrap_or_default().keepers_clause()
        ),
    }
}

fn unusable(why: &Unusable) -> anyhow::Error {
    anyhow!("{}: {UNUSABLE_DATA_REMEDY}", Chain(why))
}

fn undecodable(key: &str, error: &JsonError) -> String {
    format!(
        "cannot get cluster data: the value of {key} is not a cluster data document: {}: {UNREADABLE_DATA_REMEDY}",
        Chain(error)
    )
}

/// How often a change is computed and written again because another program wrote in between, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum WriteLimits {
    /// `update` and `promote`: three attempts, with the store timeout for each request (cli 8).
    EachRequest,
    /// `failkeeper` and `removekeeper`: ten attempts, all within the store timeout (cli 10.3). The leading sentinel
    /// writes most often right after a keeper has failed, so conflicts are likely then.
    WholeCommand,
}

/// Changes the cluster data: reads and validates it, applies `change`, writes it against the revision that was read,
/// and starts over if another program wrote in between (store 4.3, C-10).
pub(super) async fn change(
    store: &Store,
    clock: &Clock,
    limits: WriteLimits,
    change: impl Fn(&mut CheckedClusterData) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (times, whole) = match limits {
        WriteLimits::EachRequest => (3, None),
        WriteLimits::WholeCommand => (10, Some(store.timeout())),
    };
    // Boxed: the store's futures are large.
    Box::pin(try_change(store, times, &CommandDeadline::after(whole, clock), change)).await
}

/// The time limit of a whole command and its end, if there is one beside the timeout of each request.
struct CommandDeadline<'a> {
    limit: Option<(Duration, Boottime)>,
    clock: &'a Clock,
}

impl<'a> CommandDeadline<'a> {
    fn after(limit: Option<Duration>, clock: &'a Clock) -> Self {
        Self {
            limit: limit.map(|limit| (limit, clock.now() + limit)),
            clock,
        }
    }

    /// Returns the store with each request limited to the time that is left. A store that does not answer is then
    /// reported by the request that timed out, with its key, and never by a second timeout that expires at the same
    /// moment.
    fn limit_store(&self, store: &Store) -> anyhow::Result<Store> {
        let Some((limit, end)) = self.limit else {
            return Ok(store.clone());
        };
        let left = end.since(self.clock.now());
        if left.is_zero() {
            bail!(
                "cannot update cluster data: not done within {limit:?}, nothing was changed: repeat the command, or give \
                 it more time with --store-timeout"
            );
        }
        Ok(store.with_timeout(left))
    }
}

async fn try_change(
    store: &Store,
    times: u32,
    deadline: &CommandDeadline<'_>,
    change: impl Fn(&mut CheckedClusterData) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let key = store.keys().cluster_data();
    for _ in 0..times {
        let (mut checked, revision) = read(&deadline.limit_store(store)?).await?;
        change(&mut checked)?;
        let write = Txn::new()
            .if_unchanged(&key, revision)
            .put(&key, to_compact(&checked.data));
        let written = deadline.limit_store(store)?.commit(write).await;
        match written.context("cannot update cluster data")? {
            TxnOutcome::Committed(_) => return Ok(()),
            TxnOutcome::Conflict => {}
        }
    }
    bail!("cannot update cluster data: gave up after {times} attempts, another program wrote it each time")
}

/// Returns an error if the spec cannot be carried out.
pub(super) fn ensure_supported(spec: &model::Spec) -> anyhow::Result<()> {
    support::spec(spec).context("the cluster spec cannot be carried out")
}

#[cfg(test)]
mod tests;
