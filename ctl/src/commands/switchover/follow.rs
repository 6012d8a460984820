//! Follows a requested switchover: reads the store, prints each step, and ends with the new master or with the reason and
//! the state that is left. What was reached is decided by `progress`.

use std::time::Duration;

use anyhow::{anyhow, bail};
use base::Chain;
use base::clock::Boottime;
use daemon::signals::SignalHandlers;
use model::{GoDuration, SentinelInfo, Stored, SwitchoverReport, from_slice};
use store::election::elected_sentinel;
use store::{Entry, KeyRange, Snapshot, StoreError, Watch};
use tokio::time::sleep;

use super::super::leased_request::{WrittenRequest, withdraw};
use super::super::{CommandOutcome, print};
use super::SwitchoverCommand;
use super::progress::{SwitchoverFailure, SwitchoverReading, SwitchoverStep, SwitchoverTracker};

/// Delay after a reading that failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long the reason is waited for once the request is gone: it is published by another request to the store.
const REASON_LIMIT: Duration = Duration::from_secs(2);
/// How long a master is waited for after a failure, to report the state that is left.
const RETURN_LIMIT: Duration = Duration::from_secs(15);

/// What is known when no step was read.
const NOT_BEGUN: &str = "the leading sentinel has not begun it: see its log";

/// Why no further step was read.
enum Ended {
    Unread(StoreError),
    Unprinted(anyhow::Error),
    Failed(SwitchoverFailure),
}

/// A switchover that is being followed.
struct Following<'a> {
    command: &'a SwitchoverCommand<'a>,
    ranges: [KeyRange; 5],
    watch: Watch,
    signals: SignalHandlers,
    progress: SwitchoverTracker,
    written: WrittenRequest,
    deadline: Boottime,
    /// Since when the request is gone without an election.
    gone_since: Option<Boottime>,
    unread: Option<StoreError>,
}

/// Prints each step until the proxies connect clients to the new master.
///
/// # Errors
/// They do not: the reason, and the state that is left. A request that is still there is withdrawn.
pub(super) async fn follow(
    command: &SwitchoverCommand<'_>,
    progress: SwitchoverTracker,
    written: WrittenRequest,
    signals: SignalHandlers,
) -> anyhow::Result<CommandOutcome> {
    let keys = command.store.keys();
    let ranges = [
        KeyRange::Key(keys.cluster_data()),
        KeyRange::Key(keys.switchover()),
        KeyRange::Prefix(keys.sentinel_infos()),
        KeyRange::Prefix(keys.proxy_infos()),
        KeyRange::Prefix(keys.election()),
    ];
    let following = Following {
        command,
        watch: command.store.watch(ranges.to_vec(), Some(written.revision)),
        ranges,
        signals,
        progress,
        written,
        deadline: written.at + written.timeout,
        gone_since: None,
        unread: None,
    };
    Box::pin(following.run()).await
}

