//! How far a requested failover is, until the new master is announced or nothing more can be expected. `Progress` decides
//! from what was read, `watch_progress` reads.

use std::time::Duration;

use anyhow::{anyhow, bail};
use base::Chain;
use model::{ClusterData, DbUid, GoDuration, KeeperUid, Stored};
use store::{KeyRange, Snapshot, StoreError};
use tokio::time::sleep;

use super::super::leased_request::{WrittenRequest, withdraw};
use super::super::{CommandOutcome, print};
use super::FailoverCommand;
use super::assess::{DbHealth, FailoverReport, RecordedDb, db_health};

/// Delay after a reading that failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A step that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailoverStep {
    ProxiesClosed,
    Elected,
    Announced,
}

/// How a failover ends before the new master is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Abort {
    /// The old master is healthy again.
    MasterIsBack,
    /// Another db was elected, by this keeper if the cluster data have it.
    OtherElected(KeeperUid),
    /// The request is gone, and nobody was elected.
    RequestGone,
    /// There are no usable cluster data any more.
    NoClusterData,
}

/// How far a failover is.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    master: RecordedDb,
    target: RecordedDb,
    proxies_open: bool,
    is_elected: bool,
}

impl Progress {
    pub(super) fn of(report: &FailoverReport) -> Self {
        Self {
            master: report.master.clone(),
            target: report.target.clone(),
            proxies_open: report.proxies_open,
            is_elected: false,
        }
    }

    /// Returns the steps that the cluster data show to be new.
    pub(super) fn observe(
        &mut self,
        data: Option<&ClusterData>,
        has_request: bool,
    ) -> Result<Vec<FailoverStep>, Abort> {
        let data = data.ok_or(Abort::NoClusterData)?;
        let master = data.master_uid().cloned().unwrap_or_default();
        let announced = data.proxy.as_ref().map(|proxy| proxy.spec.master_db_uid.clone());
        let announced = announced.unwrap_or_default();
        let mut steps = Vec::new();
        let is_elected = master == self.target.db;
        // An election closes the proxies too; what is announced after it is another master.
        if self.proxies_open && (announced.is_empty() || is_elected) {
            self.proxies_open = false;
            steps.push(FailoverStep::ProxiesClosed);
        }
        if is_elected {
            if !std::mem::replace(&mut self.is_elected, true) {
                steps.push(FailoverStep::Elected);
            }
            if announced == self.target.db {
                steps.push(FailoverStep::Announced);
            }
            return Ok(steps);
        }
        if master != self.master.db || self.is_elected {
            return Err(Abort::OtherElected(keeper_of(data, &master)));
        }
        if is_healthy(data, &master) {
            return Err(Abort::MasterIsBack);
        }
        if has_request {
            Ok(steps)
        } else {
            Err(Abort::RequestGone)
        }
    }

    /// Returns the line that is printed for a step.
    fn line(&self, step: FailoverStep, after: Duration) -> String {
        let what = match step {
            FailoverStep::ProxiesClosed => "proxies closed".to_owned(),
            FailoverStep::Elected => format!("elected: keeper {}", self.target.keeper),
            FailoverStep::Announced => format!("promoted and announced: keeper {} has the master", self.target.keeper),
        };
        format!("{:7.1} s  {what}", after.as_secs_f64())
    }

    /// Returns the state in which a failover that ended early leaves the cluster.
    fn state(&self) -> String {
        match (self.is_elected, self.proxies_open) {
            (true, _) => format!(
                "keeper {} is elected and may still be announced: see `stolonctl status`",
                self.target.keeper
            ),
            (false, true) => "nothing was changed".to_owned(),
            (false, false) => "nobody was elected; the proxies are closed until a master is healthy".to_owned(),
        }
    }
}

fn keeper_of(data: &ClusterData, uid: &DbUid) -> KeeperUid {
    data.dbs()
        .get(uid)
        .map(|db| db.spec.keeper_uid.clone())
        .unwrap_or_default()
}

fn is_healthy(data: &ClusterData, uid: &DbUid) -> bool {
    data.dbs()
        .get(uid)
        .is_some_and(|db| db_health(data, db) == DbHealth::Healthy && db.is_converged())
}

/// Prints each step until the new master is announced.
///
/// # Errors
/// It was not announced: the reason, and the state that is left. A request that is still there is withdrawn.
pub(super) async fn watch_progress(
    command: &FailoverCommand<'_>,
    report: &FailoverReport,
    written: WrittenRequest,
) -> anyhow::Result<CommandOutcome> {
    let (store, clock) = (command.store, command.clock);
    let keys = store.keys();
    let ranges = [
        KeyRange::Key(keys.cluster_data()),
        KeyRange::Key(keys.failover_request()),
    ];
    let watch = store.watch(ranges.to_vec(), Some(written.revision));
    let mut progress = Progress::of(report);
    let mut deadline = written.at + written.timeout;
    let mut unread: Option<StoreError> = None;
    loop {
        let now = clock.now();
        let left = deadline.since(now);
        if left.is_zero() {
            match give_up(command, &progress, written, unread.take()).await {
                GiveUpOutcome::Failed(error) => return Err(error),
                GiveUpOutcome::RequestGone => {}
            }
            // It may have been elected at the last moment.
            deadline = now + written.timeout;
            let read = read_and_print(command, &ranges, &mut progress, written).await;
            if read.map_err(Ended::into_error)? {
                return Ok(CommandOutcome::Success);
            }
            continue;
        }
        let delay = if unread.is_some() { RETRY_DELAY } else { left };
        tokio::select! {
            _ = watch.changed() => {}
            () = sleep(delay.min(left)) => {}
            _ = tokio::signal::ctrl_c() => {
                withdraw_if_there(command, &progress, written).await;
                bail!("interrupted: {}", progress.state());
            }
        }
        let was_elected = progress.is_elected;
        match read_and_print(command, &ranges, &mut progress, written).await {
            Ok(true) => return Ok(CommandOutcome::Success),
            Ok(false) => unread = None,
            Err(Ended::Unread(error)) => unread = Some(error),
            Err(ended) => {
                withdraw_if_there(command, &progress, written).await;
                return Err(ended.into_error());
            }
        }
        if progress.is_elected && !was_elected {
            deadline = clock.now() + written.timeout;
        }
    }
}

