//! `status`: prints sentinels with their leader, proxies, keepers and the replication tree (cli 14). Reads one
//! snapshot; `view` computes the status, `text` prints it.

mod text;
mod view;

use anyhow::{Context as _, bail};
use base::Chain;
use daemon::telemetry::print_stderr;
use model::{Json, KeeperInfo, ProxyInfo, SentinelInfo, from_slice, to_pretty};
use serde::de::DeserializeOwned;
use store::election::elected_sentinel;
use store::{Entry, KeyRange, Keys, Snapshot, Store};

use super::former_cluster::FormerCluster;
use super::{CommandOutcome, cluster_data, error_line, print};
use view::{Status, build};

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
        ("" | "text", status) => print(&text::render(&status?))?,
        ("json", Ok(status)) => print(&to_pretty(&status))?,
        ("json", Err(error)) => {
            // Readers of the JSON output find the error there (cli 14.2).
            let reason = Json::String(error_line(&error));
            print(&to_pretty(&Json::Object(vec![("error".to_owned(), reason)])))?;
            return Ok(CommandOutcome::Reported);
        }
        (_, Err(error)) => return Err(error),
        (other, Ok(_)) => bail!("unrecognised output format {other:?}: use text or json"),
    }
    Ok(CommandOutcome::Success)
}

/// Reads everything in one request, so that the parts belong to one moment.
async fn read_status(store: &Store) -> anyhow::Result<Status> {
    let keys = store.keys();
    let targets = [
        KeyRange::Prefix(keys.election()),
        KeyRange::Prefix(keys.sentinel_infos()),
        KeyRange::Prefix(keys.proxy_infos()),
        KeyRange::Key(keys.cluster_data()),
        KeyRange::Prefix(keys.keeper_infos()),
        KeyRange::Key(keys.created()),
    ];
    let snapshot = store.snapshot(&targets).await.context("cannot read the status")?;
    decode_status(snapshot, keys)
}

fn decode_status(mut snapshot: Snapshot, keys: &Keys) -> anyhow::Result<Status> {
    let leader = elected_sentinel(snapshot.take(0)).map(|leader| leader.uid);
    let sentinels: Vec<SentinelInfo> = decode_all(&snapshot.take(1));
    let proxies: Vec<ProxyInfo> = decode_all(&snapshot.take(2));
    let infos = snapshot.take(4);
    let former = FormerCluster::of(keys, &infos, snapshot.take_one(5).as_ref());
    let checked = cluster_data::check(snapshot.take_one(3).as_ref(), &former)?;
    let keepers: Vec<KeeperInfo> = decode_all(&infos);
    let mut status = build(leader.as_deref(), sentinels, proxies, &checked.data);
    status.problems = view::problems(&keepers, &checked.data);
    Ok(status)
}

/// Decodes the infos. One that cannot be decoded is reported on standard error and left out (store S-12).
fn decode_all<T: DeserializeOwned>(entries: &[Entry]) -> Vec<T> {
    let decode = |entry: &Entry| match from_slice(&entry.value) {
        Ok(info) => Some(info),
        Err(error) => {
            print_stderr(format_args!(
                "left out, not readable: {}: {}",
                entry.key.escape_debug(),
                Chain(&error)
            ));
            None
        }
    };
    entries.iter().filter_map(decode).collect()
}