impl Following<'_> {
    async fn run(mut self) -> anyhow::Result<CommandOutcome> {
        loop {
            let now = self.command.clock.now();
            if now >= self.deadline {
                self.give_up().await?;
            }
            if self.gone_since.is_some_and(|since| now.since(since) >= REASON_LIMIT) {
                return self.fail("the request has expired or was deleted", NOT_BEGUN).await;
            }
            if !self.wait().await {
                self.withdraw_if_there().await;
                bail!("interrupted, the switchover is given up: {}", self.progress.state());
            }
            let was_elected = self.progress.is_elected();
            match self.read_and_print().await {
                Ok(true) => return Ok(CommandOutcome::Success),
                Ok(false) => self.unread = None,
                Err(Ended::Unread(error)) => self.unread = Some(error),
                Err(Ended::Unprinted(error)) => {
                    self.withdraw_if_there().await;
                    return Err(error);
                }
                Err(Ended::Failed(why)) => {
                    self.withdraw_if_there().await;
                    // The leading sentinel may be the first to report that the request has expired.
                    let is_late = self.command.clock.now() >= self.deadline && !self.progress.is_elected();
                    let why = if is_late { self.too_late() } else { reason(&why) };
                    return self.fail(&why, "").await;
                }
            }
            let now = self.command.clock.now();
            if self.progress.is_elected() && !was_elected {
                self.deadline = now + self.written.timeout;
            }
            let has_ended = self.progress.has_ended();
            self.gone_since = has_ended.then(|| self.gone_since.unwrap_or(now));
        }
    }

    /// Waits for a change, or until something is due. Returns false after a signal.
    async fn wait(&mut self) -> bool {
        let left = self.deadline.since(self.command.clock.now());
        let limit = match (&self.unread, self.gone_since) {
            (Some(_), _) => RETRY_DELAY,
            (None, Some(_)) => REASON_LIMIT,
            (None, None) => left,
        };
        tokio::select! {
            _ = self.watch.changed() => true,
            () = sleep(limit.min(left)) => true,
            _ = self.signals.next() => false,
        }
    }

    /// Reads the store and prints the steps that are new. Returns whether the proxies connect clients to the new master.
    async fn read_and_print(&mut self) -> Result<bool, Ended> {
        let snapshot = self.command.store.snapshot(&self.ranges).await;
        let view = decode(snapshot.map_err(Ended::Unread)?, &self.command.id, self.written);
        let steps = self.progress.observe(&view).map_err(Ended::Failed)?;
        for step in &steps {
            let line = self
                .progress
                .line(step, self.command.clock.now().since(self.written.at));
            print(&line).map_err(Ended::Unprinted)?;
        }
        Ok(steps.contains(&SwitchoverStep::Serving))
    }

    /// Ends a switchover that took too long, unless it turns out to be carried out.
    async fn give_up(&mut self) -> anyhow::Result<()> {
        let limit = GoDuration::from(self.written.timeout);
        let unread = self.unread.take();
        let cause = unread.map(|error| format!(" ({})", Chain(&error))).unwrap_or_default();
        if self.progress.is_elected() {
            bail!("not complete within {limit}{cause}: {}", self.progress.state());
        }
        match self.withdraw().await {
            Ok(false) if self.gone_since.is_none() => {
                // It was elected at the last moment, or the request has just ended: the next reading shows it.
                self.deadline = self.command.clock.now() + REASON_LIMIT;
                Ok(())
            }
            Ok(_) => {
                let why = format!("{}{cause}", self.too_late());
                self.fail(&why, NOT_BEGUN).await.map(drop)
            }
            Err(error) => bail!(
                "no new master within {limit}, and the request cannot be withdrawn: {}: it expires by itself; {}",
                Chain(&error),
                self.progress.state()
            ),
        }
    }

    fn too_late(&self) -> String {
        format!(
            "no new master within {}, the switchover is given up",
            GoDuration::from(self.written.timeout)
        )
    }

    /// Waits until a master is announced again, and returns the error with the last step and the state that is left.
    /// `not_begun` stands for the step if there was none.
    async fn fail(&mut self, why: &str, not_begun: &str) -> anyhow::Result<CommandOutcome> {
        let last = self.progress.last_step().unwrap_or_else(|| not_begun.to_owned());
        let last = if last.is_empty() { last } else { format!(" ({last})") };
        let end = self.command.clock.now() + RETURN_LIMIT;
        while !self.progress.is_announced() {
            let left = end.since(self.command.clock.now());
            tokio::select! {
                _ = self.watch.changed() => {}
                () = sleep(RETRY_DELAY.min(left)) => {}
                _ = self.signals.next() => break,
            }
            if left.is_zero() {
                break;
            }
            let Ok(snapshot) = self.command.store.snapshot(&self.ranges).await else {
                continue;
            };
            let mut view = decode(snapshot, &self.command.id, self.written);
            view.report = None; // its end is known
            if self.progress.observe(&view).is_err() {
                break;
            }
        }
        Err(anyhow!("{why}{last}: {}", self.progress.state()))
    }

    /// Deletes the request if nobody was elected on it. It expires by itself where that fails.
    async fn withdraw_if_there(&self) {
        if !self.progress.is_elected() {
            let _ = self.withdraw().await; // see above
        }
    }

    async fn withdraw(&self) -> Result<bool, StoreError> {
        let store = self.command.store;
        withdraw(store, &store.keys().switchover(), self.written).await
    }
}

fn decode(mut snapshot: Snapshot, id: &str, written: WrittenRequest) -> SwitchoverReading {
    let entry = snapshot.take_one(0);
    let data = match Stored::decode(entry.as_ref().map(|entry| entry.value.as_slice())) {
        Stored::Usable(checked) => Some(checked.data),
        Stored::Absent | Stored::Unusable { .. } | Stored::Undecodable(_) => None,
    };
    let request = snapshot.take_one(1);
    let sentinels = snapshot.take(2);
    let proxies = snapshot.take(3).into_iter();
    let proxies = proxies.filter_map(|entry| from_slice(&entry.value).ok()).collect();
    let leader = elected_sentinel(snapshot.take(4)).map(|leader| leader.uid);
    SwitchoverReading {
        data,
        has_request: request.is_some_and(|request| request.mod_revision == written.revision),
        report: report(&sentinels, leader.as_deref(), id),
        proxies,
    }
}

/// Returns what was published about this switchover: by the leader, otherwise last by a sentinel that has led before.
fn report(sentinels: &[Entry], leader: Option<&str>, id: &str) -> Option<SwitchoverReport> {
    let decode = |entry: &Entry| Some((entry.mod_revision, from_slice::<SentinelInfo>(&entry.value).ok()?));
    let reports = sentinels.iter().filter_map(decode).filter_map(|(revision, info)| {
        let report = info.switchover.filter(|report| report.id == id)?;
        Some((leader == Some(info.uid.as_str()), revision, report))
    });
    let newest = reports.max_by_key(|(leads, revision, _)| (*leads, *revision));
    newest.map(|(_, _, report)| report)
}

fn reason(why: &SwitchoverFailure) -> String {
    match why {
        SwitchoverFailure::Refused(why) => format!("the switchover is refused: {why}"),
        SwitchoverFailure::Aborted(why) => format!("the switchover was given up: {why}"),
        SwitchoverFailure::OtherElected(keeper) if keeper.is_empty() => "another db was elected".to_owned(),
        SwitchoverFailure::OtherElected(keeper) => format!("keeper {keeper} was elected instead"),
        SwitchoverFailure::NoClusterData => "there are no usable cluster data any more".to_owned(),
    }
}