/// Why no further step was read.
enum Ended {
    Unread(StoreError),
    Unprinted(anyhow::Error),
    Aborted(String),
}

impl Ended {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unread(error) => anyhow!("cannot get cluster data: {}", Chain(&error)),
            Self::Unprinted(error) => error,
            Self::Aborted(why) => anyhow!("{why}"),
        }
    }
}

/// Reads the store and prints the steps that are new. Returns whether the new master is announced.
async fn read_and_print(
    command: &FailoverCommand<'_>,
    ranges: &[KeyRange],
    progress: &mut Progress,
    written: WrittenRequest,
) -> Result<bool, Ended> {
    let snapshot = command.store.snapshot(ranges).await.map_err(Ended::Unread)?;
    let (data, has_request) = decode(snapshot, written);
    let observed = progress.observe(data.as_ref(), has_request);
    let steps = observed.map_err(|why| Ended::Aborted(format!("{}: {}", reason(&why, progress), progress.state())))?;
    for step in &steps {
        let line = progress.line(*step, command.clock.now().since(written.at));
        print(&line).map_err(Ended::Unprinted)?;
    }
    Ok(steps.contains(&FailoverStep::Announced))
}

fn decode(mut snapshot: Snapshot, written: WrittenRequest) -> (Option<ClusterData>, bool) {
    let entry = snapshot.take_one(0);
    let request = snapshot.take_one(1);
    let data = match Stored::decode(entry.as_ref().map(|entry| entry.value.as_slice())) {
        Stored::Usable(checked) => Some(checked.data),
        Stored::Absent | Stored::Unusable { .. } | Stored::Undecodable(_) => None,
    };
    (
        data,
        request.is_some_and(|request| request.mod_revision == written.revision),
    )
}

fn reason(why: &Abort, progress: &Progress) -> String {
    match why {
        Abort::MasterIsBack => format!("the master of keeper {} is healthy again", progress.master.keeper),
        Abort::OtherElected(keeper) if keeper.is_empty() => "another db was elected".to_owned(),
        Abort::OtherElected(keeper) => format!("keeper {keeper} was elected instead"),
        Abort::RequestGone => "the request has expired or was deleted".to_owned(),
        Abort::NoClusterData => "there are no usable cluster data any more".to_owned(),
    }
}

/// What became of a failover that took too long.
enum GiveUpOutcome {
    /// It is not carried out in time.
    Failed(anyhow::Error),
    /// The request was gone when it was to be withdrawn: the next reading shows whether it was carried out.
    RequestGone,
}

/// Ends a failover that took too long: withdraws the request if nobody was elected on it.
async fn give_up(
    command: &FailoverCommand<'_>,
    progress: &Progress,
    written: WrittenRequest,
    unread: Option<StoreError>,
) -> GiveUpOutcome {
    let limit = GoDuration::from(written.timeout);
    let cause = unread.map(|error| format!(" ({})", Chain(&error))).unwrap_or_default();
    if progress.is_elected {
        let error = anyhow!("not announced within {limit}{cause}: {}", progress.state());
        return GiveUpOutcome::Failed(error);
    }
    match withdraw_request(command, written).await {
        Ok(true) => GiveUpOutcome::Failed(anyhow!(
            "not elected within {limit}{cause}, the request is withdrawn: {}; the log of the leading sentinel has \
             the reason (`ignoring an operator's request for a failover`, or what it waits for)",
            progress.state()
        )),
        Ok(false) => GiveUpOutcome::RequestGone,
        Err(error) => GiveUpOutcome::Failed(anyhow!(
            "not elected within {limit}, and the request cannot be withdrawn: {}: it expires by itself; {}",
            Chain(&error),
            progress.state()
        )),
    }
}

/// Deletes the request if nobody was elected on it. It expires by itself where that fails.
async fn withdraw_if_there(command: &FailoverCommand<'_>, progress: &Progress, written: WrittenRequest) {
    if !progress.is_elected {
        let _ = withdraw_request(command, written).await; // see above
    }
}

async fn withdraw_request(command: &FailoverCommand<'_>, written: WrittenRequest) -> Result<bool, StoreError> {
    let key = command.store.keys().failover_request();
    withdraw(command.store, &key, written).await
}
