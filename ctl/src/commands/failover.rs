//! `failover`: makes a standby that lacks data the master when no other can be elected, at an operator's request (cli 20;
//! synchronous SY-20). What may be missing is computed by `assess` and printed by `text`; the leading sentinel elects.

mod assess;
mod progress;
mod text;

use std::io;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use base::{Clock, RandomBytes};
use daemon::args::Switch;
use model::{FailoverRequest, GoDuration, KeeperUid, Timestamp, from_slice, short_uid, to_compact};
use store::{KeyRange, Revision, Store, Txn};

use super::confirm::{Confirmation, ask_to_confirm};
use super::leased_request::{LeasedRequest, RequestOutcome, check_timeout};
use super::stored_keepers::StoredKeepers;
use super::stored_requests::StoredRequests;
use super::{CommandOutcome, print, stored_document};
use assess::FailoverReport;
use progress::watch_progress;

/// The limit of each of the two waits, unless proxies may need longer to close.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// What is added to the time that proxies may need to close.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(10);
/// The values that are accepted: below, no election is made in time; above, a request could be carried out long after the operator has forgotten it.
const TIMEOUT_MIN: Duration = Duration::from_secs(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Attempts to write the request, each of which fails if another program writes in between.
const ATTEMPTS: u32 = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keeper whose data become the master's
    #[arg(long, value_name = "KEEPER")]
    to: Option<String>,
    /// Accept that what this keeper lacks is lost for good
    #[arg(long)]
    accept_data_loss: Option<Switch>,
    /// Limit for the election, and again for the promotion, from 5s to 10m [default: 30s, or as long as proxies need
    /// to close]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<GoDuration>,
    /// Skip the confirmation
    #[arg(long, short)]
    yes: Option<Switch>,
    /// None is accepted; they are parsed so that the error names them.
    #[arg(hide = true)]
    arguments: Vec<String>,
}

/// What a command needs besides its arguments.
struct FailoverCommand<'a> {
    store: &'a Store,
    clock: &'a Clock,
    to: KeeperUid,
}

pub(super) async fn run(
    store: &Store,
    clock: &Clock,
    random: &RandomBytes,
    args: &Args,
) -> anyhow::Result<CommandOutcome> {
    let (to, timeout) = check_arguments(args)?;
    let command = FailoverCommand { store, clock, to };
    let (first, _) = command.read().await?;
    print(&text::report(&first, command.wall()))?;
    let asks = args.yes != Some(Switch(true));
    if asks && ask_to_confirm(io::stdin().lock(), io::stdout())? == Confirmation::No {
        return Ok(CommandOutcome::Success);
    }
    let timeout = timeout.unwrap_or_else(|| TIMEOUT_DEFAULT.max(first.proxies_closed_within + TIMEOUT_MARGIN));
    let id = short_uid(random.bytes());
    // Times and positions are written all the time, so what counts is that nothing has changed that was shown.
    for _ in 0..ATTEMPTS {
        let (now, revision) = command.read().await?;
        if now != first {
            bail!("the cluster has changed since the report: repeat the command");
        }
        let value = FailoverRequest {
            id: id.clone(),
            to: command.to.clone(),
            master: first.master.db.clone(),
            accept_data_loss: true,
            requested_at: command.wall(),
        };
        let keys = store.keys();
        let request = LeasedRequest {
            what: "failover",
            key: &keys.failover_request(),
            value: to_compact(&value),
            conditions: Txn::new()
                .if_unchanged(&keys.cluster_data(), revision)
                .if_absent(&keys.switchover()),
            timeout,
        };
        if let RequestOutcome::Written(written) = request.write(store, clock).await? {
            print(&format!("requested, for {} at most\n", GoDuration::from(timeout)))?;
            return Box::pin(watch_progress(&command, &first, written)).await;
        }
    }
    bail!(
        "cannot request the failover: gave up after {ATTEMPTS} attempts, another program wrote the cluster data each time"
    )
}

/// Returns the keeper and the timeout that were typed, if the command may be carried out at all.
fn check_arguments(args: &Args) -> anyhow::Result<(KeeperUid, Option<Duration>)> {
    const PURPOSE: &str = "failover makes a standby that lacks data the master when no other can be elected; to replace a master \
                           that runs, use `stolonctl switchover` or `stolonctl failkeeper`";
    ensure!(
        args.arguments.is_empty(),
        "too many arguments: name the keeper with --to"
    );
    let to = args.to.as_deref().filter(|to| !to.is_empty());
    let to = to.with_context(|| format!("--to KEEPER required: {PURPOSE}"))?;
    ensure!(
        args.accept_data_loss == Some(Switch(true)),
        "--accept-data-loss required: what keeper {to} lacks would be lost for good: {PURPOSE}"
    );
    let timeout = check_timeout(args.timeout, TIMEOUT_MIN..=TIMEOUT_MAX)?;
    Ok((KeeperUid::from(to), timeout))
}

impl FailoverCommand<'_> {
    fn wall(&self) -> Timestamp {
        Timestamp::from_unix_nanos(self.clock.wall())
    }

    /// Reads and assesses the cluster. Also returns the revision of the cluster data.
    async fn read(&self) -> anyhow::Result<(FailoverReport, Revision)> {
        let keys = self.store.keys();
        let [switchover, failover] = StoredRequests::ranges(keys);
        let targets = [
            KeyRange::Key(keys.cluster_data()),
            KeyRange::Prefix(keys.keeper_infos()),
            KeyRange::Key(keys.created()),
            switchover,
            failover,
        ];
        let read = self.store.snapshot(&targets).await;
        let mut snapshot = read.context("cannot get cluster data")?;
        let entry = snapshot.take_one(0);
        let infos = snapshot.take(1);
        let known = StoredKeepers::of(keys, &infos, snapshot.take_one(2).as_ref());
        let checked = stored_document::check(entry.as_ref(), &known)?;
        StoredRequests::take(&mut snapshot, 3).ensure_none(self.store).await?;
        stored_document::ensure_supported(&checked.spec)?;
        let infos: Vec<_> = infos.iter().filter_map(|entry| from_slice(&entry.value).ok()).collect();
        let report = assess::assess(&checked, &infos, &self.to).map_err(|why| anyhow!(why))?;
        let revision = entry.map_or(Revision::ABSENT, |entry| entry.mod_revision);
        Ok((report, revision))
    }
}

#[cfg(test)]
mod tests;
