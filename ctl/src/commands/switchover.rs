//! `switchover`: makes another keeper the master while the present one is healthy (cli 21; extensions X-2). The leading
//! sentinel does it; the command requests it and prints how far it is.

mod follow;
mod progress;

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use base::{Clock, RandomBytes};
use daemon::signals::{ProcessSignal, SignalHandlers};
use daemon::telemetry::print_stderr;
use model::{
    CheckedClusterData, ClusterData, GoDuration, KeeperInfo, KeeperUid, Phase, SentinelInfo, SwitchoverRequest,
    Timestamp, from_slice, short_uid, to_compact,
};
use store::election::elected_sentinel;
use store::{Entry, KeyRange, Snapshot, Store, Txn};

use super::leased_request::{LeasedRequest, RequestOutcome, check_timeout, withdraw};
use super::stored_keepers::StoredKeepers;
use super::stored_requests::StoredRequests;
use super::{CommandOutcome, print, stored_document};
use follow::follow;
use progress::SwitchoverTracker;

/// The limit of each of the two waits.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The values that are accepted: etcd's leases have whole seconds; a forgotten request must not act much later.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// What withdraws the request: Ctrl-C, SIGTERM, and the end of the terminal's session.
const SIGNALS: [ProcessSignal; 3] = [
    ProcessSignal::Interrupt,
    ProcessSignal::Terminate,
    ProcessSignal::Hangup,
];
/// How often the request is tried again because another one was there and has ended meanwhile.
const ATTEMPTS: u32 = 3;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keeper that becomes the master [default: the best standby]
    #[arg(long, value_name = "KEEPER")]
    to: Option<String>,
    /// Limit for the election, and again for the promotion, from 1s to 10m [default: 30s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<GoDuration>,
    /// None is accepted; they are parsed so that the error names them.
    #[arg(hide = true)]
    arguments: Vec<String>,
}

/// What a command needs besides its arguments.
struct SwitchoverCommand<'a> {
    store: &'a Store,
    clock: &'a Clock,
    /// Of the request.
    id: String,
}

pub(super) async fn run(
    store: &Store,
    clock: &Clock,
    random: &RandomBytes,
    args: &Args,
) -> anyhow::Result<CommandOutcome> {
    let (to, timeout) = check_arguments(args)?;
    let command = SwitchoverCommand {
        store,
        clock,
        id: short_uid(random.bytes()),
    };
    for _ in 0..ATTEMPTS {
        let (progress, unreported) = command.read(to.as_ref()).await?;
        let value = SwitchoverRequest {
            id: command.id.clone(),
            to: to.clone(),
            requested_at: Timestamp::from_unix_nanos(clock.wall()),
        };
        let keys = store.keys();
        let request = LeasedRequest {
            what: "switchover",
            key: &keys.switchover(),
            value: to_compact(&value),
            conditions: Txn::new().if_absent(&keys.failover_request()),
            timeout,
        };
        // From here on a signal withdraws the request.
        let signals = SignalHandlers::install(&SIGNALS).context("install signal handlers")?;
        if let RequestOutcome::Written(written) = request.write(store, clock).await? {
            let limit = GoDuration::from(timeout);
            if let Err(error) = print(&format!("{}, within {limit}\n", progress.requested(to.as_ref()))) {
                let _ = withdraw(store, &keys.switchover(), written).await; // otherwise it expires
                return Err(error);
            }
            for keeper in unreported {
                print_stderr(format_args!(
                    "WARNING: keeper {keeper} has not reported its db yet: if it is copying, the copy begins again from the new master"
                ));
            }
            return Box::pin(follow(&command, progress, written, signals)).await;
        }
    }
    bail!("cannot request the switchover: other requests come and go, after {ATTEMPTS} attempts")
}

/// Returns the keeper, if one was named, and the timeout.
fn check_arguments(args: &Args) -> anyhow::Result<(Option<KeeperUid>, Duration)> {
    ensure!(
        args.arguments.is_empty(),
        "too many arguments: name the keeper with --to"
    );
    let to = args.to.as_deref().map(KeeperUid::from);
    ensure!(
        to.as_ref().is_none_or(|to| !to.is_empty()),
        "--to is empty: name a keeper, or leave it out for the best standby"
    );
    let timeout = check_timeout(args.timeout, TIMEOUT_MIN..=TIMEOUT_MAX)?;
    Ok((to, timeout.unwrap_or(TIMEOUT_DEFAULT)))
}

