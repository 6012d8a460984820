//! `status`: prints sentinels with their leader, proxies, keepers and the replication tree (cli 14). Reads one
//! snapshot; `view` computes the status, `text` prints it.

mod cluster_problems;
mod text;
mod view;

use anyhow::{Context as _, bail};
use base::{Chain, printable};
use daemon::telemetry::print_stderr;
use model::{Json, KeeperInfo, ProxyInfo, SentinelInfo, from_slice, to_pretty};
use serde::de::DeserializeOwned;
use store::election::elected_sentinel;
use store::{Entry, KeyRange, Keys, Snapshot, Store};

use super::stored_keepers::StoredKeepers;
use super::stored_requests::StoredRequests;
use super::{CommandOutcome, error_line, print, stored_document};
use cluster_problems::cluster_problem;
use view::{ProblemRow, Status, StoredRequest, build};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output format: text or json [default: text]
    #[arg(long, short)]
    format: Option<String>,
    #[command(flatten)]
    ignored: super::IgnoredArguments,
}

pub(super) async fn run(store: &Store, args: &Args) -> anyhow::Result<CommandOutcome> {
    let status = read_status(store).await;
    match (args.format.as_deref().unwrap_or_default(), status) {
        ("" | "text", Ok(status)) => print(&text::render(&status))?,
        ("" | "text", Err(failure)) => {
            print_stderr(printable(&error_line(&failure.error)));
            if let Some(problems) = text::problems_section(&failure.problems) {
                print_stderr(problems.trim_end());
            }
            return Ok(CommandOutcome::FailureReported);
        }
        ("json", Ok(status)) => print(&to_pretty(&status))?,
        ("json", Err(failure)) => {
            // Readers of the JSON output find the error there (cli 14.2).
            let mut members = vec![("error".to_owned(), Json::String(error_line(&failure.error)))];
            if !failure.problems.is_empty() {
                members.push(("problems".to_owned(), Json::of(&failure.problems)));
            }
            print(&to_pretty(&Json::Object(members)))?;
            return Ok(CommandOutcome::FailureReported);
        }
        (_, Err(failure)) => return Err(failure.error),
        (other, Ok(_)) => bail!("unrecognised output format {other:?}: use text or json"),
    }
    Ok(CommandOutcome::Success)
}

/// Why there is no status, and what keepers report all the same.
struct StatusFailure {
    error: anyhow::Error,
    problems: Vec<ProblemRow>,
}

impl From<anyhow::Error> for StatusFailure {
    fn from(error: anyhow::Error) -> Self {
        let problems = Vec::new();
        Self { error, problems }
    }
}

/// Reads everything in one request, so that the parts belong to one moment.
async fn read_status(store: &Store) -> Result<Status, StatusFailure> {
    let keys = store.keys();
    let [switchover, failover] = StoredRequests::ranges(keys);
    let targets = [
        KeyRange::Prefix(keys.election()),
        KeyRange::Prefix(keys.sentinel_infos()),
        KeyRange::Prefix(keys.proxy_infos()),
        KeyRange::Key(keys.cluster_data()),
        KeyRange::Prefix(keys.keeper_infos()),
        KeyRange::Key(keys.created()),
        switchover,
        failover,
    ];
    let snapshot = store.snapshot(&targets).await.context("cannot read the status")?;
    decode_status(snapshot, keys)
}

fn decode_status(mut snapshot: Snapshot, keys: &Keys) -> Result<Status, StatusFailure> {
    let leader = elected_sentinel(snapshot.take(0)).map(|leader| leader.uid);
    let sentinels: Vec<SentinelInfo> = decode_all(&snapshot.take(1));
    let proxies: Vec<ProxyInfo> = decode_all(&snapshot.take(2));
    let infos = snapshot.take(4);
    let known = StoredKeepers::of(keys, &infos, snapshot.take_one(5).as_ref());
    let keepers: Vec<KeeperInfo> = decode_all(&infos);
    // Without usable cluster data it is unknown which keepers belong to the cluster.
    let checked = stored_document::check(snapshot.take_one(3).as_ref(), &known).map_err(|error| StatusFailure {
        error,
        problems: view::problems(&keepers, None),
    })?;
    let switchover = decode_request(snapshot.take_one(6));
    let failover = decode_request(snapshot.take_one(7));
    let requests = view::requests(switchover, failover, &sentinels, leader.as_deref());
    let mut status = build(leader.as_deref(), sentinels, proxies, &checked.data);
    status.requests = requests;
    let of_cluster = cluster_problem(&checked.data, &checked.spec, leader.is_some()).map(|problem| ProblemRow {
        keeper: None,
        is_old: false,
        problem,
    });
    let of_keepers = view::problems(&keepers, Some((&checked.data, &checked.spec)));
    status.problems = of_cluster.into_iter().chain(of_keepers).collect();
    Ok(status)
}

fn decode_request<T: DeserializeOwned>(entry: Option<Entry>) -> Option<StoredRequest<T>> {
    let entry = entry?;
    match from_slice(&entry.value) {
        Ok(request) => Some(StoredRequest {
            request,
            expires: entry.lease.is_some(),
            key: entry.key,
        }),
        Err(error) => {
            let key = entry.key.escape_debug();
            print_stderr(format_args!(
                "WARNING: cannot decode the request {key} ({}): it is ignored; delete it with `etcdctl del {key}`",
                Chain(&error)
            ));
            None
        }
    }
}

/// Decodes the entries. One that cannot be decoded is reported on standard error and left out (store S-12).
fn decode_all<T: DeserializeOwned>(entries: &[Entry]) -> Vec<T> {
    let decode = |entry: &Entry| match from_slice(&entry.value) {
        Ok(info) => Some(info),
        Err(error) => {
            print_stderr(format_args!(
                "WARNING: cannot decode {}, not in this status: {}",
                entry.key.escape_debug(),
                Chain(&error)
            ));
            None
        }
    };
    entries.iter().filter_map(decode).collect()
}