impl SwitchoverCommand<'_> {
    /// Reads the cluster, and checks that a switchover can be requested. Whether it can be carried out is decided by the
    /// leading sentinel. Also returns the keepers of standbys that have not reported their db yet.
    async fn read(&self, to: Option<&KeeperUid>) -> anyhow::Result<(SwitchoverTracker, Vec<KeeperUid>)> {
        let keys = self.store.keys();
        let [switchover, failover] = StoredRequests::ranges(keys);
        let targets = [
            KeyRange::Key(keys.cluster_data()),
            KeyRange::Prefix(keys.keeper_infos()),
            KeyRange::Key(keys.created()),
            switchover,
            failover,
            KeyRange::Prefix(keys.election()),
            KeyRange::Prefix(keys.sentinel_infos()),
        ];
        let read = self.store.snapshot(&targets).await;
        let mut snapshot = read.context("cannot get cluster data")?;
        let infos = snapshot.take(1);
        let known = StoredKeepers::of(keys, &infos, snapshot.take_one(2).as_ref());
        let checked = stored_document::check(snapshot.take_one(0).as_ref(), &known)?;
        StoredRequests::take(&mut snapshot, 3).ensure_none(self.store).await?;
        stored_document::ensure_supported(&checked.spec)?;
        let leader = Leader::of(&mut snapshot);
        let tracker = check_cluster(&checked, &decode_all(&infos), leader, to).map_err(|why| anyhow!(why))?;
        Ok((tracker, unreported_keepers(&checked.data)))
    }
}

fn decode_all(entries: &[Entry]) -> Vec<KeeperInfo> {
    entries
        .iter()
        .filter_map(|entry| from_slice(&entry.value).ok())
        .collect()
}

/// The leading sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leader {
    None,
    /// It has not published its info, or it cannot be read.
    Unknown(String),
    /// It does not lead switchovers.
    Unable(String),
    Able,
}

impl Leader {
    fn of(snapshot: &mut Snapshot) -> Self {
        let Some(leader) = elected_sentinel(snapshot.take(5)) else {
            return Self::None;
        };
        let infos = snapshot.take(6).into_iter();
        let mut infos = infos.filter_map(|entry| from_slice::<SentinelInfo>(&entry.value).ok());
        match infos.find(|info| info.uid.as_str() == leader.uid) {
            None => Self::Unknown(leader.uid),
            Some(info) if info.switchovers => Self::Able,
            Some(_) => Self::Unable(leader.uid),
        }
    }
}

/// Checks what the leading sentinel would not refuse, or not at once.
fn check_cluster(
    checked: &CheckedClusterData,
    infos: &[KeeperInfo],
    leader: Leader,
    to: Option<&KeeperUid>,
) -> Result<SwitchoverTracker, String> {
    const BY_SIGTERM: &str = "to hand the master over without one, stop its keeper with SIGTERM";
    let data = &checked.data;
    if checked.cluster().status.phase != Phase::Normal {
        return Err("the cluster is not initialised yet: there is no master to be replaced".to_owned());
    }
    let master = data.master_uid().and_then(|uid| data.dbs().get_key_value(uid));
    let (master_uid, master) = master.ok_or("the cluster data name no master db that they hold")?;
    let keeper = &master.spec.keeper_uid;
    if let Some(to) = to {
        if !data.keepers().contains_key(to) {
            return Err(format!("keeper doesn't exist: {to}"));
        }
        if to == keeper {
            return Err(format!("keeper {to} has the master already"));
        }
        if data.db_of_keeper(to).is_none() {
            return Err(format!(
                "keeper {to} has no db: it has no data that could become the master's"
            ));
        }
    }
    match leader {
        Leader::Able => {}
        Leader::None => return Err("no sentinel leads: start one".to_owned()),
        Leader::Unknown(uid) => {
            return Err(format!(
                "sentinel {uid} leads and has not published its info: wait until it is in `stolonctl status`"
            ));
        }
        Leader::Unable(uid) => {
            return Err(format!(
                "sentinel {uid} leads, and it is of Go stolon or of an earlier version, which has no switchover: stop it, so \
                 that another one leads; {BY_SIGTERM}"
            ));
        }
    }
    match infos.iter().find(|info| info.uid == *keeper) {
        None => {
            return Err(format!(
                "keeper {keeper}, which has the master, does not report: the leading sentinel elects another master after \
                 failInterval; if no standby can be elected, it logs why, and `stolonctl failover` elects one that lacks \
                 data"
            ));
        }
        Some(info) if !info.orders => {
            return Err(format!(
                "keeper {keeper} has the master, and it is of Go stolon or of an earlier version, which does not act on \
                 orders; {BY_SIGTERM}"
            ));
        }
        Some(_) => {}
    }
    Ok(SwitchoverTracker::new(master_uid.clone(), keeper.clone(), to.cloned()))
}

/// Returns the keepers of standbys that have not reported their db since it was assigned to them.
fn unreported_keepers(data: &ClusterData) -> Vec<KeeperUid> {
    let unreported = data
        .dbs()
        .values()
        .filter(|db| db.is_standby_type() && db.status.current_generation == 0);
    unreported.map(|db| db.spec.keeper_uid.clone()).collect()
}

#[cfg(test)]
mod tests;
